package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
)

func (p *program) fixesLint() *cobra.Command {
	var folders, passing []string
	cmd := &cobra.Command{
		Use: "lint", Short: "Check fixes, gates and signatures, each by itself and against the others", Args: args(noArgs),
		Long: `Lint reads the fixes of folders, with the gates and signatures in their folders of
these names, beside those that are built in, and says what is wrong with any of
them: a key that does not exist, a condition that is none, two fixes that want
different things of one key in one cell, fixes that come after themselves, names
of what is not there, a signature that matches a log in which nothing failed. Each
is told with its file, line and column. A run checks the same before it creates
anything; --passing adds logs of your own.`,
		Example: `  lxcmatrix fixes lint
  lxcmatrix fixes lint --fixes my-fixes
  lxcmatrix fixes lint --fixes my-fixes --passing runs/20261120T193324Z-k5x2ab/cells`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			knowledge, err := loadKnowledge(cmd.Context(), folders)
			if err != nil {
				return err
			}
			for _, dir := range passing {
				if _, err := os.Stat(dir); err != nil {
					return usage("--passing: %w", err)
				}
				if err := diagnose.MatchesNone(cmd.Context(), knowledge.Signatures, datafile.Source{Name: dir, FS: os.DirFS(dir)}); err != nil {
					return usage("%w", err)
				}
			}
			_, err = fmt.Fprintf(p.Out, "%d fixes, %d gates and %d signatures: nothing is wrong\n",
				len(knowledge.Fixes.All()), len(knowledge.Gates.All()), len(knowledge.Signatures))
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&folders, "fixes", nil, "add the fixes of a `folder`")
	f.StringArrayVar(&passing, "passing", nil, "a `folder` of logs of cells that passed, which no signature may match")
	return cmd
}
