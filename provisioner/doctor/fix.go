package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// RefusedError says that nothing was changed because nothing may be.
type RefusedError struct {
	// Reason: LXCMATRIX_BOOTSTRAP=no, or not root.
	Reason string
	// Findings that Fix would have mended.
	Findings []Finding
}

// Error names the reason, and what is missing with its remedy.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: nothing was changed, and this is left to do:", e.Reason)
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "\n  %s: %s\n    remedy: %s", f.ID, f.What, f.Remedy)
	}
	return b.String()
}

// Fix mends the fixable findings among those that Examine returned, and says
// each step on out before it is taken. It returns a *RefusedError, and changes
// nothing, where LXCMATRIX_BOOTSTRAP is no or the user is not root. Examine
// again afterwards: what Fix cannot mend is still there.
func Fix(ctx context.Context, findings []Finding, out io.Writer) error {
	return This().Fix(ctx, findings, out)
}

// Fix mends the machine; see the function of that name.
func (m Machine) Fix(ctx context.Context, findings []Finding, out io.Writer) error {
	var todo []Finding
	for _, f := range findings {
		if f.Fixable {
			todo = append(todo, f)
		}
	}
	switch {
	case len(todo) == 0:
		return nil
	case m.Getenv("LXCMATRIX_BOOTSTRAP") == "no":
		return &RefusedError{Reason: "LXCMATRIX_BOOTSTRAP=no", Findings: todo}
	case m.UID != 0:
		return &RefusedError{Reason: "not root", Findings: todo}
	}
	say := func(format string, args ...any) { fmt.Fprintf(out, "doctor: "+format+"\n", args...) }
	for _, f := range todo {
		say("%s: %s", f.ID, f.What)
		if err := m.mend(ctx, f.repair, say, out); err != nil {
			return fmt.Errorf("mend %s: %w", f.ID, err)
		}
	}
	return nil
}

func (m Machine) mend(ctx context.Context, r repair, say func(string, ...any), out io.Writer) error {
	if len(r.packages) > 0 {
		if err := m.install(ctx, r, say, out); err != nil {
			return err
		}
	}
	commands := r.commands
	if r.module != "" {
		modprobe, found := m.look("modprobe")
		if !found {
			return fmt.Errorf("load module %s: modprobe is not there any more", r.module)
		}
		commands = append(slices.Clone(commands), []string{modprobe, r.module})
	}
	for _, args := range commands {
		cmd := Command{Args: args}
		say("running: %s", cmd)
		if _, err := m.Runner.Run(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

// aptOptions wait for another apt to end, and try a download that fails again.
func aptOptions() []string {
	return []string{"-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"}
}

func installCommand(packages []string) Command {
	args := append([]string{"apt-get", "install", "--yes", "--no-install-recommends"}, aptOptions()...)
	return Command{Args: append(args, packages...), Env: []string{"DEBIAN_FRONTEND=noninteractive"}}
}

func updateCommand() Command {
	return Command{Args: append([]string{"apt-get", "update"}, aptOptions()...), Env: []string{"DEBIAN_FRONTEND=noninteractive"}}
}

// listsFresh is how old apt's lists may be before they are fetched again.
const listsFresh = 24 * time.Hour

func (m Machine) install(ctx context.Context, r repair, say func(string, ...any), out io.Writer) (err error) {
	say("installing with apt: %s", strings.Join(r.packages, " "))
	update := !m.listsFresh()
	if r.backports {
		codename := m.release().codename
		text, err := m.backportsSource(codename)
		if err != nil {
			return err
		}
		say("adding %s-backports to apt's sources, as %s", codename, backportsFile)
		if err := m.write(backportsFile, text, 0o644); err != nil {
			return err
		}
		update = true
	}
	if slices.Contains(r.packages, "incus-base") {
		release, err := m.holdServices(say)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	var updateErr error
	if update {
		updateErr = m.update(ctx, say, out)
	}
	err = m.apt(ctx, installCommand(r.packages), say, out)
	var failed *RunError
	if errors.As(err, &failed) && !update {
		// The lists may name versions that the mirror has no more.
		say("apt-get install failed; fetching the lists and trying once more")
		updateErr = m.update(ctx, say, out)
		err = m.apt(ctx, installCommand(r.packages), say, out)
	}
	if err != nil {
		// Where the lists could not be fetched, that is why.
		return errors.Join(err, updateErr)
	}
	return nil
}

// update fetches apt's lists. Another's source that does not answer makes
// apt-get update fail although ours are there, so whether it worked shows when
// packages are installed.
func (m Machine) update(ctx context.Context, say func(string, ...any), out io.Writer) error {
	err := m.apt(ctx, updateCommand(), say, out)
	if err != nil {
		say("apt-get update failed, going on with the lists there are: %v", err)
	}
	return err
}

func (m Machine) apt(ctx context.Context, cmd Command, say func(string, ...any), out io.Writer) error {
	say("running: %s", cmd)
	stream := &indent{w: out}
	cmd.Stream = stream
	_, err := m.Runner.Run(ctx, cmd)
	stream.end()
	return err
}

// indent sets a command's output off from the doctor's own lines.
type indent struct {
	w    io.Writer
	rest []byte
}

// Write never fails: what cannot be shown must not end apt.
func (i *indent) Write(p []byte) (int, error) {
	i.rest = append(i.rest, p...)
	for {
		line, rest, found := bytes.Cut(i.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		fmt.Fprintf(i.w, "  | %s\n", bytes.TrimRight(line, "\r"))
		i.rest = rest
	}
}

func (i *indent) end() {
	if len(i.rest) > 0 {
		fmt.Fprintf(i.w, "  | %s\n", i.rest)
		i.rest = nil
	}
}

// listsFresh says whether apt fetched its lists lately. apt dates the lists as
// the mirror does, so their folders' time is what tells.
func (m Machine) listsFresh() bool {
	const lists = "/var/lib/apt/lists"
	found, err := filepath.Glob(m.path(lists + "/*_Packages*"))
	if err != nil || len(found) == 0 {
		return false
	}
	for _, dir := range []string{lists, lists + "/partial"} {
		if info, err := os.Stat(m.path(dir)); err == nil && m.Now().Sub(info.ModTime()) < listsFresh {
			return true
		}
	}
	return false
}

const (
	policyFile = "/usr/sbin/policy-rc.d"
	policyMark = "# Written by lxcmatrix for one run of apt-get; it may be removed."
	policyText = "#!/bin/sh\n" + policyMark + "\nfor arg; do case $arg in incus*) exit 101;; esac; done\nexit 0\n"
)

// holdServices keeps the package's scripts from starting an Incus of the
// system's, which nobody asked for: the harness runs a daemon of its own.
// Debian's maintainer scripts ask policy-rc.d before they start anything; an
// environment variable would reach only some of them. A policy that is
// already there stays, and where systemd does not run, nothing is started.
func (m Machine) holdServices(say func(string, ...any)) (release func() error, err error) {
	none := func() error { return nil }
	if !m.exists("/run/systemd/system") {
		return none, nil
	}
	if text, found := m.read(policyFile); found && !strings.Contains(text, policyMark) {
		return none, nil
	}
	say("keeping the package from starting an Incus of the system's, by %s for as long as apt-get runs; from the next boot on it listens, unless you disable incus.socket", policyFile)
	if err := m.write(policyFile, policyText, 0o755); err != nil {
		return none, err
	}
	return func() error {
		if err := os.Remove(m.path(policyFile)); err != nil {
			return fmt.Errorf("take the policy against starting services back: %w", err)
		}
		return nil
	}, nil
}

// write makes a file appear whole.
func (m Machine) write(name, text string, mode os.FileMode) error {
	p := m.path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// apt reads only what ends in .sources, and dpkg runs only policy-rc.d
	// itself, so that half a file under this name harms nobody.
	tmp := p + ".lxcmatrix-new"
	if err := os.WriteFile(tmp, []byte(text), mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(tmp, p); err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(tmp)))
	}
	return nil
}
