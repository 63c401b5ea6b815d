package diagnose_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
)

// Recordings are the logs of real cells, each with what the run knew of the
// cell, in an archive of its own; what comes of it lies beside it as a golden
// file. They are made of a run's folder, and of that of an ablation's trial, by
//
//	LXCMATRIX_RECORD=runs/RUN go test ./provisioner/diagnose -run TestRecordings -update
//
// which leaves out what the host's kernel said to the node's journal: it is about
// the host, and nothing that a cell fails of.
const (
	recordings = "recordings"
	archived   = ".tar.zst"
)

// recorded says of each recording which signatures its cell failed of, in the
// order of their first lines. A cell that passed shows none, and neither does one
// that failed of what no signature knows.
func recorded() map[string][]string {
	const (
		v134 = "kubeadm-1.34-debian-13-1-native-"
		v136 = "kubeadm-1.36-debian-13-1-native-"
	)
	return map[string][]string{
		v134 + "whole":                                        nil,
		v134 + "without-net-sysctls":                          nil,
		v134 + "without-any":                                  {"kmsg-missing", "userns-kubelet"},
		v134 + "without-cgroup1-split-cpu":                    {"cgroup1-split-cpu"},
		v134 + "without-conntrack-max":                        {"conntrack-max", "containers-not-ready", "crash-loop"},
		v134 + "without-kmsg-device":                          {"kmsg-missing"},
		v134 + "without-restrict-oom-score-adj":               {"oom-score-adj-pipe"},
		v134 + "without-host-sysctls-without-raw-lxc-proc-rw": {"sysctl-read-only", "kubelet-flapping", "apiserver-down", "controller-manager-down", "scheduler-down"},
		v134 + "without-raw-lxc-devices-v1":                   {"devices-not-allowed", "crash-loop", "kube-proxy-down", "containers-not-ready"},
		v136 + "without-cgroup-v1-kubelet":                    {"cgroup-v1-refused"},
		v134 + "with-bare-device-lines":                       {"device-rule-refused"},
		v134 + "with-incus-modules":                           {"kernel-module-refused"},
		v134 + "with-cgroups-per-qos":                         {"cgroups-path-format"},
		v134 + "with-kubelet-apparmor-gate":                   {"apparmor-gate-fatal"},
		v134 + "with-proc-sys-stubs":                          {"atoi-empty"},
		// The same as with-cgroups-per-qos, as long as that fix left kubelet to
		// enforce what it cannot without cgroups.
		v134 + "unclassified-kubelet-config": nil,
		// Before kubeadm-preflight knew of it. The node's state was told as a
		// flapping kubelet then, of which kubeadm had not come to configure it.
		"kubeadm-1.32-debian-13-1-native-whole": {"preflight-proxy-url", "kubelet-flapping"},
		// Its API server took longer for a first call than kubeadm waited, which no
		// signature says: kubeadm's warning of the kernel's configuration was taken for
		// the cause once.
		"kubeadm-1.33-debian-13-1-k6.12-v2-whole": nil,
		// Several nodes, another OS, and cgroup v2, which passed.
		"kubeadm-1.34-debian-12+debian-13-1+1-native-whole": nil,
		"kubeadm-1.36-debian-13-1-k6.12-v2-whole":           nil,
	}
}

// unrecorded says of each signature that no recording shows why that is so: what
// it takes is not to be had on the host of the recordings, which has Linux 6.18
// with cgroup v1, everything built in, no AppArmor, and Incus 6 with LXC 5.
func unrecorded() map[string]string {
	const (
		apparmor = "needs a host with AppArmor"
		rancher  = "k3s and RKE2 only"
		v2       = "needs a host with cgroup v2"
		fault    = "suites/faults brings it about, and sees it named"
		asked    = "no fix that is left out, or asked for, brings it about here"
	)
	return map[string]string{
		"apparmor-denied":             apparmor,
		"br-netfilter-missing":        "needs a kernel that loads br_netfilter as a module",
		"btrfs-rootfs":                "needs nodes on btrfs",
		"cgroup-controllers":          v2,
		"cgroup-invalid-state":        v2,
		"cgroup-v1-controllers":       "needs a kernel without a controller",
		"cni-plugin-missing":          "needs an image without plugins",
		"conntrack-timeouts":          "needs an unprivileged node that comes as far as kube-proxy",
		"containerd-config-version":   rancher,
		"containerd-table-twice":      rancher,
		"coredns-loop":                asked + ": systemd-resolved tells its upstream",
		"cpu-level":                   "needs a CPU older than x86-64-v3",
		"disk-pressure":               asked + ": the pool has room",
		"hostport-conflict":           rancher,
		"hugetlb-controller":          asked + ": containerd does without the controller by itself",
		"ip-forward":                  asked + ": a node inherits what the host forwards",
		"iptables-missing":            "needs a kernel without ip_tables",
		"kernel-config":               asked + ": the kernel tells its configuration",
		"kube-proxy-nftables":         "needs a kernel before 5.13",
		"modules-load-failed":         "needs a host whose modules are files",
		"no-default-route":            "needs an image that does not configure eth0",
		"not-shared":                  asked + ": kubeadm's own pods propagate no mounts",
		"portmap-iptables":            rancher,
		"preflight-executable":        "needs an image that lacks a program",
		"resolv-fallback":             rancher,
		"runc-crash":                  v2,
		"snapshotter":                 rancher,
		"stop-timeout":                asked,
		"swap-on":                     "needs a host with swap",
		"sysctl-reopen":               apparmor,
		"too-many-open-files":         "needs more nodes than limits",
		"unit-namespace":              apparmor,
		"apiserver-unknown-authority": fault,
		"certificate-expired":         "needs a node with a clock of its own",
		"certificates-changed":        fault,
		"container-ended":             fault,
		"containerd-down":             fault,
		"data-lost":                   fault,
		"event-storm":                 fault,
		"datagrams-lost":              fault,
		"mounts-changed":              fault,
		"sysctls-changed":             fault,
		"quota-exceeded":              fault,
		"kmsg-link":                   fault,
		"daemonset-nowhere":           fault,
		"node-port-closed":            fault,
		"host-port-closed":            fault,
		"dns-port-filtered":           fault,
		"dns-wrong-answer":            fault,
		"etcd-out-of-space":           fault,
		"image-missing":               fault,
		"kubelet-certificate-expired": fault,
		"kubelet-down":                fault,
		"memory-pressure":             "needs a host with lxcfs",
		"node-cordoned":               fault,
		"node-facts-differ":           fault,
		"node-frozen":                 fault,
		"not-restarted":               fault,
		"out-of-memory":               fault,
		"overlay-mtu":                 fault,
		"pod-unschedulable":           fault,
		"program-crashed":             fault,
		"service-without-endpoints":   fault,
		"shim-left":                   fault,
		"taint-left":                  fault,
		"taint-not-ready":             fault,
		"taint-unreachable":           fault,
		"unit-failed":                 fault,
		"vxlan-port-filtered":         fault,
		"webhook-failed":              fault,
	}
}

func TestRecordings(t *testing.T) {
	if dir := os.Getenv("LXCMATRIX_RECORD"); dir != "" {
		record(t, dir)
	}
	archives, err := filepath.Glob(filepath.Join("testdata", recordings, "*"+archived))
	if err != nil {
		t.Fatal(err)
	}
	signatures := embedded(t)
	missing := recorded()
	for _, archive := range archives {
		name := strings.TrimSuffix(filepath.Base(archive), archived)
		t.Run(name, func(t *testing.T) {
			r := replay(t, archive)
			found, err := diagnose.Scan(t.Context(), signatures, r.logs)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range found {
				got = append(got, d.Signature)
			}
			want, known := missing[name]
			delete(missing, name)
			if !known || !slices.Equal(got, want) {
				t.Errorf("found %q, want %q (%t)", got, want, known)
			}
			if len(want) > 0 && r.Cell.Judgement.Verdict == matrix.Pass {
				t.Errorf("the cell passed, and is to show %q", want)
			}
			if len(want) == 0 && r.Cell.Judgement.Verdict != matrix.Pass {
				if found, err = diagnose.Diagnose(t.Context(), signatures, fixtures.Passing(), r.logs); err != nil {
					t.Fatal(err)
				}
			}
			golden.Assert(t, r.describe()+describe(found), filepath.Join(recordings, name+".golden"))
		})
	}
	for name := range missing {
		t.Errorf("there is no recording %s", name)
	}
}

// Whoever adds a signature says whether a real cell has shown it.
func TestEverySignatureIsRecordedOrSaidNotToBe(t *testing.T) {
	seen := map[string][]string{}
	for name, signatures := range recorded() {
		for _, id := range signatures {
			seen[id] = append(seen[id], name)
		}
	}
	known := map[string]bool{}
	for _, s := range embedded(t) {
		known[s.ID] = true
		if why := unrecorded()[s.ID]; (why == "") == (len(seen[s.ID]) == 0) {
			t.Errorf("signature %s is in the recordings %q and not recorded because: %q", s.ID, seen[s.ID], why)
		}
	}
	for id := range unrecorded() {
		if !known[id] {
			t.Errorf("there is no signature %s", id)
		}
	}
}

// recording is one cell as it was recorded.
type recording struct {
	// Run and Version are those of the run that the cell was part of.
	Run, Version string
	Cell         matrix.Result
	logs         fstest.MapFS
}

// facts is the archive's file of all but the logs.
const facts = "recording.json"

// replay reads a recording.
func replay(t *testing.T, name string) recording {
	t.Helper()
	archive, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Close() }()
	unpacked, err := zstd.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()
	r := recording{logs: fstest.MapFS{}}
	for files := tar.NewReader(unpacked); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return r
		}
		var content []byte
		if err == nil {
			content, err = io.ReadAll(files)
		}
		if err == nil && header.Name == facts {
			err = json.Unmarshal(content, &r)
		} else if err == nil {
			r.logs[header.Name] = &fstest.MapFile{Data: content}
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// ofHost is a line of a node's journal that the host's kernel said.
var ofHost = regexp.MustCompile(`(?m)^\S+ \S+ kernel: .*\n`)

// record makes recordings of the cells of a run, and of nothing that would be
// diagnosed otherwise than the run's own logs.
func record(t *testing.T, dir string) {
	t.Helper()
	folder, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	run, err := folder.Read()
	if err != nil {
		t.Fatal(err)
	}
	signatures := embedded(t)
	for _, result := range run.Results {
		r := recording{Run: run.ID, Version: run.Version, Cell: result, logs: fstest.MapFS{}}
		logs, err := folder.Logs(result.Cell.ID)
		if err != nil {
			t.Fatal(err)
		}
		whole := fstest.MapFS{}
		for _, l := range logs {
			content, err := l.Last(l.Size)
			if err != nil {
				t.Fatal(err)
			}
			name := path.Join(l.Node, l.Name)
			whole[name] = &fstest.MapFile{Data: content}
			if l.Name == "journal.log" {
				content = ofHost.ReplaceAll(content, nil)
			}
			r.logs[name] = &fstest.MapFile{Data: content}
		}
		before, err := diagnose.Diagnose(t.Context(), signatures, fixtures.Passing(), whole)
		if err != nil {
			t.Fatal(err)
		}
		after, err := diagnose.Diagnose(t.Context(), signatures, fixtures.Passing(), r.logs)
		if err != nil || describe(before) != describe(after) {
			t.Fatalf("cell %s is diagnosed as\n%s\nand its recording as\n%s\n%v", result.Cell.ID, describe(before), describe(after), err)
		}
		r.write(t)
	}
}

// name is the cell's, and says what was left out of it and asked for in it.
func (r recording) name() string {
	parts := []string{strings.ReplaceAll(string(r.Cell.Cell.ID), "/", "-")}
	for _, id := range r.Cell.Cell.With {
		parts = append(parts, "with", id)
	}
	if a, _ := r.Cell.Last(); !slices.ContainsFunc(a.Fixes, func(f matrix.AppliedFix) bool { return f.State == "applied" }) {
		parts = append(parts, "without", "any")
	} else {
		for _, id := range r.Cell.Cell.Without {
			parts = append(parts, "without", id)
		}
	}
	if len(parts) == 1 {
		parts = append(parts, "whole")
	}
	return strings.Join(parts, "-")
}

func (r recording) write(t *testing.T) {
	t.Helper()
	about, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	packed, err := zstd.NewWriter(&archive, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewWriter(packed)
	add := func(name string, content []byte) {
		err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = files.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(facts, about)
	err = fs.WalkDir(r.logs, ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			add(name, r.logs[name].Data)
		}
		return err
	})
	if err := errors.Join(err, files.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("testdata", recordings)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, r.name()+archived), archive.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Logf("recorded %s: %d bytes", r.name(), archive.Len())
}

// describe says what was recorded.
func (r recording) describe() string {
	var out strings.Builder
	c, judged := r.Cell.Cell, r.Cell.Judgement
	fmt.Fprintf(&out, "cell %s", c.ID)
	for _, id := range c.With {
		fmt.Fprintf(&out, ", with %s", id)
	}
	for _, id := range c.Without {
		fmt.Fprintf(&out, ", without %s", id)
	}
	fmt.Fprintf(&out, ": %s", judged.Verdict)
	if judged.Phase != "" {
		fmt.Fprintf(&out, " in %s", judged.Phase)
	}
	a, _ := r.Cell.Last()
	fmt.Fprintf(&out, "\nrun %s of lxcmatrix %s, %s\n", r.Run, r.Version, a.Started.UTC().Format(time.DateTime))
	fmt.Fprintf(&out, "host: kernel %s, cgroup %s, Incus %s, LXC %s\n", a.Host.Kernel, a.Host.Cgroup, a.Host.Incus, a.Host.LXC)
	for _, n := range a.Nodes {
		if n.Kernel == "" {
			continue // it never ran
		}
		fmt.Fprintf(&out, "node %s: %s %s, systemd %s, containerd %s, runc %s, Kubernetes %s\n", n.Node, n.OSID, n.OSVersion, n.Systemd, n.Containerd, n.Runc, n.Kubernetes)
	}
	var applied []string
	for _, f := range a.Fixes {
		if f.State == "applied" || f.State == "satisfied" {
			applied = append(applied, f.ID)
		}
	}
	fmt.Fprintf(&out, "fixes: %s\n", strings.Join(applied, ", "))
	return out.String()
}

// describe says what was found.
func describe(found []matrix.Diagnosis) string {
	var out strings.Builder
	for _, d := range found {
		at := "no time"
		if !d.At.IsZero() {
			at = d.At.Format(time.RFC3339Nano)
		}
		fmt.Fprintf(&out, "\n%s: %s, %s\n%s\n", d.Signature, d.Log, at, d.Line)
	}
	return out.String()
}
