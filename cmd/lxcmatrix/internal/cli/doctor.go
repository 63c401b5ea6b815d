package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/doctor"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
)

func (p *program) doctor() *cobra.Command {
	var file, purpose string
	var fixIt, asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find what this machine lacks, and mend it with --fix", Args: args(noArgs),
		Long: `Doctor examines this machine for the hosts of a matrix, and says the remedy of
everything that is missing or wrong. With --fix it applies the remedies that
are safe to apply, says each before it is taken, and examines again;
LXCMATRIX_BOOTSTRAP=no refuses that.

Exit code: 0, or 3 where problems remain.`,
		Example: `  lxcmatrix doctor
  lxcmatrix doctor --fix
  lxcmatrix doctor --fix --for test
  lxcmatrix doctor --json | jq '.[] | select(.severity != "ok")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			examinations, err := examinations(file, doctor.Purpose(purpose))
			if err != nil {
				return err
			}
			examine := func() (all []doctor.Finding) {
				for _, options := range examinations {
					for _, f := range p.machine.Examine(ctx, options) {
						if !slices.ContainsFunc(all, func(known doctor.Finding) bool { return known.String() == f.String() }) {
							all = append(all, f)
						}
					}
				}
				return all
			}
			findings := examine()
			var fixErr error
			if fixIt {
				var refused *doctor.RefusedError
				if fixErr = p.machine.Fix(ctx, findings, p.Err); !errors.As(fixErr, &refused) {
					findings = examine()
				}
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("examine this machine: %w", err)
			}
			if asJSON {
				err = writeJSON(p.Out, findings)
			} else {
				err = printFindings(p.Out, findings)
			}
			if err := errors.Join(err, fixErr); err != nil {
				return err
			}
			return remaining(doctor.Problems(findings), fixIt)
		},
	}
	f := cmd.Flags()
	matrixFlag(f, &file)
	f.BoolVar(&fixIt, "fix", false, "apply the remedies that are safe to apply")
	f.StringVar(&purpose, "for", string(doctor.Matrix), "what the machine is used `for`: matrix, or test, which needs more")
	f.BoolVar(&asJSON, "json", false, "print the findings as JSON")
	completeMatrix(cmd)
	complete(cmd, "for", words(string(doctor.Matrix), string(doctor.Test)))
	return cmd
}

// examinations says what to examine the machine for: each way that a matrix'
// hosts are driven.
func examinations(file string, purpose doctor.Purpose) ([]doctor.Options, error) {
	if purpose != doctor.Matrix && purpose != doctor.Test {
		return nil, usage("--for %q: want matrix or test", purpose)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the matrix: %w", err)
	}
	m, err := config.Find(file, cwd)
	if err != nil {
		return nil, usage("%w", err)
	}
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	budget := m.PlanBudget()
	var all []doctor.Options
	for _, h := range m.Hosts {
		if slices.ContainsFunc(all, func(o doctor.Options) bool { return o.HostDriver == h.Driver }) {
			continue
		}
		all = append(all, doctor.Options{Purpose: purpose, HostDriver: h.Driver, CacheDir: cache, StateDir: host.StateDir(),
			PoolBytes: budget.DiskBytes, MemoryBytes: budget.Node.MemoryBytes})
	}
	return all, nil
}

func printFindings(w io.Writer, findings []doctor.Finding) error {
	for _, f := range findings {
		text := fmt.Sprintf("%-8s %s: %s\n", f.Severity, f.ID, f.What)
		if f.Remedy != "" {
			text += fmt.Sprintf("%-8s remedy: %s\n", "", f.Remedy)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return fmt.Errorf("print findings: %w", err)
		}
	}
	return nil
}

// remaining fails where problems remain.
func remaining(problems []doctor.Finding, fixed bool) error {
	if len(problems) == 0 {
		return nil
	}
	fixable := slices.ContainsFunc(problems, func(f doctor.Finding) bool { return f.Fixable })
	hint := "the remedies above are yours to apply"
	if fixable && !fixed {
		hint = "lxcmatrix doctor --fix mends what it can"
	}
	keep := "1 problem keeps"
	if len(problems) > 1 {
		keep = fmt.Sprintf("%d problems keep", len(problems))
	}
	return fmt.Errorf("%s cells from running; %s", keep, hint)
}
