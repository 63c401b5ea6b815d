package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// Text is an event as a line for people; empty for one that says nothing to
// them. Control characters and terminal sequences of other programs are not in it.
func Text(e runfolder.Event) string {
	switch e.Kind {
	case runfolder.Note:
		return view.Plain(e.Text)
	case runfolder.PhaseEnded:
		return fmt.Sprintf("%s  %s", e.Cell, Phase(e))
	case runfolder.CellEnded:
		return fmt.Sprintf("%s  %s", e.Cell, e.Verdict)
	}
	return ""
}

// Phase is the end of a phase as a line for people, without the cell.
func Phase(e runfolder.Event) string {
	text := fmt.Sprintf("%-14s %6.1fs  %s", e.Phase, e.Took.Std().Seconds(), e.Verdict)
	if e.Waited > 0 {
		text += fmt.Sprintf(" (%.0fs of it watching for stability)", e.Waited.Std().Seconds())
	}
	if first, _, _ := strings.Cut(e.Text, "\n"); first != "" {
		text += ": " + view.Plain(first)
	}
	return text
}

func writeLine(w io.Writer, since time.Duration, text string) {
	// A terminal that is gone stops nothing.
	_, _ = fmt.Fprintf(w, "%7.1fs  %s\n", since.Seconds(), text)
}

func newEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}
