package html

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"mvdan.cc/sh/v3/syntax"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// pageData is what the head and the tail show.
type pageData struct {
	view.Run
	Policy string
	CSS    template.CSS
	Script template.JS
	Took   time.Duration
	// Over is false where nobody wrote that the run ended.
	Over       bool
	Shares     []share
	Hosts      []*host
	Axes       []axis
	Grid       grid
	Cells      []*cellData
	Impossible []*cellData
	// Causes are why cells do not pass, CausesLeft how many are not shown.
	Causes     []*cause
	CausesLeft int
	// Previous is the last run of the same matrix, Diff what differs from it;
	// empty where there is none.
	Previous string
	Diff     history.Diff
	// Ablated and OutcomeRows are the table of fixes by cells.
	Ablated     []view.Ablation
	OutcomeRows [][]string
	Legend      []matrix.Verdict
	// Optional says whether any cell is.
	Optional bool

	logs   func(matrix.CellID) ([]Log, error)
	series map[string]*history.Series
}

// axis is one by which cells can be laid out and filtered.
type axis struct {
	// Key is its name in the page's address.
	Key, Title string
	// Values in the plan's order.
	Values []string
}

// The keys of axes. Those of rows may be several, with a blank between.
const (
	defaultRows    = "distro os"
	defaultColumns = "kernel"
)

// cellData is a cell in the grid.
type cellData struct {
	view.Cell
	planned matrix.Cell
	Place   int
	Anchor  string
	// On is its place on each axis, by key.
	On map[string]string
	// Also is what tells it from others in its square.
	Also string
	// Change is how it differs from the last run; nil where it does not.
	Change *history.CellChange
	// budget is how much is shown of each log.
	budget []int64
	// up and recovery are those of history.Cell.
	up, recovery time.Duration
}

type grid struct {
	Corner  string
	Columns []string
	Rows    []gridRow
}

type gridRow struct {
	Name    string
	Squares [][]*cellData
}

func newPage(in Input) (*pageData, error) {
	v := view.New(in.Run)
	p := &pageData{Run: v, Policy: policy(), Over: !v.Ended.IsZero(), Legend: matrix.Verdicts(), logs: in.Logs,
		CSS:    template.CSS(css),   //nolint:gosec // a file of this package
		Script: template.JS(script), //nolint:gosec // a file of this package
	}
	if p.Over {
		p.Took = v.Ended.Sub(v.Started)
	}
	kernels := map[string]string{}
	for _, c := range v.Cells {
		if c.Observed && kernels[c.HostName] == "" {
			kernels[c.HostName] = c.Host.Kernel + ", cgroup " + c.Host.Cgroup
		}
	}
	for i, c := range v.Cells {
		planned := in.Run.Plan.Cells[i]
		d := &cellData{Cell: c, planned: planned, Place: i, Anchor: "c-" + planned.ID.FileName(), On: map[string]string{}}
		var variants []string
		for _, a := range c.Axes {
			if a.Name == "variant" {
				variants = append(variants, a.Value)
				continue
			}
			d.On[a.Name] = a.Value
		}
		if d.On["variant"] = strings.Join(variants, "/"); len(variants) == 0 {
			d.On["variant"] = matrix.NoVariant
		}
		if d.On["kernel"] = kernels[c.HostName]; d.On["kernel"] == "" {
			d.On["kernel"] = c.HostName + " (not observed)"
		}
		p.Optional = p.Optional || c.Optional
		if c.Verdict == matrix.Impossible {
			p.Impossible = append(p.Impossible, d)
		}
		p.Cells = append(p.Cells, d)
	}
	for _, a := range []axis{{Key: "distro", Title: "Distribution"}, {Key: "os", Title: "OS"}, {Key: "kernel", Title: "Kernel and cgroup"},
		{Key: "host", Title: "Host"}, {Key: "topology", Title: "Topology"}, {Key: "variant", Title: "Variant"}} {
		a.Values = values(p.Cells, func(c *cellData) string { return c.On[a.Key] })
		p.Axes = append(p.Axes, a)
	}
	p.lay()
	p.remember(in)
	p.share()
	p.explain()
	p.Ablated, p.OutcomeRows = v.Outcomes()
	return p, p.allot()
}

// values are the different ones that cells have, in their order.
func values(cells []*cellData, of func(*cellData) string) (all []string) {
	seen := map[string]bool{}
	for _, c := range cells {
		if v := of(c); !seen[v] {
			seen[v] = true
			all = append(all, v)
		}
	}
	return all
}

// lay lays the grid out as a page without a choice shows it.
func (p *pageData) lay() {
	row := func(c *cellData) string { return c.On["distro"] + " · " + c.On["os"] }
	column := func(c *cellData) string { return c.On[defaultColumns] }
	p.Grid.Corner = "Distribution and OS"
	p.Grid.Columns = values(p.Cells, column)
	rows, columns := map[string]int{}, map[string]int{}
	for i, name := range p.Grid.Columns {
		columns[name] = i
	}
	for i, name := range values(p.Cells, row) {
		rows[name] = i
		p.Grid.Rows = append(p.Grid.Rows, gridRow{Name: name, Squares: make([][]*cellData, len(p.Grid.Columns))})
	}
	shown := strings.Fields(defaultRows + " " + defaultColumns)
	var rest []string
	for _, a := range p.Axes {
		if len(a.Values) > 1 && !slices.ContainsFunc(shown, func(by string) bool { return p.decides(by, a.Key) }) {
			rest = append(rest, a.Key)
		}
	}
	for _, c := range p.Cells {
		var also []string
		for _, key := range rest {
			if c.On[key] != matrix.NoVariant {
				also = append(also, c.On[key])
			}
		}
		c.Also = strings.Join(also, " · ")
		square := &p.Grid.Rows[rows[row(c)]].Squares[columns[column(c)]]
		*square = append(*square, c)
	}
}

// decides says whether an axis tells the other, too, as a host its kernel.
func (p *pageData) decides(by, key string) bool {
	both := func(c *cellData) string { return c.On[by] + "\n" + c.On[key] }
	return len(values(p.Cells, both)) == len(values(p.Cells, func(c *cellData) string { return c.On[by] }))
}

// remember joins the run to its past, and its cells to what is remembered of them.
func (p *pageData) remember(in Input) {
	now := history.Of(in.Run)
	past := slices.Clone(in.Past)
	if len(past) > PastRuns-1 {
		past = past[len(past)-(PastRuns-1):]
	}
	p.series = history.AllSeries(append(past, now))
	for _, before := range slices.Backward(in.Past) {
		if before.Matrix == now.Matrix {
			p.Diff = view.Diff(history.Compare(before, now))
			p.Previous = p.Diff.From
			break
		}
	}
	changes := map[string]*history.CellChange{}
	for i, c := range p.Diff.Cells {
		changes[string(c.Cell)] = &p.Diff.Cells[i]
	}
	took := map[matrix.CellID]history.Cell{}
	for _, c := range now.Cells {
		took[c.ID] = c
	}
	for _, c := range p.Cells {
		c.Change = changes[c.ID]
		c.up, c.recovery = took[c.planned.ID].Up.Std(), took[c.planned.ID].Recovery.Std()
	}
}

// allot says how much of each log is shown.
func (p *pageData) allot() error {
	if p.logs == nil {
		return nil
	}
	left := int64(logsAll)
	for _, expected := range []bool{false, true} {
		for _, c := range p.Cells {
			if c.Verdict.AsExpected() != expected {
				continue
			}
			logs, err := p.logs(c.planned.ID)
			if err != nil {
				return err
			}
			for _, l := range logs {
				n := min(l.Size, logMost, left)
				left -= n
				c.budget = append(c.budget, n)
			}
		}
	}
	return nil
}

// Link is the cell's address in the page.
func (c *cellData) Link() string { return "#" + c.Anchor }

// drill is everything that is shown of one cell.
type drill struct {
	*cellData
	Bars     []bar
	Checks   []check
	Fixed    []fixed
	Restarts []restart
	Past     *past
	Files    []file
	Commands []command
}

// bar is a phase on the timeline, in thousandths of the whole.
type bar struct {
	view.Phase
	X, Width, WaitX, Waiting float64
	Net                      time.Duration
}

// check is flat and of text alone: there are more of it than of anything else,
// and templates look fields of fields up slowly.
type check struct {
	Phase, Check, Node, Outcome, Class, Saw, Want string
	// Phases and Nodes are how many checks, from this one on, share its phase, and
	// its node in that; 0 where the one before does.
	Phases, Nodes int
}

// span counts what checks share with those that follow.
func span(checks []check) {
	phase, node := -1, -1
	for i := range checks {
		c := &checks[i]
		if phase < 0 || checks[phase].Phase != c.Phase {
			phase, node = i, -1
		}
		if node < 0 || checks[node].Node != c.Node {
			node = i
		}
		checks[phase].Phases++
		checks[node].Nodes++
	}
}

// fixed is a fix and how it was verified.
type fixed struct {
	matrix.AppliedFix
	// Verified is the evidence that decides: what was unhealthy or undecided, else
	// the last.
	Verified []matrix.Evidence
	Times    int
}

// restart is one way of restarting the nodes.
type restart struct {
	Name                  string
	Restarted, Net, Waits time.Duration
	Verdict               matrix.Verdict
	// API, Ready and Pods are when each was there again, Taints what nodes were
	// tainted with meanwhile.
	API, Ready, Pods string
	Taints           []string
}

type past struct {
	Strip    []stretch
	Runs     int
	Flaky    int
	Results  int
	Up       plot
	Recovery plot
}

// stretch is a cell's verdict over runs that follow each other.
type stretch struct {
	Verdict     matrix.Verdict
	Glyphs      string
	First, Last string
}

type plot struct {
	history.Times
	Name, Points string
	Last         time.Duration
}

type command struct{ What, Line string }

type file struct {
	Node, Name string
	Size       int64
	// First is the number of the first line that is shown, Cut says that there
	// are others before it.
	First int
	Cut   bool
	Lines [][]view.Span
	Whole string
}

func (p *pageData) drill(c *cellData) (*drill, error) {
	d := &drill{cellData: c, Commands: p.commands(c), Restarts: restarts(c.Phases)}
	d.Bars = bars(c.Phases)
	verified := map[string][]matrix.Evidence{}
	for _, ph := range c.Phases {
		for _, e := range ph.Evidence {
			if id, of := strings.CutPrefix(e.Check, "fix:"); of {
				verified[id] = append(verified[id], e)
				if e.Outcome == matrix.Healthy {
					continue
				}
			}
			d.Checks = append(d.Checks, check{Phase: ph.Name, Check: e.Check, Node: e.Node, Outcome: e.Outcome.String(), Class: outcomeClass(e.Outcome), Saw: e.Saw, Want: e.Want})
		}
	}
	span(d.Checks)
	for _, f := range c.Decided {
		if f.State != "not-applicable" {
			d.Fixed = append(d.Fixed, newFixed(f, verified[f.ID]))
		}
	}
	d.Past = newPast(p.series[history.Key(c.planned.ID, history.Chosen(c.planned))])
	var err error
	d.Files, err = p.files(c)
	return d, err
}

func newFixed(f matrix.AppliedFix, all []matrix.Evidence) fixed {
	one := fixed{AppliedFix: f, Times: len(all)}
	for _, e := range all {
		if e.Outcome != matrix.Healthy {
			one.Verified = append(one.Verified, e)
		}
	}
	if len(one.Verified) == 0 && len(all) > 0 {
		one.Verified = all[len(all)-1:]
	}
	return one
}

// NotApplicable counts the fixes that the cell has no use for.
func (d *drill) NotApplicable() int { return len(d.Decided) - len(d.Fixed) }

func bars(phases []view.Phase) []bar {
	var first, last time.Time
	for _, ph := range phases {
		if !ph.Ran || ph.Started.IsZero() {
			continue
		}
		if first.IsZero() || ph.Started.Before(first) {
			first = ph.Started
		}
		if end := ph.Started.Add(ph.Took); end.After(last) {
			last = end
		}
	}
	whole := last.Sub(first)
	part := func(d time.Duration) float64 {
		if whole <= 0 {
			return 0
		}
		return math.Round(10000*float64(d)/float64(whole)) / 10
	}
	all := make([]bar, 0, len(phases))
	for _, ph := range phases {
		b := bar{Phase: ph, Net: ph.Took - ph.Waited}
		if ph.Ran && !ph.Started.IsZero() {
			b.X, b.Width, b.Waiting = part(ph.Started.Sub(first)), max(part(ph.Took), 2), part(ph.Waited)
			b.WaitX = b.X + b.Width - b.Waiting
		}
		all = append(all, b)
	}
	return all
}

func restarts(phases []view.Phase) (all []restart) {
	by := map[string]view.Phase{}
	for _, ph := range phases {
		by[ph.Name] = ph
	}
	for _, way := range matrix.Restarts() {
		stop, back := by[string(way.Happens)], by[string(way.Recovers)]
		if !stop.Ran {
			continue
		}
		r := restart{Name: string(way.Restart), Restarted: stop.Took, Net: back.Took - back.Waited, Waits: back.Waited, Verdict: back.Verdict,
			API: back.Recovered("api"), Ready: back.Recovered("ready"), Pods: back.Recovered("pods"), Taints: back.Taints()}
		if n := len(back.Recoveries); n > 1 {
			r.Name = fmt.Sprintf("%s, %d times", r.Name, n)
		}
		if stop.Verdict != matrix.Pass {
			r.Verdict = stop.Verdict
		}
		all = append(all, r)
	}
	return all
}

func newPast(s *history.Series) *past {
	if s == nil {
		return nil
	}
	d := &past{Runs: len(s.Points), Up: newPlot("bring-up", s.Up), Recovery: newPlot("recovery", s.Recovery)}
	d.Flaky, d.Results = s.Flakes()
	for _, point := range s.Points {
		if n := len(d.Strip); n > 0 && d.Strip[n-1].Verdict == point.Verdict {
			d.Strip[n-1].Glyphs += Glyph(point.Verdict)
			d.Strip[n-1].Last = view.Plain(point.Run)
			continue
		}
		run := view.Plain(point.Run)
		d.Strip = append(d.Strip, stretch{point.Verdict, Glyph(point.Verdict), run, run})
	}
	return d
}

// FlakeRate is the part of the results that were flaky.
func (d *past) FlakeRate() string {
	if d.Results == 0 {
		return "not known"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(d.Flaky)/float64(d.Results))
}

func newPlot(name string, t history.Times) plot {
	p := plot{Times: t, Name: name}
	if len(t.Values) == 0 {
		return p
	}
	p.Last = t.Values[len(t.Values)-1]
	if len(t.Values) == 1 {
		return p
	}
	most := slices.Max(t.Values)
	var b strings.Builder
	for i, v := range t.Values {
		fmt.Fprintf(&b, "%d,%d ", 180*i/(len(t.Values)-1), 23-22*v/most)
	}
	p.Points = strings.TrimSpace(b.String())
	return p
}

// commands say how to see it again. Each names what the program has.
func (p *pageData) commands(c *cellData) []command {
	again := []string{"lxcmatrix run -f", quote(p.Matrix), "--only", quote(c.ID)}
	for _, id := range c.With {
		again = append(again, "--with", quote(id))
	}
	for _, id := range c.Without {
		again = append(again, "--without", quote(id))
	}
	if c.Defied {
		again = append(again, "--defy-gates")
	}
	all := []command{{"Run it again, by the matrix as it is now", strings.Join(again, " ")},
		{"A script that runs it again as it was planned", fmt.Sprintf("lxcmatrix reproduce %s --run %s", quote(c.ID), quote(p.ID))}}
	if c.Gate != "" {
		all = append(all, command{"Why it is ruled out", fmt.Sprintf("lxcmatrix why %s --run %s", quote(c.ID), quote(p.ID))})
	}
	if len(c.budget) > 0 {
		all = append(all, command{"List its logs", fmt.Sprintf("lxcmatrix logs %s --run %s", quote(c.ID), quote(p.ID))})
	}
	if c.Verdict == matrix.Pass {
		for _, format := range []string{"shell", "incus-profile", "ansible"} {
			all = append(all, command{"Export its fix set: " + format, fmt.Sprintf("lxcmatrix export --only %s --run %s --format %s -o exported", quote(c.ID), quote(p.ID), format)})
		}
	}
	return all
}

// quote is a word as a shell reads it. Plain text has nothing that shells cannot
// be told.
func quote(s string) string {
	q, err := syntax.Quote(s, syntax.LangPOSIX)
	if err != nil {
		return "''"
	}
	return q
}

// files are the cell's logs, as much of each as it was allotted.
func (p *pageData) files(c *cellData) ([]file, error) {
	if len(c.budget) == 0 {
		return nil, nil
	}
	logs, err := p.logs(c.planned.ID)
	if err != nil {
		return nil, err
	}
	var all []file
	for i, l := range logs {
		if i == len(c.budget) {
			break
		}
		f := file{Node: view.Plain(l.Node), Name: view.Plain(l.Name), Size: l.Size, Cut: c.budget[i] < l.Size}
		if f.Cut {
			f.Whole = fmt.Sprintf("lxcmatrix logs %s %s %s --run %s", quote(c.ID), quote(f.Node), quote(f.Name), quote(p.ID))
		}
		if c.budget[i] > 0 {
			text, err := l.Last(c.budget[i])
			if err != nil {
				return nil, err
			}
			lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			if f.Cut && len(lines) > 1 {
				// The first is a part of one.
				lines = lines[1:]
			}
			for _, line := range lines {
				f.Lines = append(f.Lines, view.Styled(line))
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// list joins names for a sentence.
func list(names []string) string { return strings.Join(names, ", ") }
