package matrix

import (
	"fmt"
	"slices"
	"strings"
)

// Judge turns a cell and the evidence of its attempts into its verdict. It is
// pure: the engine, the suite, the reports and the exit code all show what it
// says, so they cannot disagree.
//
// The last attempt decides. An outcome as expected that came only after an
// attempt that was not is Flaky, unless that attempt was merely interrupted. A
// pass needs evidence from every proving phase, facts that match what the cell
// says, and no repair made by a watcher. Every verdict but Pass has a reason.
//
// A cell that a gate rules out is Impossible. Where the gate is defied, it is
// only if the cell failed as the gate says; if it passed, that is XPass, and a
// failure that does not tell whether the gate still holds is Blocked.
func Judge(cell Cell, attempts []Attempt) Judgement {
	if g := cell.Gate; g != nil {
		if g.Gate == "" || g.Reason == "" {
			return Judgement{Verdict: Blocked, Reason: fmt.Sprintf("gate %q rules the cell out without a reason", g.Gate)}
		}
		if !cell.Defied() {
			return Judgement{Verdict: Impossible, Reason: g.String()}
		}
	}
	if cell.Unavailable != "" {
		return Judgement{Verdict: Blocked, Reason: cell.Unavailable}
	}
	if len(attempts) == 0 {
		return Judgement{Verdict: Unknown, Reason: "planned, no result"}
	}
	j := judgeAttempt(cell, attempts[len(attempts)-1])
	if !j.Verdict.AsExpected() {
		return j
	}
	for i, earlier := range attempts[:len(attempts)-1] {
		e := judgeAttempt(cell, earlier)
		if e.Verdict == j.Verdict || e.Verdict == Unknown && earlier.Interrupted() {
			continue
		}
		return Judgement{Verdict: Flaky, Phase: e.Phase,
			Reason: fmt.Sprintf("attempt %d of %d was %s: %s", i+1, len(attempts), e.Verdict, e.Reason)}
	}
	return j
}

// judgeAttempt judges one attempt by itself, and then against the gate that it
// defies or the failure that the matrix expects.
func judgeAttempt(cell Cell, a Attempt) Judgement {
	j := judgePhases(cell, a)
	switch {
	case j.Verdict != Pass:
	case len(a.Repairs) > 0:
		// A node that only came up because something mended it did not come up.
		j = Judgement{Verdict: Fail, Reason: "repaired: " + strings.Join(a.Repairs, "; ")}
	default:
		j = judgeFacts(cell, a)
	}
	switch {
	case cell.Defied():
		return judgeDefied(cell, a, j)
	case cell.Expect != nil:
		return judgeExpected(*cell.Expect, a, j)
	}
	return j
}

// judgeDefied says whether a gate still holds, by an attempt that defied it.
func judgeDefied(cell Cell, a Attempt, j Judgement) Judgement {
	g := *cell.Gate
	order := func(p Phase) int { return slices.Index(cell.ProvingPhases(), p) }
	switch {
	case j.Verdict == Pass:
		return Judgement{Verdict: XPass, Reason: fmt.Sprintf("passed, so this gate no longer holds: %s", g)}
	case j.Verdict != Fail:
		return j
	case j.Phase == g.Probe.Phase && a.diagnosed(g.Probe.Signature):
		return Judgement{Verdict: Impossible, Phase: j.Phase, Reason: fmt.Sprintf("%s; defied, it still holds: %s", g, g.Probe.Signature)}
	case j.Phase == g.Probe.Phase:
		j.Verdict, j.Reason = Blocked, fmt.Sprintf("cannot tell whether gate %s still holds, as signature %s is not in the logs: %s", g.Gate, g.Probe.Signature, j.Reason)
	case j.Phase != "" && order(j.Phase) < order(g.Probe.Phase):
		j.Verdict, j.Reason = Blocked, fmt.Sprintf("cannot tell whether gate %s still holds, as it shows in %s only: %s", g.Gate, g.Probe.Phase, j.Reason)
	default:
		j.Reason = fmt.Sprintf("gate %s no longer holds in %s, and then: %s", g.Gate, g.Probe.Phase, j.Reason)
	}
	return j
}

// judgeExpected turns a failure or a pass into xfail or xpass where the matrix
// expects this very failure.
func judgeExpected(e Expectation, a Attempt, j Judgement) Judgement {
	switch {
	case j.Verdict == Pass:
		return Judgement{Verdict: XPass, Reason: fmt.Sprintf("passed although %s is expected to fail with %s (%s)", e.Phase, e.Signature, e.Issue)}
	case j.Verdict != Fail || j.Phase == "":
		return j
	case j.Phase != e.Phase:
		j.Reason = fmt.Sprintf("expected to fail in %s, not here: %s", e.Phase, j.Reason)
		return j
	case a.diagnosed(e.Signature):
		return Judgement{Verdict: XFail, Phase: j.Phase, Reason: fmt.Sprintf("%s, as expected (%s)", e.Signature, e.Issue)}
	}
	j.Reason = fmt.Sprintf("expected signature %s is not in the logs: %s", e.Signature, j.Reason)
	return j
}

// String is the finding in one line, as reasons show it.
func (g GateFinding) String() string { return fmt.Sprintf("%s: %s (%s)", g.Gate, g.Reason, g.Source) }

// diagnosed says whether a signature was found in the logs.
func (a Attempt) diagnosed(signature string) bool {
	return signature != "" && slices.ContainsFunc(a.Diagnoses, func(d Diagnosis) bool { return d.Signature == signature })
}

// judgePhases judges the proving phases in their order, each by every result
// it has.
func judgePhases(cell Cell, a Attempt) Judgement {
	for _, phase := range cell.ProvingPhases() {
		ran := 0
		for _, r := range a.Phases {
			if r.Phase != phase {
				continue
			}
			ran++
			if j := JudgePhase(r); j.Verdict != Pass {
				return j
			}
		}
		switch want := cell.times(phase); {
		case ran == 0:
			return Judgement{Verdict: Unknown, Phase: phase, Reason: fmt.Sprintf("%s has no result", phase)}
		case ran < want:
			return Judgement{Verdict: Unknown, Phase: phase, Reason: fmt.Sprintf("%s has %d results of %d", phase, ran, want)}
		}
	}
	for _, r := range a.Phases {
		if !slices.Contains(cell.Phases(), r.Phase) {
			return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: fmt.Sprintf("%q is no phase of the cell", r.Phase)}
		}
	}
	return Judgement{Verdict: Pass}
}

// JudgePhase judges one phase by itself, for views that show cell by phase. A
// phase passes only with evidence, all of it healthy; collect and destroy,
// which prove nothing, need none.
func JudgePhase(r PhaseResult) Judgement {
	said := r.Error
	if said == "" {
		said = "no error was recorded"
	}
	switch r.Blame {
	case BlameNone, BlameNode:
	case BlameInterrupt:
		return Judgement{Verdict: Unknown, Phase: r.Phase, Reason: "interrupted: " + said}
	case BlameWorld:
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: said}
	default:
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: fmt.Sprintf("blame %q is not known: %s", r.Blame, said)}
	}
	undecided := ""
	for _, e := range r.Evidence {
		switch {
		case e.Outcome == Unhealthy:
			return Judgement{Verdict: Fail, Phase: r.Phase, Reason: e.String()}
		case e.Outcome == Healthy && e.Saw != "":
		case undecided == "":
			undecided = e.String()
		}
	}
	switch {
	case r.Blame == BlameNode:
		return Judgement{Verdict: Fail, Phase: r.Phase, Reason: said}
	case r.Error != "":
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: r.Error}
	case undecided != "":
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: "could not tell: " + undecided}
	case len(r.Evidence) == 0 && r.Phase.Proves():
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: "no evidence"}
	}
	return Judgement{Verdict: Pass, Phase: r.Phase}
}

// String is the evidence in one line.
func (e Evidence) String() string {
	var b strings.Builder
	b.WriteString(e.Check)
	if e.Node != "" {
		b.WriteString(" on " + e.Node)
	}
	if e.Saw == "" {
		fmt.Fprintf(&b, ": %s, without saying what it saw", e.Outcome)
	} else {
		b.WriteString(": " + e.Saw)
	}
	if e.Want != "" {
		b.WriteString(", want " + e.Want)
	}
	return b.String()
}

// judgeFacts holds a pass against what was observed: a cell that ran on
// something else than it says is not that cell.
func judgeFacts(cell Cell, a Attempt) Judgement {
	blocked := func(format string, args ...any) Judgement {
		return Judgement{Verdict: Blocked, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case a.Host.Kernel == "" || a.Host.Cgroup == "" || a.Host.Incus == "":
		return blocked("kernel, cgroup mode and Incus version of host %s were not all observed", cell.Host.Name)
	case cell.Host.Contradiction(a.Host) != "":
		return blocked("%s", cell.Host.Contradiction(a.Host))
	case cell.Distro.Version == "":
		return blocked("the plan has no exact version of %s", cell.Distro)
	case len(a.Nodes) != cell.Topology.Nodes():
		return blocked("%d nodes were observed, the topology %s has %d", len(a.Nodes), cell.Topology, cell.Topology.Nodes())
	case len(a.Nodes) == 0:
		return blocked("no node was observed")
	}
	starts := 1
	for _, r := range cell.RestartsOf() {
		if r.Starts {
			starts += r.Times
		}
	}
	names := map[string]bool{}
	for i, n := range a.Nodes {
		if n.Node == "" || names[n.Node] {
			return blocked("node %q was observed twice, or without a name", n.Node)
		}
		names[n.Node] = true
		if n.Kernel != a.Host.Kernel {
			return blocked("node %s runs kernel %q, its host %q", n.Node, n.Kernel, a.Host.Kernel)
		}
		if n.Cgroup != a.Host.Cgroup {
			return blocked("node %s sees cgroup %q, its host has %s", n.Node, n.Cgroup, a.Host.Cgroup)
		}
		if n.Containerd == "" || n.Runc == "" {
			return blocked("node %s: containerd's and runc's versions were not both observed", n.Node)
		}
		if os := cell.OSOf(cell.Topology.Role(i)); !os.Is(n.OSID, n.OSVersion) {
			return blocked("node %s is %q %q, the cell says %s", n.Node, n.OSID, n.OSVersion, os.Name)
		}
		if n.Kubernetes != cell.Distro.Version {
			return blocked("node %s runs Kubernetes %q, the plan says %q", n.Node, n.Kubernetes, cell.Distro.Version)
		}
		// Every start has a boot ID of its own.
		boots := map[string]bool{}
		for _, id := range n.BootIDs {
			if id != "" {
				boots[id] = true
			}
		}
		if len(boots) < starts {
			return blocked("node %s: %d different boot IDs were observed over %d starts", n.Node, len(boots), starts)
		}
	}
	return Judgement{Verdict: Pass}
}

// Exit codes of a run.
const (
	ExitExpected   = 0
	ExitDeviation  = 1
	ExitUsage      = 2
	ExitHarness    = 3
	ExitInterrupt  = 130
	ExitTerminated = 143
)

// ExitCode is the run's exit code: 0 all as expected; 1 a deviation; 3 the
// harness failed, cells that are not optional were blocked or left without a
// result, or no cell reached its baseline; 130 and 143 interrupted. Where a
// deviation was seen, it wins over 3: it is the finding. strict makes blocked
// optional cells count.
func ExitCode(run Run, strict bool) int {
	switch run.Interrupted {
	case "":
	case "SIGTERM":
		return ExitTerminated
	default:
		return ExitInterrupt
	}
	results := map[CellID]Result{}
	for _, r := range run.Results {
		results[r.Cell.ID] = r
	}
	deviation, baseline, allExpected := false, false, true
	harness := len(run.HarnessErrors) > 0 || len(run.Plan.Cells) == 0 || len(run.Results) != len(run.Plan.Cells)
	for _, cell := range run.Plan.Cells {
		r := results[cell.ID]
		v := r.Judgement.Verdict
		switch {
		case v.AsExpected():
		case v == Blocked && cell.Optional && !strict:
			allExpected = false
		case v == Blocked || v == Unknown:
			harness = true
		default:
			deviation = true
		}
		for _, a := range r.Attempts {
			p, ok := a.Phase(PhaseBaseline)
			baseline = baseline || ok && p.Blame != BlameWorld
		}
	}
	switch {
	case deviation:
		return ExitDeviation
	case harness, !baseline && !allExpected:
		return ExitHarness
	}
	return ExitExpected
}
