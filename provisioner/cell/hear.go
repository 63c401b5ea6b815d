package cell

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Hear is told the newest line of a node's journal, once a second at the most. It
// is for who looks on: nothing is decided by it.
type Hear func(node, line string)

// streamer is a node whose commands' output can be had as it comes.
type streamer interface {
	Stream(ctx context.Context, cmd provisioner.Command, stdout, stderr io.Writer) (exitCode int, err error)
}

const (
	// hearEvery is how often somebody is told what is new.
	hearEvery = time.Second
	// hearAgain is how long it takes until a journal is followed again that broke
	// off, as it does whenever the node restarts.
	hearAgain = 2 * time.Second
	// mostHeard is more of a line than a terminal shows.
	mostHeard = 1 << 10
)

// listen follows the journals of all nodes until quiet is called, which waits for
// its end.
func (x *run) listen(ctx context.Context) (quiet func()) {
	if x.Hear == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	x.everyNodeOf(&wait, func(_ int, node provisioner.Node) {
		if from, ok := node.(streamer); ok {
			x.hear(ctx, node.Name(), from)
		}
	})
	return func() {
		cancel()
		wait.Wait()
	}
}

// hear follows one node's journal.
func (x *run) hear(ctx context.Context, node string, from streamer) {
	var last lastLine
	var telling sync.WaitGroup
	telling.Go(func() {
		for x.Clock.Sleep(ctx, hearEvery) == nil {
			if line, fresh := last.take(); fresh {
				x.Hear(node, line)
			}
		}
	})
	for ctx.Err() == nil {
		// A node that is down has no journal, and will have one again.
		_, _ = from.Stream(ctx, provisioner.Command{Args: []string{"journalctl", "--follow", "--lines=1", "--quiet", "--no-hostname"}}, &last, io.Discard)
		_ = x.Clock.Sleep(ctx, hearAgain)
	}
	telling.Wait()
}

// lastLine keeps the last whole line that was written to it.
type lastLine struct {
	mu    sync.Mutex
	line  []byte
	fresh bool
	// part is a line that is not whole yet, as far as it is kept.
	part []byte
}

// Write never fails.
func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p) {
		whole := bytes.HasSuffix(line, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\n"))
		l.part = append(l.part, line[:min(len(line), mostHeard-len(l.part))]...)
		if whole {
			l.line, l.fresh, l.part = l.part, true, nil
		}
	}
	return len(p), nil
}

// take is the line, and whether it is another one than before.
func (l *lastLine) take() (line string, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh, l.fresh = l.fresh, false
	return string(l.line), fresh
}
