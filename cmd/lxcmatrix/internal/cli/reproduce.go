package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"mvdan.cc/sh/v3/syntax"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func (p *program) reproduce() *cobra.Command {
	var root, name string
	var folders []string
	cmd := &cobra.Command{
		Use: "reproduce CELL", Short: "Print what runs a cell of a run again", Args: args(cobra.ExactArgs(1)),
		Long: `Reproduce prints a shell script that runs one cell of a run again: the matrix file
that makes this cell alone, at the exact version, with the same limits, timeouts
and sources, and the command with the fixes that were chosen. It also says what the
run was made of, with digests, and how to see which of that is another now. CELL is
a cell's ID or a selector that matches it alone.

A cell that no matrix file makes as it was planned is refused. Fixes that lxcmatrix
does not bring are in no run: name their folder with --fixes.`,
		Example: `  lxcmatrix reproduce debian/13
  lxcmatrix reproduce kubeadm-1.34/debian-13/1/embedded --run 20261120T193324Z-k5x2ab >again.sh
  lxcmatrix reproduce debian/13 | sh`,
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, r, err := readRun(root, name)
			if err != nil {
				return err
			}
			c, err := findCell(folder.Plan(), args[0])
			if err != nil {
				return err
			}
			text, err := p.again(cmd.Context(), r, c.ID, folders)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(p.Out, text)
			return err
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return keptCells(root, name), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := cmd.Flags()
	rootFlag(f, &root)
	f.StringVar(&name, "run", "", "a `run` by ID or folder; default: the latest")
	f.StringArrayVar(&folders, "fixes", nil, "add the fixes of a `folder`")
	return cmd
}

// again is the script that runs a cell again.
func (p *program) again(ctx context.Context, r matrix.Run, id matrix.CellID, folders []string) (string, error) {
	var result matrix.Result
	for _, one := range r.Results {
		if one.Cell.ID == id {
			result = one
		}
	}
	planned, _ := r.Plan.Cell(id)
	knowledge, err := loadKnowledge(ctx, folders)
	if err != nil {
		return "", err
	}
	if err := known(knowledge, result); err != nil {
		return "", err
	}
	m, err := config.OfCell(r.Plan, planned)
	if err != nil {
		return "", usage("%w", err)
	}
	file, err := m.YAML()
	if err != nil {
		return "", err
	}

	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, "# "+format+"\n", args...) }
	cell := view.Plain(string(id))
	came := result.Judgement.Verdict.String()
	if reason := view.Plain(result.Judgement.Reason); reason != "" {
		came += ": " + reason
	}
	say("%s, in run %s: %s", cell, view.Plain(r.ID), came)
	if r.Version != p.Version {
		say("The run was made by lxcmatrix %s, which knows other fixes than this one, %s, may know.", view.Plain(r.Version), p.Version)
	}
	say("The whole run was made of:")
	for _, in := range r.Plan.Inputs {
		digest := in.Digest
		if digest == "" {
			digest = "made in the run"
		}
		say("  %s", view.Plain(fmt.Sprintf("%s %s %s: %s, from %s %s", in.Kind, in.Name, in.Version, digest, in.Source, in.Provenance)))
	}
	dir := "reproduce-" + id.FileName()
	path := filepath.Join(dir, "matrix.yaml")
	end := "END"
	for strings.Contains(string(file), end) {
		end += "_"
	}
	command := []string{"lxcmatrix", "run", "-f", path, "--only", string(id)}
	for _, folder := range folders {
		command = append(command, "--fixes", folder)
	}
	for _, fix := range planned.With {
		command = append(command, "--with", fix)
	}
	for _, fix := range planned.Without {
		command = append(command, "--without", fix)
	}
	if planned.DefyGates {
		command = append(command, "--defy-gates")
	}
	if planned.Soak > 0 {
		command = append(command, "--soak", strconv.Itoa(planned.Soak))
	}
	line, err := shellLine(command)
	if err != nil {
		return "", fmt.Errorf("write the command for cell %s: %w", id, err)
	}
	folder, err := shellLine([]string{dir})
	if err != nil {
		return "", fmt.Errorf("write the command for cell %s: %w", id, err)
	}
	fmt.Fprintf(&b, "mkdir -p %s\ncat >%s/matrix.yaml <<'%s'\n%s%s\n%s\n", folder, folder, end, file, end, line)
	say("What is another now, inputs among it: lxcmatrix diff %s", view.Plain(r.ID))
	return b.String(), nil
}

// known refuses fixes that were in a run and that nobody knows here.
func known(knowledge *catalog.Knowledge, result matrix.Result) error {
	a, _ := result.Last()
	ids := append(append([]string{}, result.Cell.With...), result.Cell.Without...)
	for _, f := range a.Fixes {
		ids = append(ids, f.ID)
	}
	for _, id := range ids {
		if _, err := knowledge.Fixes.Fix(id); err != nil {
			return usage("cell %s: %w; if it is yours, name its folder with --fixes", result.Cell.ID, err)
		}
	}
	return nil
}

// shellLine is a command as a shell reads it.
func shellLine(words []string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		var err error
		if quoted[i], err = syntax.Quote(w, syntax.LangPOSIX); err != nil {
			return "", err
		}
	}
	return strings.Join(quoted, " "), nil
}
