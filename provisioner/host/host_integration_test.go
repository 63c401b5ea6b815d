//go:build integration

package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// crashVariable makes the test binary a run that opens an embedded host and
// ends without closing it.
const crashVariable = "HOST_TEST_CRASH"

func TestMain(m *testing.M) {
	dir := os.Getenv(crashVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := host.OpenEmbedded(context.Background(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 1 << 30}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// crash is a run that leaves its daemon behind.
func crash(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashVariable+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("open and crash: %v\n%s", err, out)
	}
}

// TestCrashedRun: the daemon of a run that crashed is taken over, also where the
// run had not come to record it, and one that was killed as well is replaced; either
// is gone in the end.
func TestCrashedRun(t *testing.T) {
	for name, tc := range map[string]struct{ killed, unrecorded bool }{
		"daemon lives": {}, "daemon is not recorded": {unrecorded: true}, "daemon is killed": {killed: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			dir := state(t)
			crash(t, dir)
			daemon := pid(t, dir)
			if tc.killed {
				g.Expect(syscall.Kill(daemon, syscall.SIGKILL)).To(Succeed())
			}
			if tc.unrecorded {
				g.Expect(os.Remove(filepath.Join(dir, "incusd.pid"))).To(Succeed())
			}
			h := open(t, dir)
			g.Expect(host.Daemon(dir)).To(Equal(pid(t, dir)))
			if tc.killed {
				g.Expect(pid(t, dir)).NotTo(Equal(daemon))
			} else {
				g.Expect(pid(t, dir)).To(Equal(daemon))
			}
			closeHost(t, h)
			g.Expect(host.Daemon(dir)).To(BeZero())
			g.Expect(left(t, dir)).To(BeEmpty())
		})
	}
}

// state is a short folder: paths of sockets below it must fit 107 bytes.
func state(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // the paths of its sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func open(t *testing.T, dir string) *host.Host {
	t.Helper()
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func closeHost(t *testing.T, h *host.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
}

// left is what of an embedded host is still on this machine.
func left(t *testing.T, dir string) (what []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			what = append(what, "mount "+strings.TrimSpace(line))
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		command, err := os.ReadFile(p)
		if err == nil && bytes.Contains(command, []byte(dir)) {
			what = append(what, "process "+filepath.Base(filepath.Dir(p))+" "+string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Name == host.BridgeName(dir) {
			what = append(what, "bridge "+i.Name)
		}
	}
	return what
}

func pid(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "incusd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var id int
	if _, err := fmt.Sscan(string(text), &id); err != nil {
		t.Fatal(err)
	}
	return id
}

func spec(name string, image incus.Image) provisioner.NodeSpec {
	return provisioner.NodeSpec{Name: name, Image: image.Fingerprint, Owner: map[string]string{"kind": "node", "run": "test"},
		Limits: matrix.NodeLimits{MemoryBytes: 256 << 20, Processes: 200},
		Incus:  provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true"}}}
}

// TestEmbedded takes an embedded host through its whole life, a crash of its
// daemon included.
func TestEmbedded(t *testing.T) {
	g := NewWithT(t)
	dir := state(t)
	h := open(t, dir)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		// Leave nothing behind, whatever went wrong.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		_ = h.Close(ctx)
	})
	_, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 1 << 30})
	var inUse *host.InUseError
	g.Expect(errors.As(err, &inUse)).To(BeTrue(), "%v", err)

	facts, err := h.Facts(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(facts).To(And(HaveField("Storage", "dir"), HaveField("Incus", Not(BeEmpty())), HaveField("LXC", Not(BeEmpty())),
		HaveField("Kernel", Not(BeEmpty())), HaveField("Cgroup", BeElementOf("v1", "v2")), HaveField("CPUs", BeNumerically(">", 0)), HaveField("Capabilities", Not(BeNil())), HaveField("AppArmor", Not(BeNil())),
		HaveField("DiskFreeBytes", HaveValue(BeNumerically("~", 900<<20, 100<<20))), HaveField("MemoryFreeBytes", HaveValue(BeNumerically(">", 0)))))

	image := tinyimage.Import(t, h.Server, "tiny")
	reserved, err := h.Reserve(t.Context(), "one")
	g.Expect(err).NotTo(HaveOccurred())
	node, err := h.CreateNode(t.Context(), spec("one", image))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(node.Address()).To(Equal(reserved))
	owned, err := h.Server.Owned(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owned).To(HaveLen(1))
	g.Expect(owned[0]).To(And(HaveField("Running", true), HaveField("Owner", Equal(map[string]string{"kind": "node", "run": "test"}))))

	// More than any buffer on the way, on both outputs, and the exit code.
	const much = 3 << 20
	out, err := node.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "emit", fmt.Sprint(much), "7"}})
	var failed *provisioner.CommandError
	g.Expect(errors.As(err, &failed)).To(BeTrue(), "%v", err)
	g.Expect(out.ExitCode).To(Equal(7))
	g.Expect(out.Stdout).To(Equal(strings.Repeat("o", much)), "%d bytes of stdout", len(out.Stdout))
	g.Expect(out.Stderr).To(Equal(strings.Repeat("e", much)), "%d bytes of stderr", len(out.Stderr))
	out, err = node.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "cat"}, Stdin: strings.NewReader("what is said")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out.Stdout).To(Equal("what is said"))

	g.Expect(node.Push(t.Context(), provisioner.File{Path: "/var/some/folder/file", Content: "first and long", Mode: 0o600})).To(Succeed())
	g.Expect(node.Push(t.Context(), provisioner.File{Path: "/var/some/folder/file", Content: "second"})).To(Succeed())
	content, err := node.Pull(t.Context(), "/var/some/folder/file")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal("second"))
	_, err = node.Pull(t.Context(), "/var/none")
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	_, err = node.Pull(t.Context(), "/var/some")
	g.Expect(err).To(MatchError(ContainSubstring("folder")))

	console, err := node.Console(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(console).To(And(ContainSubstring("the test's init has started"), ContainSubstring("--- lxc.log")))

	boot := func() string {
		out, err := node.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "boot"}})
		g.Expect(err).NotTo(HaveOccurred())
		return out.Stdout
	}
	boots := map[string]bool{boot(): true}
	restart, cancel := context.WithTimeout(t.Context(), time.Minute)
	g.Expect(node.Restart(restart)).To(Succeed())
	cancel()
	boots[boot()] = true
	g.Expect(node.ForceRestart(t.Context())).To(Succeed())
	boots[boot()] = true
	g.Expect(boots).To(HaveLen(3))
	content, err = node.Pull(t.Context(), "/var/some/folder/file")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal("second"), "files stay over restarts")

	// A daemon that is killed leaves its nodes; the next one has them.
	killed := pid(t, dir)
	g.Expect(syscall.Kill(killed, syscall.SIGKILL)).To(Succeed())
	began := time.Now()
	closeHost(t, h)
	t.Logf("closed %s after the daemon was killed", time.Since(began).Round(time.Millisecond))
	g.Expect(left(t, dir)).To(BeEmpty())

	h = open(t, dir)
	g.Expect(pid(t, dir)).NotTo(Equal(killed))
	_, found, err := h.Server.Image(t.Context(), "tiny")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(BeTrue(), "images stay")
	owned, err = h.Server.Owned(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owned).To(HaveLen(1), "nodes stay until they are deleted")
	node, err = h.CreateNode(t.Context(), spec("two", image))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(node.Address()).NotTo(Equal(reserved), "an address that a node of before has is not given out")
	g.Expect(node.Delete(t.Context())).To(Succeed())
	g.Expect(node.Delete(t.Context())).To(Succeed(), "deleting twice is no error")
	g.Expect(h.Server.Instance("one", "").Delete(t.Context())).To(Succeed())
	closeHost(t, h)
	g.Expect(left(t, dir)).To(BeEmpty())
}

// TestClosedWhileNodesStart: nodes that are just being created or started,
// with nobody to wait for them, go with the host.
func TestClosedWhileNodesStart(t *testing.T) {
	g := NewWithT(t)
	dir := state(t)
	for _, after := range []time.Duration{60 * time.Millisecond, 120 * time.Millisecond, 250 * time.Millisecond} {
		h := open(t, dir)
		image, found, err := h.Server.Image(t.Context(), "tiny")
		g.Expect(err).NotTo(HaveOccurred())
		if !found {
			image = tinyimage.Import(t, h.Server, "tiny")
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		var wait sync.WaitGroup
		for n := range 3 {
			wait.Go(func() { _, _ = h.CreateNode(ctx, spec(fmt.Sprintf("n%d-%d", n, after.Milliseconds()), image)) })
		}
		wait.Wait()
		cancel()
		began := time.Now()
		closeHost(t, h)
		t.Logf("closed in %s", time.Since(began).Round(time.Millisecond))
		g.Expect(left(t, dir)).To(BeEmpty())
	}
}
