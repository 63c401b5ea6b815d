// Package history says what is remembered of runs once they are over: of each
// cell its verdict, how long it took and what it was made of. It is little
// enough to be kept for every run and read for many at once. It is pure;
// package runfolder keeps it.
package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
)

// APIVersion is the version of a remembered run that this program reads and
// writes.
const APIVersion = "lxcmatrix.dev/history/v1"

// Run is what is remembered of one run.
type Run struct {
	APIVersion  string    `json:"apiVersion"`
	ID          string    `json:"id"`
	Version     string    `json:"version"`
	Matrix      string    `json:"matrix"`
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended,omitzero"`
	Interrupted string    `json:"interrupted,omitempty"`
	// ExitCode is ablation.ExitCode without strict.
	ExitCode int `json:"exitCode"`
	// Inputs are those of the whole run: this program, images, artifacts.
	Inputs Inputs `json:"inputs,omitempty"`
	// Sets are the different inputs that cells had; a cell names its own by place.
	Sets  []Inputs `json:"sets,omitempty"`
	Cells []Cell   `json:"cells"`
}

// listed stands between the values of an input that has several.
const listed = ", "

// Inputs are what something was made of, by name: "runc" is "1.3.2", "fix swap"
// is "applied".
type Inputs map[string]string

// How inputs tell of fixes; those that have nothing to do are left out.
const (
	fixPrefix     = "fix "
	notApplicable = "not-applicable"
	undecided     = "undecided"
)

// decided says whether anything was decided about fixes.
func (in Inputs) decided() bool {
	for name := range in {
		if strings.HasPrefix(name, fixPrefix) {
			return true
		}
	}
	return false
}

// Cell is what is remembered of a planned cell. What was observed is of its last
// attempt.
type Cell struct {
	ID matrix.CellID `json:"id"`
	// Chosen are the fixes that somebody chose, as "without swap": with others it
	// is another cell, whose past says nothing of this one.
	Chosen   []string `json:"chosen,omitempty"`
	Optional bool     `json:"optional,omitempty"`
	matrix.Judgement
	// Set is the place of the cell's inputs in the run's Sets, counted from 1; 0
	// where nothing was observed.
	Set int `json:"set,omitempty"`
	// Up is from the first phase to a healthy cluster, Recovery from a graceful
	// restart to that; without stability windows, 0 where it never came to that.
	Up       matrix.Duration `json:"up,omitempty"`
	Recovery matrix.Duration `json:"recovery,omitempty"`
}

// Of is what is to be remembered of a run, in the plan's order.
func Of(run matrix.Run) Run {
	r := Run{APIVersion: APIVersion, ID: run.ID, Version: run.Version, Matrix: run.Plan.Matrix, Started: run.Started, Ended: run.Ended,
		Interrupted: run.Interrupted, ExitCode: ablation.ExitCode(run, false), Inputs: inputsOf(run), Cells: make([]Cell, 0, len(run.Results))}
	places := map[string]int{}
	for _, result := range run.Results {
		c := Cell{ID: result.Cell.ID, Optional: result.Cell.Optional, Judgement: result.Judgement, Chosen: Chosen(result.Cell)}
		if a, ok := result.Last(); ok {
			c.Up = net(a, matrix.PhaseCreate, matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseBaseline)
			c.Recovery = net(a, matrix.PhaseRestart, matrix.PhaseRecover)
			if a.Host.Kernel != "" {
				set := inputsOfCell(result.Cell, a)
				key := set.key()
				if places[key] == 0 {
					r.Sets = append(r.Sets, set)
					places[key] = len(r.Sets)
				}
				c.Set = places[key]
			}
		}
		r.Cells = append(r.Cells, c)
	}
	return r
}

// Chosen are the fixes of a cell that somebody chose, as "with ID" and "without
// ID".
func Chosen(c matrix.Cell) (chosen []string) {
	for _, id := range c.With {
		chosen = append(chosen, "with "+id)
	}
	for _, id := range c.Without {
		chosen = append(chosen, "without "+id)
	}
	return chosen
}

// inputs are those of a cell of the run; ok is false where none were observed.
func (r Run) inputs(c Cell) (set Inputs, ok bool) {
	if c.Set < 1 || c.Set > len(r.Sets) {
		return nil, false
	}
	return r.Sets[c.Set-1], true
}

// net is what phases took together without stability windows; 0 unless all of
// them passed.
func net(a matrix.Attempt, phases ...matrix.Phase) (sum matrix.Duration) {
	for _, p := range phases {
		r, ran := a.Phase(p)
		if !ran || matrix.JudgePhase(r).Verdict != matrix.Pass {
			return 0
		}
		sum += r.Duration - r.Waited
	}
	return sum
}

func inputsOf(run matrix.Run) Inputs {
	in := Inputs{"lxcmatrix": run.Version}
	for _, i := range run.Plan.Inputs {
		digest := i.Digest
		if len(digest) > 12 {
			digest = digest[:12]
		}
		name, value := i.Kind+" "+i.Name, strings.TrimSpace(i.Version+" "+digest)
		if value == "" {
			continue
		}
		// Shards may have made their own of one name.
		if before := in[name]; before != "" && before != value {
			value = before + listed + value
		}
		in[name] = value
	}
	t, node := run.Plan.Timeouts, run.Plan.Budget.Node
	for name, d := range map[string]matrix.Duration{"create": t.Create, "fix": t.Fix, "install": t.Install, "restart": t.Restart, "recover": t.Recover,
		"collect": t.Collect, "destroy": t.Destroy, "stability": t.Stability} {
		in["timeout "+name] = d.String()
	}
	in["node memory"], in["node CPUs"], in["node processes"] = fmt.Sprint(node.MemoryBytes), fmt.Sprint(node.CPUs), fmt.Sprint(node.Processes)
	return in
}

func inputsOfCell(c matrix.Cell, a matrix.Attempt) Inputs {
	in := Inputs{"kernel": a.Host.Kernel, "cgroup": a.Host.Cgroup, "Incus": a.Host.Incus, "LXC": a.Host.LXC, "storage": a.Host.Storage,
		"CPU level": a.Host.CPULevel, "provenance": a.Provenance, c.Distro.Name: c.Distro.Version, "restarts": restarts(c), "gates": "kept"}
	if c.DefyGates {
		in["gates"] = "defied"
	}
	if a.Host.AppArmor != nil {
		in["AppArmor"] = map[bool]string{false: "off", true: "on"}[*a.Host.AppArmor]
	}
	nodes := map[string][]string{}
	for _, n := range a.Nodes {
		for name, value := range map[string]string{"systemd": n.Systemd, "containerd": n.Containerd, "runc": n.Runc,
			"Kubernetes": n.Kubernetes, "OS": strings.TrimSpace(n.OSID + " " + n.OSVersion)} {
			nodes[name] = append(nodes[name], value)
		}
	}
	for name, values := range nodes {
		in[name] = strings.Join(slices.Compact(slices.Sorted(slices.Values(values))), ", ")
	}
	for _, f := range a.Fixes {
		if f.State == notApplicable {
			continue
		}
		name := fixPrefix + f.ID
		if f.Role != "" {
			name += " (" + string(f.Role) + "s)"
		}
		in[name] = f.State
	}
	maps.DeleteFunc(in, func(_, value string) bool { return value == "" })
	return in
}

// restarts are those that a cell has, in order.
func restarts(c matrix.Cell) string {
	var names []string
	for _, r := range c.RestartsOf() {
		name := string(r.Restart)
		if r.Times > 1 {
			name += fmt.Sprintf(" %d times", r.Times)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// key is the same for equal inputs alone.
func (in Inputs) key() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(in)) {
		b.WriteString(name + "\x00" + in[name] + "\x00")
	}
	return b.String()
}
