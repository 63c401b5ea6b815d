package junit

import (
	"fmt"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// ablationSuite has a case for each fix that was asked about, or one for the
// fewest that are enough.
func ablationSuite(a view.Ablation) suite {
	s := suite{Name: "fixes left out of " + a.Cell, Properties: &properties{List: []property{{"cell", a.Cell}, {"summary", a.Summary()}}}}
	class := "lxcmatrix.ablation." + strings.NewReplacer(".", "_", "/", "-").Replace(a.Cell)
	if a.Goal == matrix.GoalMinimal {
		t := testcase{Class: class, Name: "minimal set", Time: seconds(a.Took), Out: "enough: " + strings.Join(a.Minimum.Kept, ", ")}
		if a.Minimum.Why != "" {
			t.Error = newOutcome(ablation.Unknown.String(), a.Minimum.Why)
		}
		s.add(t)
		return s
	}
	for _, f := range a.Findings {
		t := testcase{Class: class, Name: f.Fix}
		for _, trial := range a.Trials {
			if len(trial.Without) == 1 && trial.Without[0] == f.Fix {
				t.Time += seconds(trial.Took)
			}
		}
		said := newOutcome(f.Outcome.String(), view.Said(f)+": "+f.Reason)
		said.Text += "\n" + facts(f)
		switch {
		case f.Outcome == ablation.Harmful:
			t.Failure = said
		case f.Outcome == ablation.Unknown && f.Skipped:
			t.Skipped = said
		case f.Outcome == ablation.Unknown:
			t.Error = said
		default:
			t.Out = said.Text
		}
		s.add(t)
	}
	if !a.Finished {
		s.add(testcase{Class: class, Name: "to the end", Error: newOutcome("interrupted", "not finished: "+a.Summary())})
	}
	return s
}

// facts are what a finding rests on, a line each.
func facts(f ablation.Finding) string {
	var b strings.Builder
	if f.Line != "" {
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Signature, f.Log, f.Line)
	}
	if f.Against != "" {
		fmt.Fprintf(&b, "against what is known of it: %s\n", f.Against)
	}
	if len(f.Runs) > 0 {
		fmt.Fprintf(&b, "runs: %s\n", strings.Join(f.Runs, ", "))
	}
	return b.String()
}
