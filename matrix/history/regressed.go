package history

import "github.com/lxcmatrix/lxcmatrix/matrix"

// Standing is where a cell stands at the end of several runs.
type Standing struct {
	Cell matrix.CellID
	// Latest is the last run that says anything of the cell, and what it came to.
	Latest Came
	// Regressed: it was as expected in Good, the last run in which it was, and has
	// not been since Broke. Both are zero otherwise.
	Regressed   bool
	Good, Broke Came
	// Inputs are those of the cell and of the whole run that changed from Good to
	// Broke.
	Inputs []InputChange
}

// Came is what a cell came to in a run.
type Came struct {
	Run string
	matrix.Judgement
}

// Standings are those of the cells of the last run, in its order, by the runs of
// the same matrix, which are in order. Runs without a result for a cell say nothing of
// it, and neither do those in which somebody chose its fixes; a cell of which the
// last run says nothing is left out, since nobody knows how it stands now.
func Standings(runs []Run) (all []Standing) {
	if len(runs) == 0 {
		return nil
	}
	last := runs[len(runs)-1]
	for _, now := range last.Cells {
		if now.Verdict == matrix.Unknown || len(now.Chosen) > 0 {
			continue
		}
		s := Standing{Cell: now.ID, Latest: Came{last.ID, now.Judgement}}
		var good, broke *Run
		var was, is Cell
		for i, r := range runs {
			c, there := r.cell(now.ID)
			switch {
			case r.Matrix != last.Matrix || !there || c.Verdict == matrix.Unknown || len(c.Chosen) > 0:
			case c.Verdict.AsExpected():
				good, broke, was = &runs[i], nil, c
			case broke == nil:
				broke, is = &runs[i], c
			}
		}
		if good != nil && broke != nil {
			s.Regressed, s.Good, s.Broke = true, Came{good.ID, was.Judgement}, Came{broke.ID, is.Judgement}
			s.Inputs = append(changedBetween(*good, *broke, was, is), changed(good.Inputs, broke.Inputs)...)
		}
		all = append(all, s)
	}
	return all
}

// cell finds a cell of the run.
func (r Run) cell(id matrix.CellID) (Cell, bool) {
	for _, c := range r.Cells {
		if c.ID == id {
			return c, true
		}
	}
	return Cell{}, false
}
