package cell

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

// TestNodeFacts: what a node did not show is not known, and never false.
func TestNodeFacts(t *testing.T) {
	const el = `kernel=6.12.0
cgroup=cgroup2fs
id=almalinux
version=10.1
systemd=systemd 257 (257-13.el10)
networkManager=loaded
firewalld=not-found
selinux=none
readonly=vm.overcommit_memory kernel.panic
containerd=containerd github.com/containerd/containerd/v2 v2.4.2
runc=runc version 1.5.2
kubernetes=Kubernetes v1.36.3
boot=0123
`
	g := NewWithT(t)
	f, boot := nodeFacts(el)
	g.Expect(boot).To(Equal("0123"))
	g.Expect(f.OSID + " " + f.OSVersion).To(Equal("almalinux 10.1"))
	g.Expect(f.Systemd + " " + f.Containerd + " " + f.Runc + " " + f.Kubernetes).To(Equal("257 2.4.2 1.5.2 1.36.3"))
	g.Expect(f.Cgroup).To(Equal("v2"))
	g.Expect(f.NetworkManager).To(HaveValue(BeTrue()))
	g.Expect(f.Firewalld).To(HaveValue(BeFalse()))
	g.Expect(f.SELinux).To(Equal("disabled"))
	g.Expect(f.ReadOnlySysctls).To(Equal([]string{"vm.overcommit_memory", "kernel.panic"}))

	f, _ = nodeFacts("firewalld=masked\nselinux=1\nnetworkManager=\n")
	g.Expect(f.Firewalld).To(HaveValue(BeFalse()))
	g.Expect(f.NetworkManager).To(BeNil())
	g.Expect(f.SELinux).To(Equal("enforcing"))
	g.Expect(f.ReadOnlySysctls).To(BeNil())
	f, _ = nodeFacts("selinux=\nreadonly=\n")
	g.Expect(f.SELinux).To(BeEmpty())
	g.Expect(f.ReadOnlySysctls).To(And(BeEmpty(), Not(BeNil())))
}

// TestBootState: units that are not waited for are told once nothing else is
// being started.
func TestBootState(t *testing.T) {
	const own, other, target = "123 rke2-server.service start running\n", "  7 ssh.service start running\n", " 99 multi-user.target start waiting\n"
	for name, c := range map[string]struct{ state, jobs, failed, want string }{
		"running":             {"running", "", "", "running\n"},
		"all else is there":   {"starting", own + target, "", "awaiting rke2-server.service\n"},
		"not all else is":     {"starting", own + other + target, "", "starting\n"},
		"nothing of its own":  {"starting", other + target, "", "starting\n"},
		"no job is left":      {"starting", "", "", "starting\n"},
		"a unit failed":       {"starting", own, "a.service loaded failed failed A\n", "awaiting rke2-server.service\na.service loaded failed failed A\n"},
		"it is not there yet": {"initializing", own, "", "initializing\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			dir := t.TempDir()
			g.Expect(os.WriteFile(filepath.Join(dir, "systemctl"), []byte(`#!/bin/sh
case "$*" in
is-system-running*) echo "$STATE" ;;
list-jobs*) printf '%s' "$JOBS" ;;
--failed*) printf '%s' "$FAILED" ;;
esac
`), 0o755)).To(Succeed())
			cmd := exec.CommandContext(t.Context(), "sh", "-c", bootState, "boot", "rke2-server.service")
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "STATE="+c.state, "JOBS="+c.jobs, "FAILED="+c.failed)
			out, err := cmd.Output()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(out)).To(Equal(c.want))
		})
	}
}
