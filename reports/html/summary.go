package html

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// share is a verdict's part of all cells, in thousandths of the whole.
type share struct {
	Verdict  matrix.Verdict
	X, Width float64
}

// host is what somebody who thinks of having such a host asks first.
type host struct {
	// Cell is one of the host's own that was observed, if any was.
	view.Cell
	Passed, Planned int
	Others          []view.Count
	// Passing are the distributions that pass there in some cell, in the plan's
	// order.
	Passing      []string
	up, recovery []time.Duration
}

// cause is why some cells do not pass.
type cause struct {
	Verdict             matrix.Verdict
	Title, Text, Remedy string
	// Cells are some of them, More how many others there are.
	Cells []*cellData
	More  int
}

// How much is shown of causes, and of the cells of each.
const (
	mostCauses    = 12
	cellsPerCause = 6
)

// share sums up the run, and its hosts.
func (p *pageData) share() {
	x := 0.0
	for _, c := range p.Counts {
		if c.Cells > 0 {
			width := math.Round(10000*float64(c.Cells)/float64(p.Planned)) / 10
			p.Shares = append(p.Shares, share{c.Verdict, math.Round(10*x) / 10, width})
			x += width
		}
	}
	by := map[string]*host{}
	others := map[string]map[matrix.Verdict]int{}
	for _, c := range p.Cells {
		h := by[c.HostName]
		if h == nil {
			h = &host{Cell: c.Cell}
			by[c.HostName], others[c.HostName] = h, map[matrix.Verdict]int{}
			p.Hosts = append(p.Hosts, h)
		}
		if !h.Observed && c.Observed {
			h.Cell = c.Cell
		}
		h.Planned++
		if c.Verdict != matrix.Pass {
			others[c.HostName][c.Verdict]++
			continue
		}
		h.Passed++
		if !slices.Contains(h.Passing, c.On["distro"]) {
			h.Passing = append(h.Passing, c.On["distro"])
		}
		h.up, h.recovery = append(h.up, c.up), append(h.recovery, c.recovery)
	}
	for name, h := range by {
		for _, v := range matrix.Verdicts() {
			if n := others[name][v]; n > 0 {
				h.Others = append(h.Others, view.Count{Verdict: v, Cells: n})
			}
		}
	}
}

// Up is how long cells took to be healthy, and Recovery to be so again after a
// graceful restart: the median, and the longest.
func (h *host) Up() string { return typical(h.up) }

// Recovery is told at Up.
func (h *host) Recovery() string { return typical(h.recovery) }

func typical(took []time.Duration) string {
	if took = slices.DeleteFunc(slices.Clone(took), func(d time.Duration) bool { return d == 0 }); len(took) == 0 {
		return ""
	}
	slices.Sort(took)
	middle, longest := view.Short(took[(len(took)-1)/2]), view.Short(took[len(took)-1])
	if middle == longest {
		return middle
	}
	return fmt.Sprintf("%s to %s", middle, longest)
}

// explain puts together the cells that do not pass for the same reason; those
// that are not as expected come first, then what most cells have in common.
func (p *pageData) explain() {
	type key struct {
		verdict     matrix.Verdict
		title, text string
	}
	by := map[key]*cause{}
	for _, c := range p.Cells {
		if c.Verdict == matrix.Pass {
			continue
		}
		one := c.cause()
		k := key{one.Verdict, one.Title, one.Text}
		if len(c.Diagnoses) > 0 {
			k.text = "" // which has names of nodes and times in it
		}
		if by[k] == nil {
			by[k] = one
			p.Causes = append(p.Causes, one)
		}
		if one = by[k]; len(one.Cells) < cellsPerCause {
			one.Cells = append(one.Cells, c)
		} else {
			one.More++
		}
	}
	expected := func(c *cause) int {
		if c.Verdict.AsExpected() {
			return 1
		}
		return 0
	}
	verdicts := matrix.Verdicts()
	slices.SortStableFunc(p.Causes, func(a, b *cause) int {
		return cmp.Or(cmp.Compare(expected(a), expected(b)), cmp.Compare(slices.Index(verdicts, a.Verdict), slices.Index(verdicts, b.Verdict)),
			cmp.Compare(len(b.Cells)+b.More, len(a.Cells)+a.More))
	})
	if left := len(p.Causes) - mostCauses; left > 0 {
		p.Causes, p.CausesLeft = p.Causes[:mostCauses], left
	}
}

// cause is why the cell does not pass: what was diagnosed first, else the reason
// of its verdict.
func (c *cellData) cause() *cause {
	one := &cause{Verdict: c.Verdict, Title: "no reason is known", Text: c.Reason}
	switch {
	case c.Finding != nil:
		one.Title = "gate " + c.Gate
	case len(c.Diagnoses) > 0:
		d := c.Diagnoses[0]
		one.Title, one.Remedy = d.Title, c.Remedy(d)
		if d.Line != "" {
			one.Text = d.Line
		}
	case c.Phase != "":
		one.Title = "in " + c.Phase
	case c.Reason != "":
		one.Title, one.Text, _ = strings.Cut(c.Reason, ": ")
	}
	return one
}
