package rancher_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/Masterminds/semver/v3"
	. "github.com/onsi/gomega"
	"github.com/pelletier/go-toml/v2"
	"gotest.tools/v3/golden"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/k3s"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rke2"
)

// fakeNode is a node of which only files and the answers to commands exist.
type fakeNode struct {
	provisioner.Lifecycle
	name, address string
	answers       map[string]string
	fails         map[string]error

	files    map[string]provisioner.File
	commands []string
}

func newNode(name, address string) *fakeNode {
	return &fakeNode{name: name, address: address, files: map[string]provisioner.File{}, answers: map[string]string{}, fails: map[string]error{}}
}

// server is a node on which a server of a product has been started.
func server(p rancher.Product) *fakeNode {
	n := newNode("s1", "10.0.0.10")
	for path, content := range map[string]string{
		p.Kubeconfig(): "clusters: [{cluster: {server: 'https://127.0.0.1:6443'}}]\n",
		"/var/lib/rancher/" + p.Name + "/server/node-token": "K10" + strings.Repeat("ab", 32) + "::server:abc\n",
	} {
		n.files[path] = provisioner.File{Path: path, Content: content}
	}
	return n
}

func (n *fakeNode) Name() string    { return n.name }
func (n *fakeNode) Address() string { return n.address }

func (n *fakeNode) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	line := strings.Join(cmd.Args, " ")
	n.commands = append(n.commands, line)
	for prefix, err := range n.fails {
		if strings.HasPrefix(line, prefix) {
			return provisioner.Output{}, err
		}
	}
	if strings.Contains(line, "jsonpath='{.spec.podCIDR}'") {
		return provisioner.Output{Stdout: map[string]string{"s1": "10.42.0.0/24", "a1": "10.42.1.0/24"}[cmd.Args[len(cmd.Args)-1]] + "\n"}, nil
	}
	for prefix, out := range n.answers {
		if strings.HasPrefix(line, prefix) {
			return provisioner.Output{Stdout: out}, nil
		}
	}
	return provisioner.Output{}, nil
}

func (n *fakeNode) Push(_ context.Context, f provisioner.File) error {
	n.files[f.Path] = f
	return n.fails["push "+f.Path]
}

func (n *fakeNode) Pull(_ context.Context, path string) ([]byte, error) {
	f, ok := n.files[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(f.Content), nil
}

// written is every file of a node, one after the other.
func (n *fakeNode) written() string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(n.files)) {
		fmt.Fprintf(&b, "== %s %04o\n%s", path, n.files[path].Mode, n.files[path].Content)
	}
	return b.String()
}

func desired(address string) provisioner.Desired {
	return provisioner.Desired{
		NodeIP: address,
		Kubelet: map[string]any{"failCgroupV1": false, "imageGCHighThresholdPercent": 100, "resolvConf": "/etc/lxcmatrix/resolv.conf",
			"evictionHard": map[string]any{"memory.available": "100Mi", "nodefs.available": "0%"}},
		KubeProxy:  map[string]any{"mode": "nftables", "conntrack": map[string]any{"maxPerCore": 0}},
		Containerd: provisioner.ContainerdSettings{CRI: map[string]any{"restrict_oom_score_adj": true}, Runc: map[string]any{"SystemdCgroup": true}},
	}
}

// complete are images with which nothing is left out.
func complete() []string {
	return []string{"rancher/mirrored-coredns-coredns:1.13.1", "docker.io/rancher/local-path-provisioner:v0.0.32", "rancher/mirrored-library-busybox:1.36.1",
		"rancher/mirrored-metrics-server:v0.8.0", "rancher/klipper-lb:v0.4.13", "rancher/klipper-helm:v0.9.10-build20251111", "rancher/mirrored-library-traefik:3.5.1",
		"rancher/hardened-coredns:v1", "rancher/hardened-cluster-autoscaler:v1", "rancher/hardened-k8s-metrics-server:v1", "rancher/mirrored-sig-storage-snapshot-controller:v8.2.0",
		"rancher/nginx-ingress-controller:v1", "rancher/mirrored-ingress-nginx-kube-webhook-certgen:v1"}
}

func distro(p rancher.Product, version string, o rancher.Options) *rancher.Distro {
	return &rancher.Distro{Product: p, Options: o, Version: semver.MustParse(version), Available: complete()}
}

// token replaces the random one of a configuration.
func token(g Gomega, n *fakeNode, p rancher.Product) string {
	var config struct{ Token string }
	f := n.files[p.Config()]
	g.Expect(yaml.Unmarshal([]byte(f.Content), &config)).To(Succeed())
	f.Content = strings.ReplaceAll(f.Content, config.Token, "TOKEN")
	n.files[p.Config()] = f
	return config.Token
}

func TestClusters(t *testing.T) {
	for name, tc := range map[string]struct {
		product rancher.Product
		version string
		options rancher.Options
	}{
		"k3s-1.34":         {k3s.Product(), "1.34.2+k3s1", rancher.Options{Servers: 1}},
		"k3s-1.34-etcd":    {k3s.Product(), "1.34.2+k3s1", rancher.Options{Servers: 1, Datastore: rancher.DatastoreEtcd}},
		"k3s-1.34-bridge":  {k3s.Product(), "1.34.2+k3s1", rancher.Options{Servers: 1, CNI: rancher.CNIBridge}},
		"k3s-1.36-3":       {k3s.Product(), "1.36.1+k3s1", rancher.Options{Servers: 3}},
		"rke2-1.34":        {rke2.Product(), "1.34.2+rke2r1", rancher.Options{Servers: 1}},
		"rke2-1.34-sqlite": {rke2.Product(), "1.34.2+rke2r1", rancher.Options{Servers: 1, Datastore: rancher.DatastoreSQLite, CNI: "flannel"}},
		"rke2-1.36-bridge": {rke2.Product(), "1.36.3+rke2r1", rancher.Options{Servers: 1, CNI: rancher.CNIBridge}},
		"rke2-1.31.5":      {rke2.Product(), "1.31.5+rke2r1", rancher.Options{Servers: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			d := distro(tc.product, tc.version, tc.options)
			first := server(tc.product)
			g.Expect(d.Configure(t.Context(), first, desired("10.0.0.10"))).To(Succeed())
			kubeconfig, err := d.Init(t.Context(), first, desired("10.0.0.10"))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(kubeconfig)).To(ContainSubstring("https://10.0.0.10:6443"))
			g.Expect(len(token(g, first, tc.product))).To(BeNumerically(">", 20))
			agent := newNode("a1", "10.0.0.11")
			g.Expect(d.Configure(t.Context(), agent, desired("10.0.0.11"))).To(Succeed())
			g.Expect(d.Join(t.Context(), []provisioner.Node{first}, agent, matrix.RoleAgent, desired("10.0.0.11"))).To(Succeed())
			second := newNode("s2", "10.0.0.12")
			if tc.options.Servers > 1 {
				g.Expect(d.Configure(t.Context(), second, desired("10.0.0.12"))).To(Succeed())
				g.Expect(d.Join(t.Context(), []provisioner.Node{first, agent}, second, matrix.RoleServer, desired("10.0.0.12"))).To(Succeed())
			}
			var all strings.Builder
			for _, n := range []*fakeNode{first, agent, second} {
				fmt.Fprintf(&all, "######## %s: %s\n%s", n.name, strings.Join(n.commands, "; "), n.written())
			}
			golden.Assert(t, all.String(), name+".txt")
			for _, n := range []*fakeNode{first, agent, second} {
				for path, f := range n.files {
					if strings.Contains(f.Content, "token") && f.Mode != 0o600 {
						t.Errorf("%s holds a token and has mode %o", path, f.Mode)
					}
				}
				g.Expect(n.commands).NotTo(ContainElement(ContainSubstring("K10")))
			}
			if tc.options.CNI == rancher.CNIBridge {
				g.Expect(d.Connect(t.Context(), []provisioner.Node{first, agent})).To(Succeed())
			}
			if tc.product.Name == "rke2" {
				g.Expect(d.LeftOut()).To(ConsistOf(HavePrefix("rke2-security-responder is disabled")))
			} else {
				g.Expect(d.LeftOut()).To(BeEmpty())
			}
		})
	}
}

// What the products' own templates begin with, of versions with and without an
// import of their own.
const (
	baseV3        = "# {{ .Program }}\nversion = 3\nroot = \"r\"\nstate = \"s\"\n\n[grpc]\n  address = \"a\"\n\n[plugins.'io.containerd.cri.v1.runtime']\n  enable_selinux = false\n"
	baseV3Imports = "# {{ .Program }}\nversion = 3\nimports = [\"x/*.toml\"]\nroot = \"r\"\nstate = \"s\"\n\n[grpc]\n  address = \"a\"\n\n[plugins.'io.containerd.cri.v1.runtime']\n  enable_selinux = false\n"
)

func render(t *testing.T, text, base string) map[string]any {
	t.Helper()
	type containerd struct{ Root, State, Address, Opt, Registry, Template string }
	type agent struct{ PauseImage, Snapshotter, CNIBinDir, CNIConfDir string }
	data := map[string]any{"Program": "k3s", "IsRunningInUserNS": true, "DisableCgroup": true, "EnableUnprivileged": true, "SystemdCgroup": false,
		"NodeConfig": struct {
			Containerd  containerd
			AgentConfig agent
			SELinux     bool
			NoFlannel   bool
		}{containerd{"root", "state", "address", "opt", "registry", "template"}, agent{"pause", "overlayfs", "bin", "conf"}, true, false}}
	parsed, err := template.New("").Parse(text)
	if err == nil {
		_, err = parsed.New("base").Parse(base)
	}
	var b strings.Builder
	if err == nil {
		err = parsed.Execute(&b, data)
	}
	var out map[string]any
	if err == nil {
		err = toml.Unmarshal([]byte(b.String()), &out)
	}
	if err != nil {
		t.Fatalf("%v in\n%s\nof\n%s", err, b.String(), text)
	}
	return out
}

// TestContainerdFiles: each is TOML that says each thing once, whatever the
// product's own template says.
func TestContainerdFiles(t *testing.T) {
	const folder = "/var/lib/rancher/k3s/agent/etc/containerd/"
	for version, want := range map[string][]string{
		"1.31.5+k3s1": {"config.toml.tmpl"}, "1.32.1+k3s1": {"config.toml.tmpl"},
		"1.31.6+k3s1": {"config-v3.toml.d/10-lxcmatrix.toml", "config-v3.toml.tmpl"}, "1.32.2+k3s1": {"config-v3.toml.d/10-lxcmatrix.toml", "config-v3.toml.tmpl"},
		"1.33.0+k3s1": {"config-v3.toml.d/10-lxcmatrix.toml", "config-v3.toml.tmpl"}, "1.35.4+k3s1": {"config-v3.toml.d/10-lxcmatrix.toml", "config-v3.toml.tmpl"},
		"1.36.0+k3s1": {"config-v3.toml.d/10-lxcmatrix.toml"},
	} {
		t.Run(version, func(t *testing.T) {
			g := NewWithT(t)
			node, want2 := newNode("s1", "10.0.0.10"), provisioner.Desired{Containerd: desired("").Containerd}
			g.Expect(distro(k3s.Product(), version, rancher.Options{}).Configure(t.Context(), node, want2)).To(Succeed())
			var got []string
			for path, f := range node.files {
				if name, ok := strings.CutPrefix(path, folder); ok {
					got = append(got, name)
					for _, base := range []string{baseV3, baseV3Imports} {
						parsed := render(t, f.Content, base)
						runtime := "io.containerd.cri.v1.runtime"
						if name == "config.toml.tmpl" {
							runtime = "io.containerd.grpc.v1.cri"
							g.Expect(parsed).To(HaveKeyWithValue("version", BeEquivalentTo(2)))
						} else {
							g.Expect(parsed).To(HaveKeyWithValue("version", BeEquivalentTo(3)))
						}
						cri := parsed["plugins"].(map[string]any)[runtime].(map[string]any)
						if name == "config-v3.toml.tmpl" {
							g.Expect(parsed).To(HaveKeyWithValue("imports", ConsistOf(folder+"config-v3.toml.d/*.toml")))
							g.Expect(parsed).To(HaveKeyWithValue("root", "root"))
							g.Expect(parsed).To(HaveKeyWithValue("state", "state"))
							g.Expect(parsed).To(HaveKey("grpc"))
							g.Expect(cri).To(HaveKeyWithValue("enable_selinux", false))
							continue
						}
						g.Expect(cri).To(HaveKeyWithValue("restrict_oom_score_adj", true))
						options := cri["containerd"].(map[string]any)["runtimes"].(map[string]any)["runc"].(map[string]any)["options"]
						g.Expect(options).To(HaveKeyWithValue("SystemdCgroup", true))
					}
				}
			}
			slices.Sort(got)
			g.Expect(got).To(Equal(want))
			bare := newNode("s1", "10.0.0.10")
			g.Expect(distro(k3s.Product(), version, rancher.Options{}).Configure(t.Context(), bare, provisioner.Desired{})).To(Succeed())
			g.Expect(slices.Collect(maps.Keys(bare.files))).To(ConsistOf("/etc/rancher/k3s/config.yaml.d/10-lxcmatrix.yaml"), "without settings containerd's are left alone")
		})
	}
}

func TestLeftOut(t *testing.T) {
	g := NewWithT(t)
	d := distro(k3s.Product(), "1.34.2+k3s1", rancher.Options{})
	d.Available = []string{"rancher/mirrored-pause:3.6", "rancher/mirrored-coredns-coredns:1.13.1", "localhost:5000/rancher/mirrored-metrics-server@sha256:00", "rancher/klipper-helm:v1"}
	g.Expect(d.LeftOut()).To(Equal([]string{
		"local-storage is disabled: the release's archives hold no image local-path-provisioner, mirrored-library-busybox",
		"servicelb is disabled: the release's archives hold no image klipper-lb",
		"traefik is disabled: the release's archives hold no image mirrored-library-traefik",
	}))
	first := server(d.Product)
	_, err := d.Init(t.Context(), first, provisioner.Desired{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.files[d.Config()].Content).To(ContainSubstring("disable:\n- local-storage\n- servicelb\n- traefik\n"))

	r := distro(rke2.Product(), "1.36.3+rke2r1", rancher.Options{})
	r.Available = append(complete(), "rancher/hardened-traefik:v3", "rancher/hardened-snapshot-controller:v8")
	g.Expect(r.LeftOut()).To(Equal([]string{"rke2-security-responder is disabled where the version has it: " +
		"it reports the cluster to its maker's server three times a day, and nodes reach nothing that the plan does not name"}))
	r.Available = nil
	g.Expect(r.LeftOut()).To(ContainElement("rke2-snapshot-controller, rke2-snapshot-controller-crd is disabled: the release's archives hold no image klipper-helm, mirrored-sig-storage-snapshot-controller or hardened-snapshot-controller"))
	g.Expect(r.LeftOut()).To(ContainElement(ContainSubstring("rke2-traefik, rke2-traefik-crd")))
}

func TestFailures(t *testing.T) {
	broke := &provisioner.CommandError{Node: "s1", Command: []string{"it"}, Output: provisioner.Output{ExitCode: 1}}
	d := distro(k3s.Product(), "1.34.2+k3s1", rancher.Options{CNI: rancher.CNIBridge, Servers: 1})
	t.Run("a unit that does not start", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("s1", "10.0.0.10")
		node.fails["systemctl enable --now k3s.service"] = broke
		node.answers["journalctl"] = "level=fatal msg=\"no default routes found\"\n"
		_, err := d.Init(t.Context(), node, provisioner.Desired{})
		var failed *provisioner.NodeError
		g.Expect(errors.As(err, &failed)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(And(ContainSubstring("start k3s.service"), ContainSubstring("no default routes found"))))
	})
	t.Run("a log that cannot be read", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("s1", "10.0.0.10")
		node.fails["systemctl enable --now k3s.service"] = broke
		node.fails["journalctl"] = context.DeadlineExceeded
		_, err := d.Init(t.Context(), node, provisioner.Desired{})
		g.Expect(provisioner.IsNodes(err)).To(BeTrue(), "the unit failed, whatever became of its log: %v", err)
		g.Expect(err).To(MatchError(ContainSubstring("what it logged could not be read")))
		g.Expect(err).NotTo(MatchError(context.DeadlineExceeded))
	})
	t.Run("a unit that is not ready in time", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("a1", "10.0.0.11")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		node.fails["systemctl enable --now k3s-agent.service"] = ctx.Err()
		node.answers["journalctl"] = "waiting for the server\n"
		err := d.Join(ctx, []provisioner.Node{server(d.Product)}, node, matrix.RoleAgent, provisioner.Desired{})
		g.Expect(err).To(MatchError(context.Canceled))
		g.Expect(err).To(MatchError(ContainSubstring("waiting for the server")))
		g.Expect(provisioner.IsNodes(err)).To(BeTrue())
	})
	t.Run("a node that does not answer", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("s1", "10.0.0.10")
		node.fails["systemctl"] = errors.New("connection refused")
		_, err := d.Init(t.Context(), node, provisioner.Desired{})
		g.Expect(err).To(MatchError(ContainSubstring("connection refused")))
		g.Expect(provisioner.IsNodes(err)).To(BeFalse())
	})
	t.Run("a kubeconfig of another server", func(t *testing.T) {
		g := NewWithT(t)
		node := server(d.Product)
		node.files[d.Kubeconfig()] = provisioner.File{Content: "server: https://10.1.1.1:6443"}
		_, err := d.Init(t.Context(), node, provisioner.Desired{})
		g.Expect(provisioner.IsNodes(err)).To(BeTrue(), "%v", err)
	})
	for what, want := range map[string]provisioner.Desired{
		"kube-proxy's field winkernel.x":    {KubeProxy: map[string]any{"winkernel": map[string]any{"x": 1}}},
		"containerd setting list":           {Containerd: provisioner.ContainerdSettings{CRI: map[string]any{"list": []any{1}}}},
		"kubelet's field memoryThrottlingX": {Kubelet: map[string]any{"memoryThrottlingX": 1}},
	} {
		t.Run(what, func(t *testing.T) {
			g := NewWithT(t)
			old := distro(k3s.Product(), "1.31.5+k3s1", rancher.Options{})
			g.Expect(old.Configure(t.Context(), newNode("s1", "10.0.0.10"), want)).To(MatchError(ContainSubstring(what)))
		})
	}
	t.Run("no plugins", func(t *testing.T) {
		g := NewWithT(t)
		node := newNode("s1", "10.0.0.10")
		node.fails["sh -ec for d in"] = broke
		g.Expect(d.Configure(t.Context(), node, provisioner.Desired{})).To(MatchError(ContainSubstring("CNI plugins")))
	})
	t.Run("no token", func(t *testing.T) {
		g := NewWithT(t)
		err := d.Join(t.Context(), []provisioner.Node{newNode("s1", "10.0.0.10")}, newNode("a1", "10.0.0.11"), matrix.RoleAgent, provisioner.Desired{})
		g.Expect(err).To(MatchError(fs.ErrNotExist))
	})
}

func TestBridge(t *testing.T) {
	g := NewWithT(t)
	d := distro(rke2.Product(), "1.34.2+rke2r1", rancher.Options{CNI: rancher.CNIBridge, Servers: 1})
	first, agent := server(d.Product), newNode("a1", "10.0.0.11")
	_, err := d.Init(t.Context(), first, provisioner.Desired{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.files[bridge.ConflistPath].Content).To(ContainSubstring(`"subnet": "10.42.0.0/24"`))
	g.Expect(d.Join(t.Context(), []provisioner.Node{first}, agent, matrix.RoleAgent, provisioner.Desired{})).To(Succeed())
	g.Expect(agent.files[bridge.ConflistPath].Content).To(ContainSubstring(`"subnet": "10.42.1.0/24"`))
	g.Expect(first.commands).To(ContainElement(ContainSubstring("/var/lib/rancher/rke2/bin/kubectl --kubeconfig /etc/rancher/rke2/rke2.yaml get node")))
}

func TestLogCommands(t *testing.T) {
	var b strings.Builder
	for _, p := range []rancher.Product{k3s.Product(), rke2.Product()} {
		commands := distro(p, "1.34.2+x1", rancher.Options{}).LogCommands()
		for _, name := range slices.Sorted(maps.Keys(commands)) {
			fmt.Fprintf(&b, "%s %s\n\t%s\n", p.Name, name, commands[name])
		}
	}
	golden.Assert(t, b.String(), "logs.txt")
}

func TestUnits(t *testing.T) {
	var b strings.Builder
	for _, u := range k3s.Units() {
		fmt.Fprintf(&b, "== %s enable=%t\n%s", u.Name, u.Enable, u.Content)
	}
	golden.Assert(t, b.String(), "k3s-units.txt")
}
