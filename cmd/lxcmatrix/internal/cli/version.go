package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (p *program) versionVerb() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the program's version", Args: args(noArgs),
		Example: `  lxcmatrix version`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.Out, "lxcmatrix %s %s %s/%s\n", p.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
