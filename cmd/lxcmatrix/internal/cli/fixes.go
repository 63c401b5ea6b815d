package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func (p *program) fixes() *cobra.Command {
	var folders []string
	var asJSON bool
	var root string
	flags := func(f *pflag.FlagSet) {
		f.StringArrayVar(&folders, "fixes", nil, "add the fixes of a `folder`")
		f.BoolVar(&asJSON, "json", false, "print JSON")
	}
	list := &cobra.Command{
		Use: "list", Short: "List the fixes and when each applies", Args: args(noArgs),
		Example: `  lxcmatrix fixes list
  lxcmatrix fixes list --fixes my-fixes --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			knowledge, err := loadKnowledge(cmd.Context(), folders)
			if err != nil {
				return err
			}
			var all []explained
			var rows [][]string
			for _, f := range knowledge.Fixes.All() {
				e, err := explain(knowledge, f)
				if err != nil {
					return err
				}
				title := e.Title
				switch {
				case e.Harmful:
					title += " (harmful: only --with)"
				case e.Optional:
					title += " (optional: only --with)"
				}
				all, rows = append(all, e), append(rows, []string{e.ID, title, e.When})
			}
			if asJSON {
				return writeJSON(p.Out, all)
			}
			return columns(p.Out, []string{"FIX", "TITLE", "APPLIES WHEN"}, rows)
		},
	}
	one := &cobra.Command{
		Use: "explain ID", Short: "Say what a fix does, why, when, and what it cures", Args: args(cobra.ExactArgs(1)),
		Long: `Explain says what goes wrong without a fix, when it applies, what it sets and how
each distribution writes that, how it is verified, which failures it cures or
causes, what it turned out to be when lxcmatrix ablate left it out, and how cells
ended from which it was left out, or for which it was asked, in the runs that are
kept here.`,
		Example: `  lxcmatrix fixes explain cgroup1-split-cpu
  lxcmatrix fixes explain restrict-oom-score-adj --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			knowledge, err := loadKnowledge(cmd.Context(), folders)
			if err != nil {
				return err
			}
			f, err := knowledge.Fixes.Fix(args[0])
			var unknown *fix.UnknownError
			if errors.As(err, &unknown) {
				return usage("%w; lxcmatrix fixes list lists all", err)
			}
			if err != nil {
				return err
			}
			e, err := explain(knowledge, f)
			if err != nil {
				return err
			}
			if e.Written, err = written(f); err != nil {
				return err
			}
			e.Runs, e.Ablations = tried(root, f), ablated(root, f)
			if asJSON {
				return writeJSON(p.Out, e)
			}
			return e.print(p.Out)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return fixIDs(cmd.Context(), folders, func(*fix.Fix) bool { return true }), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd := &cobra.Command{
		Use: "fixes", Short: "What has to be set in a system container, and why", Args: verbs, RunE: help,
		Example: `  lxcmatrix fixes list
  lxcmatrix fixes explain cgroup1-split-cpu
  lxcmatrix fixes lint --fixes my-fixes`,
	}
	rootFlag(one.Flags(), &root)
	for _, c := range []*cobra.Command{list, one} {
		flags(c.Flags())
		cmd.AddCommand(c)
	}
	cmd.AddCommand(p.fixesLint(), p.fixesDiff())
	return cmd
}

func loadKnowledge(ctx context.Context, folders []string) (*catalog.Knowledge, error) {
	knowledge, err := catalog.LoadKnowledge(ctx, folders...)
	if err != nil {
		return nil, usage("%w", err)
	}
	return knowledge, nil
}

// explained is all that is known of a fix; its JSON is for scripts.
type explained struct {
	ID      string `json:"id"`
	Title   string `json:"title"`
	Why     string `json:"why"`
	When    string `json:"when"`
	Harmful bool   `json:"harmful"`
	// Optional: it is applied only where somebody asks for it, too.
	Optional bool `json:"optional"`
	// Contradicts and After name other fixes.
	Contradicts []string       `json:"contradicts,omitempty"`
	After       []string       `json:"after,omitempty"`
	Effects     map[string]any `json:"effects"`
	// Written is how distributions write the effects that they translate.
	Written []translation  `json:"written,omitempty"`
	Verify  []verification `json:"verify"`
	// Repairs is the file that tells what the fix mends by itself.
	Repairs string  `json:"repairs,omitempty"`
	Cures   []cured `json:"cures"`
	Causes  []cured `json:"causes,omitempty"`
	// Runs are the cells of runs that are kept here which tell of the fix.
	Runs []trial `json:"runs,omitempty"`
	// Ablations say what it turned out to be in them.
	Ablations []turned `json:"ablations,omitempty"`
	Sources   []string `json:"sources"`
	File      string   `json:"file"`
}

type verification struct {
	Command string `json:"command"`
	Want    string `json:"want"`
	After   string `json:"after,omitempty"`
}

// cured is a failure that a fix cures.
type cured struct {
	Signature string   `json:"signature"`
	Title     string   `json:"title,omitempty"`
	Cause     string   `json:"cause,omitempty"`
	Pattern   string   `json:"pattern,omitempty"`
	Logs      []string `json:"logs,omitempty"`
	Issue     string   `json:"issue,omitempty"`
}

func explain(knowledge *catalog.Knowledge, f *fix.Fix) (explained, error) {
	e := explained{ID: f.ID, Title: f.Title, Why: strings.TrimSpace(f.Why), When: f.Condition().String(), Harmful: f.Harmful, Optional: f.Optional,
		Contradicts: f.Contradicts, After: f.After, Repairs: f.Repairs, Sources: f.Sources, File: f.File(), Cures: []cured{}, Verify: []verification{}}
	var err error
	if e.Effects, err = effects(f.Effects); err != nil {
		return explained{}, fmt.Errorf("explain fix %s: %w", f.ID, err)
	}
	for _, v := range f.Verify {
		e.Verify = append(e.Verify, verification{Command: v.Command, Want: v.Want, After: string(v.After)})
	}
	e.Cures, e.Causes = signaturesOf(knowledge, f.Cures), signaturesOf(knowledge, f.Causes)
	return e, nil
}

// signaturesOf says all of signatures.
func signaturesOf(knowledge *catalog.Knowledge, ids []string) []cured {
	all := []cured{}
	for _, id := range ids {
		c := cured{Signature: id}
		if i := slices.IndexFunc(knowledge.Signatures, func(s *diagnose.Signature) bool { return s.ID == id }); i >= 0 {
			s := knowledge.Signatures[i]
			c.Title, c.Cause, c.Pattern, c.Logs, c.Issue = s.Title, s.Cause, s.Pattern, s.Where, s.Issue
		}
		all = append(all, c)
	}
	return all
}

// translation is how a distribution writes what a fix wants.
type translation struct {
	Distro string             `json:"distro"`
	For    string             `json:"for"`
	Files  []provisioner.File `json:"files"`
}

// written is what distributions write for a fix, on a node that does not exist.
func written(f *fix.Fix) ([]translation, error) {
	want, err := fix.Merge([]*fix.Fix{f}, fix.Sample())
	if err != nil {
		return nil, fmt.Errorf("explain fix %s: %w", f.ID, err)
	}
	all, err := catalog.WrittenBy(want)
	if err != nil {
		return nil, fmt.Errorf("explain fix %s: %w", f.ID, err)
	}
	var shown []translation
	for _, w := range all {
		truth, err := f.Condition().Eval(fix.Facts{"distro": w.Distro})
		if err != nil {
			return nil, fmt.Errorf("explain fix %s: %w", f.ID, err)
		}
		if truth == fix.False {
			continue
		}
		shown = append(shown, translation{Distro: w.Distro, For: w.For, Files: w.Files})
	}
	return shown, nil
}

// trial is a cell of a run that had the fix left out, or asked for.
type trial struct {
	Run     string         `json:"run"`
	Cell    matrix.CellID  `json:"cell"`
	Chosen  string         `json:"chosen"` // with or without
	Verdict matrix.Verdict `json:"verdict"`
	Phase   matrix.Phase   `json:"phase,omitempty"`
	// As are the signatures found that the fix says it cures or causes.
	As []string `json:"as,omitempty"`
}

// tried looks through the runs kept under root for cells that tell of a fix, the
// latest run first. A run that cannot be read tells nothing. Where the host had
// all that the fix wants, and where its condition was false, a cell tells nothing
// either.
func tried(root string, f *fix.Fix) []trial {
	var all []trial
	for _, id := range runIDs(root) {
		folder, err := openRun(root, id)
		if err != nil {
			continue
		}
		for _, c := range folder.Plan().Cells {
			r, err := folder.Result(c.ID)
			if err != nil {
				continue
			}
			a, ran := r.Last()
			i := slices.IndexFunc(a.Fixes, func(one matrix.AppliedFix) bool { return one.ID == f.ID })
			if !ran || i < 0 {
				continue
			}
			t := trial{Run: id, Cell: c.ID, Verdict: r.Judgement.Verdict, Phase: r.Judgement.Phase}
			switch state := a.Fixes[i].State; {
			case state == string(fix.LeftOut):
				t.Chosen = "without"
			case state == string(fix.Applied) && slices.Contains(r.Cell.With, f.ID):
				t.Chosen = "with"
			default:
				continue
			}
			for _, d := range a.Diagnoses {
				if slices.Contains(f.Cures, d.Signature) || slices.Contains(f.Causes, d.Signature) {
					t.As = append(t.As, d.Signature)
				}
			}
			all = append(all, t)
		}
	}
	return all
}

// String is the trial in one line.
func (t trial) String() string {
	line := fmt.Sprintf("%s %s: %s %s", t.Run, t.Cell, t.Chosen, t.Verdict)
	if t.Phase != "" {
		line += " in " + string(t.Phase)
	}
	if len(t.As) > 0 {
		line += ", by " + strings.Join(t.As, ", ")
	}
	return line
}

// turned is what an ablation says of the fix.
type turned struct {
	Run     string           `json:"run"`
	Cell    matrix.CellID    `json:"cell"`
	Outcome ablation.Outcome `json:"outcome"`
	// With are the others of which one has to stay, where it is redundant.
	With   []string `json:"with,omitempty"`
	Reason string   `json:"reason"`
	// Against says what of the fix's data does not agree with it.
	Against string `json:"against,omitempty"`
}

// ablated looks through the runs kept under root for ablations that tell of a
// fix, the latest run first. A run that cannot be read tells nothing.
func ablated(root string, f *fix.Fix) []turned {
	var all []turned
	for _, id := range runIDs(root) {
		folder, err := openRun(root, id)
		if err != nil {
			continue
		}
		ablations, err := folder.Ablations()
		if err != nil {
			continue
		}
		for _, a := range ablations {
			if a.Goal != matrix.GoalOutcomes {
				continue
			}
			for _, found := range ablation.Outcomes(a).Findings {
				if found.Fix == f.ID {
					all = append(all, turned{Run: id, Cell: a.Cell, Outcome: found.Outcome, With: found.With, Reason: found.Reason, Against: found.Against})
				}
			}
		}
	}
	return all
}

// String is what it turned out to be, in one line.
func (t turned) String() string {
	line := fmt.Sprintf("%s %s: %s: %s", t.Run, t.Cell, strings.TrimSpace(t.Outcome.String()+" "+strings.Join(t.With, ", ")), view.Plain(t.Reason))
	if t.Against != "" {
		line += "\n  against what is known of it: " + t.Against
	}
	return line
}

// effects are a fix's effects as its file spells them, without what it leaves
// out. Settings are told as they are: one may be false or empty on purpose.
func effects(from fix.Effects) (map[string]any, error) {
	data, err := yaml.Dump(from)
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	if err := yaml.Load(data, &all); err != nil {
		return nil, err
	}
	for _, section := range []string{"incus", "host", "node", "containerd"} {
		below, _ := all[section].(map[string]any)
		for _, list := range []string{"files", "units"} {
			items, _ := below[list].([]any)
			for _, item := range items {
				if fields, ok := item.(map[string]any); ok {
					dropEmpty(fields)
				}
			}
		}
		dropEmpty(below)
	}
	dropEmpty(all)
	return all, nil
}

// dropEmpty removes what says nothing.
func dropEmpty(fields map[string]any) {
	maps.DeleteFunc(fields, func(_ string, value any) bool {
		switch v := value.(type) {
		case nil:
			return true
		case string:
			return v == ""
		case bool:
			return !v
		case map[string]any:
			return len(v) == 0
		case []any:
			return len(v) == 0
		}
		return false
	})
}

func (e explained) print(w io.Writer) error {
	var b strings.Builder
	section := func(title, text string) {
		if text = strings.TrimRight(text, "\n"); text != "" {
			text = strings.ReplaceAll("  "+strings.ReplaceAll(text, "\n", "\n  "), "\n  \n", "\n\n")
			fmt.Fprintf(&b, "\n%s\n%s\n", title, text)
		}
	}
	fmt.Fprintf(&b, "%s: %s\n", e.ID, e.Title)
	if e.Harmful {
		section("HARMFUL", "Known advice that does damage. It is never applied by itself; lxcmatrix run --with "+e.ID+" shows what it does.")
	}
	if e.Optional {
		section("OPTIONAL", "It is applied where it is asked for: lxcmatrix run --with "+e.ID)
	}
	section("WHY", e.Why)
	section("APPLIES WHEN", e.When)
	if len(e.Effects) > 0 {
		data, err := yaml.Dump(e.Effects)
		if err != nil {
			return fmt.Errorf("explain fix %s: %w", e.ID, err)
		}
		section("EFFECTS", string(data))
	}
	var lines []string
	for _, v := range e.Verify {
		line := "$ " + strings.TrimSpace(v.Command) + "\n" + v.Want
		if v.After != "" {
			line += "\n(from " + v.After + " on)"
		}
		lines = append(lines, line)
	}
	section("VERIFIED BY, AND WHAT THAT PRINTS", strings.Join(lines, "\n"))
	if e.Repairs != "" {
		section("MENDS BY ITSELF, AND TELLS IT IN", e.Repairs+"\nA cell in which it mended anything fails.")
	}
	for _, w := range e.Written {
		lines = nil
		for _, file := range w.Files {
			lines = append(lines, file.Path+"\n"+indent(file.Content))
		}
		section("WRITTEN BY "+w.Distro+", "+w.For, strings.Join(lines, "\n"))
	}
	section("CURES", describe(e.Cures))
	section("CAUSES", describe(e.Causes))
	section("CANNOT BE IN EFFECT BESIDE", strings.Join(e.Contradicts, "\n"))
	section("COMES AFTER", strings.Join(e.After, "\n"))
	lines = nil
	for _, t := range e.Runs {
		lines = append(lines, t.String())
	}
	section("IN RUNS THAT ARE KEPT HERE", strings.Join(lines, "\n"))
	lines = nil
	for _, t := range e.Ablations {
		lines = append(lines, t.String())
	}
	section("TURNED OUT TO BE, IN RUNS THAT ARE KEPT HERE", strings.Join(lines, "\n"))
	section("SOURCES", strings.Join(e.Sources, "\n"))
	section("FROM", e.File)
	_, err := io.WriteString(w, b.String())
	return err
}

// describe says all of signatures, one below the other.
func describe(all []cured) string {
	var lines []string
	for _, c := range all {
		line := c.Signature
		if c.Title != "" {
			line += ": " + c.Title + "\n  since " + c.Cause + "\n  in " + strings.Join(c.Logs, ", ") + ": " + c.Pattern
		}
		if c.Issue != "" {
			line += "\n  " + c.Issue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// indent puts a text two columns in.
func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}
