package history_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
)

func TestFlakes(t *testing.T) {
	runs := []history.Run{
		remembered("a", nil, matrix.Flaky, matrix.Pass, matrix.Flaky, matrix.Pass, matrix.Flaky),
		remembered("b", nil, matrix.Pass, matrix.Flaky, matrix.Flaky, matrix.Pass, matrix.Blocked),
		remembered("c", nil, matrix.Fail, matrix.Pass, matrix.Pass, matrix.Fail, matrix.Unknown),
		remembered("d", nil, matrix.Pass, matrix.Flaky, matrix.Blocked, matrix.Pass, none),
	}
	// With other fixes it is another cell.
	runs[3].Cells[0].Chosen, runs[3].Cells[0].Verdict, runs[3].Cells[0].Reason = []string{"without swap"}, matrix.Flaky, "attempt 1 of 2 was fail"
	var got []string
	for _, f := range history.Flakes(runs) {
		got = append(got, fmt.Sprint(f.Cell, f.Chosen, " ", f.Flaky, "/", f.Results, " ", f.Last, " ", f.Reason))
	}
	want := []string{"c0[without swap] 1/1 d attempt 1 of 2 was fail", "c4[] 1/1 a ", "c2[] 2/3 b ", "c1[] 2/4 d ", "c0[] 1/3 a "}
	if !slices.Equal(got, want) {
		t.Errorf("the flakiest cells are\n%q, want\n%q", got, want)
	}
	if got := history.Flakes(runs[2:3]); got == nil || len(got) != 0 {
		t.Errorf("of cells that were not flaky: %v", got)
	}
}
