//go:build integration

package export_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/export"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// poolBytes is the embedded host's pool, where this makes it.
const poolBytes = 20 << 30

// hands are those of somebody who has Incus and its client, and what was
// exported.
type hands struct {
	t   *testing.T
	g   *WithT
	dir string
	// images are the nodes', by role.
	images map[matrix.Role]image.Prepared
	steps  export.Steps
	// bridge is the nodes', want what the fixes want of a node on it.
	bridge string
	want   func(name, address string) provisioner.Desired
}

// containerds are what nodes show of it, by OS.
func containerds() map[string]string {
	return map[string]string{"debian/12": "1.6.20", "debian/13": "1.7.24"}
}

// open prepares the images of a matrix' one cell and opens the embedded host.
func open(t *testing.T, name string) hands {
	t.Helper()
	g, ctx := NewWithT(t), t.Context()
	shown := progress.NewLines(os.Stderr, time.Now)
	planned, err := run.Plan(ctx, run.Request{Matrix: name, Root: t.TempDir(), Progress: shown})
	g.Expect(err).NotTo(HaveOccurred())
	c := planned.Plan.Cells[0]
	g.Expect(c.Runs()).To(BeTrue(), "%s: %s", c.ID, c.Unavailable)
	release, err := catalog.Release(ctx, planned.Artifacts, c)
	g.Expect(err).NotTo(HaveOccurred())
	images := catalog.Images(host.StateDir(), planned.CacheDir, planned.Plan, planned.Knowledge, shown)
	prepared := map[matrix.Role]image.Prepared{}
	for i := range c.Topology.Nodes() {
		role := c.Topology.Role(i)
		prepared[role], err = images.Prepare(ctx, c.OSOf(role).Name, catalog.Content(release, c))
		g.Expect(err).NotTo(HaveOccurred())
	}

	h, err := host.OpenEmbedded(ctx, host.EmbeddedOptions{StateDir: host.StateDir(), PoolBytes: poolBytes})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := h.Close(closing); err != nil {
			t.Error(err)
		}
	})
	for _, one := range prepared {
		g.Expect(images.Import(ctx, h.Server, one)).To(Succeed())
	}
	facts, err := h.Facts(ctx)
	g.Expect(err).NotTo(HaveOccurred())
	attempt := matrix.Attempt{Host: facts}
	var fixes []matrix.AppliedFix
	for i := range c.Topology.Nodes() {
		role := c.Topology.Role(i)
		// What a node of Debian shows of itself.
		node := matrix.NodeFacts{Containerd: containerds()[c.OSOf(role).Name], NetworkManager: new(bool), Firewalld: new(bool)}
		fixes, err = catalog.Fixes{Catalogue: planned.Knowledge.Fixes}.Decide(c.As(role), facts, &node)
		g.Expect(err).NotTo(HaveOccurred())
		attempt.Nodes = append(attempt.Nodes, node)
		for _, f := range fixes {
			f.Role = role
			attempt.Fixes = append(attempt.Fixes, f)
		}
	}
	steps, err := catalog.Steps(planned.Knowledge, planned.Artifacts, c, attempt, planned.Plan.Timeouts)
	g.Expect(err).NotTo(HaveOccurred())
	by := hands{t: t, g: g, dir: t.TempDir(), images: prepared, steps: steps, want: func(name, address string) provisioner.Desired {
		want, err := catalog.Fixes{Catalogue: planned.Knowledge.Fixes}.Desired(fixes, cell.NodeContext{Name: name, Address: address, Network: h.Network(), Host: facts})
		g.Expect(err).NotTo(HaveOccurred())
		return want
	}}
	var networks []struct {
		Name    string
		Managed bool
	}
	g.Expect(json.Unmarshal([]byte(by.incus("", "network", "list", "--format", "json")), &networks)).To(Succeed())
	for _, n := range networks {
		if n.Managed {
			by.bridge = n.Name
		}
	}
	return by
}

// environment has the clients speak to the embedded host's daemon.
func (by hands) environment() []string {
	dir := filepath.Join(host.StateDir(), "incus")
	return append(os.Environ(), "INCUS_DIR="+dir, "INCUS_SOCKET="+filepath.Join(dir, "unix.socket"), "INCUS_CONF="+filepath.Join(by.dir, "incus"))
}

// run runs a command of this machine.
func (by hands) run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = by.environment()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		by.t.Logf("%q: %v\n%s%s", args, err, &stdout, &stderr)
	}
	return stdout.String(), err
}

func (by hands) must(stdin string, args ...string) string {
	by.t.Helper()
	out, err := by.run(by.t.Context(), stdin, args...)
	by.g.Expect(err).NotTo(HaveOccurred())
	return out
}

func (by hands) incus(stdin string, args ...string) string {
	by.t.Helper()
	return by.must(stdin, append([]string{"incus", "--project", "lxcmatrix"}, args...)...)
}

// in runs a command in a node.
func (by hands) in(node, stdin string, args ...string) string {
	by.t.Helper()
	return by.incus(stdin, append([]string{"exec", node, "--"}, args...)...)
}

// file is one of those that a format writes.
func (by hands) file(format, name string) provisioner.File {
	by.t.Helper()
	files, err := export.Write(format, by.steps)
	by.g.Expect(err).NotTo(HaveOccurred())
	for _, f := range files {
		if f.Path == name {
			return f
		}
	}
	by.t.Fatalf("%s has no %s", format, name)
	return provisioner.File{}
}

// launch starts nodes of one profile, as an operator would.
func (by hands) launch(nodes map[string]matrix.Role) {
	by.t.Helper()
	const profile = "exported"
	by.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(by.t.Context()), time.Minute)
		defer cancel()
		for node := range nodes {
			if _, err := by.run(ctx, "", "incus", "--project", "lxcmatrix", "delete", "--force", node); err != nil {
				by.t.Error(err)
			}
		}
		if _, err := by.run(ctx, "", "incus", "--project", "lxcmatrix", "profile", "delete", profile); err != nil {
			by.t.Error(err)
		}
	})
	by.incus("", "profile", "create", profile)
	by.incus(by.file("incus-profile", "profile.yaml").Content, "profile", "edit", profile)
	for node, role := range nodes {
		by.incus("", "launch", by.images[role].Fingerprint, node, "--profile", profile, "--storage", "nodes", "--network", by.bridge,
			"--config", "user.lxcmatrix.kind=node", "--config", "limits.memory=3GiB")
		by.in(node, "", "sh", "-c", booted)
	}
}

// booted waits for the end of a boot, of whose first moment systemd answers
// nobody, and for an address.
const booted = `timeout 90 sh -c 'until systemctl is-system-running --wait >/dev/null 2>&1 || systemctl is-system-running | grep -qx degraded; do sleep 0.2; done
until ip -4 route show default | grep -q .; do sleep 0.2; done'`

// state prints what the first node's part writes: every file with its sum, mode
// and time, and every sysctl.
func (by hands) state() string {
	script := "export LC_ALL=C\n"
	for _, f := range by.steps.Nodes[0].Files {
		script += "if [ -e " + f.Path + " ]; then stat -c '%n %a %Y' " + f.Path + "; sha256sum <" + f.Path + "; else echo no " + f.Path + "; fi\n"
	}
	for _, s := range by.steps.Nodes[0].Sysctls {
		script += "cat " + s.File() + "\n"
	}
	return script
}

// TestByHand makes a cluster of two OSes with what was exported and nothing else
// of ours: the profile, the scripts and the commands that they name. It is
// healthy, the second time changes nothing, and undoing brings back what was
// there.
func TestByHand(t *testing.T) {
	by := open(t, "testdata/mixed.yaml")
	const server, agent = "by-hand-s1", "by-hand-a1"
	serverScript, agentScript := by.file("shell", "server.sh").Content, by.file("shell", "agent.sh").Content
	by.prepareHost()
	by.launch(map[string]matrix.Role{server: matrix.RoleServer, agent: matrix.RoleAgent})
	fresh := by.in(server, by.state(), "sh", "-s")
	by.g.Expect(by.in(server, serverScript, "sh", "-s")).To(ContainSubstring("changed: file /etc/lxcmatrix/kubeadm.yaml"))
	applied := by.in(server, by.state(), "sh", "-s")
	by.g.Expect(applied).NotTo(Equal(fresh))
	by.g.Expect(by.in(server, serverScript, "sh", "-s")).To(Equal("no change\n"))
	by.g.Expect(by.in(server, by.state(), "sh", "-s")).To(Equal(applied))
	by.g.Expect(by.in(server, serverScript, "sh", "-s", "undo")).To(ContainSubstring("changed: file /etc/containerd/config.toml"))
	by.g.Expect(by.in(server, by.state(), "sh", "-s")).To(Equal(fresh))
	by.g.Expect(by.in(server, serverScript, "sh", "-s", "undo")).To(Equal("no change\n"))
	by.in(server, serverScript, "sh", "-s")

	// The pods' network is the operator's own. The controller-manager counts nodes'
	// pods up.
	conflist := func(node, pods string) {
		by.in(node, bridge.Conflist(pods, `"ipMasq": true`), "sh", "-c", "mkdir -p /etc/cni/net.d && cat >"+bridge.ConflistPath)
	}
	conflist(server, "10.244.0.0/24")
	by.in(server, "", by.steps.Nodes[0].Start...)

	invited := regexp.MustCompile(`kubeadm join (\S+):6443 --token (\S+) --discovery-token-ca-cert-hash (\S+)`).FindStringSubmatch(
		by.in(server, "", "kubeadm", "token", "create", "--print-join-command"))
	by.g.Expect(invited).NotTo(BeNil())
	join := func() string {
		return by.incus(agentScript, "exec", agent, "--env", "SERVER="+invited[1], "--env", "TOKEN="+invited[2], "--env", "CA_HASH="+invited[3], "--", "sh", "-s")
	}
	by.g.Expect(join()).To(ContainSubstring("changed: file /etc/lxcmatrix/kubeadm.yaml"))
	by.g.Expect(join()).To(Equal("no change\n"))
	conflist(agent, "10.244.1.0/24")
	by.in(agent, "", by.steps.Nodes[1].Start...)
	const address = `ip -4 -o address show dev eth0 | sed 's,.* inet \([0-9.]*\)/.*,\1,'`
	by.in(server, "", "ip", "route", "add", "10.244.1.0/24", "via", strings.TrimSpace(by.in(agent, "", "sh", "-c", address)))
	by.in(agent, "", "ip", "route", "add", "10.244.0.0/24", "via", strings.TrimSpace(by.in(server, "", "sh", "-c", address)))

	kubeconfig := filepath.Join(by.dir, "admin.conf")
	by.incus("", "file", "pull", server+"/etc/kubernetes/admin.conf", kubeconfig)
	program := filepath.Join(by.dir, "lxcmatrix")
	by.must("", "go", "build", "-o", program, "github.com/lxcmatrix/lxcmatrix/cmd/lxcmatrix")
	out := by.must("", program, "check", "--kubeconfig", kubeconfig, "--node", server+"="+server, "--node", agent+"="+agent,
		"--project", "lxcmatrix", "--wait", "5m", "-o", "json")
	var checked struct {
		Verdict matrix.Verdict
		health.Survey
	}
	by.g.Expect(json.Unmarshal([]byte(out), &checked)).To(Succeed())
	t.Logf("%s", out)
	by.g.Expect(checked.Verdict).To(Equal(matrix.Pass))
	by.g.Expect(checked.Distro).To(Equal("kubeadm"))
	seen := map[string]matrix.Outcome{}
	for _, e := range checked.Checks {
		seen[e.Check] = e.Outcome
	}
	for _, check := range []string{"api-livez", "api-readyz", "nodes-ready", "taints", "system-pods", "restart-stability", "node-facts", "kube-proxy-healthz"} {
		by.g.Expect(seen).To(HaveKeyWithValue(check, matrix.Healthy))
	}
	by.g.Expect(by.in(server, serverScript, "sh", "-s")).To(Equal("no change\n"), "a cluster that runs changes nothing of it")
	by.g.Expect(join()).To(Equal("no change\n"), "a cluster that runs changes nothing of it")
}

// prepareHost applies the host's part until the test ends, and sees that what was
// there is back then.
func (by hands) prepareHost() {
	by.t.Helper()
	script := by.file("shell", "host.sh").Content
	before := by.must("", "sh", "-c", hostState(by.steps))
	by.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(by.t.Context()), time.Minute)
		defer cancel()
		if _, err := by.run(ctx, script, "sh", "-s", "undo"); err != nil {
			by.t.Error(err)
		}
		after, err := by.run(ctx, "", "sh", "-c", hostState(by.steps))
		if err != nil || after != before {
			by.t.Errorf("the host was\n%s\nand is, after undo,\n%s\n%v", before, after, err)
		}
	})
	by.must(script, "sh", "-s")
	by.g.Expect(by.must(script, "sh", "-s")).To(Equal("no change\n"))
}

// hostState prints the sysctls that the host's part sets, and its file.
func hostState(s export.Steps) string {
	script := "export LC_ALL=C\n"
	for _, f := range s.Host.Files {
		script += "if [ -e " + f.Path + " ]; then sha256sum " + f.Path + "; else echo no " + f.Path + "; fi\n"
	}
	for _, one := range s.Host.Sysctls {
		script += "cat " + one.File() + "\n"
	}
	return script
}

// TestPlainLXC starts a container with LXC alone, by the lines that were
// exported, and runs the node's script in it: every fix is in effect that can be
// before Kubernetes is installed.
func TestPlainLXC(t *testing.T) {
	by := open(t, "smoke")
	const node = "plain-lxc"
	folder := filepath.Join(host.StateDir(), "pool", node)
	rootfs := filepath.Join(folder, "rootfs")
	lxc := func(ctx context.Context, stdin, command string, args ...string) (string, error) {
		return by.run(ctx, stdin, append([]string{command, "--lxcpath", folder, "--name", node}, args...)...)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		_, _ = lxc(ctx, "", "lxc-stop", "--kill") // it may never have run
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	by.prepareHost()
	by.g.Expect(os.MkdirAll(folder, 0o755)).To(Succeed())
	by.must("", "rdsquashfs", "--quiet", "--unpack-root", folder, "--unpack-path", "/", "--chmod", "--chown", "--set-xattr", by.images[matrix.RoleServer].Path)
	config := filepath.Join(folder, "config")
	by.g.Expect(os.WriteFile(config, []byte("lxc.include = /usr/share/lxc/config/common.conf\nlxc.uts.name = "+node+"\nlxc.rootfs.path = dir:"+rootfs+
		"\nlxc.net.0.type = veth\nlxc.net.0.link = "+by.bridge+"\nlxc.net.0.flags = up\nlxc.net.0.name = eth0\n"+by.file("lxc-conf", "lxc.conf").Content), 0o600)).To(Succeed())
	log := filepath.Join(by.dir, "lxc.log")
	if _, err := lxc(t.Context(), "", "lxc-start", "--rcfile", config, "--logfile", log, "--logpriority", "INFO"); err != nil {
		said, _ := os.ReadFile(log)
		t.Fatalf("%v\n%s", err, said)
	}
	attach := func(ctx context.Context, stdin string, args ...string) (string, error) {
		return lxc(ctx, stdin, "lxc-attach", append([]string{"--clear-env", "--"}, args...)...)
	}
	in := func(stdin string, args ...string) string {
		t.Helper()
		out, err := attach(t.Context(), stdin, args...)
		by.g.Expect(err).NotTo(HaveOccurred())
		return out
	}
	in("", "sh", "-c", booted)
	script := by.file("shell", "node.sh").Content
	in(script, "sh", "-s")
	by.g.Expect(in(script, "sh", "-s")).To(Equal("no change\n"))

	address := strings.TrimSpace(in("", "sh", "-c", "ip -4 -o address show dev eth0 | sed 's,.* inet \\([0-9.]*\\)/.*,\\1,'"))
	for _, e := range fix.Verify(t.Context(), attached{name: node, attach: attach}, by.want(node, address), matrix.PhaseFix) {
		by.g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
		t.Logf("%s: %s", e.Check, e.Saw)
	}
}

// withAnsible has a node of Debian's run playbooks and lint them.
const withAnsible = `export DEBIAN_FRONTEND=noninteractive
apt-get -q -o Acquire::Retries=3 update
apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends ansible-core ansible-lint`

// TestAnsible runs the node's playbooks in a node, on itself: the second time
// changes nothing, undoing brings back what was there, and ansible-lint has
// nothing to say of any playbook.
func TestAnsible(t *testing.T) {
	by := open(t, "smoke")
	const node = "ansible"
	files, err := export.Write("ansible", by.steps)
	by.g.Expect(err).NotTo(HaveOccurred())
	folder := filepath.Join(by.dir, "exported")
	var playbooks []string
	for _, f := range files {
		target := filepath.Join(folder, f.Path)
		by.g.Expect(os.MkdirAll(filepath.Dir(target), 0o755)).To(Succeed())
		by.g.Expect(os.WriteFile(target, []byte(f.Content), 0o600)).To(Succeed())
		if filepath.Ext(f.Path) == ".yml" && !strings.Contains(f.Path, "/") {
			playbooks = append(playbooks, f.Path)
		}
	}
	by.g.Expect(playbooks).To(ConsistOf("host.yml", "host-undo.yml", "node.yml", "node-undo.yml"))
	by.launch(map[string]matrix.Role{node: matrix.RoleServer})
	by.in(node, "", "sh", "-ec", withAnsible)
	by.incus("", "file", "push", "--recursive", folder, node+"/root")
	in := func(args ...string) string {
		t.Helper()
		return by.incus("", append([]string{"exec", node, "--cwd", "/root/exported", "--env", "HOME=/root", "--env", "LC_ALL=C.UTF-8", "--"}, args...)...)
	}
	// play is how many tasks changed something.
	play := func(playbook string) int {
		t.Helper()
		out := in("ansible-playbook", "--connection", "local", "--inventory", "localhost,", playbook)
		recap := regexp.MustCompile(`(?m)^localhost +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 `).FindStringSubmatch(out)
		by.g.Expect(recap).NotTo(BeNil(), "%s", out)
		t.Logf("%s: %s", playbook, recap[0])
		changed, err := strconv.Atoi(recap[1])
		by.g.Expect(err).NotTo(HaveOccurred())
		return changed
	}
	in(append([]string{"ansible-lint", "--offline", "--strict", "--profile", "production"}, playbooks...)...)

	fresh := by.in(node, by.state(), "sh", "-s")
	by.g.Expect(play("node.yml")).To(BeNumerically(">", 0))
	applied := by.in(node, by.state(), "sh", "-s")
	by.g.Expect(applied).NotTo(Equal(fresh))
	by.g.Expect(play("node.yml")).To(BeZero())
	by.g.Expect(by.in(node, by.state(), "sh", "-s")).To(Equal(applied))
	by.g.Expect(play("node-undo.yml")).To(BeNumerically(">", 0))
	by.g.Expect(by.in(node, by.state(), "sh", "-s")).To(Equal(fresh))
	by.g.Expect(play("node-undo.yml")).To(BeZero())
}

// withCloudInit has a node of Debian's take its first boot's instructions from a
// folder. The image configures eth0, which cloud-init is to leave alone, and has
// no SSH to make keys for. That the network is online waits for an address, as in
// an image of somebody who uses cloud-init.
const withCloudInit = `export DEBIAN_FRONTEND=noninteractive
apt-get -q -o Acquire::Retries=3 update
apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends cloud-init
systemctl unmask --quiet systemd-networkd-wait-online.service
systemctl enable --quiet systemd-networkd-wait-online.service
printf 'datasource_list: [NoCloud]\nnetwork: {config: disabled}\nssh_genkeytypes: []\n' >/etc/cloud/cloud.cfg.d/99-test.cfg
mkdir -p /var/lib/cloud/seed/nocloud
cat >/var/lib/cloud/seed/nocloud/user-data
printf 'instance-id: %s\nlocal-hostname: %s\n' "$(hostname)" "$(hostname)" >/var/lib/cloud/seed/nocloud/meta-data`

// TestCloudInit boots a node with the cloud-config, which does what the node's
// script does, and nothing once it has.
func TestCloudInit(t *testing.T) {
	by := open(t, "smoke")
	const node = "cloud-init"
	by.launch(map[string]matrix.Role{node: matrix.RoleServer})
	by.in(node, by.file("cloud-init", "user-data").Content, "sh", "-ec", withCloudInit)
	fresh := by.in(node, by.state(), "sh", "-s")
	by.incus("", "restart", node)
	by.in(node, "", "sh", "-c", booted)
	t.Logf("%s", by.in(node, "", "cloud-init", "status", "--wait", "--long"))
	t.Logf("%s", by.in(node, "", "cat", "/var/log/cloud-init-output.log"))
	by.g.Expect(by.in(node, by.state(), "sh", "-s")).NotTo(Equal(fresh))
	by.g.Expect(by.in(node, by.file("shell", "node.sh").Content, "sh", "-s")).To(Equal("no change\n"))
	by.in(node, "", "/usr/local/sbin/lxcmatrix-node", "undo")
	by.g.Expect(by.in(node, by.state(), "sh", "-s")).To(Equal(fresh))
}

// attached is a container of LXC's as far as fixes are verified in it.
type attached struct {
	provisioner.Node
	name   string
	attach func(ctx context.Context, stdin string, args ...string) (string, error)
}

// Name is the container's.
func (a attached) Name() string { return a.name }

// Exec runs a command in it.
func (a attached) Exec(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	var stdin []byte
	if cmd.Stdin != nil {
		var err error
		if stdin, err = io.ReadAll(cmd.Stdin); err != nil {
			return provisioner.Output{}, err
		}
	}
	out, err := a.attach(ctx, string(stdin), cmd.Args...)
	return provisioner.Output{Stdout: out}, err
}
