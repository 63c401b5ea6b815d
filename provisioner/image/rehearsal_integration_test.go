//go:build integration

package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
)

// rehearsal is the OS that the ways of the RHEL family are tried in: Debian, with
// what that family has and Debian packages as well.
const rehearsal = "el-rehearsal/1"

// rehearse makes a root filesystem the rehearsal's. Packages of the names that
// are its arguments are in a repository of its own, and hold a file each.
const rehearse = `root=$1; shift
rm -f "$root/etc/hostname"
printf 'NAME="EL rehearsal"\nID=el-rehearsal\nVERSION_ID="1"\nPRETTY_NAME="EL rehearsal: Debian with dnf"\n' > "$root/usr/lib/os-release"
mkdir -p "$root/opt/rehearsal" "$root/etc/yum.repos.d"
printf '[rehearsal]\nname=rehearsal\nbaseurl=file:///opt/rehearsal\ngpgcheck=0\n' > "$root/etc/yum.repos.d/rehearsal.repo"
{
	printf 'Name: rehearsal\nVersion: 1\nRelease: 1\nSummary: rehearsal\nLicense: none\nBuildArch: noarch\n%%description\n'
	for name; do printf '%%package -n %s\nSummary: rehearsal\n%%description -n %s\n%%files -n %s\n/usr/share/rehearsal/%s\n' "$name" "$name" "$name" "$name"; done
	printf '%%install\nmkdir -p %%{buildroot}/usr/share/rehearsal; cd %%{buildroot}/usr/share/rehearsal; touch %s\n' "$*"
} > "$root/tmp/rehearsal.spec"
chroot "$root" rpmbuild -bb --quiet --define '_rpmdir /opt/rehearsal' --define '_topdir /tmp/rpmbuild' /tmp/rehearsal.spec
chroot "$root" createrepo_c --quiet /opt/rehearsal
rm -rf "$root/tmp/rpmbuild" "$root/tmp/rehearsal.spec"`

// disk is a machine's disk with the rehearsal on it: a small partition first,
// and the root filesystem on the second.
func disk(t *testing.T, family Family) string {
	t.Helper()
	g := NewWithT(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	g.Expect(debian.Bootstrap(t.Context(), debian.Root{Suite: "trixie", Variant: "minbase",
		Packages:  []string{"systemd", "systemd-sysv", "dbus", "iproute2", "ca-certificates", "procps", "network-manager", "firewalld", "dnf", "rpm", "createrepo-c"},
		Customize: []string{"sh -ec '" + strings.ReplaceAll(rehearse, "'", `'\''`) + `' rehearse "$1" ` + strings.Join(family.Packages, " ")},
	}, dir, root)).To(Succeed())
	// A machine's: in a container nothing could mount it.
	g.Expect(os.WriteFile(filepath.Join(root, "etc/fstab"), []byte("UUID=5f0c6a1e-0000-4000-8000-000000000000 /boot ext4 defaults 0 2\n"), 0o600)).To(Succeed())
	const sector, first, second, end = 512, 2048, 2048 + 2048*8, 2048 + 2048*1600
	raw := filepath.Join(dir, "disk.raw")
	f, err := os.Create(raw)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Truncate((end + 2048) * sector)).To(Succeed())
	table := gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, Partitions: []*gpt.Partition{
		{Index: 1, Start: first, End: second - 1, Type: gpt.LinuxFilesystem, Name: "empty"},
		{Index: 2, Start: second, End: end - 1, Type: gpt.LinuxFilesystem, Name: "root"}}}
	g.Expect(errors.Join(table.Write(f, (end+2048)*sector), f.Close())).To(Succeed())
	qcow2 := filepath.Join(dir, "disk.qcow2")
	for _, args := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-E", "offset=9437184,root_owner=0:0,lazy_itable_init=1,nodiscard", "-d", root, raw, "1500M"},
		{"qemu-img", "convert", "-O", "qcow2", raw, qcow2}, {"rm", "-rf", root, raw},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return qcow2
}

// TestRehearsal takes a machine's disk, prepares an image of it by the way that
// the RHEL family has, and sees a node of it come up, with the fixes that
// belong to NetworkManager and firewalld, and come back.
func TestRehearsal(t *testing.T) {
	g := NewWithT(t)
	family, err := fs.ReadFile(fixtures.OS(), "families/el.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	oses, err := LoadOS(fstest.MapFS{"families/el.yaml": {Data: family}, "rehearsal.yaml": {Data: []byte("name: " + rehearsal + "\nfamily: el\n")}})
	g.Expect(err).NotTo(HaveOccurred())
	h := embedded(t, 8<<30)
	store := &Store{Workshop: On(h.Server), CacheDir: t.TempDir(), OSes: oses}

	taken, err := store.Take(t.Context(), rehearsal, disk(t, oses[0].Family), "")
	g.Expect(err).NotTo(HaveOccurred())
	prepared, err := store.Prepare(t.Context(), rehearsal, Content{Name: "nothing", Version: "1", Brings: Brings{Runtime: true, Plugins: true}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(prepared).To(And(HaveField("Base", taken.Fingerprint), HaveField("Source", SourceImported)))
	g.Expect(store.Import(t.Context(), h.Server, prepared)).To(Succeed())

	const name = "rehearsal"
	address, err := h.Reserve(t.Context(), name)
	g.Expect(err).NotTo(HaveOccurred())
	node, err := h.CreateNode(t.Context(), provisioner.NodeSpec{Name: name, Image: prepared.Fingerprint, Address: address,
		Owner: map[string]string{"kind": "node"}, Limits: matrix.NodeLimits{MemoryBytes: 2 << 30, Processes: 2048, CPUs: 2},
		Incus: provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true", "security.nesting": "true"}}})
	g.Expect(err).NotTo(HaveOccurred())
	shell := func(script string) string {
		out, err := node.Exec(t.Context(), provisioner.Command{Args: []string{"sh", "-c", script}})
		var failed *provisioner.CommandError
		if err != nil && !errors.As(err, &failed) {
			t.Fatalf("%s: %v", script, err)
		}
		return strings.TrimSpace(out.Stdout)
	}
	up := func() {
		t.Helper()
		g.Eventually(func() string {
			return shell("systemctl is-system-running --wait; systemctl --failed --plain --no-legend")
		}).
			WithTimeout(2 * time.Minute).WithPolling(time.Second).Should(HavePrefix("running"))
		g.Eventually(func() string {
			return shell("ip -4 -o address show dev eth0 | awk '{print $4}'; ip route show default")
		}).
			WithTimeout(time.Minute).WithPolling(time.Second).Should(And(HavePrefix(address+"/"), ContainSubstring("default via "+h.Network().Gateway+" dev eth0")))
		g.Expect(shell("hostname; nmcli -t -f DEVICE,STATE,CONNECTION device | grep ^eth0")).To(Equal(name + "\neth0:connected:lxcmatrix-eth0"))
	}
	up()
	g.Expect(shell("rpm -q --qf '%{NAME}\\n' "+strings.Join(oses[0].Family.Packages, " ")+"; ls /var/cache/dnf 2>/dev/null")).To(Equal(strings.Join(oses[0].Family.Packages, "\n")), "what dnf installed, and what it left")
	g.Expect(shell("cat /etc/os-release")).To(ContainSubstring("ID=el-rehearsal\n"))
	g.Expect(shell("for u in NetworkManager firewalld; do systemctl show --property LoadState --value $u.service; done; systemctl is-active firewalld.service")).
		To(Equal("loaded\nloaded\nactive"))

	// Both fixes apply, since the node has both.
	catalogue, err := fix.Load(fix.Source{Name: "fixes", FS: fixtures.Fixes()})
	g.Expect(err).NotTo(HaveOccurred())
	decisions, err := catalogue.Decide(fix.FactsOf(matrix.Cell{OS: matrix.OS{Name: rehearsal}}, nil,
		&matrix.NodeFacts{NetworkManager: new(true), Firewalld: new(true)}), fix.Choice{})
	g.Expect(err).NotTo(HaveOccurred())
	var chosen []*fix.Fix
	for _, f := range fix.Chosen(decisions) {
		if slices.Contains([]string{"nm-unmanaged", "firewalld"}, f.ID) {
			chosen = append(chosen, f)
		}
	}
	g.Expect(chosen).To(HaveLen(2))
	want, err := fix.Merge(chosen, fix.Context{NodeName: name, NodeAddress: address})
	g.Expect(err).NotTo(HaveOccurred())

	// What a CNI makes. Without the fix NetworkManager takes some of it.
	const pods = `ip link add cni0 type bridge && ip link add veth0 type veth peer name veth1 && ip link set veth0 master cni0 up &&
		ip link set veth1 up && ip address add 10.244.0.1/24 dev cni0 && ip link set cni0 up && ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 && ip link set flannel.1 up`
	shell(pods)
	const managed = "nmcli -t -f DEVICE,STATE device | grep -E '^(cni0|veth|flannel)' | grep -v :unmanaged$"
	g.Eventually(func() string { return shell(managed) }).WithTimeout(30 * time.Second).WithPolling(time.Second).ShouldNot(BeEmpty())
	healthy := func() {
		t.Helper()
		g.Eventually(func() []matrix.Evidence { return fix.Verify(t.Context(), node, want, matrix.PhaseBaseline) }).
			WithTimeout(30 * time.Second).WithPolling(time.Second).Should(And(HaveLen(3), HaveEach(HaveField("Outcome", matrix.Healthy))))
		g.Expect(shell(managed)).To(BeEmpty())
	}
	g.Expect(fix.Apply(t.Context(), node, want)).To(Succeed())
	healthy()

	// Routes to the pods of other nodes are NetworkManager's here.
	others := []bridge.Route{{Pods: "10.244.1.0/24", By: h.Network().Gateway}, {Pods: "10.244.2.0/24", By: h.Network().Gateway}}
	routed := func() {
		t.Helper()
		g.Eventually(func() string {
			return shell("ip route | grep ^10.244 | grep eth0 | cut -d' ' -f1-5 | sort")
		}).WithTimeout(30 * time.Second).WithPolling(time.Second).
			Should(Equal("10.244.1.0/24 via " + h.Network().Gateway + " dev eth0\n10.244.2.0/24 via " + h.Network().Gateway + " dev eth0"))
	}
	for range 2 {
		g.Expect(bridge.Lay(t.Context(), node, others)).To(Succeed())
		routed()
	}

	for _, restart := range []func(context.Context) error{node.Restart, node.ForceRestart} {
		g.Expect(restart(t.Context())).To(Succeed())
		up()
		routed()
		shell(pods)
		healthy()
	}
}
