// Package annotations shows a run as GitHub's workflow commands: what a job prints
// in this form is shown beside the workflow's run. GitHub takes ten errors, ten
// warnings and ten notices of a step, so that further ones are counted in the
// last.
package annotations

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// most is how many annotations of one kind GitHub shows of a step.
const most = 10

type annotation struct{ title, text string }

// Render writes a run: an error for each cell that fails the run, a warning for
// each other that is not as expected, the headline, and what fixes that were left
// out turned out to be. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	var errors, warnings []annotation
	for _, e := range v.HarnessErrors {
		errors = append(errors, annotation{"harness", e})
	}
	// What the node or Kubernetes did comes before what nobody could tell.
	for _, verdict := range []matrix.Verdict{matrix.Fail, matrix.XPass, matrix.Flaky, matrix.Blocked, matrix.Unknown} {
		for _, c := range v.Cells {
			if c.Verdict != verdict {
				continue
			}
			a := annotation{c.ID + ": " + verdict.String() + c.Where() + c.Marks(), c.Reason}
			for _, d := range c.Diagnoses {
				a.text += fmt.Sprintf("\n%s (%s)", d.Title, d.Signature)
				if remedy := c.Remedy(d); remedy != "" {
					a.text += ": " + remedy
				}
			}
			if c.Optional && verdict == matrix.Blocked {
				warnings = append(warnings, a)
			} else {
				errors = append(errors, a)
			}
		}
	}
	notices := []annotation{{"lxcmatrix " + v.ID, v.Summary()}}
	for _, a := range v.Ablations {
		one := annotation{a.Cell + ": fixes left out", strings.Join(append([]string{a.Summary()}, v.OutcomesAt(a.Cell)...), "\n")}
		if a.Answered {
			notices = append(notices, one)
		} else {
			errors = append(errors, one)
		}
	}
	var out bytes.Buffer
	write(&out, "error", errors)
	write(&out, "warning", warnings)
	write(&out, "notice", notices)
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write annotations of run %s: %w", v.ID, err)
	}
	return nil
}

func write(out *bytes.Buffer, kind string, all []annotation) {
	if len(all) > most {
		more := len(all) - most + 1
		all = append(all[:most-1:most-1], annotation{"lxcmatrix", fmt.Sprintf("%d more %ss are not shown here", more, kind)})
	}
	for _, a := range all {
		fmt.Fprintf(out, "::%s title=%s::%s\n", kind, property(a.title), data(a.text))
	}
}

// data is text as a command's message has it, property as one of its properties.
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
func data(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(data(s))
}
