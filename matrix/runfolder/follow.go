package runfolder

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// followEvery is how often a run's events are looked at for more: as soon as a
// person sees, as rarely as it costs nothing.
const followEvery = 200 * time.Millisecond

// Follow yields a run's events, those there are and those to come, until the
// run has ended, no process writes it any more, or ctx ends, whose error comes
// last then. A line that does not parse is a *CorruptError, and the last.
func (f *Folder) Follow(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		err := f.follow(ctx, func(e Event) bool { return yield(e, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(Event{}, fmt.Errorf("follow run %s: %w", f.dir, err))
		}
	}
}

// errEnough: who follows wants no more.
var errEnough = errors.New("enough")

func (f *Folder) follow(ctx context.Context, yield func(Event) bool) error {
	path := filepath.Join(f.dir, eventsFile)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	again := time.NewTicker(followEvery)
	defer again.Stop()
	r := &lines{r: bufio.NewReader(file)}
	// A run that went on after it was interrupted ended more than once.
	ended := false
	for n := 1; ; {
		// The writer is asked for first: what it wrote last is read after that.
		written, err := isWritten(file)
		if err != nil {
			return err
		}
		for {
			line, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				return &CorruptError{Path: path, Err: fmt.Errorf("line %d: %w", n, err)}
			}
			n++
			if ended && e.Kind != RunStarted {
				continue
			}
			if !yield(e) {
				return errEnough
			}
			ended = e.Kind == RunEnded
		}
		if ended || !written {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isWritten says whether a process has the events open for writing.
func isWritten(file *os.File) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("ask whether events are being written: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// lines reads whole lines of a file that grows.
type lines struct {
	r    *bufio.Reader
	part []byte
}

// next is the next whole line; io.EOF where there is none yet.
func (l *lines) next() ([]byte, error) {
	more, err := l.r.ReadBytes('\n')
	l.part = append(l.part, more...)
	if err != nil {
		return nil, err
	}
	line := bytes.TrimSuffix(l.part, []byte("\n"))
	l.part = nil
	return line, nil
}
