// Package health checks a cluster: its API server, nodes, taints, pods, name
// resolution, services, and what must hold after a restart. Every check
// returns what it last saw, as evidence; none is healthy for want of time.
//
// After a restart the API server may for a while tell the state from before
// it, so every check of AfterRestart rests on what is newer than the restart: a
// node's boot ID as its kubelet reports it, containers that did not exist
// before, a lease renewed since.
package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

const (
	// pollInterval is how long a check waits between two looks. Looks share
	// the session's lists, so that the wait can be short.
	pollInterval = 250 * time.Millisecond
	// execInterval is pollInterval where a look runs something in a pod, which
	// costs the node a process or two.
	execInterval = 500 * time.Millisecond
	// slowInterval is the longest that a check waits. Where looks are slow, under
	// emulation, the wait is twice as long as the last look was: looking would
	// take most of what the cluster needs to become healthy.
	slowInterval = 5 * time.Second
	// lookTimeout bounds one look.
	lookTimeout = 30 * time.Second
)

// finding is what one look saw of one node, or of the cluster.
type finding struct {
	node string
	ok   bool
	saw  string
	want string
	// final: looking again cannot change it.
	final bool
}

// look looks once. An error is what it saw instead, unless it is a
// *blindError.
type look func(ctx context.Context) ([]finding, error)

// check is a named way of looking. begin is called once for each run, so that
// looks may remember.
type check struct {
	name  string
	every time.Duration
	// late: it looks at what came of everything else, once that was healthy for
	// the stability window.
	late bool
	// applies, if set, says whether there is anything to look at in a cluster like
	// this; where there is not, the check is left out.
	applies func(s *session) bool
	begin   func(s *session) look
}

// Name is the check's ID.
func (c check) Name() string { return c.name }

// Run looks until everything is healthy or ctx ends.
func (c check) Run(ctx context.Context, cluster *provisioner.Cluster) []matrix.Evidence {
	s, err := newSession(cluster)
	if err != nil {
		return undecided(c.name, err.Error(), 0)
	}
	defer s.close()
	return c.runIn(ctx, s)
}

// runIn is Run in a session that is shared with other checks.
func (c check) runIn(ctx context.Context, s *session) []matrix.Evidence {
	started := time.Now()
	var w watcher
	lookOnce := c.begin(s)
	for ctx.Err() == nil {
		began := time.Now()
		lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		findings, err := lookOnce(lookCtx)
		cancel()
		w.note(ctx, findings, err)
		if w.done() {
			break
		}
		pause(ctx, max(c.every, min(2*time.Since(began), slowInterval)))
	}
	return w.evidence(ctx, c.name, time.Since(started))
}

// outOfTime says whether ctx's time is over. A connection with the same deadline can
// end by it a moment before ctx does.
func outOfTime(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// pause waits for d and a little more, so that checks do not look in step, or
// until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d + rand.N(d/10+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// watcher keeps what a check's looks saw last.
type watcher struct {
	findings []finding
	// seen is the error that the last look that saw anything ended with.
	seen error
	// blind is the last failure to look.
	blind error
}

func (w *watcher) note(ctx context.Context, findings []finding, err error) {
	var blind *blindError
	switch {
	case errors.As(err, &blind):
		w.blind = err
	case err != nil && outOfTime(ctx) && (w.findings != nil || w.seen != nil):
		// The deadline cut this look short: the one before tells more.
	case err != nil:
		w.seen = err
	case len(findings) == 0:
		w.seen = errors.New("there was nothing to look at")
	default:
		w.findings, w.seen = findings, nil
	}
}

// done says that looking again is of no use.
func (w *watcher) done() bool {
	if w.seen != nil || len(w.findings) == 0 {
		return false
	}
	healthy := true
	for _, f := range w.findings {
		if f.final && !f.ok {
			return true
		}
		healthy = healthy && f.ok
	}
	return healthy
}

func (w *watcher) evidence(ctx context.Context, name string, took time.Duration) []matrix.Evidence {
	interrupted := errors.Is(ctx.Err(), context.Canceled) && !w.done()
	switch {
	case w.seen == nil && w.findings == nil && w.blind != nil:
		return undecided(name, "could not look: "+w.blind.Error(), took)
	case w.seen == nil && w.findings == nil:
		return undecided(name, "no time to look", took)
	}
	var all []matrix.Evidence
	if w.seen != nil {
		saw := w.seen.Error()
		if before := problems(w.findings); before != "" {
			saw += "; before that: " + before
		}
		all = append(all, matrix.Evidence{Check: name, Outcome: matrix.Unhealthy, Saw: saw, Took: matrix.Duration(took)})
	} else {
		for _, f := range w.findings {
			e := matrix.Evidence{Check: name, Node: f.node, Outcome: matrix.Unhealthy, Saw: f.saw, Want: f.want, Took: matrix.Duration(took)}
			if f.ok {
				e.Outcome, e.Want = matrix.Healthy, ""
			}
			all = append(all, e)
		}
	}
	for i := range all {
		if all[i].Outcome != matrix.Unhealthy {
			continue
		}
		if w.blind != nil && !w.done() {
			all[i].Saw += "; later could not look: " + w.blind.Error()
		}
		if interrupted {
			// It was not given its time, so this proves nothing.
			all[i].Outcome = matrix.Undecided
			all[i].Saw = "interrupted; last seen: " + all[i].Saw
		}
	}
	return all
}

// problems is what is wrong in findings, in one line.
func problems(findings []finding) string {
	var wrong []string
	for _, f := range findings {
		switch {
		case f.ok:
		case f.node != "":
			wrong = append(wrong, fmt.Sprintf("%s: %s", f.node, f.saw))
		default:
			wrong = append(wrong, f.saw)
		}
	}
	return strings.Join(wrong, "; ")
}

func undecided(name, saw string, took time.Duration) []matrix.Evidence {
	return []matrix.Evidence{{Check: name, Outcome: matrix.Undecided, Saw: saw, Took: matrix.Duration(took)}}
}
