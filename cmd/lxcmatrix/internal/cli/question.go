package cli

import "github.com/spf13/cobra"

// question is one about cells: those of a matrix or, where a run is named, of
// that run.
type question struct {
	selection
	root, run string
	asJSON    bool
}

// flags are those of a command whose arguments are so many cells; it completes
// them, too.
func (q *question) flags(cmd *cobra.Command, cells int) {
	f := cmd.Flags()
	q.inputFlags(f)
	f.StringVar(&q.run, "run", "", "ask about a `run` that was kept, by ID or folder")
	f.BoolVar(&q.asJSON, "json", false, "print JSON")
	rootFlag(f, &q.root)
	completeMatrix(cmd)
	completeFixes(cmd)
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		switch {
		case len(args) >= cells:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case q.run != "":
			return keptCells(q.root, q.run), cobra.ShellCompDirectiveNoFileComp
		}
		return plannedNames(q.Matrix), cobra.ShellCompDirectiveNoFileComp
	}
}

// check refuses what says how cells are to be made where a run has made them.
func (q *question) check(cmd *cobra.Command) error {
	for _, flag := range []string{"file", "with", "without", "mirror", "lock"} {
		if q.run != "" && cmd.Flags().Changed(flag) {
			return usage("--%s: a run that was kept has its own; leave out --run to ask about a matrix", flag)
		}
	}
	return nil
}
