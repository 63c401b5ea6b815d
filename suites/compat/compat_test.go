package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/suites/compat"
)

// fakeSubject is a run that has ended: a plan's cells and what came of them.
type fakeSubject struct {
	Plan    matrix.Plan
	Results []matrix.Result
}

func (s fakeSubject) Result(_ context.Context, id matrix.CellID) (matrix.Result, error) {
	for _, r := range s.Results {
		if r.Cell.ID == id {
			return r, nil
		}
	}
	return matrix.Result{}, fmt.Errorf("wait for cell %s: the run was ended", id)
}

func (s fakeSubject) Phase(ctx context.Context, id matrix.CellID, phase matrix.Phase) (matrix.PhaseResult, bool, error) {
	r, err := s.Result(ctx, id)
	if err != nil || len(r.Attempts) == 0 {
		return matrix.PhaseResult{}, false, err
	}
	p, ok := r.Attempts[0].Phase(phase)
	return p, ok, nil
}

// subjectVariable makes the test binary a process that runs the suite: Ginkgo
// allows one run of it per process.
const subjectVariable = "COMPAT_TEST_SUBJECT"

func TestMain(m *testing.M) {
	text := os.Getenv(subjectVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	flag.Parse() // Ginkgo's flags are the test binary's
	var s fakeSubject
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		panic(err)
	}
	compat.Define(s.Plan, s)
	passed, err := compat.Run(os.Stdout, "compat")
	switch {
	case errors.Is(err, compat.ErrParallel):
		fmt.Println(err)
		os.Exit(3)
	case err != nil:
		panic(err)
	case !passed:
		os.Exit(1)
	}
	os.Exit(0)
}

// suite runs the suite over a subject in a process of its own.
func suite(t *testing.T, s fakeSubject, args ...string) (code int, log string) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), subjectVariable+"="+string(text))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func planned(variant string) matrix.Cell {
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}, Variants: []string{variant}}
	c.ID = c.NewID()
	return c
}

// through is an attempt that goes through every phase, or fails in one.
func through(fails matrix.Phase) matrix.Attempt {
	a := matrix.Attempt{Host: matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"},
		Nodes: []matrix.NodeFacts{{Node: "s1", Kernel: "6.18.5", Cgroup: "v1", OSID: "debian", OSVersion: "13",
			Containerd: "1.7.24", Runc: "1.1.15", Kubernetes: "1.34.4", BootIDs: []string{"a", "b", "c"}}}}
	for _, p := range (matrix.Cell{}).ProvingPhases() {
		e := matrix.Evidence{Check: "check", Node: "s1", Outcome: matrix.Healthy, Saw: "all is well"}
		if p == fails {
			e.Outcome, e.Saw = matrix.Unhealthy, "it broke"
		}
		a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p, Evidence: []matrix.Evidence{e}})
		if p == fails {
			break
		}
	}
	return a
}

// cases are cells and their attempts, at least one for each verdict.
var cases = map[string]struct {
	cell     func(*matrix.Cell)
	result   func(*matrix.Result)
	verdict  matrix.Verdict
	contains string
}{
	"pass":    {nil, func(r *matrix.Result) { r.Attempts = []matrix.Attempt{through("")} }, matrix.Pass, ""},
	"unknown": {nil, func(*matrix.Result) {}, matrix.Unknown, "planned, no result"},
	"interrupted": {nil, func(r *matrix.Result) {
		a := through(matrix.PhaseFix)
		a.Phases[1] = matrix.PhaseResult{Phase: matrix.PhaseFix, Blame: matrix.BlameInterrupt, Error: "the user pressed Ctrl-C"}
		r.Attempts = []matrix.Attempt{a}
	}, matrix.Unknown, "Ctrl-C"},
	"fail": {nil, func(r *matrix.Result) {
		a := through(matrix.PhaseRecover)
		a.Diagnoses = []matrix.Diagnosis{{Title: "runc cannot set cpu.shares", Cure: "cgroup1-split-cpu", Line: "write cpu.shares: no such file"}}
		r.Attempts = []matrix.Attempt{a}
	}, matrix.Fail, "check on s1: it broke"},
	"repaired": {nil, func(r *matrix.Result) {
		a := through("")
		a.Repairs = []string{"kubelet was restarted"}
		r.Attempts = []matrix.Attempt{a}
	}, matrix.Fail, "kubelet was restarted"},
	"another kernel": {nil, func(r *matrix.Result) {
		a := through("")
		a.Nodes[0].Kernel = "5.10"
		r.Attempts = []matrix.Attempt{a}
	}, matrix.Blocked, "5.10"},
	"blocked": {nil, func(r *matrix.Result) {
		r.Attempts = []matrix.Attempt{{Phases: []matrix.PhaseResult{{Phase: matrix.PhaseCreate, Blame: matrix.BlameWorld, Error: "the host is off"}}}}
	}, matrix.Blocked, "the host is off"},
	"unavailable":        {func(c *matrix.Cell) { c.Unavailable = "no such image" }, func(*matrix.Result) {}, matrix.Blocked, "no such image"},
	"impossible by plan": {func(c *matrix.Cell) { c.Gate = gate }, func(*matrix.Result) {}, matrix.Impossible, ""},
	"impossible at admission": {nil, func(r *matrix.Result) {
		r.Cell.Gate = gate
	}, matrix.Impossible, ""},
	"a gate that is defied and holds": {defying, func(r *matrix.Result) {
		a := through(matrix.PhaseInstall)
		a.Diagnoses = []matrix.Diagnosis{{Signature: "known"}}
		r.Attempts = []matrix.Attempt{a}
	}, matrix.Impossible, ""},
	"a gate that is defied and holds no longer": {defying, func(r *matrix.Result) { r.Attempts = []matrix.Attempt{through("")} }, matrix.XPass, "no longer holds"},
	"a gate that is defied and does not show":   {defying, func(r *matrix.Result) { r.Attempts = []matrix.Attempt{through(matrix.PhaseInstall)} }, matrix.Blocked, "cannot tell whether gate"},
	"xfail": {expecting, func(r *matrix.Result) {
		a := through(matrix.PhaseInstall)
		a.Diagnoses = []matrix.Diagnosis{{Signature: "known"}}
		r.Attempts = []matrix.Attempt{a}
	}, matrix.XFail, ""},
	"xfail with another signature": {expecting, func(r *matrix.Result) { r.Attempts = []matrix.Attempt{through(matrix.PhaseInstall)} }, matrix.Fail, "it broke"},
	"xpass":                        {expecting, func(r *matrix.Result) { r.Attempts = []matrix.Attempt{through("")} }, matrix.XPass, "passed although"},
	"flaky": {nil, func(r *matrix.Result) {
		r.Attempts = []matrix.Attempt{through(matrix.PhaseBaseline), through("")}
	}, matrix.Flaky, "it broke"},
	"interrupted, then pass": {nil, func(r *matrix.Result) {
		first := through(matrix.PhaseCreate)
		first.Phases[0] = matrix.PhaseResult{Phase: matrix.PhaseCreate, Blame: matrix.BlameInterrupt, Error: "stopped"}
		r.Attempts = []matrix.Attempt{first, through("")}
	}, matrix.Pass, ""},
}

var gate = &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "cgroup v1 is refused", Source: "KEP-4569"}

func defying(c *matrix.Cell) {
	shown := *gate
	shown.Probe = &matrix.Probe{Phase: matrix.PhaseInstall, Signature: "known"}
	c.Gate, c.DefyGates = &shown, true
}

func expecting(c *matrix.Cell) {
	c.Expect = &matrix.Expectation{Phase: matrix.PhaseInstall, Signature: "known", Issue: "https://example.com/1"}
}

func subject(name string) (fakeSubject, matrix.Judgement) {
	c := planned(name)
	if change := cases[name].cell; change != nil {
		change(&c)
	}
	r := matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c}
	cases[name].result(&r)
	r.Judgement = matrix.Judge(r.Cell, r.Attempts)
	return fakeSubject{Plan: matrix.Plan{Cells: []matrix.Cell{c}}, Results: []matrix.Result{r}}, r.Judgement
}

// TestSuiteAgreesWithJudge: the suite passes exactly when Judge says that the
// cell is as expected, and shows why.
func TestSuiteAgreesWithJudge(t *testing.T) {
	seen := map[matrix.Verdict]bool{}
	for name, c := range cases {
		seen[c.verdict] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			s, judged := subject(name)
			g.Expect(judged.Verdict).To(Equal(c.verdict), judged.Reason)
			code, log := suite(t, s)
			want := 1
			if c.verdict.AsExpected() {
				want = 0
			}
			g.Expect(code).To(Equal(want), log)
			if !c.verdict.AsExpected() {
				g.Expect(log).To(ContainSubstring(c.contains))
				g.Expect(log).To(ContainSubstring(string(s.Plan.Cells[0].ID)))
				g.Expect(log).To(ContainSubstring("distro:kubeadm-1.34, os:debian-13, topology:1, host:embedded, variant:" + strings.ReplaceAll(name, ",", "-")))
			}
		})
	}
	for _, v := range matrix.Verdicts() {
		if !seen[v] {
			t.Errorf("no case ends %s", v)
		}
	}
}

// TestOneCellFails: every other cell is still asserted.
func TestOneCellFails(t *testing.T) {
	g := NewWithT(t)
	var all fakeSubject
	for _, name := range []string{"pass", "fail", "xfail", "impossible by plan"} {
		s, _ := subject(name)
		all.Plan.Cells = append(all.Plan.Cells, s.Plan.Cells...)
		all.Results = append(all.Results, s.Results...)
	}
	code, log := suite(t, all)
	g.Expect(code).To(Equal(1), log)
	// 9 specs each, and the verdict alone of the impossible one: pass passes
	// all; fail passes 5, fails 1, skips 3; xfail passes 2 and its verdict.
	g.Expect(log).To(MatchRegexp(`\b17 Passed\b.*\b1 Failed\b.*\b10 Skipped\b`))
	g.Expect(log).To(ContainSubstring("cured by cgroup1-split-cpu"))

	all.Plan.Cells, all.Results = slices.Delete(all.Plan.Cells, 1, 2), slices.Delete(all.Results, 1, 2)
	code, log = suite(t, all)
	g.Expect(code).To(Equal(0), log)
}

// TestRunThatEnds: a subject that cannot say is not passed.
func TestRunThatEnds(t *testing.T) {
	g := NewWithT(t)
	s, _ := subject("pass")
	s.Results = nil
	code, log := suite(t, s)
	g.Expect(code).To(Equal(1))
	g.Expect(log).To(ContainSubstring("the run was ended"))
}

func TestParallelProcessesAreRefused(t *testing.T) {
	g := NewWithT(t)
	s, _ := subject("pass")
	code, log := suite(t, s, "-ginkgo.parallel.total=2", "-ginkgo.parallel.process=1", "-ginkgo.parallel.host=127.0.0.1:1")
	g.Expect(code).To(Equal(3), log)
	g.Expect(log).To(ContainSubstring("without -p and --procs"))
}
