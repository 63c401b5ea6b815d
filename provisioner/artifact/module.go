package artifact

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

// builderVersion changes when this package makes other bytes from the same
// recipe.
const builderVersion = "2"

// buildFlags are the same for every module: nothing of this machine in the
// binary, and no go.mod or go.sum changed by a build.
var buildFlags = []string{"-trimpath", "-buildvcs=false", "-mod=readonly"}

// goCommand is a Go toolchain.
type goCommand struct {
	path string
	// version is what `go env GOVERSION` says: "go1.26.8".
	version string
}

// findGo finds the toolchain on PATH and asks it for its version, outside any
// module, so that none may choose another toolchain.
func findGo(ctx context.Context) (goCommand, error) {
	p, err := exec.LookPath("go")
	if err != nil {
		return goCommand{}, fmt.Errorf("find a Go toolchain: %w", err)
	}
	cmd := exec.CommandContext(ctx, p, "env", "GOVERSION")
	cmd.Dir = os.TempDir()
	out, err := cmd.Output()
	if err != nil {
		return goCommand{}, fmt.Errorf("run %s env GOVERSION: %w", p, err)
	}
	return goCommand{path: p, version: strings.TrimSpace(string(out))}, nil
}

// build compiles all of a module's commands with one `go build`, so that what
// they share is compiled once, and leaves each under its name in outDir.
func (g goCommand) build(ctx context.Context, modules fs.FS, m moduleRecipe, arch, workDir, outDir string) error {
	source := filepath.Join(workDir, "module-"+m.Name)
	files, err := moduleFiles(modules, m.Name)
	if err != nil {
		return err
	}
	for _, f := range files {
		target := filepath.Join(source, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("write out module %s: %w", m.Name, err)
		}
		if err := os.WriteFile(target, f.content, 0o644); err != nil {
			return fmt.Errorf("write out module %s: %w", m.Name, err)
		}
	}
	// A folder of its own: two packages may have one base name.
	binaries := filepath.Join(workDir, "bin-"+m.Name)
	if err := os.MkdirAll(binaries, 0o755); err != nil {
		return fmt.Errorf("build module %s: %w", m.Name, err)
	}
	names, packages := sortedPairs(m.Commands)
	tags, ldflags, cgo := m.Tags, []string{"-s", "-w"}, "0"
	if m.Cgo {
		tags = append(slices.Clone(tags), "netgo", "osusergo")
		ldflags, cgo = append(ldflags, "-linkmode", "external", "-extldflags", "-static"), "1"
	}
	keys, values := sortedPairs(m.Set)
	for i, k := range keys {
		ldflags = append(ldflags, "-X", k+"="+values[i])
	}
	args := append([]string{"build"}, buildFlags...)
	args = append(args, "-tags", strings.Join(tags, ","), "-ldflags", strings.Join(ldflags, " "), "-o", binaries+string(filepath.Separator))
	cmd := exec.CommandContext(ctx, g.path, append(args, packages...)...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off", "GO111MODULE=on")
	stopAsOne(cmd)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build module %s: %w", m.Name, context.Cause(ctx))
		}
		return fmt.Errorf("build module %s: go build: %w: %s", m.Name, err, tail(said.String(), 2000))
	}
	for i, name := range names {
		if err := os.Rename(filepath.Join(binaries, commandName(packages[i])), filepath.Join(outDir, name)); err != nil {
			return fmt.Errorf("build module %s: %s: %w", m.Name, packages[i], err)
		}
	}
	return nil
}

// stopAsOne makes a command and all it starts end together with its context.
func stopAsOne(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

// commandName is the file that `go build` makes of a main package: the last
// element of its path that is not a major version.
func commandName(pkg string) string {
	if base := path.Base(pkg); !majorVersion.MatchString(base) {
		return base
	}
	return path.Base(path.Dir(pkg))
}

func sortedPairs(m map[string]string) (keys, values []string) {
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		values = append(values, m[k])
	}
	return keys, values
}

// tail is the end of what a command printed, where the reason stands.
func tail(s string, most int) string {
	s = strings.TrimSpace(s)
	if len(s) > most {
		return "..." + s[len(s)-most:]
	}
	return s
}
