// Package ablation decides what a cell's fixes are for, by leaving them out:
// which trial comes next, and what follows from those that were made. It is
// pure: everything is computed anew from the trials, so that an ablation that
// was interrupted is read as one that goes on.
package ablation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Limit is what an ablation of n fixes may cost, in runs of the whole cell:
// half as much again as each fix by itself. Fewer than twelve are given six runs
// more than there are, since some trials are made once however few there are: the
// cell with all its fixes, twice, without any, and without all that are harmless.
// One fix that can be spared takes two whole runs, with it and without.
func Limit(n int) float64 { return max(1.5*float64(n), float64(n)+6) }

// Cost is the time that the trials took, in runs of the whole cell, as the first
// that passed was, or as the longest where none did; 0 where nothing took any.
func Cost(a matrix.Ablation) float64 {
	return inRuns(a, func(sum, took matrix.Duration) matrix.Duration { return sum + took })
}

// dearest is what the longest trial cost, and at least one run of the cell.
func dearest(a matrix.Ablation) float64 {
	return max(1, inRuns(a, func(most, took matrix.Duration) matrix.Duration { return max(most, took) }))
}

// inRuns adds what the trials took up, in runs of the whole cell.
func inRuns(a matrix.Ablation, add func(sum, took matrix.Duration) matrix.Duration) float64 {
	var sum, passed, longest matrix.Duration
	for _, t := range a.Trials {
		sum, longest = add(sum, t.Took), max(longest, t.Took)
		if passed == 0 && t.Verdict == matrix.Pass {
			passed = t.Took
		}
	}
	if longest == 0 {
		return 0
	}
	return float64(sum) / float64(cmp.Or(passed, longest))
}

// tries is how often a trial that tells nothing is made.
const tries = 2

// history answers questions by the trials that were made, and remembers the
// first one that they do not answer.
type history struct {
	matrix.Ablation
	// next is what is to be left out to answer it, once asked.
	next  []string
	asked bool
	// limit bounds the cost; 0 is none.
	limit float64
}

// answer is what leaving some fixes out came to.
type answer struct {
	matrix.Trial
	// place of the trial among all.
	place int
	// why nothing can be told; empty where it passed or failed.
	why string
}

func (a answer) passed() bool { return a.why == "" && a.Verdict == matrix.Pass }
func (a answer) failed() bool { return a.why == "" && a.Verdict == matrix.Fail }

// outcome is what happened, in words.
func (a answer) outcome() string {
	switch {
	case a.why != "":
		return a.why
	case a.Verdict == matrix.Pass:
		return "it passed"
	}
	return fmt.Sprintf("it failed in %s: %s", a.Phase, a.Reason)
}

// try looks for a trial without just these fixes that came from a place on; ok
// is false where it has to be made first. One that told nothing is made once
// more, and then what hindered it is the answer; so is a limit that is reached.
func (h *history) try(from int, without ...string) (found answer, ok bool) {
	set := ordered(without)
	told := 0
	for i := from; i < len(h.Trials); i++ {
		t := h.Trials[i]
		if !slices.Equal(t.Without, set) {
			continue
		}
		found = answer{Trial: t, place: i}
		if t.Verdict == matrix.Pass || t.Verdict == matrix.Fail {
			return found, true
		}
		found.why = fmt.Sprintf("%s: %s", t.Verdict, t.Reason)
		// A gate rules it out the next time, too.
		if told++; told == tries || t.Verdict == matrix.Impossible {
			return found, true
		}
	}
	if h.limit > 0 && Cost(h.Ablation)+dearest(h.Ablation) > h.limit {
		return answer{place: len(h.Trials), why: fmt.Sprintf("not tried: it might have gone beyond the limit of %.1f runs of the cell", h.limit)}, true
	}
	if !h.asked {
		h.next, h.asked = set, true
	}
	return answer{}, false
}

// control is the cell with all its fixes. One that failed may have been bad luck,
// and all else rests on it: the next counts where it passed.
func (h *history) control() (found answer, ok bool) {
	found, ok = h.try(0)
	if !ok || !found.failed() {
		return found, ok
	}
	if again, made := h.try(found.place + 1); !made || again.passed() {
		return again, made
	}
	return found, true
}

// ordered is the set as trials have it.
func ordered(ids []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}

// applied are the fixes whose leaving out would prove something.
func (h *history) applied() []string {
	var ids []string
	for _, f := range h.Fixes {
		if f.Skip == "" {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

// names joins fixes for a sentence.
func names(ids []string) string { return strings.Join(ids, ", ") }
