//go:build integration

package host_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
)

// TestFullPool: a cell whose node finds no room to write is blocked, with what
// is free, and so is the next one, before it has a node. With room again they
// go on.
func TestFullPool(t *testing.T) {
	g := NewWithT(t)
	dir := state(t)
	h := open(t, dir)
	t.Cleanup(func() {
		closeHost(t, h)
		if what := left(t, dir); len(what) > 0 {
			t.Errorf("left behind: %q", what)
		}
	})
	here := newGround(t, h)
	filler := filepath.Join(dir, "pool", "filler")
	here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error {
		free, err := h.Server.Free(ctx)
		if err != nil {
			return err
		}
		f, err := os.Create(filler)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, *free-32<<20); err != nil {
			return err
		}
		return writeMuch(ctx, node)
	}
	blockedByTheDisk(g, here.run(t, "first", "second"))

	g.Expect(os.Remove(filler)).To(Succeed())
	here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error { return writeMuch(ctx, node) }
	comesToItsBaseline(g, here.run(t, "third")[0])
}

// TestDaemonRestarts: what is under way on a node when its host's daemon ends,
// killed or asked to, is the world's doing, and what comes after the next one is
// up goes on.
func TestDaemonRestarts(t *testing.T) {
	dir := state(t)
	h := open(t, dir)
	t.Cleanup(func() {
		closeHost(t, h)
		if what := left(t, dir); len(what) > 0 {
			t.Errorf("left behind: %q", what)
		}
	})
	// Asked to end, it would wait five minutes for commands that run.
	elsewhere{t: t, dir: dir}.incus("config", "set", "core.shutdown_timeout", "0")
	here := newGround(t, h)
	restart := func(ctx context.Context, signal syscall.Signal) error {
		p, err := pidfile.Read(filepath.Join(dir, "incusd.pid"))
		if err != nil {
			return err
		}
		if err := syscall.Kill(p.PID, signal); err != nil {
			return err
		}
		for p.Alive() {
			if err := (clock{}).Sleep(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		return host.StartDaemon(ctx, dir)
	}
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "asked to end": syscall.SIGTERM} {
		t.Run(name+" while a command runs", func(t *testing.T) {
			g := NewWithT(t)
			here.install = func(ctx context.Context, c matrix.Cell, node provisioner.Node) error {
				if c.Variants[0] == "second" {
					return nil
				}
				return whileItSleeps(ctx, node, func(ctx context.Context) error { return restart(ctx, signal) })
			}
			results := here.run(t, "first", "second")
			blockedIn(g, results[0], matrix.PhaseInstall)
			comesToItsBaseline(g, results[1])
		})
	}
	t.Run("killed while a node restarts", func(t *testing.T) {
		g := NewWithT(t)
		restarted := make(chan error, 1)
		here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error {
			_, err := node.Exec(ctx, provisioner.Command{Args: []string{"/sbin/init", "deafen"}})
			return err
		}
		here.mark = func(ctx context.Context, _ matrix.Cell, _ provisioner.Node) {
			go func() {
				for ctx.Err() == nil {
					look, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
					err := h.Server.Settle(look)
					cancel()
					if err != nil {
						restarted <- restart(t.Context(), syscall.SIGKILL) //nolint:contextcheck // the node's restart ends with the daemon
						return
					}
				}
			}()
		}
		results := here.run(t, "first")
		g.Expect(<-restarted).To(Succeed())
		blockedIn(g, results[0], matrix.PhaseRestart)
	})
	owned, err := h.Server.Owned(t.Context())
	if err != nil || len(owned) > 0 {
		t.Errorf("nodes were left: %v, %v", owned, err)
	}
}
