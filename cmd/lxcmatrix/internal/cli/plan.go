package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

func (p *program) plan() *cobra.Command {
	var s selection
	var output, format string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan", Short: "Print the cells that a run would have", Args: args(noArgs),
		Long: `Plan expands the matrix, resolves every version and image, asks the gates, and
prints the cells. Nothing is created, and no host is opened: what only a host's
observed facts can tell is decided when a run admits its cells. How long the run
is expected to take comes from the scheduler itself, in simulated time, with the
durations of earlier runs; getting images and releases is not in it.

The github format is one line for the matrix of a GitHub Actions job, with a job
for each host: its name as host, the part of the plan for run --shard as shard, the
labels that its runner must have as runs-on, and how many cells it has as cells.
Labels are self-hosted, linux and lxcmatrix; kvm where a qemu host is declared with
accel: kvm; and a host's own name, where it is not a qemu host and is not called as
its driver is.`,
		Example: `  lxcmatrix plan
  lxcmatrix plan -f smoke
  lxcmatrix plan --skip os=debian/12 --output plan.json
  lxcmatrix plan -f kernels --shard 2/3
  lxcmatrix plan -f kernels --format github
  lxcmatrix plan --json | jq -r '.cells[].id'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				format = "json"
			}
			if !slices.Contains(planFormats(), format) {
				return usage("--format %q: want %s", format, strings.Join(planFormats(), ", "))
			}
			if err := s.shard(); err != nil {
				return err
			}
			s.Progress = p.lines()
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			// As a run keeps it: its URL can hold a password.
			planned.Plan.Sources.Mirror = redact.String(planned.Plan.Sources.Mirror)
			if output != "" {
				if err := plan.Write(output, planned.Plan); err != nil {
					return err
				}
			}
			switch format {
			case "json":
				return writeJSON(p.Out, planned.Plan)
			case "github":
				return plan.GitHub(p.Out, planned.Plan)
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
	f.StringVar(&format, "format", "text", "one of "+strings.Join(planFormats(), ", "))
	f.BoolVar(&asJSON, "json", false, "print the plan as JSON, as --format json")
	completeSelection(cmd)
	complete(cmd, "format", words(planFormats()...))
	return cmd
}

func planFormats() []string { return []string{"github", "json", "text"} }
