// Package live shows a run on a terminal while it goes on: its cells and their
// phases, the hosts, what is in use of the budget, what was said last, and the
// last line of the selected cell's own logs.
package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// Options of a view.
type Options struct {
	In  io.Reader
	Out io.Writer
	// Environ is the program's environment, which says what the terminal can.
	Environ []string
	Plan    matrix.Plan
	// Expected is how long cells are expected to take; one that is not in it is
	// not known.
	Expected map[matrix.CellID]time.Duration
	// Said is the last line of a cell's own logs, empty where there is none; nil
	// where nothing is known of them. It is asked once a second.
	Said func(matrix.CellID) string
	// Colour may be used.
	Colour bool
	// Interrupt asks the run to end, and is called again if that is asked for
	// again; nil where the view has no say in that, and its keys only leave it.
	Interrupt func()
}

// Show shows a run until its last event has come, the events are over, somebody
// leaves it, or ctx ends. left says that the run goes on as far as the view
// knows.
func Show(ctx context.Context, o Options, events <-chan runfolder.Event) (left bool, err error) {
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(newModel(o), tea.WithContext(within), tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithEnvironment(o.Environ),
		tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond))
	go func() {
		for {
			select {
			case e, more := <-events:
				if !more {
					p.Send(overMsg{})
					return
				}
				p.Send(eventMsg(e))
			case <-within.Done():
				return
			}
		}
	}()
	last, err := p.Run()
	if err != nil && (ctx.Err() == nil || !errors.Is(err, tea.ErrProgramKilled)) {
		return true, fmt.Errorf("show the run: %w", err)
	}
	m, ok := last.(*model)
	return !ok || !m.over, nil
}

// framesPerSecond is how often the terminal is written to at the most: enough
// for keys to feel at once, little enough to cost next to nothing.
const framesPerSecond = 10

type (
	eventMsg runfolder.Event
	overMsg  struct{}
	tickMsg  time.Time
	// saidMsg is what a node of a cell said last.
	saidMsg struct {
		cell matrix.CellID
		text string
	}
)

// model is the view as the terminal's library wants it.
type model struct {
	page      page
	said      func(matrix.CellID) string
	interrupt func()
	// follow moves the selection to what runs, until somebody moves it.
	follow bool
	// asked: it is to be confirmed that the run ends; ending: it was.
	asked, ending bool
	over          bool
}

func newModel(o Options) *model {
	m := &model{interrupt: o.Interrupt, said: o.Said, follow: true,
		page: page{state: newState(o.Plan), expected: o.Expected, colour: o.Colour, now: time.Now()}}
	m.page.keys = m.keys()
	return m
}

func tick() tea.Cmd { return tea.Tick(time.Second, func(t time.Time) tea.Msg { return tickMsg(t) }) }

// Init starts the clock.
func (m *model) Init() tea.Cmd { return tick() }

// Update takes in what happened.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var then tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.page.width, m.page.height = msg.Width, msg.Height
	case tickMsg:
		m.page.now, then = time.Time(msg), tea.Batch(tick(), m.listen())
	case saidMsg:
		m.page.heard = msg
	case eventMsg:
		e := runfolder.Event(msg)
		m.page.apply(e)
		m.chase(e)
		if e.Kind == runfolder.RunEnded {
			m.over, then = true, tea.Quit
		}
	case overMsg:
		m.over, then = true, tea.Quit
	case tea.KeyPressMsg:
		before := m.page.selected
		if then = m.press(msg.String()); m.page.selected != before {
			then = m.listen()
		}
	}
	m.page.keys = m.keys()
	return m, then
}

// listen reads what the selected cell said last.
func (m *model) listen() tea.Cmd {
	if m.said == nil || len(m.page.cells) == 0 {
		return nil
	}
	c := m.page.cells[m.page.selected]
	if !c.runs() {
		return nil
	}
	return func() tea.Msg { return saidMsg{c.ID, view.Plain(m.said(c.ID))} }
}

// View is what the terminal shows.
func (m *model) View() tea.View {
	v := tea.NewView("")
	v.AltScreen = true
	if m.page.width > 0 {
		v.Content = m.page.render()
	}
	return v
}

// chase selects the cell that something happened to.
func (m *model) chase(e runfolder.Event) {
	if !m.follow {
		return
	}
	for i, c := range m.page.cells {
		if c.ID == e.Cell && c.runs() {
			m.page.selected = i
		}
	}
}

func (m *model) press(key string) tea.Cmd {
	asked := m.asked
	m.asked = false
	switch key {
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-10)
	case "pgdown", "space":
		m.move(10)
	case "home", "g":
		m.move(-len(m.page.cells))
	case "end", "G":
		m.move(len(m.page.cells))
	case "f":
		m.follow = true
		for i, c := range m.page.cells {
			if c.runs() {
				m.page.selected = i
				break
			}
		}
	case "d":
		return tea.Quit
	case "q", "esc":
		switch {
		case m.interrupt == nil:
			return tea.Quit
		case m.ending:
			m.interrupt()
		default:
			m.asked = true
		}
	case "y":
		if asked {
			m.end()
		}
	case "ctrl+c":
		if m.interrupt == nil {
			return tea.Quit
		}
		m.end()
	}
	return nil
}

func (m *model) end() {
	m.ending = true
	m.interrupt()
}

func (m *model) move(by int) {
	m.follow = false
	m.page.selected = max(0, min(m.page.selected+by, len(m.page.cells)-1))
}

// keys says what can be pressed, and what was.
func (m *model) keys() string {
	switch {
	case m.asked:
		return "end the run, and remove its nodes? y: yes, any other key: no"
	case m.ending:
		return "the run ends: nodes are removed · q: at once, leaving them · d: leave it to itself"
	case m.interrupt == nil:
		return "↑↓: select a cell · f: follow what runs · q: leave; the run goes on"
	}
	return "↑↓: select a cell · f: follow what runs · d: detach, the run goes on · q: end the run"
}
