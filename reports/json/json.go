// Package json shows a run as one JSON document of a stable, versioned shape,
// without logs.
package json

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// APIVersion is the version of the document. Fields may be added to it; none
// goes or changes its meaning.
const APIVersion = "lxcmatrix.dev/report/v1"

// Report is the document.
type Report struct {
	APIVersion    string    `json:"apiVersion"`
	Run           string    `json:"run"`
	Version       string    `json:"version"`
	Matrix        string    `json:"matrix"`
	Started       time.Time `json:"started,omitzero"`
	Ended         time.Time `json:"ended,omitzero"`
	Interrupted   string    `json:"interrupted,omitempty"`
	HarnessErrors []string  `json:"harnessErrors"`
	Summary       Summary   `json:"summary"`
	Cells         []Cell    `json:"cells"`
	// Ablations are those of the cells whose fixes were left out; the cells above
	// are then those with all their fixes.
	Ablations []Ablation `json:"ablations,omitempty"`
}

// Summary counts the cells.
type Summary struct {
	// Headline is the line that every report shows.
	Headline string `json:"headline"`
	Passed   int    `json:"passed"`
	Planned  int    `json:"planned"`
	// Verdicts has an entry for every verdict, also those with no cell.
	Verdicts        map[matrix.Verdict]int `json:"verdicts"`
	OptionalBlocked int                    `json:"optionalBlocked"`
	// SuspectHost is how many cells ran on a suspect host.
	SuspectHost int `json:"suspectHost"`
	// ExitCode is the run's, optional cells not counted.
	ExitCode int `json:"exitCode"`
}

// Cell is one planned cell; what was observed is of its last attempt.
type Cell struct {
	ID       string `json:"id"`
	Axes     []Axis `json:"axes"`
	Optional bool   `json:"optional"`
	// Gate rules the cell out, if set; Defied says that it ran all the same.
	Gate    string         `json:"gate,omitempty"`
	Defied  bool           `json:"defied,omitempty"`
	Verdict matrix.Verdict `json:"verdict"`
	// AsExpected is false where the verdict is a deviation or tells nothing.
	AsExpected bool               `json:"asExpected"`
	Phase      string             `json:"phase,omitempty"`
	Reason     string             `json:"reason,omitempty"`
	Attempts   int                `json:"attempts"`
	Seconds    float64            `json:"seconds"`
	NetSeconds float64            `json:"netSeconds"`
	Provenance string             `json:"provenance,omitempty"`
	Host       *matrix.HostFacts  `json:"host,omitempty"`
	HostLacks  []string           `json:"hostLacks,omitempty"`
	Nodes      []matrix.NodeFacts `json:"nodes,omitempty"`
	// With and Without are the fixes that somebody chose to apply and to leave
	// out.
	With    []string `json:"with,omitempty"`
	Without []string `json:"without,omitempty"`
	// Fixes holds fix IDs by state: applied, left-out, satisfied,
	// not-applicable.
	Fixes     map[string][]string `json:"fixes,omitempty"`
	Phases    []Phase             `json:"phases"`
	Diagnoses []matrix.Diagnosis  `json:"diagnoses,omitempty"`
	Kept      string              `json:"kept,omitempty"`
	// HostSuspect: an earlier cell of the run had left the host changed; which
	// and how is in HostHygiene.
	HostSuspect bool            `json:"hostSuspect,omitempty"`
	HostHygiene *matrix.Hygiene `json:"hostHygiene,omitempty"`
}

// Axis is a cell's value on one axis; variants share the name variant.
type Axis struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Phase is one phase; a phase that did not run is unknown.
type Phase struct {
	Phase   string         `json:"phase"`
	Ran     bool           `json:"ran"`
	Verdict matrix.Verdict `json:"verdict"`
	Reason  string         `json:"reason,omitempty"`
	Seconds float64        `json:"seconds"`
	// WaitedSeconds of Seconds were spent in stability windows on purpose.
	WaitedSeconds float64           `json:"waitedSeconds"`
	Evidence      []matrix.Evidence `json:"evidence,omitempty"`
	// Traffic is what clients saw through services, until the phase ended.
	Traffic []matrix.Traffic `json:"traffic,omitempty"`
	// Recoveries are how the cluster came back from a restart, each time, and
	// Recovery their distributions where there are several.
	Recoveries []matrix.Recovery `json:"recoveries,omitempty"`
	Recovery   []matrix.Figure   `json:"recovery,omitempty"`
}

// Render writes a run. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(New(run)); err != nil {
		return fmt.Errorf("write JSON of run %s: %w", run.ID, err)
	}
	return nil
}

// New is the document of a run.
func New(run matrix.Run) Report {
	v := view.New(run)
	r := Report{APIVersion: APIVersion, Run: v.ID, Version: v.Version, Matrix: v.Matrix, Started: v.Started, Ended: v.Ended,
		Interrupted: v.Interrupted, HarnessErrors: append([]string{}, v.HarnessErrors...), Cells: []Cell{},
		Summary: Summary{Headline: v.Summary(), Passed: v.Passed, Planned: v.Planned, Verdicts: map[matrix.Verdict]int{},
			OptionalBlocked: v.OptionalBlocked, SuspectHost: v.Suspect, ExitCode: v.ExitCode}}
	for _, c := range v.Counts {
		r.Summary.Verdicts[c.Verdict] = c.Cells
	}
	for _, c := range v.Cells {
		cell := Cell{ID: c.ID, Optional: c.Optional, Gate: c.Gate, Defied: c.Defied, Verdict: c.Verdict, AsExpected: c.Verdict.AsExpected(), Phase: c.Phase, Reason: c.Reason,
			Attempts: c.Attempts, Seconds: c.Took.Seconds(), NetSeconds: (c.Took - c.Waited).Seconds(), Provenance: c.Provenance,
			With: c.With, Without: c.Without, HostLacks: c.Lacks, Nodes: c.Nodes, Diagnoses: c.Diagnoses, Kept: c.Kept,
			HostSuspect: c.Suspect(), HostHygiene: c.Hygiene}
		for _, a := range c.Axes {
			cell.Axes = append(cell.Axes, Axis(a))
		}
		if c.Observed {
			cell.Host = &c.Host
		}
		for i := range cell.Nodes {
			// An empty list, never null.
			cell.Nodes[i].BootIDs = append([]string{}, cell.Nodes[i].BootIDs...)
		}
		for _, f := range c.Fixes {
			if cell.Fixes == nil {
				cell.Fixes = map[string][]string{}
			}
			cell.Fixes[f.State] = f.Fixes
		}
		for _, p := range c.Phases {
			phase := Phase{Phase: p.Name, Ran: p.Ran, Verdict: p.Verdict, Reason: p.Reason,
				Seconds: p.Took.Seconds(), WaitedSeconds: p.Waited.Seconds(), Evidence: p.Evidence, Traffic: p.Traffic, Recoveries: p.Recoveries}
			if len(p.Recoveries) > 1 {
				phase.Recovery = p.Figures()
			}
			cell.Phases = append(cell.Phases, phase)
		}
		r.Cells = append(r.Cells, cell)
	}
	for _, a := range v.Ablations {
		r.Ablations = append(r.Ablations, newAblation(a))
	}
	return r
}
