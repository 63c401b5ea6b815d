// Package ablation decides what a cell's fixes are for, by leaving them out:
// which trial comes next, and what follows from those that were made. It is
// pure: everything is computed anew from the trials, so that an ablation that
// was interrupted is read as one that goes on.
package ablation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Limit is what an ablation of n fixes may cost, in runs of the whole cell:
// half as much again as each fix by itself. Few fixes are given more, since some
// trials are made once however many there are: the cell with all its fixes,
// twice, without any, without all that are harmless, and the search for those
// that cover each other.
func Limit(n int) float64 { return max(1.5*float64(n), float64(n)+8) }

// Cost is what the trials cost, in runs of the whole cell, as the first that
// passed was; 0 where none did.
func Cost(a matrix.Ablation) float64 {
	whole := slices.IndexFunc(a.Trials, func(t matrix.Trial) bool { return t.Verdict == matrix.Pass && t.Took > 0 })
	if whole < 0 {
		return 0
	}
	var sum matrix.Duration
	for _, t := range a.Trials {
		sum += t.Took
	}
	return float64(sum) / float64(a.Trials[whole].Took)
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
	if h.limit > 0 && Cost(h.Ablation)+1 > h.limit {
		return answer{place: len(h.Trials), why: fmt.Sprintf("not tried: it might have gone beyond the limit of %.1f runs of the cell", h.limit)}, true
	}
	if !h.asked {
		h.next, h.asked = set, true
	}
	return answer{}, false
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
