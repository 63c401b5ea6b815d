package schedule

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Makespan is how long Run is expected to take: the same decisions, with every
// duration as expected. Cells that fit nowhere take no time.
func Makespan(plan Plan) time.Duration { return simulate(plan, order(plan)) }

// happening is something that ends at a time.
type happening struct {
	at time.Duration
	action
}

// simulate runs the dispatcher in simulated time and returns when it ends.
func simulate(plan Plan, r ranks) time.Duration {
	d := newDispatcher(plan, r)
	var now time.Duration
	var ahead []happening // the next one last
	for {
		for a, ok := d.next(); ok; a, ok = d.next() {
			if a.kind == refuse {
				continue
			}
			h := &plan.Hosts[a.host]
			e := happening{now, a}
			switch a.kind {
			case open:
				e.at += h.Opening
			case run:
				e.at += h.Cells[a.cell].Expected
			case shut:
				e.at += h.Closing
			}
			// Of two at one time the one that was decided first comes first.
			at, _ := slices.BinarySearchFunc(ahead, e, func(a, b happening) int {
				if a.at > b.at {
					return -1
				}
				return 1
			})
			ahead = slices.Insert(ahead, at, e)
		}
		if len(ahead) == 0 {
			return now
		}
		e := ahead[len(ahead)-1]
		ahead = ahead[:len(ahead)-1]
		now = e.at
		switch e.kind {
		case open:
			d.opened(e.host, plan.Hosts[e.host].Room, nil)
		case run:
			d.ended(e.host, e.cell)
		case shut:
			d.closed(e.host)
		}
	}
}

// order ranks hosts and cells by what remains to be done from their start:
// whoever starts the longest way comes first. That is seldom bad and seldom
// best, so that the ranking is then varied, each variation is simulated, and
// the one that ends first is taken. A host with room of its own is ordered by
// itself: how long it is up does not depend on the others.
func order(plan Plan) ranks {
	n := 1 + len(plan.Hosts)
	for h := range plan.Hosts {
		n += len(plan.Hosts[h].Cells)
	}
	tries := steps / n
	w := weights{hosts: make([]float64, len(plan.Hosts)), cells: make([][]float64, len(plan.Hosts))}
	for h := range plan.Hosts {
		p := &plan.Hosts[h]
		w.cells[h] = make([]float64, len(p.Cells))
		longest := time.Duration(0)
		for c := range p.Cells {
			w.cells[h][c] = float64(p.Cells[c].Expected + p.Closing)
			longest = max(longest, p.Cells[c].Expected)
		}
		w.hosts[h] = float64(p.Opening + longest + p.Closing)
		if p.Own {
			alone := *p
			alone.Claim = Room{}
			one := weights{hosts: []float64{0}, cells: [][]float64{w.cells[h]}}
			least := p.Opening + longest + p.Closing
			w.hosts[h] = float64(improve(Plan{Hosts: []Host{alone}}, tries, least, one, one.cells[0]))
		}
	}
	shared := [][]float64{w.hosts}
	var least time.Duration
	for h := range plan.Hosts {
		least = max(least, time.Duration(w.hosts[h]))
		if !plan.Hosts[h].Own {
			shared = append(shared, w.cells[h])
		}
	}
	improve(plan, tries, least, w, shared...)
	return w.ranks()
}

// weights are what ranks are made of: the heaviest comes first.
type weights struct {
	hosts []float64
	cells [][]float64
}

// ranks numbers hosts and cells from the heaviest to the lightest.
func (w weights) ranks() ranks {
	r := ranks{hosts: make([]int, len(w.hosts)), cells: make([][]int, len(w.cells))}
	type ranked struct {
		weight     float64
		host, cell int
	}
	n := len(w.hosts)
	for h := range w.cells {
		n += len(w.cells[h])
	}
	all := make([]ranked, 0, n)
	for h, weight := range w.hosts {
		all = append(all, ranked{weight, h, -1})
	}
	for h, cells := range w.cells {
		r.cells[h] = make([]int, len(cells))
		for c, weight := range cells {
			all = append(all, ranked{weight, h, c})
		}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), a.host-b.host, a.cell-b.cell)
	})
	for rank, one := range all {
		if one.cell < 0 {
			r.hosts[one.host] = rank
		} else {
			r.cells[one.host][one.cell] = rank
		}
	}
	return r
}

const (
	// steps are simulated about, in all variations of a plan together, which
	// keeps the ordering of any plan within a fraction of a second.
	steps = 200_000
	// patience is how many variations in a row may bring nothing.
	patience = 200
)

// improve varies weights of w, a few and all of them by turns, and keeps what
// ends the plan no later; where nothing ends it sooner they stay as they were.
// It returns when the plan ends, and stops looking when that is least, which no
// order can beat.
func improve(plan Plan, tries int, least time.Duration, w weights, varied ...[]float64) time.Duration {
	first := simulate(plan, w.ranks())
	best := first
	// One plan is always ordered alike.
	random := rand.New(rand.NewPCG(1, 2))
	original, kept := clone(varied), clone(varied)
	for try, since := 0, 0; try < tries && since < patience && best > least; try, since = try+1, since+1 {
		part := []float64{0.1, 1}[try%2]
		for _, v := range varied {
			for i := range v {
				if random.Float64() < part {
					v[i] *= math.Exp(0.5 * random.NormFloat64())
				}
			}
		}
		end := simulate(plan, w.ranks())
		if end < best {
			since = 0
		}
		if end <= best {
			best = end
			restore(kept, varied)
		} else {
			restore(varied, kept)
		}
	}
	if best == first {
		restore(varied, original)
	}
	return best
}

func clone(all [][]float64) [][]float64 {
	c := make([][]float64, len(all))
	for i, v := range all {
		c[i] = slices.Clone(v)
	}
	return c
}

func restore(all, from [][]float64) {
	for i, v := range all {
		copy(v, from[i])
	}
}
