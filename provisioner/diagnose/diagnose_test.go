package diagnose_test

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
)

func embedded(t testing.TB) []*diagnose.Signature {
	t.Helper()
	signatures, err := diagnose.Load(diagnose.Source{Name: "signatures", FS: fixtures.Signatures()})
	if err != nil {
		t.Fatal(err)
	}
	return signatures
}

// lines are log lines in the programs' own words, one or more per signature.
func lines() map[string][][2]string {
	return map[string][][2]string{
		"cgroup1-split-cpu": {
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpu cpuacct]"`},
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpu]"`},
		},
		"oom-score-adj-pipe": {
			{"containerd.log", `time="2026-11-20T19:00:00Z" level=error msg="RunPodSandbox for &PodSandboxMetadata{Name:etcd-cp1,} failed, error" error="failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: can't get final child's PID from pipe: EOF"`},
			{"kubelet.log", `E1120 19:00:00.1 812 log.go:32] "RunPodSandbox from runtime service failed" err="rpc error: code = Unknown desc = failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: can't get final child's PID from pipe: EOF"`},
		},
		"atoi-empty": {
			{"kubelet.log", `E0810 10:00:00.1 812 kubelet.go:1649] "Failed to start ContainerManager" err="strconv.Atoi: parsing \"\": invalid syntax"`},
			{"kubelet.log", `E0810 10:00:00.1 812 kubelet.go:1649] "Failed to start ContainerManager" err="[strconv.Atoi: parsing \"\": invalid syntax, strconv.Atoi: parsing \"\": invalid syntax]"`},
		},
		"kmsg-missing": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: failed to create kubelet: open /dev/kmsg: no such file or directory"`},
		},
		"cgroup-v1-controllers": {
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpuset memory]"`},
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [memory]"`},
		},
		"kube-proxy-nftables": {
			{"kube-proxy.log", `E1120 19:00:00.1 1 server.go:135] "Error running ProxyServer" err="unable to create proxier: kube-proxy in nftables mode requires kernel 5.13 or later"`},
		},
		"conntrack-max": {
			{"kube-proxy.log", `E1120 19:00:00.1 1 server.go:109] "Error running ProxyServer" err="open /proc/sys/net/netfilter/nf_conntrack_max: permission denied"`},
		},
		"cgroups-path-format": {
			{"containerd.log", `failed to create shim task: OCI runtime create failed: runc create failed: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/k8s.io/1f0c" instead`},
			{"kubelet.log", `err="rpc error: code = Unknown desc = expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/kubepods/burstable/pod1/2\" instead: unknown"`},
		},
		"disk-pressure": {
			{"kubelet.log", `I1120 19:00:00.1 812 image_gc_manager.go:391] "Disk usage on image filesystem is over the high threshold, trying to free bytes down to the low threshold" usage=86 highThreshold=85 amountToFree=1 lowThreshold=80`},
			{"kubelet.log", `I1120 19:00:00.1 812 eviction_manager.go:376] "Eviction manager: attempting to reclaim" resourceName="ephemeral-storage"`},
			{"kubelet.log", `I1120 19:00:00.1 812 eviction_manager.go:387] "Eviction manager: must evict pod(s) to reclaim" resourceName="inodes"`},
		},
		"apparmor-denied": {
			{"containerd.log", `unable to start container process: error during container init: unable to apply apparmor profile: apparmor failed to apply profile: write /proc/self/attr/apparmor/exec: no such file or directory`},
			{"containerd.log", `runc create failed: unable to start container process: error during container init: open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied`},
		},
		"apparmor-gate-fatal": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to set feature gates from initial flags-based config: cannot set feature gate AppArmor to false, feature is locked to true"`},
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to set feature gates from initial flags-based config: unrecognized feature gate: AppArmor"`},
		},
		"kernel-config": {
			{"kubeadm-init.log", `[ERROR SystemVerification]: failed to parse kernel config: unable to load kernel module: "configs", output: "modprobe: FATAL: Module configs not found in directory /lib/modules/6.18.44\n", err: exit status 1`},
		},
		"no-default-route": {
			{"kubeadm-init.log", `error execution phase preflight: couldn't look up: no default routes found in "/proc/net/route" or "/proc/net/ipv6_route"`},
		},
		"stop-timeout": {
			{"journal.log", `Nov 20 19:00:00 cp1 systemd[1]: cri-containerd-0c8f6d8e7b8a.scope: Stopping timed out. Killing process 1234 (kube-apiserver) with signal SIGKILL.`},
		},
		"not-shared": {
			{"kubelet.log", `Error: failed to generate container "1f" spec: path "/sys/fs/bpf" is mounted on "/" but it is not a shared mount`},
		},
		"sysctl-read-only": {
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:1703] "Failed to start ContainerManager" err="[open /proc/sys/vm/overcommit_memory: read-only file system, open /proc/sys/kernel/panic: read-only file system]"`},
			{"kubelet.log", `"Failed to start ContainerManager" err="open /proc/sys/kernel/keys/root_maxkeys: permission denied"`},
			{"kubelet.log", `"Failed to start ContainerManager" err="invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0"`},
		},
		"cgroup-v1-refused": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release"`},
		},
		"swap-on": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: running with swap on is not supported, please disable swap or set --fail-swap-on flag to false"`},
		},
		"ip-forward": {
			{"kubeadm-init.log", `	[ERROR FileContent--proc-sys-net-ipv4-ip_forward]: /proc/sys/net/ipv4/ip_forward contents are not set to 1`},
		},
		"too-many-open-files": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: error creating fsnotify watcher: too many open files"`},
			{"journal.log", `systemd[1]: Failed to allocate directory watch: Too many open files`},
		},
	}
}

func TestEverySignatureFindsItsLines(t *testing.T) {
	signatures := embedded(t)
	examples := lines()
	for _, s := range signatures {
		if len(examples[s.ID]) == 0 {
			t.Errorf("signature %s has no example here", s.ID)
		}
	}
	for id, list := range examples {
		for _, example := range list {
			log := "I1120 18:59:59.0 812 server.go:1] \"Started\"\n" + example[1] + "\n"
			found, err := diagnose.Scan(t.Context(), signatures, fstest.MapFS{"node/" + example[0]: {Data: []byte(log)}})
			if err != nil {
				t.Fatal(err)
			}
			// A line shows its own signature and no other.
			if len(found) != 1 || found[0].Signature != id || found[0].Line != example[1] || found[0].Log != "node/"+example[0] {
				t.Errorf("%s: %s\nfound %+v", id, example[1], found)
			}
		}
	}
}

func TestHarmlessLinesMatchNothing(t *testing.T) {
	log := strings.Join([]string{
		`E1120 19:00:00.1 812 kubelet.go:1] "Failed to apply oom score" err="failed to apply oom score -999 to PID 812: write /proc/812/oom_score_adj: permission denied"`,
		`I1120 19:00:00.1 812 container_manager_linux.go:480] "Updating kernel flag" flag="vm/overcommit_memory" expectedValue=1 actualValue=0`,
		`I1120 19:00:00.1 812 server.go:1] "Using cgroup driver setting received from the CRI runtime" cgroupDriver="systemd"`,
		`W1120 19:00:00.1 812 watcher.go:93] Error while processing event ("/sys/fs/cgroup/cpu": 0x40000100 == IN_CREATE|IN_ISDIR): no such file or directory`,
		`I1120 19:00:00.1 1 conntrack.go:60] "Setting nf_conntrack_max" nfConntrackMax=131072`,
	}, "\n")
	logs := fstest.MapFS{}
	for _, name := range []string{"kubelet.log", "containerd.log", "journal.log", "kube-proxy.log"} {
		logs[name] = &fstest.MapFile{Data: []byte(log)}
	}
	found, err := diagnose.Scan(t.Context(), embedded(t), logs)
	if err != nil || len(found) > 0 {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestSignaturesFixesAndGatesKnowEachOther(t *testing.T) {
	known := map[string]bool{}
	for _, s := range embedded(t) {
		known[s.ID] = true
	}
	fixes := map[string]bool{}
	for _, f := range linkedTo(t, fixtures.Fixes()) {
		fixes[f.ID] = true
		for _, id := range f.Cures {
			if !known[id] {
				t.Errorf("fix %s cures %s, which is no signature", f.ID, id)
			}
		}
	}
	for _, g := range linkedTo(t, fixtures.Gates()) {
		if id := g.Probe.Signature; id != "" && !known[id] {
			t.Errorf("gate %s shows as %s, which is no signature", g.ID, id)
		}
	}
	for _, s := range embedded(t) {
		if s.Cure != "" && !fixes[s.Cure] {
			t.Errorf("signature %s: cure %s is no fix", s.ID, s.Cure)
		}
		if !strings.HasPrefix(s.Issue, "https://") {
			t.Errorf("signature %s: issue %q is no https link", s.ID, s.Issue)
		}
	}
}

// linked is what fixes and gates say of signatures.
type linked struct {
	ID    string   `yaml:"id"`
	Cures []string `yaml:"cures"`
	Probe struct {
		Signature string `yaml:"signature"`
	} `yaml:"probe"`
}

func linkedTo(t *testing.T, files fs.FS) []linked {
	t.Helper()
	names, err := fs.Glob(files, "*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	all := make([]linked, len(names))
	for i, name := range names {
		data, err := fs.ReadFile(files, name)
		if err == nil {
			err = yaml.Load(data, &all[i])
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return all
}

func TestScanReportsTheFirstLineOfEachInOrder(t *testing.T) {
	examples := lines()
	noise := strings.Repeat("I1120 19:00:00.0 812 reflector.go:1] \"Caches populated\" type=\"*v1.Node\"\n", 20_000)
	long := strings.Repeat("x", 3<<20) + "open /dev/kmsg: no such file or directory\n" // cut off before it could match
	logs := fstest.MapFS{
		"a/kubelet.log": {Data: []byte(noise + long + noise + examples["swap-on"][0][1] + "\r\n" + noise + examples["kmsg-missing"][0][1] + "\n" + examples["swap-on"][0][1] + " again\n")},
		"b/kubelet.log": {Data: []byte(examples["kmsg-missing"][0][1] + " on another node\n" + examples["atoi-empty"][0][1])},
		"b/notes.txt":   {Data: []byte(examples["cgroup1-split-cpu"][0][1] + "\n")},
	}
	found, err := diagnose.Scan(t.Context(), embedded(t), logs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.Log+" "+d.Signature)
	}
	want := []string{"a/kubelet.log swap-on", "a/kubelet.log kmsg-missing", "b/kubelet.log atoi-empty"}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if found[0].Line != examples["swap-on"][0][1] {
		t.Errorf("line %q", found[0].Line)
	}
}

// broken has a log that cannot be read besides one that can.
type broken struct{ fstest.MapFS }

func (b broken) Open(name string) (fs.File, error) {
	if path.Base(name) == "containerd.log" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return b.MapFS.Open(name)
}

func TestAnUnreadableLogHidesNoOther(t *testing.T) {
	logs := broken{fstest.MapFS{"containerd.log": {Data: []byte("x\n")}, "kubelet.log": {Data: []byte(lines()["swap-on"][0][1])}}}
	found, err := diagnose.Scan(t.Context(), embedded(t), logs)
	if !errors.Is(err, fs.ErrPermission) || len(found) != 1 {
		t.Errorf("found %+v, error %v", found, err)
	}
}

func TestScanEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := diagnose.Scan(ctx, embedded(t), fstest.MapFS{"kubelet.log": {Data: []byte("x\n")}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestLoadListsEveryProblem(t *testing.T) {
	good := "id: a\ntitle: t\npattern: abc\nwhere: [x.log]\ncause: c\nissue: https://example.org\n"
	_, err := diagnose.Load(
		diagnose.Source{Name: "one", FS: fstest.MapFS{
			"good.yaml":    {Data: []byte(good)},
			"pattern.yaml": {Data: []byte("id: b\ntitle: t\npattern: '('\nwhere: ['[']\ncause: c\nissue: https://example.org\n")},
			"empty.yaml":   {Data: []byte("id: c\ntitle: t\npattern: 'x*'\nwhere: [x.log]\ncause: c\nissue: https://example.org\n")},
			"key.yaml":     {Data: []byte("id: d\nfoo: bar\n")},
		}},
		diagnose.Source{Name: "two", FS: fstest.MapFS{"again.yaml": {Data: []byte(good)}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"one/pattern.yaml: signature b: pattern: ", `one/pattern.yaml: signature b: where "["`,
		"one/empty.yaml: signature c: pattern \"x*\" matches an empty line", "one/key.yaml:2:", "two/again.yaml: signature a is already in one/good.yaml"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	line := "I1120 19:00:00.123456     812 pod_startup_latency_tracker.go:104] \"Observed pod startup duration\" pod=\"kube-system/kube-proxy-abcde\" podStartSLOduration=1.2 open /proc/1/x\n"
	logs := fstest.MapFS{"kubelet.log": {Data: []byte(strings.Repeat(line, (50<<20)/len(line)))}}
	signatures := embedded(b)
	b.SetBytes(50 << 20)
	for b.Loop() {
		if _, err := diagnose.Scan(b.Context(), signatures, logs); err != nil {
			b.Fatal(err)
		}
	}
}
