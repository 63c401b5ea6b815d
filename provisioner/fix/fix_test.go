package fix_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
)

// written makes a source of fixes; each is completed with what every fix must
// have.
func written(name string, fixes ...string) fix.Source {
	files := fstest.MapFS{}
	for _, text := range fixes {
		id, _, _ := strings.Cut(strings.TrimPrefix(text, "id: "), "\n")
		if !strings.Contains(text, "verify:") {
			text += "verify: [{command: echo yes, want: 'yes'}]\n"
		}
		files[id+".yaml"] = &fstest.MapFile{Data: []byte(text + "title: t\nwhy: w\nsources: ['https://example.org']\n")}
	}
	return fix.Source{Name: name, FS: files}
}

func load(t *testing.T, fixes ...string) *fix.Catalogue {
	t.Helper()
	cat, err := fix.Load(written("fixes", fixes...))
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

func TestConditionsAreThreeValued(t *testing.T) {
	for condition, cases := range map[string]map[string]fix.Facts{
		`cgroup == "v2" && atLeast(kernel, "6")`: {
			"false":   {"cgroup": "v1"}, // whatever the kernel is
			"unknown": {"cgroup": "v2"},
			"true":    {"cgroup": "v2", "kernel": "6.18.44-fc-v657"},
		},
		`atLeast(kernel, "6") && cgroup == "v2"`: {"false": {"cgroup": "v1"}},
		`cgroup == "v1" || apparmor`:             {"true": {"cgroup": "v1"}, "unknown": {"cgroup": "v2"}, "false": {"cgroup": "v2", "apparmor": false}},
		`!("CAP_SYS_RESOURCE" in capabilities)`: {
			"unknown": {}, "true": {"capabilities": []string{"CAP_SYS_ADMIN"}}, "false": {"capabilities": []string{"CAP_SYS_RESOURCE"}},
		},
		`["CAP_SYS_TIME"].exists(c, c in capabilities)`: {"unknown": {}, "true": {"capabilities": []string{"CAP_SYS_TIME"}}},
		`!atLeast(lxc, "6")`:                            {"true": {"lxc": "5.0.2"}, "false": {"lxc": "6.0.4"}, "unknown": {"incus": "6.0.4"}},
		`atLeast(kernel, "6.12")`:                       {"true": {"kernel": "7.x"}, "false": {"kernel": "6.1.x"}, "unknown": {"kernel": "6.x"}},
		`!atLeast(kernel, "7.0")`:                       {"false": {"kernel": "7.x"}, "true": {"kernel": "6.x"}},
		`cgroup == "v1" && atLeast(kernel, "6.12")`:     {"false": {"kernel": "6.x", "cgroup": "v2"}, "unknown": {"kernel": "6.x", "cgroup": "v1"}},
		`atLeast(kernel, "6.18.44")`:                    {"true": {"kernel": "6.18.44-fc-v657"}, "false": {"kernel": "6.0.4"}},
		`atLeast(incus, "6.0.4")`:                       {"true": {"incus": "6.0.4"}, "false": {"incus": "6.0"}},
		`atLeast(containerd, "1.7")`:                    {"true": {"containerd": "1.7.24~ds1"}, "false": {"containerd": "1.6.20"}},
		`atLeast(kubernetes, "1.35")`:                   {"true": {"kubernetes": "v1.36.3+rke2r1"}, "false": {"kubernetes": "1.34.2"}},
		`"flannel" in variants`:                         {"true": {"variants": []string{"flannel"}}, "false": {"variants": []string{}}},
		``:                                              {"true": {}},
	} {
		cat := load(t, "id: a\nwhen: '"+condition+"'\n")
		f, err := cat.Fix("a")
		if err != nil {
			t.Fatal(err)
		}
		for want, facts := range cases {
			got, err := f.Condition().Eval(facts)
			if err != nil || got.String() != want {
				t.Errorf("%s over %v is %s (%v), want %s", condition, facts, got, err, want)
			}
		}
	}
}

func TestAVersionThatIsNoneIsAnErrorThatNamesTheFix(t *testing.T) {
	cat := load(t, "id: a\nwhen: atLeast(kernel, \"6\")\n")
	_, err := cat.Decide(fix.Facts{"kernel": "unknown"}, fix.Choice{})
	if err == nil || !strings.Contains(err.Error(), "decide on fix a") || !strings.Contains(err.Error(), `"unknown" is not a version`) {
		t.Errorf("error %v", err)
	}
}

func TestLoadListsEveryProblemWithItsFile(t *testing.T) {
	_, err := fix.Load(
		fix.Source{Name: "one", FS: fstest.MapFS{
			"key.yaml":  {Data: []byte("id: a\nefects: {}\n")},
			"dup.yaml":  {Data: []byte("id: a\nid: b\n")},
			"type.yaml": {Data: []byte("id: a\ncures: {}\nharmful: maybe\n")},
		}},
		written("two",
			"id: cel\nwhen: cgrup == \"v1\"\n",
			"id: notbool\nwhen: cgroup\n",
			"id: version\nwhen: atLeast(kernel, \"latest\")\n",
			"id: partly\nwhen: atLeast(kernel, \"6.x\")\n",
			"id: level\nwhen: cpu_level in [\"x86-64-v2\", \"v3\"]\n",
			"id: word\nwhen: distro == \"kubedm\"\n",
			"id: template\neffects: {nodeIP: '{{.Node.Adress}}'}\n",
			"id: raw\neffects: {incus: {rawLXC: 'lxc.a=1\n\n  lxc.b=2'}}\n",
			"id: path\neffects: {node: {files: [{path: etc/x, content: a, mode: '0999'}]}}\n",
			"id: want\nverify: [{command: x, want: '('}, {command: y, want: z, after: destroy}]\n",
			"id: same\n"),
		written("three", "id: same\n"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"one/key.yaml:2:", "one/dup.yaml:2:", "one/type.yaml:2:", "one/type.yaml:3:",
		"two/cel.yaml:2:7: fix cel: when: ", "undeclared reference to 'cgrup'",
		"two/notbool.yaml:2:7: fix notbool: when: condition \"cgroup\": is a string, want a bool",
		`two/version.yaml:2:7: fix version: when: condition "atLeast(kernel, \"latest\")": "latest" is not a version`,
		`two/word.yaml:2:7: fix word: when: condition "distro == \"kubedm\"": distro is never "kubedm", only one of kubeadm, k3s, rke2`,
		`two/template.yaml:2:10: fix template: template "{{.Node.Adress}}"`, `no entry for key "Adress"`,
		`two/partly.yaml:2:7: fix partly: when: condition "atLeast(kernel, \"6.x\")": "6.x" is not one version`,
		`cpu_level is never "v3", only one of x86-64-v1, `,
		"two/raw.yaml:2:27: fix raw: rawLXC", `two/path.yaml:2:33: fix path: file "etc/x"`, `mode "0999"`,
		"two/want.yaml:2:29: fix want: verify 1: want: ", `two/want.yaml:2:64: fix want: verify 2: after "destroy"`,
		"three/same.yaml:1:5: fix same: is already in two/same.yaml",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

// What is wrong between fixes is told with the place in the file of one of them.
func TestLoadListsWhatIsWrongBetweenFixes(t *testing.T) {
	for name, tc := range map[string]struct {
		fixes []string
		want  []string
	}{
		"a cycle": {[]string{"id: a\nafter: [c]\n", "id: b\nafter: [a]\n", "id: c\nafter:\n  - b\n"},
			[]string{"fixes/a.yaml:2:8: fix a: after: it comes after itself: a after c after b after a"}},
		"after itself":       {[]string{"id: a\nafter: [a]\n"}, []string{"fixes/a.yaml:2:8: fix a: after: it comes after itself: a after a"}},
		"after nothing":      {[]string{"id: a\n", "id: b\nafter: [a, c]\n"}, []string{`fixes/b.yaml:2:12: fix b: after: there is no fix "c"`}},
		"contradicts nobody": {[]string{"id: a\ncontradicts: [swpa]\n", "id: swap\n"}, []string{`fixes/a.yaml:2:15: fix a: contradicts: there is no fix "swpa"; did you mean swap?`}},
		"one key": {[]string{"id: a\neffects: {kubelet: {x: 1}}\n", "id: b\neffects:\n  kubelet:\n    x: 2\n"},
			[]string{`fixes/b.yaml:4:8: fix b: stands against a in fixes/a.yaml:2:24, and both may apply to one cell: fixes a and b differ on kubelet.x: "1" and "2"`}},
		"one key under conditions that meet": {[]string{"id: a\nwhen: atLeast(kernel, \"6.1\")\neffects: {kubelet: {x: 1}}\n", "id: b\nwhen: '!atLeast(kernel, \"6.12\") && apparmor'\neffects: {kubelet: {x: 2}}\n"},
			[]string{"fixes/b.yaml:3:24: fix b: stands against a"}},
		"conditions that never meet": {[]string{"id: a\nwhen: cgroup == \"v1\"\neffects: {kubelet: {x: 1}}\n", "id: b\nwhen: cgroup == \"v2\"\neffects: {kubelet: {x: 2}}\n",
			"id: c\nwhen: atLeast(lxc, \"6\")\neffects: {kubelet: {y: 1}}\n", "id: d\nwhen: '!atLeast(lxc, \"6\")'\neffects: {kubelet: {y: 2}}\n",
			"id: e\nwhen: '\"CAP_SYS_TIME\" in capabilities'\neffects: {kubelet: {z: 1}}\n", "id: f\nwhen: '!(\"CAP_SYS_TIME\" in capabilities)'\neffects: {kubelet: {z: 2}}\n"}, nil},
		"one of them is asked for": {[]string{"id: a\noptional: true\neffects: {kubelet: {x: 1}}\n", "id: b\neffects: {kubelet: {x: 2}}\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fix.Load(written("fixes", tc.fixes...))
			if (err != nil) != (tc.want != nil) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v lacks %q", err, want)
				}
			}
			if err != nil && strings.Count(err.Error(), "\n")+1 != len(tc.want) {
				t.Errorf("more is said than %v: %v", tc.want, err)
			}
		})
	}
}

func TestFixesAreMergedAfterThoseThatComeBefore(t *testing.T) {
	cat := load(t, "id: a\nafter: [c]\neffects: {incus: {rawLXC: lxc.cap.drop=sys_time}}\n", "id: b\neffects: {incus: {rawLXC: lxc.mount.auto=proc:rw}}\n",
		"id: c\neffects: {incus: {rawLXC: lxc.cap.drop=}}\n")
	got, err := fix.Merge(cat.All(), fix.Context{})
	if want := []string{"lxc.cap.drop=", "lxc.cap.drop=sys_time", "lxc.mount.auto=proc:rw"}; err != nil || !slices.Equal(got.Incus.RawLXC, want) {
		t.Errorf("%v, %v", got.Incus.RawLXC, err)
	}
}

func TestAFixNeedsVerifyAndSources(t *testing.T) {
	_, err := fix.Load(fix.Source{Name: "x", FS: fstest.MapFS{"a.yaml": {Data: []byte("id: a\ntitle: t\nwhy: w\n")}}})
	if err == nil || !strings.Contains(err.Error(), "needs sources") || !strings.Contains(err.Error(), "needs verify") {
		t.Errorf("error %v", err)
	}
}

func TestUsersOwnFixesJoinTheEmbeddedOnes(t *testing.T) {
	cat, err := fix.Load(fix.Source{Name: "fixes", FS: fixtures.Fixes()}, written("mine", "id: my-own\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := cat.Fix("my-own"); err != nil || f.File() != "mine/my-own.yaml" {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := cat.Fix("swap"); err != nil {
		t.Error(err)
	}
}

func TestLeavingOutAnUnknownFixNamesWhatMayBeMeant(t *testing.T) {
	cat, _ := embedded(t)
	_, err := cat.Decide(fix.Facts{}, fix.Choice{Without: []string{"cgroup-split-cpu", "nothing-like-it-at-all"}})
	var unknown *fix.UnknownError
	if !errors.As(err, &unknown) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{`there is no fix "cgroup-split-cpu"; did you mean cgroup1-split-cpu?`, `there is no fix "nothing-like-it-at-all"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestHarmfulFixesAreNeverApplied(t *testing.T) {
	decisions, err := load(t, "id: a\nharmful: true\n").Decide(fix.Facts{}, fix.Choice{})
	if err != nil {
		t.Fatal(err)
	}
	if r := decisions[0].Record(); r != (matrix.AppliedFix{ID: "a", State: "not-applicable", Why: "harmful"}) {
		t.Errorf("%+v", r)
	}
}

func TestWhatIsHarmfulOrOptionalIsAppliedOnRequest(t *testing.T) {
	cat := load(t, "id: a\nharmful: true\n", "id: b\noptional: true\nwhen: cgroup == \"v2\"\n", "id: c\n")
	for name, tc := range map[string]struct {
		facts  fix.Facts
		choice fix.Choice
		want   map[string]string
	}{
		"nobody asks":         {fix.Facts{"cgroup": "v2"}, fix.Choice{}, map[string]string{"a": "not-applicable", "b": "not-applicable", "c": "applied"}},
		"asked for":           {fix.Facts{"cgroup": "v2"}, fix.Choice{With: []string{"a", "b"}, Without: []string{"c"}}, map[string]string{"a": "applied", "b": "applied", "c": "left-out"}},
		"its condition holds": {fix.Facts{"cgroup": "v1"}, fix.Choice{With: []string{"b"}}, map[string]string{"b": "not-applicable"}},
		"not known":           {fix.Facts{}, fix.Choice{With: []string{"b"}}, map[string]string{"b": "undecided"}},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, err := cat.Decide(tc.facts, tc.choice)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range decisions {
				if want, ok := tc.want[d.Fix.ID]; ok && d.State.String() != want {
					t.Errorf("%s is %s, want %s", d.Fix.ID, d.State, want)
				}
			}
		})
	}
	err := cat.Check(fix.Choice{With: []string{"c", "d", "a"}, Without: []string{"a"}})
	for _, want := range []string{"c is neither harmful nor optional", `there is no fix "d"`, "fix a is both to be applied and to be left out"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestWhatIsAskedForAgainstAnotherFixSaysHow(t *testing.T) {
	cat := load(t, "id: a\nharmful: true\neffects: {kubelet: {x: 1}}\n", "id: b\nwhen: apparmor\neffects: {kubelet: {x: 2}}\n",
		"id: c\nharmful: true\ncontradicts: [d]\n", "id: d\n", "id: e\noptional: true\ncontradicts: [c]\n")
	opposed := func(facts fix.Facts, choice fix.Choice) string {
		t.Helper()
		decisions, err := cat.Decide(facts, choice)
		if err != nil {
			t.Fatal(err)
		}
		if err := fix.Opposed(decisions); err != nil {
			return err.Error()
		}
		return ""
	}
	for _, tc := range []struct {
		facts  fix.Facts
		choice fix.Choice
		want   string
	}{
		{fix.Facts{}, fix.Choice{}, ""},
		{fix.Facts{"apparmor": true}, fix.Choice{With: []string{"a"}}, `fix a cannot be applied beside b; leave that out with --without b: fixes a and b differ on kubelet.x`},
		// It may turn out to apply.
		{fix.Facts{}, fix.Choice{With: []string{"a"}}, "--without b"},
		{fix.Facts{"apparmor": false}, fix.Choice{With: []string{"a"}}, ""},
		{fix.Facts{"apparmor": true}, fix.Choice{With: []string{"a"}, Without: []string{"b"}}, ""},
		{fix.Facts{"apparmor": false}, fix.Choice{With: []string{"c"}}, "leave that out with --without d: fix c contradicts d"},
		{fix.Facts{"apparmor": false}, fix.Choice{With: []string{"c", "e"}, Without: []string{"d"}}, "fixes c and e cannot both be asked for: fix e contradicts c"},
	} {
		if got := opposed(tc.facts, tc.choice); !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%v, %+v: %q, want %q", tc.facts, tc.choice, got, tc.want)
		}
	}
}

func TestMergeConflictsNameBothFixesAndValues(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b, place, va, vb string
	}{
		"kubelet":         {"kubelet: {cgroupDriver: systemd}", "kubelet: {cgroupDriver: cgroupfs}", "kubelet.cgroupDriver", "systemd", "cgroupfs"},
		"nested kubelet":  {"kubelet: {evictionHard: {a: 1}}", "kubelet: {evictionHard: {a: 2}}", "kubelet.evictionHard.a", "1", "2"},
		"leaf and tree":   {"kubelet: {evictionHard: {a: 1}}", "kubelet: {evictionHard: none}", "kubelet.evictionHard", "a: 1", "none"},
		"tree and leaf":   {"kubelet: {evictionHard: none}", "kubelet: {evictionHard: {a: 1}}", "kubelet.evictionHard", "none", "a: 1"},
		"kube-proxy":      {"kubeProxy: {mode: iptables}", "kubeProxy: {mode: nftables}", "kubeProxy.mode", "iptables", "nftables"},
		"containerd":      {"containerd: {cri: {x: true}}", "containerd: {cri: {x: false}}", "containerd.cri.x", "true", "false"},
		"runc":            {"containerd: {runc: {x: 1}}", "containerd: {runc: {x: 2}}", "containerd.runc.x", "1", "2"},
		"config":          {"incus: {config: {k: 'a'}}", "incus: {config: {k: 'b'}}", "incus.config.k", "a", "b"},
		"device":          {"incus: {devices: {d: {type: disk}}}", "incus: {devices: {d: {type: nic}}}", "incus.devices.d", "type: disk", "type: nic"},
		"raw.lxc":         {"incus: {rawLXC: lxc.apparmor.profile=a}", "incus: {rawLXC: lxc.apparmor.profile=b}", "incus.rawLXC.lxc.apparmor.profile", "a", "b"},
		"host sysctl":     {"host: {sysctls: {kernel.panic: '1'}}", "host: {sysctls: {kernel.panic: '2'}}", "host.sysctls.kernel.panic", "1", "2"},
		"node sysctl":     {"node: {sysctls: {net.x: '1'}}", "node: {sysctls: {net.x: '2'}}", "node.sysctls.net.x", "1", "2"},
		"node IP":         {"nodeIP: 10.0.0.1", "nodeIP: 10.0.0.2", "nodeIP", "10.0.0.1", "10.0.0.2"},
		"file's contents": {"node: {files: [{path: /f, content: a}]}", "node: {files: [{path: /f, content: b}]}", "node.files./f", "content: a", "content: b"},
		"snapshotter":     {"containerd: {snapshotter: native}", "containerd: {snapshotter: overlayfs}", "containerd.snapshotter", "native", "overlayfs"},
		"unit":            {"node: {units: [{name: u.service, content: a}]}", "node: {units: [{name: u.service, content: b}]}", "node.units.u.service", "content: a", "content: b"},
	} {
		t.Run(name, func(t *testing.T) {
			cat := load(t, "id: one\neffects: {"+tc.a+"}\n", "id: two\noptional: true\neffects: {"+tc.b+"}\n", "id: three\neffects: {"+tc.a+"}\n")
			find := func(id string) *fix.Fix {
				f, err := cat.Fix(id)
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			_, err := fix.Merge([]*fix.Fix{find("one"), find("two")}, fix.Context{})
			var conflict *fix.ConflictError
			if !errors.As(err, &conflict) {
				t.Fatalf("error %v", err)
			}
			if conflict.Place != tc.place || conflict.Fixes != [2]string{"one", "two"} ||
				!strings.Contains(conflict.Values[0], tc.va) || !strings.Contains(conflict.Values[1], tc.vb) {
				t.Errorf("%v", err)
			}
			if _, err := fix.Merge([]*fix.Fix{find("one"), find("three")}, fix.Context{}); err != nil {
				t.Errorf("the same twice: %v", err)
			}
		})
	}
}

func TestMergeReportsEveryConflict(t *testing.T) {
	cat := load(t, "id: a\neffects: {kubelet: {x: 1, y: 1}}\n", "id: b\noptional: true\neffects: {kubelet: {x: 2, y: 2}}\n")
	_, err := fix.Merge(cat.All(), fix.Context{})
	if err == nil || !strings.Contains(err.Error(), "kubelet.x") || !strings.Contains(err.Error(), "kubelet.y") {
		t.Errorf("error %v", err)
	}
}

func TestRawLXCLinesThatAddUpAreNoConflict(t *testing.T) {
	cat := load(t, "id: a\neffects: {incus: {rawLXC: 'lxc.mount.auto=proc:rw'}}\n", "id: b\neffects: {incus: {rawLXC: 'lxc.mount.auto=sys:rw'}}\n")
	got, err := fix.Merge(cat.All(), fix.Context{})
	if err != nil || !slices.Equal(got.Incus.RawLXC, []string{"lxc.mount.auto=proc:rw", "lxc.mount.auto=sys:rw"}) {
		t.Errorf("%v, %v", got.Incus.RawLXC, err)
	}
}

func TestMergeRefusesATemplateOverWhatIsNotKnown(t *testing.T) {
	cat := load(t, "id: a\neffects: {nodeIP: '{{.Node.Address}}'}\n")
	_, err := fix.Merge(cat.All(), fix.Context{NodeName: "n"})
	if err == nil || !strings.Contains(err.Error(), "fix a: template") {
		t.Errorf("error %v", err)
	}
}

func TestMergingChangesNoFix(t *testing.T) {
	cat := load(t, "id: a\neffects: {kubelet: {m: {x: 1}}, incus: {devices: {d: {path: '{{.Node.Name}}'}}}}\n", "id: b\neffects: {kubelet: {m: {y: 2}}}\n")
	for _, node := range []string{"n1", "n2"} {
		got, err := fix.Merge(cat.All(), fix.Context{NodeName: node})
		if err != nil {
			t.Fatal(err)
		}
		if got.Incus.Devices["d"]["path"] != node {
			t.Errorf("device %v", got.Incus.Devices)
		}
		m, _ := got.Kubelet["m"].(map[string]any)
		if len(m) != 2 {
			t.Errorf("kubelet %v", got.Kubelet)
		}
		m["z"] = 3 // the caller's to change
	}
}
