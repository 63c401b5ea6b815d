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

func TestFullPool(t *testing.T) {
	dir := state(t)
	h := open(t, dir)
	t.Cleanup(func() {
		closeHost(t, h)
		if what := left(t, dir); len(what) > 0 {
			t.Errorf("left behind: %q", what)
		}
	})
	filler := filepath.Join(dir, "pool", "filler")
	fullPool(t, newGround(t, h), func(_ context.Context, bytes int64) error {
		f, err := os.Create(filler)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return syscall.Fallocate(int(f.Fd()), 0, 0, bytes)
	}, func() error { return os.Remove(filler) })
}

// TestDaemonRestarts: a daemon ends killed, or asked to.
func TestDaemonRestarts(t *testing.T) {
	dir := state(t)
	h := open(t, dir)
	t.Cleanup(func() {
		closeHost(t, h)
		if what := left(t, dir); len(what) > 0 {
			t.Errorf("left behind: %q", what)
		}
	})
	here := newGround(t, h)
	t.Run("restarted by its host while a command runs", func(t *testing.T) {
		g := NewWithT(t)
		here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error {
			boot := provisioner.Command{Args: []string{"cat", "/proc/sys/kernel/random/boot_id"}}
			before, err := node.Exec(ctx, boot)
			if err != nil {
				return err
			}
			ended := whileItSleeps(ctx, node, func(ctx context.Context) error {
				was, is, err := h.RestartDaemon(ctx)
				g.Expect(is).To(And(BeNumerically(">", 1), Not(Equal(was))))
				return err
			})
			g.Expect(ended).To(And(HaveOccurred(), Not(MatchError(ContainSubstring(undone)))))
			after, err := node.Exec(ctx, boot)
			g.Expect(after).To(Equal(before), "the node ran on")
			return err
		}
		comesToItsBaseline(g, here.run(t, "first")[0])
	})
	// Asked to end, it would wait five minutes for commands that run.
	elsewhere{t: t, dir: dir}.incus("config", "set", "core.shutdown_timeout", "0")
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
			daemonRestarts(t, here, func(ctx context.Context) error { return restart(ctx, signal) })
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
