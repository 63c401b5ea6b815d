package matrix_test

import (
	"path/filepath"
	"strings"
	"testing"

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
