package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
)

func embedded(t *testing.T) []Fault {
	t.Helper()
	all, err := Load(datafile.Source{Name: "faults", FS: fixtures.Faults()})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFaultsAreComplete: names are unique and those of their files, and what a
// fault names is there: checks that run where it is tried, and a signature.
func TestFaultsAreComplete(t *testing.T) {
	g := NewWithT(t)
	signatures, err := diagnose.Load(datafile.Source{Name: "signatures", FS: fixtures.Signatures()})
	g.Expect(err).NotTo(HaveOccurred())
	snapshot := health.Snapshot{Nodes: map[string]health.NodeSnapshot{"s1": {}, "a1": {}}}
	checks := map[bool][]string{false: names(health.Baseline(matrix.Timeouts{})), true: names(health.AfterRestart(snapshot, matrix.Timeouts{}))}
	seen := map[string]bool{}
	for _, f := range embedded(t) {
		g.Expect(seen).NotTo(HaveKey(f.ID))
		seen[f.ID] = true
		_, err := fs.Stat(fixtures.Faults(), f.ID+".yaml")
		g.Expect(err).NotTo(HaveOccurred())
		for _, check := range f.Checks {
			g.Expect(checks[f.After != AfterNothing]).To(ContainElement(check), "fault %s", f.ID)
		}
		g.Expect(signatures).To(ContainElement(HaveField("ID", f.Signature)), "fault %s", f.ID)
		// The window for restarts has to be shorter than what a run may take.
		g.Expect(f.Within.Std()).To(And(BeNumerically(">=", 10*time.Second), BeNumerically("<=", 30*time.Second)), "fault %s", f.ID)
		undone := f.Heal != (Scripts{}) || f.Pause != "" || f.After == AfterNoRestart
		g.Expect(undone).To(BeTrue(), "fault %s is not healed", f.ID)
	}
	g.Expect(len(seen)).To(BeNumerically(">=", 30))
}

func names(checks []provisioner.Check) (all []string) {
	for _, c := range checks {
		all = append(all, c.Name())
	}
	return all
}

func TestLoadRefuses(t *testing.T) {
	const good = "id: a\ntitle: A\ntopology: \"1\"\ninject: {server: break}\nverdict: fail\nchecks: [dns]\nwithin: 10s\nsignature: s\n"
	load := func(text string) error {
		_, err := Load(datafile.Source{Name: "faults", FS: fstest.MapFS{"a.yaml": {Data: []byte(text)}}})
		return err
	}
	NewWithT(t).Expect(load(good)).To(Succeed())
	for from, to := range map[string][2]string{
		"title: A\n":                 {"", "faults/a.yaml:1:5: fault a: needs id, title"},
		"topology: \"1\"":            {"topology: \"7\"", `topology "7": want 1 or 1+1`},
		"inject: {server: break}":    {"inject: {agent: break}", "an agent, which topology 1 has not"},
		"inject: {server: break}\n":  {"", "it breaks nothing"},
		"verdict: fail":              {"verdict: pass", `verdict "pass": want fail or blocked`},
		"within: 10s":                {"after: lunch\nwithin: 10s", `after "lunch"`},
		"within: 10s\n":              {"within: 10s\nneeds: true\n", "needs and why go together"},
		"signature: s\n":             {"signature: s\nseconds: 4\n", "seconds"},
		"checks: [dns]\nwithin: 10s": {"checks: []\nwithin: 10s", "needs id, title, checks"},
	} {
		NewWithT(t).Expect(load(strings.Replace(good, from, to[0], 1))).To(MatchError(ContainSubstring(to[1])))
	}
}

// TestOrder: a restart is needed once, so faults after it come together.
func TestOrder(t *testing.T) {
	g := NewWithT(t)
	var order []After
	for _, f := range embedded(t) {
		if len(order) == 0 || order[len(order)-1] != f.After {
			order = append(order, f.After)
		}
	}
	g.Expect(order).To(Equal([]After{AfterNothing, AfterRestart, AfterNoRestart}))
}

// caught is a fault and what a check saw of it.
func caught(id, check, signature string) Outcome {
	return Outcome{
		Fault: Fault{ID: id, Verdict: "fail", Checks: []string{check}, Signature: signature},
		Evidence: []matrix.Evidence{
			{Check: "dns", Outcome: matrix.Healthy, Saw: "an address"},
			{Check: "taints", Outcome: matrix.Healthy, Saw: "none"},
			{Check: check, Node: "a1", Outcome: matrix.Unhealthy, Saw: "it is broken"},
		},
		Diagnoses: []matrix.Diagnosis{{Signature: signature}},
		Took:      matrix.Duration(10 * time.Second), Whole: matrix.Duration(17 * time.Second),
	}
}

func sampled() []Outcome {
	blocked := Outcome{Fault: Fault{ID: "clock", Verdict: "fail"}, Blocked: "nodes share their host's clock"}
	passed := caught("quiet", "dns", "dns-wrong")
	passed.Evidence = passed.Evidence[:2]
	other := caught("elsewhere", "dns", "dns-wrong")
	other.Evidence[2].Check = "exec"
	unnamed := caught("unnamed", "taints", "taint-left")
	unnamed.Diagnoses = []matrix.Diagnosis{{Signature: matrix.Unclassified}}
	untried := Outcome{Fault: Fault{ID: "untried", Verdict: "fail"}, Error: "inject: it failed"}
	return []Outcome{caught("names", "dns", "dns-wrong"), caught("taint", "taints", "taint-left"), blocked, passed, other, unnamed, untried}
}

func TestRender(t *testing.T) {
	var b bytes.Buffer
	if err := Render(&b, sampled()); err != nil {
		t.Fatal(err)
	}
	golden.Assert(t, b.String(), "table.golden")
}

// TestMissed: a fault is caught by the right verdict, the right check and the
// right diagnosis alone.
func TestMissed(t *testing.T) {
	g := NewWithT(t)
	var missed []string
	for _, o := range sampled() {
		if o.Tried() {
			missed = append(missed, o.Missed())
		}
	}
	g.Expect(missed).To(HaveExactElements("", "", "the verdict is pass", "check dns did not see it",
		"the diagnosis does not name it", "inject: it failed"))
	undecided := caught("names", "dns", "dns-wrong")
	undecided.Evidence[2].Outcome = matrix.Undecided
	g.Expect(undecided.Missed()).To(HavePrefix("the verdict is blocked"))
	undecided.Fault.Verdict = "blocked"
	g.Expect(undecided.Missed()).To(BeEmpty())
}

// TestMutate: a check that returns healthy whatever it sees is noticed where a
// fault rests on it, and there alone.
func TestMutate(t *testing.T) {
	g := NewWithT(t)
	noticed, survivors := Mutate(sampled())
	g.Expect(noticed).To(Equal([]string{"dns", "taints"}))
	g.Expect(survivors).To(Equal([]string{"exec"}), "what a fault rests on that was not caught proves nothing")
	two := caught("two", "dns", "dns-wrong")
	two.Evidence = append(two.Evidence, matrix.Evidence{Check: "exec", Outcome: matrix.Unhealthy, Saw: "refused"})
	noticed, survivors = Mutate([]Outcome{two})
	g.Expect(noticed).To(Equal([]string{"dns"}))
	g.Expect(survivors).To(Equal([]string{"exec", "taints"}), "that the verdict is fail anyway is not to have caught it")
}

// fakeNode is a node whose scripts are kept, and fail where they say so.
type fakeNode struct {
	provisioner.Node // The rest of Node is not to be called.

	name string
	bed  *fakeBed
}

func (n *fakeNode) Name() string    { return n.name }
func (n *fakeNode) Address() string { return "10.0.0.9" }

func (n *fakeNode) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	script := strings.TrimPrefix(cmd.Args[2], words)
	n.bed.ran = append(n.bed.ran, n.name+": "+script)
	if strings.HasPrefix(script, "fails") {
		return provisioner.Output{}, &provisioner.CommandError{Node: n.name, Command: []string{script}, Output: provisioner.Output{Stderr: "it failed", ExitCode: 1}}
	}
	if strings.HasPrefix(script, "lost") {
		return provisioner.Output{}, errors.New("the server does not answer")
	}
	n.bed.broken = script == "break" || n.bed.broken && script != "heal"
	return provisioner.Output{}, nil
}

func (n *fakeNode) Pause(context.Context) error {
	n.bed.ran = append(n.bed.ran, n.name+": pause")
	n.bed.broken = true
	return nil
}

func (n *fakeNode) Resume(context.Context) error {
	n.bed.ran = append(n.bed.ran, n.name+": resume")
	n.bed.broken = false
	return nil
}

// fakeBed is a cluster of two nodes that is broken or is not.
type fakeBed struct {
	broken bool
	ran    []string
}

// Name is that of the one check of the fake cluster.
func (b *fakeBed) Name() string { return "fake" }

// Run looks once, and needs no time.
func (b *fakeBed) Run(context.Context, *provisioner.Cluster) []matrix.Evidence {
	e := matrix.Evidence{Check: "fake", Node: "a1", Outcome: matrix.Healthy, Saw: "all is well"}
	if b.broken {
		e.Outcome, e.Saw = matrix.Unhealthy, "it is broken"
	}
	return []matrix.Evidence{e}
}

type silent struct{}

func (silent) Step(string, ...any) func(error) { return func(error) {} }
func (silent) Note(string, ...any)             {}

func (b *fakeBed) bed(t *testing.T) *Bed {
	t.Helper()
	signatures, err := diagnose.Load(datafile.Source{Name: "signatures", FS: fstest.MapFS{"s.yaml": {Data: []byte(
		"id: s\ntitle: S\npattern: 'fake on a1: it is broken'\nwhere: [baseline.log]\ncause: c\nissue: https://example.com\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	// The checks of a real cluster are not asked, but its kubeconfig is read.
	server := httptest.NewTLSServer(nil)
	server.Close()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	kubeconfig := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "https://10.0.0.9:6443", certificate-authority-data: %s}}], users: [{name: u, user: {token: t}}]}`, ca)
	c := matrix.Cell{Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4"}, Topology: matrix.Topology{Servers: 1, Agents: 1}}
	return &Bed{
		Lodging: cell.Lodging{
			Cluster: &provisioner.Cluster{Cell: c, Nodes: []provisioner.Node{&fakeNode{name: "s1", bed: b}, &fakeNode{name: "a1", bed: b}}, Kubeconfig: []byte(kubeconfig)},
			Logs: func(_ context.Context, n provisioner.Node) (map[string][]byte, error) {
				return map[string][]byte{"kubelet.log": []byte("2026-11-20T19:00:00+0000 it is broken\n")}, fmt.Errorf("node %s has no console", n.Name())
			},
		},
		Signatures: signatures, Folder: t.TempDir(), Progress: silent{},
		checks: func(*health.Snapshot, Fault) []provisioner.Check { return []provisioner.Check{b} },
	}
}

func fault(id, inject, heal string) Fault {
	return Fault{ID: id, Topology: "1+1", Inject: Scripts{Agent: inject}, Heal: Scripts{Server: heal}, Verdict: "fail", Checks: []string{"fake"},
		Within: matrix.Duration(10 * time.Second), Stability: second, Signature: "s"}
}

// TestSow: a fault is made in a healthy cluster, seen, diagnosed by what was
// logged since, and healed.
func TestSow(t *testing.T) {
	g := NewWithT(t)
	var fake fakeBed
	bed := fake.bed(t)
	frozen := Fault{ID: "frozen", Topology: "1+1", Pause: matrix.RoleAgent, Verdict: "fail", Checks: []string{"fake"}, Within: second, Signature: "s"}
	needs := fault("needs", "break", "heal")
	needs.Needs, needs.Why = "fails", "this is no such host"
	lost := fault("lost", "break", "heal")
	lost.Needs, lost.Why = "lost", "this is no such host"
	three := fault("three", "break", "heal")
	three.Topology = "3"
	outcomes, left, err := bed.Sow(t.Context(), []Fault{fault("one", "break", "heal"), frozen, needs, lost, three, fault("nothing", "touch", "heal"), fault("half", "fails", "heal")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
	var came []string
	for _, o := range outcomes {
		if came = append(came, o.Blocked); o.Tried() {
			came[len(came)-1] = o.Missed()
		}
	}
	g.Expect(came).To(HaveExactElements("", "", "this is no such host", ContainSubstring("could not be told whether it can be made here: the server does not answer"), "",
		"the verdict is pass", And(HavePrefix("inject: "), ContainSubstring("it failed"))))
	g.Expect(fake.ran).To(Equal([]string{"a1: break", "s1: heal", "a1: pause", "a1: resume", "s1: fails", "s1: lost", "a1: break", "s1: heal", "a1: touch", "s1: heal", "a1: fails", "s1: heal"}))
	for _, name := range []string{"one/phases/baseline.log", "one/phases/collect.log", "frozen/phases/baseline.log"} {
		text, err := os.ReadFile(filepath.Join(bed.Folder, name))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(text)).To(Or(HaveSuffix("Z fake on a1: it is broken\n"), ContainSubstring("node a1 has no console")))
	}
	g.Expect(os.ReadFile(filepath.Join(bed.Folder, "one/a1/kubelet.log"))).To(BeEmpty(), "what was logged before the fault is not the fault's")
}

// TestSowEndsEarly: once ctx ends nothing more is tried, and what was broken is
// healed.
func TestSowEndsEarly(t *testing.T) {
	g := NewWithT(t)
	var fake fakeBed
	ctx, cancel := context.WithCancel(t.Context())
	bed := fake.bed(t)
	logs := bed.Logs
	bed.Logs = func(ctx context.Context, n provisioner.Node) (map[string][]byte, error) {
		cancel()
		return logs(ctx, n)
	}
	outcomes, left, err := bed.Sow(ctx, []Fault{fault("one", "break", "heal"), fault("two", "break", "heal")})
	g.Expect(err).To(MatchError(HavePrefix("before fault two: ")))
	g.Expect(outcomes).To(HaveLen(1))
	g.Expect(left).To(HaveExactElements(HaveField("ID", "two")))
	g.Expect(fake.ran).To(Equal([]string{"a1: break", "s1: heal"}))
}

// TestSowNeedsAHealthyCluster: one that does not get well is no bed for a fault.
func TestSowNeedsAHealthyCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		var fake fakeBed
		bed := fake.bed(t)
		bed.checks = func(*health.Snapshot, Fault) []provisioner.Check { return []provisioner.Check{&slow{&fake}} }
		outcomes, left, err := bed.Sow(t.Context(), []Fault{fault("one", "break", "touch"), fault("two", "break", "heal")})
		g.Expect(err).To(MatchError("before fault two: the cluster is not healthy: fake on a1: it is broken"))
		g.Expect(outcomes).To(HaveExactElements(HaveField("Fault.ID", "one")))
		g.Expect(left).To(HaveExactElements(HaveField("ID", "two")))
		g.Expect(fake.ran).To(Equal([]string{"a1: break", "s1: touch"}))
	})
}

// TestSowOnABusyMachine: where a healthy cluster needs longer than a fault's
// deadline, both are given more.
func TestSowOnABusyMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		var fake fakeBed
		bed := fake.bed(t)
		bed.checks = func(*health.Snapshot, Fault) []provisioner.Check {
			return []provisioner.Check{&busy{fakeBed: &fake, needs: 20 * time.Second}}
		}
		outcomes, left, err := bed.Sow(t.Context(), []Fault{fault("one", "break", "heal")})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(left).To(BeEmpty())
		g.Expect(outcomes).To(HaveLen(1))
		g.Expect(outcomes[0].Missed()).To(BeEmpty())
		g.Expect(outcomes[0].Fault.Within.Std()).To(Equal(30 * time.Second))
	})
}

// busy is a check that needs its time.
type busy struct {
	*fakeBed
	needs time.Duration
}

// Run is fakeBed's, if there is the time.
func (b *busy) Run(ctx context.Context, cluster *provisioner.Cluster) []matrix.Evidence {
	select {
	case <-time.After(b.needs):
		return b.fakeBed.Run(ctx, cluster)
	case <-ctx.Done():
		return []matrix.Evidence{{Check: "fake", Outcome: matrix.Unhealthy, Saw: "it goes on"}}
	}
}

// slow looks until its deadline where something is wrong, as checks do.
type slow struct{ *fakeBed }

// Run is fakeBed's.
func (s *slow) Run(ctx context.Context, cluster *provisioner.Cluster) []matrix.Evidence {
	if s.broken {
		<-ctx.Done()
	}
	return s.fakeBed.Run(ctx, cluster)
}
