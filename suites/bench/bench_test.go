package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
)

// attempt has phases of one second each, a millisecond between any two, and a
// stability window of half a second in the baseline.
func attempt() matrix.Attempt {
	a := matrix.Attempt{Started: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	at := a.Started
	for _, phase := range (matrix.Cell{}).Phases() {
		at = at.Add(time.Millisecond)
		r := matrix.PhaseResult{Phase: phase, Started: at, Duration: matrix.Duration(time.Second)}
		if phase == matrix.PhaseBaseline {
			r.Waited = matrix.Duration(500 * time.Millisecond)
		}
		a.Phases = append(a.Phases, r)
		at = at.Add(time.Second)
	}
	return a
}

func TestOfAttempt(t *testing.T) {
	g := NewWithT(t)
	times, err := OfAttempt(attempt())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(times).To(HaveLen(len(matrix.Cell{}.ProvingPhases())))
	g.Expect(times).NotTo(HaveKey(matrix.PhaseCollect))
	g.Expect(times[matrix.PhaseCreate]).To(Equal(1001 * time.Millisecond))
	g.Expect(times[matrix.PhaseBaseline]).To(Equal(501 * time.Millisecond))
	g.Expect(times.Healthy()).To(Equal(4*1001*time.Millisecond - 500*time.Millisecond))
	g.Expect(times.Whole()).To(Equal(8*1001*time.Millisecond - 500*time.Millisecond))

	half := attempt()
	half.Phases = half.Phases[:5]
	_, err = OfAttempt(half)
	g.Expect(err).To(MatchError(ContainSubstring("recover has no result")))
}

func TestSummarise(t *testing.T) {
	for name, c := range map[string]struct {
		in   []int64
		want summary[int64]
	}{
		"one":  {[]int64{7}, summary[int64]{7, 7, 7}},
		"odd":  {[]int64{9, 1, 5}, summary[int64]{5, 1, 9}},
		"even": {[]int64{8, 2, 4, 100}, summary[int64]{6, 2, 100}},
	} {
		t.Run(name, func(t *testing.T) { NewWithT(t).Expect(summarise(c.in)).To(Equal(c.want)) })
	}
}

// pair scales all of a pair's times.
func pair(harness, hand time.Duration, peak int64) Pair {
	p := Pair{Harness: Times{}, Hand: Times{}, Ready: 4 * time.Second, PeakBytes: peak}
	for i, phase := range (matrix.Cell{}).ProvingPhases() {
		p.Harness[phase], p.Hand[phase] = harness*time.Duration(i+1), hand*time.Duration(i+1)
	}
	return p
}

func TestReport(t *testing.T) {
	for name, pairs := range map[string][]Pair{
		"met":     {pair(1100*time.Millisecond, time.Second, 70e6), pair(1050*time.Millisecond, 1200*time.Millisecond, 72e6), pair(1200*time.Millisecond, 1100*time.Millisecond, 149e6)},
		"not-met": {pair(1210*time.Millisecond, time.Second, 150e6)},
		// Healthy may be slower by less than the whole cell.
		"between": {pair(1170*time.Millisecond, time.Second, 70e6)},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var out bytes.Buffer
			g.Expect(Report(&out, pairs)).To(Succeed())
			golden.Assert(t, out.String(), name+".txt")
		})
	}
	NewWithT(t).Expect(Report(io.Discard, nil)).NotTo(Succeed())
}

func TestReportJoins(t *testing.T) {
	g := NewWithT(t)
	const agent, server = matrix.RoleAgent, matrix.RoleServer
	var out bytes.Buffer
	g.Expect(ReportJoins(&out, []JoinPair{{agent, 6 * time.Second, 5 * time.Second}, {server, 20 * time.Second, 16 * time.Second},
		{agent, 7 * time.Second, 5 * time.Second}, {agent, 5 * time.Second, 6 * time.Second}})).To(Succeed())
	golden.Assert(t, out.String(), "joins.txt")
	out.Reset()
	g.Expect(ReportJoins(&out, []JoinPair{{agent, 14 * time.Second, 10 * time.Second}})).To(Succeed())
	g.Expect(out.String()).To(ContainSubstring("ratio 1.400; target at most 1.30: not met"))
	g.Expect(ReportJoins(io.Discard, nil)).NotTo(Succeed())
}

func TestReportPassesAFailureToWriteOn(t *testing.T) {
	reader, writer := io.Pipe()
	broken := errors.New("the disk is full")
	NewWithT(t).Expect(reader.CloseWithError(broken)).To(Succeed())
	NewWithT(t).Expect(Report(writer, []Pair{pair(1, 1, 1)})).To(MatchError(broken))
}

// example is a cell on cgroup v1 that passed, as far as a recipe needs it.
func example(t *testing.T, knowledge *catalog.Knowledge) Example {
	t.Helper()
	c := matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"}, OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1},
		Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}}
	a := attempt()
	a.Host = matrix.HostFacts{Kernel: "6.18.0", Cgroup: "v1", CgroupCPUSplit: true, Capabilities: []string{"CAP_SYS_ADMIN"}, Incus: "6.0.4", LXC: "5.0.2", Storage: "dir"}
	a.Nodes = []matrix.NodeFacts{{Node: "n", Kernel: "6.18.0", Cgroup: "v1", OSID: "debian", OSVersion: "13", Systemd: "257", Containerd: "1.7.24~ds1", Runc: "1.1.15", Kubernetes: "1.34.4"}}
	var err error
	a.Fixes, err = catalog.Fixes{Catalogue: knowledge.Fixes}.Decide(c, a.Host, &a.Nodes[0])
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return Example{Cell: c, Attempt: a, Plan: matrix.Plan{Timeouts: matrix.Timeouts{Install: matrix.Duration(6 * time.Minute)}}}
}

// What is done by hand is what the fixes and the distribution do.
func TestRecipe(t *testing.T) {
	g := NewWithT(t)
	knowledge, err := catalog.LoadKnowledge(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	e := example(t, knowledge)
	distro := catalog.Distro(artifact.Release{Version: e.Cell.Distro.Version}, e.Cell, e.Plan.Timeouts)
	r, err := writeDown(t.Context(), knowledge, distro, e, "by-hand", "10.0.0.5", provisioner.Network{Gateway: "10.0.0.1", Subnet: "10.0.0.0/24"})
	g.Expect(err).NotTo(HaveOccurred())

	// The last command is kubeadm's; seat.install relies on it.
	last := r.commands[len(r.commands)-1]
	g.Expect(last[:2]).To(Equal([]string{"kubeadm", "init"}))
	g.Expect(r.commands[:len(r.commands)-1]).To(ContainElement([]string{"systemctl", "restart", "containerd"}))
	g.Expect(r.commands).NotTo(ContainElement(ContainElement("--version")))

	archive, err := r.archive()
	g.Expect(err).NotTo(HaveOccurred())
	files, modes := map[string]string{}, map[string]int64{}
	for in := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		g.Expect(err).NotTo(HaveOccurred())
		content, err := io.ReadAll(in)
		g.Expect(err).NotTo(HaveOccurred())
		files[h.Name], modes[h.Name] = string(content), h.Mode
	}
	g.Expect(files).To(HaveKeyWithValue("etc/lxcmatrix/kubeadm.yaml", ContainSubstring("advertiseAddress: 10.0.0.5")))
	g.Expect(files).To(HaveKeyWithValue("etc/lxcmatrix/resolv.conf", "nameserver 10.0.0.1\n"))
	g.Expect(files).To(HaveKey("etc/systemd/system/lxcmatrix-cgroup1-split-cpu.service"))
	g.Expect(files).To(HaveKeyWithValue("etc/containerd/config.toml", ContainSubstring("version = 2")))
	g.Expect(modes).To(HaveKeyWithValue("etc/lxcmatrix/kubeadm.yaml", int64(0o600)))
	g.Expect(modes).To(HaveKeyWithValue("usr/local/lib/lxcmatrix/cgroup1-split-cpu", int64(0o755)))
	g.Expect(modes).To(HaveKeyWithValue("etc/lxcmatrix/resolv.conf", int64(0o644)))

	got := r.instance(matrix.NodeLimits{MemoryBytes: 1 << 30, Processes: 99, CPUs: 2}, "10.0.0.5", "nodes", "lxcm0", map[string]string{"kind": "node"})
	g.Expect(got["config"]).To(And(HaveKeyWithValue("security.privileged", "true"), HaveKeyWithValue("limits.memory", "1073741824"),
		HaveKeyWithValue("limits.processes", "99"), HaveKeyWithValue("user.lxcmatrix.kind", "node"), HaveKeyWithValue("raw.lxc", ContainSubstring("lxc.mount.auto=proc:rw"))))
	g.Expect(got["devices"]).To(And(HaveKey("kmsg"), HaveKeyWithValue("eth0", HaveKeyWithValue("ipv4.address", "10.0.0.5"))))

	e.Attempt.Nodes = nil
	_, err = writeDown(t.Context(), knowledge, distro, e, "by-hand", "10.0.0.5", provisioner.Network{Gateway: "10.0.0.1", Subnet: "10.0.0.0/24"})
	g.Expect(err).To(MatchError(ContainSubstring("0 nodes")))
}

func TestWorkloadNamesTheNode(t *testing.T) {
	NewWithT(t).Expect(workload([]byte("a: b"), []byte("values: [NODE]\nname: POD_NAME\n"), "n1")).To(Equal("a: b\n---\nvalues: [n1]\nname: POD_NAME\n"))
}

// well is a cluster that restarted at restarted and is healthy again.
func well(t *testing.T, spoil func(items map[string]map[string]any)) []byte {
	t.Helper()
	pod := func(namespace, name, app, ip string) map[string]any {
		return map[string]any{"kind": "Pod",
			"metadata": map[string]any{"namespace": namespace, "name": name, "labels": map[string]any{"k8s-app": app}},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "c"}}},
			"status": map[string]any{"podIP": ip,
				"containerStatuses": []any{map[string]any{"name": "c", "state": map[string]any{"running": map[string]any{"startedAt": "2026-11-20T12:00:05Z"}}}},
				"conditions":        []any{map[string]any{"type": "Ready", "status": "True"}}}}
	}
	endpoints := func(namespace, service string, addresses ...string) map[string]any {
		var all []any
		for _, a := range addresses {
			all = append(all, map[string]any{"addresses": []any{a}, "conditions": map[string]any{"ready": true}})
		}
		// One that is not ready leads nowhere.
		all = append(all, map[string]any{"addresses": []any{"10.244.0.99"}, "conditions": map[string]any{"ready": false}})
		return map[string]any{"kind": "EndpointSlice", "endpoints": all,
			"metadata": map[string]any{"namespace": namespace, "name": service, "labels": map[string]any{"kubernetes.io/service-name": service}}}
	}
	items := map[string]map[string]any{
		"dnsEndpoints":   endpoints("kube-system", "kube-dns", "10.244.0.3", "10.244.0.2"),
		"probeEndpoints": endpoints("lxcmatrix-probe", "probe", "10.244.0.4"),
		"node": {"kind": "Node", "metadata": map[string]any{"name": "n1"},
			"spec": map[string]any{"taints": []any{map[string]any{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}}},
			"status": map[string]any{"nodeInfo": map[string]any{"bootID": "new"},
				"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}}},
		"lease": {"kind": "Lease", "metadata": map[string]any{"namespace": "kube-node-lease", "name": "n1"},
			"spec": map[string]any{"renewTime": "2026-11-20T12:00:04.000000Z"}},
		"service": {"kind": "Service", "metadata": map[string]any{"namespace": "lxcmatrix-probe", "name": "probe"}, "spec": map[string]any{"clusterIP": "10.96.1.2"}},
		"etcd":    pod("kube-system", "etcd-n1", "", "10.0.0.5"), "api": pod("kube-system", "kube-apiserver-n1", "", "10.0.0.5"),
		"manager": pod("kube-system", "kube-controller-manager-n1", "", "10.0.0.5"), "scheduler": pod("kube-system", "kube-scheduler-n1", "", "10.0.0.5"),
		"proxy": pod("kube-system", "kube-proxy-x", "kube-proxy", "10.0.0.5"), "dns1": pod("kube-system", "coredns-1", "kube-dns", "10.244.0.2"), "dns2": pod("kube-system", "coredns-2", "kube-dns", "10.244.0.3"),
		"probe": pod("lxcmatrix-probe", "probe-1", "", "10.244.0.4"),
	}
	spoil(items)
	var list []any
	for _, item := range items {
		list = append(list, item)
	}
	text, err := json.Marshal(map[string]any{"kind": "List", "items": list})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return text
}

func TestLook(t *testing.T) {
	restarted := start{bootID: "new", at: time.Date(2026, 11, 20, 12, 0, 2, 400e6, time.UTC)}
	set := func(item string, value any, path ...string) func(map[string]map[string]any) {
		return func(items map[string]map[string]any) {
			at := items[item]
			for _, key := range path[:len(path)-1] {
				at = at[key].(map[string]any)
			}
			at[path[len(path)-1]] = value
		}
	}
	without := func(item string) func(map[string]map[string]any) {
		return func(items map[string]map[string]any) { delete(items, item) }
	}
	notReady := []any{map[string]any{"type": "Ready", "status": "False"}}
	running := func(since string) []any {
		return []any{map[string]any{"name": "c", "state": map[string]any{"running": map[string]any{"startedAt": since}}}}
	}
	for name, c := range map[string]struct {
		spoil func(map[string]map[string]any)
		want  string
	}{
		"healthy":                    {func(map[string]map[string]any) {}, ""},
		"in the second of the start": {set("etcd", running("2026-11-20T12:00:02Z"), "status", "containerStatuses"), ""},
		"no node":                    {without("node"), "0 nodes"},
		"another node":               {set("node", "n2", "metadata", "name"), "n2 is not the cluster's"},
		"boot of before":             {set("node", "old", "status", "nodeInfo", "bootID"), "boot ID old"},
		"node not ready":             {set("node", notReady, "status", "conditions"), "n1 is not Ready"},
		"taint":                      {set("node", []any{map[string]any{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}}, "spec", "taints"), "taint"},
		"lease of before":            {set("lease", "2026-11-20T12:00:01.000000Z", "spec", "renewTime"), "not renewed"},
		"no lease":                   {without("lease"), "not renewed"},
		"static pod missing":         {without("etcd"), "1 static pods are missing"},
		"proxy missing":              {without("proxy"), "0 of kube-proxy"},
		"one DNS server":             {without("dns2"), "1 of DNS"},
		"pod not ready":              {set("dns1", notReady, "status", "conditions"), "coredns-1 is not Ready"},
		"container of before":        {set("dns1", running("2026-11-20T11:59:59Z"), "status", "containerStatuses"), "since the node's start"},
		"container waits":            {set("dns1", []any{map[string]any{"name": "c", "state": map[string]any{"waiting": map[string]any{}}}}, "status", "containerStatuses"), "does not run"},
		"no container yet":           {set("dns1", []any{}, "status", "containerStatuses"), "not whole"},
		"pod that ends":              {set("probe", "2026-11-20T12:00:09Z", "metadata", "deletionTimestamp"), "not whole"},
		"DNS endpoints of before":    {set("dns1", "10.244.0.7", "status", "podIP"), "endpoints of DNS are"},
		"no endpoints of the probe":  {without("probeEndpoints"), "of the probe []"},
		"no probe":                   {without("probe"), "no probe"},
		"no service":                 {without("service"), "no probe"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			found, err := look(well(t, c.spoil), "n1", restarted)
			if c.want != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.want)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(found).To(Equal(settled{probePod: "probe-1", probeService: "10.96.1.2"}))
		})
	}
	_, err := look([]byte("no list"), "n1", restarted)
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("read the list")))
	// Before any restart nothing is stale.
	_, err = look(well(t, without("lease")), "n1", start{bootID: "new"})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
}

func TestUntil(t *testing.T) {
	g := NewWithT(t)
	tries := 0
	err := until(t.Context(), time.Millisecond, func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(tries).To(Equal(3))

	last := errors.New("still not")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	err = until(ctx, time.Millisecond, func(context.Context) error { return last })
	g.Expect(err).To(And(MatchError(last), MatchError(context.DeadlineExceeded)))
}

func TestPeakMemory(t *testing.T) {
	g := NewWithT(t)
	own, ok := highWater(os.Getpid())
	g.Expect(ok).To(BeTrue())
	g.Expect(own).To(BeNumerically(">", 1<<20))

	ended := exec.CommandContext(t.Context(), "true")
	g.Expect(ended.Run()).To(Succeed())
	_, ok = highWater(ended.Process.Pid)
	g.Expect(ok).To(BeFalse())

	over, cancel := context.WithCancel(t.Context())
	cancel()
	// No less than own would be too much: the kernel sums its counters of pages
	// roughly, and two looks at a high-water mark may differ either way.
	g.Expect(peakMemory(over, os.Getpid())).To(BeNumerically("~", own, own/2))
	g.Expect(peakMemory(over, ended.Process.Pid)).To(BeZero())
}

func TestRunSaysWhatFailed(t *testing.T) {
	g := NewWithT(t)
	s := &seat{Hand: Hand{StateDir: t.TempDir(), Folder: t.TempDir()}}
	out, err := s.run(t.Context(), strings.NewReader("in"), "sh", "-c", "cat; echo $INCUS_DIR")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(Equal("in" + filepath.Join(s.StateDir, "incus") + "\n"))
	_, err = s.run(t.Context(), nil, "sh", "-c", "echo no >&2; exit 3")
	g.Expect(err).To(MatchError(And(ContainSubstring("exit status 3"), ContainSubstring("no"))))
}
