// Package view is what every report shows of a run: one row for each planned
// cell, the counts, and the environments, with all text made safe to print.
// Formats take it from here, so that they cannot disagree.
package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
)

// Run is a run as reports show it.
type Run struct {
	ID, Version, Matrix string
	Started, Ended      time.Time
	Interrupted         string
	HarnessErrors       []string
	// Planned is the denominator, Passed the cells that pass.
	Planned, Passed int
	// Shard, if set, says that the cells are a part of a plan whose others ran
	// elsewhere.
	Shard *matrix.Shard
	// Counts has one entry for each verdict, in matrix.Verdicts' order.
	Counts []Count
	// OptionalBlocked is how many of the blocked cells are optional.
	OptionalBlocked int
	// Suspect is how many cells ran on a suspect host.
	Suspect int
	// Chosen is how many cells have fixes that somebody chose.
	Chosen int
	// ExitCode is ablation.ExitCode without strict.
	ExitCode int
	// Phases are those that any of the cells has, in order.
	Phases []matrix.Phase
	Cells  []Cell
	// Ablations are those of the cells whose fixes were left out.
	Ablations []Ablation
	// Inputs are images and artifacts, as planned.
	Inputs []matrix.Input
}

// Count is how many cells have a verdict.
type Count struct {
	Verdict matrix.Verdict
	Cells   int
}

// Cell is one planned cell as reports show it. What was observed is of its
// last attempt.
type Cell struct {
	ID       string
	Axes     []Axis
	Optional bool
	// Gate is the ID of the gate that rules the cell out, if one does; Defied
	// says that it ran all the same.
	Gate    string
	Defied  bool
	Verdict matrix.Verdict
	// Phase is where the verdict was decided, where a phase decided it.
	Phase    string
	Reason   string
	Attempts int
	// Tries are all attempts, each judged by itself.
	Tries []Try
	// Finding is what the gate found, if one rules the cell out.
	Finding *matrix.GateFinding
	// Phases has one entry for each of the run's.
	Phases []Phase
	// Took is the sum of the phases; Waited the part of it spent in stability
	// windows on purpose.
	Took, Waited time.Duration
	// Observed is false where nothing was observed of host and nodes.
	Observed bool
	// HostName is the host as declared, Host what was observed on it.
	HostName string
	Host     matrix.HostFacts
	// Lacks names what the host lacks of what Kubernetes hosts usually have.
	Lacks []string
	Nodes []matrix.NodeFacts
	Fixes []FixState
	// Decided are the fixes one by one, with what decided them.
	Decided   []matrix.AppliedFix
	With      []string
	Without   []string
	Diagnoses []matrix.Diagnosis
	Kept      string
	// Repairs lists what a watcher mended.
	Repairs []string
	// Hygiene is how the host was found and left; nil where nothing is known.
	Hygiene *matrix.Hygiene
	// Provenance is release or built; empty where it is not known.
	Provenance string
}

// Axis is a cell's value on one axis.
type Axis struct{ Name, Value string }

// FixState lists the fixes in one state.
type FixState struct {
	State string
	Fixes []string
}

// Phase is one phase of a cell's last attempt.
type Phase struct {
	Name string
	// Ran is false where the phase has no result.
	Ran bool
	// Started is when it first did, zero where it did not run.
	Started      time.Time
	Verdict      matrix.Verdict
	Reason       string
	Took, Waited time.Duration
	Evidence     []matrix.Evidence
	// Traffic is what clients saw until the phase ended.
	Traffic []matrix.Traffic
	// Recoveries are how the cluster came back each time.
	Recoveries []matrix.Recovery
}

// Try is one attempt at a cell, judged by itself.
type Try struct {
	matrix.Judgement
	Started time.Time
	Took    time.Duration
}

// New is the view of a run. A planned cell without a result is shown as
// matrix.Judge judges it.
func New(run matrix.Run) Run {
	v := Run{ID: Plain(run.ID), Version: Plain(run.Version), Matrix: Plain(run.Plan.Matrix), Started: run.Started, Ended: run.Ended,
		Interrupted: Plain(run.Interrupted), HarnessErrors: plainAll(run.HarnessErrors), Planned: len(run.Plan.Cells), Shard: run.Plan.Shard, ExitCode: ablation.ExitCode(run, false)}
	results := map[matrix.CellID]matrix.Result{}
	for _, r := range run.Results {
		results[r.Cell.ID] = r
	}
	v.Phases = phasesOf(run.Plan.Cells)
	counts := map[matrix.Verdict]int{}
	for _, cell := range run.Plan.Cells {
		r, ok := results[cell.ID]
		if !ok {
			r = matrix.Result{Cell: cell, Judgement: matrix.Judge(cell, nil)}
		}
		c := newCell(r, v.Phases)
		v.Cells = append(v.Cells, c)
		counts[c.Verdict]++
		if c.Verdict == matrix.Blocked && c.Optional {
			v.OptionalBlocked++
		}
		if c.Suspect() {
			v.Suspect++
		}
		if c.Chosen() != "" {
			v.Chosen++
		}
	}
	for _, a := range run.Ablations {
		v.Ablations = append(v.Ablations, newAblation(a))
	}
	for _, i := range run.Plan.Inputs {
		i.Kind, i.Name, i.Version, i.Digest, i.Source, i.Provenance = Plain(i.Kind), Plain(i.Name), Plain(i.Version), Plain(i.Digest), Plain(i.Source), Plain(i.Provenance)
		v.Inputs = append(v.Inputs, i)
	}
	v.Passed = counts[matrix.Pass]
	for _, verdict := range matrix.Verdicts() {
		v.Counts = append(v.Counts, Count{Verdict: verdict, Cells: counts[verdict]})
	}
	return v
}

// phasesOf are the phases that any of the cells has; without cells, those that a
// cell has if nothing else is asked for.
func phasesOf(cells []matrix.Cell) []matrix.Phase {
	has := map[matrix.Phase]bool{}
	for _, c := range append(cells[:len(cells):len(cells)], matrix.Cell{}) {
		for _, p := range c.Phases() {
			has[p] = true
		}
	}
	return slices.DeleteFunc(matrix.Phases(), func(p matrix.Phase) bool { return !has[p] })
}

// Summary is the headline, always passed / planned, with a count of every
// verdict: "1 of 2 cells pass: pass 1, fail 0, blocked 1 (1 optional), ...",
// and of cells on suspect hosts, where there are any. Of a shard it says so.
func (r Run) Summary() string {
	var counts []string
	for _, c := range r.Counts {
		s := fmt.Sprintf("%s %d", c.Verdict, c.Cells)
		if c.Verdict == matrix.Blocked && r.OptionalBlocked > 0 {
			s += fmt.Sprintf(" (%d optional)", r.OptionalBlocked)
		}
		counts = append(counts, s)
	}
	line := fmt.Sprintf("%d of %d cells pass: %s", r.Passed, r.Planned, strings.Join(counts, ", "))
	if r.Shard != nil {
		line += fmt.Sprintf("; shard %s of a plan of %d cells", Plain(r.Shard.Part), len(r.Shard.Cells))
	}
	if r.Suspect > 0 {
		line += fmt.Sprintf("; on a suspect host %d", r.Suspect)
	}
	if r.Interrupted != "" {
		line += "; interrupted by " + r.Interrupted
	}
	if n := len(r.HarnessErrors); n > 0 {
		line += fmt.Sprintf("; harness errors %d", n)
	}
	return line
}

func newCell(r matrix.Result, phases []matrix.Phase) Cell {
	j := r.Judgement
	c := Cell{ID: Plain(string(r.Cell.ID)), Optional: r.Cell.Optional, Verdict: j.Verdict, Phase: Plain(string(j.Phase)), Reason: Plain(j.Reason),
		Attempts: matrix.Tries(r.Cell, r.Attempts), With: plainAll(r.Cell.With), Without: plainAll(r.Cell.Without), Axes: axes(r.Cell), Defied: r.Cell.Defied()}
	if g := r.Cell.Gate; g != nil {
		c.Gate = Plain(g.Gate)
		found := *g
		found.Gate, found.Reason, found.Source, found.Rule = c.Gate, Plain(g.Reason), Plain(g.Source), Plain(g.Rule)
		found.Facts = nil
		for _, f := range g.Facts {
			found.Facts = append(found.Facts, matrix.Fact{Name: Plain(f.Name), Value: Plain(f.Value), From: Plain(f.From)})
		}
		c.Finding = &found
	}
	for _, a := range r.Attempts {
		j := matrix.Judge(r.Cell, []matrix.Attempt{a})
		j.Phase, j.Reason = matrix.Phase(Plain(string(j.Phase))), Plain(j.Reason)
		t := Try{Judgement: j, Started: a.Started}
		if a.Ended.After(a.Started) {
			t.Took = a.Ended.Sub(a.Started)
		}
		c.Tries = append(c.Tries, t)
	}
	a, _ := r.Last()
	for _, name := range phases {
		p := Phase{Name: string(name)}
		for _, pr := range a.Phases {
			if pr.Phase != name {
				continue
			}
			pj := matrix.JudgePhase(pr)
			if !p.Ran || p.Verdict == matrix.Pass {
				p.Verdict, p.Reason = pj.Verdict, Plain(pj.Reason)
			}
			if !p.Ran {
				p.Started = pr.Started
			}
			p.Ran = true
			p.Took += pr.Duration.Std()
			p.Waited += pr.Waited.Std()
			if pr.Recovery != nil {
				p.Recoveries = append(p.Recoveries, plainRecovery(*pr.Recovery))
			}
			if p.Evidence == nil {
				p.Evidence = plainEvidence(pr.Evidence)
			} else {
				p.Evidence = append(p.Evidence, plainEvidence(pr.Evidence)...)
			}
			for _, t := range pr.Traffic {
				t.Through = Plain(t.Through)
				p.Traffic = append(p.Traffic, t)
			}
		}
		c.Took += p.Took
		c.Waited += p.Waited
		c.Phases = append(c.Phases, p)
	}
	c.Observed = a.Host.Kernel != ""
	c.HostName, c.Host = Plain(r.Cell.Host.Name), plainHost(a.Host)
	if c.Observed {
		c.Lacks = lacks(c.Host)
	}
	for _, n := range a.Nodes {
		n.Node, n.Kernel, n.Cgroup, n.OSID, n.OSVersion = Plain(n.Node), Plain(n.Kernel), Plain(n.Cgroup), Plain(n.OSID), Plain(n.OSVersion)
		n.Systemd, n.Containerd, n.Runc, n.Kubernetes = Plain(n.Systemd), Plain(n.Containerd), Plain(n.Runc), Plain(n.Kubernetes)
		n.BootIDs, n.ReadOnlySysctls = plainAll(n.BootIDs), plainAll(n.ReadOnlySysctls)
		c.Nodes = append(c.Nodes, n)
	}
	for _, f := range a.Fixes {
		i := slices.IndexFunc(c.Fixes, func(s FixState) bool { return s.State == Plain(f.State) })
		if i < 0 {
			i = len(c.Fixes)
			c.Fixes = append(c.Fixes, FixState{State: Plain(f.State)})
		}
		id := f.ID
		if f.Role != "" {
			id = fmt.Sprintf("%s (%ss)", f.ID, f.Role)
		}
		c.Fixes[i].Fixes = append(c.Fixes[i].Fixes, Plain(id))
		f.ID, f.State, f.Why, f.Role = Plain(f.ID), Plain(f.State), Plain(f.Why), matrix.Role(Plain(string(f.Role)))
		c.Decided = append(c.Decided, f)
	}
	for _, d := range a.Diagnoses {
		c.Diagnoses = append(c.Diagnoses, matrix.Diagnosis{Signature: Plain(d.Signature), Title: Plain(d.Title), Cause: Plain(d.Cause), Cure: Plain(d.Cure),
			CausedBy: Plain(d.CausedBy), Log: Plain(d.Log), Line: Plain(d.Line), At: d.At, Issue: Plain(d.Issue)})
	}
	c.Kept, c.Provenance, c.Hygiene, c.Repairs = Plain(a.Kept), Plain(a.Provenance), plainHygiene(a.Hygiene), plainAll(a.Repairs)
	return c
}

// Axis is the cell's value on an axis by its name, variants with slashes between
// them; empty where it has none.
func (c Cell) Axis(name string) string {
	var values []string
	for _, a := range c.Axes {
		if a.Name == name {
			values = append(values, a.Value)
		}
	}
	return strings.Join(values, "/")
}

// Where is the phase in which the verdict was decided, as " in PHASE"; empty
// where no phase decided it.
func (c Cell) Where() string {
	if c.Phase == "" {
		return ""
	}
	return " in " + c.Phase
}

// Marks are what else is said beside the verdict, as " (optional)".
func (c Cell) Marks() string {
	marks := ""
	if c.Optional {
		marks += " (optional)"
	}
	if c.Defied {
		marks += fmt.Sprintf(" (defied gate %s)", c.Gate)
	}
	return marks + c.Chosen()
}

// ChosenMark follows the verdict of a cell for which somebody chose fixes, and
// ChosenLegend explains it.
const (
	ChosenMark   = "‡"
	ChosenLegend = ChosenMark + " with or without fixes that somebody chose, not what lxcmatrix applies by itself"
)

// Chosen names the fixes that somebody chose to apply or to leave out, as
// " (with ID) (without ID, ID)"; empty where it is lxcmatrix' own choice.
func (c Cell) Chosen() string {
	chosen := ""
	if len(c.With) > 0 {
		chosen = fmt.Sprintf(" (with %s)", strings.Join(c.With, ", "))
	}
	if len(c.Without) > 0 {
		chosen += fmt.Sprintf(" (without %s)", strings.Join(c.Without, ", "))
	}
	return chosen
}

// Remedy says what a diagnosis asks for; empty where it names neither a cure nor
// a fix of the cell's that causes it.
func (c Cell) Remedy(d matrix.Diagnosis) string {
	if d.CausedBy != "" && slices.Contains(c.With, d.CausedBy) {
		return "leave " + d.CausedBy + " out: it was asked for, and causes this"
	}
	if d.Cure == "" {
		return ""
	}
	for _, s := range c.Fixes {
		// Behind a name the role may stand that it holds for.
		if slices.ContainsFunc(s.Fixes, func(f string) bool { name, _, _ := strings.Cut(f, " "); return name == d.Cure }) {
			return fmt.Sprintf("fix %s, here %s", d.Cure, s.State)
		}
	}
	return "fix " + d.Cure
}

// HostLine is the cell's host in one line, as observed.
func (c Cell) HostLine() string {
	h := c.Host
	line := fmt.Sprintf("host %s: kernel %s, cgroup %s, Incus %s, LXC %s, storage %s, %d CPUs, %s",
		c.HostName, h.Kernel, h.Cgroup, h.Incus, h.LXC, h.Storage, h.CPUs, MemoryGiB(h.MemoryBytes))
	if len(c.Lacks) > 0 {
		line += "; lacks " + strings.Join(c.Lacks, ", ")
	}
	return line
}

// Software is what a node runs, in one line, each version as observed.
func Software(n matrix.NodeFacts) string {
	var parts []string
	add := func(name, version string) {
		if version != "" {
			parts = append(parts, name+" "+version)
		}
	}
	add(n.OSID, n.OSVersion)
	add("kernel", n.Kernel)
	add("cgroup", n.Cgroup)
	add("systemd", n.Systemd)
	add("containerd", n.Containerd)
	add("runc", n.Runc)
	add("Kubernetes", n.Kubernetes)
	add("read-only sysctls", strings.Join(n.ReadOnlySysctls, " "))
	return strings.Join(parts, ", ")
}

func axes(c matrix.Cell) []Axis {
	out := []Axis{{"distro", c.Distro.String()}, {"os", c.OS.Written()}, {"topology", c.Topology.String()}, {"host", c.Host.Name}}
	for _, v := range c.Variants {
		out = append(out, Axis{"variant", v})
	}
	for i := range out {
		out[i].Value = Plain(out[i].Value)
	}
	return out
}

// plainEvidence is evidence that is safe to show; most is as it stands, and is
// shared then: of large runs it is the most by far.
func plainEvidence(all []matrix.Evidence) []matrix.Evidence {
	if !slices.ContainsFunc(all, func(e matrix.Evidence) bool {
		return !isPlain(e.Check) || !isPlain(e.Node) || !isPlain(e.Saw) || !isPlain(e.Want)
	}) {
		return slices.Clip(all)
	}
	all = slices.Clone(all)
	for i := range all {
		e := &all[i]
		e.Check, e.Node, e.Saw, e.Want = Plain(e.Check), Plain(e.Node), Plain(e.Saw), Plain(e.Want)
	}
	return all
}

func plainHost(h matrix.HostFacts) matrix.HostFacts {
	h.Kernel, h.Cgroup, h.Incus, h.LXC, h.Storage = Plain(h.Kernel), Plain(h.Cgroup), Plain(h.Incus), Plain(h.LXC), Plain(h.Storage)
	h.Controllers, h.Capabilities = plainAll(h.Controllers), plainAll(h.Capabilities)
	sysctls := map[string]string{}
	for k, v := range h.Sysctls {
		sysctls[Plain(k)] = Plain(v)
	}
	h.Sysctls = sysctls
	return h
}
