package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

func (p *program) plan() *cobra.Command {
	var s selection
	var output string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan", Short: "Print the cells that a run would have", Args: args(noArgs),
		Long: `Plan expands the matrix, resolves every version and image, asks the gates, and
prints the cells. Nothing is created, and no host is opened: what only a host's
observed facts can tell is decided when a run admits its cells. How long the run
is expected to take comes from the scheduler itself, in simulated time, with the
durations of earlier runs; getting images and releases is not in it.`,
		Example: `  lxcmatrix plan
  lxcmatrix plan -f smoke
  lxcmatrix plan --skip os=debian/12 --output plan.json
  lxcmatrix plan -f kernels --shard 2/3
  lxcmatrix plan --json | jq -r '.cells[].id'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.shard(); err != nil {
				return err
			}
			s.Progress = progress.NewLines(p.Err, time.Now)
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			if output != "" {
				if err := plan.Write(output, planned.Plan); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(p.Out, planned.Plan)
			}
			return plan.Print(p.Out, planned.Plan)
		},
	}
	f := cmd.Flags()
	s.flags(f)
	s.restartFlag(f)
	s.shardFlag(f)
	rootFlag(f, &s.Root)
	f.StringVarP(&output, "output", "o", "", "also write the plan to a `file`, as a run keeps it in plan.json")
	f.BoolVar(&asJSON, "json", false, "print the plan as JSON")
	completeSelection(cmd)
	return cmd
}
