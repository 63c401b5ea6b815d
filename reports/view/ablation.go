package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
)

// Ablation is what the trials at one cell with fixes left out came to.
type Ablation struct {
	Cell string
	Goal matrix.Goal
	// Finished: nothing is left to try.
	Finished bool
	// Answered: it says all that it was made for.
	Answered bool
	// InEffect is how many fixes the cell has in effect.
	InEffect int
	// Findings has one for each fix that was asked about, where the goal is
	// outcomes.
	Findings []ablation.Finding
	// Minimum is the other goal's.
	Minimum ablation.Minimum
	// Bare is what the cell came to without any fix that could be left out; empty
	// where that was not tried.
	Bare   string
	Trials []Trial
	// Took is the trials' sum, Cost the same in runs of the whole cell, Limit what
	// that may be; 0 is no limit.
	Took        time.Duration
	Cost, Limit float64
}

// Trial is one run of the cell with fixes left out.
type Trial struct {
	Run     string
	Without []string
	Verdict matrix.Verdict
	Phase   string
	Reason  string
	Took    time.Duration
}

func newAblation(a matrix.Ablation) Ablation {
	v := Ablation{Cell: Plain(string(a.Cell)), Goal: a.Goal, Cost: ablation.Cost(a), Answered: ablation.Answered(a)}
	asked, bare := 0, 0
	for _, f := range a.Fixes {
		if f.Skip == "" {
			bare++
		}
		if f.Skip == "" && f.Asked {
			asked++
		}
	}
	v.InEffect = bare
	for _, t := range a.Trials {
		one := Trial{Run: Plain(t.Run), Without: plainAll(t.Without), Verdict: t.Verdict, Phase: Plain(string(t.Phase)), Reason: Plain(t.Reason), Took: t.Took.Std()}
		v.Trials, v.Took = append(v.Trials, one), v.Took+one.Took
		if len(one.Without) == bare && bare > 1 {
			v.Bare = one.String()
		}
	}
	if a.Goal == matrix.GoalMinimal {
		v.Minimum = ablation.Minimal(a)
		v.Finished = v.Minimum.Done
		v.Minimum.Kept, v.Minimum.Dropped, v.Minimum.Why = plainAll(v.Minimum.Kept), plainAll(v.Minimum.Dropped), Plain(v.Minimum.Why)
		return v
	}
	v.Limit = ablation.Limit(asked)
	s := ablation.Outcomes(a)
	v.Finished = s.Done
	for _, f := range s.Findings {
		f.Fix, f.With, f.Phase, f.Signature = Plain(f.Fix), plainAll(f.With), matrix.Phase(Plain(string(f.Phase))), Plain(f.Signature)
		f.Log, f.Line, f.Reason, f.Against, f.Runs = Plain(f.Log), Plain(f.Line), Plain(f.Reason), Plain(f.Against), plainAll(f.Runs)
		v.Findings = append(v.Findings, f)
	}
	return v
}

// String is what the trial came to, in one line.
func (t Trial) String() string {
	line := t.Verdict.String()
	if t.Phase != "" {
		line += " in " + t.Phase
	}
	if t.Reason != "" {
		line += ": " + t.Reason
	}
	return line
}

// Summary is the ablation in one line: what was found, and what it cost.
func (a Ablation) Summary() string {
	cost := fmt.Sprintf("%d runs in %s", len(a.Trials), Short(a.Took))
	if a.Cost > 0 {
		cost += fmt.Sprintf(", as much as %.1f of the whole cell", a.Cost)
	}
	if a.Limit > 0 {
		cost += fmt.Sprintf(" (at most %.1f)", a.Limit)
	}
	if !a.Finished {
		cost += "; not finished"
	}
	if a.Goal == matrix.GoalMinimal {
		line := fmt.Sprintf("%d of %d fixes are enough", len(a.Minimum.Kept), a.InEffect)
		if a.Minimum.Why != "" {
			line += ", and are not known to be the fewest: " + a.Minimum.Why
		}
		return line + "; " + cost
	}
	counts := map[ablation.Outcome]int{}
	for _, f := range a.Findings {
		counts[f.Outcome]++
	}
	var parts []string
	for _, o := range ablation.All() {
		if counts[o] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", o, counts[o]))
		}
	}
	return fmt.Sprintf("%d fixes: %s; %s", len(a.Findings), strings.Join(parts, ", "), cost)
}

// Said is the outcome as tables show it: "redundant-with swap, ids".
func Said(f ablation.Finding) string {
	said := f.Outcome.String()
	if len(f.With) > 0 {
		said += " " + strings.Join(f.With, ", ")
	}
	return said
}

// OutcomesAt says of each fix that was asked about at a cell what it is there, as
// "swap: redundant-with ids".
func (r Run) OutcomesAt(cell string) (lines []string) {
	for _, a := range r.Ablations {
		if a.Goal != matrix.GoalOutcomes || a.Cell != cell {
			continue
		}
		for _, f := range a.Findings {
			lines = append(lines, f.Fix+": "+Said(f))
		}
	}
	return lines
}

// Outcomes is the table of fix by cell: the ablations that it has, and for each
// fix of any of them, in order, what it is in each; "" where nobody asked.
func (r Run) Outcomes() (of []Ablation, rows [][]string) {
	place := map[string]int{}
	for _, a := range r.Ablations {
		if a.Goal == matrix.GoalOutcomes {
			of = append(of, a)
		}
	}
	for column, a := range of {
		for _, f := range a.Findings {
			i, there := place[f.Fix]
			if !there {
				i = len(rows)
				place[f.Fix] = i
				rows = append(rows, append([]string{f.Fix}, make([]string, len(of))...))
			}
			rows[i][column+1] = Said(f)
		}
	}
	return of, rows
}
