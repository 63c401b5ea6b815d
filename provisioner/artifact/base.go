package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

// aptSource is one place that packages come from.
type aptSource struct {
	uri      string
	suites   []string
	comps    []string
	signedBy string
}

// readAptSources reads sources.list and sources.list.d under dir, in both of
// apt's formats. What it cannot read it leaves out.
func readAptSources(dir string) []aptSource {
	var sources []aptSource
	names := []string{filepath.Join(dir, "sources.list")}
	more, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	for _, name := range append(names, more...) {
		content, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		switch filepath.Ext(name) {
		case ".list":
			sources = append(sources, parseOneLine(string(content))...)
		case ".sources":
			sources = append(sources, parseDeb822(string(content))...)
		}
	}
	return sources
}

// parseOneLine reads "deb [signed-by=KEY] URI SUITE COMPONENT..." lines.
func parseOneLine(content string) (sources []aptSource) {
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		var s aptSource
		if strings.HasPrefix(rest, "[") {
			options, after, closed := strings.Cut(rest[1:], "]")
			if !closed {
				continue
			}
			for _, o := range strings.Fields(options) {
				if key, value, _ := strings.Cut(o, "="); strings.EqualFold(key, "signed-by") {
					s.signedBy = value
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		s.uri, s.suites, s.comps = fields[0], fields[1:2], fields[2:]
		sources = append(sources, s)
	}
	return sources
}

// parseDeb822 reads the paragraphs of a .sources file.
func parseDeb822(content string) (sources []aptSource) {
	paragraph := map[string]string{}
	key := ""
	flush := func() {
		if slices.Contains(strings.Fields(paragraph["types"]), "deb") && !strings.EqualFold(paragraph["enabled"], "no") {
			for _, uri := range strings.Fields(paragraph["uris"]) {
				sources = append(sources, aptSource{uri, strings.Fields(paragraph["suites"]), strings.Fields(paragraph["components"]), strings.TrimSpace(paragraph["signed-by"])})
			}
		}
		paragraph, key = map[string]string{}, ""
	}
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			paragraph[key] += "\n" + strings.TrimSpace(line)
		default:
			k, v, _ := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(k))
			paragraph[key] = strings.TrimSpace(v)
		}
	}
	flush()
	return sources
}

// debianSource picks the archive that carries Debian's releases: one that
// this machine uses for a bare Debian suite with component main.
func debianSource(sources []aptSource, suite string) (aptSource, error) {
	bare := func(s aptSource, suites ...string) bool {
		return slices.Contains(s.comps, "main") && slices.ContainsFunc(s.suites, func(x string) bool { return slices.Contains(suites, x) })
	}
	for _, s := range sources {
		if bare(s, suite) {
			return s, nil
		}
	}
	// Every suite lies in the one archive.
	for _, s := range sources {
		if bare(s, "bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable") {
			return s, nil
		}
	}
	return aptSource{}, errors.New("no Debian archive among apt's sources")
}

// droppedFromBase are patterns of what no program in an image reads, and of
// what names the machine that made it. A folder that is emptied stays.
var droppedFromBase = []string{
	"usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/lintian/*", "usr/share/bug/*",
	"usr/share/common-licenses/*", "usr/share/i18n/*", "usr/share/zoneinfo/*", "usr/share/bash-completion/*", "usr/lib/*/gconv/*",
	"usr/bin/perl*", "usr/share/perl*", "usr/lib/*/perl*", "usr/lib/*/libperl.so*",
	"etc/apt/*", "etc/hostname", "etc/machine-id", "etc/resolv.conf",
	"var/lib/apt/*", "var/lib/dpkg/*", "var/cache/*", "var/log/*", "var/backups/*",
	"boot/*", "dev/*", "proc/*", "sys/*", "run/*", "tmp/*",
}

// buildBase makes a base's layer as a tarball: mmdebstrap from the machine's
// own Debian archive, then trimmed and given fixed times and order.
func buildBase(ctx context.Context, b baseRecipe, arch, aptDir, workDir, target string) error {
	source, err := debianSource(readAptSources(aptDir), b.Suite)
	if err != nil {
		return fmt.Errorf("make base %s: %w", b.Name, err)
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("make base %s: %w", b.Name, err)
	}
	raw := filepath.Join(workDir, "base-"+b.Name+".tar")
	line := "deb "
	if source.signedBy != "" && filepath.IsAbs(source.signedBy) {
		line += "[signed-by=" + source.signedBy + "] "
	}
	line += source.uri + " " + b.Suite + " main"
	cmd := exec.CommandContext(ctx, program, "--quiet", "--variant=essential", "--format=tar", "--architectures="+arch,
		"--include="+strings.Join(b.Packages, ","), `--aptopt=APT::Install-Recommends "false"`, `--dpkgopt=path-exclude=/usr/share/man/*`,
		`--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-exclude=/usr/share/locale/*`, b.Suite, raw, line)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C", "TMPDIR="+workDir)
	stopAsOne(cmd)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("make base %s: %w", b.Name, context.Cause(ctx))
		}
		return fmt.Errorf("make base %s: mmdebstrap %s: %w: %s", b.Name, b.Suite, err, tail(said.String(), 2000))
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
