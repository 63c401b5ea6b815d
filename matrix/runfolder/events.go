package runfolder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

const eventsFile = "events.ndjson"

// EventKind says what happened.
type EventKind string

// The kinds of events. A cell's phases follow each other in its own order, so
// that the end of one is the start of the next.
const (
	RunStarted  EventKind = "run-started"
	RunEnded    EventKind = "run-ended"
	HostOpened  EventKind = "host-opened"
	HostClosed  EventKind = "host-closed"
	CellStarted EventKind = "cell-started"
	CellEnded   EventKind = "cell-ended"
	PhaseEnded  EventKind = "phase-ended"
	Note        EventKind = "note"
)

// Event is one line of events.ndjson.
type Event struct {
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`
	// Run is the ID of the run that started or ended.
	Run  string        `json:"run,omitempty"`
	Cell matrix.CellID `json:"cell,omitempty"`
	// Host is the name of the host that was opened or closed.
	Host string `json:"host,omitempty"`
	// Took is how long it took to open or close the host, or what a phase took,
	// and Waited how much of that went by on purpose, watching for stability.
	Took   matrix.Duration `json:"took,omitempty"`
	Waited matrix.Duration `json:"waited,omitempty"`
	// Attempt counts from 1; 0 where it does not apply.
	Attempt int          `json:"attempt,omitempty"`
	Phase   matrix.Phase `json:"phase,omitempty"`
	// Verdict is set where a phase or a cell ended.
	Verdict *matrix.Verdict `json:"verdict,omitempty"`
	Text    string          `json:"text,omitempty"`
	// PID is the process that a run was started in, or gone on with.
	PID int `json:"pid,omitempty"`
}

// BusyError is a run's folder that another process is writing to.
type BusyError struct {
	Dir string
	// PID is that process; 0 where it did not say.
	PID int
}

// Error names the folder and the process.
func (e *BusyError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("run folder %s is being written by another process", e.Dir)
	}
	return fmt.Sprintf("run folder %s is being written by process %d", e.Dir, e.PID)
}

// AppendEvent adds one line to events.ndjson. The end of a cell or of the run
// is synced to disk. The first event makes this process the folder's writer
// until Close: another process then gets a *BusyError.
func (f *Folder) AppendEvent(e Event) error {
	fail := func(err error) error { return fmt.Errorf("append event %s to run %s: %w", e.Kind, f.dir, err) }
	e.Text = f.text(e.Text)
	line, err := json.Marshal(e)
	if err != nil {
		return fail(err)
	}
	f.eventsMu.Lock()
	defer f.eventsMu.Unlock()
	if err := f.lock(); err != nil {
		return fail(err)
	}
	if _, err := f.events.Write(append(line, '\n')); err != nil {
		return fail(err)
	}
	if e.Kind == CellEnded || e.Kind == RunEnded {
		if err := f.events.Sync(); err != nil {
			return fail(err)
		}
	}
	return nil
}

// lock opens the events, unless they are open; eventsMu is held.
func (f *Folder) lock() (err error) {
	if f.events == nil {
		f.events, err = openEvents(f.dir)
	}
	return err
}

// openEvents opens the events for appending, locked, without the torn line
// that a crash may have left at their end. The lock is the open file's, by
// fcntl(2): it ends with the process, and unlike one of flock(2) it can be
// asked for without being taken, so that nobody who looks on is in the way.
func openEvents(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, eventsFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err = &BusyError{Dir: dir, PID: writer(file)}
		}
		return nil, errors.Join(err, file.Close())
	}
	raw, err := io.ReadAll(file)
	if err == nil {
		if whole := bytes.LastIndexByte(raw, '\n') + 1; whole < len(raw) {
			err = file.Truncate(int64(whole))
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// writer is the process that said last that it works on the run; 0 where none
// did.
func writer(events io.Reader) (pid int) {
	lines := json.NewDecoder(events)
	for {
		var e Event
		if err := lines.Decode(&e); err != nil {
			return pid // what cannot be read is not written yet
		}
		if e.Kind == RunStarted && e.PID != 0 {
			pid = e.PID
		}
	}
}

// Events reads the events so far. A last line that a crash or a writer at work
// left unfinished is left out; any other line that does not parse is a
// *CorruptError. A run without events has none.
func (f *Folder) Events() ([]Event, error) {
	path := filepath.Join(f.dir, eventsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	var events []Event
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(raw, []byte("\n"))
		if !whole {
			return events, nil
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, &CorruptError{Path: path, Err: fmt.Errorf("line %d: %w", n, err)}
		}
		events, raw = append(events, e), rest
	}
}
