package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/issue"
)

func (p *program) issues() *cobra.Command {
	var root, open, into string
	var most int
	cmd := &cobra.Command{
		Use: "issues", Short: "Say which issues of regressed cells to create, update and close", Args: args(noArgs),
		Long: `Issues looks at the runs of the latest one's matrix and prints a line for each
issue that is to be created, updated or closed: what to do, the issue's number or
0, a file with its text, and its title, with tabs between. A cell has an issue from
when it was as expected and is not any more, until it is again. A cell of which the
latest run says nothing keeps what it has. Nothing is sent anywhere.`,
		Example: `  gh issue list --json number,title >open.json
  lxcmatrix history issues --open open.json --into issues`,
		RunE: func(*cobra.Command, []string) error {
			if open == "" || into == "" || most < 1 {
				return usage("--open FILE and --into FOLDER are wanted, and --last 1 or more")
			}
			var known []issue.Open
			text, err := os.ReadFile(open)
			if err != nil {
				return usage("read the open issues: %w", err)
			}
			if err := json.Unmarshal(text, &known); err != nil {
				return usage("read the open issues in %s: %w; want what gh issue list --json number,title prints", open, err)
			}
			runs, unread := runfolder.ReadPast(root, "", most)
			for _, err := range unread {
				p.say("left out: %v", err)
			}
			if len(runs) == 0 {
				return usage("no run is kept under %s; make one with lxcmatrix run, or name the folder with --runs", root)
			}
			if err := os.MkdirAll(into, 0o755); err != nil {
				return fmt.Errorf("keep the issues' texts: %w", err)
			}
			for i, step := range issue.Steps(history.Standings(runs), known) {
				path := filepath.Join(into, fmt.Sprintf("%d.md", i+1))
				if err := writeIssue(path, step); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(p.Out, "%s\t%d\t%s\t%s\n", step.Action, step.Number, path, step.Title); err != nil {
					return fmt.Errorf("print the issues: %w", err)
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&open, "open", "", "a `file` with the issues that are open, as gh issue list --json number,title prints them")
	f.StringVar(&into, "into", "", "the `folder` to write the texts to")
	f.IntVar(&most, "last", html.PastRuns, "look at the last `N` runs")
	rootFlag(f, &root)
	return cmd
}

func writeIssue(path string, step issue.Step) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep the text of an issue: %w", err)
	}
	return errors.Join(step.Body(f), f.Close())
}
