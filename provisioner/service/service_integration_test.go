//go:build integration

package service

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// patience is for what takes seconds on a machine that has nothing else to do.
const patience = 15 * time.Minute

// standIn answers in a node as an API server and as a workload's node port do.
const standIn = `defaults
	mode http
	timeout connect 1s
	timeout client 10s
	timeout server 10s
frontend api
	bind *:6443 ssl crt /etc/stand-in.pem
	http-request return status 200
frontend workload
	bind *:30180
	http-request return status 200
`

// TestAround: services around a real node, that restarts, and in which something
// stands for Kubernetes.
func TestAround(t *testing.T) {
	g := NewWithT(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, engine := open(t)
	ca, pair := certificate(t)
	command := []string{"/usr/sbin/haproxy", "-db", "-f", "/etc/stand-in.cfg"}
	stands, err := engine.Start(ctx, containers.Spec{Name: "node", Command: command, Ports: []int{apiPort, nodePort},
		Files: []provisioner.File{{Path: "/etc/stand-in.cfg", Content: standIn}, {Path: "/etc/stand-in.pem", Content: pair}}})
	g.Expect(err).NotTo(HaveOccurred())
	node := h.Server.Instance(stands.Name(), stands.Address())
	cluster := &provisioner.Cluster{Host: h, Nodes: []provisioner.Node{node}, Kubeconfig: kubeconfig(ca)}

	s, evidence, err := Start(ctx, func(context.Context, string) (containers.Engine, error) { return engine, nil },
		[]matrix.Service{matrix.ServiceHAProxy, matrix.ServiceRegistry}, "svc", 1, cluster.Nodes)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(evidence).To(HaveExactElements(HaveField("Saw", HavePrefix("started in incus as svc-haproxy at ")), HaveField("Saw", HavePrefix("started in incus as svc-registry at "))))
	removed := false
	remove := func() {
		if !removed {
			removed = true
			removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
			defer cancel()
			g.Expect(s.Remove(removing)).To(Succeed())
		}
	}
	defer remove()
	of := func(all []matrix.Evidence, check string) (some []matrix.Evidence) {
		for _, e := range all {
			if e.Check == check {
				some = append(some, e)
			}
		}
		return some
	}

	steady := s.Steady(ctx, cluster)
	g.Expect(of(steady, "haproxy")).To(And(HaveLen(2), HaveEach(HaveField("Outcome", matrix.Healthy))))
	// The node has no container runtime to pull with.
	g.Expect(of(steady, "registry")).To(HaveExactElements(HaveField("Outcome", matrix.Unhealthy)))

	// A restart that was none.
	g.Expect(s.Watch(ctx, cluster)).To(Succeed())
	all, traffic := s.Seen(ctx, cluster, true)
	g.Expect(of(all, "haproxy-down")).To(And(HaveLen(2), HaveEach(HaveField("Outcome", matrix.Unhealthy))))
	g.Expect(traffic).To(HaveLen(2))

	// One that was.
	g.Expect(s.Watch(ctx, cluster)).To(Succeed())
	g.Expect(node.ForceRestart(ctx)).To(Succeed())
	haproxy, ok := s.running[0].(*balancer)
	g.Expect(ok).To(BeTrue())
	states, err := haproxy.proxy.Await(ctx, func(states []containers.ServerState) bool {
		return !slices.ContainsFunc(states, func(s containers.ServerState) bool { return s.Status != "DOWN" })
	})
	g.Expect(err).NotTo(HaveOccurred(), "%v", states)
	_, err = node.Exec(ctx, provisioner.Command{Args: append([]string{"sh", "-ec", `until systemctl is-system-running --wait | grep -qE 'running|degraded'; do sleep 0.1; done
systemd-run --quiet --unit=stand-in -- "$@"`, "again"}, command...)})
	g.Expect(err).NotTo(HaveOccurred())
	all, traffic = s.Seen(ctx, cluster, true)
	g.Expect(of(all, "haproxy")).To(And(HaveLen(2), HaveEach(HaveField("Outcome", matrix.Healthy))))
	g.Expect(of(all, "haproxy-down")).To(And(HaveLen(2), HaveEach(HaveField("Outcome", matrix.Healthy))))
	g.Expect(traffic).To(HaveLen(2))
	for _, e := range all {
		t.Log(e)
	}

	remove()
	left, err := h.Server.Owned(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(HaveExactElements(HaveField("Name", "node")))
}

// open opens an embedded host that is gone when the test ends, and its engine.
func open(t *testing.T) (*host.Host, containers.Engine) {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // paths of sockets below it must fit 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 6 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(h.Close(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	known, err := image.LoadOS(fixtures.OS())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(known, func(o image.OS) bool { return o.Name == containers.BaseOS })
	return h, containers.OpenIncus(h, h.Server, containers.RootFS{Base: known[i].Mmdebstrap.Root(), CacheDir: cache}, map[string]string{"kind": "service"})
}

// certificate is one of an API server's, which is its own authority: alone, and
// with its key.
func certificate(t *testing.T) (ca, pair string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{apiName}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca, ca + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func kubeconfig(ca string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "https://x:6443", certificate-authority-data: %s}}]
users: [{name: x, user: {token: x}}]
`, base64.StdEncoding.EncodeToString([]byte(ca)))
}
