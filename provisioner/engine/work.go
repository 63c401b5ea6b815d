package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

// Mortal is a host that can end by itself, as a machine whose process dies.
// Its cells, those that run and those that have not begun, are then blocked at
// once.
type Mortal interface {
	// Done is closed when the host has ended, Err says why. A host that cannot
	// end has none.
	Done() <-chan struct{}
	Err() error
}

// Lent is a host that outlives the run: closing it leaves it open, and whoever
// closes it in the end tells that.
type Lent interface{ StaysOpen() bool }

// work is what the scheduler decides about: the hosts and cells of the plan.
type work struct {
	*Engine
	hosts []hostCells
	plan  schedule.Plan
	// open are the hosts that are open, each written before the scheduler hears
	// that it is.
	open []Host
}

var _ schedule.Work = (*work)(nil)

// Open opens a host and says what it has for its cells.
func (w *work) Open(ctx context.Context, h int) (schedule.Room, error) {
	ref := w.hosts[h].ref
	end, began := w.step("opening host %s (%s)", ref.Name, ref.Driver), w.opts.Clock.Now()
	host, err := w.opts.Ground.Open(ctx, ref)
	end(err)
	if err != nil {
		return schedule.Room{}, fmt.Errorf("open host %s: %w", ref.Name, err)
	}
	w.event(runfolder.Event{Kind: runfolder.HostOpened, Host: ref.Name, Took: matrix.Duration(w.opts.Clock.Now().Sub(began))})
	w.open[h] = host
	return schedule.Room{CPUs: host.Facts().CPUs, MemoryBytes: host.Facts().MemoryBytes}, nil
}

// Run runs one cell, unless the host rules it out or has ended.
func (w *work) Run(ctx context.Context, h, c int) {
	host := w.open[h]
	if cell, ok := w.admit(ctx, host, w.hosts[h].cells[c]); ok {
		w.cell(ctx, host, cell)
	}
}

// Refuse keeps why a cell cannot be run: a gate, if one decides by what was
// observed on its host, else err.
func (w *work) Refuse(ctx context.Context, h, c int, err error) {
	host, cell := w.open[h], w.hosts[h].cells[c]
	if host == nil {
		w.stopped(ctx, cell, matrix.HostFacts{}, err)
		return
	}
	if cell, ok := w.admit(ctx, host, cell); ok {
		w.stopped(ctx, cell, host.Facts(), err)
	}
}

// Close closes a host.
func (w *work) Close(ctx context.Context, h int) {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	name, began := w.hosts[h].ref.Name, w.opts.Clock.Now()
	if err := w.open[h].Close(closing); err != nil {
		w.failed(fmt.Errorf("close host %s: %w", name, err))
		return
	}
	if lent, ok := w.open[h].(Lent); ok && lent.StaysOpen() {
		return
	}
	w.event(runfolder.Event{Kind: runfolder.HostClosed, Host: name, Took: matrix.Duration(w.opts.Clock.Now().Sub(began))})
}

// Wait tells which hosts have to wait for others.
func (w *work) Wait(hosts []int, free schedule.Room) {
	var names []string
	for _, h := range hosts {
		name := w.hosts[h].ref.Name
		if w.plan.Hosts[h].Own {
			name += fmt.Sprintf(" (%s)", w.plan.Hosts[h].Claim)
		}
		names = append(names, name)
	}
	w.note("waiting for room: host %s; the budget of %s has %s free while other hosts are up",
		strings.Join(names, ", host "), w.plan.Budget, free)
}

// admit decides on a cell by its open host, and returns it with the gate that
// was found. One that is not let in, because the host is not what the matrix
// says or a gate rules it out, has ended, with its reason.
func (e *Engine) admit(ctx context.Context, host Host, c matrix.Cell) (matrix.Cell, bool) {
	if not := c.Host.Contradiction(host.Facts()); not != "" {
		e.stopped(ctx, c, host.Facts(), errors.New(not))
		return c, false
	}
	gate, err := host.Gate(c)
	switch {
	case err != nil:
	case gate == nil && c.Gate != nil:
		err = fmt.Errorf("defy gate %s: it rules the cell out by what is declared, and not by what was observed on host %s", c.Gate.Gate, c.Host.Name)
	default:
		if c.Gate = gate; !c.Runs() {
			// What was observed is what ruled it out: an attempt without phases.
			now := e.opts.Clock.Now()
			e.decided(c, matrix.Attempt{Started: now, Ended: now, Host: host.Facts()})
			return c, false
		}
		err = gone(host, c.Host.Name)
	}
	if err != nil {
		e.stopped(ctx, c, host.Facts(), err)
		return c, false
	}
	return c, true
}

// gone is a *provisioner.HostEndedError for a host that has ended by itself;
// nil where it has not.
func gone(host Host, name string) error {
	m, ok := host.(Mortal)
	if !ok {
		return nil
	}
	select {
	case <-m.Done():
		return &provisioner.HostEndedError{Host: name, Err: m.Err()}
	default:
		return nil
	}
}

// with is a context that also ends with the host, by itself, and says so then.
func with(ctx context.Context, host Host, name string) (context.Context, context.CancelFunc) {
	m, ok := host.(Mortal)
	if !ok || m.Done() == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-m.Done():
			cancel(gone(host, name))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// hostEndPatience is how long a host's end may take to be known after the
// connections to it broke.
const hostEndPatience = time.Second

// endOf is a *provisioner.HostEndedError where what went wrong on a host is that
// it ended; ctx is the one that ends with it.
func (e *Engine) endOf(ctx context.Context, host Host, name string) error {
	if m, ok := host.(Mortal); ok && m.Done() != nil {
		// How the sleep ends says nothing that the host does not.
		_ = e.opts.Clock.Sleep(ctx, hostEndPatience)
	}
	return gone(host, name)
}

// blockedBy is an attempt with the reason that a phase of it is blocked for.
func blockedBy(a matrix.Attempt, phase matrix.Phase, err error) matrix.Attempt {
	a.Phases = slices.Clone(a.Phases)
	for i, p := range a.Phases {
		if p.Phase == phase {
			a.Phases[i].Error, a.Phases[i].Blame = err.Error(), matrix.BlameWorld
		}
	}
	return a
}
