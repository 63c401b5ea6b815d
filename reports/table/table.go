// Package table shows a run on a terminal: cell by phase, then what is not as
// expected and its remedy, the environments, and the summary line.
package table

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// DefaultWidth is the width where Options name none.
const DefaultWidth = 120

// narrow is the width below which phases share one column of glyphs.
const narrow = 110

// Options change how the table looks, never what it says.
type Options struct {
	// Colour adds ANSI colours to verdicts and glyphs.
	Colour bool
	// Width is the terminal's, in columns; 0 means DefaultWidth, and nothing
	// below 60 is honoured.
	Width int
}

// Render writes a run without colour at DefaultWidth.
func Render(w io.Writer, run matrix.Run) error { return RenderWith(w, run, Options{}) }

// RenderWith writes a run. It returns only errors of writing.
func RenderWith(w io.Writer, run matrix.Run, o Options) error {
	if o.Width == 0 {
		o.Width = DefaultWidth
	}
	o.Width = max(o.Width, 60)
	p := &page{Options: o, run: view.New(run)}
	if err := p.cells(); err != nil {
		return fmt.Errorf("render table of run %s: %w", p.run.ID, err)
	}
	legend := view.Legend + "; net: without stability windows; * optional: blocked does not fail the run"
	if p.run.Suspect > 0 {
		legend += "; " + view.SuspectLegend
	}
	if p.run.Chosen > 0 {
		legend += "; " + view.ChosenLegend
	}
	p.wrapped("", legend)
	for _, c := range p.run.Cells {
		if soak := c.Soak(); soak != "" {
			p.wrapped("", c.ID+": "+soak)
		}
	}
	p.out.WriteString("\n")
	p.deviations()
	if err := p.ablations(); err != nil {
		return fmt.Errorf("render table of run %s: %w", p.run.ID, err)
	}
	p.environment()
	for _, e := range p.run.HarnessErrors {
		p.wrapped("", "harness error: "+e)
	}
	p.wrapped("", p.run.Summary())
	if _, err := w.Write(p.out.Bytes()); err != nil {
		return fmt.Errorf("write table of run %s: %w", p.run.ID, err)
	}
	return nil
}

type page struct {
	Options
	run view.Run
	out bytes.Buffer
}

func (p *page) colour(v matrix.Verdict, s string) string {
	if !p.Colour {
		return s
	}
	code := "31" // red
	switch v {
	case matrix.Pass, matrix.XFail:
		code = "32"
	case matrix.Impossible:
		code = "36"
	case matrix.Blocked, matrix.Unknown, matrix.Flaky:
		code = "33"
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *page) cells() error {
	header := []string{"cell", "verdict"}
	if p.Width < narrow {
		header = append(header, "phases")
	} else {
		for _, phase := range p.run.Phases {
			header = append(header, view.Heading(phase))
		}
	}
	header = append(header, "total", "net")
	var rows [][]string
	for _, c := range p.run.Cells {
		verdict := c.Verdict.String()
		if c.Optional {
			verdict += "*"
		}
		if c.Suspect() {
			verdict += view.SuspectMark
		}
		if c.Chosen() != "" {
			verdict += view.ChosenMark
		}
		row := []string{"", p.colour(c.Verdict, verdict)}
		var glyphs strings.Builder
		for _, ph := range c.Phases {
			if !ph.Ran {
				row = append(row, ph.Glyph())
			} else {
				row = append(row, p.colour(ph.Verdict, ph.Glyph())+view.Short(ph.Took))
			}
			glyphs.WriteString(ph.Glyph())
		}
		if p.Width < narrow {
			row = append(row[:2], glyphs.String())
		}
		total, net := "-", "-"
		if c.Took > 0 {
			total, net = view.Short(c.Took), view.Short(c.Took-c.Waited)
		}
		rows = append(rows, append(row, total, net))
	}
	rest := 0
	for i := 1; i < len(header); i++ {
		w := twwidth.Width(header[i])
		for _, r := range rows {
			w = max(w, twwidth.Width(r[i]))
		}
		rest += w + 1
	}
	for i, c := range p.run.Cells {
		rows[i][0] = strings.Join(breakID(c.ID, max(p.Width-rest-1, 20)), "\n")
	}

	return p.grid(header, rows)
}

// grid writes a table.
func (p *page) grid(header []string, rows [][]string) error {
	var out bytes.Buffer
	t := tablewriter.NewTable(&out,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders: tw.Border{Left: tw.Off, Right: tw.Off, Top: tw.Off, Bottom: tw.Off},
			Symbols: tw.NewSymbols(tw.StyleLight),
			Settings: tw.Settings{
				Separators: tw.Separators{BetweenColumns: tw.Off, BetweenRows: tw.Off},
				Lines:      tw.Lines{ShowHeaderLine: tw.On, ShowTop: tw.Off, ShowBottom: tw.Off},
			},
		})),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithPadding(tw.Padding{Right: " ", Overwrite: true}),
		tablewriter.WithEastAsian(tw.Off),
	)
	t.Header(header)
	for _, r := range rows {
		if err := t.Append(r); err != nil {
			return err
		}
	}
	if err := t.Render(); err != nil {
		return err
	}
	for line := range strings.Lines(out.String()) {
		p.out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return nil
}

// ablations shows what fixes are for in the cells that they were left out of.
func (p *page) ablations() error {
	if len(p.run.Ablations) == 0 {
		return nil
	}
	if of, rows := p.run.Outcomes(); len(rows) > 0 {
		header := []string{"fix"}
		for _, a := range of {
			header = append(header, a.Cell)
		}
		if err := p.grid(header, rows); err != nil {
			return err
		}
		p.out.WriteString("\n")
	}
	for _, a := range p.run.Ablations {
		p.wrapped("", a.Cell+": "+a.Summary())
		if a.Bare != "" {
			p.wrapped("  ", fmt.Sprintf("without any of %d fixes: %s", a.InEffect, a.Bare))
		}
		if a.Goal == matrix.GoalMinimal {
			p.wrapped("  ", "enough: "+strings.Join(a.Minimum.Kept, ", "))
			p.wrapped("  ", "spared: "+strings.Join(a.Minimum.Dropped, ", "))
		}
		for _, f := range a.Findings {
			p.wrapped("  ", fmt.Sprintf("%s: %s: %s", f.Fix, view.Said(f), f.Reason))
			if f.Line != "" {
				p.wrapped("    ", fmt.Sprintf("%s: %s: %s", f.Signature, f.Log, f.Line))
			}
			if f.Against != "" {
				p.wrapped("    ", "against what is known of it: "+f.Against)
			}
		}
	}
	p.out.WriteString("\n")
	return nil
}

// breakID breaks a cell's ID after slashes so that no line is wider than
// width, where its parts allow it.
func breakID(id string, width int) []string {
	var lines []string
	line := ""
	for _, part := range strings.SplitAfter(id, "/") {
		if line != "" && twwidth.Width(line+part) > width {
			lines, line = append(lines, line), ""
		}
		line += part
		for twwidth.Width(line) > width {
			cut := fitting(line, width)
			lines, line = append(lines, line[:cut]), line[cut:]
		}
	}
	return append(lines, line)
}

// fitting is how many bytes of s fit into width columns, at least one rune.
func fitting(s string, width int) int {
	for i := range s {
		if i > 0 && twwidth.Width(s[:i+1]) > width {
			return i
		}
	}
	return len(s)
}

func (p *page) deviations() {
	some := false
	for _, c := range p.run.Cells {
		if c.Verdict == matrix.Pass && c.Kept == "" {
			continue
		}
		some = true
		head := c.ID + ": " + p.colour(c.Verdict, c.Verdict.String()) + c.Where()
		head += c.Marks()
		if c.Attempts > 1 {
			head += fmt.Sprintf(" (%d attempts)", c.Attempts)
		}
		p.wrapped("", head)
		if c.Reason != "" {
			p.wrapped("  ", "reason: "+c.Reason)
		}
		for _, d := range c.Diagnoses {
			p.wrapped("  ", fmt.Sprintf("diagnosis: %s (%s)", d.Title, d.Signature))
			if d.Log != "" {
				p.wrapped("    ", d.Log+": "+d.Line)
			}
			if d.Cause != "" {
				p.wrapped("  ", "cause: "+d.Cause)
			}
			if remedy := c.Remedy(d); remedy != "" {
				p.wrapped("  ", "remedy: "+remedy)
			}
			if d.Issue != "" {
				p.wrapped("  ", "issue: "+d.Issue)
			}
		}
		if c.Kept != "" {
			p.wrapped("  ", "kept: "+c.Kept)
		}
	}
	if some {
		p.out.WriteString("\n")
	}
}

func (p *page) environment() {
	seen := map[string]bool{}
	for _, c := range p.run.Cells {
		line := c.HostLine()
		if c.Observed && !seen[line] {
			seen[line] = true
			p.wrapped("", line)
		}
	}
	for _, c := range p.run.Cells {
		if !c.Observed {
			continue
		}
		head := c.ID
		if c.Provenance != "" {
			head += ": " + c.Provenance
		}
		head += c.Chosen()
		p.wrapped("", head)
		for _, n := range c.Nodes {
			p.wrapped("  ", n.Node+": "+view.Software(n))
		}
		for _, f := range c.Fixes {
			if f.State == "not-applicable" {
				continue
			}
			p.wrapped("  ", "fixes "+f.State+": "+strings.Join(f.Fixes, ", "))
		}
		for _, note := range c.HygieneNotes() {
			p.wrapped("  ", note.Name+": "+note.Text)
		}
	}
	if len(seen) > 0 {
		p.out.WriteString("\n")
	}
}

// wrapped writes text in lines no wider than the page, continued one step
// further in.
func (p *page) wrapped(indent, text string) {
	line, empty := indent, true
	for _, word := range strings.Fields(text) {
		if !empty && twwidth.Width(line)+1+twwidth.Width(word) > p.Width {
			p.out.WriteString(line + "\n")
			line, empty = indent+"  ", true
		}
		if !empty {
			line += " "
		}
		for twwidth.Width(line)+twwidth.Width(word) > p.Width {
			cut := fitting(word, p.Width-twwidth.Width(line))
			p.out.WriteString(line + word[:cut] + "\n")
			line, word = indent+"  ", word[cut:]
		}
		line, empty = line+word, false
	}
	p.out.WriteString(line + "\n")
}
