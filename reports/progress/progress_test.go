package progress_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// What is over within two seconds is told only if it failed; the rest is told
// when it has taken that long, and at its end. All of it is kept, too.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, kept bytes.Buffer
		l := progress.NewLines(&out, time.Now)
		wait := func(d time.Duration) {
			time.Sleep(d) // the bubble's own time
			synctest.Wait()
		}
		again := progress.NewLines(&kept, time.Now)
		l.Keep(func(e runfolder.Event) error { again.Event(e); return nil })
		l.Note("%d cells", 2)
		short := l.Step("opening host %s", "embedded")
		wait(time.Second)
		short(nil)
		failing := l.Step("reading %s", "a file")
		wait(500 * time.Millisecond)
		failing(errors.New("no such file"))
		long := l.Step("building %s", "kubelet")
		wait(90 * time.Second)
		long(nil)
		late := l.Step("copying")
		wait(3 * time.Second)
		late(errors.New("no space left"))

		const want = `    0.0s  2 cells
    1.5s  reading a file: failed after 500ms: no such file
    3.5s  building kubelet ...
   91.5s  building kubelet: done in 1m30s
   93.5s  copying ...
   94.5s  copying: failed after 3s: no space left
`
		if out.String() != want {
			t.Errorf("told:\n%swant:\n%s", &out, want)
		}
		if kept.String() != want {
			t.Errorf("kept:\n%swant:\n%s", &kept, want)
		}
	})
}

// Notes that cannot be kept are told, and that they are not kept is told once.
func TestNotKept(t *testing.T) {
	var out bytes.Buffer
	l := progress.NewLines(&out, func() time.Time { return time.Unix(0, 0) })
	l.Keep(func(runfolder.Event) error { return errors.New("no space left") })
	l.Note("one")
	l.Note("two")
	const want = "    0.0s  one\n    0.0s  notes are not kept any more: no space left\n    0.0s  two\n"
	if out.String() != want {
		t.Errorf("told:\n%swant:\n%s", &out, want)
	}
}

// events are those of two cells side by side; what nodes say is hostile.
func events(start time.Time) []runfolder.Event {
	at := func(seconds int, e runfolder.Event) runfolder.Event {
		e.Time = start.Add(time.Duration(seconds) * time.Second)
		return e
	}
	pass, fail, blocked := matrix.Pass, matrix.Fail, matrix.Blocked
	const one, two, three = "kubeadm-1.34/debian-13/1/native", "kubeadm-1.36/debian-13/1/native", "k3s-stable/debian-13/1/native"
	phase := func(seconds int, cell matrix.CellID, p matrix.Phase, v *matrix.Verdict, reason string) runfolder.Event {
		return at(seconds, runfolder.Event{Kind: runfolder.PhaseEnded, Cell: cell, Attempt: 1, Phase: p, Took: matrix.Duration(2500 * time.Millisecond), Verdict: v, Text: reason})
	}
	watched := phase(50, one, matrix.PhaseBaseline, &pass, "")
	watched.Waited = matrix.Duration(30 * time.Second)
	return []runfolder.Event{
		at(0, runfolder.Event{Kind: runfolder.RunStarted, Run: "20261120T100000Z-abcdef"}),
		at(0, runfolder.Event{Kind: runfolder.HostOpened, Host: "native", Took: matrix.Duration(time.Second)}),
		at(1, runfolder.Event{Kind: runfolder.CellEnded, Cell: three, Verdict: &blocked, Text: "k3s stable cannot be had"}),
		at(2, runfolder.Event{Kind: runfolder.CellStarted, Cell: one}),
		at(2, runfolder.Event{Kind: runfolder.CellStarted, Cell: two}),
		at(3, runfolder.Event{Kind: runfolder.Note, Text: "waiting for room\r\n::error::not ours"}),
		phase(5, one, matrix.PhaseCreate, &pass, ""),
		phase(6, two, matrix.PhaseCreate, &pass, ""),
		phase(20, two, matrix.PhaseInstall, &fail, "kubeadm init: \x1b[31mno\x1b[0m\n::warning::not ours either"),
		watched,
		at(51, runfolder.Event{Kind: runfolder.CellEnded, Cell: two, Verdict: &fail, Text: "kubeadm init"}),
		at(90, runfolder.Event{Kind: runfolder.CellEnded, Cell: one, Verdict: &pass}),
		at(91, runfolder.Event{Kind: runfolder.RunEnded, Run: "20261120T100000Z-abcdef"}),
	}
}

// Every style tells the same events, each in its own way.
func TestStyles(t *testing.T) {
	start := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	now := func() time.Time { return start }
	for name, of := range map[string]func(*bytes.Buffer) *progress.Teller{
		"lines":  func(w *bytes.Buffer) *progress.Teller { return progress.NewLines(w, now) },
		"json":   func(w *bytes.Buffer) *progress.Teller { return progress.NewJSON(w, now, strings.Clone) },
		"github": func(w *bytes.Buffer) *progress.Teller { return progress.NewGroups(w, now, progress.GitHub) },
		"gitlab": func(w *bytes.Buffer) *progress.Teller { return progress.NewGroups(w, now, progress.GitLab) },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			teller := of(&out)
			for _, e := range events(start) {
				teller.Event(e)
			}
			golden.Assert(t, out.String(), name+".golden")
		})
	}
}

func TestServiceOf(t *testing.T) {
	for name, want := range map[string]progress.Service{"GITHUB_ACTIONS": progress.GitHub, "GITLAB_CI": progress.GitLab, "CI": progress.NoService} {
		got := progress.ServiceOf(func(key string) string {
			if key == name {
				return "true"
			}
			return ""
		})
		if got != want {
			t.Errorf("with %s set: %v, want %v", name, got, want)
		}
	}
}
