package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	// unusedFor is how long a disk stays that no run asks for.
	unusedFor = 30 * 24 * time.Hour
	// givenOut is how long a disk that a run asked for may be about to be
	// booted.
	givenOut = 10 * time.Minute

	// halfMade ends the name of what is to be a disk's folder.
	halfMade = ".part"
	lockPoll = 200 * time.Millisecond
)

// disks is where root disks are kept: each in a folder named by its recipe's
// hash, whose modification time is when a run asked for it last.
func disks(cacheDir string) string { return filepath.Join(cacheDir, "qemu", "disks") }

// lockOf is a disk's lock: whoever makes or removes it holds it alone, and the
// machines that run from it share it.
func lockOf(dir string) *flock.Flock { return flock.New(strings.TrimSuffix(dir, halfMade) + ".lock") }

// once makes a disk's folder where it is not there, however many want it, and
// says whether it did.
func once(ctx context.Context, dir string, build func() error) (made bool, err error) {
	lock := lockOf(dir)
	defer func() { _ = lock.Unlock() }()
	if _, err := lock.TryRLockContext(ctx, lockPoll); err != nil {
		return false, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := lock.Unlock(); err != nil {
			return false, err
		}
		if _, err := lock.TryLockContext(ctx, lockPoll); err != nil {
			return false, err
		}
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := build(); err != nil {
			return false, err
		}
		made = true
	}
	return made, os.Chtimes(dir, time.Time{}, time.Now())
}

// use keeps a disk from being removed until release is called, or this process
// ends.
func use(ctx context.Context, dir string) (release func() error, err error) {
	lock := lockOf(dir)
	if _, err := lock.TryRLockContext(ctx, lockPoll); err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock.Unlock, nil
}

// OldDisk is a root disk in the cache that is not worth its place any more, or
// what a run that was killed left of one.
type OldDisk struct {
	// Dir is its folder.
	Dir string
	// Why says what makes it old.
	Why string
}

// OldDisks finds the disks in a cache that no run asked for in 30 days, those
// whose place another one took that was made later for the same request, and
// those that were left half-made. What a machine runs from, or may be about to,
// is not among them, nor what is being made.
func OldDisks(cacheDir string) ([]OldDisk, error) {
	fail := func(err error) ([]OldDisk, error) { return nil, fmt.Errorf("look for old root disks: %w", err) }
	entries, err := os.ReadDir(disks(cacheDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	type made struct {
		OldDisk
		request  string
		at, used time.Time
	}
	var all []made
	latest := map[string]time.Time{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		m := made{OldDisk: OldDisk{Dir: filepath.Join(disks(cacheDir), e.Name())}}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			// Another run just removed it.
			continue
		}
		if err != nil {
			return fail(err)
		}
		m.used = info.ModTime()
		m.request, m.at = madeFor(m.Dir)
		if m.at.After(latest[m.request]) {
			latest[m.request] = m.at
		}
		all = append(all, m)
	}
	var old []OldDisk
	for _, m := range all {
		switch {
		case strings.HasSuffix(m.Dir, halfMade):
			m.Why = "its making did not end"
		case time.Since(m.used) > unusedFor:
			m.Why = "unused since " + m.used.UTC().Format(time.DateOnly)
		case m.request != "" && m.at.Before(latest[m.request]) && time.Since(m.used) > givenOut:
			m.Why = "a newer one was made for " + m.request
		default:
			continue
		}
		free, err := locked(m.Dir, func() error { return nil })
		if err != nil {
			return fail(err)
		}
		if free {
			old = append(old, m.OldDisk)
		}
	}
	return old, nil
}

// madeFor is the request that a disk was made for, and when; nothing of a disk
// that does not say.
func madeFor(dir string) (request string, at time.Time) {
	path := filepath.Join(dir, diskFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", time.Time{}
	}
	var d Disk
	info, err := os.Stat(path)
	if err != nil || json.Unmarshal(text, &d) != nil {
		return "", time.Time{}
	}
	return d.Request, info.ModTime()
}

// locked does something while nobody else uses a disk; free says whether that
// was so.
func locked(dir string, do func() error) (free bool, err error) {
	lock := lockOf(dir)
	if free, err = lock.TryLock(); err != nil || !free {
		return false, err
	}
	defer func() { _ = lock.Unlock() }()
	return true, do()
}

// Remove removes the disk; that it is in use by now is an error. Its lock, an
// empty file, stays: others may be waiting for it.
func (d OldDisk) Remove() error {
	free, err := locked(d.Dir, func() error { return os.RemoveAll(d.Dir) })
	if err == nil && !free {
		err = errors.New("it is in use by now")
	}
	if err != nil {
		return fmt.Errorf("remove root disk %s: %w", d.Dir, err)
	}
	return nil
}

// prune removes old disks. One that cannot be removed is told, and in nobody's
// way.
func (s System) prune() {
	old, err := OldDisks(s.CacheDir)
	errs := []error{err}
	for _, d := range old {
		err := d.Remove()
		if err == nil {
			s.note("removed root disk %s: %s", d.Dir, d.Why)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		s.note("%v", err)
	}
}
