package fix

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// State is what was decided about a fix. Its zero value is Undecided.
type State string

// The states of a fix, as matrix.AppliedFix shows them.
const (
	// Undecided: its condition hangs on facts that nobody observed yet.
	Undecided State = ""
	// Applied: its condition is true.
	Applied State = "applied"
	// NotApplicable: its condition is false, or it is harmful.
	NotApplicable State = "not-applicable"
	// LeftOut: it would apply, and was left out on purpose.
	LeftOut State = "left-out"
	// Satisfied: the host had all that it wants before anything was done.
	Satisfied State = "satisfied"
)

// String is the state's word.
func (s State) String() string {
	if s == Undecided {
		return "undecided"
	}
	return string(s)
}

// Decision is what was decided about one fix.
type Decision struct {
	Fix   *Fix
	State State
	// Why is the condition that decided it.
	Why string
}

// Record is the decision as results keep it.
func (d Decision) Record() matrix.AppliedFix {
	return matrix.AppliedFix{ID: d.Fix.ID, State: d.State.String(), Why: d.Why}
}

// Decide decides about every fix, in the order of their IDs. without names
// fixes to leave out. Every unknown ID and every condition that cannot be
// evaluated is reported.
func (c *Catalogue) Decide(facts Facts, without []string) ([]Decision, error) {
	var problems []error
	for _, id := range without {
		if _, err := c.Fix(id); err != nil {
			problems = append(problems, fmt.Errorf("leave out a fix: %w", err))
		}
	}
	decisions := make([]Decision, 0, len(c.fixes))
	for _, f := range c.fixes {
		d := Decision{Fix: f, Why: f.condition.String()}
		truth, missing, err := f.condition.eval(facts)
		if err != nil {
			problems = append(problems, fmt.Errorf("decide on fix %s: %w", f.ID, err))
			continue
		}
		switch {
		case f.Harmful:
			d.State, d.Why = NotApplicable, "harmful"
		case truth == False:
			d.State = NotApplicable
		case slices.Contains(without, f.ID):
			d.State = LeftOut
		case truth == True:
			d.State = Applied
		default:
			d.Why += fmt.Sprintf(" (not observed: %s)", strings.Join(missing, ", "))
		}
		decisions = append(decisions, d)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return decisions, nil
}

// Chosen lists the fixes that are in effect by decisions: those applied and
// those that the host satisfies already.
func Chosen(decisions []Decision) []*Fix {
	var fixes []*Fix
	for _, d := range decisions {
		if d.State == Applied || d.State == Satisfied {
			fixes = append(fixes, d.Fix)
		}
	}
	return fixes
}

// Open lists the IDs of the fixes that are still undecided.
func Open(decisions []Decision) []string {
	var ids []string
	for _, d := range decisions {
		if d.State == Undecided {
			ids = append(ids, d.Fix.ID)
		}
	}
	return ids
}
