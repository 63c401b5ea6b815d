//go:build integration

package host_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
)

// besideVariable makes TestFailuresInAMachine the second of two runs that have
// machines at once: its value is the state folder of both.
const besideVariable = "HOST_TEST_BESIDE"

// openMachine boots a machine from the disk that the driver's own tests use.
func openMachine(t *testing.T, dir string) *host.Host {
	t.Helper()
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h, err := host.OpenQEMU(t.Context(), matrix.HostRef{Name: "here", Driver: "qemu", Cgroup: "v2",
		QEMU: matrix.QEMURef{OS: "debian/12", Kernel: "debian/6.1", MemoryBytes: 2 << 30, DiskBytes: 2 << 30}},
		host.QEMUOptions{CacheDir: cache, StateDir: dir, Console: filepath.Join(t.TempDir(), "console")})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("opened in %s", time.Since(began).Round(100*time.Millisecond))
	return h
}

// processes are the QEMUs of a state folder.
func processes(t *testing.T, dir string) (all []pidfile.Process) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "qemu", "*", "qemu.pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if p, err := pidfile.Read(file); err == nil && p.Alive() {
			all = append(all, p)
		}
	}
	return all
}

// killDaemon has the machine's systemd start another daemon, and waits for it.
const killDaemon = `pid=$(systemctl show --property=MainPID --value incus.service) && kill -KILL "$pid" &&
while [ -e "/proc/$pid" ]; do sleep 0.1; done && incus admin waitready --timeout=300`

// TestFailuresInAMachine takes cells through what can go wrong on a qemu host,
// while another run has a machine of its own in the same state folder.
func TestFailuresInAMachine(t *testing.T) {
	if dir := os.Getenv(besideVariable); dir != "" {
		runBeside(t, dir)
		return
	}
	dir := state(t)
	beside := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFailuresInAMachine$", "-test.v")
	beside.Env = append(os.Environ(), besideVariable+"="+dir)
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	beside.Stdout, beside.Stderr = said, said
	if err := beside.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- beside.Wait() }()

	h := openMachine(t, dir)
	t.Cleanup(func() {
		closeHost(t, h)
		if left, err := os.ReadDir(filepath.Join(dir, "qemu")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	here := newGround(t, h)
	root := func(ctx context.Context, args ...string) error {
		_, err := h.Exec().Run(ctx, provisioner.Command{Args: args})
		return err
	}

	t.Run("two runs at once", func(t *testing.T) {
		g := NewWithT(t)
		err := <-ended
		told, _ := os.ReadFile(said.Name())
		g.Expect(err).NotTo(HaveOccurred(), string(told))
		t.Logf("the other run:\n%s", told)
		g.Expect(processes(t, dir)).To(HaveLen(1), "the other's machine went with it, and this one stayed")
		g.Expect(qemu.Leftovers(dir)).To(BeEmpty())
		comesToItsBaseline(g, here.run(t, "first")[0])
	})
	t.Run("a full disk", func(t *testing.T) {
		filler := filepath.Join(filepath.Dir(qemu.PoolDir), "filler")
		fullPool(t, here, func(ctx context.Context, bytes int64) error {
			return root(ctx, "fallocate", "--length", strconv.FormatInt(bytes, 10), filler)
		}, func() error { return root(t.Context(), "rm", filler) })
	})
	t.Run("the daemon restarts", func(t *testing.T) {
		daemonRestarts(t, here, func(ctx context.Context) error { return root(ctx, "sh", "-c", killDaemon) })
	})
	t.Run("QEMU is killed while a cell runs", func(t *testing.T) {
		g := NewWithT(t)
		here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error {
			return whileItSleeps(ctx, node, func(context.Context) error { return syscall.Kill(processes(t, dir)[0].PID, syscall.SIGKILL) })
		}
		results := here.run(t, "first", "second")
		blockedIn(g, results[0], matrix.PhaseInstall)
		blockedIn(g, results[1], matrix.PhaseCreate)
		for _, r := range results {
			g.Expect(r.Judgement.Reason).To(And(ContainSubstring("host here ended while its cells ran"), ContainSubstring("killed"),
				ContainSubstring("the machine's console ends:")))
		}
		g.Expect(processes(t, dir)).To(BeEmpty())
	})
}

// runBeside takes a cell through a machine of its own, and ends no earlier than
// the other run has one, too.
func runBeside(t *testing.T, dir string) {
	g := NewWithT(t)
	h := openMachine(t, dir)
	t.Cleanup(func() { closeHost(t, h) })
	comesToItsBaseline(g, newGround(t, h).run(t, "beside")[0])
	g.Eventually(func() []pidfile.Process { return processes(t, dir) }).WithTimeout(10 * time.Minute).WithPolling(100 * time.Millisecond).Should(HaveLen(2))
}
