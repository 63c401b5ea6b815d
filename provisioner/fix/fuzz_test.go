package fix

import (
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// fuzzedFacts is something for every fact that a condition may name.
func fuzzedFacts() Facts {
	return Facts{"cgroup": "v1", "cgroup_cpu_split": true, "controllers": []string{"cpu"}, "cpu_level": "x86-64-v3", "kernel": "6.12.8",
		"kubernetes": "1.34.x", "distro": "kubeadm", "os": "debian/13", "os_family": "debian", "incus": "6.0.4", "lxc": "6.0.4",
		"host_systemd": "257", "containerd": "1.7.24", "network_manager": false, "firewalld": false, "selinux": "disabled", "read_only_sysctls": []string{"kernel.panic"}, "storage": "dir",
		"privileged": true, "apparmor": false, "capabilities": []string{"CAP_SYS_ADMIN"}, "variants": []string{}, "proxy_mode": "iptables",
		"lxc_cgroup1_keys": true, "feature_gates": []string{}}
}

func addFiles(f *testing.F, files fs.FS) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

// FuzzCondition: an expression is refused or can be asked, and what is decided
// before anything was observed stays so, whatever is observed.
func FuzzCondition(f *testing.F) {
	for _, source := range []string{`cgroup == "v1" && cgroup_cpu_split`, `atLeast(kubernetes, "1.35") || !privileged`, `"CAP_SYS_RESOURCE" in capabilities`,
		`kernel.startsWith("6.") ? true : os_family == "debian"`, `controllers.exists(c, c == "hugetlb")`, `size(variants) > 0`, `os.matches("^debian/")`} {
		f.Add(source)
	}
	compiler, err := newCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, source string) {
		c, err := compiler.compile(source)
		if err != nil {
			return
		}
		before, err := c.Eval(Facts{})
		if err != nil || before == Unknown {
			return
		}
		after, err := c.Eval(fuzzedFacts())
		if err != nil || after != before {
			t.Errorf("%q is %s before anything was observed, then %s (%v)", source, before, after, err)
		}
	})
}

// FuzzFix: a fix is refused, or can be decided, rendered and merged.
func FuzzFix(f *testing.F) {
	addFiles(f, fixtures.Fixes())
	f.Fuzz(func(t *testing.T, text []byte) {
		catalogue, err := Load(Source{Name: "fixes", FS: fstest.MapFS{"one.yaml": {Data: text}}})
		if err != nil {
			return
		}
		for _, one := range catalogue.All() {
			if _, err := one.Condition().Eval(fuzzedFacts()); err != nil {
				continue
			}
			if _, err := Merge([]*Fix{one}, Sample()); err != nil {
				t.Errorf("a fix that was loaded cannot be merged: %v", err)
			}
		}
	})
}

// FuzzGate: a gate is refused or can be asked.
func FuzzGate(f *testing.F) {
	addFiles(f, fixtures.Gates())
	catalogue, err := Load(Source{Name: "fixes", FS: fixtures.Fixes()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		gates, err := LoadGates(catalogue, Source{Name: "gates", FS: fstest.MapFS{"one.yaml": {Data: text}}})
		if err != nil {
			return
		}
		// A condition may end in an error, as a division by zero does; it is told.
		_, _ = gates.Rule(fuzzedFacts(), nil, nil)
	})
}

// FuzzRecords: whatever a node printed, what is read from it can be judged.
func FuzzRecords(f *testing.F) {
	f.Add(mark + " boot 0 7 0\nrunning\n" + mark + " 0 1 0 3\nno!\n")
	f.Add(mark + " boot 0 -1 1\nx\n")
	f.Fuzz(func(_ *testing.T, out string) {
		for _, r := range parseRecords(out) {
			r.judge(provisioner.Verification{Command: "true", Want: "yes"})
		}
	})
}
