package fix

import (
	_ "embed" // this file, whose comments describe the schema
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

//go:embed gates.go
var gatesSource string

// GateSchema is the JSON Schema (draft 2020-12) of a gate's file.
func GateSchema() ([]byte, error) { return datafile.Schema[Gate]("lxcmatrix gate", gatesSource) }

// Gate is a combination that cannot work whatever is fixed.
type Gate struct {
	ID    string `yaml:"id" jsonschema:"required,minLength=1"`
	Title string `yaml:"title" jsonschema:"required,minLength=1"`
	// When is the CEL condition that rules a cell out.
	When string `yaml:"when" jsonschema:"required,minLength=1"`
	// Unless names fixes that open the gate: it rules nothing out where one of
	// them is to be applied, or is left out on purpose to show that it fails.
	Unless []string `yaml:"unless"`
	Reason string   `yaml:"reason" jsonschema:"required,minLength=1"`
	// Source is an https link to where that is known from.
	Source string `yaml:"source" jsonschema:"required,minLength=1"`
	// Probe says how a cell that runs all the same fails while the gate holds.
	// Without it running the cell shows nothing: it ends before it has a phase,
	// or in a way that tells nothing of the gate.
	Probe *matrix.Probe `yaml:"probe"`

	condition *Condition
	file      *datafile.File
}

// Errorf is an error about what is at a path of the gate's file.
func (gate *Gate) Errorf(at datafile.Path, format string, args ...any) error {
	return gate.file.Errorf(at, "gate %s: "+format, append([]any{gate.ID}, args...)...)
}

// File is where the gate was loaded from.
func (gate *Gate) File() string { return gate.file.Name }

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
		problems = append(problems, datafile.Read(source, func(file *datafile.File, gate *Gate) (problems []error) {
			gate.file = file
			bad := func(at datafile.Path, format string, args ...any) {
				problems = append(problems, gate.Errorf(at, format, args...))
			}
			if !identifier().MatchString(gate.ID) {
				bad(datafile.Path{"id"}, "id %q: want lower-case words joined by hyphens", gate.ID)
			}
			if gate.Title == "" || gate.When == "" || gate.Reason == "" || gate.Source == "" {
				bad(nil, "needs title, when, reason and source")
			}
			if p := gate.Probe; p != nil && (!slices.Contains(matrix.Phases(), p.Phase) || !p.Phase.Proves() || !identifier().MatchString(p.Signature)) {
				bad(datafile.Path{"probe"}, "probe: wants the phase that fails and the ID of a signature")
			}
			for i, id := range gate.Unless {
				if _, err := catalogue.Fix(id); err != nil {
					bad(datafile.Path{"unless", i}, "unless: %w", err)
				}
			}
			var err error
			if gate.condition, err = compiler.compile(gate.When); err != nil {
				bad(datafile.Path{"when"}, "when: %w", err)
			}
			if first, twice := byID[gate.ID]; twice {
				bad(datafile.Path{"id"}, "is already in %s", first.file.Name)
			} else {
				byID[gate.ID] = gate
				g.gates = append(g.gates, gate)
			}
			return problems
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

// Answer is what a gate says of a cell. Its zero value is no answer.
type Answer string

// The answers.
const (
	// RulesOut: the condition is true, and no fix lifts it.
	RulesOut Answer = "impossible"
	// Lifted: the condition is true, and a fix lifts it.
	Lifted Answer = "lifted"
	// Passes: the condition is false.
	Passes Answer = "no"
	// Undetermined: the condition hangs on facts that nobody knows yet.
	Undetermined Answer = "undecided"
)

// Ruling is what one gate says of a cell, and by what.
type Ruling struct {
	Gate   *Gate
	Answer Answer
	// Facts are those that the condition names, as far as they are known.
	Facts []matrix.Fact
	// Missing names what an undecided condition waits for.
	Missing []string
	// LiftedBy is the fix that lifts it.
	LiftedBy string
}

// Rule asks every gate, in the order of their IDs, about a cell of which facts
// were declared and observed; what was observed counts where both are there.
// The decisions are those about the fixes of the same cell.
func (g *Gates) Rule(declared, observed Facts, decisions []Decision) ([]Ruling, error) {
	following := factsOfFixes(decisions)
	facts := declared.With(observed, following)
	from := func(name string) string {
		if _, ok := following[name]; ok {
			return "fixes"
		}
		if _, ok := observed[name]; ok {
			return "observed"
		}
		return "declared"
	}
	rulings := make([]Ruling, 0, len(g.gates))
	for _, gate := range g.gates {
		truth, missing, err := gate.condition.eval(facts)
		if err != nil {
			return nil, fmt.Errorf("decide on gate %s: %w", gate.ID, err)
		}
		r := Ruling{Gate: gate, Missing: missing}
		for _, name := range gate.condition.facts {
			if value, known := facts[name]; known {
				r.Facts = append(r.Facts, matrix.Fact{Name: name, Value: FactText(value), From: from(name)})
			}
		}
		switch truth {
		case True:
			if r.Answer, r.LiftedBy = RulesOut, gate.liftedBy(decisions); r.LiftedBy != "" {
				r.Answer = Lifted
			}
		case False:
			r.Answer = Passes
		default:
			r.Answer = Undetermined
		}
		rulings = append(rulings, r)
	}
	return rulings, nil
}

// Finding is the gate that rules a cell out; nil if none does: one that is
// undecided does not. Of several it is the first that cannot be probed, since
// with that one there is nothing to be seen, else the first.
func Finding(rulings []Ruling) *matrix.GateFinding {
	var found *matrix.GateFinding
	for _, r := range rulings {
		if r.Answer == RulesOut && (found == nil || found.Probe != nil && r.Gate.Probe == nil) {
			found = &matrix.GateFinding{Gate: r.Gate.ID, Reason: r.Gate.Reason, Source: r.Gate.Source,
				Rule: r.Gate.condition.String(), Facts: r.Facts, Probe: r.Gate.Probe}
		}
	}
	return found
}

// liftedBy is the fix that lifts the gate, or nothing.
func (gate *Gate) liftedBy(decisions []Decision) string {
	for _, d := range decisions {
		if slices.Contains(gate.Unless, d.Fix.ID) && (d.State == Applied || d.State == Satisfied || d.State == LeftOut) {
			return d.Fix.ID
		}
	}
	return ""
}

// factsOfFixes are the facts that follow from the fixes that are in effect.
// While one is undecided that would change such a fact, it is not known.
func factsOfFixes(decisions []Decision) Facts {
	proxyMode, cgroup1Keys := "iptables", false // as kube-proxy and LXC have it where nobody says
	gates := []string{}
	open := map[string]bool{}
	for _, d := range decisions {
		mode, setsMode := d.Fix.Effects.KubeProxy["mode"].(string)
		switches, setsGates := d.Fix.Effects.Kubelet["featureGates"].(map[string]any)
		setsKeys := strings.HasPrefix(d.Fix.Effects.Incus.RawLXC, "lxc.cgroup.")
		switch d.State {
		case Undecided:
			open["proxy_mode"] = open["proxy_mode"] || setsMode
			open["feature_gates"] = open["feature_gates"] || setsGates
			open["lxc_cgroup1_keys"] = open["lxc_cgroup1_keys"] || setsKeys
		case Applied, Satisfied:
			if setsMode {
				proxyMode = mode
			}
			for name, value := range switches {
				gates = append(gates, fmt.Sprintf("%s=%v", name, value))
			}
			cgroup1Keys = cgroup1Keys || setsKeys
		}
	}
	slices.Sort(gates)
	f := Facts{"proxy_mode": proxyMode, "feature_gates": gates}
	for _, name := range []string{"proxy_mode", "feature_gates"} {
		if open[name] {
			delete(f, name)
		}
	}
	if cgroup1Keys || !open["lxc_cgroup1_keys"] {
		f["lxc_cgroup1_keys"] = cgroup1Keys
	}
	return f
}

// FactText is a fact's value as people read it.
func FactText(value any) string {
	if list, ok := value.([]string); ok {
		return strings.Join(list, " ")
	}
	return fmt.Sprint(value)
}
