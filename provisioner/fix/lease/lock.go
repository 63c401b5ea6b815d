package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// every is how often a lock of another process is tried again.
const every = 150 * time.Millisecond

// Two files lie beside the one that keeps what the host had. Neither is ever
// removed: a process could lock one that others no longer see.
const (
	// changeSuffix is of the file that is locked by who takes or returns a
	// share, as long as that takes.
	changeSuffix = ".change"
	// usersSuffix is of the file that is locked, shared, by every process with
	// a lease. It holds the values that they share, which mean nothing without
	// such a lock.
	usersSuffix = ".users"
)

// lock is an open lock file. What it locks is free again when it is closed or
// its process ends, however that happens.
type lock struct{ file *os.File }

// open opens a lock file, which locks nothing yet. What is in its folder says
// what to write into the kernel, so the folder is made for its owner alone.
func open(path string) (*lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &lock{file}, nil
}

// try locks the file, unix.LOCK_SH or unix.LOCK_EX, and says whether that was
// possible at once. Where it was not, a lock that was there before is gone.
func (l *lock) try(how int) (bool, error) {
	for {
		err := unix.Flock(int(l.file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("lock %s: %w", l.file.Name(), err)
		}
	}
}

// write replaces what is in the file.
func (l *lock) write(data []byte) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt(data, 0)
	return err
}

func (l *lock) close() error {
	// A child that is being started has the descriptor until it executes.
	err := unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	return errors.Join(err, l.file.Close())
}

// waitFor waits until a lock file is locked by nobody else, and locks it.
func waitFor(ctx context.Context, path string) (*lock, error) {
	l, err := open(path)
	if err != nil {
		return nil, err
	}
	for {
		got, err := l.try(unix.LOCK_EX)
		if got {
			return l, nil
		}
		if err == nil {
			err = pause(ctx, nil)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", path, err), l.close())
		}
	}
}

// pause ends after a while, earlier if sooner is closed, and with the error of
// ctx when that ends.
func pause(ctx context.Context, sooner <-chan struct{}) error {
	timer := time.NewTimer(every)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-sooner:
	case <-timer.C:
	}
	return nil
}
