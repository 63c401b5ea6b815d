// Package engine runs a plan: it lets the scheduler open hosts and admit cells,
// keeps every result on disk as it comes, and tells those who wait for it.
// What hosts and cells really are is behind Ground.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

// Ground opens the hosts that cells run on.
type Ground interface {
	Open(ctx context.Context, ref matrix.HostRef) (Host, error)
}

// Host is an open host that cells can be made ready on.
type Host interface {
	// Facts is what was observed when it was opened.
	Facts() matrix.HostFacts
	// Gate decides on a cell by the host's observed facts; nil lets it in.
	Gate(c matrix.Cell) (*matrix.GateFinding, error)
	// Ready gets a cell's artifacts and images and returns what runs it.
	Ready(ctx context.Context, c matrix.Cell) (Runner, error)
	// Close releases the host.
	Close(ctx context.Context) error
}

// Runner takes one cell through one attempt; changed is called after every
// phase.
type Runner interface {
	Run(ctx context.Context, c matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt
	// TakeUp ends an attempt of which begun is what is known, and whose process is
	// gone: what it left is removed, and what it had still to tell is told where
	// that can be; else it is interrupted. One that left nothing has no phases.
	TakeUp(ctx context.Context, c matrix.Cell, attempt int, begun matrix.Attempt, changed func(matrix.Attempt)) (matrix.Attempt, error)
}

// Options of an engine.
type Options struct {
	Ground Ground
	Plan   matrix.Plan
	Folder *runfolder.Folder
	// Past is how long hosts and cells took in earlier runs; what is not in it
	// is guessed.
	Past runfolder.History
	// Attempts is how often a cell that did not pass is tried; at least 1.
	Attempts int
	// Earlier is the run as a process left it that is gone: cells that are over
	// stay as they are, and the others go on from there. nil is a new run.
	Earlier *matrix.Run
	// Progress may be nil.
	Progress Progress
	Clock    provisioner.Clock
}

// Progress is told what a run does.
type Progress interface {
	provisioner.Progress
	// Event gets each event once it is in the run's folder, one at a time for
	// each cell.
	Event(e runfolder.Event)
}

// closePatience bounds the closing of a host.
const closePatience = 40 * time.Second

// Engine runs one plan once.
type Engine struct {
	opts Options

	mu      sync.Mutex
	results map[matrix.CellID]matrix.Result
	ended   map[matrix.CellID]bool
	// moved is closed, and made anew, whenever the state above changes.
	moved chan struct{}
	done  chan struct{}
	errs  []error
}

// New makes an engine; Start starts it.
func New(opts Options) *Engine {
	opts.Attempts = max(1, opts.Attempts)
	e := &Engine{opts: opts, results: map[matrix.CellID]matrix.Result{}, ended: map[matrix.CellID]bool{},
		moved: make(chan struct{}), done: make(chan struct{})}
	for _, c := range opts.Plan.Cells {
		e.results[c.ID] = matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c, Judgement: matrix.Judge(c, nil)}
	}
	if opts.Earlier != nil {
		for _, r := range opts.Earlier.Results {
			e.results[r.Cell.ID], e.ended[r.Cell.ID] = r, matrix.Over(r.Cell, r.Attempts, opts.Attempts)
		}
	}
	return e
}

// Start runs the plan in the background. When ctx ends no new cell starts, and
// running ones tear down.
func (e *Engine) Start(ctx context.Context) {
	go func() {
		defer close(e.done)
		e.settle()
		left := e.opts.Plan
		left.Cells = slices.DeleteFunc(slices.Clone(left.Cells), func(c matrix.Cell) bool { return e.ended[c.ID] })
		hosts := hostsOf(left)
		w := &work{Engine: e, hosts: hosts, plan: toSchedule(left, hosts, e.opts.Past), open: make([]Host, len(hosts))}
		schedule.Run(ctx, w.plan, w)
		for _, c := range e.opts.Plan.Cells {
			e.end(c.ID)
		}
	}()
}

// Wait returns when every cell has ended and every host is closed: failures of
// the harness itself that no verdict shows.
func (e *Engine) Wait() []error {
	<-e.done
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.errs)
}

// Result waits for a cell's end.
func (e *Engine) Result(ctx context.Context, id matrix.CellID) (matrix.Result, error) {
	var result matrix.Result
	err := e.await(ctx, func() bool {
		result = e.results[id]
		return e.ended[id]
	})
	if err != nil {
		return result, fmt.Errorf("wait for cell %s: %w", id, err)
	}
	return result, nil
}

// Phase waits until the cell's first attempt is through with a phase, or the cell
// ended without that (ok is false).
func (e *Engine) Phase(ctx context.Context, id matrix.CellID, phase matrix.Phase) (result matrix.PhaseResult, ok bool, err error) {
	err = e.await(ctx, func() bool {
		if attempts := e.results[id].Attempts; len(attempts) > 0 {
			result, ok = attempts[0].Through(e.results[id].Cell, phase)
		}
		return ok || e.ended[id]
	})
	if err != nil {
		return result, ok, fmt.Errorf("wait for %s of cell %s: %w", phase, id, err)
	}
	return result, ok, nil
}

// await waits until met, which is called with the lock held.
func (e *Engine) await(ctx context.Context, met func() bool) error {
	for {
		e.mu.Lock()
		ok, moved := met(), e.moved
		e.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// cell readies one cell and runs its attempts.
func (e *Engine) cell(ctx context.Context, host Host, c matrix.Cell) {
	defer e.end(c.ID)
	e.event(runfolder.Event{Kind: runfolder.CellStarted, Cell: c.ID})
	living, cancel := with(ctx, host, c.Host.Name)
	defer cancel()
	runner, err := host.Ready(living, c)
	if err != nil {
		e.stopped(ctx, c, host.Facts(), cmp.Or(e.endOf(living, host, c.Host.Name), err))
		return
	}
	// A host may show more of itself once there is an image to look with.
	c, ok := e.admit(ctx, host, c)
	if !ok {
		return
	}
	earlier, err := e.takeUp(living, runner, c)
	if err != nil {
		e.stopped(ctx, c, host.Facts(), cmp.Or(e.endOf(living, host, c.Host.Name), err))
		return
	}
	for over := ctx.Err() != nil || matrix.Over(c, earlier, e.opts.Attempts); !over; {
		keep := e.keeper(c, earlier, 0)
		last := runner.Run(living, c, len(earlier)+1, keep)
		j := matrix.Judge(c, []matrix.Attempt{last})
		if j.Verdict == matrix.Blocked {
			if err := e.endOf(living, host, c.Host.Name); err != nil {
				last = blockedBy(last, j.Phase, err)
				keep(last)
			}
		}
		earlier = append(earlier, last)
		j = matrix.Judge(c, earlier)
		over = ctx.Err() != nil || gone(host, c.Host.Name) != nil || j.Verdict != matrix.Fail && j.Verdict != matrix.Blocked ||
			matrix.Tries(c, earlier) >= e.opts.Attempts
	}
}

// keeper keeps the result of a cell whenever its next attempt changed; told says
// how many of the attempt's phases were told already.
func (e *Engine) keeper(c matrix.Cell, earlier []matrix.Attempt, told int) func(matrix.Attempt) {
	p := &progress{attempt: len(earlier) + 1, told: &told}
	return func(a matrix.Attempt) {
		e.keep(matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c, Attempts: append(slices.Clone(earlier), a)}, p)
	}
}

// takeUp ends what an earlier process began of a cell and did not end, and
// returns the cell's attempts so far.
func (e *Engine) takeUp(ctx context.Context, runner Runner, c matrix.Cell) ([]matrix.Attempt, error) {
	if e.opts.Earlier == nil {
		return nil, nil
	}
	earlier := e.earlier(c.ID)
	var begun matrix.Attempt
	if n := len(earlier); n > 0 && earlier[n-1].Ended.IsZero() {
		begun, earlier = earlier[n-1], earlier[:n-1:n-1]
	}
	ended, err := runner.TakeUp(ctx, c, len(earlier)+1, begun, e.keeper(c, earlier, len(begun.Phases)))
	if err == nil && len(ended.Phases) > 0 {
		earlier = append(earlier, ended)
	}
	return earlier, err
}

// earlier are a cell's attempts so far.
func (e *Engine) earlier(id matrix.CellID) []matrix.Attempt {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.results[id].Attempts
}

// decided keeps what was decided about a cell without its being run, beside what
// an earlier process did.
func (e *Engine) decided(c matrix.Cell, a matrix.Attempt) {
	earlier := slices.Clone(e.earlier(c.ID))
	for i := range earlier {
		earlier[i] = earlier[i].CutShort(c, a.Started)
	}
	e.keep(matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c, Attempts: append(earlier, a)}, nil)
	e.end(c.ID)
}

// stopped keeps the result of a cell that never came to its first phase.
func (e *Engine) stopped(ctx context.Context, c matrix.Cell, facts matrix.HostFacts, err error) {
	blame := matrix.BlameWorld
	if ctx.Err() != nil {
		blame = matrix.BlameInterrupt
	}
	if blame == matrix.BlameInterrupt && len(e.earlier(c.ID)) > 0 {
		// Whoever goes on with the run needs what was there, and nothing more.
		e.end(c.ID)
		return
	}
	now := e.opts.Clock.Now()
	e.decided(c, matrix.Attempt{Started: now, Ended: now, Host: facts,
		Phases: []matrix.PhaseResult{{Phase: matrix.PhaseCreate, Started: now, Blame: blame, Error: err.Error()}}})
}

// progress tells which phases of an attempt were told already.
type progress struct {
	attempt int
	told    *int
}

// keep writes a result and wakes those who wait for it. A result that cannot
// be written is the harness's failure, and still counts in this process.
func (e *Engine) keep(r matrix.Result, p *progress) {
	written, err := e.opts.Folder.WriteResult(r)
	if err != nil {
		e.failed(err)
	}
	if p != nil {
		phases := written.Attempts[len(written.Attempts)-1].Phases
		for ; *p.told < len(phases); *p.told++ {
			e.tell(r.Cell.ID, p.attempt, phases[*p.told])
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.results[r.Cell.ID] = written
	close(e.moved)
	e.moved = make(chan struct{})
}

func (e *Engine) tell(id matrix.CellID, attempt int, r matrix.PhaseResult) {
	j := matrix.JudgePhase(r)
	e.event(runfolder.Event{Kind: runfolder.PhaseEnded, Cell: id, Attempt: attempt, Phase: r.Phase, Took: r.Duration, Waited: r.Waited,
		Verdict: &j.Verdict, Text: j.Reason})
}

// end marks a cell as ended, once.
func (e *Engine) end(id matrix.CellID) {
	e.mu.Lock()
	if e.ended[id] {
		e.mu.Unlock()
		return
	}
	e.ended[id] = true
	verdict := e.results[id].Judgement.Verdict
	reason := e.results[id].Judgement.Reason
	close(e.moved)
	e.moved = make(chan struct{})
	e.mu.Unlock()
	e.settled(id, verdict, reason)
}

// settled packs the logs of a cell that has ended, and tells that it has.
func (e *Engine) settled(id matrix.CellID, verdict matrix.Verdict, reason string) {
	if err := e.opts.Folder.PackLogs(id); err != nil {
		e.failed(err)
	}
	e.event(runfolder.Event{Kind: runfolder.CellEnded, Cell: id, Verdict: &verdict, Text: reason})
}

// settle does for the cells that are over what the process that ended them did not
// come to.
func (e *Engine) settle() {
	if e.opts.Earlier == nil {
		return
	}
	events, err := e.opts.Folder.Events()
	if err != nil {
		e.failed(err)
	}
	told := map[matrix.CellID]bool{}
	for _, ev := range events {
		switch ev.Kind {
		case runfolder.CellStarted:
			told[ev.Cell] = false
		case runfolder.CellEnded:
			told[ev.Cell] = true
		default:
		}
	}
	for _, r := range e.opts.Earlier.Results {
		if id := r.Cell.ID; e.ended[id] && !told[id] {
			e.settled(id, r.Judgement.Verdict, r.Judgement.Reason)
		}
	}
}

func (e *Engine) event(ev runfolder.Event) {
	ev.Time = e.opts.Clock.Now()
	if err := e.opts.Folder.AppendEvent(ev); err != nil {
		e.failed(err)
	}
	if e.opts.Progress != nil {
		e.opts.Progress.Event(ev)
	}
}

// failed records a failure of the harness, each text once.
func (e *Engine) failed(err error) {
	e.mu.Lock()
	known := slices.ContainsFunc(e.errs, func(old error) bool { return old.Error() == err.Error() })
	if !known {
		e.errs = append(e.errs, err)
	}
	e.mu.Unlock()
	if known {
		return
	}
	// The folder may be what failed; then it is told on the terminal only.
	if folderErr := e.opts.Folder.AddHarnessError(err); folderErr != nil {
		err = errors.Join(err, folderErr)
	}
	e.note("harness: %v", err)
}

func (e *Engine) note(format string, args ...any) {
	if e.opts.Progress != nil {
		e.opts.Progress.Note(format, args...)
	}
}

func (e *Engine) step(format string, args ...any) func(error) {
	if e.opts.Progress == nil {
		return func(error) {}
	}
	return e.opts.Progress.Step(format, args...)
}
