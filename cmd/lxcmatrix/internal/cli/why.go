package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func (p *program) why() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use: "why CELL", Short: "Say what decides about a cell: gates, expectations, diagnoses", Args: args(cobra.ExactArgs(1)),
		Long: `Why asks every gate about one cell of the matrix, by what the matrix declares;
with --run, about one of a run, by what was observed there as well. CELL is a
cell's ID or a selector that matches it alone. It says the cell's verdict, the
failure that the matrix expects of it, and what was found in its logs: the line,
the cause, and the fix that cures it and whether that was applied. For each gate
it says the rule and the facts that decide, or those that nobody knows yet: an
undecided gate is asked again when a run has opened the cell's host.`,
		Example: `  lxcmatrix why -f kernels host=k7-v1
  lxcmatrix why kubeadm-1.34/debian-13/1/embedded --run 20261120T193324Z-k5x2ab
  lxcmatrix why -f kernels host=k5.10-incus7 --json | jq '.gates[].answer'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := q.check(cmd); err != nil {
				return err
			}
			var answer explanation
			var err error
			if q.run == "" {
				q.Progress = p.lines()
				answer, err = whyPlanned(cmd, q.Request, args[0])
			} else {
				answer, err = whyRun(cmd.Context(), q.root, q.run, q.FixFolders, args[0])
			}
			if err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(p.Out, answer)
			}
			return answer.print(p.Out)
		},
	}
	q.flags(cmd, 1)
	return cmd
}

// whyPlanned asks about a cell by what the matrix declares.
func whyPlanned(cmd *cobra.Command, r run.Request, name string) (explanation, error) {
	planned, err := run.Plan(cmd.Context(), r)
	if err != nil {
		return explanation{}, err
	}
	c, err := findCell(planned.Plan, name)
	if err != nil {
		return explanation{}, err
	}
	rulings, err := planned.Knowledge.Rule(c, nil, nil)
	if err != nil {
		return explanation{}, fmt.Errorf("ask the gates about cell %s: %w", c.ID, err)
	}
	return explainGates(matrix.Result{Cell: c, Judgement: matrix.Judge(c, nil)}, rulings), nil
}

// whyRun asks about a cell by what a run observed.
func whyRun(ctx context.Context, root, name string, folders []string, cell string) (explanation, error) {
	knowledge, err := loadKnowledge(ctx, folders)
	if err != nil {
		return explanation{}, err
	}
	folder, err := openRun(root, name)
	if err != nil {
		return explanation{}, err
	}
	planned, err := findCell(folder.Plan(), cell)
	if err != nil {
		return explanation{}, err
	}
	all, err := folder.Read()
	if err != nil {
		return explanation{}, err
	}
	i := slices.IndexFunc(all.Results, func(r matrix.Result) bool { return r.Cell.ID == planned.ID })
	result := all.Results[i] // a run that is read has a result for every cell of its plan
	var host *matrix.HostFacts
	var node *matrix.NodeFacts
	if a, ok := result.Last(); ok && a.Host.Kernel != "" {
		host = &a.Host
		if len(a.Nodes) > 0 {
			node = &a.Nodes[0]
		}
	}
	rulings, err := knowledge.Rule(result.Cell, host, node)
	if err != nil {
		return explanation{}, fmt.Errorf("ask the gates about cell %s: %w", planned.ID, err)
	}
	e := explainGates(result, rulings)
	e.Run = all.ID
	shown := view.New(all).Cells[slices.IndexFunc(all.Plan.Cells, func(c matrix.Cell) bool { return c.ID == planned.ID })]
	for _, d := range shown.Diagnoses {
		e.Diagnoses = append(e.Diagnoses, diagnosed{d, shown.Remedy(d)})
	}
	return e, nil
}

// explanation is what decides about a cell; its JSON is for scripts.
type explanation struct {
	Cell    matrix.CellID  `json:"cell"`
	Run     string         `json:"run,omitempty"`
	Verdict matrix.Verdict `json:"verdict"`
	Phase   matrix.Phase   `json:"phase,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	// Expect is the failure that the matrix expects.
	Expect *matrix.Expectation `json:"expect,omitempty"`
	// Diagnoses are what was found in the logs of the last attempt, in order.
	Diagnoses []diagnosed  `json:"diagnoses,omitempty"`
	Gates     []gateAnswer `json:"gates"`
}

// diagnosed is a diagnosis, and the fix that cures it with its state here.
type diagnosed struct {
	matrix.Diagnosis
	Remedy string `json:"remedy,omitempty"`
}

type gateAnswer struct {
	Gate   string        `json:"gate"`
	Title  string        `json:"title"`
	Answer fix.Answer    `json:"answer"`
	Rule   string        `json:"rule"`
	Facts  []matrix.Fact `json:"facts"`
	// Unknown names the facts that an undecided gate waits for.
	Unknown []string `json:"unknown,omitempty"`
	// LiftedBy is the fix that lifts the gate here, Fixes those that can.
	LiftedBy string        `json:"liftedBy,omitempty"`
	Fixes    []string      `json:"fixes,omitempty"`
	Reason   string        `json:"reason"`
	Source   string        `json:"source"`
	Probe    *matrix.Probe `json:"probe,omitempty"`
}

// explainGates joins what the gates say now with what was found when the cell
// was planned or admitted, which is what its verdict rests on.
func explainGates(r matrix.Result, rulings []fix.Ruling) explanation {
	e := explanation{Cell: r.Cell.ID, Verdict: r.Judgement.Verdict, Phase: r.Judgement.Phase, Reason: r.Judgement.Reason, Expect: r.Cell.Expect, Gates: []gateAnswer{}}
	for _, ruling := range rulings {
		g := gateAnswer{Gate: ruling.Gate.ID, Title: ruling.Gate.Title, Answer: ruling.Answer, Rule: ruling.Gate.When,
			Facts: append([]matrix.Fact{}, ruling.Facts...), Unknown: ruling.Missing, LiftedBy: ruling.LiftedBy, Fixes: ruling.Gate.Unless,
			Reason: ruling.Gate.Reason, Source: ruling.Gate.Source, Probe: ruling.Gate.Probe}
		if found := r.Cell.Gate; found != nil && found.Gate == g.Gate {
			g.Answer, g.Rule, g.Facts, g.Unknown, g.LiftedBy = fix.RulesOut, found.Rule, found.Facts, nil, ""
			g.Reason, g.Source, g.Probe = found.Reason, found.Source, found.Probe
		}
		e.Gates = append(e.Gates, g)
	}
	return e
}

func (e explanation) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Cell, e.Verdict)
	if e.Run != "" {
		fmt.Fprintf(&b, " in run %s", e.Run)
	}
	if e.Reason != "" && e.Verdict != matrix.Impossible {
		fmt.Fprintf(&b, ": %s", e.Reason)
	}
	b.WriteString("\n")
	if x := e.Expect; x != nil {
		fmt.Fprintf(&b, "It is expected to fail in %s with %s: %s\n", x.Phase, x.Signature, x.Issue)
	}
	for _, d := range e.Diagnoses {
		d.print(&b)
	}
	if len(e.Diagnoses) > 0 {
		b.WriteString("\n")
	}
	var rows [][]string
	for _, g := range e.Gates {
		if g.Answer == fix.RulesOut {
			g.print(&b)
			continue
		}
		rows = append(rows, []string{g.Gate, string(g.Answer), g.because()})
	}
	undecided := slices.ContainsFunc(e.Gates, func(g gateAnswer) bool { return g.Answer == fix.Undetermined })
	switch {
	case len(rows) == len(e.Gates) && undecided:
		b.WriteString("No gate rules it out, as far as is known.\n\n")
	case len(rows) == len(e.Gates):
		b.WriteString("No gate rules it out.\n\n")
	case len(rows) > 0:
		b.WriteString("\nThe other gates:\n\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	if len(rows) == 0 {
		return nil
	}
	return columns(w, []string{"GATE", "RULES IT OUT", "BECAUSE"}, rows)
}

// print says all of a diagnosis.
func (d diagnosed) print(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s: %s\n", d.Signature, d.Title)
	line := d.Log + ": " + d.Line
	if d.Log == "" {
		line = ""
	}
	for _, said := range [][2]string{{"line", line}, {"cause", d.Cause}, {"remedy", d.Remedy}, {"issue", d.Issue}} {
		if said[1] != "" {
			fmt.Fprintf(b, "  %-7s %s\n", said[0], said[1])
		}
	}
}

// print says all of a gate that rules the cell out.
func (g gateAnswer) print(b *strings.Builder) {
	probe := "running the cell would not show whether the gate still holds"
	if g.Probe != nil {
		probe = fmt.Sprintf("lxcmatrix run --defy-gates shows whether it still holds: in %s, with %s", g.Probe.Phase, g.Probe.Signature)
	}
	fmt.Fprintf(b, "\n%s: %s\n", g.Gate, g.Title)
	for _, line := range [][2]string{{"rule", g.Rule}, {"facts", facts(g.Facts)}, {"reason", g.Reason}, {"source", g.Source},
		{"fixes", strings.Join(g.Fixes, ", ")}, {"probe", probe}} {
		if line[1] != "" {
			fmt.Fprintf(b, "  %-7s %s\n", line[0], line[1])
		}
	}
}

// because says what an answer rests on.
func (g gateAnswer) because() string {
	var parts []string
	if g.LiftedBy != "" {
		parts = append(parts, "fix "+g.LiftedBy+" lifts it")
	}
	if len(g.Unknown) > 0 {
		parts = append(parts, "not known: "+strings.Join(g.Unknown, ", "))
	}
	if len(g.Facts) > 0 {
		parts = append(parts, facts(g.Facts))
	}
	return strings.Join(parts, "; ")
}

// facts are facts with their values, in one line.
func facts(all []matrix.Fact) string {
	texts := make([]string, len(all))
	for i, f := range all {
		texts[i] = fmt.Sprintf("%s %s (%s)", f.Name, f.Value, f.From)
	}
	return strings.Join(texts, ", ")
}
