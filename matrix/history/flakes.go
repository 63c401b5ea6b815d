package history

import (
	"cmp"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Flake is a cell that passed only when it was tried again.
type Flake struct {
	Cell matrix.CellID `json:"cell"`
	// Chosen are the fixes that somebody chose: with others it is another cell.
	Chosen []string `json:"chosen,omitempty"`
	// Flaky is in how many runs it was so, of the Results that it came to.
	Flaky   int `json:"flaky"`
	Results int `json:"results"`
	// Last is the latest run in which it was so, and Reason what failed there
	// first.
	Last   string `json:"last"`
	Reason string `json:"reason"`
}

// Flakes ranks the cells that were flaky in any of the runs, which are in order:
// those first that are so most often for each result.
func Flakes(runs []Run) []Flake {
	series := AllSeries(runs)
	ranked := []Flake{}
	for _, r := range slices.Backward(runs) {
		for _, c := range r.Cells {
			same := func(f Flake) bool { return f.Cell == c.ID && slices.Equal(f.Chosen, c.Chosen) }
			if c.Verdict != matrix.Flaky || slices.ContainsFunc(ranked, same) {
				continue
			}
			flaky, results := series[Key(c.ID, c.Chosen)].Flakes()
			ranked = append(ranked, Flake{Cell: c.ID, Chosen: c.Chosen, Flaky: flaky, Results: results, Last: r.ID, Reason: c.Reason})
		}
	}
	slices.SortFunc(ranked, func(a, b Flake) int {
		return cmp.Or(cmp.Compare(b.Flaky*a.Results, a.Flaky*b.Results), cmp.Compare(b.Flaky, a.Flaky),
			cmp.Compare(a.Cell, b.Cell), slices.Compare(a.Chosen, b.Chosen))
	})
	return ranked
}
