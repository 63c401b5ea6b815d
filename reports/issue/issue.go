// Package issue says what an issue tracker is to be told of cells that
// regressed: one issue for each, which is kept up to date and closed when the
// cell is as expected again.
package issue

import (
	"fmt"
	"io"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// Open is an issue that is open, as `gh issue list --json number,title` tells it.
type Open struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
}

// Action is what is to be done with an issue.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Close  Action = "close"
)

// Step is one thing to do.
type Step struct {
	Action Action
	// Number is the issue's, 0 where it is to be created.
	Number int
	// Title names the cell; an issue is found again by it.
	Title string
	// Standing is what there is to tell.
	Standing history.Standing
}

// Steps are what is to be done by where cells stand, in their order. A cell that
// never was as expected has no issue, and issues with other titles are nobody's
// here. Done twice it comes to the same.
func Steps(standings []history.Standing, open []Open) (steps []Step) {
	numbers := map[string]int{}
	for _, o := range open {
		if n, twice := numbers[o.Title]; !twice || o.Number < n {
			numbers[o.Title] = o.Number
		}
	}
	for _, s := range standings {
		step := Step{Title: title(s), Standing: s}
		number, there := numbers[step.Title]
		step.Number = number
		switch {
		case s.Latest.Verdict.AsExpected() && there:
			step.Action = Close
		case s.Regressed && there:
			step.Action = Update
		case s.Regressed:
			step.Action = Create
		default:
			continue
		}
		steps = append(steps, step)
	}
	return steps
}

func title(s history.Standing) string { return "Regression: " + view.Plain(string(s.Cell)) }

// mostReason is how much of a reason is shown: it has what a node said in it.
const mostReason = 2000

// Body writes the issue's text in Markdown, or the comment that it is closed
// with. What nodes said is code in it: it mentions nobody and links nowhere.
func (s Step) Body(w io.Writer) error {
	var b strings.Builder
	of := s.Standing
	if s.Action == Close {
		fmt.Fprintf(&b, "%s is as expected again: %s in run %s.\n", code(string(of.Cell)), of.Latest.Verdict, code(of.Latest.Run))
	} else {
		fmt.Fprintf(&b, "%s was as expected, and is not any more.\n\n| | run | verdict |\n|---|---|---|\n", code(string(of.Cell)))
		for _, row := range []struct {
			when string
			history.Came
		}{{"last as expected", of.Good}, {"first otherwise", of.Broke}, {"latest", of.Latest}} {
			verdict := row.Verdict.String()
			if row.Phase != "" {
				verdict += " in " + view.Plain(string(row.Phase))
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", row.when, markdown.Escape(view.Plain(row.Run)), markdown.Escape(verdict))
		}
		reason := view.Plain(of.Latest.Reason)
		if runes := []rune(reason); len(runes) > mostReason {
			reason = string(runes[:mostReason]) + "..."
		}
		fmt.Fprintf(&b, "\nReason: %s\n\n", markdown.Code(reason))
		if len(of.Inputs) == 0 {
			b.WriteString("No input that was seen changed between the first two.\n")
		} else {
			b.WriteString("What changed between the first two:\n\n")
			for _, in := range of.Inputs {
				fmt.Fprintf(&b, "- %s\n", code(in.String()))
			}
		}
		fmt.Fprintf(&b, "\n`lxcmatrix report %s` shows all that was seen. This text is kept up to date after each run, and the issue is closed when the cell is as expected again.\n", plainRun(of.Latest.Run))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the issue of cell %s: %w", of.Cell, err)
	}
	return nil
}

func code(s string) string { return markdown.Code(view.Plain(s)) }

// plainRun is a run's ID in a code span that is already open.
func plainRun(id string) string { return strings.ReplaceAll(view.Plain(id), "`", "") }
