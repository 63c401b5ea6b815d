package catalog_test

import (
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
)

// TestGatesOfTheBuiltInKernels: what cannot be is told from what the matrix
// declares alone, and nothing else is ruled out by it.
func TestGatesOfTheBuiltInKernels(t *testing.T) {
	knowledge, err := catalog.LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := config.Builtin("kernels")
	if err != nil {
		t.Fatal(err)
	}
	cells, err := m.Cells()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"k7-v1": "incus7-cgroup-v1", "k5.10-incus7": "incus-kernel"}
	ruledOut := 0
	for _, c := range cells {
		gate, err := knowledge.Decide(c)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if gate != nil {
			got, ruledOut = gate.Gate, ruledOut+1
		}
		if got != want[c.Host.Name] {
			t.Errorf("cell %s: gate %q, want %q", c.ID, got, want[c.Host.Name])
		}
	}
	if len(cells) != 9 || ruledOut != len(want) {
		t.Errorf("%d of %d cells are ruled out, want %d of 9", ruledOut, len(cells), len(want))
	}
}

// TestEveryCellOfTheBuiltInGatesDefiesOne: or the run that probes the gates
// would be green for proving nothing.
func TestEveryCellOfTheBuiltInGatesDefiesOne(t *testing.T) {
	knowledge, err := catalog.LoadKnowledge(t.Context(), "../../fixtures/probes")
	if err != nil {
		t.Fatal(err)
	}
	m, err := config.Builtin("gates")
	if err != nil {
		t.Fatal(err)
	}
	cells, err := m.Cells()
	if err != nil {
		t.Fatal(err)
	}
	probed := map[string]bool{}
	for _, c := range cells {
		c.DefyGates, c.Without = true, []string{"cgroup-v1-kubelet"}
		if c.Gate, err = knowledge.Decide(c); err != nil {
			t.Fatal(err)
		}
		if !c.Defied() || !knowledge.HasSignature(c.Gate.Probe.Signature) {
			t.Errorf("cell %s defies nothing: %v", c.ID, c.Gate)
			continue
		}
		probed[c.Gate.Gate] = true
		c.DefyGates = false
		if gate, err := knowledge.Decide(c); err != nil || (gate == nil) != (c.Host.Name == "k6.1-v1") {
			t.Errorf("cell %s without defying: gate %v, %v; only a fix that is left out lifts", c.ID, gate, err)
		}
	}
	if len(probed) != 2 || !probed["kubelet-cgroup-v1"] || !probed["kube-proxy-nftables"] {
		t.Errorf("probed are %v", probed)
	}
}

// TestObservedFactsCountAtAdmission: what a host turns out to be rules out
// what was declared of it.
func TestObservedFactsCountAtAdmission(t *testing.T) {
	knowledge, err := catalog.LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Minor: "1.34", Version: "1.34.4"}, OS: matrix.OS{Name: "debian/13"},
		Host: matrix.HostRef{Name: "k5.10-v1", Driver: "qemu", Cgroup: "v1", QEMU: matrix.QEMURef{OS: "debian/12", Kernel: "debian/5.10", Incus: "bookworm-backports"}}}
	for name, tc := range map[string]struct {
		host *matrix.HostFacts
		want string
	}{
		"as declared":             {nil, ""},
		"as it should be":         {&matrix.HostFacts{Kernel: "5.10.0-35-cloud-amd64", Cgroup: "v1", Incus: "6.0.4", LXC: "5.0.2", Controllers: []string{"cpuset", "memory"}}, ""},
		"an Incus that is newer":  {&matrix.HostFacts{Kernel: "5.10.0-35-cloud-amd64", Cgroup: "v1", Incus: "7.0.2", LXC: "6.0.4"}, "incus-kernel"},
		"a kernel without memory": {&matrix.HostFacts{Kernel: "6.12.1", Cgroup: "v1", Incus: "6.0.4", LXC: "6.0.4", Controllers: []string{"cpuset"}}, "cgroup-v1-controllers"},
	} {
		gate, err := knowledge.Gate(c, tc.host)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if gate != nil {
			got = gate.Gate
		}
		if got != tc.want {
			t.Errorf("%s: gate %q, want %q", name, got, tc.want)
		}
	}
}
