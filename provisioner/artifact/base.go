package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

// droppedFromBase are patterns of what no program in an image reads, and of
// what names the machine that made it. A folder that is emptied stays.
var droppedFromBase = []string{
	"usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/lintian/*", "usr/share/bug/*",
	"usr/share/common-licenses/*", "usr/share/i18n/*", "usr/share/zoneinfo/*", "usr/share/bash-completion/*", "usr/lib/*/gconv/*",
	"usr/bin/perl*", "usr/share/perl*", "usr/lib/*/perl*", "usr/lib/*/libperl.so*",
	"etc/apt/*", "etc/dpkg/*", "etc/hostname", "etc/machine-id", "etc/resolv.conf",
	"var/lib/apt/*", "var/lib/dpkg/*", "var/cache/*", "var/log/*", "var/backups/*",
	"boot/*", "dev/*", "proc/*", "sys/*", "run/*", "tmp/*",
}

// buildBase makes a base's layer as a tarball: a root filesystem from the
// machine's own Debian archive, trimmed and given fixed times and order.
func buildBase(ctx context.Context, b baseRecipe, workDir, target string) error {
	raw := filepath.Join(workDir, "base-"+b.Name+".tar")
	err := debian.Bootstrap(ctx, debian.Root{
		Suite:    b.Suite,
		Variant:  "essential",
		Packages: b.Packages,
		Aptopts:  []string{`APT::Install-Recommends "false"`},
		// What is trimmed anyway need not be unpacked first.
		Dpkgopts: []string{"path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*"},
	}, workDir, raw)
	if err != nil {
		return fmt.Errorf("make base %s: %w", b.Name, err)
	}
	if err := normalise(raw, target); err != nil {
		return fmt.Errorf("make base %s: %w", b.Name, err)
	}
	return os.Remove(raw)
}

// normalise rewrites a root filesystem's tarball as a layer: trimmed, no
// devices, fixed times, numeric owners, sorted.
func normalise(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	type entry struct {
		header *tar.Header
		offset int64
	}
	var entries []entry
	reader := tar.NewReader(in)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", from, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || dropped(name) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeFifo {
			continue
		}
		clean := &tar.Header{Typeflag: h.Typeflag, Name: name, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size, ModTime: epoch, Format: tar.FormatPAX}
		switch h.Typeflag {
		case tar.TypeDir:
			clean.Name += "/"
		case tar.TypeSymlink:
			clean.Linkname = h.Linkname
		case tar.TypeLink:
			clean.Linkname = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				if clean.PAXRecords == nil {
					clean.PAXRecords = map[string]string{}
				}
				clean.PAXRecords[k] = v
			}
		}
		// archive/tar reads an *os.File unbuffered, so this is the data's start.
		offset, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		entries = append(entries, entry{clean, offset})
	}
	// A hard link must follow what it points to.
	sort.SliceStable(entries, func(i, j int) bool {
		a, b := entries[i].header, entries[j].header
		if (a.Typeflag == tar.TypeLink) != (b.Typeflag == tar.TypeLink) {
			return b.Typeflag == tar.TypeLink
		}
		return a.Name < b.Name
	})
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	writer := tar.NewWriter(out)
	for _, e := range entries {
		if err := writer.WriteHeader(e.header); err != nil {
			return fmt.Errorf("write %s: %w", e.header.Name, err)
		}
		if e.header.Typeflag == tar.TypeReg {
			if _, err := io.Copy(writer, io.NewSectionReader(in, e.offset, e.header.Size)); err != nil {
				return fmt.Errorf("write %s: %w", e.header.Name, err)
			}
		}
	}
	return errors.Join(writer.Close(), out.Close())
}

// dropped says whether an entry, or a folder above it, is trimmed.
func dropped(name string) bool {
	for ; name != "."; name = path.Dir(name) {
		for _, pattern := range droppedFromBase {
			if ok, _ := path.Match(pattern, name); ok {
				return true
			}
		}
	}
	return false
}

// epoch is the time of every file in an image, and of the image itself.
var epoch = time.Unix(0, 0).UTC()
