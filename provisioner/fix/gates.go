package fix

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Gate is a combination that cannot work whatever is fixed.
type Gate struct {
	ID    string `yaml:"id"`
	Title string `yaml:"title"`
	// When is the CEL condition that rules a cell out.
	When string `yaml:"when"`
	// Unless names fixes that open the gate: it rules nothing out where one of
	// them is to be applied, or is left out on purpose to show that it fails.
	Unless []string `yaml:"unless"`
	Reason string   `yaml:"reason"`
	Source string   `yaml:"source"`

	condition *Condition
	file      string
}

// Gates holds loaded gates.
type Gates struct{ gates []*Gate }

// LoadGates reads every .yaml file at the root of each source, and reports all
// problems at once. Unless may only name fixes of the catalogue.
func LoadGates(catalogue *Catalogue, sources ...Source) (*Gates, error) {
	compiler, err := newCompiler()
	if err != nil {
		return nil, err
	}
	g := &Gates{}
	byID := map[string]*Gate{}
	var problems []error
	for _, source := range sources {
		problems = append(problems, decodeAll(source, func(file string, gate *Gate) (bad []error) {
			gate.file = file
			if !identifier().MatchString(gate.ID) {
				bad = append(bad, fmt.Errorf("gate id %q: want lower-case words joined by hyphens", gate.ID))
			}
			if gate.Title == "" || gate.When == "" || gate.Reason == "" || gate.Source == "" {
				bad = append(bad, fmt.Errorf("gate %s: needs title, when, reason and source", gate.ID))
			}
			for _, id := range gate.Unless {
				if _, err := catalogue.Fix(id); err != nil {
					bad = append(bad, fmt.Errorf("gate %s: unless: %w", gate.ID, err))
				}
			}
			var err error
			if gate.condition, err = compiler.compile(gate.When); err != nil {
				bad = append(bad, fmt.Errorf("gate %s: when: %w", gate.ID, err))
			}
			if first, twice := byID[gate.ID]; twice {
				bad = append(bad, fmt.Errorf("gate %s is already in %s", gate.ID, first.file))
			} else {
				byID[gate.ID] = gate
				g.gates = append(g.gates, gate)
			}
			return bad
		})...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load gates: %w", errors.Join(problems...))
	}
	slices.SortFunc(g.gates, func(a, b *Gate) int { return strings.Compare(a.ID, b.ID) })
	return g, nil
}

// All lists the gates in the order of their IDs.
func (g *Gates) All() []*Gate { return slices.Clone(g.gates) }

// Decide finds the first gate that rules out what the facts describe; nil if
// none does. Only a condition that is true rules out: one that hangs on facts
// that nobody observed yet does not. The decisions are those about the fixes
// of the same cell, for gates that a fix opens.
func (g *Gates) Decide(facts Facts, decisions []Decision) (*matrix.GateFinding, error) {
	for _, gate := range g.gates {
		truth, err := gate.condition.Eval(facts)
		if err != nil {
			return nil, fmt.Errorf("decide on gate %s: %w", gate.ID, err)
		}
		if truth == True && !gate.opened(decisions) {
			return &matrix.GateFinding{Gate: gate.ID, Reason: gate.Reason, Source: gate.Source}, nil
		}
	}
	return nil, nil
}

func (gate *Gate) opened(decisions []Decision) bool {
	return slices.ContainsFunc(decisions, func(d Decision) bool {
		return slices.Contains(gate.Unless, d.Fix.ID) && (d.State == Applied || d.State == Satisfied || d.State == LeftOut)
	})
}
