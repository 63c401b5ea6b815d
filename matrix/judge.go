package matrix

import (
	"fmt"
	"strings"
)

// Judge turns a cell and the evidence of its attempts into its verdict. It is
// pure: the engine, the suite, the reports and the exit code all show what it
// says, so they cannot disagree.
//
// The last attempt decides. A pass after a failed attempt is Flaky; a pass
// needs evidence from every proving phase, facts that match what the cell
// says, and no repair made by a watcher.
func Judge(cell Cell, attempts []Attempt) Judgement {
	if cell.Gate != nil {
		return Judgement{Verdict: Impossible, Reason: fmt.Sprintf("%s: %s (%s)", cell.Gate.Gate, cell.Gate.Reason, cell.Gate.Source)}
	}
	if cell.Unavailable != "" {
		return Judgement{Verdict: Blocked, Reason: cell.Unavailable}
	}
	if len(attempts) == 0 {
		return Judgement{Verdict: Unknown, Reason: "planned, no result"}
	}
	last := attempts[len(attempts)-1]
	j := expected(cell, last, judgeAttempt(cell, last))
	if j.Verdict == Pass {
		for i, earlier := range attempts[:len(attempts)-1] {
			if e := judgeAttempt(cell, earlier); e.Verdict != Pass {
				return Judgement{Verdict: Flaky, Phase: e.Phase,
					Reason: fmt.Sprintf("attempt %d of %d was %s: %s", i+1, len(attempts), e.Verdict, e.Reason)}
			}
		}
	}
	return j
}

// expected turns a failure or a pass into xfail or xpass where the matrix
// expects this very failure.
func expected(cell Cell, a Attempt, j Judgement) Judgement {
	e := cell.Expect
	if e == nil {
		return j
	}
	switch j.Verdict {
	case Pass:
		return Judgement{Verdict: XPass, Reason: fmt.Sprintf("passed although %s is expected to fail with %s (%s)", e.Phase, e.Signature, e.Issue)}
	case Fail:
		if j.Phase != e.Phase {
			j.Reason = fmt.Sprintf("expected to fail in %s, not here: %s", e.Phase, j.Reason)
			return j
		}
		for _, d := range a.Diagnoses {
			if d.Signature == e.Signature {
				return Judgement{Verdict: XFail, Phase: j.Phase, Reason: fmt.Sprintf("%s, as expected (%s)", e.Signature, e.Issue)}
			}
		}
		j.Reason = fmt.Sprintf("expected signature %s is not in the logs: %s", e.Signature, j.Reason)
	}
	return j
}

func judgeAttempt(cell Cell, a Attempt) Judgement {
	for _, phase := range ProvingPhases() {
		r, ran := a.Phase(phase)
		if !ran {
			return Judgement{Verdict: Unknown, Phase: phase, Reason: fmt.Sprintf("%s has no result", phase)}
		}
		if j := JudgePhase(r); j.Verdict != Pass {
			return j
		}
	}
	if len(a.Repairs) > 0 {
		return Judgement{Verdict: Fail, Phase: PhaseForcedRecover, Reason: "repaired: " + strings.Join(a.Repairs, "; ")}
	}
	return judgeFacts(cell, a)
}

// JudgePhase judges one phase by itself, for views that show cell by phase. A
// phase passes only with evidence, all of it healthy.
func JudgePhase(r PhaseResult) Judgement {
	switch r.Blame {
	case BlameInterrupt:
		return Judgement{Verdict: Unknown, Phase: r.Phase, Reason: "interrupted: " + r.Error}
	case BlameWorld:
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: r.Error}
	}
	undecided := ""
	for _, e := range r.Evidence {
		where := e.Check
		if e.Node != "" {
			where += " on " + e.Node
		}
		reason := fmt.Sprintf("%s: %s", where, e.Saw)
		if e.Want != "" {
			reason += ", want " + e.Want
		}
		switch e.Outcome {
		case Healthy:
		case Unhealthy:
			return Judgement{Verdict: Fail, Phase: r.Phase, Reason: reason}
		default:
			if undecided == "" {
				undecided = reason
			}
		}
	}
	switch {
	case r.Blame == BlameNode:
		return Judgement{Verdict: Fail, Phase: r.Phase, Reason: r.Error}
	case r.Error != "":
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: r.Error}
	case undecided != "":
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: "could not tell: " + undecided}
	case len(r.Evidence) == 0:
		return Judgement{Verdict: Blocked, Phase: r.Phase, Reason: "no evidence"}
	}
	return Judgement{Verdict: Pass, Phase: r.Phase}
}

// judgeFacts holds a pass against what was observed: a cell that ran on
// something else than it says is not that cell.
func judgeFacts(cell Cell, a Attempt) Judgement {
	blocked := func(format string, args ...any) Judgement {
		return Judgement{Verdict: Blocked, Reason: fmt.Sprintf(format, args...)}
	}
	if a.Host.Kernel == "" || a.Host.Cgroup == "" {
		return blocked("the host's kernel and cgroup mode were not observed")
	}
	if want := cell.Host.Cgroup; want != "" && a.Host.Cgroup != want {
		return blocked("host %s has cgroup %s, the matrix says %s", cell.Host.Name, a.Host.Cgroup, want)
	}
	if len(a.Nodes) != cell.Topology.Nodes() {
		return blocked("%d nodes were observed, the topology %s has %d", len(a.Nodes), cell.Topology, cell.Topology.Nodes())
	}
	for _, n := range a.Nodes {
		if n.Kernel != a.Host.Kernel {
			return blocked("node %s runs kernel %q, its host %q", n.Node, n.Kernel, a.Host.Kernel)
		}
		if n.Cgroup == "" || n.Containerd == "" {
			return blocked("node %s: cgroup mode and containerd version were not observed", n.Node)
		}
		if n.OSID != cell.OS.Family() || n.OSVersion != cell.OS.Release() {
			return blocked("node %s is %s %s, the cell says %s", n.Node, n.OSID, n.OSVersion, cell.OS.Name)
		}
		if n.Kubernetes != cell.Distro.Version {
			return blocked("node %s runs Kubernetes %q, the plan says %q", n.Node, n.Kubernetes, cell.Distro.Version)
		}
		// Created, restarted, force-restarted: three starts, three boot IDs.
		seen := map[string]bool{}
		for _, id := range n.BootIDs {
			seen[id] = true
		}
		if len(seen) < 3 {
			return blocked("node %s: %d different boot IDs were observed over three starts", n.Node, len(seen))
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

// ExitCode is the run's exit code: 0 all as expected, 1 a deviation, 3 the
// harness failed, cells that are not optional were blocked or left without a
// result, or no cell reached its baseline; 130 and 143 interrupted. strict
// makes optional cells count.
func ExitCode(run Run, strict bool) int {
	switch run.Interrupted {
	case "SIGINT":
		return ExitInterrupt
	case "SIGTERM":
		return ExitTerminated
	}
	deviation, harness := false, len(run.HarnessErrors) > 0 || len(run.Results) != len(run.Plan.Cells)
	baseline, runnable := false, false
	for _, r := range run.Results {
		switch v := r.Judgement.Verdict; {
		case v == Blocked && r.Cell.Optional && !strict:
		case v == Blocked || v == Unknown:
			harness = true
		case !v.AsExpected():
			deviation = true
		}
		runnable = runnable || r.Judgement.Verdict != Impossible
		for _, a := range r.Attempts {
			if p, ok := a.Phase(PhaseBaseline); ok && p.Blame != BlameWorld {
				baseline = true
			}
		}
	}
	switch {
	case deviation:
		return ExitDeviation
	case harness, runnable && !baseline && !allExpected(run.Results):
		return ExitHarness
	}
	return ExitExpected
}

func allExpected(results []Result) bool {
	for _, r := range results {
		if !r.Judgement.Verdict.AsExpected() {
			return false
		}
	}
	return true
}
