// Package progress tells people and programs what a run does, as it happens.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// Teller tells of one event after another. It is safe for concurrent use.
type Teller struct {
	now  func() time.Time
	tell func(runfolder.Event)

	mu   sync.Mutex
	keep func(runfolder.Event) error
}

// patience is how long a step may take before its start is told: what is over
// sooner needs no word at all, unless it failed.
const patience = 2 * time.Second

// NewLines tells in lines of text, one for each event that says something to
// people, with the time since now was first asked.
func NewLines(w io.Writer, now func() time.Time) *Teller {
	started := now()
	return &Teller{now: now, tell: func(e runfolder.Event) {
		if text := Text(e); text != "" {
			writeLine(w, e.Time.Sub(started), text)
		}
	}}
}

// NewJSON tells in JSON, one event a line, as they are in a run's
// events.ndjson, where hide has taken secrets out of what was said; events of kind
// note are there from before the run has a folder.
func NewJSON(w io.Writer, now func() time.Time, hide func(text string) string) *Teller {
	encoder := newEncoder(w)
	return &Teller{now: now, tell: func(e runfolder.Event) {
		e.Text = hide(e.Text)
		// A reader that is gone stops nothing.
		_ = encoder.Encode(e)
	}}
}

// Keep gives every note from now on to keep, too, as an event; what keep
// returns is told, once.
func (t *Teller) Keep(keep func(runfolder.Event) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep = keep
}

// Event tells of an event.
func (t *Teller) Event(e runfolder.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(e)
}

// Note tells something in words.
func (t *Teller) Note(format string, args ...any) {
	e := runfolder.Event{Time: t.now(), Kind: runfolder.Note, Text: fmt.Sprintf(format, args...)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(e)
	if t.keep == nil {
		return
	}
	if err := t.keep(e); err != nil {
		t.keep = nil
		t.tell(runfolder.Event{Time: t.now(), Kind: runfolder.Note, Text: fmt.Sprintf("notes are not kept any more: %v", err)})
	}
}

// Step announces work that turns out to take more than two seconds, and its
// end. The returned function is called once.
func (t *Teller) Step(format string, args ...any) func(error) {
	what := fmt.Sprintf(format, args...)
	began := t.now()
	timer := time.AfterFunc(patience, func() { t.Note("%s ...", what) })
	return func(err error) {
		told := !timer.Stop()
		switch took := t.now().Sub(began).Round(100 * time.Millisecond); {
		case err != nil:
			t.Note("%s: failed after %s: %v", what, took, err)
		case told:
			t.Note("%s: done in %s", what, took)
		}
	}
}
