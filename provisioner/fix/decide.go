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
	// NotApplicable: its condition is false, or it is harmful or optional and
	// nobody asked for it.
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

// Choice is what somebody chose of the fixes, by ID.
type Choice struct {
	// With lists harmful and optional fixes to apply where their conditions are
	// true, Without those to leave out.
	With, Without []string
}

// Check reports what cannot be chosen: a fix that is not there, one to apply
// that applies by itself, and one that is both to be applied and left out.
func (c *Catalogue) Check(choice Choice) error {
	var problems []error
	for _, id := range choice.Without {
		if _, err := c.Fix(id); err != nil {
			problems = append(problems, fmt.Errorf("leave out a fix: %w", err))
		}
	}
	for _, id := range choice.With {
		switch f, err := c.Fix(id); {
		case err != nil:
			problems = append(problems, fmt.Errorf("apply a fix: %w", err))
		case !f.OnRequest():
			problems = append(problems, fmt.Errorf("apply a fix: %s is neither harmful nor optional: it is applied by itself where its condition is true", id))
		case slices.Contains(choice.Without, id):
			problems = append(problems, fmt.Errorf("fix %s is both to be applied and to be left out", id))
		}
	}
	return errors.Join(problems...)
}

// Decide decides about every fix, in the order of their IDs. What cannot be
// chosen and every condition that cannot be evaluated is reported.
func (c *Catalogue) Decide(facts Facts, choice Choice) ([]Decision, error) {
	var problems []error
	if err := c.Check(choice); err != nil {
		problems = append(problems, err)
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
		case f.OnRequest() && !slices.Contains(choice.With, f.ID):
			d.State, d.Why = NotApplicable, "optional"
			if f.Harmful {
				d.Why = "harmful"
			}
		case truth == False:
			d.State = NotApplicable
		case slices.Contains(choice.Without, f.ID):
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

// OpposedError is a fix that was asked for beside one that it cannot be in
// effect with.
type OpposedError struct {
	// Asked is the ID of the one that was asked for, Against that of the other.
	Asked, Against string
	// Both were asked for.
	Both bool
	// Err says where they differ.
	Err error
}

// Error says what to do about it.
func (e *OpposedError) Error() string {
	if e.Both {
		return fmt.Sprintf("fixes %s and %s cannot both be asked for: %v", e.Asked, e.Against, e.Err)
	}
	return fmt.Sprintf("fix %s cannot be applied beside %s; leave that out with --without %s: %v", e.Asked, e.Against, e.Against, e.Err)
}

// Unwrap is where they differ.
func (e *OpposedError) Unwrap() error { return e.Err }

// Opposed finds the fixes that were asked for and that another one, which
// applies or may turn out to, stands against; each is an *OpposedError.
func Opposed(decisions []Decision) error {
	var problems []error
	for i, asked := range decisions {
		if !asked.Fix.OnRequest() || asked.State != Applied && asked.State != Undecided {
			continue
		}
		for j, other := range decisions {
			both := other.Fix.OnRequest()
			if i == j || both && j < i || other.State != Applied && other.State != Undecided {
				continue
			}
			if err := differ(asked.Fix.sampled, other.Fix.sampled); err != nil {
				problems = append(problems, &OpposedError{Asked: asked.Fix.ID, Against: other.Fix.ID, Both: both, Err: err})
			}
		}
	}
	return errors.Join(problems...)
}
