package matrix_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// through is an attempt that has passed its phases up to one, and did not end.
func through(c matrix.Cell, last matrix.Phase) matrix.Attempt {
	a := matrix.Attempt{Host: matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"},
		Nodes: []matrix.NodeFacts{{Node: "s1", Kernel: "6.18.5", Cgroup: "v1", OSID: "debian", OSVersion: "13", Containerd: "1.7.30", Runc: "1.3.4",
			Kubernetes: "1.34.4", BootIDs: []string{"a", "b", "c"}}}}
	for _, p := range c.Phases() {
		a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p, Evidence: []matrix.Evidence{{Check: "c", Outcome: matrix.Healthy, Saw: "well"}}})
		if p == last {
			break
		}
	}
	return a
}

func failedIn(c matrix.Cell, phase matrix.Phase, blame matrix.Blame) matrix.Attempt {
	a := through(c, phase)
	a.Phases[len(a.Phases)-1] = matrix.PhaseResult{Phase: phase, Blame: blame, Error: "it broke"}
	return a
}

func then(a matrix.Attempt, phases ...matrix.Phase) matrix.Attempt {
	for _, p := range phases {
		a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p})
	}
	return a
}

func TestCutShort(t *testing.T) {
	c := matrix.Cell{ID: "c", Host: matrix.HostRef{Name: "h"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"}, OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
	at := time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)
	for name, tc := range map[string]struct {
		begun           matrix.Attempt
		decided, passed bool
		in              matrix.Phase
		// What it is worth once it was cut short, and whether it counts.
		verdict matrix.Verdict
		tries   int
		over    bool
	}{
		"nothing":                 {matrix.Attempt{}, false, false, matrix.PhaseCreate, matrix.Unknown, 0, false},
		"created":                 {through(c, matrix.PhaseCreate), false, false, matrix.PhaseFix, matrix.Unknown, 0, false},
		"nearly proven":           {through(c, matrix.PhaseForcedRestart), false, false, matrix.PhaseForcedRecover, matrix.Unknown, 0, false},
		"proven":                  {through(c, matrix.PhaseForcedRecover), true, true, matrix.PhaseCollect, matrix.Pass, 1, true},
		"collected":               {through(c, matrix.PhaseCollect), true, true, matrix.PhaseDestroy, matrix.Pass, 1, true},
		"torn down":               {through(c, matrix.PhaseDestroy), true, true, "", matrix.Pass, 1, true},
		"failed":                  {failedIn(c, matrix.PhaseInstall, matrix.BlameNode), true, false, matrix.PhaseCollect, matrix.Fail, 1, true},
		"failed, and collected":   {then(failedIn(c, matrix.PhaseInstall, matrix.BlameNode), matrix.PhaseCollect), true, false, matrix.PhaseDestroy, matrix.Fail, 1, true},
		"blocked":                 {failedIn(c, matrix.PhaseFix, matrix.BlameWorld), true, false, matrix.PhaseCollect, matrix.Blocked, 1, true},
		"interrupted by a signal": {failedIn(c, matrix.PhaseRecover, matrix.BlameInterrupt), false, false, matrix.PhaseCollect, matrix.Unknown, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			decided, passed, in := tc.begun.Proof(c)
			g.Expect([]any{decided, passed, in}).To(Equal([]any{tc.decided, tc.passed, tc.in}))
			g.Expect(matrix.Over(c, []matrix.Attempt{tc.begun}, 1)).To(BeFalse(), "it has not ended")
			had := len(tc.begun.Phases)
			cut := tc.begun.CutShort(c, at)
			g.Expect(cut.Ended).To(Equal(at))
			g.Expect(cut.Phases[:had]).To(HaveExactElements(tc.begun.Phases), "what was there stays")
			g.Expect(cut.CutShort(c, at.Add(time.Hour))).To(Equal(cut), "once")
			all := []matrix.Attempt{cut}
			g.Expect(matrix.Judge(c, all).Verdict).To(Equal(tc.verdict))
			g.Expect(matrix.Tries(c, all)).To(Equal(tc.tries))
			g.Expect(matrix.Over(c, all, 1)).To(Equal(tc.over))
			// One that passes after it is flaky only where it told something else.
			passing := through(c, matrix.PhaseDestroy)
			passing.Ended = at
			want := matrix.Pass
			if tc.verdict == matrix.Fail || tc.verdict == matrix.Blocked {
				want = matrix.Flaky
			}
			g.Expect(matrix.Judge(c, append(all, passing)).Verdict).To(Equal(want))
		})
	}
}

func TestOver(t *testing.T) {
	g := NewWithT(t)
	c := matrix.Cell{ID: "c", Topology: matrix.Topology{Servers: 1}}
	failed := failedIn(c, matrix.PhaseInstall, matrix.BlameNode)
	failed.Ended = time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)
	interrupted := failedIn(c, matrix.PhaseInstall, matrix.BlameInterrupt)
	interrupted.Ended = failed.Ended
	g.Expect(matrix.Over(c, nil, 1)).To(BeFalse())
	g.Expect(matrix.Over(c, []matrix.Attempt{failed}, 2)).To(BeFalse(), "it is tried again")
	g.Expect(matrix.Over(c, []matrix.Attempt{interrupted, failed}, 2)).To(BeFalse(), "one was none")
	g.Expect(matrix.Over(c, []matrix.Attempt{failed, interrupted, failed}, 2)).To(BeTrue())
	c.Unavailable = "nobody has it"
	g.Expect(matrix.Over(c, nil, 1)).To(BeTrue(), "it is not run")
	c.Unavailable, c.Gate = "", &matrix.GateFinding{Gate: "g", Reason: "r"}
	g.Expect(matrix.Over(c, nil, 1)).To(BeTrue(), "it is not run")
}

// TestLost: what goes on adds to what there was, and changes nothing of it.
func TestLost(t *testing.T) {
	g := NewWithT(t)
	with := func(attempts ...matrix.Attempt) matrix.Run {
		return matrix.Run{Results: []matrix.Result{{Cell: matrix.Cell{ID: "a"}, Attempts: attempts}}}
	}
	of := func(errs ...string) (a matrix.Attempt) {
		for i, err := range errs {
			a.Phases = append(a.Phases, matrix.PhaseResult{Phase: matrix.Phases()[i], Error: err})
		}
		return a
	}
	once := with(of("x", "y"), of())
	for name, tc := range map[string]struct {
		now  matrix.Run
		lost string
	}{
		"the same":      {once, ""},
		"more":          {with(of("x", "y", "z"), of("x"), of()), ""},
		"no cell":       {matrix.Run{}, "cell a is gone"},
		"no attempt":    {with(), "attempt 1 of a"},
		"a phase less":  {with(of("x"), of()), "attempt 1 of a"},
		"another phase": {with(of("x", "z"), of()), "attempt 1 of a"},
	} {
		if tc.lost == "" {
			g.Expect(matrix.Lost(once, tc.now)).To(BeEmpty(), name)
		} else {
			g.Expect(matrix.Lost(once, tc.now)).To(ConsistOf(ContainSubstring(tc.lost)), name)
		}
	}
}
