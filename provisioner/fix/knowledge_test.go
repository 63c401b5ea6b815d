package fix_test

import (
	"errors"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

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
			if strings.HasPrefix(source, "docs/ablation/") {
				if _, err := os.Stat(path.Join("../..", source)); err != nil {
					t.Errorf("fix %s: %v", f.ID, err)
				}
			} else if u, err := url.Parse(source); err != nil || u.Scheme != "https" {
				t.Errorf("fix %s: source %q is no https link, and no table of a run", f.ID, source)
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
	split := matrix.HostFacts{Kernel: "6.18.44-fc-v657", Cgroup: "v1", CgroupCPUSplit: true, AppArmor: new(false), Incus: "6.0.4", LXC: "5.0.2",
		Storage: "dir", Capabilities: []string{"CAP_SYS_ADMIN", "CAP_SYS_TIME"}}
	for name, tc := range map[string]struct {
		cell    matrix.Cell
		host    matrix.HostFacts
		node    matrix.NodeFacts
		with    []string
		without []string
		// unprivileged cells need other fixes in the place of some that every
		// privileged one needs.
		unprivileged bool
		want         []string
		leftOut      []string
	}{
		"kubeadm on a split cgroup v1 host without CAP_SYS_RESOURCE": {
			cell: cell("kubeadm", "1.34.4"),
			host: split,
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
		"the same with one fix left out": {
			cell:    cell("kubeadm", "1.34.4"),
			host:    split,
			without: []string{"cgroup1-split-cpu", "cgroup-v1-kubelet"},
			want:    append(kubeadmOnly(), "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
			leftOut: []string{"cgroup1-split-cpu"},
		},
		"the oldest kubeadm on the same host": {
			cell: cell("kubeadm", "1.31.0"),
			host: split,
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
		"the first kubeadm whose kubelet refuses cgroup v1": {
			cell: cell("kubeadm", "1.35.4"),
			host: split,
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "cgroup-v1-kubelet", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
		"kubeadm on a cgroup v2 host with AppArmor": {
			cell: cell("kubeadm", "1.34.4"),
			host: matrix.HostFacts{Kernel: "6.12.43+deb13-cloud-amd64", Cgroup: "v2", AppArmor: new(true), Incus: "6.0.4", LXC: "6.0.4",
				Storage: "dir", Capabilities: full},
			want: append(kubeadmOnly(), "containerd-apparmor", "raw-lxc-apparmor", "raw-lxc-devices-v2", "rshared-by-lxc"),
		},
		"unprivileged on a cgroup v2 host": {
			cell: cell("kubeadm", "1.34.4", "unprivileged"),
			host: matrix.HostFacts{Kernel: "6.12.43+deb13-cloud-amd64", Cgroup: "v2", AppArmor: new(true), Incus: "6.0.4", LXC: "6.0.4",
				Storage: "dir", Capabilities: full},
			unprivileged: true,
			want:         append(kubeadmOnly(), "containerd-apparmor", "restrict-oom-score-adj", "rshared-by-lxc", "userns-conntrack"),
		},
		"unprivileged, with its AppArmor profile taken away": {
			cell: cell("kubeadm", "1.36.3", "unprivileged"),
			host: matrix.HostFacts{Kernel: "6.12.43+deb13-cloud-amd64", Cgroup: "v2", AppArmor: new(true), Incus: "6.0.5", LXC: "6.0.4",
				Storage: "dir", Capabilities: full},
			with:         []string{"userns-apparmor"},
			unprivileged: true,
			want:         append(kubeadmOnly(), "containerd-apparmor", "restrict-oom-score-adj", "rshared-by-lxc", "userns-apparmor", "userns-conntrack"),
		},
		"unprivileged on an Incus whose profile does no harm": {
			cell: cell("kubeadm", "1.36.3", "unprivileged"),
			host: matrix.HostFacts{Kernel: "6.12.43+deb13-cloud-amd64", Cgroup: "v2", AppArmor: new(true), Incus: "6.0.6", LXC: "6.0.6",
				Storage: "dir", Capabilities: full},
			with:         []string{"userns-apparmor"},
			unprivileged: true,
			want:         append(kubeadmOnly(), "containerd-apparmor", "restrict-oom-score-adj", "rshared-by-lxc", "userns-conntrack"),
		},
		"unprivileged RKE2 before Linux 5.11, on ZFS": {
			cell: cell("rke2", "1.34.2+rke2r1", "unprivileged"),
			host: matrix.HostFacts{Kernel: "5.10.0-35-amd64", Cgroup: "v2", AppArmor: new(false), Incus: "6.0.4", LXC: "5.0.2",
				Storage: "zfs", Capabilities: full},
			unprivileged: true,
			want:         []string{"restrict-oom-score-adj", "rshared", "snapshotter-native", "syscall-intercept"},
		},
		"unprivileged k3s before Linux 5.11": {
			cell: cell("k3s", "1.34.2+k3s1", "unprivileged"),
			host: matrix.HostFacts{Kernel: "5.10.0-35-amd64", Cgroup: "v2", AppArmor: new(false), Incus: "6.0.4", LXC: "5.0.2",
				Storage: "dir", Capabilities: full},
			unprivileged: true,
			want:         []string{"restrict-oom-score-adj", "rshared", "snapshotter-fuse-overlayfs", "syscall-intercept"},
		},
		"kubeadm on btrfs": {
			cell: cell("kubeadm", "1.34.4"),
			host: matrix.HostFacts{Kernel: "6.12.43", Cgroup: "v2", AppArmor: new(false), Incus: "6.0.4", LXC: "6.0.4", Storage: "btrfs", Capabilities: full},
			want: append(kubeadmOnly(), "btrfs-rootfs", "raw-lxc-devices-v2", "rshared-by-lxc"),
		},
		"k3s on ZFS": {
			cell: cell("k3s", "1.34.2+k3s1"),
			host: matrix.HostFacts{Kernel: "6.12.43", Cgroup: "v2", AppArmor: new(false), Incus: "6.0.4", LXC: "6.0.4", Storage: "zfs", Capabilities: full},
			want: []string{"raw-lxc-devices-v2", "rshared-by-lxc", "snapshotter-native"},
		},
		"RKE2 on a cgroup v1 host with joint controllers": {
			cell: cell("rke2", "1.36.3+rke2r1"),
			host: matrix.HostFacts{Kernel: "5.10.0-35-amd64", Cgroup: "v1", AppArmor: new(true), Incus: "6.0.4", LXC: "5.0.2", Storage: "dir", Capabilities: full},
			want: []string{"cgroup-v1-kubelet", "containerd-apparmor", "raw-lxc-apparmor", "raw-lxc-devices-v1", "rshared"},
		},
		"a node of the RHEL family": {
			cell: cell("kubeadm", "1.34.4"),
			host: split,
			node: matrix.NodeFacts{NetworkManager: new(true), Firewalld: new(true)},
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "firewalld", "nm-unmanaged", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
		"one with its firewall on": {
			cell:    cell("kubeadm", "1.34.4"),
			host:    split,
			node:    matrix.NodeFacts{NetworkManager: new(false), Firewalld: new(true)},
			with:    []string{"firewalld-open"},
			without: []string{"firewalld"},
			want:    append(kubeadmOnly(), "cgroup1-split-cpu", "firewalld-open", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
			leftOut: []string{"firewalld"},
		},
		"a firewall to open that is not there": {
			cell: cell("kubeadm", "1.34.4"),
			host: split,
			with: []string{"firewalld-open"},
			want: append(kubeadmOnly(), "cgroup1-split-cpu", "raw-lxc-devices-v1", "restrict-oom-score-adj", "rshared"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			node := tc.node
			if node.Firewalld == nil {
				node.NetworkManager, node.Firewalld = new(false), new(false)
			}
			decisions, err := cat.Decide(fix.FactsOf(tc.cell, &tc.host, &node), fix.Choice{With: tc.with, Without: tc.without})
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
			needed := always
			if tc.unprivileged {
				needed = slices.DeleteFunc(slices.Clone(always), func(id string) bool { return id == "incus-privileged" || strings.HasPrefix(id, "raw-lxc-") })
				needed = append(needed, "userns-cgroup-delegation", "userns-instance", "userns-kubelet")
			}
			want := slices.Sorted(slices.Values(append(tc.want, needed...)))
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

// TestAFirewallIsOffOrOpen: to open it and to turn it off contradict each other.
func TestAFirewallIsOffOrOpen(t *testing.T) {
	cat, _ := embedded(t)
	var both []*fix.Fix
	for _, id := range []string{"firewalld", "firewalld-open"} {
		f, err := cat.Fix(id)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, f)
	}
	var conflict *fix.ConflictError
	if _, err := fix.Merge(both, known()); !errors.As(err, &conflict) || conflict.Place != "node.running.firewalld.service" {
		t.Errorf("merged, with the error %v", err)
	}
}

func known() fix.Context {
	return fix.Context{Cgroup: "v2", NodeName: "cp1", NodeAddress: "10.7.0.5", Gateway: "10.7.0.1", Subnet: "10.7.0.0/24", Kernel: "6.18.44"}
}

// Whatever is asked for can be had: with what stands against it left out, the
// rest of a cell's fixes merge with it.
func TestWhatIsAskedForMerges(t *testing.T) {
	cat, _ := embedded(t)
	for _, asked := range cat.All() {
		if !asked.OnRequest() {
			continue
		}
		t.Run(asked.ID, func(t *testing.T) {
			choice := fix.Choice{With: []string{asked.ID}}
			facts := fix.Facts{"privileged": true, "distro": "kubeadm", "cgroup": "v2", "apparmor": true, "firewalld": true}
			if strings.Contains(asked.When, `"rke2"`) {
				facts["distro"] = "rke2"
			}
			if strings.Contains(asked.When, "!privileged") {
				facts["privileged"], facts["incus"] = false, "6.0.4"
			}
			decide := func() []fix.Decision {
				decisions, err := cat.Decide(facts, choice)
				if err != nil {
					t.Fatal(err)
				}
				return decisions
			}
			for _, other := range cat.All() {
				if !other.OnRequest() && opposes(fix.Opposed(decide()), other.ID) {
					choice.Without = append(choice.Without, other.ID)
				}
			}
			decisions := decide()
			if err := fix.Opposed(decisions); err != nil {
				t.Fatal(err)
			}
			chosen := fix.Chosen(decisions)
			if !slices.ContainsFunc(chosen, func(f *fix.Fix) bool { return f.ID == asked.ID }) {
				t.Fatal("it is not applied where it is asked for")
			}
			if _, err := fix.Merge(chosen, known()); err != nil {
				t.Error(err)
			}
		})
	}
}

// opposes says whether an error names a fix as one to leave out.
func opposes(err error, id string) bool {
	return err != nil && strings.Contains(err.Error(), "--without "+id+":")
}

func TestNothingIsDecidedOnWhatNobodyObserved(t *testing.T) {
	cat, gates := embedded(t)
	facts := fix.FactsOf(matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Minor: "1.35"}}, nil, nil)
	decisions, err := cat.Decide(facts, fix.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nm-unmanaged", "firewalld", "cgroup1-split-cpu", "restrict-oom-score-adj", "containerd-apparmor", "rshared", "cgroup-v1-kubelet"} {
		if !slices.Contains(fix.Open(decisions), want) {
			t.Errorf("%s was decided without its facts", want)
		}
	}
	for _, d := range decisions {
		if d.Fix.ID == "cgroup1-split-cpu" && !strings.Contains(d.Why, "(not observed: cgroup, cgroup_cpu_split)") {
			t.Errorf("cgroup1-split-cpu: why %q", d.Why)
		}
	}
	rulings, err := gates.Rule(facts, nil, decisions)
	if err != nil {
		t.Fatal(err)
	}
	if finding := fix.Finding(rulings); finding != nil {
		t.Errorf("a gate ruled a cell out on facts that nobody observed: %v", finding)
	}
}

// TestGates holds facts on each side of every gate's boundary, and those that
// leave it open.
func TestGates(t *testing.T) {
	cat, gates := embedded(t)
	v1 := []string{"cpu", "cpuset", "memory"}
	nftables := []string{"id: nftables\neffects: {kubeProxy: {mode: nftables}}\n"}
	apparmorOff := []string{"id: mine\neffects: {kubelet: {featureGates: {AppArmor: false}}}\n"}
	cgroup1Keys := []string{"id: keys\neffects: {incus: {rawLXC: lxc.cgroup.devices.allow=c 1:3 rwm}}\n"}
	type side struct {
		name    string
		facts   fix.Facts
		with    []string
		without []string
		// fixes join the embedded ones; none is for a catalogue without any.
		fixes  []string
		none   bool
		answer fix.Answer
	}
	sides := map[string][]side{
		"incus7-cgroup-v1": {
			{name: "Incus 7 on v1", facts: fix.Facts{"cgroup": "v1", "incus": "7.0.2"}, answer: fix.RulesOut},
			{name: "Incus 6 on v1", facts: fix.Facts{"cgroup": "v1", "incus": "6.23"}, answer: fix.Passes},
			{name: "Incus 7 on v2", facts: fix.Facts{"cgroup": "v2", "incus": "7.0.2"}, answer: fix.Passes},
			{name: "Incus not known", facts: fix.Facts{"cgroup": "v1"}, answer: fix.Undetermined},
			{name: "mode not known", facts: fix.Facts{"incus": "7.0.2"}, answer: fix.Undetermined},
		},
		"incus-kernel": {
			{name: "6.23 on 6.1", facts: fix.Facts{"incus": "6.23", "kernel": "6.1.0-40-amd64"}, answer: fix.RulesOut},
			{name: "6.22 on 6.11", facts: fix.Facts{"incus": "6.22", "kernel": "6.11.99"}, answer: fix.RulesOut},
			{name: "6.23 on 6.12", facts: fix.Facts{"incus": "6.23", "kernel": "6.12.0"}, answer: fix.Passes},
			{name: "6.21 on 6.11", facts: fix.Facts{"incus": "6.21", "kernel": "6.11"}, answer: fix.Passes},
			{name: "some 7 on some 5.10", facts: fix.Facts{"incus": "7.x", "kernel": "5.10.x"}, answer: fix.RulesOut},
			{name: "some 7 on some 7", facts: fix.Facts{"incus": "7.x", "kernel": "7.x"}, answer: fix.Passes},
			{name: "some 7 on some 6", facts: fix.Facts{"incus": "7.x", "kernel": "6.x"}, answer: fix.Undetermined},
			{name: "some 6 on 6.1", facts: fix.Facts{"incus": "6.x", "kernel": "6.1.x"}, answer: fix.Undetermined},
		},
		"kubelet-cgroup-v1": {
			{name: "1.36 on v1 with the fix", facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.36.3"}, answer: fix.Lifted},
			{name: "1.36 on v1 shown to fail", facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.36.3"}, without: []string{"cgroup-v1-kubelet"}, answer: fix.Lifted},
			{name: "1.35 on v1 and no such fix", facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.35.0"}, none: true, answer: fix.RulesOut},
			{name: "1.34 on v1", facts: fix.Facts{"cgroup": "v1", "kubernetes": "1.34.9"}, none: true, answer: fix.Passes},
			{name: "1.36 on v2", facts: fix.Facts{"cgroup": "v2", "kubernetes": "1.36.3"}, none: true, answer: fix.Passes},
			{name: "mode not known", facts: fix.Facts{"kubernetes": "1.36.3"}, none: true, answer: fix.Undetermined},
		},
		"unprivileged-cgroup-v1": {
			{name: "unprivileged on v1", facts: fix.Facts{"cgroup": "v1", "privileged": false}, answer: fix.RulesOut},
			{name: "unprivileged on v2", facts: fix.Facts{"cgroup": "v2", "privileged": false}, answer: fix.Passes},
			{name: "privileged on v1", facts: fix.Facts{"cgroup": "v1", "privileged": true}, answer: fix.Passes},
			{name: "mode not known", facts: fix.Facts{"privileged": false}, answer: fix.Undetermined},
		},
		"incus6-kernel": {
			{name: "6.0 on 5.3", facts: fix.Facts{"incus": "6.0.6", "kernel": "5.3.18"}, answer: fix.RulesOut},
			{name: "6.0 on 5.4", facts: fix.Facts{"incus": "6.0.6", "kernel": "5.4.0"}, answer: fix.Passes},
			{name: "kernel not known", facts: fix.Facts{"incus": "6.0.6"}, answer: fix.Undetermined},
		},
		"kubelet-apparmor-gate": {
			{name: "a user's fix on 1.31", facts: fix.Facts{"privileged": true, "kubernetes": "1.31.0"}, fixes: apparmorOff, answer: fix.RulesOut},
			{name: "a user's fix on 1.30", facts: fix.Facts{"privileged": true, "kubernetes": "1.30.4"}, fixes: apparmorOff, answer: fix.Passes},
			{name: "no such fix", facts: fix.Facts{"privileged": true, "kubernetes": "1.34.4"}, answer: fix.Passes},
			{name: "asked for", facts: fix.Facts{"privileged": true, "kubernetes": "1.34.4"}, with: []string{"kubelet-apparmor-gate"}, answer: fix.Lifted},
			{name: "version not known", facts: fix.Facts{"privileged": true}, fixes: apparmorOff, answer: fix.Undetermined},
		},
		"cgroup-v1-controllers": {
			{name: "all there", facts: fix.Facts{"cgroup": "v1", "controllers": v1}, answer: fix.Passes},
			{name: "no memory", facts: fix.Facts{"cgroup": "v1", "controllers": []string{"cpu", "cpuset"}}, answer: fix.RulesOut},
			{name: "no cpuset", facts: fix.Facts{"cgroup": "v1", "controllers": []string{"cpu", "memory"}}, answer: fix.RulesOut},
			{name: "on v2 it is another matter", facts: fix.Facts{"cgroup": "v2", "controllers": []string{"cpu"}}, answer: fix.Passes},
			{name: "controllers not known", facts: fix.Facts{"cgroup": "v1"}, answer: fix.Undetermined},
		},
		"host-systemd-cgroup-v1": {
			{name: "258 on v1", facts: fix.Facts{"cgroup": "v1", "host_systemd": "258"}, answer: fix.RulesOut},
			{name: "257 on v1", facts: fix.Facts{"cgroup": "v1", "host_systemd": "257.x"}, answer: fix.Passes},
			{name: "258 on v2", facts: fix.Facts{"cgroup": "v2", "host_systemd": "258"}, answer: fix.Passes},
			{name: "not known", facts: fix.Facts{"cgroup": "v1"}, answer: fix.Undetermined},
		},
		"kube-proxy-nftables": {
			{name: "nftables on 5.12", facts: fix.Facts{"kernel": "5.12.19"}, fixes: nftables, answer: fix.RulesOut},
			{name: "nftables on 5.13", facts: fix.Facts{"kernel": "5.13.0"}, fixes: nftables, answer: fix.Passes},
			{name: "iptables on 5.10", facts: fix.Facts{"kernel": "5.10.0"}, answer: fix.Passes},
			{name: "nftables on an unknown kernel", fixes: nftables, answer: fix.Undetermined},
			{name: "nftables on v2 only, and the mode not known", facts: fix.Facts{"kernel": "5.10"},
				fixes: []string{"id: nftables\nwhen: cgroup == \"v2\"\neffects: {kubeProxy: {mode: nftables}}\n"}, answer: fix.Undetermined},
		},
		"lxc7-cgroup1-keys": {
			{name: "a key on LXC 7", facts: fix.Facts{"lxc": "7.0.0", "cgroup": "v2"}, fixes: cgroup1Keys, answer: fix.RulesOut},
			{name: "a key on LXC 6", facts: fix.Facts{"lxc": "6.0.5", "cgroup": "v2"}, fixes: cgroup1Keys, answer: fix.Passes},
			{name: "LXC 7 and the embedded fixes, which know it", facts: fix.Facts{"lxc": "7.0.0", "cgroup": "v1", "privileged": true}, answer: fix.Passes},
			{name: "LXC not known", facts: fix.Facts{"cgroup": "v1", "privileged": true}, fixes: cgroup1Keys, answer: fix.Undetermined},
			{name: "a fix that is undecided", facts: fix.Facts{"lxc": "7.0.0"},
				fixes: []string{"id: keys\nwhen: apparmor\neffects: {incus: {rawLXC: lxc.cgroup.devices.allow=a}}\n"}, answer: fix.Undetermined},
		},
		"os-cpu-level": {
			{name: "Rocky 10 on v2", facts: fix.Facts{"os": "rockylinux/10", "cpu_level": "x86-64-v2"}, answer: fix.RulesOut},
			{name: "Rocky 10 on v3", facts: fix.Facts{"os": "rockylinux/10", "cpu_level": "x86-64-v3"}, answer: fix.Passes},
			{name: "AlmaLinux 10 on v2", facts: fix.Facts{"os": "almalinux/10", "cpu_level": "x86-64-v2"}, answer: fix.Passes},
			{name: "AlmaLinux 10 on v1", facts: fix.Facts{"os": "almalinux/10", "cpu_level": "x86-64-v1"}, answer: fix.RulesOut},
			{name: "CentOS Stream 10 on v2", facts: fix.Facts{"os": "centos/10-Stream", "cpu_level": "x86-64-v2"}, answer: fix.RulesOut},
			{name: "Oracle Linux 10 on v2", facts: fix.Facts{"os": "oracle/10", "cpu_level": "x86-64-v2"}, answer: fix.RulesOut},
			{name: "RHEL 10 on v2", facts: fix.Facts{"os": "rhel/10", "cpu_level": "x86-64-v2"}, answer: fix.RulesOut},
			{name: "CPU not known", facts: fix.Facts{"os": "rockylinux/10"}, answer: fix.Undetermined},
			{name: "Debian, CPU not known", facts: fix.Facts{"os": "debian/13"}, answer: fix.Passes},
		},
	}
	for _, g := range gates.All() {
		if len(sides[g.ID]) < 2 {
			t.Errorf("gate %s has no facts on each side of its boundary", g.ID)
		}
	}
	for id, cases := range sides {
		for _, tc := range cases {
			t.Run(id+"/"+tc.name, func(t *testing.T) {
				cat := cat
				if len(tc.fixes) > 0 {
					var err error
					if cat, err = fix.Load(fix.Source{Name: "fixes", FS: fixtures.Fixes()}, written("mine", tc.fixes...)); err != nil {
						t.Fatal(err)
					}
				}
				decisions, err := cat.Decide(tc.facts, fix.Choice{With: tc.with, Without: tc.without})
				if err != nil {
					t.Fatal(err)
				}
				if tc.none {
					decisions = nil
				}
				rulings, err := gates.Rule(nil, tc.facts, decisions)
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(rulings, func(r fix.Ruling) bool { return r.Gate.ID == id })
				if i < 0 {
					t.Fatal("no such gate")
				}
				r := rulings[i]
				if r.Answer != tc.answer {
					t.Errorf("%s, want %s", r.Answer, tc.answer)
				}
				if (r.Answer == fix.Undetermined) != (len(r.Missing) > 0) || (r.Answer == fix.Lifted) != (r.LiftedBy != "") {
					t.Errorf("%s, missing %v, lifted by %q", r.Answer, r.Missing, r.LiftedBy)
				}
				if finding := fix.Finding(rulings[i : i+1]); (finding != nil) != (tc.answer == fix.RulesOut) {
					t.Errorf("finding %v", finding)
				}
			})
		}
	}
}

func TestAFindingHasTheFactsThatDecided(t *testing.T) {
	_, gates := embedded(t)
	rulings, err := gates.Rule(fix.Facts{"cgroup": "v1", "incus": "6.0.x", "kernel": "6.12.x"}, fix.Facts{"incus": "7.0.2"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := fix.Finding(rulings)
	want := &matrix.GateFinding{Gate: "incus7-cgroup-v1", Reason: "Incus 7.0 removed its support for cgroup v1",
		Source: "https://github.com/lxc/incus/commit/48ea96d4f7", Rule: `cgroup == "v1" && atLeast(incus, "7")`,
		Facts: []matrix.Fact{{Name: "cgroup", Value: "v1", From: "declared"}, {Name: "incus", Value: "7.0.2", From: "observed"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v, want %+v", got, want)
	}
}

// Where one gate can be probed and another cannot, a run would show nothing.
func TestAGateThatCannotBeProbedComesFirst(t *testing.T) {
	_, gates := embedded(t)
	rulings, err := gates.Rule(nil, fix.Facts{"cgroup": "v1", "incus": "7.0.2", "controllers": []string{"cpu"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fix.Finding(rulings); got == nil || got.Gate != "incus7-cgroup-v1" || got.Probe != nil {
		t.Errorf("found %+v", got)
	}
}

func TestWhatAMachineDeclares(t *testing.T) {
	hosts, err := fix.LoadHosts(fix.Source{Name: "hosts", FS: fixtures.Hosts()})
	if err != nil {
		t.Fatal(err)
	}
	withoutMemory := []string{"blkio", "cpu", "cpuacct", "devices", "freezer", "hugetlb", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"}
	for _, tc := range []struct {
		qemu   matrix.QEMURef
		cgroup string
		want   fix.Facts
	}{
		{matrix.QEMURef{OS: "debian/12", Kernel: "debian/5.10", Incus: "bookworm-backports"}, "v1",
			fix.Facts{"kernel": "5.10.x", "host_systemd": "252.x", "incus": "6.0.x", "lxc": "5.0.x"}},
		{matrix.QEMURef{OS: "debian/13", Kernel: "debian/7", Incus: "trixie-backports"}, "v2",
			fix.Facts{"kernel": "7.x", "host_systemd": "257.x", "incus": "7.x"}},
		{matrix.QEMURef{Kernel: "debian/6.1"}, "v1", fix.Facts{"kernel": "6.1.x"}},
		{matrix.QEMURef{Kernel: "debian/6.12"}, "v1", fix.Facts{"kernel": "6.12.x", "controllers": withoutMemory}},
		{matrix.QEMURef{Kernel: "debian/7.3"}, "v1", fix.Facts{"kernel": "7.3.x", "controllers": withoutMemory}},
		{matrix.QEMURef{Kernel: "linux-image-6.1.0-38-cloud-amd64"}, "v1", fix.Facts{"kernel": "6.1.0-38-cloud-amd64"}},
		{matrix.QEMURef{Kernel: "linux-image-cloud-amd64"}, "v1", fix.Facts{}},
		{matrix.QEMURef{Kernel: "/srv/debian/6.1/vmlinuz"}, "v1", fix.Facts{}},
		{matrix.QEMURef{}, "", fix.Facts{}},
	} {
		ref := matrix.HostRef{Cgroup: tc.cgroup, QEMU: tc.qemu}
		got := fix.Declared(matrix.Cell{Host: ref}).With(hosts.Declared(ref))
		for _, name := range []string{"privileged", "variants", "cgroup"} {
			delete(got, name)
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%+v declares %v, want %v", tc.qemu, got, tc.want)
		}
	}
	_, err = fix.LoadHosts(fix.Source{Name: "mine", FS: fstest.MapFS{"h.yaml": {Data: []byte("systemd: {debian/12: newest}\n")}}})
	if err == nil || !strings.Contains(err.Error(), `"newest" is no version`) {
		t.Errorf("error %v", err)
	}
}

func TestMergedStateOfASplitCgroupV1Node(t *testing.T) {
	cat, _ := embedded(t)
	host := matrix.HostFacts{Kernel: "6.18.44", Cgroup: "v1", CgroupCPUSplit: true, AppArmor: new(true), LXC: "6.0.4", Capabilities: []string{"CAP_SYS_TIME"}}
	decisions, err := cat.Decide(fix.FactsOf(matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4"}}, &host, nil), fix.Choice{})
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

func TestPrivilege(t *testing.T) {
	c, _ := embedded(t)
	for id, want := range map[string]fix.Privilege{
		"incus-privileged": fix.OpensHost, "raw-lxc-cap-drop": fix.OpensHost, "incus-nesting": fix.OpensHost,
		"userns-instance": fix.InNode, "kmsg-device": fix.OfHost, "host-sysctls": fix.OfHost, "incus-modules": fix.OfHost,
		"cgroup1-split-cpu": fix.InNode, "net-sysctls": fix.InNode, "restrict-oom-score-adj": fix.InKubernetes, "swap": fix.InKubernetes,
	} {
		f, err := c.Fix(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Privilege(); got != want {
			t.Errorf("%s has privilege %d, want %d", id, got, want)
		}
	}
}
