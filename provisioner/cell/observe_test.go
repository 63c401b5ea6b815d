package cell

import (
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

	f, _ = nodeFacts("firewalld=masked\nselinux=1\nnetworkManager=\n")
	g.Expect(f.Firewalld).To(HaveValue(BeFalse()))
	g.Expect(f.NetworkManager).To(BeNil())
	g.Expect(f.SELinux).To(Equal("enforcing"))
	f, _ = nodeFacts("selinux=\n")
	g.Expect(f.SELinux).To(BeEmpty())
}
