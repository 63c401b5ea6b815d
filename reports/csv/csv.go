// Package csv shows a run as comma-separated values (RFC 4180), one line for each
// planned cell. What a spreadsheet would take for a formula begins with an
// apostrophe.
package csv

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// column is a column's name and what it holds of a cell.
type column struct {
	name string
	of   func(view.Cell) string
}

// columns are added to at the end, so that those before stay where they are.
func columns(v view.Run) []column {
	host := func(of func(matrix.HostFacts) string) func(view.Cell) string {
		return func(c view.Cell) string { return of(c.Host) }
	}
	// What nodes have, each value once, in the nodes' order.
	nodes := func(of func(matrix.NodeFacts) string) func(view.Cell) string {
		return func(c view.Cell) string {
			var all []string
			seen := map[string]bool{"": true}
			for _, n := range c.Nodes {
				if value := of(n); !seen[value] {
					all, seen[value] = append(all, value), true
				}
			}
			return strings.Join(all, ", ")
		}
	}
	return []column{
		{"run", func(view.Cell) string { return v.ID }},
		{"cell", func(c view.Cell) string { return c.ID }},
		{"distro", func(c view.Cell) string { return c.Axis("distro") }},
		{"os", func(c view.Cell) string { return c.Axis("os") }},
		{"topology", func(c view.Cell) string { return c.Axis("topology") }},
		{"host", func(c view.Cell) string { return c.Axis("host") }},
		{"variant", func(c view.Cell) string { return c.Axis("variant") }},
		{"verdict", func(c view.Cell) string { return c.Verdict.String() }},
		{"as expected", func(c view.Cell) string { return strconv.FormatBool(c.Verdict.AsExpected()) }},
		{"phase", func(c view.Cell) string { return c.Phase }},
		{"reason", func(c view.Cell) string { return c.Reason }},
		{"signatures", func(c view.Cell) string {
			var all []string
			for _, d := range c.Diagnoses {
				all = append(all, d.Signature)
			}
			return strings.Join(all, ", ")
		}},
		{"optional", func(c view.Cell) string { return strconv.FormatBool(c.Optional) }},
		{"gate", func(c view.Cell) string { return c.Gate }},
		{"with", func(c view.Cell) string { return strings.Join(c.With, ", ") }},
		{"without", func(c view.Cell) string { return strings.Join(c.Without, ", ") }},
		{"attempts", func(c view.Cell) string { return strconv.Itoa(c.Attempts) }},
		{"seconds", func(c view.Cell) string { return fmt.Sprintf("%.3f", c.Took.Seconds()) }},
		{"net seconds", func(c view.Cell) string { return fmt.Sprintf("%.3f", (c.Took - c.Waited).Seconds()) }},
		{"suspect host", func(c view.Cell) string { return strconv.FormatBool(c.Suspect()) }},
		{"provenance", func(c view.Cell) string { return c.Provenance }},
		{"kernel", host(func(h matrix.HostFacts) string { return h.Kernel })},
		{"cgroup", host(func(h matrix.HostFacts) string { return h.Cgroup })},
		{"Incus", host(func(h matrix.HostFacts) string { return h.Incus })},
		{"LXC", host(func(h matrix.HostFacts) string { return h.LXC })},
		{"storage", host(func(h matrix.HostFacts) string { return h.Storage })},
		{"systemd", nodes(func(n matrix.NodeFacts) string { return n.Systemd })},
		{"containerd", nodes(func(n matrix.NodeFacts) string { return n.Containerd })},
		{"runc", nodes(func(n matrix.NodeFacts) string { return n.Runc })},
		{"Kubernetes", nodes(func(n matrix.NodeFacts) string { return n.Kubernetes })},
		{"fix outcomes", func(c view.Cell) string { return strings.Join(v.OutcomesAt(c.ID), "; ") }},
	}
}

// Render writes a run. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	all := columns(v)
	out := csv.NewWriter(w)
	row := make([]string, len(all))
	for i, c := range all {
		row[i] = c.name
	}
	// out keeps an error until it is flushed.
	_ = out.Write(row)
	for _, c := range v.Cells {
		for i, column := range all {
			row[i] = inert(column.of(c))
		}
		_ = out.Write(row)
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write CSV of run %s: %w", v.ID, err)
	}
	return nil
}

// inert keeps spreadsheets from running text: what may begin a formula, the wide
// forms of these characters among it, comes after an apostrophe.
// https://owasp.org/www-community/attacks/CSV_Injection
func inert(text string) string {
	if strings.IndexAny(text, "=+-@＝＋－＠") == 0 {
		return "'" + text
	}
	return text
}
