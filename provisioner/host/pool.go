package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// loopPool is an ext4 filesystem in a sparse file, mounted by a loop device.
// It bounds what all nodes together can write: a dir pool has no quota of its
// own.
type loopPool struct {
	File, Mount string
	Bytes       int64
}

func (p loopPool) mount(ctx context.Context) error {
	if err := os.MkdirAll(p.Mount, 0o711); err != nil {
		return fmt.Errorf("mount the pool: %w", err)
	}
	mounted, err := p.mounted()
	if err != nil || mounted {
		return err
	}
	if _, err := os.Stat(p.File); errors.Is(err, fs.ErrNotExist) {
		if err := p.make(ctx); err != nil {
			return err
		}
	}
	if err := p.grow(ctx); err != nil {
		return err
	}
	if err := run(ctx, "mount", "-o", "loop,noatime,discard", p.File, p.Mount); err != nil {
		return fmt.Errorf("mount the pool %s: %w", p.File, err)
	}
	if err := os.MkdirAll(filepath.Join(p.Mount, "nodes"), 0o711); err != nil {
		return fmt.Errorf("mount the pool: %w", err)
	}
	return nil
}

// make formats the file under another name first: a half-made filesystem is
// never mounted.
func (p loopPool) make(ctx context.Context) error {
	half := p.File + ".part"
	f, err := os.OpenFile(half, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the pool: %w", err)
	}
	if err := errors.Join(f.Truncate(p.Bytes), f.Close()); err != nil {
		return fmt.Errorf("make the pool %s of %d bytes: %w", p.File, p.Bytes, err)
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-m", "0", half); err != nil {
		return fmt.Errorf("make the pool: %w", err)
	}
	if err := os.Rename(half, p.File); err != nil {
		return fmt.Errorf("make the pool: %w", err)
	}
	return nil
}

// grow makes an unmounted pool as large as it is wanted now; it never shrinks
// one.
func (p loopPool) grow(ctx context.Context) error {
	info, err := os.Stat(p.File)
	if err != nil {
		return fmt.Errorf("look at the pool: %w", err)
	}
	if info.Size() >= p.Bytes {
		return nil
	}
	if err := os.Truncate(p.File, p.Bytes); err != nil {
		return fmt.Errorf("grow the pool %s to %d bytes: %w", p.File, p.Bytes, err)
	}
	// resize2fs refuses a filesystem that was not checked since it was mounted.
	if err := run(ctx, "e2fsck", "-f", "-p", p.File); err != nil {
		return fmt.Errorf("grow the pool: %w", err)
	}
	if err := run(ctx, "resize2fs", p.File); err != nil {
		return fmt.Errorf("grow the pool: %w", err)
	}
	return nil
}

func (p loopPool) unmount(context.Context) error {
	mounted, err := p.mounted()
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(p.Mount, 0); err != nil {
		return fmt.Errorf("unmount the pool %s: %w", p.Mount, err)
	}
	return nil
}

// mounted compares the folder's device with its parent's.
func (p loopPool) mounted() (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(p.Mount, &here); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("look at the pool %s: %w", p.Mount, err)
	}
	if err := unix.Stat(filepath.Dir(p.Mount), &above); err != nil {
		return false, fmt.Errorf("look at the pool %s: %w", p.Mount, err)
	}
	return here.Dev != above.Dev, nil
}

// run runs a command that ends with this process, however that ends: whoever
// comes next must not meet a pool that is still being formatted.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The kernel tells the end of the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
