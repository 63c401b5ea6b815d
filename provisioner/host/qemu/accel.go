package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// kvmDevice is what KVM is reached through.
const kvmDevice = "/dev/kvm"

// probePatience is how long a kernel may take under KVM to boot to where it
// finds no root disk. One that KVM really runs needs a second; under emulation
// it takes three.
const probePatience = 15 * time.Second

// AccelError is an accelerator that was asked for and does not work.
type AccelError struct {
	Accel, Reason string
}

// Error names the accelerator, what happened and the remedy.
func (e *AccelError) Error() string {
	return fmt.Sprintf("boot under %s: %s; write accel: auto, which falls back to tcg, or accel: tcg", e.Accel, e.Reason)
}

// finding is what a probe found out.
type finding struct {
	Works  bool      `json:"works"`
	Reason string    `json:"reason"`
	Probed time.Time `json:"probed"`
}

// accelerator chooses what a kernel is booted under, and says why. An open
// /dev/kvm proves nothing, so the kernel itself is booted once under KVM; what
// came of it is remembered per machine and kernel. Asking for KVM outright
// probes again where it did not work before.
func (s System) accelerator(ctx context.Context, spec Spec, kernel string) (accel, reason string, err error) {
	if spec.Accel == AccelTCG {
		return AccelTCG, "the matrix asks for it", nil
	}
	f, err := s.probeKVM(ctx, spec, kernel)
	if err != nil {
		return "", "", fmt.Errorf("find out whether KVM boots %s: %w", kernel, err)
	}
	switch {
	case f.Works:
		return AccelKVM, f.Reason, nil
	case spec.Accel == AccelKVM:
		return "", "", &AccelError{Accel: AccelKVM, Reason: f.Reason}
	}
	return AccelTCG, f.Reason, nil
}

// probeKVM is what is remembered of this machine and kernel, or what a new
// probe shows.
func (s System) probeKVM(ctx context.Context, spec Spec, kernel string) (finding, error) {
	device, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		// Nothing to remember: it is found out as fast again.
		return finding{Reason: err.Error()}, nil
	}
	_ = device.Close()
	key, err := probeKey(kernel)
	if err != nil {
		return finding{}, err
	}
	path := filepath.Join(s.CacheDir, "qemu", "accel", key+".json")
	return recall(ctx, path, spec.Accel == AccelKVM, func() (_ finding, err error) {
		end := s.step("finding out whether KVM boots this kernel")
		defer func() { end(err) }()
		return s.probe(ctx, spec, kernel, probePatience)
	})
}

// recall is what is remembered in a file, or what probe finds, which is
// remembered then. With again, one that did not work is not good enough.
func recall(ctx context.Context, path string, again bool, probe func() (finding, error)) (finding, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return finding{}, err
	}
	lock := flock.New(path + ".lock")
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return finding{}, err
	}
	defer func() { _ = lock.Unlock() }()
	if f, found := remembered(path); found && (f.Works || !again) {
		return f, nil
	}
	f, err := probe()
	if err != nil {
		return finding{}, err
	}
	f.Probed = time.Now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return finding{}, err
	}
	half := path + ".part"
	if err := os.WriteFile(half, append(text, '\n'), 0o644); err != nil {
		return finding{}, err
	}
	return f, os.Rename(half, path)
}

// remembered is an earlier finding. One that cannot be read is none.
func remembered(path string) (f finding, found bool) {
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &f) != nil || f.Probed.IsZero() {
		return finding{}, false
	}
	f.Reason += ", as seen on " + f.Probed.Format(time.DateOnly)
	return f, true
}

// probeKey names all that a finding depends on and that may change: the
// machine, its processor and kernel, QEMU, and the kernel that is booted.
func probeKey(kernel string) (string, error) {
	h := sha256.New()
	// A machine without an ID of its own is told by the rest.
	id, _ := os.ReadFile("/etc/machine-id")
	_, _ = h.Write(id)
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(cpus)) {
		if strings.HasPrefix(line, "model name") || strings.HasPrefix(line, "microcode") || strings.HasPrefix(line, "flags") {
			_, _ = io.WriteString(h, line)
		}
		if strings.TrimSpace(line) == "" {
			// One processor is like the other.
			break
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	_, _ = h.Write(bytes.Join([][]byte{u.Release[:], u.Version[:]}, nil))
	path, err := exec.LookPath(program)
	if err != nil {
		return "", missingQEMU(err)
	}
	stamp, err := treeStamp(path)
	if err != nil {
		return "", err
	}
	_, _ = io.WriteString(h, stamp)
	f, err := os.Open(kernel)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// probe boots the kernel under KVM with no disk at all. One that KVM runs
// prints, panics for want of a root and so ends QEMU, in time.
func (s System) probe(ctx context.Context, spec Spec, kernel string, patience time.Duration) (_ finding, err error) {
	dir, err := s.newRunFolder()
	if err != nil {
		return finding{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	console := filepath.Join(dir, consoleFile)
	const memory = 512 << 20
	p, err := startQEMU(append(baseArguments(AccelKVM, spec.CPUs, memory, console), "-kernel", kernel, "-append", consoleLine+" loglevel=6"))
	if err != nil {
		return finding{}, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
		defer cancel()
		err = errors.Join(err, p.kill(clean))
	}()
	if err := p.record(filepath.Join(dir, pidFile)); err != nil {
		return finding{}, err
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-p.done:
	case <-deadline.C:
	case <-ctx.Done():
		return finding{}, context.Cause(ctx)
	}
	return judge(p.ended(), patience, tail(console, 200), plain(p.output())), nil
}

// judge says what a probe means: whether QEMU ended by itself within its
// patience, and what the kernel and QEMU printed.
func judge(ended bool, patience time.Duration, console, said []string) finding {
	last := func(lines []string) string { return lines[len(lines)-1] }
	ran := strings.Contains(strings.Join(console, "\n"), "Linux version")
	switch {
	case ran && ended:
		return finding{Works: true, Reason: "KVM boots this kernel"}
	case ended && len(said) > 0:
		return finding{Reason: "KVM does not boot this kernel: QEMU ended: " + last(said)}
	case ended:
		return finding{Reason: "KVM does not boot this kernel: QEMU ended and the kernel had printed nothing"}
	case ran:
		return finding{Reason: fmt.Sprintf("KVM does not boot this kernel: it hung for %s; its last line was %q", patience, last(console))}
	}
	return finding{Reason: fmt.Sprintf("KVM does not boot this kernel: it printed nothing within %s", patience)}
}
