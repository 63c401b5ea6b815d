package cli

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	jsonreport "github.com/lxcmatrix/lxcmatrix/reports/json"
)

func (p *program) schema() *cobra.Command {
	schemas := map[string]func() ([]byte, error){
		"matrix": config.Schema, "fix": fix.Schema, "gate": fix.GateSchema, "signature": diagnose.Schema,
		"report": jsonreport.Schema,
	}
	kinds := slices.Sorted(maps.Keys(schemas))
	return &cobra.Command{
		Use: "schema [KIND]", Short: "Print the JSON Schema of matrix files, of fixes, gates and signatures, or of reports", Args: args(cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)),
		Long: `Schema prints the JSON Schema (draft 2020-12) of matrix.yaml, with what every key
means and its default, or that of the file of a fix, a gate or a signature.
Editors complete and check files with it. That of report is what lxcmatrix report
--format json writes.`,
		Example: `  lxcmatrix schema > matrix.schema.json
  lxcmatrix schema fix > fix.schema.json
  lxcmatrix schema | jq '.properties | keys'`,
		ValidArgs: kinds,
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := schemas[append(args, "matrix")[0]]()
			if err == nil {
				_, err = p.Out.Write(data)
			}
			return err
		},
	}
}
