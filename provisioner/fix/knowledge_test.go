package fix_test

import (
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
)

func embedded(t *testing.T) (*fix.Catalogue, *fix.Gates) {
	t.Helper()
	cat, err := fix.Load(fix.Source{Name: "fixes", FS: fixtures.Fixes()})
	if err != nil {
		t.Fatal(err)
	}
	gates, err := fix.LoadGates(cat, fix.Source{Name: "gates", FS: fixtures.Gates()})
	if err != nil {
		t.Fatal(err)
	}
	return cat, gates
}

func TestEmbeddedFixesAreComplete(t *testing.T) {
	cat, gates := embedded(t)
	if len(cat.All()) < 20 || len(gates.All()) < 3 {
		t.Fatalf("%d fixes and %d gates are embedded", len(cat.All()), len(gates.All()))
	}
	for _, f := range cat.All() {
		if path.Base(f.File()) != f.ID+".yaml" {
			t.Errorf("fix %s is in %s", f.ID, f.File())
		}
		for _, source := range f.Sources {
			if u, err := url.Parse(source); err != nil || u.Scheme != "https" {
				t.Errorf("fix %s: source %q is no https link", f.ID, source)
			}
		}
	}
	for _, g := range gates.All() {
		if u, err := url.Parse(g.Source); err != nil || u.Scheme != "https" {
			t.Errorf("gate %s: source %q is no https link", g.ID, g.Source)
		}
	}
	entries, err := os.ReadDir("../../fixtures/fixes")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(cat.All()) {
		t.Errorf("%d files, %d fixes", len(entries), len(cat.All()))
	}
}

// always are the fixes that every privileged cell needs.
var always = []string{"eviction-disk", "host-sysctls", "ids", "incus-nesting", "incus-privileged", "kmsg-device", "net-sysctls",
	"raw-lxc-cap-drop", "raw-lxc-proc-rw", "resolv", "stop-timeout"}

func kubeadmOnly() []string {
	return []string{"cgroup-driver", "conntrack-max", "kubeadm-preflight", "swap"}
}

func TestWhichFixesApply(t *testing.T) {
	cat, _ := embedded(t)
	full := []string{"CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME"}
	cell := func(distro, version string, variants ...string) matrix.Cell {
		return matrix.Cell{Distro: matrix.Distro{Name: distro, Version: version}, OS: matrix.OS{Name: "debian/13"}, Variants: variants}
	}
	for name, tc := range map[string]struct {
		cell    matrix.Cell
		host    matrix.HostFacts
		without []string
		want    []string
		leftOut []string
	}{
		"kubeadm on a split cgroup v1 host without CAP_SYS_RESOURCE": {
			cell: cell("kubeadm", "1.34.4"),
			host: matrix.HostFacts{Kernel: "6.18.44-fc-v657", Cgroup: "v1", CgroupCPUSplit: true, AppArmor: new(false), Incus: "6.0.4", LXC: "5.0.2",
				Storage: "dir", Capabilities: []string{"CAP_SYS_ADMIN", "CAP_SYS_TIME"}},
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
		"the same with one fix left out": {
			cell: cell("kubeadm", "1.34.4"),
			host: matrix.HostFacts{Kernel: "6.18.44-fc-v657", Cgroup: "v1", CgroupCPUSplit: true, AppArmor: new(false), Incus: "6.0.4", LXC: "5.0.2",
				Storage: "dir", Capabilities: []string{"CAP_SYS_ADMIN", "CAP_SYS_TIME"}},
			without: []string{"cgroup1-split-cpu", "cgroup-v1-kubelet"},
			want:    append(kubeadmOnly(), "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
			leftOut: []string{"cgroup1-split-cpu"},
		},
		"kubeadm on a cgroup v2 host with AppArmor": {
			cell: cell("kubeadm", "1.34.4"),
			host: matrix.HostFacts{Kernel: "6.12.43+deb13-cloud-amd64", Cgroup: "v2", AppArmor: new(true), Incus: "6.0.4", LXC: "6.0.4",
				Storage: "dir", Capabilities: full},
			want: append(kubeadmOnly(), "containerd-apparmor", "raw-lxc-apparmor", "raw-lxc-devices-v2", "rshared-by-lxc"),
		},
		"RKE2 on a cgroup v1 host with joint controllers": {
			cell: cell("rke2", "1.36.3+rke2r1"),
			host: matrix.HostFacts{Kernel: "5.10.0-35-amd64", Cgroup: "v1", AppArmor: new(true), Incus: "6.0.4", LXC: "5.0.2", Storage: "dir", Capabilities: full},
			want: []string{"cgroup-v1-kubelet", "containerd-apparmor", "raw-lxc-apparmor", "raw-lxc-devices-v1", "rshared"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, err := cat.Decide(fix.FactsOf(tc.cell, &tc.host, nil), tc.without)
			if err != nil {
				t.Fatal(err)
			}
			if open := fix.Open(decisions); len(open) > 0 {
				t.Errorf("undecided although everything was observed: %v", open)
			}
			var applied, leftOut []string
			for _, d := range decisions {
				switch d.State {
				case fix.Applied:
					applied = append(applied, d.Fix.ID)
				case fix.LeftOut:
					leftOut = append(leftOut, d.Fix.ID)
				}
			}
			want := slices.Sorted(slices.Values(append(tc.want, always...)))
			if !slices.Equal(applied, want) {
				t.Errorf("applied:\n%v\nwant:\n%v", applied, want)
			}
			if !slices.Equal(leftOut, tc.leftOut) {
				t.Errorf("left out %v, want %v", leftOut, tc.leftOut)
			}
			if _, err := fix.Merge(fix.Chosen(decisions), known()); err != nil {
				t.Error(err)
			}
		})
	}
}

func known() fix.Context {
	return fix.Context{NodeName: "cp1", NodeAddress: "10.7.0.5", Gateway: "10.7.0.1", Subnet: "10.7.0.0/24", Kernel: "6.18.44"}
}

func TestNothingIsDecidedOnWhatNobodyObserved(t *testing.T) {
	cat, gates := embedded(t)
	facts := fix.FactsOf(matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Minor: "1.35"}}, nil, nil)
	decisions, err := cat.Decide(facts, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cgroup1-split-cpu", "restrict-oom-score-adj", "containerd-apparmor", "rshared", "cgroup-v1-kubelet"} {
		if !slices.Contains(fix.Open(decisions), want) {
			t.Errorf("%s was decided without its facts", want)
		}
	}
	for _, d := range decisions {
		if d.Fix.ID == "cgroup1-split-cpu" && !strings.Contains(d.Why, "(not observed: cgroup, cgroup_cpu_split)") {
			t.Errorf("cgroup1-split-cpu: why %q", d.Why)
		}
	}
	finding, err := gates.Decide(facts, decisions)
	if err != nil || finding != nil {
		t.Errorf("a gate ruled a cell out on facts that nobody observed: %v, %v", finding, err)
	}
}

func TestGates(t *testing.T) {
	cat, gates := embedded(t)
	for name, tc := range map[string]struct {
		facts   fix.Facts
		without []string
		noFixes bool
		want    string
	}{
		"Incus 7 on cgroup v1":               {facts: fix.Facts{"cgroup": "v1", "incus": "7.0.2", "kernel": "6.18.44-fc-v657", "kubernetes": "1.34.2"}, want: "incus7-cgroup-v1"},
		"Incus 6.0 on cgroup v1":             {facts: fix.Facts{"cgroup": "v1", "incus": "6.0.4", "kernel": "6.18.44-fc-v657", "kubernetes": "1.34.2"}},
		"Incus 6.23 on 6.1":                  {facts: fix.Facts{"cgroup": "v2", "incus": "6.23", "kernel": "6.1.0-40-amd64"}, want: "incus-kernel"},
		"Incus 6.23 on 6.12":                 {facts: fix.Facts{"cgroup": "v2", "incus": "6.23", "kernel": "6.12.0"}},
		"Incus unobserved":                   {facts: fix.Facts{"cgroup": "v1", "kernel": "5.10"}},
		"kubelet 1.36 on v1 with the fix":    {facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.36.3", "incus": "6.0.4"}},
		"kubelet 1.36 on v1 shown to fail":   {facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.36.3", "incus": "6.0.4"}, without: []string{"cgroup-v1-kubelet"}},
		"kubelet 1.36 on v1 and no such fix": {facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.36.3", "incus": "6.0.4"}, noFixes: true, want: "kubelet-cgroup-v1"},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, err := cat.Decide(tc.facts, tc.without)
			if err != nil {
				t.Fatal(err)
			}
			if tc.noFixes {
				decisions = nil
			}
			finding, err := gates.Decide(tc.facts, decisions)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if finding != nil {
				got = finding.Gate
			}
			if got != tc.want {
				t.Errorf("gate %q, want %q", got, tc.want)
			}
		})
	}
}

func TestMergedStateOfASplitCgroupV1Node(t *testing.T) {
	cat, _ := embedded(t)
	host := matrix.HostFacts{Kernel: "6.18.44", Cgroup: "v1", CgroupCPUSplit: true, AppArmor: new(true), LXC: "6.0.4", Capabilities: []string{"CAP_SYS_TIME"}}
	decisions, err := cat.Decide(fix.FactsOf(matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4"}}, &host, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fix.Merge(fix.Chosen(decisions), known())
	if err != nil {
		t.Fatal(err)
	}
	wantRaw := []string{"lxc.apparmor.profile=unconfined", "lxc.cap.drop=", "lxc.cgroup.devices.allow=a", "lxc.mount.auto=proc:rw"}
	if !slices.Equal(got.Incus.RawLXC, wantRaw) {
		t.Errorf("raw.lxc %v, want %v", got.Incus.RawLXC, wantRaw)
	}
	if !slices.Equal(got.Host.Fixes, []string{"host-sysctls"}) || len(got.Host.Sysctls) == 0 {
		t.Errorf("of the host, %v want %v", got.Host.Fixes, got.Host.Sysctls)
	}
	if got.NodeIP != "10.7.0.5" {
		t.Errorf("node IP %q", got.NodeIP)
	}
	if got.Containerd.CRI["restrict_oom_score_adj"] != true || got.Containerd.CRI["disable_apparmor"] != true || got.Containerd.Runc["SystemdCgroup"] != true {
		t.Errorf("containerd %v", got.Containerd)
	}
	if got.Kubelet["cgroupDriver"] != "systemd" || got.Kubelet["failSwapOn"] != false || got.Kubelet["resolvConf"] != "/etc/lxcmatrix/resolv.conf" {
		t.Errorf("kubelet %v", got.Kubelet)
	}
	if evict, _ := got.Kubelet["evictionHard"].(map[string]any); evict["nodefs.available"] != "0%" {
		t.Errorf("evictionHard %v", got.Kubelet["evictionHard"])
	}
	i := slices.IndexFunc(got.Node.Files, func(f provisioner.File) bool { return f.Path == "/etc/lxcmatrix/resolv.conf" })
	if i < 0 || got.Node.Files[i].Content != "nameserver 10.7.0.1\n" {
		t.Errorf("files %v", got.Node.Files)
	}
}
