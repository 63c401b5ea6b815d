package runfolder

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// How much of the past is looked at: older runs say little of today's machine,
// and reading them all would take longer with every run.
const (
	historyRuns   = 20
	historyValues = 5
)

// History is how long things took in earlier runs: the medians of the last few
// times.
type History struct {
	// Cells holds the wall time of attempts that passed, from their first phase
	// to their end; getting images and artifacts is not in it.
	Cells map[matrix.CellID]time.Duration
	// Opening and Closing hold those of hosts, by name.
	Opening, Closing map[string]time.Duration
}

// ReadHistory reads the youngest runs under root. What cannot be read, or
// believed, tells nothing and is no error: no root has no history.
func ReadHistory(root string) History {
	cells := map[matrix.CellID][]time.Duration{}
	opening, closing := map[string][]time.Duration{}, map[string][]time.Duration{}
	for _, dir := range youngest(root, historyRuns, "") {
		f, err := Open(dir)
		if err != nil {
			continue
		}
		for _, c := range f.plan.Cells {
			if len(cells[c.ID]) == historyValues {
				continue
			}
			r, err := f.Result(c.ID)
			if err != nil || matrix.Judge(r.Cell, r.Attempts).Verdict != matrix.Pass {
				continue
			}
			if a, ok := r.Last(); ok && a.Ended.After(a.Started) {
				cells[c.ID] = append(cells[c.ID], a.Ended.Sub(a.Started))
			}
		}
		events, err := f.Events()
		if err != nil {
			continue
		}
		for _, e := range events {
			switch {
			case e.Kind == HostOpened && len(opening[e.Host]) < historyValues:
				opening[e.Host] = append(opening[e.Host], e.Took.Std())
			case e.Kind == HostClosed && len(closing[e.Host]) < historyValues:
				closing[e.Host] = append(closing[e.Host], e.Took.Std())
			}
		}
	}
	return History{Cells: medians(cells), Opening: medians(opening), Closing: medians(closing)}
}

// youngest lists the folders of the last runs under root, the last one first;
// only those before a run's ID, unless that is empty.
func youngest(root string, most int, before string) []string {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range slices.Backward(entries) {
		if len(dirs) == most {
			break
		}
		if idPattern.MatchString(e.Name()) && !e.Type().IsRegular() && (before == "" || e.Name() < before) {
			dirs = append(dirs, filepath.Join(root, e.Name()))
		}
	}
	return dirs
}

func medians[K cmp.Ordered](values map[K][]time.Duration) map[K]time.Duration {
	m := make(map[K]time.Duration, len(values))
	for k, v := range values {
		slices.Sort(v)
		m[k] = v[len(v)/2]
	}
	return m
}
