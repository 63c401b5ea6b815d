package cli

import (
	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

func (p *program) resume() *cobra.Command {
	var root, mirror, output string
	var strict, changed bool
	var outputs map[string]*string
	cmd := &cobra.Command{
		Use: "resume [RUN]", Short: "Go on with a run that did not end", Args: args(cobra.MaximumNArgs(1)),
		Long: `Resume goes on with a run that was interrupted, or whose process was killed: with
the one named, or the latest. Cells that are over stay as they are. Nodes and
virtual machines that the process left are removed. A cell that had shown what it
is worth keeps that, and its logs are collected from the nodes that are there; any
other is made anew, and what was seen of it stays beside it as an attempt that was
interrupted.

Versions, images and limits are those of the run's plan, --keep and --retries those
that it was started with. A program, fixes, gates, signatures, releases or images
that are others now are named and refused; --changed goes on with them.

A run that a process works on is refused, with that process' ID.`,
		Example: `  lxcmatrix resume
  lxcmatrix resume 20261120T193324Z-k5x2ab
  lxcmatrix resume 20261120T193324Z-k5x2ab --junit junit.xml
  lxcmatrix resume --changed`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			folder, err := openRun(root, name)
			if err != nil {
				return err
			}
			shown, err := p.progress(output)
			if err != nil {
				return err
			}
			r, err := run.Resume(cmd.Context(), run.ResumeRequest{Dir: folder.Dir(), Root: root, Mirror: mirror, Changed: changed, Progress: shown, Ground: p.Ground})
			if err != nil {
				return err
			}
			shown.Keep(r.Folder.AppendEvent)
			return p.finish(r, nil, outputs, output == outputText, strict)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return runIDs(root), cobra.ShellCompDirectiveDefault
		},
	}
	f := cmd.Flags()
	f.BoolVar(&changed, "changed", false, "go on although the program, fixes or inputs are others than the run was started with")
	mirrorFlag(f, &mirror)
	strictFlag(f, &strict)
	rootFlag(f, &root)
	outputs = outputFlags(f)
	outputFlag(f, &output)
	complete(cmd, "output", words(outputText, outputJSON))
	return cmd
}
