package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// repack writes an Incus image that is one tarball, of metadata and a root
// filesystem, and says by the root filesystem whether nodes can be made of it.
// What is below folders that are a running system's own is left out.
func repack(rootfs io.Reader, to io.Writer, osName string, a about, base Base) error {
	w := tar.NewWriter(to)
	if err := a.write(w); err != nil {
		return err
	}
	left := map[string]bool{}
	for _, p := range base.Remove {
		left[strings.TrimPrefix(p, "/")] = true
	}
	for _, f := range base.Files {
		left[strings.TrimPrefix(f.Path, "/")] = true
	}
	for p := range base.Links {
		left[strings.TrimPrefix(p, "/")] = true
	}
	saw := seen{links: map[string]string{}}
	for r := tar.NewReader(rootfs); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if saw.entries == 0 && errors.Is(err, tar.ErrHeader) {
				return unfit("it is neither a tarball, plain or packed with gzip, xz or zstd, nor a squashfs, nor a qcow2 disk")
			}
			return unfit("it is no whole tarball: %v", err)
		}
		entry, err := saw.entry(h)
		if err != nil {
			return err
		}
		if entry == nil || left[entry.Name] || left[strings.TrimSuffix(entry.Name, "/")] {
			continue
		}
		content, err := saw.content(entry, r)
		if err != nil {
			return err
		}
		entry.Name = "rootfs/" + entry.Name
		if entry.Typeflag == tar.TypeLink {
			entry.Linkname = "rootfs/" + entry.Linkname
		}
		if err := w.WriteHeader(entry); err != nil {
			return fmt.Errorf("pack %s: %w", h.Name, err)
		}
		if _, err := io.Copy(w, content); err != nil {
			return fmt.Errorf("pack %s: %w", h.Name, err)
		}
	}
	if err := saw.fits(osName); err != nil {
		return err
	}
	for _, f := range base.Files {
		mode := int64(f.Mode)
		if mode == 0 {
			mode = 0o644
		}
		if err := writeFile(w, "rootfs"+f.Path, []byte(f.Content), mode); err != nil {
			return fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(base.Links)) {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: "rootfs" + p, Linkname: base.Links[p], Mode: 0o777, ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("pack %s: %w", p, err)
		}
	}
	return w.Close()
}

// inside is an entry's path below the root; one that leads out of it is unfit.
func inside(name string) (string, error) {
	clean := path.Clean(name)
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains("/"+name+"/", "/../") || strings.ContainsRune(name, 0) {
		return "", unfit("its entry %q leads out of the root filesystem", name)
	}
	return clean, nil
}

// mostEntries is far more than any node's root filesystem has.
const mostEntries = 5_000_000

// seen is what a root filesystem showed so far.
type seen struct {
	entries int
	// links maps symbolic links to where they lead.
	links map[string]string
	// init: there is what Incus starts.
	init bool
	// machine is the architecture of systemd, by ELF; zero without a systemd.
	machine elf.Machine
	id      string
	version string
}

// entry is what is written for an entry; nil if it is left out.
func (s *seen) entry(h *tar.Header) (*tar.Header, error) {
	if s.entries++; s.entries > mostEntries {
		return nil, unfit("it has more than %d entries", mostEntries)
	}
	name, err := inside(h.Name)
	if err != nil {
		return nil, err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if target, link := s.links[dir]; link {
			return nil, unfit("its entry %q is below the symbolic link %s, which leads to %s", h.Name, dir, target)
		}
	}
	top, _, below := strings.Cut(name, "/")
	if name == "." || below && slices.Contains([]string{"dev", "proc", "sys", "run", "tmp"}, top) {
		return nil, nil
	}
	e := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid,
		ModTime: h.ModTime, Devmajor: h.Devmajor, Devminor: h.Devminor, Format: tar.FormatPAX}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	case tar.TypeGNUSparse:
		e.Typeflag = tar.TypeReg
	case tar.TypeDir:
		e.Name += "/"
	case tar.TypeSymlink:
		s.links[name] = h.Linkname
	case tar.TypeLink:
		if e.Linkname, err = inside(h.Linkname); err != nil {
			return nil, err
		}
		e.Size = 0
	default:
		return nil, unfit("its entry %q is of type %q, which no root filesystem has", h.Name, h.Typeflag)
	}
	// Capabilities of files are kept; labels are for a system that has a policy.
	for key, value := range h.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") && key != "SCHILY.xattr.security.selinux" {
			if e.PAXRecords == nil {
				e.PAXRecords = map[string]string{}
			}
			e.PAXRecords[key] = value
		}
	}
	switch name {
	case "sbin/init", "usr/sbin/init", "bin/init", "usr/bin/init":
		s.init = true
	}
	return e, nil
}

// content is an entry's content; of some it is looked into.
func (s *seen) content(e *tar.Header, r io.Reader) (io.Reader, error) {
	if e.Typeflag != tar.TypeReg {
		return r, nil
	}
	switch e.Name {
	case "usr/lib/systemd/systemd", "lib/systemd/systemd":
		b := bufio.NewReader(r)
		// Byte 5 says the order of bytes, bytes 18 and 19 the machine.
		head, err := b.Peek(20)
		if err != nil || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
			return nil, unfit("its /%s is no program", e.Name)
		}
		var order binary.ByteOrder = binary.LittleEndian
		if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
			order = binary.BigEndian
		}
		s.machine = elf.Machine(order.Uint16(head[18:]))
		return b, nil
	case "usr/lib/os-release", "etc/os-release":
		if e.Size > mostMetadata {
			return nil, unfit("its /%s has %d bytes", e.Name, e.Size)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, unfit("it is no whole tarball: %v", err)
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch value = strings.Trim(value, `"'`); key {
			case "ID":
				s.id = value
			case "VERSION_ID":
				s.version = value
			}
		}
		return bytes.NewReader(text), nil
	}
	return r, nil
}

// fits says why no node of an OS can be made of what was seen.
func (s *seen) fits(osName string) error {
	switch {
	case s.entries == 0:
		return unfit("it is empty")
	case s.machine == elf.EM_NONE:
		return unfit("it has no systemd: there is no /usr/lib/systemd/systemd")
	case !s.init:
		return unfit("nothing starts its systemd: there is no /sbin/init")
	case s.machine != here().machine:
		return unfit("its programs are for %s, and this machine is %s", s.machine, here().incus)
	case !(matrix.OS{Name: osName}).Is(s.id, s.version):
		return unfit("its os-release says that it is %q %q", s.id, s.version)
	}
	return nil
}
