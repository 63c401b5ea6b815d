package history_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
)

func TestStandings(t *testing.T) {
	pass, fail := attempt(""), attempt(matrix.PhaseInstall)
	fail.Nodes[0].Runc = "1.3.3"
	chosen := result("debian/13", fail)
	chosen.Cell.Without = []string{"swap"}
	chosen.Judgement = matrix.Judge(chosen.Cell, chosen.Attempts)
	var (
		passes  = result("debian/13", pass)
		fails   = result("debian/13", fail)
		unknown = result("debian/13")
	)
	for name, c := range map[string]struct {
		runs []matrix.Result
		want string
	}{
		"passes":                       {[]matrix.Result{fails, passes}, "pass in 2"},
		"regressed tonight":            {[]matrix.Result{passes, fails}, "fail in 2; good in 1, broke in 2: runc 1.3.2 -> 1.3.3"},
		"regressed some nights ago":    {[]matrix.Result{passes, fails, fails, fails}, "fail in 4; good in 1, broke in 2: runc 1.3.2 -> 1.3.3"},
		"regressed after a gap":        {[]matrix.Result{passes, unknown, fails}, "fail in 3; good in 1, broke in 3: runc 1.3.2 -> 1.3.3"},
		"regressed twice":              {[]matrix.Result{passes, fails, passes, fails}, "fail in 4; good in 3, broke in 4: runc 1.3.2 -> 1.3.3"},
		"never was good":               {[]matrix.Result{fails, fails}, "fail in 2"},
		"nobody knows":                 {[]matrix.Result{passes, unknown}, ""},
		"somebody left out a fix":      {[]matrix.Result{passes, chosen}, ""},
		"somebody did so in between":   {[]matrix.Result{passes, chosen, fails}, "fail in 3; good in 1, broke in 3: runc 1.3.2 -> 1.3.3"},
		"a cell that is new and fails": {[]matrix.Result{fails}, "fail in 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var runs []history.Run
			for i, r := range c.runs {
				runs = append(runs, history.Of(run(fmt.Sprint(i+1), r)))
			}
			got := ""
			for _, s := range history.Standings(runs) {
				got += fmt.Sprintf("%s in %s", s.Latest.Verdict, s.Latest.Run)
				if s.Regressed {
					got += fmt.Sprintf("; good in %s, broke in %s:", s.Good.Run, s.Broke.Run)
				}
				for _, in := range s.Inputs {
					got += " " + in.String()
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(runs) == 2 {
				// Another matrix says nothing of this one.
				runs[0].Matrix = "kernels"
				if all := history.Standings(runs); slices.ContainsFunc(all, func(s history.Standing) bool { return s.Regressed }) {
					t.Errorf("it regressed against another matrix: %+v", all)
				}
			}
		})
	}
	if history.Standings(nil) != nil {
		t.Error("without runs, cells stand somewhere")
	}
}
