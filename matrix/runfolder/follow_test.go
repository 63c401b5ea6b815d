package runfolder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// TestFollow: events that are there and events to come are yielded in order,
// and nothing after the run's end.
func TestFollow(t *testing.T) {
	writer := create(t, newRun(cell("1.34")))
	dir := writer.Dir()
	say := func(kind runfolder.EventKind, text string) {
		if err := writer.AppendEvent(runfolder.Event{Time: start, Kind: kind, Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	say(runfolder.RunStarted, "")
	say(runfolder.Note, "before")
	reader, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for e, err := range reader.Follow(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(e.Kind)+" "+e.Text)
		if e.Text == "before" {
			say(runfolder.Note, "after")
			say(runfolder.RunEnded, "")
			say(runfolder.Note, "too late")
		}
	}
	if want := []string{"run-started ", "note before", "note after", "run-ended "}; !slices.Equal(texts, want) {
		t.Errorf("followed %q, want %q", texts, want)
	}
	// One that went on is followed past its first end.
	say(runfolder.RunStarted, "again")
	say(runfolder.RunEnded, "again")
	texts = nil
	for e, err := range reader.Follow(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(e.Kind)+" "+e.Text)
	}
	if want := []string{"run-started ", "note before", "note after", "run-ended ", "run-started again", "run-ended again"}; !slices.Equal(texts, want) {
		t.Errorf("followed %q, want %q", texts, want)
	}
}

// TestFollowEnds: nobody waits for a run that nobody writes, longer than ctx
// lasts, or for more than is wanted.
func TestFollowEnds(t *testing.T) {
	writer := create(t, newRun(cell("1.34")))
	dir := writer.Dir()
	for range 2 {
		if err := writer.AppendEvent(runfolder.Event{Time: start, Kind: runfolder.Note, Text: "said"}); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range reader.Follow(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	var last error
	for _, last = range reader.Follow(ctx) {
	}
	if !errors.Is(last, context.DeadlineExceeded) {
		t.Errorf("a context that ended: %v", last)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, err := range reader.Follow(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		count++
	}
	if count != 2 {
		t.Errorf("%d events of a run that was killed, want 2", count)
	}
}

// TestFollowIsInNobodysWay: a run that is looked at all the time can be claimed at
// any time.
func TestFollowIsInNobodysWay(t *testing.T) {
	writer := create(t, newRun(cell("1.34")))
	if err := writer.AppendEvent(runfolder.Event{Time: start, Kind: runfolder.Note}); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	reader, err := runfolder.Open(writer.Dir())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var looking sync.WaitGroup
	for range 2 {
		looking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, err := range reader.Follow(t.Context()) {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 2000 {
		// The first event locks, and waits for nobody.
		if err := writer.AppendEvent(runfolder.Event{Time: start, Kind: runfolder.Note}); err != nil {
			t.Error(err)
			break
		}
		if err := writer.Close(); err != nil {
			t.Error(err)
			break
		}
		if err := os.WriteFile(filepath.Join(writer.Dir(), "events.ndjson"), nil, 0o600); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	looking.Wait()
}

// TestFollowCorrupt: what is no event ends it, with its line.
func TestFollowCorrupt(t *testing.T) {
	dir := create(t, newRun(cell("1.34"))).Dir()
	if err := os.WriteFile(filepath.Join(dir, "events.ndjson"), []byte("{\"kind\":\"note\"}\nnothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, last = range reader.Follow(t.Context()) {
	}
	var corrupt *runfolder.CorruptError
	if !errors.As(last, &corrupt) || corrupt.Path != filepath.Join(dir, "events.ndjson") {
		t.Errorf("corrupt events: %v", last)
	}
}
