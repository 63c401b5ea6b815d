package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/flannel"
)

// fakeNode is a node of which only files and the answers to commands exist.
type fakeNode struct {
	provisioner.Lifecycle
	name, address string
	// answer is the output of commands that begin with it; an error ends them.
	answers map[string]string
	fails   map[string]error

	mu       sync.Mutex
	files    map[string]provisioner.File
	commands []string
	// hosts are the lines that were added to /etc/hosts.
	hosts []string
}

const certificateKey = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"

func newNode(name, address string) *fakeNode {
	return &fakeNode{name: name, address: address, files: map[string]provisioner.File{}, fails: map[string]error{}, answers: map[string]string{
		"containerd --version":            "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1\n",
		"kubeadm token create":            "kubeadm join 10.0.0.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:" + strings.Repeat("ab", 32) + "\n",
		"kubeadm init phase upload-certs": "[upload-certs] Storing the certificates in Secret \"kubeadm-certs\"\n[upload-certs] Using certificate key:\n" + certificateKey + "\n",
	}}
}

func (n *fakeNode) Name() string    { return n.name }
func (n *fakeNode) Address() string { return n.address }

func (n *fakeNode) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	line := strings.Join(cmd.Args, " ")
	n.commands = append(n.commands, line)
	for prefix, err := range n.fails {
		if strings.HasPrefix(line, prefix) {
			return provisioner.Output{}, err
		}
	}
	// The API says which pods a node has, by the number in its name.
	if strings.HasPrefix(line, "sh -ec n=0; until kubectl") {
		return provisioner.Output{Stdout: map[string]string{"s1": "10.244.0.0/24", "a1": "10.244.1.0/24", "a2": "10.244.2.0/24"}[cmd.Args[len(cmd.Args)-1]] + "\n"}, nil
	}
	if i := slices.Index(cmd.Args, "hosts"); i >= 0 {
		n.hosts = append(n.hosts, cmd.Args[i+1:]...)
	}
	for prefix, out := range n.answers {
		if strings.HasPrefix(line, prefix) {
			return provisioner.Output{Stdout: out}, nil
		}
	}
	return provisioner.Output{}, nil
}

func (n *fakeNode) Push(_ context.Context, f provisioner.File) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.files[f.Path] = f
	return n.fails["push "+f.Path]
}

func (n *fakeNode) Pull(_ context.Context, path string) ([]byte, error) {
	if path == AdminConf {
		return []byte("kubeconfig"), nil
	}
	return nil, fs.ErrNotExist
}

func desired() provisioner.Desired {
	return provisioner.Desired{
		NodeIP:                "10.0.0.10",
		IgnorePreflightErrors: []string{"Swap", "SystemVerification"},
		Kubelet: map[string]any{"cgroupDriver": "systemd", "failSwapOn": false,
			"evictionHard": map[string]any{"nodefs.available": "1%"}},
		KubeProxy:  map[string]any{"conntrack": map[string]any{"maxPerCore": 0}},
		Containerd: provisioner.ContainerdSettings{CRI: map[string]any{"restrict_oom_score_adj": true}, Runc: map[string]any{"SystemdCgroup": true}},
	}
}

const pause = "registry.k8s.io/pause:3.10.1"

func distro() *Distro {
	return &Distro{Version: "1.34.4", PauseImage: pause, Servers: 1, Timeout: 5 * time.Minute}
}

func TestInit(t *testing.T) {
	g := NewWithT(t)
	node, want := newNode("s1", "10.0.0.10"), desired()
	g.Expect(distro().Configure(t.Context(), node, want)).To(Succeed())
	g.Expect(node.commands).To(Equal([]string{"containerd --version", "systemctl restart containerd"}))
	kubeconfig, err := distro().Init(t.Context(), node, want)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(kubeconfig)).To(Equal("kubeconfig"))
	g.Expect(node.commands[2:]).To(Equal([]string{"kubeadm init --config /etc/lxcmatrix/kubeadm.yaml --skip-token-print --ignore-preflight-errors=Swap,SystemVerification"}))
	g.Expect(slices.Sorted(maps.Keys(node.files))).To(Equal([]string{bridge.ConflistPath, "/etc/containerd/config.toml", configPath}))
	g.Expect(node.files[configPath].Mode).To(BeEquivalentTo(0o600), "a join's holds a token")
	golden.Assert(t, node.files[configPath].Content, "init.yaml")
	golden.Assert(t, node.files["/etc/containerd/config.toml"].Content, "config-v2.toml")
	golden.Assert(t, node.files[bridge.ConflistPath].Content, "conflist.json")
	parses(t, node.files[configPath].Content, 4)
	parses(t, node.files[bridge.ConflistPath].Content, 1)
}

// parses reads every document of a file strictly.
func parses(t *testing.T, text string, want int) {
	t.Helper()
	n := 0
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		n++
		var v map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc), &v); err != nil {
			t.Errorf("%v in\n%s", err, doc)
		}
	}
	if n != want {
		t.Errorf("it holds %d documents, want %d", n, want)
	}
}

func TestJoin(t *testing.T) {
	g := NewWithT(t)
	first, second, node, want := newNode("s1", "10.0.0.10"), newNode("a1", "10.0.0.11"), newNode("a2", "10.0.0.12"), desired()
	want.NodeIP = "10.0.0.12"
	g.Expect(distro().Configure(t.Context(), node, want)).To(Succeed())
	g.Expect(distro().Join(t.Context(), []provisioner.Node{first, second}, node, matrix.RoleAgent, want)).To(Succeed())
	golden.Assert(t, node.files[configPath].Content, "join.yaml")
	parses(t, node.files[configPath].Content, 1)
	g.Expect(node.commands).To(ContainElement("kubeadm join --config /etc/lxcmatrix/kubeadm.yaml --ignore-preflight-errors=Swap,SystemVerification"))
	g.Expect(node.files[bridge.ConflistPath].Content).To(ContainSubstring(`"subnet": "10.244.2.0/24"`))
	g.Expect(node.commands).NotTo(ContainElement(ContainSubstring("/etc/hosts")), "one server has its address")
	g.Expect(distro().Connect(t.Context(), []provisioner.Node{first, second, node})).To(Succeed())
	// Every node reaches the others' pods.
	for on, routes := range map[*fakeNode]string{
		first:  "10.244.1.0/24 10.0.0.11 10.244.2.0/24 10.0.0.12",
		second: "10.244.0.0/24 10.0.0.10 10.244.2.0/24 10.0.0.12",
		node:   "10.244.0.0/24 10.0.0.10 10.244.1.0/24 10.0.0.11",
	} {
		g.Expect(on.commands).To(ContainElement(HaveSuffix(" routes " + routes)))
	}
}

// TestServers: what makes several servers one control plane.
func TestServers(t *testing.T) {
	g := NewWithT(t)
	d := distro()
	d.Servers = 3
	first, second, third, agent := newNode("s1", "10.0.0.10"), newNode("s2", "10.0.0.11"), newNode("s3", "10.0.0.12"), newNode("a1", "10.0.0.13")
	g.Expect(d.Configure(t.Context(), first, desired())).To(Succeed())
	g.Expect(first.files[configPath].Content).To(ContainSubstring("controlPlaneEndpoint: api.lxcmatrix.internal:6443\n"))
	_, err := d.Init(t.Context(), first, desired())
	g.Expect(err).NotTo(HaveOccurred())
	want := desired()
	want.NodeIP = "10.0.0.11"
	g.Expect(d.Join(t.Context(), []provisioner.Node{first}, second, matrix.RoleServer, want)).To(Succeed())
	golden.Assert(t, second.files[configPath].Content, "join-server.yaml")
	parses(t, second.files[configPath].Content, 1)
	g.Expect(second.files[configPath].Mode).To(BeEquivalentTo(0o600), "it holds the certificates' key")
	g.Expect(d.Join(t.Context(), []provisioner.Node{first, second}, third, matrix.RoleServer, desired())).To(Succeed())
	g.Expect(d.Join(t.Context(), []provisioner.Node{first, second, third}, agent, matrix.RoleAgent, desired())).To(Succeed())
	g.Expect(agent.files[configPath].Content).NotTo(ContainSubstring("certificateKey"))
	for node, want := range map[*fakeNode]string{first: "10 11 12", second: "11 10 12", third: "12 10 11", agent: "10 11 12"} {
		var addresses []string
		for _, line := range node.hosts {
			address, name, _ := strings.Cut(line, " ")
			g.Expect(name).To(Equal("api.lxcmatrix.internal"))
			addresses = append(addresses, strings.TrimPrefix(address, "10.0.0."))
		}
		g.Expect(strings.Join(addresses, " ")).To(Equal(want), "the servers that node %s knows, its own first", node.name)
	}
	joined := slices.Index(second.commands, "kubeadm join --config /etc/lxcmatrix/kubeadm.yaml --ignore-preflight-errors=Swap,SystemVerification")
	known := slices.IndexFunc(second.commands, func(c string) bool { return strings.Contains(c, "/etc/hosts") })
	g.Expect(known).To(And(BeNumerically(">=", 0), BeNumerically("<", joined)), "before kubelet asks for it")
	for _, node := range []*fakeNode{first, second, third, agent} {
		g.Expect(node.commands).NotTo(ContainElement(ContainSubstring(certificateKey)), "what is on a command line shows in logs")
	}
}

// TestFlannel: the daemon is deployed once the API is there, and nothing is
// routed by hand.
func TestFlannel(t *testing.T) {
	g := NewWithT(t)
	g.Expect(Variants()).To(Equal([]string{"flannel", "flannel-nftables", "flannel-host-gw"}))
	g.Expect(Flannel([]string{"unprivileged"})).To(BeNil())
	g.Expect(Flannel([]string{"unprivileged", "flannel-nftables"})).To(Equal(&flannel.Settings{Backend: "vxlan", NFTables: true}))
	d := distro()
	d.Flannel = Flannel([]string{"flannel"})
	first, agent := newNode("s1", "10.0.0.10"), newNode("a1", "10.0.0.11")
	_, err := d.Init(t.Context(), first, desired())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(d.Join(t.Context(), []provisioner.Node{first}, agent, matrix.RoleAgent, desired())).To(Succeed())
	g.Expect(d.Connect(t.Context(), []provisioner.Node{first, agent})).To(Succeed())
	g.Expect(first.commands[1]).To(Equal("kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -"))
	for _, node := range []*fakeNode{first, agent} {
		g.Expect(node.files).NotTo(HaveKey(bridge.ConflistPath))
		g.Expect(node.commands).NotTo(ContainElement(ContainSubstring(" routes ")))
	}
	first.fails["kubectl"] = errors.New("refused")
	_, err = d.Init(t.Context(), first, desired())
	g.Expect(err).To(MatchError("deploy flannel: refused"))
}

func TestContainerdConfig(t *testing.T) {
	g := NewWithT(t)
	for said, file := range map[string]string{
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1": "config-v2.toml",
		"containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1": "config-v2.toml",
		"containerd containerd.io v1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da":   "config-v2.toml",
		"containerd github.com/containerd/containerd/v2 v2.4.2 \n":                    "config-v3.toml",
		"containerd github.com/containerd/containerd/v2 v2.0.6 abcdef":                "config-v3-2.0.toml",
		"containerd github.com/containerd/containerd/v2 2.1.4~ds1 2.1.4~ds1-1":        "config-v3.toml",
	} {
		text, err := containerdConfig(said, pause, desired().Containerd)
		g.Expect(err).NotTo(HaveOccurred())
		golden.Assert(t, text, file)
	}
	_, err := containerdConfig("sh: containerd: not found", pause, desired().Containerd)
	g.Expect(err).To(MatchError(ContainSubstring("not found")))
	_, err = containerdConfig("x 1.7.24", pause, provisioner.ContainerdSettings{Runc: map[string]any{"list": []any{1}}})
	g.Expect(err).To(MatchError(ContainSubstring("containerd setting list")))
}

func TestLogCommands(t *testing.T) {
	var b strings.Builder
	commands := distro().LogCommands()
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		fmt.Fprintf(&b, "%s\n\t%s\n", name, commands[name])
	}
	golden.Assert(t, b.String(), "logs.txt")
}

func TestFailures(t *testing.T) {
	broke := &provisioner.CommandError{Node: "s1", Command: []string{"it"}, Output: provisioner.Output{ExitCode: 1}}
	for _, c := range []struct {
		on, fails string
		says      string
	}{
		{"node", "containerd --version", "configure kubeadm on node a1"},
		{"node", "systemctl restart containerd", "configure containerd"},
		{"node", "push " + configPath, "configure kubeadm"},
		{"first", "kubeadm token create", "make a join token"},
		{"node", "kubeadm join", "kubeadm join"},
		{"first", "sh -ec n=0", "read the pod CIDR of node a1"},
		{"first", "sh -ec if systemctl", "route to the pods of other nodes on node s1"},
	} {
		t.Run(c.fails, func(t *testing.T) {
			g := NewWithT(t)
			first, node := newNode("s1", "10.0.0.10"), newNode("a1", "10.0.0.11")
			map[string]*fakeNode{"first": first, "node": node}[c.on].fails[c.fails] = broke
			err := distro().Configure(t.Context(), node, desired())
			if err == nil {
				err = distro().Join(t.Context(), []provisioner.Node{first}, node, matrix.RoleAgent, desired())
			}
			if err == nil {
				err = distro().Connect(t.Context(), []provisioner.Node{first, node})
			}
			g.Expect(err).To(MatchError(ContainSubstring(c.says)))
			g.Expect(provisioner.IsNodes(err)).To(BeTrue(), "a command that fails is the node's doing: %v", err)
		})
	}
	t.Run("a token command that prints no token", func(t *testing.T) {
		g := NewWithT(t)
		first := newNode("s1", "10.0.0.10")
		first.answers["kubeadm token create"] = "W1120 deprecated\n"
		err := distro().Join(t.Context(), []provisioner.Node{first}, newNode("a1", "10.0.0.11"), matrix.RoleAgent, desired())
		var node *provisioner.NodeError
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
	})
	t.Run("an upload that prints no key", func(t *testing.T) {
		g := NewWithT(t)
		first := newNode("s1", "10.0.0.10")
		first.answers["kubeadm init phase upload-certs"] = "W1120 deprecated\n"
		err := distro().Join(t.Context(), []provisioner.Node{first}, newNode("s2", "10.0.0.11"), matrix.RoleServer, desired())
		var node *provisioner.NodeError
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
	})
	t.Run("init", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("s1", "10.0.0.10")
		node.fails["kubeadm init"] = broke
		_, err := distro().Init(t.Context(), node, provisioner.Desired{})
		g.Expect(err).To(MatchError(broke))
	})
}

// TestPatience: kubeadm gives up before the phase does, and never at once.
func TestPatience(t *testing.T) {
	for timeout, want := range map[time.Duration][]string{
		0:                {"kubeletHealthCheck: 30s", "controlPlaneComponentHealthCheck: 60s", "kubernetesAPICall: 60s"},
		6 * time.Minute:  {"kubeletHealthCheck: 60s", "controlPlaneComponentHealthCheck: 180s", "kubernetesAPICall: 180s"},
		60 * time.Minute: {"kubeletHealthCheck: 600s", "controlPlaneComponentHealthCheck: 1800s", "kubernetesAPICall: 1800s"},
	} {
		d := &Distro{Version: "1.34.4", Timeout: timeout}
		text, err := d.config("s1", "10.0.0.10", provisioner.Desired{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("with %s: no %q in\n%s", timeout, w, text)
			}
		}
	}
}

func TestContent(t *testing.T) {
	var b strings.Builder
	for _, u := range append(Units(), RuntimeUnit()) {
		fmt.Fprintf(&b, "== %s enable=%t\n%s", u.Name, u.Enable, u.Content)
	}
	for _, f := range Files() {
		fmt.Fprintf(&b, "== %s\n%s", f.Path, f.Content)
	}
	golden.Assert(t, b.String(), "content.txt")
}
