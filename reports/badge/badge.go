// Package badge shows a run as SVG images of one line, for a page that others
// write: one of the whole run, and one for each row of the grid, which is a
// distribution on an OS. Colour says nothing that the text does not.
package badge

import (
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// badge is an image: a label and what is to be said under it.
type badge struct {
	Label, Text string
	// Good: every cell passes. Bad: not every cell is as expected.
	good, bad bool
}

// Overall is the name of the image of the whole run in a folder.
const Overall = "overall.svg"

// Render writes the image of the whole run. Its errors are of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	b := of("Kubernetes in LXC", v.Cells)
	// What no cell shows is no good sign, either.
	b.bad = b.bad || v.ExitCode != matrix.ExitExpected
	b.good = b.good && !b.bad
	if v.ExitCode == matrix.ExitHarness {
		b.Text += ", not all is known"
	}
	return b.render(w, v.ID)
}

// Folder writes the images of a run into a folder, which it makes: overall.svg, and
// one for each row, named by the row as files of cells are. Images of rows that the
// run does not have stay as they are.
func Folder(dir string, run matrix.Run) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write badges of run %s: %w", run.ID, err)
	}
	write := func(name string, render func(io.Writer) error) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("write badges of run %s: %w", run.ID, err)
		}
		return errors.Join(render(f), f.Close())
	}
	if err := write(Overall, func(w io.Writer) error { return Render(w, run) }); err != nil {
		return err
	}
	v := view.New(run)
	var names []string
	rows := map[string][]view.Cell{}
	for _, c := range v.Cells {
		row := c.Axis("distro") + "/" + c.Axis("os")
		if rows[row] == nil {
			names = append(names, row)
		}
		rows[row] = append(rows[row], c)
	}
	for _, name := range names {
		cells := rows[name]
		b := of(cells[0].Axis("distro")+" on "+cells[0].Axis("os"), cells)
		if err := write(matrix.CellID(name).FileName()+".svg", func(w io.Writer) error { return b.render(w, v.ID) }); err != nil {
			return err
		}
	}
	return nil
}

// of is the image of some cells: always how many pass of how many, and what is not
// as expected.
func of(label string, cells []view.Cell) badge {
	passed, unexpected := 0, 0
	for _, c := range cells {
		if c.Verdict == matrix.Pass {
			passed++
		}
		if !c.Verdict.AsExpected() {
			unexpected++
		}
	}
	b := badge{Label: label, Text: fmt.Sprintf("%d of %d pass", passed, len(cells)), good: passed == len(cells) && passed > 0, bad: unexpected > 0}
	if unexpected > 0 {
		b.Text += fmt.Sprintf(", %d not as expected", unexpected)
	}
	return b
}

// The sizes of an image, in pixels. Text is stretched or squeezed to the width that
// it is given, so that it fits whatever fonts a viewer has.
const (
	character = 7
	padding   = 6
)

func width(s string) int { return character * utf8.RuneCountInString(s) }

// LabelWidth is the width of the label's half.
func (b badge) LabelWidth() int { return width(b.Label) + 2*padding }

// TextWidth is that of the other.
func (b badge) TextWidth() int { return width(b.Text) + 2*padding }

// Width is the whole image's.
func (b badge) Width() int { return b.LabelWidth() + b.TextWidth() }

// Colour is behind the text, which is white and can be read on each of them.
func (b badge) Colour() string {
	switch {
	case b.good:
		return "#1a7f37"
	case b.bad:
		return "#b3261e"
	}
	return "#57606a"
}

// LabelLength and TextLength are the widths of the texts alone, and the others where
// their middles are.
func (b badge) LabelLength() int { return width(b.Label) }

// TextLength is the width of the text alone.
func (b badge) TextLength() int { return width(b.Text) }

// LabelMiddle is where the middle of the label is.
func (b badge) LabelMiddle() int { return b.LabelWidth() / 2 }

// TextMiddle is where that of the text is.
func (b badge) TextMiddle() int { return b.LabelWidth() + b.TextWidth()/2 }

const image = `<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="20" role="img" aria-label="{{.Label}}: {{.Text}}">
<title>{{.Label}}: {{.Text}}</title>
<rect width="{{.Width}}" height="20" rx="3" fill="#24292f"/>
<rect x="{{.LabelWidth}}" width="{{.TextWidth}}" height="20" rx="3" fill="{{.Colour}}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{{.LabelMiddle}}" y="14" textLength="{{.LabelLength}}" lengthAdjust="spacingAndGlyphs">{{.Label}}</text>
<text x="{{.TextMiddle}}" y="14" textLength="{{.TextLength}}" lengthAdjust="spacingAndGlyphs">{{.Text}}</text>
</g>
</svg>
`

func (b badge) render(w io.Writer, run string) error {
	t, err := template.New("badge").Parse(image)
	if err == nil {
		err = t.Execute(w, b)
	}
	if err != nil {
		return fmt.Errorf("write badge %s of run %s: %w", b.Label, run, err)
	}
	return nil
}
