// Package debian reads this machine's own Debian sources and makes root
// filesystems from them, so that no archive's address is written down here.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Source is one place that apt takes packages from.
type Source struct {
	URI        string
	Suites     []string
	Components []string
	// SignedBy is a keyring's path, or empty.
	SignedBy string
}

// Sources reads sources.list and sources.list.d under dir, in both of
// apt's formats. What it cannot read it leaves out.
func Sources(dir string) []Source {
	var sources []Source
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
func parseOneLine(content string) (sources []Source) {
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		var s Source
		if strings.HasPrefix(rest, "[") {
			options, after, closed := strings.Cut(rest[1:], "]")
			if !closed {
				continue
			}
			for _, o := range strings.Fields(options) {
				if key, value, _ := strings.Cut(o, "="); strings.EqualFold(key, "signed-by") {
					s.SignedBy = value
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		s.URI, s.Suites, s.Components = fields[0], fields[1:2], fields[2:]
		sources = append(sources, s)
	}
	return sources
}

// parseDeb822 reads the paragraphs of a .sources file.
func parseDeb822(content string) (sources []Source) {
	paragraph := map[string]string{}
	key := ""
	flush := func() {
		if slices.Contains(strings.Fields(paragraph["types"]), "deb") && !strings.EqualFold(paragraph["enabled"], "no") {
			for _, uri := range strings.Fields(paragraph["uris"]) {
				sources = append(sources, Source{uri, strings.Fields(paragraph["suites"]), strings.Fields(paragraph["components"]), strings.TrimSpace(paragraph["signed-by"])})
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

// Archive picks the archive that carries Debian's releases: one that
// this machine uses for a bare Debian suite with component main.
func Archive(sources []Source, suite string) (Source, error) {
	bare := func(s Source, suites ...string) bool {
		return slices.Contains(s.Components, "main") && slices.ContainsFunc(s.Suites, func(x string) bool { return slices.Contains(suites, x) })
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
	return Source{}, errors.New("no Debian archive among apt's sources")
}

// Root says what root filesystem to make.
type Root struct {
	// Suite is a Debian release's code name.
	Suite string
	// Variant is mmdebstrap's, as minbase.
	Variant  string
	Packages []string
	// Customize are shell commands that mmdebstrap runs at the end, with the
	// root as $1.
	Customize []string
	// Aptopts and Dpkgopts are mmdebstrap's options of these names.
	Aptopts, Dpkgopts []string
}

// Bootstrap makes a root filesystem with mmdebstrap from the machine's own
// archive, and writes it as the tarball target. Temporary files go to workDir.
// When ctx ends, so do mmdebstrap and its children.
func Bootstrap(ctx context.Context, r Root, workDir, target string) error {
	source, err := Archive(Sources("/etc/apt"), r.Suite)
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	line := "deb "
	if filepath.IsAbs(source.SignedBy) {
		line += "[signed-by=" + source.SignedBy + "] "
	}
	line += source.URI + " " + r.Suite + " main"
	args := []string{"--quiet", "--format=tar", "--variant=" + r.Variant, "--include=" + strings.Join(r.Packages, ",")}
	for _, o := range r.Aptopts {
		args = append(args, "--aptopt="+o)
	}
	for _, o := range r.Dpkgopts {
		args = append(args, "--dpkgopt="+o)
	}
	for _, h := range r.Customize {
		args = append(args, "--customize-hook="+h)
	}
	cmd := exec.CommandContext(ctx, program, append(args, r.Suite, target, line)...) //nolint:gosec // found in PATH
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C", "TMPDIR="+workDir)
	// mmdebstrap has children of its own: its whole process group ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("make a root of Debian %s: %w", r.Suite, context.Cause(ctx))
		}
		text := strings.TrimSpace(said.String())
		if len(text) > 2000 {
			text = "..." + text[len(text)-2000:]
		}
		return fmt.Errorf("make a root of Debian %s: mmdebstrap: %w: %s", r.Suite, err, text)
	}
	return nil
}
