package ablation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Minimum is what an ablation found of the fixes that a cell cannot spare.
type Minimum struct {
	// Kept are the fixes that stay, Dropped those without all of which the cell
	// passed, twice. Beside both are those that prove nothing.
	Kept, Dropped []string
	// Next are the fixes to leave out of the next trial, which none are for a
	// control; Done says that nothing is left to try.
	Next []string
	Done bool
	// Why says what keeps the result from being minimal, or from being one;
	// empty where the cell was seen to fail without any more of Kept.
	Why string
}

// Minimal drops fixes from a cell as long as it passes: first all, then ever
// smaller parts, in each round what opens the host most. What is dropped has
// passed twice. At the end the cell is seen to fail without each one that is
// left, so that none can be spared. What failed without some fixes is taken to
// fail without more, until that end.
func Minimal(a matrix.Ablation) Minimum {
	h := &history{Ablation: a}
	m := &minimizing{history: h, kept: h.applied()}
	m.run()
	return Minimum{Kept: m.kept, Dropped: m.dropped, Next: h.next, Done: !h.asked, Why: m.why}
}

type minimizing struct {
	*history
	kept, dropped []string
	why           string
	// open are the fixes of the last round about which nothing is certain.
	open []string
}

func (m *minimizing) run() {
	m.why = "not finished"
	control, ok := m.control()
	if !ok {
		return
	}
	if !control.passed() {
		m.why = "the cell does not pass with all its fixes: " + control.outcome()
		return
	}
	for parts := 1; len(m.kept) > 0; {
		size := (len(m.kept) + parts - 1) / parts
		dropped, ok := m.round(size, false)
		if ok && !dropped && size == 1 {
			dropped, ok = m.round(size, true)
		}
		switch {
		case !ok:
			return
		case dropped:
			parts = max(1, min(parts-1, len(m.kept)))
		case size == 1:
			m.why = strings.Join(m.open, "; ")
			return
		default:
			parts = min(2*parts, len(m.kept))
		}
	}
	m.why = ""
}

// round goes through the parts of what is kept until one can be dropped. The
// last round takes nothing as given.
func (m *minimizing) round(size int, last bool) (dropped, ok bool) {
	for part := range slices.Chunk(slices.Clone(m.kept), size) {
		if !last && m.hopeless(part) {
			continue
		}
		if dropped, ok = m.drop(part, last); dropped || !ok {
			return dropped, ok
		}
	}
	return false, true
}

// hopeless: the cell failed without some of what would be left out.
func (m *minimizing) hopeless(part []string) bool {
	would := slices.Concat(m.dropped, part)
	return slices.ContainsFunc(m.Trials, func(t matrix.Trial) bool {
		return t.Verdict == matrix.Fail && !slices.ContainsFunc(t.Without, func(id string) bool { return !slices.Contains(would, id) })
	})
}

// drop leaves out some more, if the cell passes without them, twice; ok is
// false where that has to be tried first.
func (m *minimizing) drop(part []string, last bool) (dropped, ok bool) {
	would := slices.Concat(m.dropped, part)
	first, ok := m.try(0, would...)
	if !ok {
		return false, false
	}
	if !first.passed() {
		if last && first.why != "" {
			m.open = append(m.open, fmt.Sprintf("without %s: %s", names(part), first.why))
		}
		return false, true
	}
	second, ok := m.try(first.place+1, would...)
	if !ok {
		return false, false
	}
	if !second.passed() {
		if last {
			m.open = append(m.open, fmt.Sprintf("without %s it passed once, and then %s", names(part), second.outcome()))
		}
		return false, true
	}
	m.dropped = would
	m.kept = slices.DeleteFunc(m.kept, func(id string) bool { return slices.Contains(part, id) })
	return true, true
}
