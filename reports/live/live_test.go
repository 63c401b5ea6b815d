package live

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

var start = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

const gib = 1 << 30

func cellOf(host, driver, minor string, t matrix.Topology) matrix.Cell {
	c := matrix.Cell{Host: matrix.HostRef{Name: host, Driver: driver}, Distro: matrix.Distro{Name: "kubeadm", Version: minor + ".4", Minor: minor},
		OS: matrix.OS{Name: "debian/13"}, Topology: t}
	if driver == "qemu" {
		c.Host.QEMU = matrix.QEMURef{CPUs: 2, MemoryBytes: 6 * gib}
	}
	c.ID = c.NewID()
	return c
}

func plan() matrix.Plan {
	one, pair := matrix.Topology{Servers: 1}, matrix.Topology{Servers: 1, Agents: 1}
	p := matrix.Plan{APIVersion: matrix.PlanAPIVersion, Created: start, Matrix: "default",
		Budget:   matrix.Budget{CPUs: 4, MemoryBytes: 16 * gib, Node: matrix.NodeLimits{MemoryBytes: 2 * gib}},
		Expected: matrix.Estimate{Makespan: matrix.Duration(10 * time.Minute)},
		Cells:    []matrix.Cell{cellOf("native", "embedded", "1.34", one), cellOf("native", "embedded", "1.36", pair), cellOf("k6.12-v2", "qemu", "1.34", one), cellOf("native", "embedded", "1.31", one)}}
	p.Cells[3].Unavailable = "kubeadm 1.31 cannot be had"
	return p
}

// events are those of a run in which one cell failed and others go on.
func events() []runfolder.Event {
	p := plan()
	pass, fail := matrix.Pass, matrix.Fail
	at := func(seconds int, e runfolder.Event) runfolder.Event {
		e.Time = start.Add(time.Duration(seconds) * time.Second)
		return e
	}
	phase := func(seconds, took int, cell int, phase matrix.Phase, v *matrix.Verdict, why string) runfolder.Event {
		return at(seconds, runfolder.Event{Kind: runfolder.PhaseEnded, Cell: p.Cells[cell].ID, Attempt: 1, Phase: phase, Took: matrix.Duration(time.Duration(took) * time.Second), Verdict: v, Text: why})
	}
	return []runfolder.Event{
		at(0, runfolder.Event{Kind: runfolder.RunStarted, Run: "20261120T100000Z-abcdef"}),
		at(2, runfolder.Event{Kind: runfolder.HostOpened, Host: "native"}),
		at(2, runfolder.Event{Kind: runfolder.CellStarted, Cell: p.Cells[0].ID}),
		at(3, runfolder.Event{Kind: runfolder.CellStarted, Cell: p.Cells[1].ID}),
		at(4, runfolder.Event{Kind: runfolder.Note, Text: "waiting for room: \x1b[2Jhost k6.12-v2"}),
		phase(6, 4, 0, matrix.PhaseCreate, &pass, ""),
		phase(8, 5, 1, matrix.PhaseCreate, &pass, ""),
		phase(9, 3, 0, matrix.PhaseFix, &pass, ""),
		phase(40, 31, 0, matrix.PhaseInstall, &fail, "kubeadm init: \x1b[31m\x1b]0;title\x07it failed\nand more"),
		phase(41, 1, 0, matrix.PhaseCollect, &pass, ""),
		phase(42, 1, 0, matrix.PhaseDestroy, &pass, ""),
		at(42, runfolder.Event{Kind: runfolder.CellEnded, Cell: p.Cells[0].ID, Verdict: &fail, Text: "kubeadm init"}),
		at(43, runfolder.Event{Kind: runfolder.Note, Text: string(p.Cells[1].ID) + ": an image is made"}),
		phase(44, 2, 1, matrix.PhaseFix, &pass, ""),
		at(45, runfolder.Event{Kind: runfolder.HostOpened, Host: "k6.12-v2"}),
		at(46, runfolder.Event{Kind: runfolder.Event{}.Kind, Text: "of no kind"}),
		at(46, runfolder.Event{Kind: runfolder.CellStarted, Cell: "of no plan"}),
	}
}

// TestRestartsInARow: a phase that a cell has again is one that it is in again.
func TestRestartsInARow(t *testing.T) {
	p := plan()
	p.Cells[0].Soak = 2
	s := newState(p)
	c, pass, fail := s.cells[0], matrix.Pass, matrix.Fail
	in := func(want matrix.Phase) {
		t.Helper()
		if got := c.phase(); got != want {
			t.Errorf("in %s, want %s", got, want)
		}
	}
	for _, phase := range c.Course() {
		in(phase)
		s.apply(runfolder.Event{Kind: runfolder.PhaseEnded, Cell: c.ID, Attempt: 1, Phase: phase, Verdict: &pass})
	}
	in(matrix.PhaseCollect)
	s.apply(runfolder.Event{Kind: runfolder.PhaseEnded, Cell: c.ID, Attempt: 2, Phase: matrix.PhaseCreate, Verdict: &pass})
	in(matrix.PhaseFix)
	s.apply(runfolder.Event{Kind: runfolder.PhaseEnded, Cell: c.ID, Attempt: 2, Phase: matrix.PhaseFix, Verdict: &fail})
	in(matrix.PhaseCollect)
	s.apply(runfolder.Event{Kind: runfolder.PhaseEnded, Cell: c.ID, Attempt: 2, Phase: matrix.PhaseCollect, Verdict: &pass})
	in(matrix.PhaseDestroy)
}

func newTestModel(t *testing.T, interrupt func()) *model {
	t.Helper()
	p := plan()
	m := newModel(Options{Plan: p, Interrupt: interrupt, Expected: map[matrix.CellID]time.Duration{p.Cells[0].ID: 3 * time.Minute, p.Cells[1].ID: 4 * time.Minute}})
	m.page.now = start
	return m
}

// TestPage: the page at several sizes, of a run that goes on; no line is wider
// than the terminal, none is one too many, and nothing that a node said moves
// the cursor.
func TestPage(t *testing.T) {
	m := newTestModel(t, func() {})
	for _, e := range events() {
		m.Update(eventMsg(e))
	}
	m.Update(tickMsg(start.Add(61 * time.Second)))
	for _, size := range []struct{ width, height int }{{160, 20}, {100, 24}, {60, 12}, {40, 8}, {30, 5}} {
		t.Run(fmt.Sprintf("%dx%d", size.width, size.height), func(t *testing.T) {
			m.Update(tea.WindowSizeMsg{Width: size.width, Height: size.height})
			content := m.View().Content
			lines := strings.Split(content, "\n")
			if len(lines) > size.height {
				t.Errorf("%d lines", len(lines))
			}
			for _, l := range lines {
				if w := ansi.StringWidth(l); w > size.width {
					t.Errorf("%d columns: %q", w, l)
				}
			}
			if strings.ContainsAny(content, "\x1b\r\x07") {
				t.Errorf("control characters in %q", content)
			}
			golden.Assert(t, strings.Join(trimmed(lines), "\n")+"\n", fmt.Sprintf("%dx%d.golden", size.width, size.height))
		})
	}
}

func trimmed(lines []string) []string {
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines
}

// press presses keys and says whether the view ends by the last of them.
func press(m *model, keys ...string) (ends bool) {
	var cmd tea.Cmd
	for _, k := range keys {
		key := tea.Key{Text: k}
		switch k {
		case "up":
			key = tea.Key{Code: tea.KeyUp}
		case "down":
			key = tea.Key{Code: tea.KeyDown}
		case "end":
			key = tea.Key{Code: tea.KeyEnd}
		case "ctrl+c":
			key = tea.Key{Code: 'c', Mod: tea.ModCtrl}
		}
		_, cmd = m.Update(tea.KeyPressMsg(key))
	}
	if cmd == nil {
		return false
	}
	_, quits := cmd().(tea.QuitMsg)
	return quits
}

// TestKeys: the run ends when that is asked for and confirmed, and goes on when
// the view is left.
func TestKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		keys       []string
		interrupts int
		ends       bool
	}{
		"q alone":              {[]string{"q"}, 0, false},
		"q, and no":            {[]string{"q", "n"}, 0, false},
		"q, another, y":        {[]string{"q", "down", "y"}, 0, false},
		"q and y":              {[]string{"q", "y"}, 1, false},
		"q and y, and at once": {[]string{"q", "y", "q"}, 2, false},
		"Ctrl-C":               {[]string{"ctrl+c"}, 1, false},
		"Ctrl-C twice":         {[]string{"ctrl+c", "ctrl+c"}, 2, false},
		"d":                    {[]string{"d"}, 0, true},
		"d after q and y":      {[]string{"q", "y", "d"}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			interrupts := 0
			m := newTestModel(t, func() { interrupts++ })
			if ends := press(m, tc.keys...); ends != tc.ends || interrupts != tc.interrupts {
				t.Errorf("the view ends: %v, want %v; %d interrupts, want %d", ends, tc.ends, interrupts, tc.interrupts)
			}
		})
	}
	for _, key := range []string{"q", "d", "ctrl+c"} {
		if m := newTestModel(t, nil); !press(m, key) {
			t.Errorf("%s does not leave a run that is only looked at", key)
		}
	}
}

// TestSelection: what runs is followed until somebody moves, and again on f.
func TestSelection(t *testing.T) {
	m := newTestModel(t, nil)
	all := events()
	for _, e := range all[:4] {
		m.Update(eventMsg(e))
	}
	if m.page.selected != 1 {
		t.Errorf("cell %d is followed, want 1", m.page.selected)
	}
	press(m, "end", "down")
	m.Update(eventMsg(all[5]))
	if m.page.selected != 3 {
		t.Errorf("cell %d is selected, want the last", m.page.selected)
	}
	press(m, "f")
	if m.page.selected != 0 {
		t.Errorf("cell %d is followed, want the first that runs", m.page.selected)
	}
	press(m, "up", "up")
	if m.page.selected != 0 {
		t.Errorf("cell %d is selected, want the first", m.page.selected)
	}
}

// TestHeard: the last line of the selected cell's own logs is shown as long as that
// cell runs, and nothing in it moves the cursor.
func TestHeard(t *testing.T) {
	m := newTestModel(t, nil)
	m.said = func(id matrix.CellID) string {
		return fmt.Sprintf("s1: kubelet of %s \x1b[2J\x1b]0;title\x07says\r\nthis", id)
	}
	all := events()
	for _, e := range all[:8] {
		m.Update(eventMsg(e))
	}
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 24})
	listen := func() string {
		if then := m.listen(); then != nil {
			m.Update(then())
		}
		return m.View().Content
	}
	second := string(m.page.cells[1].ID)
	press(m, "down", "down", "up")
	if shown := listen(); !strings.Contains(shown, "log  s1: kubelet of "+second) || strings.ContainsAny(shown, "\x1b\x07\r") {
		t.Errorf("the line is not shown, or not as plain text:\n%q", shown)
	}
	press(m, "up")
	if shown := m.View().Content; strings.Contains(shown, "log  ") {
		t.Errorf("the line of another cell is shown:\n%s", shown)
	}
	for _, e := range all[8:] {
		m.Update(eventMsg(e))
	}
	if shown := listen(); strings.Contains(shown, "log  ") {
		t.Errorf("the line of a cell that is over is shown:\n%s", shown)
	}
}

// TestScroll: the selected cell is always shown.
func TestScroll(t *testing.T) {
	p := plan()
	for i := range 100 {
		c := p.Cells[0]
		c.Host.Name = fmt.Sprintf("host-%d", i)
		c.ID = c.NewID()
		p.Cells = append(p.Cells, c)
	}
	m := newModel(Options{Plan: p})
	m.Update(tea.WindowSizeMsg{Width: 100, Height: 20})
	for i := range p.Cells {
		if !strings.Contains(m.View().Content, "▸ "+string(p.Cells[i].ID)) {
			t.Fatalf("cell %d is selected and not shown:\n%s", i, m.View().Content)
		}
		press(m, "down")
	}
}

// TestShow runs the whole view on what is no terminal: it ends with the run, with
// its events, and with ctx, and says whether the run goes on.
func TestShow(t *testing.T) {
	ended := runfolder.Event{Kind: runfolder.RunEnded, Time: start.Add(time.Minute)}
	for name, tc := range map[string]struct {
		events []runfolder.Event
		cancel bool
		left   bool
	}{
		"ended":    {append(events(), ended), false, false},
		"no more":  {events(), false, false},
		"canceled": {nil, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var out bytes.Buffer
			in, hold := io.Pipe()
			defer func() { _ = hold.Close() }()
			feed := make(chan runfolder.Event)
			go func() {
				for _, e := range tc.events {
					feed <- e
				}
				if tc.cancel {
					cancel()
					return
				}
				close(feed)
			}()
			left, err := Show(ctx, Options{In: in, Out: &out, Environ: []string{"TERM=xterm"}, Plan: plan()}, feed)
			if err != nil || left != tc.left {
				t.Errorf("left: %v, want %v; %v", left, tc.left, err)
			}
		})
	}
}

// BenchmarkPage is one look at a run of 2,000 cells: it happens ten times a
// second at the most, and once a second where nothing happens.
func BenchmarkPage(b *testing.B) {
	p := plan()
	for i := range 2000 {
		c := p.Cells[0]
		c.Host.Name = fmt.Sprintf("host-%d", i%20)
		c.OS.Name = fmt.Sprintf("debian/%d", i)
		c.ID = c.NewID()
		p.Cells = append(p.Cells, c)
	}
	m := newModel(Options{Plan: p, Colour: true})
	for _, e := range events() {
		m.Update(eventMsg(e))
	}
	m.Update(tea.WindowSizeMsg{Width: 160, Height: 50})
	for b.Loop() {
		_ = m.View()
	}
}
