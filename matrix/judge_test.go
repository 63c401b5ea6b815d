package matrix_test

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func cell() matrix.Cell {
	c := matrix.Cell{
		Host:     matrix.HostRef{Name: "embedded", Driver: "embedded"},
		Distro:   matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS:       matrix.OS{Name: "debian/13"},
		Topology: matrix.Topology{Servers: 1},
	}
	c.ID = c.NewID()
	return c
}

func passing() matrix.Attempt {
	a := matrix.Attempt{
		Host: matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"},
		Nodes: []matrix.NodeFacts{{Node: "cp1", Kernel: "6.18.5", Cgroup: "v1", OSID: "debian", OSVersion: "13",
			Containerd: "1.7.30", Runc: "1.3.4", Kubernetes: "1.34.4", BootIDs: []string{"a", "b", "c"}}},
	}
	for _, p := range (matrix.Cell{}).ProvingPhases() {
		a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p, Duration: matrix.Duration(time.Second), Evidence: []matrix.Evidence{healthy()}})
	}
	return a
}

func healthy() matrix.Evidence {
	return matrix.Evidence{Check: "nodes-ready", Outcome: matrix.Healthy, Saw: "1 of 1 Ready"}
}

func unhealthy() matrix.Evidence {
	return matrix.Evidence{Check: "nodes-ready", Node: "cp1", Outcome: matrix.Unhealthy, Saw: "0 of 1 Ready", Want: "1"}
}

// change is one deviation from an attempt that passes.
type change func(*matrix.Cell, *matrix.Attempt)

func in(phase matrix.Phase, do func(*matrix.PhaseResult)) change {
	return func(_ *matrix.Cell, a *matrix.Attempt) {
		for i := range a.Phases {
			if a.Phases[i].Phase == phase {
				do(&a.Phases[i])
			}
		}
	}
}

// upTo drops every phase after one.
func upTo(phase matrix.Phase) change {
	return func(_ *matrix.Cell, a *matrix.Attempt) {
		i := slices.IndexFunc(a.Phases, func(r matrix.PhaseResult) bool { return r.Phase == phase })
		a.Phases = a.Phases[:i+1]
	}
}

func facts(do func(*matrix.HostFacts, *matrix.NodeFacts)) change {
	return func(_ *matrix.Cell, a *matrix.Attempt) { do(&a.Host, &a.Nodes[0]) }
}

func onCell(do func(*matrix.Cell)) change {
	return func(c *matrix.Cell, _ *matrix.Attempt) { do(c) }
}

func evidence(e ...matrix.Evidence) func(*matrix.PhaseResult) {
	return func(r *matrix.PhaseResult) { r.Evidence = e }
}

func ended(b matrix.Blame, text string, e ...matrix.Evidence) func(*matrix.PhaseResult) {
	return func(r *matrix.PhaseResult) { r.Blame, r.Error, r.Evidence = b, text, e }
}

func expecting(phase matrix.Phase, signature string) change {
	return onCell(func(c *matrix.Cell) {
		c.Expect = &matrix.Expectation{Phase: phase, Signature: signature, Issue: "https://example.org/1"}
	})
}

// gated rules the cell out by a gate that shows in a phase with a signature; a
// gate without a phase cannot be probed.
func gated(phase matrix.Phase, signature string) change {
	return onCell(func(c *matrix.Cell) {
		c.Gate = &matrix.GateFinding{Gate: "g", Reason: "cannot be", Source: "https://example.org/g"}
		if phase != "" {
			c.Gate.Probe = &matrix.Probe{Phase: phase, Signature: signature}
		}
	})
}

// defying runs the cell all the same.
func defying(phase matrix.Phase, signature string) change {
	return func(c *matrix.Cell, a *matrix.Attempt) {
		gated(phase, signature)(c, a)
		c.DefyGates = true
	}
}

func diagnosed(signature string) change {
	return func(_ *matrix.Cell, a *matrix.Attempt) {
		a.Diagnoses = append(a.Diagnoses, matrix.Diagnosis{Signature: signature, Log: "cp1/kubelet.log", Line: "it said so"})
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes []change
		verdict matrix.Verdict
		phase   matrix.Phase
		reason  string // a part of it
	}{
		{"everything healthy", nil, matrix.Pass, "", ""},
		{"collect and destroy do not matter", []change{func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Phases = append(a.Phases, matrix.PhaseResult{Phase: matrix.PhaseCollect, Blame: matrix.BlameWorld, Error: "no logs"})
		}}, matrix.Pass, "", ""},

		{"gate", []change{onCell(func(c *matrix.Cell) { c.Gate = &matrix.GateFinding{Gate: "g", Reason: "cannot be", Source: "s"} })}, matrix.Impossible, "", "g: cannot be (s)"},
		{"gate without a reason", []change{onCell(func(c *matrix.Cell) { c.Gate = &matrix.GateFinding{Gate: "g"} })}, matrix.Blocked, "", "without a reason"},
		{"unavailable", []change{onCell(func(c *matrix.Cell) { c.Unavailable = "no image" })}, matrix.Blocked, "", "no image"},

		{"missing phase at the end", []change{upTo(matrix.PhaseForcedRestart)}, matrix.Unknown, matrix.PhaseForcedRecover, "has no result"},
		{"missing phase in the middle", []change{func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Phases = slices.Delete(a.Phases, 3, 4)
		}}, matrix.Unknown, matrix.PhaseBaseline, "has no result"},
		{"no phase at all", []change{func(_ *matrix.Cell, a *matrix.Attempt) { a.Phases = nil }}, matrix.Unknown, matrix.PhaseCreate, "has no result"},
		{"a phase that nobody knows", []change{func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Phases = append(a.Phases, matrix.PhaseResult{Phase: "warp", Evidence: []matrix.Evidence{healthy()}})
		}}, matrix.Blocked, "warp", "is no phase"},
		{"a phase twice, the second unhealthy", []change{func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Phases = append(a.Phases, matrix.PhaseResult{Phase: matrix.PhaseBaseline, Evidence: []matrix.Evidence{unhealthy()}})
		}}, matrix.Fail, matrix.PhaseBaseline, "0 of 1 Ready"},

		{"no evidence", []change{in(matrix.PhaseRecover, evidence())}, matrix.Blocked, matrix.PhaseRecover, "no evidence"},
		{"undecided evidence", []change{in(matrix.PhaseRecover, evidence(healthy(), matrix.Evidence{Check: "dns", Saw: "no pod to ask from"}))}, matrix.Blocked, matrix.PhaseRecover, "could not tell: dns: no pod to ask from"},
		{"healthy, but saw nothing", []change{in(matrix.PhaseRecover, evidence(matrix.Evidence{Check: "dns", Outcome: matrix.Healthy}))}, matrix.Blocked, matrix.PhaseRecover, "without saying what it saw"},
		{"an outcome that does not exist", []change{in(matrix.PhaseRecover, evidence(matrix.Evidence{Check: "dns", Outcome: 42, Saw: "x"}))}, matrix.Blocked, matrix.PhaseRecover, "could not tell"},
		{"unhealthy evidence", []change{in(matrix.PhaseBaseline, evidence(healthy(), unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "nodes-ready on cp1: 0 of 1 Ready, want 1"},
		{"unhealthy wins over undecided", []change{in(matrix.PhaseBaseline, evidence(matrix.Evidence{Check: "dns", Saw: "?"}, unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "0 of 1 Ready"},
		{"the first bad phase decides", []change{in(matrix.PhaseBaseline, evidence(unhealthy())), in(matrix.PhaseRecover, evidence())}, matrix.Fail, matrix.PhaseBaseline, "0 of 1 Ready"},

		{"world's blame", []change{in(matrix.PhaseCreate, ended(matrix.BlameWorld, "disk full"))}, matrix.Blocked, matrix.PhaseCreate, "disk full"},
		{"world's blame excuses what was unhealthy meanwhile", []change{in(matrix.PhaseBaseline, ended(matrix.BlameWorld, "host gone", unhealthy()))}, matrix.Blocked, matrix.PhaseBaseline, "host gone"},
		{"world's blame without an error", []change{in(matrix.PhaseCreate, ended(matrix.BlameWorld, "", healthy()))}, matrix.Blocked, matrix.PhaseCreate, "no error was recorded"},
		{"node's blame", []change{in(matrix.PhaseInstall, ended(matrix.BlameNode, "kubeadm init: exit code 1"))}, matrix.Fail, matrix.PhaseInstall, "exit code 1"},
		{"node's blame over healthy evidence, without an error", []change{in(matrix.PhaseInstall, ended(matrix.BlameNode, "", healthy()))}, matrix.Fail, matrix.PhaseInstall, "no error was recorded"},
		{"interrupt", []change{in(matrix.PhaseRestart, ended(matrix.BlameInterrupt, "context canceled", unhealthy()))}, matrix.Unknown, matrix.PhaseRestart, "interrupted: context canceled"},
		{"an error that is nobody's", []change{in(matrix.PhaseRestart, ended(matrix.BlameNone, "odd", healthy()))}, matrix.Blocked, matrix.PhaseRestart, "odd"},
		{"a blame that does not exist", []change{in(matrix.PhaseRestart, ended("moon", "", healthy()))}, matrix.Blocked, matrix.PhaseRestart, `"moon"`},

		{"repaired", []change{func(_ *matrix.Cell, a *matrix.Attempt) { a.Repairs = []string{"kubelet restarted by a timer"} }}, matrix.Fail, "", "repaired: kubelet"},
		{"repaired is not the failure that is expected", []change{expecting(matrix.PhaseForcedRecover, "sig"), diagnosed("sig"), func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Repairs = []string{"kubelet restarted by a timer"}
		}}, matrix.Fail, "", "repaired"},

		{"expected failure", []change{expecting(matrix.PhaseBaseline, "sig"), diagnosed("other"), diagnosed("sig"), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.XFail, matrix.PhaseBaseline, "sig, as expected (https://example.org/1)"},
		{"expected failure in another phase", []change{expecting(matrix.PhaseInstall, "sig"), diagnosed("sig"), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "expected to fail in install"},
		{"expected failure with another signature", []change{expecting(matrix.PhaseBaseline, "sig"), diagnosed("other"), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "sig is not in the logs"},
		{"an expectation without a signature excuses nothing", []change{expecting(matrix.PhaseBaseline, ""), diagnosed(""), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "is not in the logs"},
		{"expected failure that passes", []change{expecting(matrix.PhaseBaseline, "sig")}, matrix.XPass, "", "passed although"},
		{"expected failure that is blocked", []change{expecting(matrix.PhaseBaseline, "sig"), diagnosed("sig"), in(matrix.PhaseBaseline, ended(matrix.BlameWorld, "host gone"))}, matrix.Blocked, matrix.PhaseBaseline, "host gone"},
		{"expected failure that did not run", []change{expecting(matrix.PhaseBaseline, "sig"), upTo(matrix.PhaseInstall)}, matrix.Unknown, matrix.PhaseBaseline, "has no result"},

		{"a gate that could be probed and is not defied", []change{gated(matrix.PhaseInstall, "sig")}, matrix.Impossible, "", "g: cannot be (https://example.org/g)"},
		{"a gate that cannot be probed is not defied", []change{defying("", "")}, matrix.Impossible, "", "g: cannot be (https://example.org/g)"},
		{"nothing to defy", []change{onCell(func(c *matrix.Cell) { c.DefyGates = true })}, matrix.Pass, "", ""},
		{"defied, and it passes", []change{defying(matrix.PhaseInstall, "sig")}, matrix.XPass, "", "no longer holds: g: cannot be"},
		{"defied, and it passes although it is expected to fail", []change{defying(matrix.PhaseInstall, "sig"), expecting(matrix.PhaseInstall, "sig")}, matrix.XPass, "", "this gate no longer holds"},
		{"defied, and it fails as the gate says", []change{defying(matrix.PhaseInstall, "sig"), diagnosed("other"), diagnosed("sig"), in(matrix.PhaseInstall, ended(matrix.BlameNode, "exit code 1"))}, matrix.Impossible, matrix.PhaseInstall, "g: cannot be (https://example.org/g); defied, it still holds: sig"},
		{"defied, and it fails there without the signature", []change{defying(matrix.PhaseInstall, "sig"), diagnosed("other"), in(matrix.PhaseInstall, ended(matrix.BlameNode, "exit code 1"))}, matrix.Blocked, matrix.PhaseInstall, "cannot tell whether gate g still holds, as signature sig is not in the logs: exit code 1"},
		{"defied, by a gate without a signature", []change{defying(matrix.PhaseInstall, ""), diagnosed(""), in(matrix.PhaseInstall, ended(matrix.BlameNode, "exit code 1"))}, matrix.Blocked, matrix.PhaseInstall, "cannot tell"},
		{"defied, and it fails before the gate could show", []change{defying(matrix.PhaseInstall, "sig"), diagnosed("sig"), in(matrix.PhaseFix, evidence(unhealthy()))}, matrix.Blocked, matrix.PhaseFix, "shows in install only: nodes-ready"},
		{"defied, and it fails after the gate should have shown", []change{defying(matrix.PhaseInstall, "sig"), diagnosed("sig"), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "gate g no longer holds in install, and then: nodes-ready"},
		{"defied, and a watcher repaired it", []change{defying(matrix.PhaseInstall, "sig"), func(_ *matrix.Cell, a *matrix.Attempt) { a.Repairs = []string{"kubelet restarted by a timer"} }}, matrix.Fail, "", "no longer holds in install, and then: repaired"},
		{"defied, and the world ended it", []change{defying(matrix.PhaseInstall, "sig"), diagnosed("sig"), in(matrix.PhaseInstall, ended(matrix.BlameWorld, "host gone"))}, matrix.Blocked, matrix.PhaseInstall, "host gone"},
		{"defied, and it passes on another host than declared", []change{defying(matrix.PhaseInstall, "sig"), onCell(func(c *matrix.Cell) { c.Host.Cgroup = "v2" })}, matrix.Blocked, "", "has cgroup v1, the matrix says v2"},
		{"defied, and interrupted", []change{defying(matrix.PhaseInstall, "sig"), in(matrix.PhaseInstall, ended(matrix.BlameInterrupt, "SIGINT"))}, matrix.Unknown, matrix.PhaseInstall, "interrupted"},
		{"defied, and its inputs cannot be had", []change{defying(matrix.PhaseInstall, "sig"), onCell(func(c *matrix.Cell) { c.Unavailable = "no image" })}, matrix.Blocked, "", "no image"},

		{"host not observed", []change{facts(func(h *matrix.HostFacts, _ *matrix.NodeFacts) { *h = matrix.HostFacts{} })}, matrix.Blocked, "", "not all observed"},
		{"host's Incus not observed", []change{facts(func(h *matrix.HostFacts, _ *matrix.NodeFacts) { h.Incus = "" })}, matrix.Blocked, "", "not all observed"},
		{"another cgroup mode than declared", []change{onCell(func(c *matrix.Cell) { c.Host.Cgroup = "v2" })}, matrix.Blocked, "", "has cgroup v1, the matrix says v2"},
		{"node sees another cgroup mode than its host", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Cgroup = "v2" })}, matrix.Blocked, "", `sees cgroup "v2"`},
		{"another kernel than the host's", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Kernel = "6.1.0" })}, matrix.Blocked, "", `kernel "6.1.0"`},
		{"another OS", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.OSID = "ubuntu" })}, matrix.Blocked, "", `"ubuntu" "13"`},
		{"another OS release", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.OSVersion = "12" })}, matrix.Blocked, "", `"debian" "12"`},
		{"an OS release that only begins alike", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.OSVersion = "130" })}, matrix.Blocked, "", `"debian" "130"`},
		{"a minor release of the same OS", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.OSVersion = "13.2" })}, matrix.Pass, "", ""},
		{"another Kubernetes", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Kubernetes = "1.34.3" })}, matrix.Blocked, "", `Kubernetes "1.34.3"`},
		{"Kubernetes neither planned nor observed", []change{onCell(func(c *matrix.Cell) { c.Distro.Version = "" }), facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Kubernetes = "" })}, matrix.Blocked, "", "no exact version"},
		{"containerd not observed", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Containerd = "" })}, matrix.Blocked, "", "containerd"},
		{"runc not observed", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.Runc = "" })}, matrix.Blocked, "", "runc"},
		{"too few boot IDs", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.BootIDs = []string{"a", "b"} })}, matrix.Blocked, "", "2 different boot IDs"},
		{"a boot ID twice: it never restarted", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.BootIDs = []string{"a", "b", "b"} })}, matrix.Blocked, "", "2 different boot IDs"},
		{"an empty boot ID", []change{facts(func(_ *matrix.HostFacts, n *matrix.NodeFacts) { n.BootIDs = []string{"a", "", "b"} })}, matrix.Blocked, "", "2 different boot IDs"},
		{"too few nodes", []change{onCell(func(c *matrix.Cell) { c.Topology.Agents = 1 })}, matrix.Blocked, "", "1 nodes were observed"},
		{"one node counted twice", []change{onCell(func(c *matrix.Cell) { c.Topology.Agents = 1 }), func(_ *matrix.Cell, a *matrix.Attempt) {
			a.Nodes = append(a.Nodes, a.Nodes[0])
		}}, matrix.Blocked, "", "twice"},
		{"a topology of none", []change{onCell(func(c *matrix.Cell) { c.Topology = matrix.Topology{} }), func(_ *matrix.Cell, a *matrix.Attempt) { a.Nodes = nil }}, matrix.Blocked, "", "no node"},
		{"wrong facts do not excuse a failure", []change{facts(func(h *matrix.HostFacts, _ *matrix.NodeFacts) { h.Kernel = "" }), in(matrix.PhaseBaseline, evidence(unhealthy()))}, matrix.Fail, matrix.PhaseBaseline, "0 of 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, a := cell(), passing()
			for _, do := range tc.changes {
				do(&c, &a)
			}
			j := matrix.Judge(c, []matrix.Attempt{a})
			if j.Verdict != tc.verdict || j.Phase != tc.phase || !strings.Contains(j.Reason, tc.reason) {
				t.Errorf("Judge says %s in %q: %q; want %s in %q: ...%s...", j.Verdict, j.Phase, j.Reason, tc.verdict, tc.phase, tc.reason)
			}
			if j.Verdict != matrix.Pass && j.Reason == "" {
				t.Errorf("%s has no reason", j.Verdict)
			}
		})
	}
}

func TestJudgeAttempts(t *testing.T) {
	failed, interrupted, blocked, crashed := passing(), passing(), passing(), passing()
	in(matrix.PhaseBaseline, evidence(unhealthy()))(nil, &failed)
	in(matrix.PhaseRestart, ended(matrix.BlameInterrupt, "SIGINT"))(nil, &interrupted)
	upTo(matrix.PhaseRestart)(nil, &interrupted)
	in(matrix.PhaseCreate, ended(matrix.BlameWorld, "disk full"))(nil, &blocked)
	upTo(matrix.PhaseRestart)(nil, &crashed)
	diagnosedFailure := passing()
	in(matrix.PhaseBaseline, evidence(unhealthy()))(nil, &diagnosedFailure)
	diagnosed("sig")(nil, &diagnosedFailure)

	for _, tc := range []struct {
		name     string
		attempts []matrix.Attempt
		expect   bool
		verdict  matrix.Verdict
		phase    matrix.Phase
		reason   string
	}{
		{"none", nil, false, matrix.Unknown, "", "planned, no result"},
		{"passed twice", []matrix.Attempt{passing(), passing()}, false, matrix.Pass, "", ""},
		{"passed after a failure", []matrix.Attempt{failed, passing()}, false, matrix.Flaky, matrix.PhaseBaseline, "attempt 1 of 2 was fail"},
		{"passed after being blocked", []matrix.Attempt{blocked, passing()}, false, matrix.Flaky, matrix.PhaseCreate, "attempt 1 of 2 was blocked"},
		{"passed after the harness died", []matrix.Attempt{crashed, passing()}, false, matrix.Flaky, matrix.PhaseRecover, "attempt 1 of 2 was unknown"},
		{"passed after an interrupt", []matrix.Attempt{interrupted, passing()}, false, matrix.Pass, "", ""},
		{"failed after a pass", []matrix.Attempt{passing(), failed}, false, matrix.Fail, matrix.PhaseBaseline, "0 of 1"},
		{"interrupted after a pass", []matrix.Attempt{passing(), interrupted}, false, matrix.Unknown, matrix.PhaseRestart, "interrupted"},
		{"failed as expected, twice", []matrix.Attempt{diagnosedFailure, diagnosedFailure}, true, matrix.XFail, matrix.PhaseBaseline, "as expected"},
		{"failed as expected after failing otherwise", []matrix.Attempt{failed, diagnosedFailure}, true, matrix.Flaky, matrix.PhaseBaseline, "attempt 1 of 2"},
		{"passed after failing as expected", []matrix.Attempt{diagnosedFailure, passing()}, true, matrix.XPass, "", "passed although"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := cell()
			if tc.expect {
				expecting(matrix.PhaseBaseline, "sig")(&c, nil)
			}
			j := matrix.Judge(c, tc.attempts)
			if j.Verdict != tc.verdict || j.Phase != tc.phase || !strings.Contains(j.Reason, tc.reason) {
				t.Errorf("Judge says %s in %q: %q; want %s in %q: ...%s...", j.Verdict, j.Phase, j.Reason, tc.verdict, tc.phase, tc.reason)
			}
		})
	}
}

func TestJudgeAttemptsThatDefyAGate(t *testing.T) {
	c := cell()
	confirmed, blocked := passing(), passing()
	defying(matrix.PhaseInstall, "sig")(&c, nil)
	in(matrix.PhaseInstall, ended(matrix.BlameNode, "exit code 1"))(nil, &confirmed)
	diagnosed("sig")(nil, &confirmed)
	in(matrix.PhaseCreate, ended(matrix.BlameWorld, "disk full"))(nil, &blocked)
	for _, tc := range []struct {
		name     string
		attempts []matrix.Attempt
		verdict  matrix.Verdict
		reason   string
	}{
		{"none", nil, matrix.Unknown, "planned, no result"},
		{"held twice", []matrix.Attempt{confirmed, confirmed}, matrix.Impossible, "still holds"},
		{"held after being blocked", []matrix.Attempt{blocked, confirmed}, matrix.Flaky, "attempt 1 of 2 was blocked"},
		{"passed after it held", []matrix.Attempt{confirmed, passing()}, matrix.XPass, "no longer holds"},
	} {
		if j := matrix.Judge(c, tc.attempts); j.Verdict != tc.verdict || !strings.Contains(j.Reason, tc.reason) {
			t.Errorf("%s: Judge says %s: %q; want %s: ...%s...", tc.name, j.Verdict, j.Reason, tc.verdict, tc.reason)
		}
	}
}

func TestCellRuns(t *testing.T) {
	for _, tc := range []struct {
		change       change
		runs, defied bool
	}{
		{onCell(func(*matrix.Cell) {}), true, false},
		{onCell(func(c *matrix.Cell) { c.DefyGates = true }), true, false},
		{gated(matrix.PhaseInstall, "sig"), false, false},
		{defying("", ""), false, false},
		{defying(matrix.PhaseInstall, "sig"), true, true},
		{onCell(func(c *matrix.Cell) { c.Unavailable = "no image" }), false, false},
	} {
		c := cell()
		tc.change(&c, nil)
		if c.Runs() != tc.runs || c.Defied() != tc.defied {
			t.Errorf("%+v runs %v, defied %v; want %v, %v", c, c.Runs(), c.Defied(), tc.runs, tc.defied)
		}
	}
}

func TestJudgePhase(t *testing.T) {
	for _, p := range (matrix.Cell{}).Phases() {
		proving := slices.Contains(matrix.Cell{}.ProvingPhases(), p)
		want := matrix.Pass
		if proving {
			want = matrix.Blocked
		}
		if j := matrix.JudgePhase(matrix.PhaseResult{Phase: p}); j.Verdict != want || j.Phase != p {
			t.Errorf("%s that ran without evidence is %s in %s, want %s", p, j.Verdict, j.Phase, want)
		}
		if j := matrix.JudgePhase(matrix.PhaseResult{Phase: p, Blame: matrix.BlameWorld, Error: "x"}); j.Verdict != matrix.Blocked {
			t.Errorf("%s that the world ended is %s", p, j.Verdict)
		}
	}
}

// Whatever else an attempt says, a proving phase without healthy evidence, all
// of it healthy, never leads to a verdict that says the cell works.
func TestNoPassWithoutEvidence(t *testing.T) {
	holds := func(seed int64) bool {
		r := rand.New(rand.NewSource(seed))
		a := passing()
		proven := map[matrix.Phase]bool{}
		var phases []matrix.PhaseResult
		for _, p := range (matrix.Cell{}).ProvingPhases() {
			for range r.Intn(3) {
				res := matrix.PhaseResult{Phase: p}
				res.Blame = []matrix.Blame{"", "", "", "", matrix.BlameNode, matrix.BlameWorld, matrix.BlameInterrupt, "other"}[r.Intn(8)]
				if r.Intn(6) == 0 {
					res.Error = "error"
				}
				good := res.Blame == "" && res.Error == ""
				for range r.Intn(4) {
					e := matrix.Evidence{Check: "c", Outcome: matrix.Outcome(1 + r.Intn(6)/5*r.Intn(3)), Saw: "saw"}
					if r.Intn(12) == 0 {
						e.Saw = ""
					}
					good = good && e.Outcome == matrix.Healthy && e.Saw != ""
					res.Evidence = append(res.Evidence, e)
				}
				good = good && len(res.Evidence) > 0
				if was, seen := proven[p]; seen {
					good = good && was
				}
				proven[p] = good
				phases = append(phases, res)
			}
		}
		r.Shuffle(len(phases), func(i, j int) { phases[i], phases[j] = phases[j], phases[i] })
		a.Phases = phases
		all := len(proven) == len(matrix.Cell{}.ProvingPhases())
		for _, ok := range proven {
			all = all && ok
		}
		c := cell()
		switch r.Intn(4) {
		case 0:
			expecting(matrix.PhaseBaseline, "sig")(&c, nil)
		case 1:
			defying(matrix.PhaseBaseline, "sig")(&c, nil)
		}
		attempts := []matrix.Attempt{a}
		if r.Intn(3) == 0 {
			attempts = []matrix.Attempt{passing(), a}
		}
		switch matrix.Judge(c, attempts).Verdict {
		case matrix.Pass, matrix.XPass, matrix.Flaky:
			return all
		}
		return !all
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 20000}); err != nil {
		t.Error(err)
	}
}

func TestExitCode(t *testing.T) {
	ran := []matrix.Attempt{passing()}
	early := passing()
	upTo(matrix.PhaseInstall)(nil, &early)
	result := func(id string, v matrix.Verdict, optional bool, attempts []matrix.Attempt) matrix.Result {
		return matrix.Result{Cell: matrix.Cell{ID: matrix.CellID(id), Optional: optional}, Judgement: matrix.Judgement{Verdict: v}, Attempts: attempts}
	}
	pass, fail := result("pass", matrix.Pass, false, ran), result("fail", matrix.Fail, false, ran)
	impossible := result("impossible", matrix.Impossible, false, nil)
	optional := result("optional", matrix.Blocked, true, nil)
	blocked, unknown := result("blocked", matrix.Blocked, false, nil), result("unknown", matrix.Unknown, true, nil)
	for _, tc := range []struct {
		name         string
		results      []matrix.Result
		change       func(*matrix.Run)
		want, strict int
	}{
		{"pass", []matrix.Result{pass}, nil, 0, 0},
		{"only impossible cells", []matrix.Result{impossible}, nil, 0, 0},
		{"fail", []matrix.Result{pass, fail}, nil, 1, 1},
		{"failed before its baseline", []matrix.Result{result("x", matrix.Fail, false, []matrix.Attempt{early})}, nil, 1, 1},
		{"a deviation is told even where a cell was blocked", []matrix.Result{fail, blocked}, nil, 1, 1},
		{"blocked", []matrix.Result{pass, blocked}, nil, 3, 3},
		{"optional blocked", []matrix.Result{pass, optional}, nil, 0, 3},
		{"optional unknown", []matrix.Result{pass, unknown}, nil, 3, 3},
		{"no cell reached its baseline", []matrix.Result{impossible, optional}, nil, 3, 3},
		{"no cell planned", nil, nil, 3, 3},
		{"harness error", []matrix.Result{pass}, func(r *matrix.Run) { r.HarnessErrors = []string{"x"} }, 3, 3},
		{"a planned cell without result", []matrix.Result{pass, fail}, func(r *matrix.Run) { r.Results = r.Results[:1] }, 3, 3},
		{"a result in another cell's place", []matrix.Result{pass, fail}, func(r *matrix.Run) { r.Results = []matrix.Result{pass, pass} }, 3, 3},
		{"SIGINT", []matrix.Result{fail}, func(r *matrix.Run) { r.Interrupted = "SIGINT" }, 130, 130},
		{"SIGTERM", []matrix.Result{fail}, func(r *matrix.Run) { r.Interrupted = "SIGTERM" }, 143, 143},
		{"another signal", []matrix.Result{pass}, func(r *matrix.Run) { r.Interrupted = "SIGHUP" }, 130, 130},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := matrix.Run{Results: tc.results}
			for _, r := range tc.results {
				run.Plan.Cells = append(run.Plan.Cells, r.Cell)
			}
			if tc.change != nil {
				tc.change(&run)
			}
			if got := matrix.ExitCode(run, false); got != tc.want {
				t.Errorf("exit code %d, want %d", got, tc.want)
			}
			if got := matrix.ExitCode(run, true); got != tc.strict {
				t.Errorf("strict exit code %d, want %d", got, tc.strict)
			}
		})
	}
}
