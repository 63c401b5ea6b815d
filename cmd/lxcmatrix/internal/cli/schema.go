package cli

import (
	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
)

func (p *program) schema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of matrix files", Args: args(noArgs),
		Long: `Schema prints the JSON Schema (draft 2020-12) of matrix.yaml, with what every key
means and its default. Editors complete and check a matrix file with it.`,
		Example: `  lxcmatrix schema > matrix.schema.json
  lxcmatrix schema | jq '.properties | keys'`,
		RunE: func(*cobra.Command, []string) error {
			data, err := config.Schema()
			if err == nil {
				_, err = p.Out.Write(data)
			}
			return err
		},
	}
}
