package fix

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

// between finds what is wrong between fixes: names of fixes that are not there,
// fixes that come after themselves, and fixes that apply by themselves in one
// cell and want different things there.
func (c *Catalogue) between() []error {
	var problems []error
	for _, f := range c.fixes {
		for key, ids := range map[string][]string{"after": f.After, "contradicts": f.Contradicts} {
			for i, id := range ids {
				if _, err := c.Fix(id); err != nil {
					problems = append(problems, f.Errorf(datafile.Path{key, i}, "%s: %w", key, err))
				}
			}
		}
		if round := c.round(f); round != nil {
			problems = append(problems, f.Errorf(datafile.Path{"after"}, "after: it comes after itself: %s", strings.Join(round, " after ")))
		}
	}
	for i, a := range c.fixes {
		for _, b := range c.fixes[i+1:] {
			if a.OnRequest() || b.OnRequest() {
				continue // asking for one says what to leave out
			}
			if err := differ(a.sampled, b.sampled); err != nil && mayBothHold(a.condition, b.condition) {
				problems = append(problems, b.conflict(a, err))
			}
		}
	}
	return problems
}

// round is a way from a fix back to itself over what it comes after; nil if
// there is none. Of the fixes on it only the first in the order of IDs has it,
// so that it is told once.
func (c *Catalogue) round(f *Fix) []string {
	seen := map[string]bool{}
	var follow func(at *Fix, way []string) []string
	follow = func(at *Fix, way []string) []string {
		for _, id := range at.After {
			if id == f.ID {
				return append(way, id)
			}
			if next := c.byID[id]; next != nil && !seen[id] && id > f.ID {
				seen[id] = true
				if found := follow(next, append(slices.Clone(way), id)); found != nil {
					return found
				}
			}
		}
		return nil
	}
	return follow(f, []string{f.ID})
}

// conflict is the error of what a fix wants against what another does, at the
// place where it wants it.
func (f *Fix) conflict(other *Fix, err error) error {
	at := datafile.Path{"effects"}
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		for step := range strings.SplitSeq(conflict.Place, ".") {
			at = append(at, step)
		}
	}
	return f.Errorf(at, "stands against %s in %s, and both may apply to one cell: %w", other.ID, other.file.Place(at), err)
}

// mayBothHold looks for facts under which both conditions are true, by trying
// those that they tell apart. Finding none does not prove that there are none:
// a cell's own facts are looked at again before anything is created.
func mayBothHold(a, b *Condition) bool {
	tried := map[string][]any{}
	for _, c := range []*Condition{a, b} {
		c.distinguishes(tried)
	}
	names := slices.Sorted(maps.Keys(tried))
	facts := Facts{}
	var try func(names []string) bool
	try = func(names []string) bool {
		if len(names) == 0 {
			for _, c := range []*Condition{a, b} {
				if truth, err := c.Eval(facts); err != nil || truth != True {
					return false
				}
			}
			return true
		}
		return slices.ContainsFunc(tried[names[0]], func(value any) bool {
			facts[names[0]] = value
			return try(names[1:])
		})
	}
	return try(names)
}

// distinguishes adds, by fact, values of which the condition tells some apart:
// its literals, beside one that is none of them.
func (c *Condition) distinguishes(values map[string][]any) {
	if c.source == "" {
		return
	}
	var literals []string
	tree := ast.NavigateAST(c.tree)
	for _, e := range ast.MatchDescendants(tree, ast.ConstantValueMatcher()) {
		if text, ok := literal(e); ok {
			literals = append(literals, text)
		}
	}
	for _, fact := range c.env.Variables() {
		if !slices.Contains(c.facts, fact.Name()) {
			continue
		}
		var some []any
		switch fact.Type() {
		case cel.BoolType:
			some = []any{true, false}
		case cel.StringType:
			some = []any{"0"}
			for _, text := range literals {
				some = append(some, text)
			}
		default: // lists of strings
			some = []any{[]string{}, literals}
			for _, text := range literals {
				some = append(some, []string{text})
			}
		}
		values[fact.Name()] = append(values[fact.Name()], some...)
	}
}
