// Package diff shows how one run differs from an earlier one.
package diff

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// Text writes the summary and a line for each cell that differs. It returns only
// errors of writing, as all of this package do.
func Text(w io.Writer, d history.Diff) error {
	d = view.Diff(d)
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s: %s\n", d.From, d.To, d.Summary())
	for _, c := range d.Cells {
		fmt.Fprintf(&b, "  %s %s: %s%s\n", c.Kind, c.Cell, verdicts(c), reason(c))
		for _, i := range c.Inputs {
			fmt.Fprintf(&b, "    %s\n", i)
		}
	}
	return written(w, d, b.String())
}

// Markdown writes the same as GitHub-flavoured Markdown.
func Markdown(w io.Writer, d history.Diff) error {
	d = view.Diff(d)
	var b strings.Builder
	fmt.Fprintf(&b, "# Run %s since run %s\n\n**%s**\n", markdown.Escape(d.To), markdown.Escape(d.From), markdown.Escape(d.Summary()))
	for _, c := range d.Cells {
		fmt.Fprintf(&b, "\n- **%s** %s: %s", c.Kind, markdown.Escape(string(c.Cell)), markdown.Escape(verdicts(c)))
		if r := reason(c); r != "" {
			fmt.Fprintf(&b, ": %s", markdown.Code(strings.TrimPrefix(r, ": ")))
		}
		for _, i := range c.Inputs {
			fmt.Fprintf(&b, "\n  - %s", markdown.Escape(i.String()))
		}
	}
	if len(d.Cells) > 0 {
		b.WriteString("\n")
	}
	return written(w, d, b.String())
}

// JSON writes the same as JSON.
func JSON(w io.Writer, d history.Diff) error {
	raw, err := json.MarshalIndent(view.Diff(d), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the difference of runs %s and %s: %w", d.From, d.To, err)
	}
	return written(w, d, string(raw)+"\n")
}

func written(w io.Writer, d history.Diff, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write the difference of runs %s and %s: %w", d.From, d.To, err)
	}
	return nil
}

// verdicts are the cell's before and now: "pass -> fail in install".
func verdicts(c history.CellChange) string {
	say := func(j *matrix.Judgement) string {
		switch {
		case j == nil:
			return "not planned"
		case j.Phase == "":
			return j.Verdict.String()
		}
		return fmt.Sprintf("%s in %s", j.Verdict, j.Phase)
	}
	return say(c.From) + " -> " + say(c.To)
}

// reason is why it is what it is now, or what it was before it was well.
func reason(c history.CellChange) string {
	switch {
	case c.To != nil && c.To.Reason != "":
		return ": " + c.To.Reason
	case c.From != nil && c.From.Reason != "":
		return ": it was: " + c.From.Reason
	}
	return ""
}
