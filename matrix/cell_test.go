package matrix_test

import (
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func TestNewID(t *testing.T) {
	c := cell()
	c.Topology = matrix.Topology{Servers: 1, Agents: 1}
	c.Variants = []string{"k6.12-v2", "flannel"}
	if got, want := c.NewID(), matrix.CellID("kubeadm-1.34/debian-13/1+1/embedded/k6.12-v2/flannel"); got != want {
		t.Errorf("ID %s, want %s", got, want)
	}
}

func TestFileName(t *testing.T) {
	for id, want := range map[matrix.CellID]string{
		"kubeadm-1.34/debian-13/1+1/embedded": "kubeadm-1.34_debian-13_1+1_embedded",
		"a/b_c":                               "a_b%5Fc",
		"a_b/c":                               "a%5Fb_c",
		"../etc":                              "%2E._etc",
		"a\x00b%":                             "a%00b%25",
	} {
		if got := id.FileName(); got != want {
			t.Errorf("%q is named %q, want %q", id, got, want)
		}
	}
}

func FuzzFileName(f *testing.F) {
	f.Add("a/b_c", "a_b/c")
	f.Add("..", ".")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := matrix.CellID(a).FileName(), matrix.CellID(b).FileName()
		if (a == b) != (x == y) {
			t.Errorf("%q and %q are named %q and %q", a, b, x, y)
		}
		if a != "" && (!filepath.IsLocal(x) || filepath.Base(x) != x || strings.HasPrefix(x, ".")) {
			t.Errorf("%q is named %q, which is no file's name", a, x)
		}
	})
}

func TestParseTopology(t *testing.T) {
	for in, want := range map[string]matrix.Topology{"1": {Servers: 1}, "3": {Servers: 3}, "1+2": {Servers: 1, Agents: 2}, "9+50": {Servers: 9, Agents: 50}} {
		got, err := matrix.ParseTopology(in)
		if err != nil || got != want || got.String() != in || got.Nodes() != want.Servers+want.Agents {
			t.Errorf("%q reads as %v, error %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "10", "-1", "+1", "1+", "1+0", "1+51", "1++2", "01", "1+02", " 1", "1+1+1", "one", "1.0", "1+-1"} {
		if got, err := matrix.ParseTopology(in); err == nil {
			t.Errorf("%q reads as %v, want an error", in, got)
		}
	}
}

// What reads at all reads as itself, within the limits.
func FuzzParseTopology(f *testing.F) {
	for _, s := range []string{"1", "3", "1+2", "01", "1++2", "9+50", "10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := matrix.ParseTopology(s)
		if err != nil {
			if got != (matrix.Topology{}) {
				t.Errorf("%q is refused and still reads as %v", s, got)
			}
			return
		}
		if got.String() != s || got.Servers < 1 || got.Servers > 9 || got.Agents < 0 || got.Agents > 50 {
			t.Errorf("%q reads as %v", s, got)
		}
	})
}

func TestQEMUSize(t *testing.T) {
	cpus, memory := matrix.QEMURef{}.Size()
	if cpus != matrix.DefaultQEMUCPUs || memory != matrix.DefaultQEMUMemoryBytes {
		t.Errorf("nothing said: %d CPUs, %d bytes", cpus, memory)
	}
	cpus, memory = matrix.QEMURef{CPUs: 3, MemoryBytes: 8 << 30}.Size()
	if cpus != 3 || memory != 8<<30 {
		t.Errorf("said: %d CPUs, %d bytes", cpus, memory)
	}
	for accel, want := range map[string]int64{"": 2 << 30, "auto": 2 << 30, "tcg": 2 << 30, "kvm": 0} {
		if got := (matrix.QEMURef{Accel: accel}).Overhead(); got != want {
			t.Errorf("accelerator %q: %d bytes beside the machine's, want %d", accel, got, want)
		}
	}
}

func TestQEMUDefaults(t *testing.T) {
	for _, tc := range []struct {
		cgroup     string
		have, want matrix.QEMURef
	}{
		{"v2", matrix.QEMURef{}, matrix.QEMURef{OS: "debian/13", Kernel: "debian/6.12", Incus: "trixie"}},
		{"v1", matrix.QEMURef{}, matrix.QEMURef{OS: "debian/12", Kernel: "debian/6.1", Incus: "bookworm-backports"}},
		{"v1", matrix.QEMURef{OS: "debian/13"}, matrix.QEMURef{OS: "debian/13", Kernel: "debian/6.12", Incus: "trixie"}},
		{"v2", matrix.QEMURef{OS: "debian/12", Kernel: "/boot/vmlinuz", Accel: "tcg"},
			matrix.QEMURef{OS: "debian/12", Kernel: "/boot/vmlinuz", Incus: "bookworm-backports", Accel: "tcg"}},
		{"v2", matrix.QEMURef{OS: "plan9"}, matrix.QEMURef{OS: "plan9"}},
	} {
		tc.want.CPUs, tc.want.MemoryBytes, tc.want.DiskBytes = matrix.DefaultQEMUCPUs, matrix.DefaultQEMUMemoryBytes, matrix.DefaultQEMUDiskBytes
		if tc.want.Accel == "" {
			tc.want.Accel = "auto"
		}
		if got := tc.have.WithDefaults(tc.cgroup); got != tc.want {
			t.Errorf("%+v on %s is %+v, want %+v", tc.have, tc.cgroup, got, tc.want)
		}
	}
}

func TestOSIs(t *testing.T) {
	for _, tc := range []struct {
		os, id, version string
		want            bool
	}{
		{"debian/13", "debian", "13", true},
		{"debian/13", "debian", "12", false},
		{"debian/1", "debian", "13", false},
		{"debian/13", "ubuntu", "13", false},
		{"debian/13", "", "", false},
		{"almalinux/10", "almalinux", "10.1", true},
		{"rockylinux/10", "rocky", "10.1", true},
		{"rockylinux/10", "rockylinux", "10.1", false},
		{"oracle/10", "ol", "10.0", true},
		{"centos/10-Stream", "centos", "10", true},
		{"rhel/10", "rhel", "10.2", true},
		{"rhel/10", "rhel", "9.6", false},
		{"rhel/10", "almalinux", "10.1", false},
	} {
		if got := (matrix.OS{Name: tc.os}).Is(tc.id, tc.version); got != tc.want {
			t.Errorf("%s is %s %s: %t, want %t", tc.os, tc.id, tc.version, got, tc.want)
		}
	}
}

func TestContradiction(t *testing.T) {
	ref := func(cgroup, kernel string) matrix.HostRef {
		return matrix.HostRef{Name: "lab", Cgroup: cgroup, QEMU: matrix.QEMURef{Kernel: kernel}}
	}
	for _, tc := range []struct {
		declared       matrix.HostRef
		kernel, cgroup string
		want           string
	}{
		{ref("", ""), "6.18.5", "v1", ""},
		{ref("v1", ""), "6.18.5", "v1", ""},
		{ref("v2", ""), "6.18.5", "v1", "host lab has cgroup v1, the matrix says v2"},
		{ref("v2", ""), "6.18.5", "", ""},
		{ref("", "debian/6.1"), "6.1.0-40-cloud-amd64", "v2", ""},
		{ref("", "debian/6.1"), "6.12.43+deb13-cloud-amd64", "v2", "host lab runs kernel 6.12.43+deb13-cloud-amd64, the matrix says debian/6.1"},
		{ref("", "debian/7"), "7.0.4+deb14-cloud-amd64", "v2", ""},
		{ref("", "debian/7"), "6.18.5", "v2", "host lab runs kernel 6.18.5, the matrix says debian/7"},
		{ref("", "debian/6.1"), "", "v2", ""},
		{ref("", "linux-image-6.1.0-40-cloud-amd64"), "6.1.0-40-cloud-amd64", "v2", ""},
		{ref("", "/boot/vmlinuz"), "6.1.0", "v2", ""},
		{ref("", "./6.1"), "6.12.0", "v2", ""},
	} {
		got := tc.declared.Contradiction(matrix.HostFacts{Kernel: tc.kernel, Cgroup: tc.cgroup})
		if got != tc.want {
			t.Errorf("declared %q %q, observed %q %q: got %q, want %q", tc.declared.Cgroup, tc.declared.QEMU.Kernel, tc.cgroup, tc.kernel, got, tc.want)
		}
	}
}

// TestByOS: a cell is what each of its OSes makes of it.
func TestByOS(t *testing.T) {
	g := NewWithT(t)
	c := matrix.Cell{OS: matrix.OS{Name: "debian/12", Agents: "debian/13"}, Topology: matrix.Topology{Servers: 1, Agents: 2}}
	g.Expect(c.OS.Written()).To(Equal("debian/12+debian/13"))
	g.Expect(c.OS.String()).To(Equal("debian-12+debian-13"))
	var each []string
	for _, one := range c.ByOS() {
		each = append(each, one.OS.Written())
	}
	g.Expect(each).To(Equal([]string{"debian/12", "debian/13"}))
	var roles []matrix.Role
	for i := range c.Topology.Nodes() {
		roles = append(roles, c.Topology.Role(i))
	}
	g.Expect(roles).To(Equal([]matrix.Role{matrix.RoleServer, matrix.RoleAgent, matrix.RoleAgent}))
	c.OS.Agents = ""
	g.Expect(c.OSOf(matrix.RoleAgent)).To(Equal(matrix.OS{Name: "debian/12"}))
	g.Expect(c.ByOS()).To(HaveLen(1))
	c.Variants = []string{"flannel", "unprivileged"}
	g.Expect(c.Variant()).To(Equal("flannel/unprivileged"))
	c.Variants = nil
	g.Expect(c.Variant()).To(Equal(matrix.NoVariant))
}
