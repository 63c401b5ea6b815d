// Package progress tells people on a terminal or in a log what a run does.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Lines writes one line per event, each with the time since the start. It is
// safe for concurrent use.
type Lines struct {
	mu      sync.Mutex
	w       io.Writer
	now     func() time.Time
	started time.Time
}

// patience is how long a step may take before its start is told: what is over
// sooner needs no line at all, unless it failed.
const patience = 2 * time.Second

// New writes to w, with now as its clock.
func New(w io.Writer, now func() time.Time) *Lines {
	return &Lines{w: w, now: now, started: now()}
}

// Note writes one line.
func (l *Lines) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A terminal that is gone stops nothing.
	_, _ = fmt.Fprintf(l.w, "%7.1fs  %s\n", l.now().Sub(l.started).Seconds(), fmt.Sprintf(format, args...))
}

// Step announces work that turns out to take more than two seconds, and its
// end. The returned function is called once.
func (l *Lines) Step(format string, args ...any) func(error) {
	what := fmt.Sprintf(format, args...)
	began := l.now()
	timer := time.AfterFunc(patience, func() { l.Note("%s ...", what) })
	return func(err error) {
		told := !timer.Stop()
		switch took := l.now().Sub(began).Round(100 * time.Millisecond); {
		case err != nil:
			l.Note("%s: failed after %s: %v", what, took, err)
		case told:
			l.Note("%s: done in %s", what, took)
		}
	}
}
