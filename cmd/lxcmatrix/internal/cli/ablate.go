package cli

import (
	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

// exitCodesOfTrials are those of ablate and minimize.
const exitCodesOfTrials = `
Exit codes: 0 everything was found out, 1 the cell does not pass with all its fixes,
or passed only when tried again, 2 usage or configuration, 3 the harness failed, or something could not be
told, 130 and 143 interrupted.`

func (p *program) ablate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ablate --only CELL [--fix ID]...", Short: "Say what each fix of a cell is for, by leaving it out",
		Long: `Ablate runs a cell with all its fixes, without any, and without each, on one host
that stays open, one after the other. What comes out otherwise without a fix is
seen again, after the cell with all its fixes came out as before. Then all fixes
that can be spared one by one are left out together; if that fails, those that
cover each other are found. For each fix it says:

  required              fails without it, by a line that it claims to cure
  required-otherwise    fails without it, by something else
  needed-after-restart  fails without it, but only once a node was restarted
  redundant-with        passes without it as long as others stay, which are named
  harmless              passes without it, and without all that are harmless
  harmful               passes only without it
  unknown               cannot be told, and why; also where the host has already
                        what the fix wants, so that it is not left out at all

A trial ends with its first failed phase, and ten seconds after a node shows what
the fix claims to cure, if it goes on to show it. N fixes take at most half as long
again as N runs of the whole cell; fewer than twelve at most six runs more than N,
since one that can be spared takes two, with it and without. What might take longer
is not tried, and unknown.

What came out otherwise than the fix's own data says is told beside it: a failure
that it does not name, advice that is said to do harm and does none. That data is
what has to change then, with the run's table as its source.

Every trial is a run of its own in the run's folder; lxcmatrix report shows the
whole again. What was finished before an interruption is kept, and goes on with
--resume RUN and the same flags.
` + exitCodesOfTrials,
		Example: `  lxcmatrix ablate --only debian/13
  lxcmatrix ablate --only debian/13 --fix cgroup1-split-cpu --fix swap
  lxcmatrix ablate -f kernels --only kubeadm-1.34/debian-13/1/native --markdown table.md
  lxcmatrix ablate --only debian/13 --with kmsg-console --without kmsg-device --fix kmsg-console
  lxcmatrix ablate --only debian/13 --resume 20261120T193324Z-k5x2ab`,
	}
	var asked []string
	cmd.Flags().StringArrayVar(&asked, "fix", nil, "learn about this `fix` only, by ID; may be repeated")
	complete(cmd, "fix", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		folders, _ := cmd.Flags().GetStringArray("fixes")
		return fixIDs(cmd.Context(), folders, func(*fix.Fix) bool { return true }), cobra.ShellCompDirectiveNoFileComp
	})
	return p.trials(cmd, matrix.GoalOutcomes, &asked)
}

func (p *program) minimize() *cobra.Command {
	return p.trials(&cobra.Command{
		Use: "minimize --only CELL", Short: "Find fixes of a cell of which none can be spared",
		Long: `Minimize leaves fixes out of a cell as long as it passes: first all, then ever
smaller parts, in each round those first that open the host to the node most.
What is left out has passed twice; at the end the cell is seen to fail without
each fix that stays. It says how many runs that took.
` + exitCodesOfTrials,
		Example: `  lxcmatrix minimize --only debian/13
  lxcmatrix minimize -f kernels --only kubeadm-1.34/debian-13/1/native --json minimal.json`,
	}, matrix.GoalMinimal, new([]string))
}

// trials completes a verb that leaves fixes out of cells, for a goal.
func (p *program) trials(cmd *cobra.Command, goal matrix.Goal, asked *[]string) *cobra.Command {
	var s selection
	var resume string
	outputs := outputFlags(cmd.Flags())
	cmd.Args = args(noArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(s.Only) == 0 {
			return usage("name a cell with --only: each takes as long as all its fixes, one by one; lxcmatrix plan lists them")
		}
		s.Progress = p.lines()
		planned, err := run.Plan(cmd.Context(), s.Request)
		if err != nil {
			return err
		}
		o := run.AblateOptions{Version: p.Version, Goal: goal, Fixes: *asked}
		if resume != "" {
			folder, err := openRun(s.Root, resume)
			if err != nil {
				return err
			}
			o.Resume = folder.Dir()
		}
		result, err := planned.Ablate(cmd.Context(), o,
			func() string { return p.signalled.Load().(string) })
		if err != nil {
			return err
		}
		folder, err := openRun(s.Root, result.ID)
		if err != nil {
			return err
		}
		if err := p.reports(folder, result, outputs, true); err != nil {
			return err
		}
		return exitOf(result, false)
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringVar(&resume, "resume", "", "go on with the trials of a `run` that was interrupted")
	complete(cmd, "resume", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return runIDs(s.Root), cobra.ShellCompDirectiveDefault
	})
	rootFlag(cmd.Flags(), &s.Root)
	completeSelection(cmd)
	return cmd
}
