package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func (p *program) flakes() *cobra.Command {
	var root string
	var most int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "flakes", Short: "Rank the cells that passed only when tried again", Args: args(noArgs),
		Long: `Flakes ranks the cells that passed only when they were tried again, over the runs
that were kept: those first that are so most often for each result. Cells are
tried again where a run was started with --retries; each attempt is kept, and a
cell that needed more than one is flaky, and never passes.`,
		Example: `  lxcmatrix run --retries 2
  lxcmatrix flakes
  lxcmatrix flakes --last 30 --json`,
		RunE: func(*cobra.Command, []string) error {
			if most < 1 {
				return usage("--last %d: want 1 or more", most)
			}
			runs, unread := runfolder.ReadPast(root, "", most)
			for _, err := range unread {
				p.say("left out: %v", err)
			}
			if len(runs) == 0 {
				return usage("no run is kept under %s; make one with lxcmatrix run --retries 2, or name the folder with --runs", root)
			}
			flakes := history.Flakes(runs)
			switch {
			case asJSON:
				return writeJSON(p.Out, flakes)
			case len(flakes) == 0:
				_, err := fmt.Fprintf(p.Out, "no cell was flaky in the last %d runs\n", len(runs))
				return err
			}
			var rows [][]string
			for _, f := range flakes {
				id := view.Plain(string(f.Cell))
				if len(f.Chosen) > 0 {
					id += " " + view.Plain(strings.Join(f.Chosen, ", "))
				}
				rows = append(rows, []string{id, fmt.Sprintf("%d of %d", f.Flaky, f.Results), fmt.Sprintf("%d%%", 100*f.Flaky/f.Results), view.Plain(f.Last), view.Plain(f.Reason)})
			}
			return columns(p.Out, []string{"CELL", "FLAKY", "RATE", "LAST", "REASON"}, rows)
		},
	}
	f := cmd.Flags()
	f.IntVar(&most, "last", html.PastRuns, "look at the last `N` runs")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	rootFlag(f, &root)
	return cmd
}
