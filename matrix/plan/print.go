package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Print writes the plan for people: a summary, its cells and their inputs.
func Print(w io.Writer, p matrix.Plan) error {
	var runs, gated, missing int
	for _, c := range p.Cells {
		switch {
		case c.Runs():
			runs++
		case c.Unavailable != "" && (c.Gate == nil || c.Defied()):
			missing++
		default:
			gated++
		}
	}
	planned := fmt.Sprintf("%d planned", len(p.Cells))
	if p.Shard != nil {
		planned += fmt.Sprintf(" of %d, shard %s", len(p.Shard.Cells), p.Shard.Part)
	}
	if _, err := fmt.Fprintf(w, "%s: %s: %d to run, %d impossible, %d cannot be had\n%s\n", p.Matrix, planned, runs, gated, missing, expected(p.Expected)); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row(t, "CELL", "VERSION", "NODES", "NOTES")
	for _, c := range p.Cells {
		row(t, string(c.ID), orDash(c.Distro.Version), fmt.Sprint(c.Topology.Nodes()), notes(c))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(p.Inputs) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	row(t, "INPUT", "NAME", "VERSION", "SOURCE", "SHA-256")
	for _, in := range p.Inputs {
		source, digest := in.Source, "not made yet"
		if in.Provenance != "" {
			source += " (" + in.Provenance + ")"
		}
		if in.Digest != "" {
			digest = in.Digest[:min(12, len(in.Digest))]
		}
		row(t, in.Kind, in.Name, orDash(in.Version), source, digest)
	}
	return t.Flush()
}

// expected is a line that says how long the run takes and what says so; none
// where nothing is expected.
func expected(e matrix.Estimate) string {
	if e.Cells == 0 {
		return ""
	}
	// To the second would claim more than anybody knows.
	takes := "expected to take " + e.Makespan.Std().Round(10*time.Second).String()
	switch {
	case e.Known == 0:
		return takes + ": a guess, as none of the cells has passed here before\n"
	case e.Known < e.Cells:
		return fmt.Sprintf("%s: from earlier runs, which %d of %d cells passed; the others are guessed\n", takes, e.Known, e.Cells)
	}
	return takes + ", from earlier runs\n"
}

// row writes cells; t keeps an error until it is flushed. The last cell is
// written without the padding that would follow a tab.
func row(t *tabwriter.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = strings.Join(strings.Fields(c), " ")
	}
	fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func notes(c matrix.Cell) string {
	var notes []string
	switch {
	case c.Defied():
		notes = append(notes, fmt.Sprintf("defies %s", c.Gate))
	case c.Gate != nil:
		notes = append(notes, fmt.Sprintf("impossible: %s", c.Gate))
	}
	if c.Unavailable != "" && (c.Gate == nil || c.Defied()) {
		notes = append(notes, "blocked: "+c.Unavailable)
	}
	if c.Optional {
		notes = append(notes, "optional")
	}
	if c.Expect != nil {
		notes = append(notes, fmt.Sprintf("expected to fail in %s with %s (%s)", c.Expect.Phase, c.Expect.Signature, c.Expect.Issue))
	}
	if len(c.With) > 0 {
		notes = append(notes, "with "+strings.Join(c.With, ", "))
	}
	if len(c.Without) > 0 {
		notes = append(notes, "without "+strings.Join(c.Without, ", "))
	}
	return strings.Join(notes, "; ")
}
