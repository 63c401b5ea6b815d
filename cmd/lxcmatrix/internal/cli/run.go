package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
	"github.com/lxcmatrix/lxcmatrix/suites/compat"
)

// selection holds the flags that say which cells are meant.
type selection struct {
	run.Request
	// part is the shard as it was written.
	part string
}

func (s *selection) flags(f *pflag.FlagSet) {
	s.inputFlags(f)
	f.StringArrayVar(&s.Only, "only", nil, "only cells that match: a distro, an OS, key=value[,key=value], a cell ID or a `glob`; may be repeated")
	f.StringArrayVar(&s.Skip, "skip", nil, "leave out cells that match, written as for --only")
}

// shardFlag is read by shard.
func (s *selection) shardFlag(f *pflag.FlagSet) {
	f.StringVar(&s.part, "shard", "", "only a `part` of the plan: I/N, as 2/4 for the second of four, or host=NAME")
}

// shard reads which part of the plan is meant.
func (s *selection) shard() (err error) {
	if s.Part, err = plan.ParsePart(s.part); err != nil {
		return usage("--shard: %w", err)
	}
	return nil
}

func (s *selection) restartFlag(f *pflag.FlagSet) {
	f.StringArrayVar(&s.Restarts, "restart", nil, "a further `kind` of restart for every cell: service, daemon, agents, rollout, agents-away or agents-gone; may be repeated")
	f.IntVar(&s.Soak, "soak", 0, "restart the nodes of every cell `N` times in a row at the end, and tell how long they took to recover")
}

// inputFlags are those that say what cells are made of.
func (s *selection) inputFlags(f *pflag.FlagSet) {
	matrixFlag(f, &s.Matrix)
	f.StringArrayVar(&s.With, "with", nil, "apply a harmful or optional `fix` to every cell, by ID, to see what it does")
	f.StringArrayVar(&s.Without, "without", nil, "leave a `fix` out of every cell, by ID")
	f.StringArrayVar(&s.FixFolders, "fixes", nil, "add the fixes of a `folder`")
	mirrorFlag(f, &s.Mirror)
	lockFlag(f, &s.Lock)
}

func matrixFlag(f *pflag.FlagSet, name *string) {
	f.StringVarP(name, "file", "f", "", "matrix file, or the name of a built-in `matrix`; default: matrix.yaml here, else the built-in default")
}

func mirrorFlag(f *pflag.FlagSet, mirror *string) {
	f.StringVar(mirror, "mirror", os.Getenv("LXCMATRIX_MIRROR"), "a mirror of upstream's releases: a `folder`, or a file://, http:// or https:// URL; default: $LXCMATRIX_MIRROR")
}

func lockFlag(f *pflag.FlagSet, lock *string) {
	f.StringVar(lock, "lock", "", "lock `file` of versions and digests; default: "+artifact.LockName+" beside the matrix file, if it is there")
}

func rootFlag(f *pflag.FlagSet, root *string) {
	f.StringVar(root, "runs", runfolder.Root, "`folder` that runs are kept in")
}

func (p *program) run() *cobra.Command {
	var s selection
	var keep, output, show string
	var retries int
	var strict, detached bool
	var outputs map[string]*string
	cmd := &cobra.Command{
		Use: "run", Short: "Run the matrix and print what passed", Args: args(noArgs),
		Long: `Run creates the cells' nodes, applies the fixes, installs Kubernetes, checks it,
restarts the nodes gracefully and by force, checks it again after each, and
prints the table. Everything that was seen is kept in the run's folder.

A cell that a gate rules out is not run. With --defy-gates it is, where that can
show whether the gate still holds: a cell that fails as the gate says stays
impossible, one that passes is a deviation, xpass.

On a terminal the run is shown as it goes on, and is a process of its own, which
goes on where this one is left or killed. --show lines runs it in this process
and says in lines what happens, as it does without a terminal.

With --shard a part of the plan is run, so that several machines share it: I/N
deals the cells into N parts, of which a cell always gets the same one, with those
of a virtual machine or a remote host together; host=NAME takes the cells of one
host. The run's folder says which part of which plan it is, and report --merge
joins the parts. Machines that resolve versions at different times, or from
different sources, share a lock: lxcmatrix artifacts lock, then --lock.`,
		Example: `  lxcmatrix run
  lxcmatrix run --only kubeadm,debian/13
  lxcmatrix run -f smoke --without restrict-oom-score-adj --keep on-failure
  lxcmatrix run --only debian/13 --with kmsg-console --without kmsg-device
  lxcmatrix run -f kernels --defy-gates
  lxcmatrix run -f smoke --soak 20
  lxcmatrix run -f kernels --shard 2/3
  lxcmatrix run --detach
  lxcmatrix run --junit junit.xml --markdown report.md
  lxcmatrix run --output json | jq -r 'select(.kind == "cell-ended") | [.cell, .verdict] | @tsv'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k := cell.Keep(keep)
			if k != cell.KeepNever && k != cell.KeepOnFailure && k != cell.KeepAlways {
				return usage("--keep %q: want on-failure, always or never", keep)
			}
			if retries < 0 {
				return usage("--retries %d: want 0 or more", retries)
			}
			if err := s.shard(); err != nil {
				return err
			}
			live, err := p.live(show, output)
			if err != nil {
				return err
			}
			if live || detached {
				return p.runApart(cmd.Context(), s.Root, detached)
			}
			shown, err := p.progress(output)
			if err != nil {
				return err
			}
			s.Progress = shown
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			if s := planned.Plan.Shard; s != nil && len(planned.Plan.Cells) == 0 {
				p.say("shard %s has none of the plan's %d cells: nothing to run", s.Part, len(s.Cells))
				return nil
			}
			r, err := planned.Start(cmd.Context(), run.Options{Version: p.Version, Keep: k, Attempts: retries + 1, Hear: true, Ground: p.Ground})
			if err != nil {
				return err
			}
			shown.Keep(r.Folder.AppendEvent)
			shown.Note("run %s: %s, kept in %s", r.ID, planned.Plan.Extent(), r.Folder.Dir())
			return p.finish(r, p.suite(planned.Plan, r), outputs, output == outputText, strict)
		},
	}
	f := cmd.Flags()
	s.flags(f)
	s.restartFlag(f)
	s.shardFlag(f)
	f.BoolVar(&s.DefyGates, "defy-gates", false, "also run cells that a gate rules out, where that shows whether it still holds")
	f.StringVar(&keep, "keep", string(cell.KeepNever), "leave a cell's nodes for a look: on-failure, always or `never`")
	f.IntVar(&retries, "retries", 0, "try a cell that fails `N` times more; one that passes then is flaky")
	strictFlag(f, &strict)
	rootFlag(f, &s.Root)
	outputs = outputFlags(f)
	outputFlag(f, &output)
	showFlag(f, &show)
	f.BoolVar(&detached, "detach", false, "leave the run to itself once it has started, and print its ID; lxcmatrix watch shows it")
	completeSelection(cmd)
	complete(cmd, "output", words(outputText, outputJSON))
	complete(cmd, "show", words(showAuto, showLive, showLines))
	complete(cmd, "keep", words(string(cell.KeepOnFailure), string(cell.KeepAlways), string(cell.KeepNever)))
	return cmd
}

// finish waits for a run's end, reports it, and says how to go on with one that was
// interrupted; suite is what went wrong beside it, and shown prints the table.
func (p *program) finish(r *run.Run, suite error, outputs map[string]*string, shown, strict bool) error {
	result, err := r.Finish(func() string { return p.signalled.Load().(string) })
	if err := errors.Join(suite, err); err != nil {
		return err
	}
	if err := p.reports(r.Folder, result, outputs, shown); err != nil {
		return err
	}
	if result.Interrupted != "" {
		p.say("go on with: lxcmatrix resume %s", r.Folder.Dir())
	}
	return exitOf(result, strict)
}

func strictFlag(f *pflag.FlagSet, strict *bool) {
	f.BoolVar(strict, "strict", false, "cells that are optional and blocked fail the run too")
}

// exitOf is the run's exit code as an error; nil where all is as expected.
func exitOf(r matrix.Run, strict bool) error {
	if code := ablation.ExitCode(r, strict); code != matrix.ExitExpected {
		return exitError(code)
	}
	return nil
}

// suite runs the specs over the run in flight. What they print goes to the
// run's folder: the table says the same in less.
func (p *program) suite(planned matrix.Plan, r *run.Run) error {
	log, err := os.OpenFile(filepath.Join(r.Folder.Dir(), "suite.log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the suite's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	compat.Define(planned, r.Engine)
	_, err = compat.Run(log, "lxcmatrix "+r.ID)
	return err
}

// reports remembers a run that is over, and writes its HTML report into its
// folder and the reports that were asked for; shown prints the table, too.
func (p *program) reports(folder *runfolder.Folder, r matrix.Run, outputs map[string]*string, shown bool) error {
	if shown {
		if err := p.table(r); err != nil {
			return err
		}
	}
	if err := keep(folder, r); err != nil {
		return err
	}
	for _, name := range formats() {
		if path := outputs[name]; path != nil && *path != "" {
			if err := writeReport(*path, name, folder, r); err != nil {
				return err
			}
		}
	}
	if !shown {
		return nil
	}
	if _, err := fmt.Fprintf(p.Out, "\nreport: %s\n", reportPath(folder)); err != nil {
		return fmt.Errorf("say where the report is: %w", err)
	}
	return nil
}

// reportPath is where a run's HTML report is.
func reportPath(folder *runfolder.Folder) string { return filepath.Join(folder.Dir(), htmlName) }

// keep writes into the folder of a run that is over what is made of it: what is
// remembered, and its HTML report.
func keep(folder *runfolder.Folder, r matrix.Run) error {
	if err := folder.Remember(r); err != nil {
		return err
	}
	return writeReport(reportPath(folder), "html", folder, r)
}

// table prints the table as it fits standard output.
func (p *program) table(r matrix.Run) error {
	if err := table.RenderWith(p.Out, r, table.Options{Colour: colour(p.Out), Width: width(p.Out)}); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	return nil
}
