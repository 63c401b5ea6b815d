package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Kind is how a cell differs between two runs.
type Kind string

// The kinds, the worst first.
const (
	// Regressed: it was as expected, and is not now.
	Regressed Kind = "regressed"
	// Lost: it had a result, and has none now.
	Lost Kind = "lost"
	// Fixed: it was not as expected, by its own doing, and is now.
	Fixed Kind = "fixed"
	// NewlyPassing: it passes, and did not come to that before, or was not there.
	NewlyPassing Kind = "newly passing"
	// Changed: another verdict, neither better nor worse.
	Changed Kind = "changed"
	// Added: it was not planned before, and does not pass.
	Added Kind = "added"
	// Removed: it is not planned now.
	Removed Kind = "removed"
)

// Kinds lists them in the order in which reports show them.
func Kinds() []Kind { return []Kind{Regressed, Lost, Fixed, NewlyPassing, Changed, Added, Removed} }

// Diff is how one run differs from an earlier one.
type Diff struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Cells are those that differ, the worst kind first.
	Cells []CellChange `json:"cells"`
	// Inputs are those that changed, what most cells have in common first. Only
	// cells that are in both runs say anything of theirs.
	Inputs []InputChange `json:"inputs"`
}

// CellChange is a cell that differs.
type CellChange struct {
	Cell matrix.CellID `json:"cell"`
	Kind Kind          `json:"kind"`
	// From and To are nil where the run does not have the cell.
	From *matrix.Judgement `json:"from,omitempty"`
	To   *matrix.Judgement `json:"to,omitempty"`
	// Inputs are those of this cell that changed.
	Inputs []InputChange `json:"inputs,omitempty"`
}

// InputChange is an input that is not what it was.
type InputChange struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
	// Cells is how many cells it changed for; 0 where it is the whole run's.
	Cells int `json:"cells,omitempty"`
}

// String is the change in one line: "runc 1.3.2 -> 1.3.3".
func (c InputChange) String() string {
	return fmt.Sprintf("%s %s -> %s", c.Name, c.From, c.To)
}

// Worse says whether anything regressed or was lost.
func (d Diff) Worse() bool {
	return slices.ContainsFunc(d.Cells, func(c CellChange) bool { return c.Kind == Regressed || c.Kind == Lost })
}

// Summary is the difference in one line: "3 regressed, 1 fixed, 2 newly passing;
// changed inputs: runc 1.3.2 -> 1.3.3".
func (d Diff) Summary() string {
	counts := map[Kind]int{}
	for _, c := range d.Cells {
		counts[c.Kind]++
	}
	var parts []string
	for _, k := range Kinds() {
		if counts[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[k], k))
		}
	}
	line := "no cell differs"
	if len(parts) > 0 {
		line = strings.Join(parts, ", ")
	}
	if len(d.Inputs) == 0 {
		return line + "; no input changed"
	}
	var inputs []string
	for _, i := range d.Inputs {
		inputs = append(inputs, i.String())
	}
	return line + "; changed inputs: " + strings.Join(inputs, ", ")
}

// MarshalJSON adds the summary, and writes no null for an empty list.
func (d Diff) MarshalJSON() ([]byte, error) {
	type plain Diff
	p := plain(d)
	p.Cells, p.Inputs = append([]CellChange{}, d.Cells...), append([]InputChange{}, d.Inputs...)
	return json.Marshal(struct {
		APIVersion string `json:"apiVersion"`
		Summary    string `json:"summary"`
		Worse      bool   `json:"worse"`
		plain
	}{"lxcmatrix.dev/diff/v1", d.Summary(), d.Worse(), p})
}

// Compare says how run b differs from run a.
func Compare(a, b Run) Diff {
	d := Diff{From: a.ID, To: b.ID}
	before := map[matrix.CellID]Cell{}
	for _, c := range a.Cells {
		before[c.ID] = c
	}
	// Cells by the same sets have the same changes.
	type pair struct{ a, b int }
	compared := map[pair][]InputChange{}
	counts := map[InputChange]int{}
	for _, now := range b.Cells {
		was, there := before[now.ID]
		delete(before, now.ID)
		change := CellChange{Cell: now.ID, To: &now.Judgement}
		if there {
			change.From = &was.Judgement
			sets := pair{was.Set, now.Set}
			if _, done := compared[sets]; !done {
				compared[sets] = changedBetween(a, b, was, now)
			}
			change.Inputs = compared[sets]
			for _, i := range change.Inputs {
				counts[i]++
			}
		}
		if change.Kind = kind(change.From, change.To); change.Kind != "" {
			d.Cells = append(d.Cells, change)
		}
	}
	for _, c := range a.Cells {
		if was, gone := before[c.ID]; gone {
			d.Cells = append(d.Cells, CellChange{Cell: c.ID, Kind: Removed, From: &was.Judgement})
		}
	}
	kinds := Kinds()
	slices.SortStableFunc(d.Cells, func(x, y CellChange) int {
		return cmp.Compare(slices.Index(kinds, x.Kind), slices.Index(kinds, y.Kind))
	})
	for i, n := range counts {
		i.Cells = n
		d.Inputs = append(d.Inputs, i)
	}
	slices.SortFunc(d.Inputs, func(x, y InputChange) int {
		return cmp.Or(cmp.Compare(y.Cells, x.Cells), cmp.Compare(x.Name, y.Name), cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To))
	})
	d.Inputs = append(d.Inputs, replaced(changed(a.Inputs, b.Inputs))...)
	return d
}

// replaced are changes of a run's inputs without what both runs have, where one
// name stands for several. What only one of them has, and nothing took its place,
// came or went with cells.
func replaced(all []InputChange) (left []InputChange) {
	for _, c := range all {
		from, to := strings.Split(c.From, listed), strings.Split(c.To, listed)
		gone := slices.DeleteFunc(slices.Clone(from), func(v string) bool { return slices.Contains(to, v) })
		come := slices.DeleteFunc(to, func(v string) bool { return slices.Contains(from, v) })
		if len(gone) > 0 && len(come) > 0 {
			c.From, c.To = strings.Join(gone, listed), strings.Join(come, listed)
			left = append(left, c)
		}
	}
	return left
}

func changedBetween(a, b Run, was, now Cell) []InputChange {
	from, seenThen := a.inputs(was)
	to, seenNow := b.inputs(now)
	if !seenThen || !seenNow {
		return nil
	}
	return changed(from, to)
}

// changed are the inputs that differ, by name. What was not observed of either
// did not change; a fix that is not there had nothing to do.
func changed(from, to Inputs) (all []InputChange) {
	both := maps.Clone(from)
	if both == nil {
		both = Inputs{}
	}
	maps.Copy(both, to)
	decided := from.decided() && to.decided()
	for _, name := range slices.Sorted(maps.Keys(both)) {
		was, then := from[name]
		is, now := to[name]
		if strings.HasPrefix(name, fixPrefix) && decided {
			was, is, then, now = cmp.Or(was, notApplicable), cmp.Or(is, notApplicable), was != undecided, is != undecided
		}
		if then && now && was != is {
			all = append(all, InputChange{Name: name, From: was, To: is})
		}
	}
	return all
}

// kind is how a cell differs; empty where it does not.
func kind(from, to *matrix.Judgement) Kind {
	switch {
	case from == nil && to.Verdict == matrix.Pass:
		return NewlyPassing
	case from == nil:
		return Added
	case from.Verdict == to.Verdict:
		return ""
	case to.Verdict == matrix.Unknown:
		return Lost
	case from.Verdict.AsExpected() && !to.Verdict.AsExpected():
		return Regressed
	case to.Verdict.AsExpected() && (from.Verdict == matrix.Fail || from.Verdict == matrix.Flaky || from.Verdict == matrix.XPass):
		return Fixed
	case to.Verdict == matrix.Pass:
		return NewlyPassing
	}
	return Changed
}
