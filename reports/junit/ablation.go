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
			t.Error = &outcome{Message: a.Minimum.Why, Type: ablation.Unknown.String()}
		}
		s.add(t)
		return s
	}
	for _, f := range a.Findings {
		t := testcase{Class: class, Name: f.Fix, Properties: &properties{}}
		for _, trial := range a.Trials {
			if len(trial.Without) == 1 && trial.Without[0] == f.Fix {
				t.Time += seconds(trial.Took)
			}
		}
		t.Properties.add("outcome", f.Outcome.String())
		t.Properties.add("with", strings.Join(f.With, ", "))
		t.Properties.add("phase", string(f.Phase))
		t.Properties.add("signature", f.Signature)
		t.Properties.add("against", f.Against)
		t.Properties.add("runs", strings.Join(f.Runs, ", "))
		said := &outcome{Message: view.Said(f) + ": " + f.Reason, Type: f.Outcome.String()}
		switch {
		case f.Outcome == ablation.Harmful:
			t.Failure = said
		case f.Outcome == ablation.Unknown && f.Skipped:
			t.Skipped = &outcome{Message: said.Message}
		case f.Outcome == ablation.Unknown:
			t.Error = said
		default:
			t.Out = said.Message + "\n"
			if f.Line != "" {
				t.Out += fmt.Sprintf("%s: %s: %s\n", f.Signature, f.Log, f.Line)
			}
		}
		s.add(t)
	}
	if !a.Finished {
		s.add(testcase{Class: class, Name: "to the end", Error: &outcome{Message: "not finished: " + a.Summary(), Type: "interrupted"}})
	}
	return s
}
