package history

import (
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Series is a cell's past over several runs, the oldest first.
type Series struct {
	Points []Point
	// Up and Recovery are how long it took, over the runs that came to that.
	Up, Recovery Times
}

// Point is the cell in one run.
type Point struct {
	Run     string
	Verdict matrix.Verdict
}

// Times are durations over several runs, in the runs' order.
type Times struct {
	Values []time.Duration
	// P50 and P95 are the smallest values that half, and 95 of 100, do not
	// exceed; 0 without values.
	P50, P95 time.Duration
}

// AllSeries are the pasts of all cells over runs, which are in order. A cell
// with fixes that somebody chose has a past of its own.
func AllSeries(runs []Run) map[string]*Series {
	all := map[string]*Series{}
	for _, r := range runs {
		for _, c := range r.Cells {
			key := Key(c.ID, c.Chosen)
			s := all[key]
			if s == nil {
				s = &Series{}
				all[key] = s
			}
			s.Points = append(s.Points, Point{r.ID, c.Verdict})
			s.Up.add(c.Up)
			s.Recovery.add(c.Recovery)
		}
	}
	for _, s := range all {
		s.Up.sum()
		s.Recovery.sum()
	}
	return all
}

// Key is that of a cell with chosen fixes in AllSeries.
func Key(id matrix.CellID, chosen []string) string {
	key := string(id)
	for _, c := range chosen {
		key += "\x00" + c
	}
	return key
}

// Flakes says in how many of the runs the cell passed only when tried again, and
// in how many it came to a result at all.
func (s Series) Flakes() (flaky, results int) {
	for _, p := range s.Points {
		switch p.Verdict {
		case matrix.Flaky:
			flaky++
			results++
		case matrix.Pass, matrix.Fail, matrix.XFail, matrix.XPass:
			results++
		}
	}
	return flaky, results
}

func (t *Times) add(d matrix.Duration) {
	if d > 0 {
		t.Values = append(t.Values, d.Std())
	}
}

func (t *Times) sum() {
	if len(t.Values) == 0 {
		return
	}
	sorted := slices.Sorted(slices.Values(t.Values))
	rank := func(percent int) time.Duration { return sorted[(len(sorted)*percent+99)/100-1] }
	t.P50, t.P95 = rank(50), rank(95)
}
