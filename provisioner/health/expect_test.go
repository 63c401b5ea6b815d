package health

import (
	"context"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func TestExpected(t *testing.T) {
	g := NewWithT(t)
	of := func(distro string, variants ...string) expectations {
		e, err := expected(matrix.Cell{Distro: matrix.Distro{Name: distro}, Variants: variants})
		g.Expect(err).NotTo(HaveOccurred())
		return e
	}
	g.Expect(of("kubeadm").staticPods).To(ContainElement("etcd"))
	g.Expect(of("k3s").staticPods).To(BeEmpty())
	g.Expect(of("rke2").staticPods).To(ContainElements("etcd", "cloud-controller-manager"))
	g.Expect(of("rke2", "bridge", "sqlite").staticPods).NotTo(ContainElement("etcd"))
	for _, distro := range []string{"k3s", "rke2"} {
		g.Expect(of(distro).serverTaints).To(BeEmpty(), "pods run on its servers")
		g.Expect(of(distro).pki).To(Equal("/var/lib/rancher/" + distro))
	}
	_, err := expected(matrix.Cell{Distro: matrix.Distro{Name: "k0s"}})
	g.Expect(err).To(MatchError(ContainSubstring("k0s")))
}

// loopbackNode is a node of which only the answer to a command exists.
type loopbackNode struct {
	provisioner.Node
	answer func() (provisioner.Output, error)
	args   []string
}

func (n *loopbackNode) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	n.args = cmd.Args
	return n.answer()
}

// TestProxyHealthOnTheLoopback: where kube-proxy's health server is on the
// loopback alone the node itself asks it.
func TestProxyHealthOnTheLoopback(t *testing.T) {
	g := NewWithT(t)
	answer := "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"
	node := &loopbackNode{answer: func() (provisioner.Output, error) { return provisioner.Output{Stdout: answer}, nil }}
	got, err := getLoopback(t.Context(), node, 10256, "/healthz")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.status).To(Equal("200 OK"))
	g.Expect(node.args[:2]).To(Equal([]string{"bash", "-c"}))
	g.Expect(node.args[3:]).To(Equal([]string{"get", "10256", "/healthz"}))
	answer = "HTTP/1.0 503 Service Unavailable\r\n\r\n"
	got, err = getLoopback(t.Context(), node, 10256, "/healthz")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(got.status).To(HavePrefix("503"))
	refused := &provisioner.CommandError{Node: "s1", Command: []string{"bash"}, Output: provisioner.Output{ExitCode: 1, Stderr: "Connection refused"}}
	node.answer = func() (provisioner.Output, error) { return refused.Output, refused }
	_, err = getLoopback(t.Context(), node, 10256, "/healthz")
	g.Expect(err).To(MatchError(ContainSubstring("Connection refused")))
	g.Expect(isBlind(err)).To(BeFalse())
}
