//go:build integration

package compat_test

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
)

// TestEmulatedHost takes a real cell through all its phases in a virtual
// machine of ours under software emulation: on the machine's kernel and cgroup
// mode, not on this one's, and nothing of it is left afterwards.
func TestEmulatedHost(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	before := machines(t)
	result := attempt(t, root, "emulated.yaml")
	g.Expect(result.Judgement.Verdict).To(Equal(matrix.Pass), result.Judgement.Reason)
	last, ok := result.Last()
	g.Expect(ok).To(BeTrue())

	var here unix.Utsname
	g.Expect(unix.Uname(&here)).To(Succeed())
	g.Expect(last.Host.Kernel).To(And(HavePrefix("6.12."), Not(Equal(unix.ByteSliceToString(here.Release[:])))))
	g.Expect(last.Host.Cgroup).To(Equal("v2"))
	g.Expect(last.Nodes).To(HaveLen(1))
	g.Expect(last.Nodes[0].Kernel).To(Equal(last.Host.Kernel))
	g.Expect(last.Nodes[0].Cgroup).To(Equal("v2"))
	g.Expect(last.Nodes[0].BootIDs).To(HaveLen(3), "two restarts")

	consoles, err := filepath.Glob(filepath.Join(root, "*", "hosts", "k6.12-v2", "console.log"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(consoles).To(HaveLen(1))
	console, err := os.ReadFile(consoles[0])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(console)).To(ContainSubstring("Linux version " + last.Host.Kernel))
	g.Expect(machines(t)).To(ConsistOf(before), "the machine ends with its run")
}

// machines are those that are there, of whichever run: one that crashed earlier
// leaves its own until somebody cleans up.
func machines(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(host.StateDir(), "qemu", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}
