package ablation

import "github.com/lxcmatrix/lxcmatrix/matrix"

// ExitCode is that of a run, its ablations counted: where all is as expected in
// the cells with all their fixes and an ablation was not finished, or leaves
// something unknown that is not so by the host's nature, it is the harness
// that could not tell.
func ExitCode(run matrix.Run, strict bool) int {
	if code := matrix.ExitCode(run, strict); code != matrix.ExitExpected {
		return code
	}
	for _, a := range run.Ablations {
		if !Answered(a) {
			return matrix.ExitHarness
		}
	}
	return matrix.ExitExpected
}

// Answered says that an ablation was finished and answers what it was made for.
func Answered(a matrix.Ablation) bool {
	if a.Goal == matrix.GoalMinimal {
		m := Minimal(a)
		return m.Done && m.Why == ""
	}
	s := Outcomes(a)
	for _, f := range s.Findings {
		if f.Outcome == Unknown && !f.Skipped {
			return false
		}
	}
	return s.Done
}
