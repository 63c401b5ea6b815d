package diagnose

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Grace is how long a failure may be seen before it counts as one that lasts.
const Grace = 10 * time.Second

// look is how often the logs are looked at.
const look = 2 * time.Second

// Watch looks for signatures in the logs of nodes while they are written.
type Watch struct {
	Signatures []*Signature
	// Commands print the logs, by their names; each is a shell command.
	Commands map[string]string
	Clock    provisioner.Clock
}

// Await returns when a node's logs have shown one of the signatures since Await
// was called, and still show it Grace later, by another line: what is said once
// may be over. It returns the first of these lines, or ctx's error. A log that
// cannot be read is looked at again.
func (w *Watch) Await(ctx context.Context, node provisioner.Node) (matrix.Diagnosis, error) {
	// Lines that were there before tell nothing.
	known, err := w.lines(ctx, node)
	if err != nil {
		return matrix.Diagnosis{}, err
	}
	type sighting struct {
		first matrix.Diagnosis
		at    time.Time
	}
	seen := map[string]sighting{}
	for {
		if err := w.Clock.Sleep(ctx, look); err != nil {
			return matrix.Diagnosis{}, err
		}
		now, err := w.lines(ctx, node)
		if err != nil {
			return matrix.Diagnosis{}, err
		}
		for _, line := range slices.Sorted(maps.Keys(now)) {
			if _, old := known[line]; old {
				continue
			}
			d := now[line]
			known[line] = d
			s, before := seen[d.Signature]
			switch {
			case !before:
				seen[d.Signature] = sighting{d, w.Clock.Now()}
			case w.Clock.Now().Sub(s.at) >= Grace:
				return s.first, nil
			}
		}
	}
}

// lines are those of a node's logs that match, whatever log they are in.
func (w *Watch) lines(ctx context.Context, node provisioner.Node) (map[string]matrix.Diagnosis, error) {
	found := map[string]matrix.Diagnosis{}
	for _, name := range slices.Sorted(maps.Keys(w.Commands)) {
		var here []*Signature
		for _, s := range w.Signatures {
			if s.looksAt(name) {
				here = append(here, s)
			}
		}
		if len(here) == 0 {
			continue
		}
		out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", w.Commands[name] + " 2>&1"}})
		var failed *provisioner.CommandError
		if err != nil && !errors.As(err, &failed) {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		text := []byte(out.Stdout)
		for _, s := range here {
			for from := 0; ; {
				at, line := s.first(text[from:])
				if at < 0 {
					break
				}
				if _, there := found[string(line)]; !there {
					found[string(line)] = s.diagnosis(name, line)
				}
				from += at + len(line)
			}
		}
	}
	return found, nil
}
