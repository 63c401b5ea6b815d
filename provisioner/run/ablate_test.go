package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
)

// fakeBench is a host on which cells need what is written here.
type fakeBench struct {
	// needs holds how a cell fails without a fix: phase and signature.
	needs map[string][2]string
	// refuses is why the host does not open.
	refuses error
	// meets is called before each attempt, with what the cell leaves out.
	meets func(without []string)
	// fails says that an attempt fails whatever is in effect.
	fails func() bool

	opened, closed, ran int
	// plans are those of the runs, hastened says of each whether it was.
	plans    []matrix.Plan
	hastened []bool
}

func (b *fakeBench) For(o catalog.Options) engine.Ground {
	b.plans, b.hastened = append(b.plans, o.Plan), append(b.hastened, o.Hasten)
	return fakeGround{b}
}

func (b *fakeBench) Close(context.Context) (bool, error) { b.closed++; return b.opened > 0, nil }

type fakeGround struct{ *fakeBench }

func (g fakeGround) Open(context.Context, matrix.HostRef) (engine.Host, error) {
	if g.refuses != nil {
		return nil, g.refuses
	}
	g.opened++
	return fakeHost(g), nil
}

type fakeHost struct{ *fakeBench }

func (fakeHost) Facts() matrix.HostFacts {
	return matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4", CPUs: 2, MemoryBytes: 16 << 30}
}
func (fakeHost) Gate(matrix.Cell) (*matrix.GateFinding, error)               { return nil, nil }
func (h fakeHost) Ready(context.Context, matrix.Cell) (engine.Runner, error) { return h, nil }
func (fakeHost) Close(context.Context) error                                 { return nil }
func (fakeHost) StaysOpen() bool                                             { return true }

// TakeUp is not asked for: trials begin anew.
func (fakeHost) TakeUp(context.Context, matrix.Cell, int, matrix.Attempt, func(matrix.Attempt)) (matrix.Attempt, error) {
	return matrix.Attempt{}, errors.New("nobody takes a trial up")
}

// Run goes through every phase, or as far as the first that fails.
func (h fakeHost) Run(ctx context.Context, c matrix.Cell, _ int, changed func(matrix.Attempt)) matrix.Attempt {
	h.ran++
	if h.meets != nil {
		h.meets(c.Without)
	}
	start := time.Date(2026, 11, 20, 19, 0, 0, 0, time.UTC)
	a := matrix.Attempt{Started: start, Host: h.Facts(), Provenance: "built", Nodes: []matrix.NodeFacts{{Node: "cp1", Kernel: "6.18.5", Cgroup: "v1",
		OSID: "debian", OSVersion: "13", Containerd: "1.7.24", Runc: "1.1.15", Kubernetes: "1.34.4", BootIDs: []string{"b1", "b2", "b3"}}}}
	for _, id := range []string{"cgroup1-split-cpu", "host-sysctls", "incus-privileged", "restrict-oom-score-adj", "swap"} {
		f := matrix.AppliedFix{ID: id, State: "applied", Why: "true"}
		switch {
		case slices.Contains(c.Without, id):
			f.State = "left-out"
		case id == "host-sysctls":
			f.State = "satisfied"
		}
		a.Fixes = append(a.Fixes, f)
	}
	at := start
	for _, phase := range (matrix.Cell{}).Phases() {
		p := matrix.PhaseResult{Phase: phase, Started: at, Duration: matrix.Duration(20 * time.Second),
			Evidence: []matrix.Evidence{{Check: "check", Outcome: matrix.Healthy, Saw: "as it should be"}}}
		failed := false
		for _, id := range c.Without {
			if how, needed := h.needs[id]; needed && how[0] == string(phase) {
				p.Blame, p.Error, failed = matrix.BlameNode, "it broke", true
				a.Diagnoses = append(a.Diagnoses, matrix.Diagnosis{Signature: how[1], Log: "kubelet.log", Line: "it broke"})
			}
		}
		if h.fails != nil && h.fails() && phase == matrix.PhaseInstall {
			p.Blame, p.Error, failed = matrix.BlameNode, "by chance", true
		}
		if ctx.Err() != nil && !failed {
			p.Blame, p.Error, failed = matrix.BlameInterrupt, "interrupted", true
		}
		a.Phases = append(a.Phases, p)
		at = at.Add(p.Duration.Std())
		if failed {
			break
		}
	}
	a.Ended = at
	changed(a)
	return a
}

// planned is one cell, and what is really known of fixes.
func planned(t *testing.T) *Planned {
	t.Helper()
	knowledge, err := catalog.LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	minute := matrix.Duration(time.Minute)
	return &Planned{Knowledge: knowledge, root: t.TempDir(), Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion, Cells: []matrix.Cell{c},
		Budget: matrix.Budget{CPUs: 2, MemoryBytes: 16 << 30, Node: matrix.NodeLimits{MemoryBytes: 2 << 30}},
		Timeouts: matrix.Timeouts{Create: 2 * minute, Fix: 2 * minute, Install: 6 * minute, Recover: 5 * minute, Restart: 2 * minute,
			Collect: minute, Destroy: minute, Stability: minute / 2}}}
}

func never() string { return "" }

func on(b *fakeBench) func(catalog.Options) bench { return func(catalog.Options) bench { return b } }

func TestAblate(t *testing.T) {
	b := &fakeBench{needs: map[string][2]string{"cgroup1-split-cpu": {"install", "cgroup1-split-cpu"}, "restrict-oom-score-adj": {"recover", "oom-score-adj-pipe"}}}
	p := planned(t)
	p.Plan.Cells[0].Expect = &matrix.Expectation{Phase: matrix.PhaseInstall, Signature: "kmsg-missing"}
	run, err := p.ablate(t.Context(), AblateOptions{Version: "test", Goal: matrix.GoalOutcomes}, never, on(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Ablations) != 1 || run.Results[0].Judgement.Verdict != matrix.Pass || len(run.HarnessErrors) > 0 {
		t.Fatalf("the run is %+v", run)
	}
	a := run.Ablations[0]
	s := ablation.Outcomes(a)
	var got []string
	for _, f := range s.Findings {
		got = append(got, f.Fix+" "+f.Outcome.String())
	}
	// What opens the host most comes first.
	want := []string{"incus-privileged harmless", "host-sysctls unknown", "cgroup1-split-cpu required", "restrict-oom-score-adj needed-after-restart", "swap harmless"}
	if !s.Done || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Control, none, four alone, control, two again, both that are harmless.
	if b.ran != 10 || len(a.Trials) != 10 {
		t.Errorf("%d trials were made and %d kept, want 10", b.ran, len(a.Trials))
	}
	if b.closed != 1 {
		t.Errorf("the host was closed %d times", b.closed)
	}
	for i, trial := range a.Trials {
		dir := filepath.Join(p.root, run.ID, "trials", trial.Run)
		if i == 0 {
			dir = filepath.Join(p.root, trial.Run)
		}
		folder, err := runfolder.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		of, err := folder.Read()
		if err != nil {
			t.Fatal(err)
		}
		if r := of.Results[0]; r.Judgement != trial.Judgement || !slices.Equal(r.Cell.Without, trial.Without) || of.Ended.IsZero() {
			t.Errorf("run %s is %s without %v and ended %s, the trial is %s without %v", trial.Run, r.Judgement.Verdict, r.Cell.Without, of.Ended, trial.Verdict, trial.Without)
		}
		if hasten := i > 0; b.hastened[i+0] != hasten {
			t.Errorf("trial %d is hastened: %v, want %v", i+1, b.hastened[i], hasten)
		}
		if install, want := b.plans[i].Timeouts.Install.Std(), 100*time.Second; i > 0 && install != want {
			t.Errorf("trial %d has %s for its installation, want %s", i+1, install, want)
		}
	}
}

func TestMinimize(t *testing.T) {
	b := &fakeBench{needs: map[string][2]string{"cgroup1-split-cpu": {"install", "cgroup1-split-cpu"}}}
	run, err := planned(t).ablate(t.Context(), AblateOptions{Goal: matrix.GoalMinimal}, never, on(b))
	if err != nil {
		t.Fatal(err)
	}
	m := ablation.Minimal(run.Ablations[0])
	if !m.Done || m.Why != "" || !slices.Equal(m.Kept, []string{"cgroup1-split-cpu"}) || len(m.Dropped) != 3 {
		t.Errorf("got %+v", m)
	}
}

// A cell that passes with all its fixes only when it is tried again is flaky, and
// its fixes are known all the same. The host's end is told once, by who ended it.
func TestAblateFlaky(t *testing.T) {
	for _, goal := range []matrix.Goal{matrix.GoalOutcomes, matrix.GoalMinimal} {
		b := &fakeBench{needs: map[string][2]string{"cgroup1-split-cpu": {"install", "cgroup1-split-cpu"}}}
		b.fails = func() bool { return b.ran == 1 }
		p := planned(t)
		run, err := p.ablate(t.Context(), AblateOptions{Goal: goal}, never, on(b))
		if err != nil {
			t.Fatal(err)
		}
		a := run.Ablations[0]
		if r := run.Results[0]; r.Judgement.Verdict != matrix.Flaky || len(r.Attempts) != 2 || !ablation.Answered(a) {
			t.Errorf("%s: it is %s after %d attempts: %+v", goal, r.Judgement.Verdict, len(r.Attempts), ablation.Outcomes(a))
		}
		if one, two := a.Trials[0], a.Trials[1]; one.Verdict != matrix.Fail || two.Verdict != matrix.Pass || one.Run != run.ID || two.Run != run.ID {
			t.Errorf("%s: the first trials are %+v and %+v", goal, one, two)
		}
		if install := b.plans[1].Timeouts.Install.Std(); install != 100*time.Second {
			t.Errorf("%s: the trial after the one that passed has %s for its installation", goal, install)
		}
		folder, err := runfolder.Open(filepath.Join(p.root, run.ID))
		if err != nil {
			t.Fatal(err)
		}
		events, err := folder.Events()
		if err != nil {
			t.Fatal(err)
		}
		var closed []runfolder.Event
		for _, e := range events {
			if e.Kind == runfolder.HostClosed {
				closed = append(closed, e)
			}
		}
		if len(closed) != 1 || closed[0].Took <= 0 || closed[0].Host != "embedded" {
			t.Errorf("%s: the host's end is told as %+v", goal, closed)
		}
	}
}

// What was finished before an interruption is kept, and nothing of what was not.
func TestAblateInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := &fakeBench{needs: map[string][2]string{"cgroup1-split-cpu": {"install", "cgroup1-split-cpu"}}}
	b.meets = func([]string) {
		if b.ran == 4 {
			cancel(errors.New("interrupted by SIGINT"))
		}
	}
	run, err := planned(t).ablate(ctx, AblateOptions{Goal: matrix.GoalOutcomes, Fixes: []string{"cgroup1-split-cpu", "swap"}}, func() string { return "SIGINT" }, on(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(run.Ablations) != 1 || len(run.Ablations[0].Trials) != 3 || run.Interrupted != "SIGINT" || b.closed != 1 {
		t.Fatalf("the run is %+v, its host was closed %d times", run, b.closed)
	}
	if s := ablation.Outcomes(run.Ablations[0]); s.Done || !slices.Equal(s.Next, []string{"swap"}) || len(s.Findings) != 2 {
		t.Errorf("it goes on with %+v", s)
	}
}

// An ablation goes on where it was interrupted, and ends as if it had not been.
func TestAblateResumed(t *testing.T) {
	needs := map[string][2]string{"cgroup1-split-cpu": {"install", "cgroup1-split-cpu"}}
	o := AblateOptions{Goal: matrix.GoalOutcomes, Fixes: []string{"cgroup1-split-cpu", "swap"}}
	whole, err := planned(t).ablate(t.Context(), o, never, on(&fakeBench{needs: needs}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b := &fakeBench{needs: needs}
	b.meets = func([]string) {
		if b.ran == 4 {
			cancel()
		}
	}
	p := planned(t)
	cut, err := p.ablate(ctx, o, func() string { return "SIGINT" }, on(b))
	if err != nil {
		t.Fatal(err)
	}
	o.Resume = filepath.Join(p.root, cut.ID)
	rest := &fakeBench{needs: needs}
	resumed, err := p.ablate(t.Context(), o, never, on(rest))
	if err != nil {
		t.Fatal(err)
	}
	if resumed.ID != cut.ID || resumed.Interrupted != "" || rest.ran != len(whole.Ablations[0].Trials)-3 {
		t.Errorf("run %s goes on as %s, interrupted by %q, with %d trials", cut.ID, resumed.ID, resumed.Interrupted, rest.ran)
	}
	if got, want := ablation.Outcomes(resumed.Ablations[0]), ablation.Outcomes(whole.Ablations[0]); !got.Done || got.Findings[0].Outcome != want.Findings[0].Outcome || got.Findings[1].Outcome != want.Findings[1].Outcome {
		t.Errorf("it ends with %+v, want %+v", got, want)
	}
	if install := rest.plans[0].Timeouts.Install.Std(); install != 100*time.Second || !rest.hastened[0] {
		t.Errorf("the first trial after the interruption has %s for its installation, hastened: %v", install, rest.hastened[0])
	}
	for name, change := range map[string]func(*Planned, *AblateOptions){
		"other fixes": func(_ *Planned, o *AblateOptions) { o.Fixes = []string{"swap"} },
		"a goal":      func(_ *Planned, o *AblateOptions) { o.Goal = matrix.GoalMinimal },
		"a version":   func(p *Planned, _ *AblateOptions) { p.Plan.Cells[0].Distro.Version = "1.34.5" },
		"no run":      func(_ *Planned, o *AblateOptions) { o.Resume = t.TempDir() },
	} {
		other := *p
		other.Plan.Cells = slices.Clone(p.Plan.Cells)
		asked := o
		change(&other, &asked)
		var usage *UsageError
		if _, err := other.ablate(t.Context(), asked, never, on(&fakeBench{})); !errors.As(err, &usage) {
			t.Errorf("%s: got %v, want a usage error", name, err)
		}
	}
}

// A host that does not open is tried twice, and then nothing is known.
func TestAblateBlocked(t *testing.T) {
	b := &fakeBench{refuses: errors.New("no room")}
	run, err := planned(t).ablate(t.Context(), AblateOptions{Goal: matrix.GoalOutcomes}, never, on(b))
	if err != nil {
		t.Fatal(err)
	}
	if v := run.Results[0].Judgement.Verdict; v != matrix.Blocked || len(run.Ablations[0].Trials) != 2 {
		t.Errorf("it is %s after %d trials", v, len(run.Ablations[0].Trials))
	}
}

// What cannot be asked is refused before anything is kept.
func TestAblateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		fixes []string
		cell  func(*matrix.Cell)
		want  string
	}{
		"unknown":        {[]string{"kmsg-devise"}, nil, `there is no fix "kmsg-devise"; did you mean kmsg-device?`},
		"does not apply": {[]string{"cgroup-v1-kubelet"}, nil, "fix cgroup-v1-kubelet does not apply to cell kubeadm-1.34/debian-13/1/embedded: it applies when "},
		"harmful":        {[]string{"kmsg-console"}, nil, "ask for it with --with kmsg-console"},
		"left out":       {[]string{"swap"}, func(c *matrix.Cell) { c.Without = []string{"swap"} }, "fix swap is left out of cell"},
	} {
		t.Run(name, func(t *testing.T) {
			p := planned(t)
			if test.cell != nil {
				test.cell(&p.Plan.Cells[0])
			}
			_, err := p.ablate(t.Context(), AblateOptions{Goal: matrix.GoalOutcomes, Fixes: test.fixes}, never, on(&fakeBench{}))
			var usage *UsageError
			if !errors.As(err, &usage) || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("got %v, want a usage error with %q", err, test.want)
			}
			if kept, err := os.ReadDir(p.root); err != nil || len(kept) > 0 {
				t.Errorf("it left %v, %v", kept, err)
			}
		})
	}
}

func TestTook(t *testing.T) {
	began := time.Date(2026, 11, 22, 5, 13, 54, 0, time.UTC)
	created := began.Add(23 * time.Minute)
	a := matrix.Attempt{Started: began, Ended: created.Add(35 * time.Second),
		Phases: []matrix.PhaseResult{{Phase: matrix.PhaseCreate, Started: created}, {Phase: matrix.PhaseFix, Started: created.Add(5 * time.Second)}}}
	if got := took(a); got.Std() != 35*time.Second {
		t.Errorf("an attempt that waited for the machine took %s, want 35s", got)
	}
	if got := took(matrix.Attempt{Started: began, Ended: created}); got != 0 {
		t.Errorf("an attempt without a phase took %s, want 0s", got)
	}
}
