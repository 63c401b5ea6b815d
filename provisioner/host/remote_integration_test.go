//go:build integration

package host_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// elsewhere is an Incus daemon that is reached over HTTPS on loopback: the one
// of an embedded host, which stays open beside.
type elsewhere struct {
	t   *testing.T
	dir string
	// own is the daemon's embedded host.
	own *host.Host
	url string
}

func openElsewhere(t *testing.T) elsewhere {
	t.Helper()
	e := elsewhere{t: t, dir: state(t)}
	e.own = open(t, e.dir)
	t.Cleanup(func() {
		closeHost(t, e.own)
		if what := left(t, e.dir); len(what) > 0 {
			t.Errorf("left behind: %q", what)
		}
	})
	address := freeAddress(t)
	e.incus("config", "set", "core.https_address", address)
	e.url = "https://" + address
	return e
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	var l net.ListenConfig
	listener, err := l.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// incus runs Incus' own client on the daemon's machine.
func (e elsewhere) incus(args ...string) {
	e.t.Helper()
	cmd := exec.CommandContext(e.t.Context(), "incus", args...)
	cmd.Env = append(os.Environ(), "INCUS_DIR="+filepath.Join(e.dir, "incus"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("incus %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// fingerprint is that of the certificate that the daemon shows.
func (e elsewhere) fingerprint() string {
	e.t.Helper()
	name := "server.crt"
	if _, err := os.Stat(filepath.Join(e.dir, "incus", "cluster.crt")); err == nil {
		name = "cluster.crt"
	}
	content, err := os.ReadFile(filepath.Join(e.dir, "incus", name))
	if err != nil {
		e.t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// user is a folder of an Incus client's configuration, with a certificate, that
// this test uses as the user's own.
func user(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	t.Setenv("INCUS_CONF", folder)
	if out, err := exec.CommandContext(t.Context(), "incus", "remote", "generate-certificate").CombinedOutput(); err != nil {
		t.Fatalf("make a client certificate: %v\n%s", err, out)
	}
	return folder
}

// TestRemote takes a server elsewhere through all that cells need of it.
func TestRemote(t *testing.T) {
	e := openElsewhere(t)
	folder := user(t)
	ref := matrix.RemoteRef{URL: e.url, Fingerprint: e.fingerprint()}

	t.Run("a client that is not trusted", func(t *testing.T) {
		g := NewWithT(t)
		_, err := host.OpenRemote(t.Context(), ref, false)
		var untrusted *incus.UntrustedError
		g.Expect(errors.As(err, &untrusted)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring("incus config trust add-certificate")))
	})
	e.incus("config", "trust", "add-certificate", filepath.Join(folder, "client.crt"))

	t.Run("another certificate", func(t *testing.T) {
		g := NewWithT(t)
		wrong := ref
		wrong.Fingerprint = strings.Repeat("0", 64)
		_, err := host.OpenRemote(t.Context(), wrong, false)
		g.Expect(err).To(MatchError(And(ContainSubstring(wrong.Fingerprint), ContainSubstring(ref.Fingerprint))))
	})
	t.Run("by name", func(t *testing.T) {
		g := NewWithT(t)
		_, err := host.OpenRemote(t.Context(), matrix.RemoteRef{Name: "lab"}, false)
		var unknown *incus.UnknownRemoteError
		g.Expect(errors.As(err, &unknown)).To(BeTrue(), "%v", err)
		add := exec.CommandContext(t.Context(), "incus", "remote", "add", "lab", e.url, "--accept-certificate")
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("add the remote: %v\n%s", err, out)
		}
		h, err := host.OpenRemote(t.Context(), matrix.RemoteRef{Name: "lab"}, false)
		g.Expect(err).NotTo(HaveOccurred())
		closeHost(t, h)
	})
	t.Run("with a certificate that is named", func(t *testing.T) {
		g := NewWithT(t)
		named := ref
		named.ClientCert, named.ClientKey = filepath.Join(folder, "client.crt"), filepath.Join(folder, "client.key")
		t.Setenv("INCUS_CONF", t.TempDir())
		_, err := host.OpenRemote(t.Context(), ref, false)
		g.Expect(err).To(MatchError(os.ErrNotExist), "the user has none")
		h, err := host.OpenRemote(t.Context(), named, false)
		g.Expect(err).NotTo(HaveOccurred())
		closeHost(t, h)
	})
	t.Run("no cluster", func(t *testing.T) {
		g := NewWithT(t)
		members, err := host.Members(t.Context(), ref)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(members).To(BeEmpty())
	})
	t.Run("a node", func(t *testing.T) {
		g := NewWithT(t)
		h, err := host.OpenRemote(t.Context(), ref, true)
		g.Expect(err).NotTo(HaveOccurred())
		defer closeHost(t, h)
		g.Expect(h.Exec()).To(BeNil())
		works(t, h, "remote")
	})

	// The server's certificate is the cluster's from here on.
	e.incus("cluster", "enable", "one")
	t.Run("a certificate that is no longer the server's", func(t *testing.T) {
		g := NewWithT(t)
		_, err := host.Members(t.Context(), ref)
		var other *incus.CertificateError
		g.Expect(errors.As(err, &other)).To(BeTrue(), "%v", err)
		g.Expect(other.Shown).To(Equal(e.fingerprint()))
	})
	ref.Fingerprint = e.fingerprint()
	t.Run("a member of a cluster", func(t *testing.T) {
		g := NewWithT(t)
		members, err := host.Members(t.Context(), ref)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(members).To(Equal([]string{"one"}))
		member := ref
		member.Member = "one"
		h, err := host.OpenRemote(t.Context(), member, false)
		g.Expect(err).NotTo(HaveOccurred())
		defer closeHost(t, h)
		works(t, h, "member")

		for _, none := range []string{"", "two"} {
			member.Member = none
			_, err = host.OpenRemote(t.Context(), member, false)
			g.Expect(err).To(MatchError(ContainSubstring("it is none that is online: one")))
		}
	})
}

// works makes a node on a host that is reached through its Incus server alone,
// runs a command in it, talks to what listens in it, and removes it.
func works(t *testing.T, h *host.Host, name string) {
	t.Helper()
	g := NewWithT(t)
	image := tinyimage.Import(t, h.Server, name, "sh", "uname", "stat", "sed", "cat", "grep", "nproc", "tr", "ip")
	owner := map[string]string{"kind": "node", "run": "test"}

	here, err := host.ThisMachine(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	facts, err := h.Facts(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(facts).To(And(HaveField("Kernel", here.Kernel), HaveField("Incus", Not(BeEmpty())), HaveField("LXC", Not(BeEmpty())),
		HaveField("Storage", "dir"), HaveField("CPUs", here.CPUs), HaveField("CPULevel", here.CPULevel),
		HaveField("MemoryBytes", BeNumerically("~", here.MemoryBytes, here.MemoryBytes/10)), HaveField("MemoryFreeBytes", HaveValue(BeNumerically(">", 0))),
		HaveField("DiskFreeBytes", HaveValue(BeNumerically(">", 0)))))
	g.Expect(facts).To(And(HaveField("Cgroup", ""), HaveField("Capabilities", BeNil()), HaveField("AppArmor", BeNil()),
		HaveField("SELinux", BeNil()), HaveField("Controllers", BeNil()), HaveField("Sysctls", BeNil())), "the server does not say")
	facts, err = h.FactsFrom(t.Context(), facts, image.Fingerprint, owner)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(facts).To(And(HaveField("Cgroup", here.Cgroup), HaveField("CgroupCPUSplit", here.CgroupCPUSplit), HaveField("Controllers", here.Controllers),
		HaveField("Capabilities", here.Capabilities), HaveField("AppArmor", here.AppArmor), HaveField("SELinux", here.SELinux)))
	g.Expect(facts.Sysctls).To(And(HaveKeyWithValue("kernel.panic", here.Sysctls["kernel.panic"]), HaveKey("vm.overcommit_memory")))

	node, err := h.CreateNode(t.Context(), spec(name+"-node", image))
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { g.Expect(node.Delete(context.WithoutCancel(t.Context()))).To(Succeed()) }()
	out, err := node.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "cat"}, Stdin: strings.NewReader("what is said")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out.Stdout).To(Equal("what is said"))

	for _, args := range [][]string{{"/bin/ip", "address", "add", node.Address() + "/24", "dev", "eth0"}, {"/bin/ip", "link", "set", "lo", "up"}, {"/bin/ip", "link", "set", "eth0", "up"}} {
		_, err := node.Exec(t.Context(), provisioner.Command{Args: args})
		g.Expect(err).NotTo(HaveOccurred())
	}
	listening, end := context.WithCancel(t.Context())
	defer end()
	go func() {
		_, _ = node.Exec(listening, provisioner.Command{Args: []string{"/sbin/init", "answer", "0.0.0.0:8080"}})
	}()
	g.Eventually(func() (string, error) { return say(t, h, node.Name(), 8080) }).WithTimeout(time.Minute).Should(Equal("hello\ngoodbye\n"))
	_, err = say(t, h, node.Name(), 8081)
	g.Expect(err).To(MatchError(And(ContainSubstring(fmt.Sprintf("dial %s:8081", node.Address())), ContainSubstring("connection refused"))))
	_, err = h.Dial(t.Context(), "nobody", 80)
	g.Expect(err).To(MatchError(ContainSubstring("the host has no such node")))

	g.Expect(node.ForceRestart(t.Context())).To(Succeed())
	g.Expect(node.Delete(t.Context())).To(Succeed())
	owned, err := h.Server.Owned(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owned).To(BeEmpty())
}

// say says hello to what listens in a node, and returns its answer.
func say(t *testing.T, h *host.Host, node string, port int) (string, error) {
	t.Helper()
	conn, err := h.Dial(t.Context(), node, port)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return "", err
	}
	var answer strings.Builder
	_, err = bufio.NewReader(conn).WriteTo(&answer)
	return answer.String(), err
}
