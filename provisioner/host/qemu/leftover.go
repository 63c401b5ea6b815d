package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
)

// unfinished begins the names of run folders that do not say yet whose they
// are.
const unfinished = ".new-"

// machines is where the run folders are.
func machines(stateDir string) string { return filepath.Join(stateDir, "qemu") }

// Leftover is what is left of a machine whose run is no more.
type Leftover struct {
	// Dir is its run folder.
	Dir string
	// PID is that of a QEMU that still runs; 0 where it ended.
	PID int
	// Owner is the process that started it; 0 where that is not known.
	Owner int
}

// Leftovers finds the machines below a state folder that no live process owns.
func Leftovers(stateDir string) ([]Leftover, error) {
	entries, err := os.ReadDir(machines(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for machines that were left: %w", err)
	}
	var all []Leftover
	for _, e := range entries {
		dir := filepath.Join(machines(stateDir), e.Name())
		if strings.HasPrefix(e.Name(), unfinished) {
			// Its owner may be about to write who it is; that takes no minute.
			info, err := e.Info()
			if err == nil && time.Since(info.ModTime()) > time.Minute {
				all = append(all, Leftover{Dir: dir})
			}
			continue
		}
		owner, err := pidfile.Read(filepath.Join(dir, ownerFile))
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(dir); err != nil {
				// It was just removed.
				continue
			}
		}
		if err == nil && owner.Alive() {
			continue
		}
		l := Leftover{Dir: dir, Owner: owner.PID}
		if qemu, err := pidfile.Read(filepath.Join(dir, pidFile)); err == nil && qemu.Alive() {
			l.PID = qemu.PID
		}
		all = append(all, l)
	}
	return all, nil
}

// Remove ends what still runs of the machine, and removes its folder.
func (l Leftover) Remove(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("remove the machine left in %s: %w", l.Dir, err) }
	// Once more: the process may have ended, and its ID may be another's now.
	qemu, err := pidfile.Read(filepath.Join(l.Dir, pidFile))
	if err == nil && qemu.Alive() {
		if err := syscall.Kill(qemu.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fail(fmt.Errorf("kill QEMU with process ID %d: %w", qemu.PID, err))
		}
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			if qemu.Alive() {
				return struct{}{}, fmt.Errorf("QEMU with process ID %d is still there after it was killed", qemu.PID)
			}
			return struct{}{}, nil
		}, backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)), backoff.WithMaxElapsedTime(endPatience))
		if err != nil {
			return fail(err)
		}
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		return fail(err)
	}
	return nil
}
