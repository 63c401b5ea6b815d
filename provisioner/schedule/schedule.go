// Package schedule decides what runs when: hosts are up only while they have
// cells, and what is up and runs at one time never claims more memory, CPUs or
// places than there are. Run does it with real hosts; Makespan says beforehand
// how long that will take, by the same decisions in simulated time.
package schedule

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Room is what something claims, or has to give.
type Room struct {
	CPUs        int
	MemoryBytes int64
}

// holds says whether a claim fits.
func (r Room) holds(claim Room) bool {
	return claim.CPUs <= r.CPUs && claim.MemoryBytes <= r.MemoryBytes
}

func (r Room) plus(o Room) Room  { return Room{r.CPUs + o.CPUs, r.MemoryBytes + o.MemoryBytes} }
func (r Room) minus(o Room) Room { return Room{r.CPUs - o.CPUs, r.MemoryBytes - o.MemoryBytes} }

// String is the room as errors and progress show it.
func (r Room) String() string {
	return fmt.Sprintf("%d CPUs and %d MiB of memory", r.CPUs, r.MemoryBytes>>20)
}

// Plan is everything that is to run.
type Plan struct {
	// Budget is what this machine has for hosts and cells at one time.
	Budget Room
	// Cells that may run at one time, wherever; 0 means as many as fit.
	Cells int
	Hosts []Host
}

// Host is a host and its cells. It is opened once, when there is room for it
// and for its first cell, and closed when its last cell has ended.
type Host struct {
	Name string
	// Own: the host has room of its own, which its cells claim of. The cells of
	// any other host claim of the budget, and the host itself claims nothing.
	Own bool
	// Room is the own room that the host is expected to have; Open says what it
	// really has.
	Room Room
	// Claim is what a host with room of its own takes of the budget, from its
	// opening to the end of its closing.
	Claim Room
	// Opening and Closing are how long these are expected to take.
	Opening, Closing time.Duration
	Cells            []Cell
}

// Cell is one cell to run.
type Cell struct {
	Name  string
	Claim Room
	// Expected is how long it is expected to take.
	Expected time.Duration
}

// Work is what the scheduler decides about. Hosts and cells are named by their
// place in the plan. Open, Run and Close are called from goroutines of their
// own; for one host, Open ends before the first Run begins, and the last Run
// before Close. Every cell is either run once or refused once, unless ctx ended
// before; every host that was opened without an error is closed.
type Work interface {
	// Open opens a host and returns the room that it has of its own; the room
	// of one without is ignored.
	Open(ctx context.Context, host int) (Room, error)
	// Run runs a cell to its end.
	Run(ctx context.Context, host, cell int)
	// Close closes a host; ctx may have ended.
	Close(ctx context.Context, host int)
	// Refuse says why a cell will not run: the error of Open, or a *RoomError.
	Refuse(ctx context.Context, host, cell int, err error)
	// Wait is told once, when all that fits at first was started, which hosts
	// wait for room, and what is free meanwhile.
	Wait(hosts []int, free Room)
}

// RoomError is a claim that can never be met.
type RoomError struct {
	// What claims, and Of what.
	What, Of   string
	Claim, Has Room
	// Remedy is what to change in the matrix.
	Remedy string
}

// Error names the claim, what there is, and the remedy.
func (e *RoomError) Error() string {
	return fmt.Sprintf("%s needs %s, %s holds %s; %s", e.What, e.Claim, e.Of, e.Has, e.Remedy)
}

// Run runs the plan, in the order that is expected to end first, and returns
// when everything that was started has ended and every host is closed. When
// ctx ends, nothing more is started but the closing of hosts.
func Run(ctx context.Context, plan Plan, work Work) {
	d := newDispatcher(plan, order(plan))
	var wait sync.WaitGroup
	defer wait.Wait()
	// An event is applied here, where nothing else looks at d.
	events := make(chan func())
	stop := ctx.Done()
	running, told := 0, false
	if ctx.Err() != nil {
		d.stop()
	}
	for {
		for a, ok := d.next(); ok; a, ok = d.next() {
			if a.kind == refuse {
				work.Refuse(ctx, a.host, a.cell, a.err)
				continue
			}
			running++
			wait.Go(func() { events <- do(ctx, d, work, a) })
		}
		if running == 0 {
			return
		}
		if !told {
			told = true
			if hosts := d.waiting(); len(hosts) > 0 {
				work.Wait(hosts, d.free)
			}
		}
		apply := func() {}
		select {
		case apply = <-events:
			running--
		case <-stop:
			stop = nil
		}
		if ctx.Err() != nil {
			d.stop()
		}
		apply()
	}
}

// do does what was decided and returns what that changes.
func do(ctx context.Context, d *dispatcher, work Work, a action) func() {
	switch a.kind {
	case open:
		room, err := work.Open(ctx, a.host)
		return func() { d.opened(a.host, room, err) }
	case run:
		work.Run(ctx, a.host, a.cell)
		return func() { d.ended(a.host, a.cell) }
	default:
		work.Close(ctx, a.host)
		return func() { d.closed(a.host) }
	}
}
