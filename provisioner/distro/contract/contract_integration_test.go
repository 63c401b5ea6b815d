//go:build integration

package contract_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// product is a distribution's release as upstream lays it out.
type product struct {
	name, version, folder string
	// files of a release, but for its checksums.
	files func(program []byte) map[string][]byte
	// images in its archives, with which nothing is left out but leftOut.
	leftOut []string
	units   map[matrix.Role]string
	home    string
}

const arch = runtime.GOARCH

func products(t *testing.T) []product {
	return []product{
		{name: "k3s", version: "1.34.2+k3s1", folder: "github.com/k3s-io/k3s/releases/download/v1.34.2+k3s1",
			files: func(program []byte) map[string][]byte {
				return map[string][]byte{
					map[string]string{"amd64": "k3s", "arm64": "k3s-arm64"}[arch]: program,
					"k3s-airgap-images-" + arch + ".tar.zst": images(t, "rancher/mirrored-pause:3.6", "rancher/mirrored-coredns-coredns:1.13.1",
						"rancher/local-path-provisioner:v0.0.32", "rancher/mirrored-library-busybox:1.36.1", "rancher/mirrored-metrics-server:v0.8.0"),
				}
			},
			leftOut: []string{"servicelb", "traefik"},
			units:   map[matrix.Role]string{matrix.RoleServer: "k3s.service", matrix.RoleAgent: "k3s-agent.service"}, home: "/root"},
		{name: "rke2", version: "1.34.2+rke2r1", folder: "github.com/rancher/rke2/releases/download/v1.34.2+rke2r1",
			files: func(program []byte) map[string][]byte {
				return map[string][]byte{
					"rke2.linux-" + arch + ".tar.gz": bundle(t, program),
					"rke2-images-core.linux-" + arch + ".tar.zst": images(t, "docker.io/rancher/rke2-runtime:v1.34.2-rke2r1", "docker.io/rancher/klipper-helm:v0.9.10",
						"docker.io/rancher/hardened-coredns:v1.13.1", "docker.io/rancher/hardened-cluster-autoscaler:v1.10.2", "docker.io/rancher/hardened-k8s-metrics-server:v0.8.0",
						"docker.io/rancher/mirrored-sig-storage-snapshot-controller:v8.2.0", "docker.io/rancher/nginx-ingress-controller:v1.13.4",
						"docker.io/rancher/mirrored-ingress-nginx-kube-webhook-certgen:v1.6.4"),
					"rke2-images-canal.linux-" + arch + ".tar.zst": images(t, "docker.io/rancher/hardened-calico:v3.30.3"),
				}
			},
			units: map[matrix.Role]string{matrix.RoleServer: "rke2-server.service", matrix.RoleAgent: "rke2-agent.service"}, home: "/root",
			leftOut: []string{"rke2-security-responder"}},
	}
}

// images is an archive of images as docker save makes it, of which only the
// list is there.
func images(t *testing.T, names ...string) []byte {
	t.Helper()
	type one struct{ RepoTags []string }
	var manifest []one
	for _, n := range names {
		manifest = append(manifest, one{[]string{n}})
	}
	list, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	add(t, w, "manifest.json", 0o644, list)
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bundle is RKE2's: a program, and units that are written as its own.
func bundle(t *testing.T, program []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	add(t, w, "bin/rke2", 0o755, program)
	for _, role := range []string{"server", "agent"} {
		add(t, w, "lib/systemd/system/rke2-"+role+".env", 0o644, []byte("HOME=/root\n"))
		add(t, w, "lib/systemd/system/rke2-"+role+".service", 0o644, []byte(`[Unit]
Description=a stand-in for RKE2 (`+role+`)
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/usr/local/lib/systemd/system/%N.env
KillMode=process
Delegate=yes
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStart=/usr/local/bin/rke2 `+role+`
`))
	}
	add(t, w, "share/rke2/LICENSE.txt", 0o644, []byte("a stand-in has none\n"))
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func add(t *testing.T, w *tar.Writer, name string, mode int64, content []byte) {
	t.Helper()
	err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Uid: 1001, Gid: 1001})
	if err == nil {
		_, err = w.Write(content)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// standIn builds the program that stands for both.
func standIn(t *testing.T) []byte {
	t.Helper()
	target := filepath.Join(t.TempDir(), "standin")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", target, "./testdata/standin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the stand-in: %v\n%s", err, said)
	}
	program, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// mirror lays a product's release out as upstream does.
func mirror(t *testing.T, p product, program []byte) string {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, filepath.FromSlash(p.folder))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	files := p.files(program)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(files[name]), name)
		if err := os.WriteFile(filepath.Join(folder, name), files[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "sha256sum-"+arch+".txt"), []byte(sums.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func store(t *testing.T, cache, mirror string) *artifact.Store {
	t.Helper()
	s, err := artifact.New(cache, artifact.Options{Sources: []string{artifact.SourceCache, artifact.SourceMirror}, Mirror: mirror})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestContractBadMirrors: what a mirror has not, or has otherwise than its
// checksums say, is refused by name, and nothing of it is kept.
func TestContractBadMirrors(t *testing.T) {
	program := []byte("no program at all")
	for _, p := range products(t) {
		for what, tc := range map[string]struct {
			spoil func(path string) error
			says  string
		}{
			"a wrong digest": {func(path string) error { return os.WriteFile(path, []byte("tampered with"), 0o644) }, "SHA-256"},
			"a missing file": {os.Remove, "404"},
		} {
			for name := range p.files(program) {
				t.Run(p.name+"/"+what+"/"+name, func(t *testing.T) {
					g := NewWithT(t)
					dir, cache := mirror(t, p, program), t.TempDir()
					g.Expect(tc.spoil(filepath.Join(dir, filepath.FromSlash(p.folder), name))).To(Succeed())
					s := store(t, cache, dir)
					_, err := s.Ensure(t.Context(), artifact.Request{Distro: p.name, Version: p.version})
					g.Expect(err).To(MatchError(And(ContainSubstring(name), ContainSubstring(tc.says))))
					g.Expect(s.List()).To(BeEmpty())
					freed, err := s.Prune()
					g.Expect(err).NotTo(HaveOccurred())
					kept, err := filepath.Glob(filepath.Join(cache, "sha256", "*"))
					g.Expect(err).NotTo(HaveOccurred())
					g.Expect(kept).To(BeEmpty(), "%d bytes were pruned", freed)
				})
			}
		}
	}
}

// open opens an embedded host that is gone when the test ends.
func open(t *testing.T) *host.Host {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // paths of sockets below it must fit 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 6 << 30})
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(h.Close(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return h
}

// started is one start of the stand-in, as it wrote it down.
type started struct {
	Args   []string
	Env    map[string]string
	Files  map[string]string
	Modes  map[string]string
	BootID string
}

func records(ctx context.Context, g Gomega, node provisioner.Node) (all []started) {
	content, err := node.Pull(ctx, "/var/lib/standin.jsonl")
	g.Expect(err).NotTo(HaveOccurred())
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s started
		g.Expect(json.Unmarshal(lines.Bytes(), &s)).To(Succeed())
		all = append(all, s)
	}
	return all
}

func sh(ctx context.Context, g Gomega, node provisioner.Node, script string) string {
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", script}})
	g.Expect(err).NotTo(HaveOccurred())
	return strings.TrimSpace(out.Stdout)
}

// booted waits for the end of a boot, of whose first moment systemd answers
// nobody.
const booted = `timeout 60 sh -c 'until systemctl is-system-running --wait >/dev/null 2>&1 || systemctl is-system-running | grep -qx degraded; do sleep 0.2; done'`

// TestContract installs each from a mirror into real nodes.
func TestContract(t *testing.T) {
	h := open(t)
	program := standIn(t)
	knowledge, err := catalog.LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var debian image.OS
	for _, o := range knowledge.OSes {
		if o.Name == "debian/13" {
			debian = o
		}
	}
	// What the stand-in needs is systemd: packages are not the contract's.
	debian.Family.Install, debian.Family.Packages = ":", nil
	images := &image.Store{Workshop: image.On(h.Server), CacheDir: t.TempDir(), Sources: []string{image.SourceMmdebstrap}, OSes: []image.OS{debian}}
	for _, p := range products(t) {
		t.Run(p.name, func(t *testing.T) { contract(t, h, images, knowledge, p, program) })
	}
	owned, err := h.Server.Owned(t.Context())
	if err != nil || len(owned) > 0 {
		t.Errorf("left behind: %v, %v", owned, err)
	}
}

func contract(t *testing.T, h *host.Host, images *image.Store, knowledge *catalog.Knowledge, p product, program []byte) {
	g, ctx := NewWithT(t), t.Context()
	s := store(t, t.TempDir(), mirror(t, p, program))
	minor := matrix.MinorOf(p.version)
	exact, _, err := s.Resolve(ctx, artifact.Request{Distro: p.name, Version: minor})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(exact).To(Equal(p.version), "the newest that lies in the mirror")
	release, err := s.Ensure(ctx, artifact.Request{Distro: p.name, Version: exact})
	g.Expect(err).NotTo(HaveOccurred())
	c := matrix.Cell{Distro: matrix.Distro{Name: p.name, Version: exact, Minor: minor}, OS: matrix.OS{Name: "debian/13"},
		Topology: matrix.Topology{Servers: 1, Agents: 1}, Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}}
	prepared, err := images.Prepare(ctx, "debian/13", catalog.Content(release, c))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(images.Import(ctx, h.Server, prepared)).To(Succeed())

	var applied []matrix.AppliedFix
	for _, id := range []string{"incus-privileged", "incus-nesting", "cgroup-v1-kubelet", "eviction-disk", "ids", "resolv", "restrict-oom-score-adj", "rshared", "stop-timeout"} {
		applied = append(applied, matrix.AppliedFix{ID: id, State: "applied"})
	}
	// What is verified of the runtime's rendered configuration nobody renders here.
	verified := func(want provisioner.Desired) provisioner.Desired {
		want.Verify = slices.DeleteFunc(slices.Clone(want.Verify), func(v provisioner.Verification) bool { return v.Fix == "restrict-oom-score-adj" })
		return want
	}
	distro, fixes := catalog.Distro(release, c, matrix.Timeouts{}), catalog.Fixes{Catalogue: knowledge.Fixes}
	roles := []matrix.Role{matrix.RoleServer, matrix.RoleAgent}
	nodes, wants := make([]provisioner.Node, 2), make([]provisioner.Desired, 2)
	for i, role := range roles {
		name := p.name + "-" + string(role)
		address, err := h.Reserve(ctx, name)
		g.Expect(err).NotTo(HaveOccurred())
		wants[i], err = fixes.Desired(applied, cell.NodeContext{Name: name, Address: address, Network: h.Network(), Host: matrix.HostFacts{Kernel: "6.12.0"}})
		g.Expect(err).NotTo(HaveOccurred())
		node, err := h.CreateNode(ctx, provisioner.NodeSpec{Name: name, Image: prepared.Fingerprint, Address: address, Owner: map[string]string{"kind": "node"},
			Limits: matrix.NodeLimits{MemoryBytes: 512 << 20, Processes: 1024, CPUs: 1}, Incus: wants[i].Incus})
		g.Expect(err).NotTo(HaveOccurred())
		nodes[i] = node
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
			defer cancel()
			g.Expect(node.Delete(clean)).To(Succeed())
		}()
	}
	for i, node := range nodes {
		sh(ctx, g, node, booted)
		g.Expect(sh(ctx, g, node, "systemctl is-enabled "+p.units[roles[i]]+" || true")).To(Equal("disabled"), "the image starts nothing")
		g.Expect(fixes.Apply(ctx, node, wants[i])).To(Succeed())
		g.Expect(distro.Configure(ctx, node, wants[i])).To(Succeed())
	}
	kubeconfig, err := distro.Init(ctx, nodes[0], wants[0])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(kubeconfig)).To(ContainSubstring("https://" + nodes[0].Address() + ":6443"))
	g.Expect(distro.Join(ctx, nodes[:1], nodes[1], matrix.RoleAgent, wants[1])).To(Succeed())
	g.Expect(distro.Connect(ctx, nodes)).To(Succeed())

	look := func(starts int) {
		for i, node := range nodes {
			all := records(ctx, g, node)
			g.Expect(all).To(HaveLen(starts), "starts of %s", p.units[roles[i]])
			last := all[len(all)-1]
			g.Expect(last.Args).To(Equal([]string{"/usr/local/bin/" + p.name, string(roles[i])}))
			g.Expect(last.Env["NOTIFY_SOCKET"]).NotTo(BeEmpty())
			g.Expect(last.Env["INVOCATION_ID"]).NotTo(BeEmpty(), "the cgroup driver is chosen by it")
			g.Expect(last.Env["HOME"]).To(Equal(p.home))
			checkFiles(g, p, roles[i], nodes, i, last)
			g.Expect(last.Files).To(Equal(all[0].Files), "what is left after a restart")
			g.Expect(sh(ctx, g, node, "systemctl is-active "+p.units[roles[i]]+"; systemctl is-enabled "+p.units[roles[i]])).To(Equal("active\nenabled"))
			// Its unit came up after those of fixes.
			order := sh(ctx, g, node, "systemctl show -P ActiveEnterTimestampMonotonic lxcmatrix-rshared.service "+p.units[roles[i]])
			var before, after int64
			_, err := fmt.Sscan(order, &before, &after)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(before).To(And(BeNumerically(">", 0), BeNumerically("<", after)))
			for _, e := range fixes.Verify(ctx, node, verified(wants[i]), matrix.PhaseInstall) {
				g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
			}
		}
	}
	look(1)
	for starts, restart := range []func(provisioner.Node, context.Context) error{provisioner.Node.Restart, provisioner.Node.ForceRestart} {
		for _, node := range nodes {
			g.Expect(restart(node, ctx)).To(Succeed())
		}
		for i, node := range nodes {
			sh(ctx, g, node, booted)
			g.Expect(sh(ctx, g, node, "systemctl is-active "+p.units[roles[i]])).To(Equal("active"))
		}
		look(starts + 2)
	}
	for _, node := range nodes {
		var boots []string
		for _, s := range records(ctx, g, node) {
			g.Expect(boots).NotTo(ContainElement(s.BootID), "each start is another boot's")
			boots = append(boots, s.BootID)
		}
	}
	for name, command := range distro.LogCommands() {
		out, err := nodes[0].Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", command + " 2>&1"}})
		var failed *provisioner.CommandError
		g.Expect(err == nil || errors.As(err, &failed)).To(BeTrue(), "%s: %v", name, err)
		if name == p.name+".log" {
			g.Expect(out.Stdout).To(ContainSubstring("Started " + p.units[matrix.RoleServer]))
		}
	}

	// A program that ends at once is the node's doing, told with its own words.
	sh(ctx, g, nodes[1], "systemctl disable --now "+p.units[matrix.RoleAgent]+"; rm /var/lib/standin.jsonl")
	refusing := refusal{nodes[1], "/etc/rancher/" + p.name + "/config.yaml"}
	err = distro.Join(ctx, nodes[:1], refusing, matrix.RoleAgent, wants[1])
	g.Expect(err).To(MatchError(And(ContainSubstring("start "+p.units[matrix.RoleAgent]), ContainSubstring("told to refuse by its configuration"))))
	g.Expect(provisioner.IsNodes(err)).To(BeTrue())
}

// refusal is a node whose configuration makes the stand-in end at once.
type refusal struct {
	provisioner.Node
	config string
}

func (r refusal) Push(ctx context.Context, f provisioner.File) error {
	if f.Path == r.config {
		f.Content += "# refuse-to-start\n"
	}
	return r.Node.Push(ctx, f)
}

// checkFiles holds the files that the stand-in found to what its distribution
// reads there.
func checkFiles(g Gomega, p product, role matrix.Role, nodes []provisioner.Node, i int, s started) {
	etc, state := path.Join("/etc/rancher", p.name), path.Join("/var/lib/rancher", p.name)
	decode := func(name string) (v map[string]any) {
		g.Expect(s.Files).To(HaveKey(name))
		g.Expect(yaml.Unmarshal([]byte(s.Files[name]), &v)).To(Succeed())
		return v
	}
	config := decode(path.Join(etc, "config.yaml"))
	g.Expect(s.Modes[path.Join(etc, "config.yaml")]).To(Equal("0600"), "it holds the token")
	if role == matrix.RoleServer {
		g.Expect(config).To(HaveKeyWithValue("tls-san", ConsistOf(nodes[0].Address())))
		g.Expect(config["token"]).To(MatchRegexp(`^[a-z2-7]{26}$`))
		g.Expect(config["disable"]).To(ConsistOf(p.leftOut))
	} else {
		port := map[string]string{"k3s": "6443", "rke2": "9345"}[p.name]
		g.Expect(config).To(HaveKeyWithValue("server", "https://"+nodes[0].Address()+":"+port))
		g.Expect(config["token"]).To(MatchRegexp(`^K100{64}::server:[a-z2-7]{26}$`))
	}
	g.Expect(decode(path.Join(etc, "config.yaml.d/10-lxcmatrix.yaml"))).To(Equal(map[string]any{
		"node-name": nodes[i].Name(), "node-ip": nodes[i].Address(), "resolv-conf": "/etc/lxcmatrix/resolv.conf"}))
	kubelet := decode(path.Join(state, "agent/etc/kubelet.conf.d/90-lxcmatrix.conf"))
	g.Expect(kubelet).To(HaveKeyWithValue("kind", "KubeletConfiguration"))
	g.Expect(kubelet).To(HaveKeyWithValue("failCgroupV1", false))
	g.Expect(kubelet["evictionHard"]).To(HaveKeyWithValue("nodefs.available", "0%"))
	g.Expect(s.Files[path.Join(state, "agent/etc/containerd/config-v3.toml.d/10-lxcmatrix.toml")]).To(ContainSubstring("restrict_oom_score_adj = true"))
	g.Expect(s.Files[path.Join(state, "agent/etc/containerd/config-v3.toml.tmpl")]).To(ContainSubstring(`{{ template "base" . }}`))
	for name := range p.files(nil) {
		if strings.Contains(name, "images") {
			g.Expect(s.Files).To(HaveKey(path.Join(state, "agent/images", name)), "under its release's name")
		}
	}
	g.Expect(s.Files).To(HaveKey(path.Join(state, "agent/images/lxcmatrix-images.tar")))
}
