package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/export"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

func (p *program) export() *cobra.Command {
	var s selection
	var root, name, only, format, output string
	names, does := export.Formats()
	var list strings.Builder
	for i, n := range names {
		fmt.Fprintf(&list, "  %-14s %s\n", n, does[i])
	}
	cmd := &cobra.Command{
		Use: "export", Short: "Write what made a cell pass, to apply it by hand", Args: args(noArgs),
		Long: `Export writes what made a cell pass, as it was decided in a run that is kept: the
run that --run names, else the latest in which the cell of the matrix passed. What
is the host's, the container's and the node's comes apart; what is a node's alone,
as its address, is found out where it is applied.

` + list.String() + `
A cell has to have passed: which fixes it needs hangs on what was observed of its
host. CELL is a cell's ID or a selector that matches it alone. Of several nodes,
what is done in the first server, in other servers and in agents comes apart, each
for its OS; a node that joins asks for a token where it is applied.`,
		Example: `  lxcmatrix export --only debian/13 --format incus-profile > profile.yaml
  lxcmatrix export --only debian/13 --format shell -o exported
  lxcmatrix export --only kubeadm-1.34/debian-13/1/k6.12-v2 -f kernels --format ansible -o playbooks
  lxcmatrix export --only debian/12+debian/13 -f distros --format shell -o exported
  lxcmatrix export --only debian/12 --run 20261120T193324Z-k5x2ab --format lxc-conf`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case only == "":
				return usage("--only is needed: the cell to export, by ID or a selector that matches it alone")
			case !slices.Contains(names, format):
				return usage("--format %q: want %s", format, strings.Join(names, ", "))
			}
			var r matrix.Run
			var result matrix.Result
			var err error
			if name != "" {
				for _, flag := range []string{"file", "with", "without", "mirror", "lock"} {
					if cmd.Flags().Changed(flag) {
						return usage("--%s: a run that was kept has its own; leave out --run to find a cell of a matrix", flag)
					}
				}
				r, result, err = keptResult(root, name, only)
			} else {
				s.Progress = p.lines()
				r, result, err = passedLast(cmd, root, s.Request, only)
			}
			if err != nil {
				return err
			}
			files, err := p.exported(cmd, s.FixFolders, format, r, result)
			if err != nil {
				return err
			}
			if output == "" {
				return p.printFiles(files)
			}
			return writeFiles(output, files)
		},
	}
	f := cmd.Flags()
	s.inputFlags(f)
	f.StringVar(&only, "only", "", "the `cell`: its ID, or a selector that matches it alone")
	f.StringVar(&format, "format", "", "one of "+strings.Join(names, ", "))
	f.StringVarP(&output, "output", "o", "", "write the files into a `folder` instead of to standard output")
	f.StringVar(&name, "run", "", "take what a `run` decided, by ID or folder")
	rootFlag(f, &root)
	completeMatrix(cmd)
	completeFixes(cmd)
	complete(cmd, "format", words(names...))
	complete(cmd, "only", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		if name != "" {
			return keptCells(root, name), cobra.ShellCompDirectiveNoFileComp
		}
		return plannedNames(s.Matrix), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// keptResult finds a cell's result in a run.
func keptResult(root, name, cell string) (r matrix.Run, result matrix.Result, err error) {
	folder, err := openRun(root, name)
	if err != nil {
		return r, result, err
	}
	c, err := findCell(folder.Plan(), cell)
	if err != nil {
		return r, result, err
	}
	if r, err = folder.Read(); err != nil {
		return r, result, err
	}
	i := slices.IndexFunc(r.Results, func(one matrix.Result) bool { return one.Cell.ID == c.ID })
	result = r.Results[i] // a run that is read has a result for every cell of its plan
	if v := result.Judgement.Verdict; v != matrix.Pass {
		return r, result, usage("cell %s cannot be exported: in run %s it is %s: %s", c.ID, r.ID, v, result.Judgement.Reason)
	}
	return r, result, nil
}

// passedLast finds a cell of a matrix in the latest run in which it passed with
// the same fixes chosen.
func passedLast(cmd *cobra.Command, root string, request run.Request, cell string) (r matrix.Run, result matrix.Result, err error) {
	planned, err := run.Plan(cmd.Context(), request)
	if err != nil {
		return r, result, err
	}
	c, err := findCell(planned.Plan, cell)
	switch {
	case err != nil:
		return r, result, err
	case c.Gate != nil:
		return r, result, usage("cell %s cannot be exported: it is impossible: %s; lxcmatrix why %s says by which facts", c.ID, c.Gate, c.ID)
	}
	for _, id := range runIDs(root) {
		folder, openErr := openRun(root, id)
		if openErr != nil {
			continue
		}
		plan := folder.Plan()
		kept, found := plan.Cell(c.ID)
		if !found || !slices.Equal(kept.With, c.With) || !slices.Equal(kept.Without, c.Without) {
			continue
		}
		if r, result, err = keptResult(root, id, string(c.ID)); err == nil {
			return r, result, nil
		}
	}
	if err == nil {
		err = usage("cell %s cannot be exported: it is in no run kept under %s; run it first: lxcmatrix run --only %s", c.ID, root, c.ID)
	}
	if c.Unavailable != "" {
		err = usage("cell %s cannot be exported: it is blocked: %s", c.ID, c.Unavailable)
	}
	return r, result, err
}

// exported makes the files of a format from a result that passed.
func (p *program) exported(cmd *cobra.Command, folders []string, format string, r matrix.Run, result matrix.Result) ([]provisioner.File, error) {
	knowledge, err := loadKnowledge(cmd.Context(), folders)
	if err != nil {
		return nil, err
	}
	cacheDir, err := artifact.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	store, err := artifact.New(cacheDir, artifact.Options{Sources: []string{artifact.SourceCache}})
	if err != nil {
		return nil, err
	}
	attempt, _ := result.Last() // what passed has one
	steps, err := catalog.Steps(knowledge, store, result.Cell, attempt, r.Plan.Timeouts)
	if err != nil {
		return nil, err
	}
	files, err := export.Write(format, steps)
	var cannot *export.UntranslatableError
	if errors.As(err, &cannot) {
		return nil, usage("%w", err)
	}
	p.say("cell %s, as it passed in run %s", result.Cell.ID, r.ID)
	return files, err
}

// printFiles prints one file as it is, and several each below its name.
func (p *program) printFiles(files []provisioner.File) error {
	for _, f := range files {
		if len(files) > 1 {
			if _, err := fmt.Fprintf(p.Out, "# ==> %s <==\n", f.Path); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprint(p.Out, f.Content); err != nil {
			return err
		}
	}
	return nil
}

func writeFiles(folder string, files []provisioner.File) error {
	for _, f := range files {
		path := filepath.Join(folder, filepath.FromSlash(f.Path))
		mode := os.FileMode(0o644)
		if f.Mode != 0 {
			mode = os.FileMode(f.Mode)
		}
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(f.Content), mode)
		}
		if err != nil {
			return fmt.Errorf("write what is exported: %w", err)
		}
	}
	return nil
}
