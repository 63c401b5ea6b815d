package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/diff"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func (p *program) history() *cobra.Command {
	var root string
	var most int
	var asJSON bool
	cmd := &cobra.Command{
		Use: "history [CELL]", Short: "List the runs that were kept, or what a cell came to in them", Args: args(cobra.MaximumNArgs(1)),
		Long: `History lists the runs that were kept, the latest last, with what their cells came
to. With a cell's ID it lists what that cell came to in each, and how long it took
to come up and to recover, without stability windows; runs in which somebody chose
fixes for it are left out.`,
		Example: `  lxcmatrix history
  lxcmatrix history kubeadm-1.34/debian-13/1/embedded --last 10
  lxcmatrix history --json`,
		RunE: func(_ *cobra.Command, args []string) error {
			if most < 1 {
				return usage("--last %d: want 1 or more", most)
			}
			runs, unread := runfolder.ReadPast(root, "", most)
			for _, err := range unread {
				p.say("left out: %v", err)
			}
			if len(runs) == 0 {
				return usage("no run is kept under %s; make one with lxcmatrix run, or name the folder with --runs", root)
			}
			switch {
			case asJSON:
				return writeJSON(p.Out, runs)
			case len(args) == 1:
				return p.pastOf(runs, matrix.CellID(args[0]))
			}
			return p.past(runs)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return keptCells(root, ""), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := cmd.Flags()
	f.IntVar(&most, "last", html.PastRuns, "look at the last `N` runs")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	rootFlag(f, &root)
	cmd.AddCommand(p.prune(), p.issues())
	return cmd
}

func (p *program) prune() *cobra.Command {
	var root string
	var keep int
	var age time.Duration
	var yes bool
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove old runs, by count and by age", Args: args(noArgs),
		Long: `Prune lists the runs that are not among the youngest, or that are too old; with
--yes it removes their folders. The latest run always stays, and so does one that
a process is writing.`,
		Example: `  lxcmatrix history prune --keep 90
  lxcmatrix history prune --keep 90 --older-than 2160h --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case keep < 0 || age < 0:
				return usage("--keep and --older-than want more than 0")
			case keep == 0 && age == 0:
				return usage("say what is to stay: --keep N runs, or --older-than a time")
			}
			var before time.Time
			if age > 0 {
				before = time.Now().Add(-age)
			}
			old := runfolder.Old(root, keep, before)
			for _, dir := range old {
				verb := "old"
				if yes {
					var busy *runfolder.BusyError
					err := runfolder.Remove(dir)
					if errors.As(err, &busy) {
						p.say("left: %v", err)
						continue
					}
					if err != nil {
						return err
					}
					verb = "removed"
				}
				if _, err := fmt.Fprintf(p.Out, "%s %s\n", verb, dir); err != nil {
					return err
				}
			}
			if len(old) > 0 && !yes {
				p.say("nothing was removed; --yes removes them")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&keep, "keep", 0, "keep the youngest `N` runs")
	f.DurationVar(&age, "older-than", 0, "remove runs that started longer ago, as `720h`")
	f.BoolVar(&yes, "yes", false, "remove them")
	rootFlag(f, &root)
	return cmd
}

// past lists runs.
func (p *program) past(runs []history.Run) error {
	var rows [][]string
	for _, r := range runs {
		counts := map[matrix.Verdict]int{}
		for _, c := range r.Cells {
			counts[c.Verdict]++
		}
		var others []string
		for _, v := range matrix.Verdicts() {
			if v != matrix.Pass && counts[v] > 0 {
				others = append(others, fmt.Sprintf("%s %d", v, counts[v]))
			}
		}
		took := "-"
		if r.Ended.After(r.Started) {
			took = view.Short(r.Ended.Sub(r.Started))
		}
		rows = append(rows, []string{view.Plain(r.ID), view.Plain(r.Matrix), took, fmt.Sprintf("%d of %d", counts[matrix.Pass], len(r.Cells)), strings.Join(others, ", "), fmt.Sprint(r.ExitCode)})
	}
	return columns(p.Out, []string{"RUN", "MATRIX", "TOOK", "PASSED", "OTHERS", "EXIT"}, rows)
}

// pastOf lists what a cell came to.
func (p *program) pastOf(runs []history.Run, id matrix.CellID) error {
	var rows [][]string
	short := func(d matrix.Duration) string {
		if d == 0 {
			return "-"
		}
		return view.Short(d.Std())
	}
	for _, r := range runs {
		i := slices.IndexFunc(r.Cells, func(c history.Cell) bool { return c.ID == id && len(c.Chosen) == 0 })
		if i < 0 {
			continue
		}
		c := r.Cells[i]
		rows = append(rows, []string{view.Plain(r.ID), c.Verdict.String(), string(c.Phase), short(c.Up), short(c.Recovery), view.Plain(c.Reason)})
	}
	if len(rows) == 0 {
		return usage("no run that is kept has cell %q; lxcmatrix report shows the cells of the latest one", id)
	}
	if err := columns(p.Out, []string{"RUN", "VERDICT", "IN", "UP", "RECOVERY", "REASON"}, rows); err != nil {
		return err
	}
	s := history.AllSeries(runs)[history.Key(id, nil)]
	flaky, results := s.Flakes()
	line := fmt.Sprintf("\n%d runs, flaky in %d of %d results", len(s.Points), flaky, results)
	for _, t := range []struct {
		name string
		history.Times
	}{{"up", s.Up}, {"recovery", s.Recovery}} {
		if len(t.Values) > 0 {
			line += fmt.Sprintf("; %s p50 %s, p95 %s", t.name, view.Short(t.P50), view.Short(t.P95))
		}
	}
	_, err := fmt.Fprintln(p.Out, line)
	return err
}

func (p *program) diff() *cobra.Command {
	var root, format string
	formats := map[string]func(io.Writer, history.Diff) error{"text": diff.Text, "markdown": diff.Markdown, "json": diff.JSON}
	cmd := &cobra.Command{
		Use: "diff RUN [RUN]", Short: "Say what regressed between two runs, and which inputs changed", Args: args(cobra.RangeArgs(1, 2)),
		Long: `Diff says how the second run, or the latest one, differs from the first: which
cells regressed, were fixed or pass now, and which inputs changed: kernel, cgroup
mode, Incus, runc, containerd, Kubernetes, images, artifacts, timeouts, limits of
nodes, restarts, and which fixes were applied. A run is named by its ID or its folder.

Exit codes: 0 nothing regressed, 1 a cell regressed or has no result any more,
2 usage, 3 a run could not be read.`,
		Example: `  lxcmatrix diff 20261120T193324Z-k5x2ab
  lxcmatrix diff 20261119T193324Z-k5x2ab 20261120T193324Z-c4d3aa --format markdown`,
		RunE: func(_ *cobra.Command, args []string) error {
			render, ok := formats[format]
			if !ok {
				return usage("--format %q: want json, markdown, text", format)
			}
			var runs [2]history.Run
			for i, name := range append(args, "")[:2] {
				folder, err := openRun(root, name)
				if err != nil {
					return err
				}
				run, err := folder.Read()
				if err != nil {
					return err
				}
				runs[i] = history.Of(run)
			}
			d := history.Compare(runs[0], runs[1])
			if err := render(p.Out, d); err != nil {
				return err
			}
			if d.Worse() {
				return exitError(matrix.ExitDeviation)
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return runIDs(root), cobra.ShellCompDirectiveDefault
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "text", "one of json, markdown, text")
	rootFlag(f, &root)
	complete(cmd, "format", words("json", "markdown", "text"))
	return cmd
}
