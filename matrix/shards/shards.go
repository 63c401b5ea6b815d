// Package shards joins the shards of one run: runs of parts of one plan, made on
// several machines or at several times. It is pure; package runfolder keeps what
// comes of it.
package shards

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Error is that runs cannot be joined: they are not shards of one plan, or say
// different things of one cell.
type Error struct{ reason string }

// Error is the reason.
func (e *Error) Error() string { return "join shards: " + e.reason }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Merged is what shards are together.
type Merged struct {
	// Run is of the whole plan, without an ID. It has a result for each cell: one
	// that no shard came to is unknown, and one that no shard has is told as an
	// error of the harness, too.
	Run matrix.Run
	// From says of each cell with a result which of the shards it is from, by
	// its place.
	From map[matrix.CellID]int
	// Suffix is made of the shards' IDs, as that of a run's: the same shards have
	// the same one, in whatever order.
	Suffix string
}

// Merge joins runs, in whatever order, that are shards of one plan. A cell that
// two of them have, as where a shard was run again, is that of the later one if both
// came to the same, and that with a result where the other has none. Where they
// are not of one plan, or disagree, it is an *Error.
func Merge(runs []matrix.Run) (Merged, error) {
	if len(runs) == 0 {
		return Merged{}, refuse("there is none")
	}
	// The order in which they started, so that a later one comes after.
	order := make([]int, len(runs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(runs[a].ID, runs[b].ID) })
	first := runs[order[0]]
	if err := agree(runs); err != nil {
		return Merged{}, err
	}
	m := Merged{From: map[matrix.CellID]int{}, Run: matrix.Run{Version: first.Version, Plan: first.Plan.Whole(), Started: first.Started}}
	m.Run.Plan.Cells, m.Run.Plan.Inputs = slices.Clone(m.Run.Plan.Cells), nil
	results, planned := map[matrix.CellID]matrix.Result{}, map[matrix.CellID]matrix.Cell{}
	ids := sha256.New()
	for _, place := range order {
		r := runs[place]
		if err := addInputs(&m.Run.Plan, r); err != nil {
			return Merged{}, err
		}
		for _, c := range r.Plan.Cells {
			planned[c.ID] = c
		}
		for _, result := range r.Results {
			id := result.Cell.ID
			before, twice := results[id]
			switch {
			case twice && result.Judgement.Verdict == matrix.Unknown:
				continue
			case twice && before.Judgement.Verdict != matrix.Unknown && (before.Judgement.Verdict != result.Judgement.Verdict || before.Judgement.Phase != result.Judgement.Phase):
				return Merged{}, refuse("runs %s and %s disagree on cell %s: %s and %s; name the one that counts", runs[m.From[id]].ID, r.ID, id, came(before.Judgement), came(result.Judgement))
			}
			results[id], m.From[id] = result, place
		}
		join(&m.Run, r)
		_, _ = ids.Write([]byte(r.ID + "\n")) // a hash takes everything
	}
	var missing []string
	for i, c := range m.Run.Plan.Cells {
		if own, there := planned[c.ID]; there {
			c = own
		} else {
			// What one machine cannot have says nothing of another.
			c.Unavailable = ""
			missing = append(missing, string(c.ID))
		}
		m.Run.Plan.Cells[i] = c
		result, there := results[c.ID]
		if !there {
			result = matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c, Judgement: matrix.Judge(c, nil)}
		}
		m.Run.Results = append(m.Run.Results, result)
	}
	if len(missing) > 0 {
		m.Run.HarnessErrors = append(m.Run.HarnessErrors, fmt.Sprintf("%d of %d planned cells are in none of the %d shards: %s",
			len(missing), len(m.Run.Plan.Cells), len(runs), strings.Join(missing, ", ")))
	}
	m.Suffix = strings.ToLower(base32.StdEncoding.EncodeToString(ids.Sum(nil))[:6])
	return m, nil
}

// came is what a cell came to, in a few words.
func came(j matrix.Judgement) string {
	if j.Phase == "" {
		return j.Verdict.String()
	}
	return fmt.Sprintf("%s in %s", j.Verdict, j.Phase)
}

// agree refuses runs that are not shards of one plan, made by one program.
func agree(runs []matrix.Run) error {
	first := runs[0]
	seen := map[string]bool{}
	for _, r := range runs {
		if r.Plan.Shard == nil {
			return refuse("run %s is no shard; one is made by lxcmatrix run --shard", r.ID)
		}
		if err := r.Plan.CheckShard(); err != nil {
			return refuse("run %s: %v", r.ID, err)
		}
		switch {
		case seen[r.ID]:
			return refuse("run %s is there twice", r.ID)
		case r.Plan.Digest() != first.Plan.Digest():
			return refuse("runs %s and %s are of different plans: %s", first.ID, r.ID, differ(first.Plan, r.Plan))
		case r.Version != first.Version:
			return refuse("runs %s and %s were made by different versions of lxcmatrix: %s and %s", first.ID, r.ID, first.Version, r.Version)
		case len(r.Ablations) > 0:
			return refuse("run %s left fixes out, and such a run has no shards", r.ID)
		}
		seen[r.ID] = true
	}
	return nil
}

// differ names the first thing in which two plans differ.
func differ(a, b matrix.Plan) string {
	a, b = a.Whole(), b.Whole()
	if a.Matrix != b.Matrix {
		return fmt.Sprintf("of matrix %s and of %s", a.Matrix, b.Matrix)
	}
	others := map[matrix.CellID]matrix.Cell{}
	for _, c := range b.Cells {
		others[c.ID] = c
	}
	for _, c := range a.Cells {
		other, there := others[c.ID]
		switch {
		case !there:
			return fmt.Sprintf("only the first has cell %s", c.ID)
		case c.Distro != other.Distro:
			return fmt.Sprintf("cell %s is of %s %s and of %s", c.ID, c.Distro.Name, c.Distro.Version, other.Distro.Version)
		}
		delete(others, c.ID)
	}
	for _, c := range b.Cells {
		if _, only := others[c.ID]; only {
			return fmt.Sprintf("only the second has cell %s", c.ID)
		}
	}
	return fmt.Sprintf("their digests are %.12s and %.12s", a.Digest(), b.Digest())
}

// addInputs adds what the shard was made of. The same release with other bytes is
// another plan; what machines make for themselves may differ, and is all told.
func addInputs(whole *matrix.Plan, r matrix.Run) error {
	for _, in := range r.Plan.Inputs {
		same := func(other matrix.Input) bool {
			return other.Kind == in.Kind && other.Name == in.Name && other.Version == in.Version
		}
		i := slices.IndexFunc(whole.Inputs, func(other matrix.Input) bool {
			return same(other) && (other.Digest == in.Digest || other.Digest == "" || in.Digest == "")
		})
		if i >= 0 {
			if whole.Inputs[i].Digest == "" {
				whole.Inputs[i] = in
			}
			continue
		}
		const release = "release"
		i = slices.IndexFunc(whole.Inputs, func(other matrix.Input) bool { return same(other) && other.Provenance == release })
		if i >= 0 && in.Provenance == release {
			return refuse("runs are of different bytes of %s %s %s: run %s has %.12s, another %.12s", in.Kind, in.Name, in.Version, r.ID, in.Digest, whole.Inputs[i].Digest)
		}
		whole.Inputs = append(whole.Inputs, in)
	}
	return nil
}

// join adds what a shard says of itself to the whole run.
func join(whole *matrix.Run, r matrix.Run) {
	name := fmt.Sprintf("shard %s (run %s)", r.Plan.Shard.Part, r.ID)
	for _, e := range r.HarnessErrors {
		whole.HarnessErrors = append(whole.HarnessErrors, name+": "+e)
	}
	if r.Ended.IsZero() {
		whole.HarnessErrors = append(whole.HarnessErrors, name+" did not run to its end")
	}
	if r.Ended.After(whole.Ended) {
		whole.Ended = r.Ended
	}
	if whole.Interrupted == "" {
		whole.Interrupted = r.Interrupted
	}
}
