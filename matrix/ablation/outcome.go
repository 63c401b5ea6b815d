package ablation

import (
	"fmt"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Outcome is what a fix turned out to be in a cell. Its zero value is Unknown.
type Outcome int

// The outcomes.
const (
	// Unknown: it cannot be told, for a reason.
	Unknown Outcome = iota
	// Required: without it the cell fails before any restart, twice with a
	// passing control in between, by a line that the fix claims to cure.
	Required
	// RequiredOtherwise: the same, by something else.
	RequiredOtherwise
	// NeededAfterRestart: the same, but only once a node was restarted.
	NeededAfterRestart
	// RedundantWith: the cell passes without it, as long as others stay.
	RedundantWith
	// Harmless: the cell passes without it, and without all other harmless ones.
	Harmless
	// Harmful: the cell passes without it only.
	Harmful
)

var words = [...]string{"unknown", "required", "required-otherwise", "needed-after-restart", "redundant-with", "harmless", "harmful"}

// All lists every outcome in the order in which summaries count them.
func All() []Outcome {
	return []Outcome{Required, RequiredOtherwise, NeededAfterRestart, RedundantWith, Harmless, Harmful, Unknown}
}

// String is the outcome's word.
func (o Outcome) String() string {
	if o < 0 || int(o) >= len(words) {
		return words[Unknown]
	}
	return words[o]
}

// MarshalText writes the outcome's word.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Finding is what is known of one fix of a cell.
type Finding struct {
	Fix     string
	Outcome Outcome
	// With are the others of which one has to stay, where the fix is redundant.
	With []string
	// Phase is the one that failed without it; empty where none did.
	Phase matrix.Phase
	// Signature, Log and Line are what was claimed and seen; empty where nothing was.
	Signature, Log, Line string
	// Reason says what it rests on, in words; never empty.
	Reason string
	// Skipped: the host has already what the fix wants, so nothing was run.
	Skipped bool
	// Against says what of the fix's own data does not agree with what was seen,
	// and so has to change; empty where nothing does.
	Against string
	// Runs are the IDs of those in which it was left out by itself.
	Runs []string
}

// Study is an ablation as far as it went.
type Study struct {
	// Findings has one for each fix that was asked about, in the ablation's
	// order; empty before the cell was seen with all its fixes.
	Findings []Finding
	// Next are the fixes to leave out of the next trial, which none are for a
	// control; Done says that nothing is left to try.
	Next []string
	Done bool
}

// Outcomes says what follows from the trials of an ablation, and what to try next.
//
// The cell is seen with all its fixes, without any, and without each; what
// differs from the first is seen again, after another control that came out as
// the first did. Then all that are harmless are left out together. If that
// fails, the smallest set that fails is looked for by halves, one of it stays
// in, and so on until it passes.
func Outcomes(a matrix.Ablation) Study {
	asked := 0
	for _, f := range a.Fixes {
		if f.Asked && f.Skip == "" {
			asked++
		}
	}
	s := &study{history: history{Ablation: a}, found: map[string]*Finding{}}
	if asked > 0 {
		s.limit = Limit(asked)
	}
	s.run()
	study := Study{Next: s.next, Done: !s.asked}
	for _, f := range a.Fixes {
		if f.Asked {
			study.Findings = append(study.Findings, *s.found[f.ID])
		}
	}
	return study
}

type study struct {
	history
	found map[string]*Finding
}

func (s *study) run() {
	var ids []string
	for _, f := range s.Fixes {
		s.found[f.ID] = &Finding{Fix: f.ID, Reason: "not tried yet", Runs: s.runs(f.ID)}
		switch {
		case !f.Asked:
		case f.Skip != "":
			s.found[f.ID].Reason, s.found[f.ID].Skipped = f.Skip, true
		default:
			ids = append(ids, f.ID)
		}
	}
	control, ok := s.control()
	if !ok {
		return
	}
	if control.why != "" {
		s.unknown(ids, "the cell with all its fixes was "+control.why)
		return
	}
	if all := s.applied(); len(all) > 1 {
		if _, ok := s.try(0, all...); !ok {
			return
		}
	}
	firsts := map[string]answer{}
	for _, id := range ids {
		first, ok := s.try(0, id)
		if !ok {
			return
		}
		firsts[id] = first
	}
	s.confirm(ids, control, firsts)
	if !s.asked && !control.failed() {
		s.together(slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !firsts[id].passed() }))
	}
	for _, f := range s.Fixes {
		s.found[f.ID].Against = against(f, *s.found[f.ID], control)
	}
}

// against says what of a fix's data does not agree with what it turned out to be.
func against(f matrix.AblatedFix, found Finding, control answer) string {
	switch found.Outcome {
	case Required, RequiredOtherwise, NeededAfterRestart:
		switch {
		case f.Harmful:
			return "it is marked harmful, and the cell needs it"
		case found.Signature == "" || found.Signature == matrix.Unclassified:
			return "no signature knows how the cell fails without it"
		case !slices.Contains(f.Cures, found.Signature):
			return fmt.Sprintf("it does not say that it cures %s, by which the cell fails without it", found.Signature)
		}
	case Harmful:
		if !f.Harmful {
			return "it is not marked harmful, and the cell passes only without it"
		}
		if len(f.Causes) > 0 && !slices.ContainsFunc(control.Diagnoses, func(d matrix.Diagnosis) bool { return slices.Contains(f.Causes, d.Signature) }) {
			return fmt.Sprintf("it says that it causes %s, and the cell fails with it by something else", names(f.Causes))
		}
	case Harmless, RedundantWith:
		if f.Harmful && len(f.Causes) > 0 {
			return fmt.Sprintf("it says that it causes %s, and the cell passes with it", names(f.Causes))
		}
	}
	return ""
}

// confirm looks again at the fixes without which the cell came out otherwise
// than with all of them.
func (s *study) confirm(ids []string, control answer, firsts map[string]answer) {
	last := -1
	for _, id := range ids {
		switch first := firsts[id]; {
		case first.why != "":
			s.unknown([]string{id}, first.why)
		case first.Verdict != control.Verdict:
			last = max(last, first.place)
		case first.failed():
			s.unknown([]string{id}, fmt.Sprintf("the cell fails with all its fixes, too: %s", control.outcome()))
		}
	}
	if last < 0 {
		return
	}
	between, ok := s.try(last + 1)
	if !ok {
		return
	}
	for _, id := range ids {
		first := firsts[id]
		if first.why != "" || first.Verdict == control.Verdict {
			continue
		}
		if between.Verdict != control.Verdict || between.why != "" {
			s.unknown([]string{id}, fmt.Sprintf("without it %s, but the cell with all its fixes was not the same twice: %s, and then %s",
				first.outcome(), control.outcome(), between.outcome()))
			continue
		}
		second, ok := s.try(between.place+1, id)
		if !ok {
			return
		}
		switch {
		case second.why != "":
			s.unknown([]string{id}, fmt.Sprintf("without it %s, once; the second time: %s", first.outcome(), second.why))
		case second.Verdict != first.Verdict:
			s.unknown([]string{id}, fmt.Sprintf("the same twice was not to be had: %s, and then %s", first.outcome(), second.outcome()))
		case second.passed():
			s.found[id].Outcome = Harmful
			s.found[id].Reason = fmt.Sprintf("passes without it, twice, and with all fixes never: %s", control.outcome())
		default:
			s.required(id, first, second)
		}
	}
}

// required says how the cell failed without a fix, both times.
func (s *study) required(id string, first, second answer) {
	f := s.found[id]
	f.Phase = second.Phase
	f.Reason = "fails without it, twice, with a passing control in between: " + second.Reason
	one, claimed := s.claimed(id, first)
	two, again := s.claimed(id, second)
	if claimed {
		f.Signature, f.Log, f.Line = one.Signature, one.Log, one.Line
	} else if again {
		f.Signature, f.Log, f.Line = two.Signature, two.Log, two.Line
	}
	switch {
	case restarted(first.Phase) && restarted(second.Phase):
		f.Outcome = NeededAfterRestart
		if !claimed || !again {
			f.showFirst(second)
		}
	case claimed && again:
		f.Outcome = Required
	default:
		f.Outcome = RequiredOtherwise
		f.showFirst(second)
	}
}

// showFirst takes the first line that tells of a failure, whatever the fix claims.
func (f *Finding) showFirst(a answer) {
	f.Signature, f.Log, f.Line = "", "", ""
	if i := slices.IndexFunc(a.Diagnoses, func(d matrix.Diagnosis) bool { return d.Line != "" }); i >= 0 {
		d := a.Diagnoses[i]
		f.Signature, f.Log, f.Line = d.Signature, d.Log, d.Line
	}
}

// claimed is the line of a failure that the fix claims to cure.
func (s *study) claimed(id string, a answer) (matrix.Diagnosis, bool) {
	i := slices.IndexFunc(s.Fixes, func(f matrix.AblatedFix) bool { return f.ID == id })
	for _, d := range a.Diagnoses {
		if slices.Contains(s.Fixes[i].Cures, d.Signature) {
			return d, true
		}
	}
	return matrix.Diagnosis{}, false
}

// restarted says whether nodes have been restarted, or are, in a phase.
func restarted(p matrix.Phase) bool {
	return slices.Contains([]matrix.Phase{matrix.PhaseRestart, matrix.PhaseRecover, matrix.PhaseForcedRestart, matrix.PhaseForcedRecover}, p)
}

// together leaves out all the fixes without which the cell passes, and finds
// those that cover each other where that fails.
func (s *study) together(ids []string) {
	rest := slices.Clone(ids)
	for len(rest) > 1 {
		all, ok := s.try(0, rest...)
		if !ok {
			return
		}
		if all.why != "" {
			s.unknown(rest, fmt.Sprintf("passes without it; without it and the others that can be spared: %s", all.why))
			return
		}
		if all.passed() {
			break
		}
		set, why, ok := s.interacting(rest)
		if !ok {
			return
		}
		if why != "" {
			s.unknown(rest, fmt.Sprintf("passes without it, and not without %s together: %s", names(rest), why))
			return
		}
		for _, id := range set {
			f := s.found[id]
			f.Outcome = RedundantWith
			for _, other := range set {
				if other != id && !slices.Contains(f.With, other) {
					f.With = append(f.With, other)
				}
			}
			f.Reason = fmt.Sprintf("passes without it, and not without %s together", names(set))
		}
		// What opens the host least stays in.
		rest = slices.DeleteFunc(rest, func(id string) bool { return id == set[len(set)-1] })
	}
	for _, id := range ids {
		if f := s.found[id]; f.Outcome == Unknown {
			f.Outcome, f.Reason = Harmless, "passes without it"
			if len(rest) > 1 {
				f.Reason = fmt.Sprintf("passes without it, and without %s together", names(rest))
			}
		}
	}
}

// interacting finds a smallest set of the fixes that the cell fails without,
// in their order; it fails without all of them. why says what hindered it.
func (s *study) interacting(ids []string) (set []string, why string, ok bool) {
	for pool := ids; len(pool) > 0; {
		// Without the first low of the pool it passes, without the first high it
		// fails. Without one alone it passes, as was seen.
		low, high := 0, len(pool)
		if len(set) == 0 {
			low = 1
		}
		for high-low > 1 {
			middle := (low + high) / 2
			tried, ok := s.try(0, slices.Concat(set, pool[:middle])...)
			switch {
			case !ok:
				return nil, "", false
			case tried.why != "":
				return nil, tried.why, true
			case tried.failed():
				high = middle
			default:
				low = middle
			}
		}
		set, pool = append(set, pool[high-1]), pool[:high-1]
		if len(set) == 1 {
			continue
		}
		first, ok := s.try(0, set...)
		if !ok || first.why != "" {
			return nil, first.why, ok
		}
		if first.passed() {
			continue
		}
		second, ok := s.try(first.place+1, set...)
		if !ok || second.why != "" {
			return nil, second.why, ok
		}
		if second.passed() {
			break
		}
		return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !slices.Contains(set, id) }), "", true
	}
	return nil, "the trials contradict each other, so that no set of them could be singled out", true
}

func (s *study) unknown(ids []string, why string) {
	for _, id := range ids {
		s.found[id].Outcome, s.found[id].Reason = Unknown, why
	}
}

// runs are those in which the fix was left out by itself.
func (s *study) runs(id string) []string {
	var all []string
	for _, t := range s.Trials {
		if slices.Equal(t.Without, []string{id}) {
			all = append(all, t.Run)
		}
	}
	return all
}
