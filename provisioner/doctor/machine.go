package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Machine is what the doctor looks at and changes. Tests give it a folder as
// root and a Runner of their own.
type Machine struct {
	// Root is the folder under which every file is looked for: "/" for real.
	Root string
	// Runner runs commands.
	Runner Runner
	// Getenv reads the environment.
	Getenv func(string) string
	// UID is the effective user ID.
	UID int
	// CPUs that this process may use.
	CPUs int
	// Free tells the bytes free on the filesystem of an existing folder.
	Free func(dir string) (int64, error)
	// Now is the time.
	Now func() time.Time
}

// This is the machine that the program runs on.
func This() Machine {
	return Machine{
		Root:   "/",
		Runner: execRunner{},
		Getenv: os.Getenv,
		UID:    os.Geteuid(),
		CPUs:   runtime.NumCPU(),
		Free:   free,
		Now:    time.Now,
	}
}

func free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// Command is a command to run.
type Command struct {
	Args []string
	// Env is added to the program's own environment.
	Env []string
	// Stream, if set, gets standard output and error as they come.
	Stream io.Writer
}

// String is the command as one would type it.
func (c Command) String() string {
	return strings.Join(append(append([]string{}, c.Env...), c.Args...), " ")
}

// Runner runs commands.
type Runner interface {
	// Run returns what the command wrote to standard output and error, in the
	// order it came. A command that ran and failed is a *RunError.
	Run(ctx context.Context, cmd Command) (output string, err error)
}

// RunError is a command that ran and failed.
type RunError struct {
	Command  Command
	ExitCode int
	Output   string
}

// Error names the command and the last lines of what it printed.
func (e *RunError) Error() string {
	return fmt.Sprintf("run %q: exit code %d: %s", e.Command.String(), e.ExitCode, lastLines(e.Output, 6))
}

// lastLines are the last n lines that hold anything, on one line.
func lastLines(s string, n int) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}

type execRunner struct{}

func (execRunner) Run(ctx context.Context, c Command) (string, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	// Outside any module, so that `go version` tells the installed toolchain.
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	var buf bytes.Buffer
	cmd.Stdout = &buf
	if c.Stream != nil {
		cmd.Stdout = io.MultiWriter(&buf, c.Stream)
	}
	cmd.Stderr = cmd.Stdout
	// apt and dpkg end in order when interrupted; killed, they leave half of a
	// package.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return buf.String(), nil
	case ctx.Err() != nil:
		return buf.String(), fmt.Errorf("run %q: %w", c.String(), ctx.Err())
	case errors.As(err, &exit):
		return buf.String(), &RunError{Command: c, ExitCode: exit.ExitCode(), Output: buf.String()}
	}
	return buf.String(), fmt.Errorf("run %q: %w", c.String(), err)
}

// path is a file of the machine.
func (m Machine) path(name string) string { return filepath.Join(m.Root, name) }

// read is a file's text, trimmed; ok is false where it cannot be read.
func (m Machine) read(name string) (text string, ok bool) {
	b, err := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(b)), err == nil
}

func (m Machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// look finds a program, in PATH and where root's programs are.
func (m Machine) look(name string) (path string, ok bool) {
	if filepath.IsAbs(name) {
		return name, m.exists(name)
	}
	for _, dir := range append(filepath.SplitList(m.Getenv("PATH")), "/usr/sbin", "/usr/bin", "/sbin", "/bin") {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(m.path(p)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, true
		}
	}
	return "", false
}
