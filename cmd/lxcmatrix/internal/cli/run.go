package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	jsonreport "github.com/lxcmatrix/lxcmatrix/reports/json"
	"github.com/lxcmatrix/lxcmatrix/reports/junit"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
	"github.com/lxcmatrix/lxcmatrix/suites/compat"
)

// selection holds the flags that say which cells are meant.
type selection struct{ run.Request }

func (s *selection) flags(f *pflag.FlagSet) {
	f.StringVarP(&s.Matrix, "file", "f", "", "matrix file, or the name of a built-in `matrix`; default: matrix.yaml here, else the built-in default")
	f.StringArrayVar(&s.Only, "only", nil, "only cells that match: a distro, an OS, key=value[,key=value], a cell ID or a `glob`; may be repeated")
	f.StringArrayVar(&s.Skip, "skip", nil, "leave out cells that match, written as for --only")
	f.StringArrayVar(&s.Without, "without", nil, "leave a `fix` out of every cell, by ID")
	f.StringArrayVar(&s.FixFolders, "fixes", nil, "add the fixes of a `folder`")
	f.StringVar(&s.Mirror, "mirror", os.Getenv("LXCMATRIX_MIRROR"), "`URL` of a mirror of upstream's releases, file:// or https://; default: $LXCMATRIX_MIRROR")
}

func (p *program) run() *cobra.Command {
	var s selection
	var keep, root string
	var retries int
	var strict bool
	outputs := map[string]*string{"json": new(string), "junit": new(string), "markdown": new(string)}
	cmd := &cobra.Command{
		Use: "run", Short: "Run the matrix and print what passed", Args: cobra.NoArgs,
		Long: `Run creates the cells' nodes, applies the fixes, installs Kubernetes, checks it,
restarts the nodes gracefully and by force, checks it again after each, and
prints the table. Everything that was seen is kept in the run's folder.`,
		Example: `  lxcmatrix run
  lxcmatrix run --only kubeadm,debian/13
  lxcmatrix run -f smoke --without restrict-oom-score-adj --keep on-failure
  lxcmatrix run --junit junit.xml --markdown report.md`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k := cell.Keep(keep)
			if k != cell.KeepNever && k != cell.KeepOnFailure && k != cell.KeepAlways {
				return fmt.Errorf("--keep %q: want on-failure, always or never; %w", keep, errUsage)
			}
			shown := progress.New(p.Err, time.Now)
			s.Progress = shown
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			r, err := planned.Start(cmd.Context(), run.Options{Version: p.version, Root: root, Keep: k, Attempts: retries + 1})
			if err != nil {
				return err
			}
			shown.Note("run %s: %d cells, kept in %s", r.ID, len(planned.Plan.Cells), r.Folder.Dir())
			suiteErr := p.suite(planned.Plan, r, shown)
			result, err := r.Finish(func() string { return p.signalled.Load().(string) })
			if err := errors.Join(suiteErr, err); err != nil {
				return err
			}
			if err := p.report(result, outputs); err != nil {
				return err
			}
			if code := matrix.ExitCode(result, strict); code != matrix.ExitExpected {
				return exitError(code)
			}
			return nil
		},
	}
	f := cmd.Flags()
	s.flags(f)
	f.StringVar(&keep, "keep", string(cell.KeepNever), "leave a cell's nodes for a look: on-failure, always or `never`")
	f.IntVar(&retries, "retries", 0, "try a cell that fails `N` times more; one that passes then is flaky")
	f.BoolVar(&strict, "strict", false, "cells that are optional and blocked fail the run too")
	f.StringVar(&root, "runs", runfolder.Root, "`folder` that runs are kept in")
	for name, path := range outputs {
		f.StringVar(path, name, "", "also write the "+name+" report to a `file`")
	}
	return cmd
}

// suite runs the specs over the run in flight. What they print goes to the
// run's folder: the table says the same in less.
func (p *program) suite(plan matrix.Plan, r *run.Run, shown *progress.Lines) error {
	log, err := os.OpenFile(filepath.Join(r.Folder.Dir(), "suite.log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the suite's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	compat.Define(plan, r.Engine)
	if _, err := compat.Run(log, "lxcmatrix "+r.ID); err != nil {
		return err
	}
	if p.signalled.Load() != "" {
		shown.Note("interrupted by %s: removing nodes", p.signalled.Load())
	}
	return nil
}

// renderers by the name of their flag.
var renderers = map[string]func(io.Writer, matrix.Run) error{
	"json": jsonreport.Render, "junit": junit.Render, "markdown": markdown.Render,
}

// report prints the table and writes the reports that were asked for.
func (p *program) report(r matrix.Run, outputs map[string]*string) error {
	if err := table.RenderWith(p.Out, r, table.Options{Colour: colour(p.Out), Width: width(p.Out)}); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	for name, path := range outputs {
		if *path == "" {
			continue
		}
		f, err := os.Create(*path)
		if err == nil {
			err = errors.Join(renderers[name](f, r), f.Close())
		}
		if err != nil {
			return fmt.Errorf("write the %s report to %s: %w", name, *path, err)
		}
	}
	return nil
}
