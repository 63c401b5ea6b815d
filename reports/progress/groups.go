package progress

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// Service is a CI service whose logs have groups that open and close.
type Service int

// The services.
const (
	// NoService is any other, whose logs are lines.
	NoService Service = iota
	// GitHub groups by the workflow commands group and endgroup
	// (docs.github.com, "Workflow commands for GitHub Actions").
	GitHub
	// GitLab groups by section_start and section_end (docs.gitlab.com, "CI/CD
	// job logs", custom collapsible sections).
	GitLab
)

// ServiceOf is the CI service that an environment is of, by the variables that
// both document.
func ServiceOf(getenv func(string) string) Service {
	switch "true" {
	case getenv("GITHUB_ACTIONS"):
		return GitHub
	case getenv("GITLAB_CI"):
		return GitLab
	}
	return NoService
}

// NewGroups tells in lines for the log of a CI service: each cell's lines in
// one group, told when the cell has ended, as cells run side by side; a line
// that belongs to no cell is told at once, and so is a phase that did not pass.
func NewGroups(w io.Writer, now func() time.Time, service Service) *Teller {
	if service == NoService {
		return NewLines(w, now)
	}
	g := &groups{w: w, service: service, started: now(), cells: map[matrix.CellID]*bytes.Buffer{}}
	return &Teller{now: now, tell: g.tell}
}

// groups are the cells whose lines are not told yet.
type groups struct {
	w       io.Writer
	service Service
	started time.Time
	cells   map[matrix.CellID]*bytes.Buffer
	ended   int
}

func (g *groups) tell(e runfolder.Event) {
	since := e.Time.Sub(g.started)
	text := Text(e)
	if text == "" {
		return
	}
	switch e.Kind {
	case runfolder.PhaseEnded:
		if *e.Verdict != matrix.Pass {
			writeLine(g.w, since, text)
		}
		writeLine(g.of(e.Cell), since, Phase(e))
	case runfolder.CellEnded:
		lines := g.of(e.Cell)
		delete(g.cells, e.Cell)
		// A cell that had no phase has nothing to fold up.
		if lines.Len() == 0 {
			writeLine(g.w, since, text)
			return
		}
		g.ended++
		var group bytes.Buffer
		switch title := fmt.Sprintf("%s  %s", e.Cell, e.Verdict); g.service {
		case GitHub:
			fmt.Fprintf(&group, "::group::%s\n%s::endgroup::\n", title, lines)
		default:
			name, at := fmt.Sprintf("cell_%d", g.ended), e.Time.Unix()
			fmt.Fprintf(&group, "\x1b[0Ksection_start:%d:%s[collapsed=true]\r\x1b[0K%s\n%s\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", at, name, title, lines, at, name)
		}
		// A reader that is gone stops nothing.
		_, _ = g.w.Write(group.Bytes())
	default:
		writeLine(g.w, since, text)
	}
}

func (g *groups) of(id matrix.CellID) *bytes.Buffer {
	lines, there := g.cells[id]
	if !there {
		lines = &bytes.Buffer{}
		g.cells[id] = lines
	}
	return lines
}
