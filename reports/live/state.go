package live

import (
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// state is a run as far as its events tell.
type state struct {
	plan  matrix.Plan
	cells []*cell
	place map[matrix.CellID]*cell
	// columns are the phases that any cell has, and longest is the width of the
	// longest ID.
	columns []matrix.Phase
	longest int
	hosts   []*host
	// said are the lines that belong to no cell, the last of them.
	said []line
	// started and ended are zero as long as nothing tells.
	started, ended time.Time
	// interrupted is what ended the run early, or "".
	interrupted string
}

// cell is a cell of the run.
type cell struct {
	matrix.Cell
	// verdict is nil until the cell has ended.
	verdict *matrix.Verdict
	// started is when the cell did, since when its present phase did.
	started, since, ended time.Time
	attempt               int
	phases                map[matrix.Phase]runfolder.Event
	// had is how often the attempt had each phase.
	had  map[matrix.Phase]int
	said []line
}

// host is where cells run.
type host struct {
	matrix.HostRef
	open, closed bool
}

// line is something that was said, and when.
type line struct {
	at   time.Time
	text string
}

// remembered is how many lines are kept of a cell, and of the run: as many as a
// tall terminal shows.
const remembered = 50

func newState(plan matrix.Plan) *state {
	s := &state{plan: plan, place: map[matrix.CellID]*cell{}, longest: len("CELL")}
	phases := map[matrix.Phase]bool{}
	for _, c := range plan.Cells {
		one := &cell{Cell: c, phases: map[matrix.Phase]runfolder.Event{}, had: map[matrix.Phase]int{}}
		s.cells, s.place[c.ID] = append(s.cells, one), one
		s.longest = max(s.longest, ansi.StringWidth(string(c.ID)))
		for _, phase := range c.Phases() {
			phases[phase] = true
		}
		if !c.Runs() {
			verdict := matrix.Judge(c, nil)
			one.verdict = &verdict.Verdict
			one.said = []line{{at: plan.Created, text: view.Plain(verdict.Reason)}}
			continue
		}
		if !slices.ContainsFunc(s.hosts, func(h *host) bool { return h.Name == c.Host.Name }) {
			s.hosts = append(s.hosts, &host{HostRef: c.Host})
		}
	}
	s.columns = slices.DeleteFunc(matrix.Phases(), func(p matrix.Phase) bool { return !phases[p] })
	return s
}

// apply takes in an event. One of a cell or host that the plan does not have
// changes nothing.
func (s *state) apply(e runfolder.Event) {
	switch e.Kind {
	case runfolder.RunStarted:
		s.started = e.Time
	case runfolder.RunEnded:
		s.ended, s.interrupted = e.Time, e.Text
	case runfolder.HostOpened, runfolder.HostClosed:
		for _, h := range s.hosts {
			if h.Name == e.Host {
				h.open, h.closed = e.Kind == runfolder.HostOpened, e.Kind == runfolder.HostClosed
			}
		}
	case runfolder.Note:
		s.note(line{e.Time, progress.Text(e)})
	}
	c, there := s.place[e.Cell]
	if !there {
		return
	}
	switch e.Kind {
	case runfolder.CellStarted:
		c.started, c.since = e.Time, e.Time
	case runfolder.PhaseEnded:
		if e.Verdict == nil {
			return
		}
		if e.Attempt > c.attempt {
			c.attempt, c.phases, c.had = e.Attempt, map[matrix.Phase]runfolder.Event{}, map[matrix.Phase]int{}
		}
		c.phases[e.Phase], c.since = e, e.Time
		c.had[e.Phase]++
		c.said = say(c.said, line{e.Time, progress.Phase(e)})
	case runfolder.CellEnded:
		c.verdict, c.ended = e.Verdict, e.Time
	}
}

// note keeps what was said with the cell that it begins with, or the run.
func (s *state) note(said line) {
	for _, c := range s.cells {
		if about, ok := strings.CutPrefix(said.text, string(c.ID)); ok && strings.HasPrefix(about, ":") {
			c.said = say(c.said, line{said.at, strings.TrimSpace(about[1:])})
			return
		}
	}
	s.said = say(s.said, said)
}

func say(said []line, l line) []line {
	if len(said) == remembered {
		said = slices.Delete(said, 0, 1)
	}
	return append(said, l)
}

// runs says whether the cell is under way.
func (c *cell) runs() bool { return !c.started.IsZero() && c.verdict == nil }

// phase is the one that a cell under way is in: its phases follow each other,
// and after one that did not pass only what was seen is collected.
func (c *cell) phase() matrix.Phase {
	through := map[matrix.Phase]int{}
	for _, p := range append(c.Course(), matrix.PhaseCollect, matrix.PhaseDestroy) {
		through[p]++
		switch {
		case c.had[p] < through[p]:
			return p
		case *c.phases[p].Verdict != matrix.Pass && p.Proves():
			if c.had[matrix.PhaseCollect] > 0 {
				return matrix.PhaseDestroy
			}
			return matrix.PhaseCollect
		}
	}
	return matrix.PhaseDestroy
}

// took is how long the cell has been under way, or was.
func (c *cell) took(now time.Time) time.Duration {
	switch {
	case c.started.IsZero():
		return 0
	case !c.ended.IsZero():
		return c.ended.Sub(c.started)
	}
	return now.Sub(c.started)
}

// inUse are the cells under way, and the CPUs and bytes of memory that their
// nodes and the machines that are up may take of the budget.
func (s *state) inUse() (cells, cpus int, memory int64) {
	own := map[string]bool{}
	for _, h := range s.hosts {
		switch h.Driver {
		case "qemu":
			own[h.Name] = true
			if h.open {
				c, m := h.QEMU.Size()
				cpus, memory = cpus+c, memory+m+h.QEMU.Overhead()
			}
		case "remote":
			own[h.Name] = true
		}
	}
	for _, c := range s.cells {
		if !c.runs() {
			continue
		}
		cells++
		if !own[c.Host.Name] {
			cpus += min(c.Topology.Nodes(), s.plan.Budget.CPUs)
			memory += int64(c.Topology.Nodes()) * s.plan.Budget.Node.MemoryBytes
		}
	}
	return cells, cpus, memory
}
