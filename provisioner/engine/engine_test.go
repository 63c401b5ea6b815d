package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeGround opens fake hosts; every answer may be replaced.
type fakeGround struct {
	open  func(ref matrix.HostRef) error
	gate  func(c matrix.Cell) (*matrix.GateFinding, error)
	ready func(c matrix.Cell) error
	run   func(ctx context.Context, c matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt
	close func(ref matrix.HostRef) error
	// facts, if set, are what is observed on every host.
	facts matrix.HostFacts
	// done, if set, ends the hosts.
	done chan struct{}
	// shows, if set, is what a host shows before and after an image is ready.
	shows func(readied bool) matrix.HostFacts

	mu sync.Mutex
	// readied: a cell's image was ready.
	readied bool
	opened  []string
	closed  []string
	// running are the cells that run now, most the most at one time.
	running, most int
	ran           []matrix.CellID
}

func (g *fakeGround) Open(_ context.Context, ref matrix.HostRef) (engine.Host, error) {
	g.mu.Lock()
	g.opened = append(g.opened, ref.Name)
	g.mu.Unlock()
	if g.open != nil {
		if err := g.open(ref); err != nil {
			return nil, err
		}
	}
	if g.done != nil {
		return &mortalHost{fakeHost{g, ref}}, nil
	}
	return &fakeHost{g, ref}, nil
}

type fakeHost struct {
	*fakeGround
	ref matrix.HostRef
}

// mortalHost can end by itself.
type mortalHost struct{ fakeHost }

func (h *mortalHost) Done() <-chan struct{} { return h.done }
func (h *mortalHost) Err() error            { return errors.New("qemu: signal: killed") }

func (h *fakeHost) Facts() matrix.HostFacts {
	if h.shows != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.shows(h.readied)
	}
	if h.facts.CPUs > 0 {
		return h.facts
	}
	return hostFacts()
}

func (h *fakeHost) Gate(c matrix.Cell) (*matrix.GateFinding, error) {
	if h.gate == nil {
		return nil, nil
	}
	return h.gate(c)
}

func (h *fakeHost) Ready(_ context.Context, c matrix.Cell) (engine.Runner, error) {
	if h.ready != nil {
		if err := h.ready(c); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readied = true
	return fakeRunner{h.fakeGround}, nil
}

func (h *fakeHost) Close(context.Context) error {
	h.mu.Lock()
	h.closed = append(h.closed, h.ref.Name)
	h.mu.Unlock()
	if h.close != nil {
		return h.fakeGround.close(h.ref)
	}
	return nil
}

type fakeRunner struct{ *fakeGround }

func (r fakeRunner) Run(ctx context.Context, c matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt {
	r.mu.Lock()
	r.running++
	r.most = max(r.most, r.running)
	r.ran = append(r.ran, c.ID)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running--
		r.mu.Unlock()
	}()
	if r.run != nil {
		return r.run(ctx, c, attempt, changed)
	}
	return through(c, changed, "")
}

// TakeUp finds nothing left.
func (r fakeRunner) TakeUp(_ context.Context, c matrix.Cell, _ int, begun matrix.Attempt, _ func(matrix.Attempt)) (matrix.Attempt, error) {
	if len(begun.Phases) == 0 {
		return begun, nil
	}
	return begun.CutShort(c, stillClock{}.Now()), nil
}

func hostFacts() matrix.HostFacts {
	return matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"}
}

// through is an attempt that goes through every phase, or fails in one.
func through(c matrix.Cell, changed func(matrix.Attempt), fails matrix.Phase) matrix.Attempt {
	a := matrix.Attempt{Host: hostFacts()}
	for n := range c.Topology.Nodes() {
		a.Nodes = append(a.Nodes, matrix.NodeFacts{Node: fmt.Sprint("n", n), Kernel: "6.18.5", Cgroup: "v1", OSID: "debian", OSVersion: "13",
			Containerd: "1.7.24", Runc: "1.1.15", Kubernetes: "1.34.4", BootIDs: []string{"a", "b", "c"}})
	}
	for _, p := range (matrix.Cell{}).Phases() {
		e := matrix.Evidence{Check: "check", Outcome: matrix.Healthy, Saw: "well"}
		if p == fails {
			e.Outcome, e.Saw = matrix.Unhealthy, "broken"
		}
		a.Phases = append(slices.Clone(a.Phases), matrix.PhaseResult{Phase: p, Evidence: []matrix.Evidence{e}})
		changed(a)
		if p == fails {
			break
		}
	}
	return a
}

type stillClock struct{}

func (stillClock) Now() time.Time                                   { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
func (stillClock) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

var _ provisioner.Clock = stillClock{}

func cellOn(host, topology string) matrix.Cell {
	t, err := matrix.ParseTopology(topology)
	if err != nil {
		panic(err)
	}
	c := matrix.Cell{Host: matrix.HostRef{Name: host, Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/13"}, Topology: t}
	c.ID = c.NewID()
	return c
}

func named(c matrix.Cell, variant string) matrix.Cell {
	c.Variants = []string{variant}
	c.ID = c.NewID()
	return c
}

const gib = 1 << 30

func planOf(cells ...matrix.Cell) matrix.Plan {
	return matrix.Plan{APIVersion: matrix.PlanAPIVersion, Cells: cells,
		Budget: matrix.Budget{CPUs: 2, MemoryBytes: 8 * gib, Node: matrix.NodeLimits{MemoryBytes: 4 * gib, CPUs: 2}}}
}

// run runs a plan to its end and reads it back from disk.
func run(ctx context.Context, t *testing.T, ground *fakeGround, plan matrix.Plan, attempts int) (matrix.Run, *runfolder.Folder) {
	t.Helper()
	folder, err := runfolder.Create(filepath.Join(t.TempDir(), "run"), matrix.Run{ID: "r", Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(engine.Options{Ground: ground, Plan: plan, Folder: folder, Attempts: attempts, Clock: stillClock{}})
	e.Start(ctx)
	errs := e.Wait()
	got, err := folder.Read()
	if err := errors.Join(err, folder.Close()); err != nil {
		t.Fatal(err)
	}
	if len(errs) != len(got.HarnessErrors) {
		t.Errorf("Wait says %v, the folder %v", errs, got.HarnessErrors)
	}
	// What those who waited saw is what is on disk.
	for i, c := range plan.Cells {
		r, err := e.Result(context.WithoutCancel(ctx), c.ID)
		if err != nil || r.Judgement != got.Results[i].Judgement {
			t.Errorf("cell %s: told %+v (%v), on disk %+v", c.ID, r.Judgement, err, got.Results[i].Judgement)
		}
	}
	return got, folder
}

func verdicts(r matrix.Run) (all []matrix.Verdict) {
	for _, result := range r.Results {
		all = append(all, result.Judgement.Verdict)
	}
	return all
}

func TestPassAndEvents(t *testing.T) {
	g := NewWithT(t)
	ground, c := &fakeGround{}, cellOn("a", "1")
	r, folder := run(t.Context(), t, ground, planOf(c), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Pass}))
	g.Expect(r.HarnessErrors).To(BeEmpty())
	g.Expect(ground.opened).To(Equal([]string{"a"}))
	g.Expect(ground.closed).To(Equal([]string{"a"}))
	events, err := folder.Events()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(events).To(HaveLen(4 + len(matrix.Cell{}.Phases())))
	g.Expect(events[0]).To(And(HaveField("Kind", runfolder.HostOpened), HaveField("Host", "a")))
	g.Expect(events[len(events)-1]).To(And(HaveField("Kind", runfolder.HostClosed), HaveField("Host", "a")))
	events = events[1 : len(events)-1]
	g.Expect(events[0].Kind).To(Equal(runfolder.CellStarted))
	for i, p := range (matrix.Cell{}).Phases() {
		e := events[1+i]
		g.Expect(e).To(And(HaveField("Kind", runfolder.PhaseEnded), HaveField("Phase", p), HaveField("Attempt", 1), HaveField("Cell", c.ID)))
		g.Expect(*e.Verdict).To(Equal(matrix.Pass))
	}
	last := events[len(events)-1]
	g.Expect(last.Kind).To(Equal(runfolder.CellEnded))
	g.Expect(*last.Verdict).To(Equal(matrix.Pass))
}

// TestBudget: two nodes of memory fit, whatever the number of cells.
func TestBudget(t *testing.T) {
	for _, c := range []struct {
		change func(*matrix.Budget)
		most   int
	}{
		{func(*matrix.Budget) {}, 2},
		{func(b *matrix.Budget) { b.Cells = 1 }, 1},
		{func(b *matrix.Budget) { b.MemoryBytes = 7 * gib }, 1},
		{func(b *matrix.Budget) { b.CPUs = 1 }, 1},
	} {
		g := NewWithT(t)
		var cells []matrix.Cell
		for i := range 6 {
			cells = append(cells, named(cellOn("a", "1"), fmt.Sprint("v", i)))
		}
		plan := planOf(cells...)
		c.change(&plan.Budget)
		// Every cell waits until as many run as may, or it is the last.
		full := make(chan struct{}, len(cells))
		ground := &fakeGround{}
		ground.run = func(_ context.Context, cell matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
			ground.mu.Lock()
			if ground.running == c.most {
				for range c.most {
					full <- struct{}{}
				}
			}
			ground.mu.Unlock()
			<-full
			return through(cell, changed, "")
		}
		r, _ := run(t.Context(), t, ground, plan, 1)
		g.Expect(verdicts(r)).To(HaveEach(matrix.Pass))
		g.Expect(ground.most).To(Equal(c.most))
	}
}

func TestOverBudget(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1"), cellOn("a", "1+2")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Pass, matrix.Blocked}))
	g.Expect(r.Results[1].Judgement.Reason).To(And(ContainSubstring("12288 MiB"), ContainSubstring("raise budget")))
	g.Expect(ground.ran).To(HaveLen(1))
}

func TestHostThatCannotBeOpened(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{open: func(ref matrix.HostRef) error {
		if ref.Name == "a" {
			return errors.New("it is off")
		}
		return nil
	}}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1"), cellOn("b", "1"), cellOn("a", "1+1")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked, matrix.Pass, matrix.Blocked}))
	g.Expect(r.Results[0].Judgement.Reason).To(Equal("open host a: it is off"))
	g.Expect(ground.closed).To(Equal([]string{"b"}))
	g.Expect(matrix.ExitCode(r, false)).To(Equal(matrix.ExitHarness))
}

// TestGates: what a gate rules out, at plan time or at admission, opens no
// host, runs nothing, needs no budget and stays in the denominator.
func TestGates(t *testing.T) {
	g := NewWithT(t)
	finding := &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "kubelet refuses cgroup v1", Source: "KEP-4569"}
	atPlan, tooBig, broken := cellOn("only-gated", "1"), cellOn("a", "1+2"), named(cellOn("a", "1"), "broken")
	atPlan.Gate = finding
	unavailable := named(cellOn("only-gated", "1"), "no-image")
	unavailable.Unavailable = "image el/10 cannot be had"
	ground := &fakeGround{gate: func(c matrix.Cell) (*matrix.GateFinding, error) {
		switch c.ID {
		case broken.ID:
			return nil, errors.New("no such fact")
		case tooBig.ID:
			return finding, nil
		}
		return nil, nil
	}}
	r, _ := run(t.Context(), t, ground, planOf(atPlan, tooBig, broken, unavailable, cellOn("a", "1")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Impossible, matrix.Impossible, matrix.Blocked, matrix.Blocked, matrix.Pass}))
	g.Expect(r.Results[1].Judgement.Reason).To(And(ContainSubstring("kubelet refuses cgroup v1"), ContainSubstring("KEP-4569")))
	g.Expect(r.Results[1].Attempts).To(HaveLen(1))
	g.Expect(r.Results[1].Attempts[0].Host).To(Equal(hostFacts()), "what ruled it out is kept")
	g.Expect(r.Results[2].Judgement.Reason).To(ContainSubstring("no such fact"))
	g.Expect(r.Plan.Cells).To(HaveLen(5))
	g.Expect(ground.opened).To(Equal([]string{"a"}))
	g.Expect(ground.ran).To(HaveLen(1))
}

// TestDefiedGates: a cell that defies a gate runs, whether the gate was found
// at plan time or at admission, and only where that can show something.
func TestDefiedGates(t *testing.T) {
	g := NewWithT(t)
	finding := &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "kubelet refuses cgroup v1", Source: "KEP-4569",
		Probe: &matrix.Probe{Phase: matrix.PhaseInstall, Signature: "cgroup-v1-refused"}}
	observed := *finding
	observed.Facts = []matrix.Fact{{Name: "cgroup", Value: "v1", From: "observed"}}
	unseen := &matrix.GateFinding{Gate: "incus7-cgroup-v1", Reason: "Incus 7 has no cgroup v1", Source: "48ea96d4f7"}
	defying := func(name string, gate *matrix.GateFinding) matrix.Cell {
		c := named(cellOn("a", "1"), name)
		c.Gate, c.DefyGates = gate, true
		return c
	}
	atPlan, atAdmission, declaredOnly, notProbed := defying("plan", finding), defying("admission", nil), defying("declared", finding), defying("unseen", unseen)
	ground := &fakeGround{gate: func(c matrix.Cell) (*matrix.GateFinding, error) {
		if c.ID == declaredOnly.ID {
			return nil, nil
		}
		return &observed, nil
	}}
	r, _ := run(t.Context(), t, ground, planOf(atPlan, atAdmission, declaredOnly, notProbed), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.XPass, matrix.XPass, matrix.Blocked, matrix.Impossible}))
	g.Expect(r.Results[0].Cell.Gate.Facts).To(Equal(observed.Facts), "the facts that count are those observed")
	g.Expect(r.Results[2].Judgement.Reason).To(ContainSubstring("not by what was observed on host a"))
	g.Expect(ground.ran).To(HaveLen(2))
	g.Expect(matrix.ExitCode(r, false)).To(Equal(matrix.ExitDeviation))
}

// TestHostThatIsAnother: a cell does not run on a host that is not what the
// matrix says, neither where that shows at once nor where it shows late.
func TestHostThatIsAnother(t *testing.T) {
	g := NewWithT(t)
	another, right := cellOn("one", "1"), cellOn("two", "1")
	another.Host.Cgroup, right.Host.Cgroup = "v2", "v1"
	ground := &fakeGround{gate: func(c matrix.Cell) (*matrix.GateFinding, error) {
		if c.ID == another.ID {
			return nil, errors.New("the gates are not asked about a host that is another")
		}
		return nil, nil
	}}
	r, _ := run(t.Context(), t, ground, planOf(another, right), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked, matrix.Pass}))
	g.Expect(r.Results[0].Judgement.Reason).To(Equal("host one has cgroup v1, the matrix says v2"))

	late := cellOn("one", "1")
	late.Host.Cgroup = "v2"
	ground = &fakeGround{shows: func(readied bool) matrix.HostFacts {
		f := hostFacts()
		if !readied {
			f.Cgroup = ""
		}
		return f
	}}
	r, _ = run(t.Context(), t, ground, planOf(late), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked}))
	g.Expect(r.Results[0].Judgement.Reason).To(Equal("host one has cgroup v1, the matrix says v2"))
}

func TestInputsThatCannotBeHad(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{ready: func(matrix.Cell) error {
		return &provisioner.UnavailableError{What: "kubeadm 1.34.4", Tried: []string{"cache: not there"}}
	}}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1")), 3)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked}))
	g.Expect(r.Results[0].Judgement.Reason).To(ContainSubstring("cache: not there"))
	g.Expect(r.Results[0].Attempts).To(HaveLen(1))
	g.Expect(r.Results[0].Attempts[0].Host).To(Equal(hostFacts()))
}

func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		attempts int
		fails    []matrix.Phase // by attempt
		verdict  matrix.Verdict
		tried    int
	}{
		"passes at once":    {3, []matrix.Phase{""}, matrix.Pass, 1},
		"passes the second": {3, []matrix.Phase{matrix.PhaseRecover, ""}, matrix.Flaky, 2},
		"never passes":      {2, []matrix.Phase{matrix.PhaseRecover, matrix.PhaseInstall}, matrix.Fail, 2},
		"is not retried":    {1, []matrix.Phase{matrix.PhaseRecover}, matrix.Fail, 1},
		"zero means one":    {0, []matrix.Phase{matrix.PhaseRecover}, matrix.Fail, 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			ground := &fakeGround{run: func(_ context.Context, cell matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt {
				return through(cell, changed, c.fails[attempt-1])
			}}
			r, folder := run(t.Context(), t, ground, planOf(cellOn("a", "1")), c.attempts)
			g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{c.verdict}))
			g.Expect(r.Results[0].Attempts).To(HaveLen(c.tried))
			for i, a := range r.Results[0].Attempts {
				last := a.Phases[len(a.Phases)-1].Phase
				want := c.fails[i]
				if want == "" {
					want = matrix.PhaseDestroy
				}
				g.Expect(last).To(Equal(want), "every attempt is kept as it was")
			}
			events, err := folder.Events()
			g.Expect(err).NotTo(HaveOccurred())
			told := 0
			for _, e := range events {
				if e.Kind == runfolder.PhaseEnded {
					told++
				}
			}
			kept := 0
			for _, a := range r.Results[0].Attempts {
				kept += len(a.Phases)
			}
			g.Expect(told).To(Equal(kept), "each phase of each attempt is told once")
		})
	}
}

// TestInterrupt ends a run while one cell runs and others wait.
func TestInterrupt(t *testing.T) {
	g := NewWithT(t)
	ctx, interrupt := context.WithCancel(t.Context())
	ground := &fakeGround{run: func(ctx context.Context, _ matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
		interrupt()
		<-ctx.Done()
		a := matrix.Attempt{Host: hostFacts(), Phases: []matrix.PhaseResult{{Phase: matrix.PhaseCreate, Blame: matrix.BlameInterrupt, Error: ctx.Err().Error()}}}
		changed(a)
		return a
	}}
	plan := planOf(cellOn("a", "1"), named(cellOn("a", "1"), "v1"), named(cellOn("a", "1"), "v2"))
	plan.Budget.Cells = 1
	r, _ := run(ctx, t, ground, plan, 3)
	g.Expect(verdicts(r)).To(HaveEach(matrix.Unknown))
	g.Expect(r.Results[0].Judgement.Reason).To(ContainSubstring("interrupted"))
	g.Expect(r.Results[0].Attempts).To(HaveLen(1), "an interrupted cell is not tried again")
	g.Expect(r.Results[2].Attempts).To(BeEmpty())
	g.Expect(ground.ran).To(HaveLen(1))
	g.Expect(ground.closed).To(Equal([]string{"a"}))
}

func TestInterruptWhileOpening(t *testing.T) {
	g := NewWithT(t)
	ctx, interrupt := context.WithCancel(t.Context())
	ground := &fakeGround{open: func(matrix.HostRef) error {
		interrupt()
		return context.Canceled
	}}
	r, _ := run(ctx, t, ground, planOf(cellOn("a", "1")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Unknown}))
}

func TestCloseThatFails(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{close: func(matrix.HostRef) error { return errors.New("the pool is busy") }}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Pass}))
	g.Expect(r.HarnessErrors).To(Equal([]string{"close host a: the pool is busy"}))
	g.Expect(matrix.ExitCode(r, false)).To(Equal(matrix.ExitHarness))
}

// TestFolderThatCannotBeWritten: the verdict stands in this process, and the
// harness's failure is told once for each cause.
func TestFolderThatCannotBeWritten(t *testing.T) {
	g := NewWithT(t)
	plan := planOf(cellOn("a", "1"))
	folder, err := runfolder.Create(filepath.Join(t.TempDir(), "run"), matrix.Run{ID: "r", Plan: plan})
	g.Expect(err).NotTo(HaveOccurred())
	// A file where the cell's folder goes, and a folder where the events go.
	g.Expect(os.WriteFile(folder.CellDir(plan.Cells[0].ID), nil, 0o600)).To(Succeed())
	g.Expect(os.Mkdir(filepath.Join(folder.Dir(), "events.ndjson"), 0o700)).To(Succeed())
	e := engine.New(engine.Options{Ground: &fakeGround{}, Plan: plan, Folder: folder, Clock: stillClock{}})
	e.Start(t.Context())
	errs := errors.Join(e.Wait()...)
	g.Expect(errs).To(MatchError(And(ContainSubstring("write result of cell"), ContainSubstring("append event"))))
	result, err := e.Result(t.Context(), plan.Cells[0].ID)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(result.Judgement.Verdict).To(Equal(matrix.Pass))
	g.Expect(os.Remove(folder.CellDir(plan.Cells[0].ID))).To(Succeed())
	r, err := folder.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.HarnessErrors).NotTo(BeEmpty())
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Unknown}), "what is not on disk is no result")
	g.Expect(matrix.ExitCode(r, false)).To(Equal(matrix.ExitHarness))
}

// TestWaiting: phases are told as they come, those that never come when the
// cell ends, and nobody waits beyond their own context.
func TestWaiting(t *testing.T) {
	g := NewWithT(t)
	fails, never := cellOn("a", "1"), cellOn("off", "1")
	goOn := make(chan struct{})
	ground := &fakeGround{
		open: func(ref matrix.HostRef) error {
			if ref.Name == "off" {
				return errors.New("it is off")
			}
			return nil
		},
		run: func(_ context.Context, c matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
			return through(c, func(a matrix.Attempt) {
				changed(a)
				<-goOn
			}, matrix.PhaseInstall)
		}}
	plan := planOf(fails, never)
	folder, err := runfolder.Create(filepath.Join(t.TempDir(), "run"), matrix.Run{ID: "r", Plan: plan})
	g.Expect(err).NotTo(HaveOccurred())
	e := engine.New(engine.Options{Ground: ground, Plan: plan, Folder: folder, Clock: stillClock{}})
	e.Start(t.Context())

	r, ok, err := e.Phase(t.Context(), fails.ID, matrix.PhaseCreate)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeTrue())
	g.Expect(matrix.JudgePhase(r).Verdict).To(Equal(matrix.Pass))

	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("nobody waits"))
	_, _, err = e.Phase(gone, fails.ID, matrix.PhaseFix)
	g.Expect(err).To(MatchError(ContainSubstring("wait for fix of cell " + string(fails.ID) + ": nobody waits")))
	_, err = e.Result(gone, fails.ID)
	g.Expect(err).To(MatchError(ContainSubstring("nobody waits")))

	// Asked for before it has come, and told when it comes or never will.
	type answer struct {
		r  matrix.PhaseResult
		ok bool
	}
	answers := make(chan answer)
	for _, p := range []matrix.Phase{matrix.PhaseInstall, matrix.PhaseBaseline} {
		go func() {
			r, ok, _ := e.Phase(t.Context(), fails.ID, p)
			answers <- answer{r, ok}
		}()
	}
	close(goOn)
	for range 2 {
		a := <-answers
		g.Expect(a.ok).To(Equal(a.r.Phase == matrix.PhaseInstall))
	}
	result, err := e.Result(t.Context(), fails.ID)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(result.Judgement.Verdict).To(Equal(matrix.Fail))
	_, ok, err = e.Phase(t.Context(), never.ID, matrix.PhaseBaseline)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ok).To(BeFalse())
	g.Expect(e.Wait()).To(BeEmpty())
	g.Expect(folder.Close()).To(Succeed())
}

// notes is a progress that keeps what it is told.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) Step(string, ...any) func(error) { return func(error) {} }

func (n *notes) Event(runfolder.Event) {}

func (n *notes) Note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

// machineOf is a cell on a machine of its own that takes all CPUs there are.
func machineOf(name string) matrix.Cell {
	c := cellOn(name, "1")
	c.Host.Driver, c.Host.QEMU = "qemu", matrix.QEMURef{CPUs: 2, MemoryBytes: 6 * gib}
	return c
}

// TestMachinesWaitForRoom: hosts share the budget, a machine is up only while
// nothing else needs its room, and who waits is told once.
func TestMachinesWaitForRoom(t *testing.T) {
	g := NewWithT(t)
	var mu sync.Mutex
	busy, most := 0, 0
	count := func(by int) {
		mu.Lock()
		defer mu.Unlock()
		busy += by
		most = max(most, busy)
	}
	// What takes CPUs of this machine: a machine that is up, and a cell on the
	// native host.
	machines := func(by int) func(matrix.HostRef) error {
		return func(ref matrix.HostRef) error {
			if ref.Driver == "qemu" {
				count(by)
			}
			return nil
		}
	}
	ground := &fakeGround{open: machines(1), close: machines(-1)}
	ground.run = func(_ context.Context, c matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
		if c.Host.Driver != "qemu" {
			count(1)
			defer count(-1)
		}
		return through(c, changed, "")
	}
	ground.facts = matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4", CPUs: 2, MemoryBytes: 6 * gib}
	plan := planOf(machineOf("k5"), cellOn("native", "1"), machineOf("k6"))
	folder, err := runfolder.Create(filepath.Join(t.TempDir(), "run"), matrix.Run{ID: "r", Plan: plan})
	g.Expect(err).NotTo(HaveOccurred())
	told := &notes{}
	e := engine.New(engine.Options{Ground: ground, Plan: plan, Folder: folder, Progress: told, Clock: stillClock{}})
	e.Start(t.Context())
	g.Expect(e.Wait()).To(BeEmpty())
	r, err := folder.Read()
	g.Expect(errors.Join(err, folder.Close())).To(Succeed())
	g.Expect(verdicts(r)).To(HaveEach(matrix.Pass))
	g.Expect(ground.opened).To(ConsistOf("k5", "native", "k6"))
	g.Expect(most).To(Equal(1))
	g.Expect(told.lines).To(ContainElement("waiting for room: host native, host k6 (2 CPUs and 8192 MiB of memory); " +
		"the budget of 2 CPUs and 8192 MiB of memory has 0 CPUs and 0 MiB of memory free while other hosts are up"))
}

// TestMoreNodesThanCPUs: nodes share CPUs, so a cell of many takes all there
// are; its memory must be there.
func TestMoreNodesThanCPUs(t *testing.T) {
	g := NewWithT(t)
	plan := planOf(cellOn("embedded", "3+1"))
	plan.Budget.Node.MemoryBytes = 2 * gib
	r, _ := run(t.Context(), t, &fakeGround{}, plan, 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Pass}), r.Results[0].Judgement.Reason)
}

// TestMachineTooSmall: a machine's cells have what it was observed to have.
func TestMachineTooSmall(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{facts: matrix.HostFacts{CPUs: 2, MemoryBytes: 3 * gib}}
	r, _ := run(t.Context(), t, ground, planOf(machineOf("k6")), 1)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked}))
	g.Expect(r.Results[0].Judgement.Reason).To(ContainSubstring("host k6 holds 2 CPUs and 3072 MiB of memory; give the host more"))
	g.Expect(r.Results[0].Attempts[0].Host.MemoryBytes).To(BeEquivalentTo(3 * gib))
	g.Expect(ground.closed).To(Equal([]string{"k6"}))
}

// TestHostThatDies: the cell that runs is ended and blocked with the reason, as
// are those that have not begun; none is tried again.
func TestHostThatDies(t *testing.T) {
	blocked := func(changed func(matrix.Attempt), p matrix.PhaseResult) matrix.Attempt {
		a := matrix.Attempt{Host: hostFacts(), Phases: []matrix.PhaseResult{p, {Phase: matrix.PhaseDestroy, Blame: matrix.BlameWorld, Error: "connection refused"}}}
		changed(a)
		return a
	}
	for name, die := range map[string]func(*fakeGround, context.Context, func(matrix.Attempt)) matrix.Attempt{
		"while a cell waits on it": func(ground *fakeGround, ctx context.Context, changed func(matrix.Attempt)) matrix.Attempt {
			close(ground.done)
			<-ctx.Done()
			return blocked(changed, matrix.PhaseResult{Phase: matrix.PhaseCreate, Blame: matrix.BlameWorld, Error: context.Cause(ctx).Error()})
		},
		"and the connection broke first": func(ground *fakeGround, _ context.Context, changed func(matrix.Attempt)) matrix.Attempt {
			defer close(ground.done)
			return blocked(changed, matrix.PhaseResult{Phase: matrix.PhaseCreate, Blame: matrix.BlameWorld, Error: "connection refused"})
		},
		"and a check could not look": func(ground *fakeGround, _ context.Context, changed func(matrix.Attempt)) matrix.Attempt {
			defer close(ground.done)
			return blocked(changed, matrix.PhaseResult{Phase: matrix.PhaseCreate, Evidence: []matrix.Evidence{{Check: "fix", Outcome: matrix.Undecided, Saw: "EOF"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			ground := &fakeGround{done: make(chan struct{})}
			ground.run = func(ctx context.Context, _ matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
				return die(ground, ctx, changed)
			}
			plan := planOf(cellOn("a", "1"), named(cellOn("a", "1"), "v1"), named(cellOn("a", "1"), "v2"))
			plan.Budget.Cells = 1
			r, _ := run(t.Context(), t, ground, plan, 3)
			g.Expect(verdicts(r)).To(HaveEach(matrix.Blocked))
			g.Expect(ground.ran).To(HaveLen(1))
			for _, result := range r.Results {
				g.Expect(result.Attempts).To(HaveLen(1))
				g.Expect(result.Judgement.Reason).To(Equal("host a ended while its cells ran: qemu: signal: killed"))
			}
			g.Expect(ground.closed).To(Equal([]string{"a"}))
		})
	}
}

// TestHostThatDiesAfterACellFailed: what a cell showed by then stands.
func TestHostThatDiesAfterACellFailed(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{done: make(chan struct{})}
	ground.run = func(_ context.Context, c matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
		defer close(ground.done)
		return through(c, changed, matrix.PhaseBaseline)
	}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1")), 3)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Fail}))
	g.Expect(r.Results[0].Attempts).To(HaveLen(1))
}

// TestHostThatDiesWhileACellIsReadied: an image that was being brought to it
// does not come any more.
func TestHostThatDiesWhileACellIsReadied(t *testing.T) {
	g := NewWithT(t)
	ground := &fakeGround{done: make(chan struct{})}
	ground.ready = func(matrix.Cell) error {
		close(ground.done)
		return errors.New("import an image: EOF")
	}
	r, _ := run(t.Context(), t, ground, planOf(cellOn("a", "1")), 3)
	g.Expect(verdicts(r)).To(Equal([]matrix.Verdict{matrix.Blocked}))
	g.Expect(r.Results[0].Judgement.Reason).To(Equal("host a ended while its cells ran: qemu: signal: killed"))
}

// TestExpect: what earlier runs saw is used, the rest is guessed, and what a
// gate rules out takes no time.
func TestExpect(t *testing.T) {
	g := NewWithT(t)
	gated := named(cellOn("native", "1"), "gated")
	gated.Gate = &matrix.GateFinding{Gate: "g", Reason: "r", Source: "s"}
	plan := planOf(cellOn("native", "1"), machineOf("k6"), gated)
	plan.Timeouts.Stability = matrix.Duration(30 * time.Second)
	past := runfolder.History{}
	guess := engine.Expect(plan, past)
	g.Expect(guess).To(Equal(matrix.Estimate{Cells: 2, Makespan: guess.Makespan}))
	// The native cell is opened in 5 s and takes 110 s and three windows; then
	// the machine boots in 45 s, its cell takes four times that, and it closes.
	g.Expect(guess.Makespan.Std()).To(Equal((5 + 110 + 90 + 45 + 4*110 + 90 + 5) * time.Second))

	past.Cells = map[matrix.CellID]time.Duration{plan.Cells[1].ID: 10 * time.Minute}
	past.Opening = map[string]time.Duration{"k6": time.Minute}
	past.Closing = map[string]time.Duration{"native": 0}
	g.Expect(engine.Expect(plan, past)).To(Equal(matrix.Estimate{Cells: 2, Known: 1,
		Makespan: matrix.Duration(11*time.Minute + (5+5+110+90)*time.Second)}))
	g.Expect(engine.Expect(planOf(gated), past)).To(Equal(matrix.Estimate{}))

	// A machine that emulates its CPUs has one cell at a time, however large its
	// memory is; one with KVM as many as it has CPUs.
	two := func(accel string) time.Duration {
		first := machineOf("k6")
		first.Host.QEMU.CPUs, first.Host.QEMU.MemoryBytes, first.Host.QEMU.Accel = 2, 12<<30, accel
		p := planOf(first, named(first, "second"))
		p.Budget.CPUs, p.Budget.MemoryBytes = 2, 16<<30
		past := runfolder.History{Cells: map[matrix.CellID]time.Duration{p.Cells[0].ID: 10 * time.Minute, p.Cells[1].ID: 10 * time.Minute}}
		return engine.Expect(p, past).Makespan.Std()
	}
	g.Expect(two("tcg")).To(Equal(20*time.Minute + 50*time.Second))
	g.Expect(two("kvm")).To(Equal(10*time.Minute + 50*time.Second))

	// A cell that restarts its host's daemon has nothing beside it.
	p := planOf(cellOn("native", "1"), named(cellOn("native", "1"), "second"))
	p.Budget.CPUs, p.Budget.MemoryBytes = 8, 64*gib
	beside := engine.Expect(p, runfolder.History{}).Makespan.Std()
	p.Cells[0].Restarts = []matrix.Restart{matrix.RestartDaemon}
	g.Expect(engine.Expect(p, runfolder.History{}).Makespan.Std() - beside).To(Equal(110 * time.Second))
}
