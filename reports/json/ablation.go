package json

import (
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// Ablation is what the trials at one cell with fixes left out came to.
type Ablation struct {
	Cell string `json:"cell"`
	// Goal is outcomes or minimal.
	Goal matrix.Goal `json:"goal"`
	// Headline is the line that every report shows.
	Headline string `json:"headline"`
	// Finished: nothing is left to try. Answered: it says all that it was made for.
	Finished bool `json:"finished"`
	Answered bool `json:"answered"`
	// Cost is in runs of the whole cell, and CostLimit what that may be; 0 is no
	// limit.
	Cost      float64 `json:"cost"`
	CostLimit float64 `json:"costLimit,omitempty"`
	// Fixes has one for each that was asked about, where the goal is outcomes.
	Fixes []Finding `json:"fixes,omitempty"`
	// Minimum is there where the goal is minimal.
	Minimum *Minimum `json:"minimum,omitempty"`
	Trials  []Trial  `json:"trials"`
}

// Finding is what one fix is for in the cell.
type Finding struct {
	Fix     string           `json:"fix"`
	Outcome ablation.Outcome `json:"outcome"`
	// With are the others of which one has to stay, where the fix is redundant.
	With   []string     `json:"with,omitempty"`
	Phase  matrix.Phase `json:"phase,omitempty"`
	Reason string       `json:"reason"`
	// Signature, Log and Line are what was seen in the phase that failed.
	Signature string `json:"signature,omitempty"`
	Log       string `json:"log,omitempty"`
	Line      string `json:"line,omitempty"`
	// Against says what of the fix's own data does not agree with that.
	Against string `json:"against,omitempty"`
	// Skipped: the host has already what the fix wants, so nothing was run.
	Skipped bool `json:"skipped,omitempty"`
	// Runs are those in which it was left out by itself.
	Runs []string `json:"runs,omitempty"`
}

// Minimum is a set of fixes of which none can be spared, if Why is empty.
type Minimum struct {
	Kept    []string `json:"kept"`
	Dropped []string `json:"dropped"`
	Why     string   `json:"why,omitempty"`
}

// Trial is one run of the cell with fixes left out.
type Trial struct {
	Run     string         `json:"run"`
	Without []string       `json:"without"`
	Verdict matrix.Verdict `json:"verdict"`
	Phase   string         `json:"phase,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Seconds float64        `json:"seconds"`
}

func newAblation(v view.Ablation) Ablation {
	a := Ablation{Cell: v.Cell, Goal: v.Goal, Headline: v.Summary(), Finished: v.Finished, Answered: v.Answered, Cost: v.Cost, CostLimit: v.Limit, Trials: []Trial{}}
	for _, f := range v.Findings {
		a.Fixes = append(a.Fixes, Finding{Fix: f.Fix, Outcome: f.Outcome, With: f.With, Phase: f.Phase, Reason: f.Reason,
			Signature: f.Signature, Log: f.Log, Line: f.Line, Against: f.Against, Skipped: f.Skipped, Runs: f.Runs})
	}
	if v.Goal == matrix.GoalMinimal {
		a.Minimum = &Minimum{Kept: append([]string{}, v.Minimum.Kept...), Dropped: append([]string{}, v.Minimum.Dropped...), Why: v.Minimum.Why}
	}
	for _, t := range v.Trials {
		a.Trials = append(a.Trials, Trial{Run: t.Run, Without: append([]string{}, t.Without...), Verdict: t.Verdict, Phase: t.Phase, Reason: t.Reason, Seconds: t.Took.Seconds()})
	}
	return a
}
