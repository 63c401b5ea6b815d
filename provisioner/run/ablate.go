package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
)

// AblateOptions of a run that leaves fixes out.
type AblateOptions struct {
	// Version of the program.
	Version string
	Goal    matrix.Goal
	// Fixes are those to learn about, by ID; none are all that a cell has.
	Fixes []string
	// Resume is the folder of a run that made some of the trials already, of the
	// same plan and for the same; empty starts anew.
	Resume string
}

// closePatience bounds the closing of a host.
const closePatience = 40 * time.Second

// Ablate runs each cell of the plan again and again on one host that stays open,
// with other fixes left out each time, one after the other: what one trial
// does to the host is not another's. The first, with all fixes, is the run's own
// result; every later one is a run of its own in the run's folder, and what they
// came to is kept there after each. When ctx ends, the trial that runs tears
// down, and those before are kept; interrupted is the signal then.
//
// A fix that is not there, or that cannot apply to a cell, is a *UsageError, and
// so is a run to resume that asked for something else.
func (p *Planned) Ablate(ctx context.Context, o AblateOptions, interrupted func() string) (matrix.Run, error) {
	return p.ablate(ctx, o, interrupted, func(o catalog.Options) bench { return catalog.NewBench(o) })
}

// bench is a host that several runs use, one after the other.
type bench interface {
	For(o catalog.Options) engine.Ground
	Close(ctx context.Context) (open bool, err error)
}

func (p *Planned) ablate(ctx context.Context, o AblateOptions, interrupted func() string, open func(catalog.Options) bench) (matrix.Run, error) {
	o.Fixes = slices.Compact(slices.Sorted(slices.Values(o.Fixes)))
	if err := p.applicable(o.Fixes); err != nil {
		return matrix.Run{}, err
	}
	plan := p.Plan
	plan.Cells = slices.Clone(plan.Cells)
	for i := range plan.Cells {
		// A failure that is expected counts like any other here.
		plan.Cells[i].Expect = nil
	}
	l := &lab{Planned: p, AblateOptions: o, plan: plan, open: open, interrupted: interrupted}
	if err := l.begin(); err != nil {
		if l.folder != nil {
			err = errors.Join(err, l.folder.Close())
		}
		return matrix.Run{}, err
	}
	folder := l.folder
	p.note("run %s: trials at %d cells, kept in %s", l.id, len(plan.Cells), folder.Dir())
	var errs []error
	for _, c := range plan.Cells {
		if c.Runs() && ctx.Err() == nil {
			errs = append(errs, l.cell(ctx, c))
		}
	}
	errs = append(errs, folder.Finish(time.Now().UTC(), interrupted()))
	run, err := folder.Read()
	return run, errors.Join(append(errs, err, folder.Close())...)
}

// begin makes the run's folder, or opens the one to go on in.
func (l *lab) begin() (err error) {
	if l.Resume == "" {
		origin, err := l.origin(verbAblate)
		if err != nil {
			return err
		}
		l.folder, l.id, err = keepIn(l.root, l.plan, l.Version, origin)
		return err
	}
	if l.folder, err = runfolder.Open(l.Resume, runfolder.WithRedactor(redact.Text)); err != nil {
		return &UsageError{fmt.Errorf("resume: %w", err)}
	}
	if err := l.folder.Claim(); err != nil {
		return &UsageError{fmt.Errorf("resume: %w", err)}
	}
	l.id = filepath.Base(l.folder.Dir())
	if l.done, err = l.folder.Ablations(); err != nil {
		return fmt.Errorf("resume run %s: %w", l.id, err)
	}
	differs := func(what string) error {
		return &UsageError{fmt.Errorf("resume run %s: it was made of %s; ask for the same, or start anew", l.id, what)}
	}
	kept := l.folder.Plan()
	if !reflect.DeepEqual(kept.Cells, l.plan.Cells) || kept.Timeouts != l.plan.Timeouts || kept.Budget != l.plan.Budget {
		return differs("other cells, versions, timeouts or limits")
	}
	for _, a := range l.done {
		if a.Goal != l.Goal {
			return differs("trials for another verb")
		}
		for _, f := range a.Fixes {
			if f.Asked != (len(l.Fixes) == 0 || slices.Contains(l.Fixes, f.ID)) {
				return differs(fmt.Sprintf("trials that ask about other fixes, as to %s", f.ID))
			}
		}
	}
	return l.folder.Begin(time.Now().UTC())
}

// applicable finds fixes that nobody knows, or that cannot apply to a cell.
func (p *Planned) applicable(ids []string) error {
	var problems []error
	for _, id := range ids {
		if _, err := p.Knowledge.Fixes.Fix(id); err != nil {
			problems = append(problems, err)
			continue
		}
		for _, c := range p.Plan.Cells {
			for _, one := range c.ByOS() {
				if err := p.applies(id, one); err != nil {
					problems = append(problems, err)
					break
				}
			}
		}
	}
	if len(problems) > 0 {
		return &UsageError{errors.Join(problems...)}
	}
	return nil
}

// applies says why a fix is in no case in effect in a cell.
func (p *Planned) applies(id string, c matrix.Cell) error {
	decisions, _, err := p.Knowledge.Decisions(c, nil, nil)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(decisions, func(d fix.Decision) bool { return d.Fix.ID == id })
	switch d := decisions[i]; {
	case d.State == fix.NotApplicable && d.Fix.OnRequest() && !slices.Contains(c.With, id):
		return fmt.Errorf("fix %s is %s, and not applied to cell %s: ask for it with --with %s", id, d.Why, c.ID, id)
	case d.State == fix.NotApplicable:
		return fmt.Errorf("fix %s does not apply to cell %s: it applies when %s", id, c.ID, d.Why)
	case d.State == fix.LeftOut:
		return fmt.Errorf("fix %s is left out of cell %s by --without, so nothing can be learned about it", id, c.ID)
	}
	return nil
}

// lab makes the trials of one run.
type lab struct {
	*Planned
	AblateOptions
	plan   matrix.Plan
	folder *runfolder.Folder
	id     string
	open   func(catalog.Options) bench
	// interrupted is the signal that ends the run early, or "".
	interrupted func() string
	// done are the ablations so far.
	done []matrix.Ablation
}

// cell makes the trials at one cell until nothing is left to try, or ctx ends.
func (l *lab) cell(ctx context.Context, c matrix.Cell) (err error) {
	b := l.open(l.options(l.plan, l.folder, l.id, false))
	defer func() {
		err = errors.Join(err, l.close(ctx, b, c.Host.Name))
	}()
	i := slices.IndexFunc(l.done, func(a matrix.Ablation) bool { return a.Cell == c.ID })
	if i < 0 {
		i = len(l.done)
		l.done = append(l.done, matrix.Ablation{Cell: c.ID, Goal: l.Goal})
	}
	a := &l.done[i]
	timeouts, err := l.timeouts(*a)
	if err != nil {
		return err
	}
	for {
		without, done := l.next(*a)
		if done {
			return nil
		}
		l.tell(*a, without)
		trials, last, err := l.trial(ctx, b, c, without, timeouts, len(a.Trials) == 0)
		if err != nil {
			return err
		}
		told := len(trials)
		if ctx.Err() != nil {
			told = slices.IndexFunc(trials, func(t matrix.Trial) bool { return t.Verdict != matrix.Pass && t.Verdict != matrix.Fail })
		}
		interrupted := told >= 0 && told < len(trials)
		if interrupted {
			trials = trials[:told]
		}
		a.Trials = append(a.Trials, trials...)
		if len(a.Trials) > 0 {
			if len(a.Fixes) == 0 {
				a.Fixes = l.fixesOf(last)
			}
			if err := l.folder.WriteAblations(l.done); err != nil {
				return err
			}
		}
		if interrupted {
			l.note("%s: interrupted; %d trials are kept in %s", c.ID, len(a.Trials), l.folder.Dir())
			return nil
		}
		if t := a.Trials[len(a.Trials)-1]; len(without) == 0 && t.Verdict == matrix.Pass {
			timeouts = ablation.Hasten(timeouts, last)
		}
	}
}

// close closes the host of a cell's trials, and tells it in the run's events.
func (l *lab) close(ctx context.Context, b bench, host string) error {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
	defer cancel()
	began := time.Now()
	open, err := b.Close(closing)
	if err != nil {
		return fmt.Errorf("close host %s: %w", host, err)
	}
	if !open {
		return nil
	}
	now := time.Now()
	return l.folder.AppendEvent(runfolder.Event{Time: now.UTC(), Kind: runfolder.HostClosed, Host: host, Took: matrix.Duration(now.Sub(began))})
}

// timeouts are those of the next trial, by the controls among those before.
func (l *lab) timeouts(a matrix.Ablation) (matrix.Timeouts, error) {
	t := l.plan.Timeouts
	for _, trial := range a.Trials {
		if len(trial.Without) > 0 || trial.Verdict != matrix.Pass {
			continue
		}
		folder, err := l.folder, error(nil)
		if trial.Run != l.id {
			folder, err = runfolder.Open(filepath.Join(l.folder.Trials(), trial.Run))
		}
		if err != nil {
			return t, fmt.Errorf("read trial %s: %w", trial.Run, err)
		}
		result, err := folder.Result(a.Cell)
		if err != nil {
			return t, fmt.Errorf("read trial %s: %w", trial.Run, err)
		}
		last, _ := result.Last()
		t = ablation.Hasten(t, last)
	}
	return t, nil
}

// next is what to leave out next.
func (l *lab) next(a matrix.Ablation) (without []string, done bool) {
	if a.Goal == matrix.GoalMinimal {
		m := ablation.Minimal(a)
		return m.Next, m.Done
	}
	s := ablation.Outcomes(a)
	return s.Next, s.Done
}

// tell says what is tried next.
func (l *lab) tell(a matrix.Ablation, without []string) {
	what := "with all fixes"
	switch n := len(without); {
	case n > 3:
		what = fmt.Sprintf("without %d fixes", n)
	case n > 0:
		what = "without " + strings.Join(without, ", ")
	}
	l.note("%s: trial %d: %s; so far %.1f runs of the whole cell", a.Cell, len(a.Trials)+1, what, ablation.Cost(a))
}

// controls is how often the cell with all its fixes is tried at first, where it
// does not pass: all else rests on it.
const controls = 2

// trial runs the cell without some fixes. The first of all is the run's own, and
// may have several attempts, each of which is a trial.
func (l *lab) trial(ctx context.Context, b bench, c matrix.Cell, without []string, timeouts matrix.Timeouts, first bool) ([]matrix.Trial, matrix.Attempt, error) {
	attempts := controls
	plan, folder, id := l.plan, l.folder, l.id
	if len(without) > 0 {
		c.Without = slices.Compact(slices.Sorted(slices.Values(slices.Concat(c.Without, without))))
	}
	plan.Cells, plan.Timeouts, plan.Expected = []matrix.Cell{c}, timeouts, matrix.Estimate{}
	if !first {
		attempts = 1
		var err error
		if folder, id, err = keepIn(l.folder.Trials(), plan, l.Version, matrix.Origin{Verb: verbAblate}); err != nil {
			return nil, matrix.Attempt{}, err
		}
	}
	e := engine.New(engine.Options{Plan: plan, Folder: folder, Past: l.past, Attempts: attempts, Progress: l.progress, Clock: wallClock{},
		Ground: b.For(l.options(plan, folder, id, !first))})
	e.Start(ctx)
	failures := e.Wait()
	result, err := e.Result(context.WithoutCancel(ctx), c.ID)
	if !first {
		for _, failure := range failures {
			err = errors.Join(err, l.folder.AddHarnessError(fmt.Errorf("trial %s: %w", id, failure)))
		}
		err = errors.Join(err, folder.Finish(time.Now().UTC(), l.interrupted()), folder.Close())
	}
	var trials []matrix.Trial
	for _, a := range result.Attempts {
		trials = append(trials, matrix.Trial{Run: id, Without: without, Judgement: matrix.Judge(result.Cell, []matrix.Attempt{a}),
			Diagnoses: a.Diagnoses, Took: took(a)})
	}
	if len(trials) == 0 {
		trials = []matrix.Trial{{Run: id, Without: without, Judgement: result.Judgement}}
	}
	last, _ := result.Last()
	return trials, last, err
}

// took is what an attempt cost. Before its first phase a cell may have waited for
// the machine, for as long as others had it.
func took(a matrix.Attempt) matrix.Duration {
	if len(a.Phases) == 0 {
		return 0
	}
	return matrix.Duration(a.Ended.Sub(a.Phases[0].Started))
}

// options are those of a host for one run on it. A trial need not wait for what
// is known to fail.
func (l *lab) options(plan matrix.Plan, folder *runfolder.Folder, id string, hasten bool) catalog.Options {
	o := l.ground(plan, folder, id, cell.KeepNever)
	o.Hasten = hasten
	return o
}

// fixesOf are the fixes of a cell, what opens the host most first, by the
// attempt at it with all of them. Those that were asked about and are not in
// effect say why.
func (l *lab) fixesOf(a matrix.Attempt) []matrix.AblatedFix {
	type candidate struct {
		matrix.AblatedFix
		privilege fix.Privilege
	}
	var all []candidate
	for _, applied := range a.Fixes {
		f, err := l.Knowledge.Fixes.Fix(applied.ID)
		if err != nil {
			continue // it was decided by the same catalogue
		}
		named := slices.Contains(l.Fixes, applied.ID)
		c := candidate{matrix.AblatedFix{ID: f.ID, Cures: f.Cures, Harmful: f.Harmful, Causes: f.Causes, Asked: named || len(l.Fixes) == 0}, f.Privilege()}
		switch fix.State(applied.State) {
		case fix.Applied:
		case fix.Satisfied:
			c.Skip = "the host has already what it wants, so that leaving it out proves nothing"
		default:
			if !named {
				continue
			}
			c.Skip = fmt.Sprintf("it is %s here: it applies when %s", applied.State, applied.Why)
		}
		// Where servers and agents differ it is there twice.
		i := slices.IndexFunc(all, func(other candidate) bool { return other.ID == c.ID })
		switch {
		case i < 0:
			all = append(all, c)
		case c.Skip == "":
			all[i] = c
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.privilege, a.privilege), strings.Compare(a.ID, b.ID))
	})
	var fixes []matrix.AblatedFix
	for _, c := range all {
		fixes = append(fixes, c.AblatedFix)
	}
	return fixes
}

func (p *Planned) note(format string, args ...any) {
	if p.progress != nil {
		p.progress.Note(format, args...)
	}
}
