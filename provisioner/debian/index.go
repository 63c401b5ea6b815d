package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Package is a binary package that a suite has.
type Package struct {
	Name, Version string
}

// Index fetches, with apt, what the suites of the machine's own archive have in
// main for amd64. Apt checks the archive's signatures. Temporary files go to
// workDir.
func Index(ctx context.Context, suites []string, workDir string) (map[string][]Package, error) {
	fail := func(err error) error {
		return fmt.Errorf("look up what Debian %s has: %w", strings.Join(suites, ", "), err)
	}
	source, err := Archive(Sources("/"), suites[0])
	if err != nil {
		return nil, fail(err)
	}
	dir, err := os.MkdirTemp(workDir, "index-")
	if err != nil {
		return nil, fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var list strings.Builder
	for _, s := range suites {
		list.WriteString(source.line(s) + "\n")
	}
	sources := filepath.Join(dir, "sources.list")
	err = errors.Join(os.WriteFile(sources, []byte(list.String()), 0o600),
		os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755),
		os.MkdirAll(filepath.Join(dir, "cache", "archives", "partial"), 0o755))
	if err != nil {
		return nil, fail(err)
	}
	options := []string{
		"-o", "Dir::Etc::SourceList=" + sources, "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + filepath.Join(dir, "lists"), "-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none", "-o", "Acquire::GzipIndexes=false", "-o", "Acquire::Retries=3",
	}
	apt := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := run(ctx, cmd)
		if err != nil {
			return nil, fmt.Errorf("apt-get %s: %w", args[0], err)
		}
		return out, nil
	}
	// Without it, apt calls an index that it could not get a warning.
	if _, err := apt("update", "-q", "--error-on=any"); err != nil {
		return nil, fail(err)
	}
	files, err := apt("indextargets", "--format", "$(CODENAME) $(FILENAME)", "Created-By: Packages")
	if err != nil {
		return nil, fail(err)
	}
	all := map[string][]Package{}
	for line := range strings.Lines(string(files)) {
		suite, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		f, err := os.Open(name)
		if err != nil {
			return nil, fail(err)
		}
		packages, err := ParseIndex(f)
		_ = f.Close()
		if err != nil {
			return nil, fail(fmt.Errorf("read %s: %w", name, err))
		}
		all[suite] = append(all[suite], packages...)
	}
	for _, s := range suites {
		if len(all[s]) == 0 {
			return nil, fail(fmt.Errorf("apt has no index of %s", s))
		}
	}
	return all, nil
}

// ParseIndex reads a Packages file.
func ParseIndex(r io.Reader) ([]Package, error) {
	var all []Package
	var p Package
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if name, found := strings.CutPrefix(line, "Package: "); found {
			p = Package{Name: name}
		} else if version, found := strings.CutPrefix(line, "Version: "); found && p.Name != "" {
			p.Version = version
			all = append(all, p)
		}
	}
	return all, lines.Err()
}
