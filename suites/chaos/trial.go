package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

// The verbs whose processes are killed.
const (
	verbRun    = "run"
	verbResume = "resume"
	verbGC     = "gc"
)

// What processes do beside the phases of cells.
const (
	beforeRun = "before there is a run"
	opening   = "opening the host"
	readying  = "readying a cell"
	ending    = "ending a cell"
	reporting = "reporting"
	removing  = "removing"
)

// Norm is a run that nobody killed.
type Norm struct {
	// Told is what its table says, Logs the names of its cells' logs, Code its exit code.
	Told string
	Logs []string
	Code int
	// Run is how long it took, but for the images that it had to make or import
	// first, and GC how long gc looks where nothing was left. Processes are killed
	// within as much time.
	Run, GC time.Duration
}

// Subject is what is run.
type Subject struct {
	// Name is what the table of kills calls it.
	Name string
	// Args are what lxcmatrix run is given.
	Args []string
}

// Measure runs a subject to its end, and looks that nothing is left of it then.
func (t Tool) Measure(ctx context.Context, s Subject) (n Norm, err error) {
	fail := func(err error) (Norm, error) { return n, fmt.Errorf("run %s without a kill: %w", s.Name, err) }
	whole, err := t.Do(ctx, 0, append([]string{verbRun}, s.Args...)...)
	if err != nil {
		return fail(err)
	}
	n.Code, n.Run = whole.Code, whole.Took
	run, logs, err := t.read()
	if err != nil {
		return fail(fmt.Errorf("%w; it said: %s", err, whole.Said))
	}
	n.Told, n.Logs = told(run), logs
	made, err := t.readied(run)
	if err != nil {
		return fail(err)
	}
	n.Run -= made
	for _, r := range run.Results {
		if !r.Judgement.Verdict.AsExpected() {
			return fail(fmt.Errorf("cell %s is %s in %s: %s", r.Cell.ID, r.Judgement.Verdict, r.Judgement.Phase, r.Judgement.Reason))
		}
	}
	left, err := Left(ctx, t.State, nodesOf(run))
	if err != nil {
		return fail(err)
	}
	if len(left) > 0 {
		return fail(fmt.Errorf("it left %s", strings.Join(left, ", ")))
	}
	gc, err := t.collect(ctx, 0)
	if err == nil && !strings.Contains(gc.Said, "nothing was left behind") {
		err = fmt.Errorf("gc found: %s", gc.Said)
	}
	if err != nil {
		return fail(err)
	}
	n.GC = gc.Took
	return n, nil
}

// readied is how long a run's first cell waited on its open host for its image.
func (t Tool) readied(run matrix.Run) (time.Duration, error) {
	folder, err := t.open()
	if err != nil {
		return 0, err
	}
	events, err := folder.Events()
	if err != nil {
		return 0, err
	}
	opened := slices.IndexFunc(events, func(e runfolder.Event) bool { return e.Kind == runfolder.HostOpened })
	if opened < 0 {
		return 0, fmt.Errorf("run %s tells of no host that was opened", run.ID)
	}
	var first time.Time
	for _, r := range run.Results {
		for _, a := range r.Attempts {
			if first.IsZero() || a.Started.Before(first) {
				first = a.Started
			}
		}
	}
	return max(0, first.Sub(events[opened].Time)), nil
}

// collect has gc remove what is left on the embedded host, and no other.
func (t Tool) collect(ctx context.Context, after time.Duration) (End, error) {
	e, err := t.Do(ctx, after, verbGC, "--host", "embedded", "--yes")
	if err == nil && !e.Killed && e.Code != matrix.ExitExpected {
		err = fmt.Errorf("gc ended with exit code %d: %s", e.Code, e.Said)
	}
	return e, err
}

// open opens the run that the tool keeps; fs.ErrNotExist where none came to that.
func (t Tool) open() (*runfolder.Folder, error) {
	dir, err := runfolder.Latest(t.Runs)
	if err != nil {
		return nil, err
	}
	return runfolder.Open(dir)
}

// read reads the run that the tool keeps, and the names of the logs of its last
// attempts.
func (t Tool) read() (run matrix.Run, names []string, err error) {
	folder, err := t.open()
	if err != nil {
		return run, nil, err
	}
	if run, err = folder.Read(); err != nil {
		return run, nil, err
	}
	for _, r := range run.Results {
		last, _ := r.Last()
		logs, err := folder.Logs(r.Cell.ID)
		if err != nil {
			return run, nil, err
		}
		for _, l := range logs {
			its := l.Node == "phases" || slices.ContainsFunc(last.Nodes, func(n matrix.NodeFacts) bool { return n.Node == l.Node })
			if its {
				names = append(names, fmt.Sprintf("%s: %s/%s", r.Cell.ID, l.Node[strings.LastIndex(l.Node, "-")+1:], l.Name))
			}
		}
	}
	return run, names, nil
}

// hashes are what names of nodes have of their run and attempt.
var hashes = regexp.MustCompile(`-[0-9a-f]{6}-`)

// told is a run as its table tells it, without what chance and time decide.
func told(run matrix.Run) string {
	var b strings.Builder
	for _, r := range run.Results {
		j := r.Judgement
		fmt.Fprintf(&b, "%s: %s %s: %s, %d tries\n", r.Cell.ID, j.Verdict, j.Phase, hashes.ReplaceAllString(j.Reason, "-"), matrix.Tries(r.Cell, r.Attempts))
		last, _ := r.Last()
		for _, p := range last.Phases {
			if p.Phase.Proves() {
				fmt.Fprintf(&b, "  %s: %s\n", p.Phase, matrix.JudgePhase(p).Verdict)
			}
		}
		for _, d := range last.Diagnoses {
			fmt.Fprintf(&b, "  diagnosis: %s\n", d.Signature)
		}
	}
	for _, e := range run.HarnessErrors {
		fmt.Fprintf(&b, "harness: %s\n", e)
	}
	return b.String()
}

// nodesOf are the names that nodes of a run have or may have had.
func nodesOf(run matrix.Run) (names []string) {
	for _, r := range run.Results {
		for attempt := range len(r.Attempts) + 1 {
			for i := range r.Cell.Topology.Nodes() {
				names = append(names, cell.NodeName(r.Cell, run.ID, attempt+1, i))
			}
		}
	}
	return names
}

// Kill is a process that was killed.
type Kill struct {
	// Verb is what it was to do, In what it was doing, as far as the run tells, and
	// After how long it had run.
	Verb, In string
	After    time.Duration
}

// Outcome is what came of a run whose processes were killed.
type Outcome struct {
	Kills []Kill
	// Phases were finished, and Cells were over, with the last kill.
	Phases, Cells int
	// Removed says what gc removed in the end.
	Removed []string
	// Problems are what was lost, is another or leaked, and who refused to go on.
	Problems []string
}

// trial is a run whose processes are killed.
type trial struct {
	Tool
	subject Subject
	norm    Norm
	random  *rand.Rand
	seen    []matrix.Run
	out     Outcome
}

// Try runs a subject, kills its processes so many times at moments that random
// draws, one of them gc, lets it go on each time, and looks at what came of it. A
// run that is over sooner is killed less often. The tool's folder of runs is to be
// empty.
func (t Tool) Try(ctx context.Context, s Subject, n Norm, random *rand.Rand, kills int) (Outcome, error) {
	x := &trial{Tool: t, subject: s, norm: n, random: random}
	// The first has something to go on with or to remove.
	gcAt := 1 + random.IntN(max(1, kills-1))
	for len(x.out.Kills) < kills {
		over, err := x.over()
		if err != nil {
			return x.out, err
		}
		if over {
			break
		}
		collects := len(x.out.Kills) == gcAt
		if err := x.step(ctx, collects, true); err != nil {
			return x.out, err
		}
	}
	for {
		over, err := x.over()
		if err != nil {
			return x.out, err
		}
		if over || len(x.out.Problems) > 0 {
			break
		}
		if err := x.step(ctx, false, false); err != nil {
			return x.out, err
		}
	}
	return x.out, x.judge(ctx)
}

// over says whether the run has ended, and nothing is left to go on with.
func (x *trial) over() (bool, error) {
	run, _, err := x.read()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return !run.Ended.IsZero(), err
}

// step is the next process, which is killed or left alone.
func (x *trial) step(ctx context.Context, collects, kill bool) error {
	verb, within := verbResume, x.norm.Run
	folder, err := x.open()
	args := []string{verb}
	switch {
	case collects:
		verb, within = verbGC, x.norm.GC
	case errors.Is(err, fs.ErrNotExist):
		verb = verbRun
		args = append([]string{verb}, x.subject.Args...)
	case err != nil:
		return err
	default:
		args = append(args, filepath.Base(folder.Dir()))
	}
	after := time.Duration(0)
	if kill {
		after = 1 + time.Duration(x.random.Int64N(int64(within)))
	}
	var e End
	if collects {
		e, err = x.collect(ctx, after)
	} else {
		e, err = x.Do(ctx, after, args...)
	}
	if err != nil {
		return err
	}
	switch {
	case e.Killed:
		return x.killed(verb, after)
	case collects:
		x.left(ctx, "after a gc in between")
	case e.Code != x.norm.Code:
		x.problem("lxcmatrix %s ended with exit code %d, and not with %d:\n%s", strings.Join(args, " "), e.Code, x.norm.Code, e.Said)
	}
	return nil
}

func (x *trial) problem(format string, args ...any) {
	x.out.Problems = append(x.out.Problems, fmt.Sprintf(format, args...))
}

// killed keeps what a process left.
func (x *trial) killed(verb string, after time.Duration) error {
	k := Kill{Verb: verb, After: after}
	run, _, err := x.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.In = beforeRun
	case err != nil:
		return err
	default:
		x.seen = append(x.seen, run)
		folder, err := x.open()
		if err != nil {
			return err
		}
		events, err := folder.Events()
		if err != nil {
			return err
		}
		k.In = doing(run.Plan, events)
		x.out.Phases, x.out.Cells = 0, 0
		for _, r := range run.Results {
			for _, a := range r.Attempts {
				x.out.Phases += len(a.Phases)
			}
			if matrix.Over(r.Cell, r.Attempts, max(1, run.Origin.Attempts)) {
				x.out.Cells++
			}
		}
	}
	if verb == verbGC {
		k.In = removing
	}
	x.out.Kills = append(x.out.Kills, k)
	return nil
}

// doing is what a run's process was doing last, by what it told.
func doing(plan matrix.Plan, events []runfolder.Event) string {
	now := opening
	for _, e := range events {
		switch e.Kind {
		case runfolder.RunStarted:
			now = opening
		case runfolder.HostOpened, runfolder.CellStarted:
			now = readying
		case runfolder.PhaseEnded:
			now = next(plan, e)
		case runfolder.CellEnded:
			now = ending
		case runfolder.HostClosed, runfolder.RunEnded:
			now = reporting
		}
	}
	return now
}

// next is what follows the end of a phase.
func next(plan matrix.Plan, ended runfolder.Event) string {
	c, _ := plan.Cell(ended.Cell)
	if ended.Phase.Proves() && (ended.Verdict == nil || *ended.Verdict != matrix.Pass) {
		return string(matrix.PhaseCollect)
	}
	phases := c.Phases()
	i := slices.Index(phases, ended.Phase)
	if i < 0 || i == len(phases)-1 {
		return ending
	}
	return string(phases[i+1])
}

// left asks what is left on the machine.
func (x *trial) left(ctx context.Context, when string) {
	run, _, err := x.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.problem("%v", err)
		return
	}
	left, err := Left(ctx, x.State, nodesOf(run))
	if err != nil {
		x.problem("%v", err)
	}
	for _, l := range left {
		x.problem("leaked, %s: %s", when, l)
	}
}

// judge holds the run that went on to its end against what was there with each
// kill and against one that nobody killed.
func (x *trial) judge(ctx context.Context) error {
	run, logs, err := x.read()
	if err != nil {
		return err
	}
	for i, was := range x.seen {
		for _, lost := range matrix.Lost(was, run) {
			x.problem("lost or another since kill %d: %s", i+1, lost)
		}
	}
	if now := told(run); now != x.norm.Told {
		x.problem("it tells:\n%sand one that nobody killed:\n%s", now, x.norm.Told)
	}
	for _, name := range x.norm.Logs {
		if !slices.Contains(logs, name) {
			x.problem("it has no log %s; it has %s", name, strings.Join(logs, ", "))
		}
	}
	gc, err := x.collect(ctx, 0)
	if err != nil {
		return err
	}
	for line := range strings.Lines(gc.Said) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == "removed" {
			x.out.Removed = append(x.out.Removed, fields[2])
			if fields[2] == "node" {
				x.problem("the run that went on to its end left %s", strings.TrimSpace(line))
			}
		}
	}
	x.left(ctx, "after gc")
	return nil
}
