package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (p *program) report() *cobra.Command {
	var root, format, output string
	var exitCode, strict bool
	cmd := &cobra.Command{
		Use: "report [RUN]", Short: "Show a run that was kept", Args: args(cobra.MaximumNArgs(1)),
		Long: `Report shows a run: the latest one, or that of an ID or a folder. Verdicts are
judged anew from the evidence that was kept.

The html format is one page that needs nothing else, neither a server nor a
network: the grid by any axes, and of each cell all that was seen, its logs and
its past. Every run that ends writes it into its folder, as report.html.`,
		Example: `  lxcmatrix report
  lxcmatrix report --format markdown --output report.md
  lxcmatrix report --format html --output report.html
  lxcmatrix report runs/20261120T193324Z-k5x2ab --format junit
  lxcmatrix report --exit-code --strict`,
		RunE: func(_ *cobra.Command, args []string) error {
			if _, ok := renderers[format]; !ok {
				return usage("--format %q: want %s", format, strings.Join(formats(), ", "))
			}
			folder, err := openRun(root, first(args))
			if err != nil {
				return err
			}
			r, err := folder.Read()
			if err != nil {
				return err
			}
			switch {
			case output != "":
				err = writeReport(output, format, folder, r)
			case format == "table":
				err = p.table(r)
			default:
				err = renderers[format](p.Out, folder, r)
			}
			if err != nil || !exitCode {
				return err
			}
			return exitOf(r, strict)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return runIDs(root), cobra.ShellCompDirectiveDefault
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", "one of "+strings.Join(formats(), ", "))
	f.StringVarP(&output, "output", "o", "", "write the report to a `file` instead")
	f.BoolVar(&exitCode, "exit-code", false, "end with the run's own exit code instead of 0")
	strictFlag(f, &strict)
	rootFlag(f, &root)
	complete(cmd, "format", words(formats()...))
	return cmd
}

func formats() []string { return slices.Sorted(maps.Keys(renderers)) }

// first is the first of args, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
