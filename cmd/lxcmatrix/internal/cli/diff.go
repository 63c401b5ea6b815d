package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

func (p *program) fixesDiff() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use: "diff CELL CELL", Short: "Say which fixes two cells differ in, and by which facts", Args: args(cobra.ExactArgs(2)),
		Long: `Diff decides about every fix for two cells of the matrix, by what the matrix
declares, and shows those that come out differently with the facts that their
conditions look at and that are not the same. With --run it shows what was decided
in a run, by what was observed there. A cell is named by its ID, or by a selector
that matches it alone.`,
		Example: `  lxcmatrix fixes diff -f kernels host=k5.10-v1 host=k6.12-v2
  lxcmatrix fixes diff debian/12 debian/13 --run 20261120T193324Z-k5x2ab`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := q.check(cmd); err != nil {
				return err
			}
			var knowledge *catalog.Knowledge
			var sides [2]side
			var err error
			if q.run == "" {
				q.Progress = p.lines()
				knowledge, sides, err = plannedSides(cmd, q.Request, args)
			} else {
				knowledge, sides, err = keptSides(cmd.Context(), q.root, q.run, q.FixFolders, args)
			}
			if err != nil {
				return err
			}
			d, err := differences(knowledge, sides)
			if err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(p.Out, d)
			}
			return p.printDifferences(d)
		},
	}
	q.flags(cmd, 2)
	return cmd
}

// side is one of the cells, with what was observed of it.
type side struct {
	cell matrix.Cell
	host *matrix.HostFacts
	node *matrix.NodeFacts
	// states are those that a run decided on; nil where none did.
	states map[string]string
}

func plannedSides(cmd *cobra.Command, r run.Request, names []string) (*catalog.Knowledge, [2]side, error) {
	var sides [2]side
	planned, err := run.Plan(cmd.Context(), r)
	if err != nil {
		return nil, sides, err
	}
	for i, name := range names {
		if sides[i].cell, err = findCell(planned.Plan, name); err != nil {
			return nil, sides, err
		}
	}
	return planned.Knowledge, sides, nil
}

func keptSides(ctx context.Context, root, name string, folders, names []string) (*catalog.Knowledge, [2]side, error) {
	var sides [2]side
	knowledge, err := loadKnowledge(ctx, folders)
	if err != nil {
		return nil, sides, err
	}
	folder, err := openRun(root, name)
	if err != nil {
		return nil, sides, err
	}
	for i, cell := range names {
		c, err := findCell(folder.Plan(), cell)
		if err != nil {
			return nil, sides, err
		}
		r, err := folder.Result(c.ID)
		if err != nil {
			return nil, sides, err
		}
		a, ran := r.Last()
		if !ran || len(a.Fixes) == 0 {
			return nil, sides, usage("cell %s has no fixes in run %s: it never came to a node", c.ID, name)
		}
		sides[i] = side{cell: r.Cell, host: &a.Host, states: map[string]string{}}
		if len(a.Nodes) > 0 {
			sides[i].node = &a.Nodes[0]
		}
		for _, f := range a.Fixes {
			sides[i].states[f.ID] = f.State
		}
	}
	return knowledge, sides, nil
}

// difference is a fix that comes out differently; its JSON is for scripts.
type difference struct {
	Fix    string    `json:"fix"`
	States [2]string `json:"states"`
	When   string    `json:"when"`
	// Facts are those that the condition looks at and that differ.
	Facts []factOfTwo `json:"facts"`
}

type factOfTwo struct {
	Name   string    `json:"name"`
	Values [2]string `json:"values"`
}

type comparison struct {
	Cells       [2]matrix.CellID `json:"cells"`
	Differences []difference     `json:"differences"`
}

func differences(knowledge *catalog.Knowledge, sides [2]side) (comparison, error) {
	c := comparison{Differences: []difference{}}
	var decisions [2][]fix.Decision
	var facts [2]fix.Facts
	for i, s := range sides {
		c.Cells[i] = s.cell.ID
		var err error
		if decisions[i], facts[i], err = knowledge.Decisions(s.cell, s.host, s.node); err != nil {
			return comparison{}, fmt.Errorf("decide on the fixes of cell %s: %w", s.cell.ID, err)
		}
	}
	for k, one := range decisions[0] {
		d := difference{Fix: one.Fix.ID, When: one.Fix.Condition().String(), Facts: []factOfTwo{}}
		for i, s := range sides {
			d.States[i] = decisions[i][k].State.String()
			if s.states == nil {
				continue
			}
			if d.States[i] = s.states[d.Fix]; d.States[i] == "" {
				d.States[i] = "not known then"
			}
		}
		if d.States[0] == d.States[1] {
			continue
		}
		for _, name := range one.Fix.Condition().Facts() {
			f := factOfTwo{Name: name}
			for i := range sides {
				f.Values[i] = "not known"
				if value, known := facts[i][name]; known {
					f.Values[i] = fix.FactText(value)
				}
			}
			if f.Values[0] != f.Values[1] {
				d.Facts = append(d.Facts, f)
			}
		}
		c.Differences = append(c.Differences, d)
	}
	return c, nil
}

func (p *program) printDifferences(c comparison) error {
	if _, err := fmt.Fprintf(p.Out, "A  %s\nB  %s\n\n", c.Cells[0], c.Cells[1]); err != nil {
		return err
	}
	if len(c.Differences) == 0 {
		_, err := fmt.Fprintln(p.Out, "They have the same fixes.")
		return err
	}
	var rows [][]string
	for _, d := range c.Differences {
		var because []string
		for _, f := range d.Facts {
			because = append(because, fmt.Sprintf("%s: %s in A, %s in B", f.Name, orNone(f.Values[0]), orNone(f.Values[1])))
		}
		if len(because) == 0 {
			// Somebody chose it, or the host had it already.
			because = append(because, "by choice or by what the host had")
		}
		rows = append(rows, []string{d.Fix, d.States[0], d.States[1], strings.Join(because, "; ")})
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return columns(p.Out, []string{"FIX", "A", "B", "BECAUSE"}, rows)
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
