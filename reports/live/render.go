package live

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// The least size that something can be shown in.
const (
	leastWidth  = 40
	leastHeight = 8
)

// page is what one look at the run shows.
type page struct {
	*state
	now           time.Time
	width, height int
	expected      map[matrix.CellID]time.Duration
	selected      int
	colour        bool
	// top is the first cell shown; it moves with the one selected.
	top int
	// heard is what a cell's node said last, told where that cell is selected.
	heard saidMsg
	// keys says what can be pressed.
	keys string
}

// render is the page as lines, of which there are height at most and none is
// wider than width.
func (p *page) render() string {
	if p.width < leastWidth || p.height < leastHeight {
		return ansi.Truncate(fmt.Sprintf("%d x %d is too small: %d x %d are needed", p.width, p.height, leastWidth, leastHeight), p.width, "")
	}
	lines := append(p.head(), "")
	// The cells get two thirds of what is left, and no more than they need.
	rest := p.height - len(lines) - 4
	shown := min(len(p.cells), max(1, rest*2/3))
	p.top = min(p.top, p.selected, max(0, len(p.cells)-shown))
	p.top = max(p.top, p.selected-shown+1)
	lines = append(lines, p.table(shown)...)
	lines = append(lines, "")
	lines = append(lines, p.detail(rest-shown)...)
	for len(lines) < p.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:p.height-1], p.faint(p.keys))
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], p.width, "…")
	}
	return strings.Join(lines, "\n")
}

// head says how the run as a whole goes.
func (p *page) head() []string {
	counts := map[string]int{}
	running := 0
	for _, c := range p.cells {
		switch {
		case c.verdict != nil:
			counts[c.verdict.String()]++
		case c.runs():
			running++
		default:
			counts["to go"]++
		}
	}
	parts := []string{p.time()}
	for _, v := range matrix.Verdicts() {
		if n := counts[v.String()]; n > 0 {
			parts = append(parts, p.paint(v, fmt.Sprintf("%d %s", n, v)))
		}
	}
	parts = append(parts, fmt.Sprintf("%d running", running), fmt.Sprintf("%d to go", counts["to go"]))
	cells, cpus, memory := p.inUse()
	budget := fmt.Sprintf("in use: %d of %d CPUs, %.1f of %s of memory", cpus, p.plan.Budget.CPUs, float64(memory)/(1<<30), view.MemoryGiB(p.plan.Budget.MemoryBytes))
	if p.plan.Budget.Cells > 0 {
		budget += fmt.Sprintf(", %d of %d cells at one time", cells, p.plan.Budget.Cells)
	}
	var hosts []string
	for _, h := range p.hosts {
		word := "to come"
		switch {
		case h.open:
			word = "open"
		case h.closed:
			word = "closed"
		}
		hosts = append(hosts, h.Name+" "+word)
	}
	return []string{strings.Join(parts, " · "), "hosts: " + cmp.Or(strings.Join(hosts, ", "), "none is needed"), budget}
}

// time says how long the run goes on, and how long it is expected to.
func (p *page) time() string {
	if p.started.IsZero() {
		return "to start"
	}
	word, end := "elapsed ", p.now
	if !p.ended.IsZero() {
		word, end = "over after ", p.ended
		if p.interrupted != "" {
			word = p.interrupted + " after "
		}
	}
	text := word + view.Short(end.Sub(p.started))
	if p.plan.Expected.Makespan > 0 {
		text += " of about " + view.Short(p.plan.Expected.Makespan.Std())
	}
	return text
}

// column is a cell's place for a phase's glyph and time.
const column = 8

// table shows some of the cells, a line each, below a heading.
func (p *page) table(shown int) []string {
	longest, phases := p.longest, p.columns
	// Phases get a column each where there is room, else a glyph each and the
	// name of the present one.
	const rest = 39
	wide := longest+2+column*len(phases)+rest <= p.width
	if !wide {
		longest = max(10, min(longest, p.width-2-len(phases)-rest))
	}
	heading := fmt.Sprintf("  %-*s  ", longest, "CELL")
	if wide {
		for _, phase := range phases {
			heading += fmt.Sprintf("%-*s", column, view.Heading(phase))
		}
	} else {
		heading += fmt.Sprintf("%-*s  ", len(phases), "PHASES")
	}
	lines := []string{p.faint(heading + fmt.Sprintf("%-14s  %-15s", "NOW", "TIME/EXPECTED"))}
	for i := p.top; i < p.top+shown; i++ {
		c := p.cells[i]
		mark := "  "
		if i == p.selected {
			mark = "▸ "
		}
		row := mark + fill(ansi.Truncate(string(c.ID), longest, "…"), longest) + "  "
		for _, phase := range phases {
			row += p.glyph(c, phase, wide)
		}
		if !wide {
			row += "  "
		}
		row += fill(p.word(c), 14) + "  " + p.times(c)
		lines = append(lines, row)
	}
	if more := len(p.cells) - shown; more > 0 {
		lines[0] = fill(lines[0], p.width-14) + p.faint(fmt.Sprintf("%d-%d of %d", p.top+1, p.top+shown, len(p.cells)))
	}
	return lines
}

func (p *page) glyph(c *cell, phase matrix.Phase, wide bool) string {
	glyph, took := "·", ""
	e, over := c.phases[phase]
	switch {
	case over:
		shown := view.Phase{Verdict: *e.Verdict, Ran: true}
		glyph, took = shown.Glyph(), view.Short(e.Took.Std())
	case c.runs() && c.phase() == phase:
		glyph, took = "▶", view.Short(p.now.Sub(c.since))
	}
	if !wide {
		took = ""
	}
	text := glyph + took
	if wide {
		text = fill(text, column)
	}
	if over {
		return p.paint(*e.Verdict, text)
	}
	return text
}

// word is the verdict, or what the cell does.
func (p *page) word(c *cell) string {
	switch {
	case c.verdict != nil:
		return p.paint(*c.verdict, c.verdict.String())
	case !c.runs():
		return p.faint("to go")
	case len(c.phases) == 0 && c.attempt == 0:
		return "readying"
	}
	return string(c.phase())
}

func (p *page) times(c *cell) string {
	took, expected := "-", "-"
	if t := c.took(p.now); t > 0 {
		took = view.Short(t)
	}
	if t := p.expected[c.ID]; t > 0 && c.Runs() {
		expected = "~" + view.Short(t)
	}
	return took + "/" + expected
}

// detail is what was said of the selected cell, and of the run, the last of it, and
// below it the last line of the cell's own logs.
func (p *page) detail(height int) []string {
	if height < 2 || len(p.cells) == 0 {
		return nil
	}
	c := p.cells[p.selected]
	lines := []string{p.bold(string(c.ID))}
	var logged []string
	if height > 2 && c.runs() && p.heard.cell == c.ID && p.heard.text != "" {
		logged = []string{p.faint("     log  " + p.heard.text)}
		height--
	}
	said := slices.Concat(c.said, p.said)
	slices.SortStableFunc(said, func(a, b line) int { return a.at.Compare(b.at) })
	for _, l := range said[max(0, len(said)-height+1):] {
		since := ""
		if !p.started.IsZero() {
			since = fmt.Sprintf("%7.1fs  ", max(0, l.at.Sub(p.started)).Seconds())
		}
		lines = append(lines, since+l.text)
	}
	return append(lines, logged...)
}

// fill makes a text as wide as a column.
func fill(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

func (p *page) paint(v matrix.Verdict, s string) string {
	if !p.colour {
		return s
	}
	var colour ansi.BasicColor
	switch v {
	case matrix.Pass, matrix.XFail:
		colour = ansi.Green
	case matrix.Impossible:
		colour = ansi.Cyan
	case matrix.Blocked, matrix.Unknown, matrix.Flaky:
		colour = ansi.Yellow
	default:
		colour = ansi.Red
	}
	return ansi.Style{}.ForegroundColor(colour).Styled(s)
}

func (p *page) faint(s string) string {
	if !p.colour {
		return s
	}
	return ansi.Style{}.Faint().Styled(s)
}

func (p *page) bold(s string) string {
	if !p.colour {
		return s
	}
	return ansi.Style{}.Bold().Styled(s)
}
