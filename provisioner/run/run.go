// Package run makes a plan of what the user asked for, and a run of a plan.
// The command line and the suite both start here, so that they cannot differ.
package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/hygiene"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
)

// Request is what the user asked for.
type Request struct {
	// Matrix is a path or a built-in's name; empty looks for matrix.yaml here,
	// then takes the built-in default.
	Matrix string
	// Only and Skip select cells.
	Only, Skip []string
	// With applies harmful and optional fixes, Without leaves fixes out.
	With, Without []string
	// Restarts are further ones for every cell, beside those of the matrix.
	Restarts []string
	// Soak is how many restarts in a row every cell has after all others; at most
	// mostSoak.
	Soak int
	// DefyGates runs cells that a gate rules out, where that can show whether it
	// still holds.
	DefyGates bool
	// Part is the shard of the plan that is meant; the zero value is all of it.
	Part plan.Part
	// FixFolders hold fixes of the user's own.
	FixFolders []string
	// Mirror overrides the matrix file's; empty leaves it.
	Mirror string
	// Lock is a lock file of artifacts; empty is the one beside the matrix file,
	// if it is there.
	Lock string
	// Root is the folder that runs are kept in; earlier ones there tell how
	// long things take.
	Root     string
	Progress engine.Progress
}

// Planned is a frozen plan and what is needed to run it.
type Planned struct {
	Plan      matrix.Plan
	Knowledge *catalog.Knowledge
	Artifacts *artifact.Store
	CacheDir  string
	root      string
	past      runfolder.History
	// fixFolders and lock are absolute paths; lock is empty where there is none.
	fixFolders []string
	lock       string
	progress   engine.Progress
}

// UsageError is a request that does not fit: a matrix file with problems, an
// unknown selector or fix.
type UsageError struct{ Err error }

// Error is the cause's.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// mostSoak restarts in a row take a cell the most of a day.
const mostSoak = 1000

// Plan expands the matrix, resolves everything, and freezes it. Errors of the
// user's are *UsageError.
func Plan(ctx context.Context, r Request) (*Planned, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the matrix: %w", err)
	}
	m, err := config.Find(r.Matrix, cwd)
	if err != nil {
		return nil, &UsageError{err}
	}
	if err := m.AddRestarts(r.Restarts); err != nil {
		return nil, &UsageError{err}
	}
	if r.Soak < 0 || r.Soak > mostSoak {
		return nil, &UsageError{fmt.Errorf("%d restarts in a row: want 0 to %d", r.Soak, mostSoak)}
	}
	knowledge, err := catalog.LoadKnowledge(ctx, r.FixFolders...)
	if err != nil {
		return nil, &UsageError{err}
	}
	if err := knowledge.Fixes.Check(fix.Choice{With: r.With, Without: r.Without}); err != nil {
		return nil, &UsageError{err}
	}
	for _, e := range m.Expect {
		if !knowledge.HasSignature(e.Signature) {
			return nil, &UsageError{fmt.Errorf("%s: expect: there is no signature %q", m.File, e.Signature)}
		}
	}
	cacheDir, err := artifact.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	sources := m.PlanSources()
	if r.Mirror != "" {
		sources.Mirror = r.Mirror
	}
	lock, err := artifact.FindLock(r.Lock, m.Beside(artifact.LockName))
	if err != nil {
		return nil, &UsageError{err}
	}
	store, err := artifact.New(cacheDir, artifact.Options{Sources: sources.Artifacts, Mirror: sources.Mirror, Lock: lock, Progress: r.Progress})
	if err != nil {
		return nil, &UsageError{err}
	}
	p, err := plan.Make(ctx, m, catalog.Resolver{Artifacts: store, Images: &image.Store{CacheDir: cacheDir, Sources: sources.Images, OSes: knowledge.OSes}}, knowledge,
		plan.Options{Only: r.Only, Skip: r.Skip, With: r.With, Without: r.Without, DefyGates: r.DefyGates, Part: r.Part, Soak: r.Soak})
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("make the plan: %w", context.Cause(ctx))
		}
		return nil, &UsageError{err}
	}
	var cannot []string
	for _, c := range p.Cells {
		if why := catalog.Cannot(c); why != "" {
			cannot = append(cannot, fmt.Sprintf("%s: %s", c.ID, why))
		}
		if err := knowledge.Opposed(c); err != nil {
			return nil, &UsageError{fmt.Errorf("plan cell %s: %w", c.ID, err)}
		}
	}
	if len(cannot) > 0 {
		return nil, &UsageError{fmt.Errorf("plan %s: cells that no host can run\n  %s", m.File, strings.Join(cannot, "\n  "))}
	}
	p.Sources = sources
	past := runfolder.ReadHistory(r.Root)
	p.Expected = engine.Expect(p, past)
	planned := &Planned{Plan: p, Knowledge: knowledge, Artifacts: store, CacheDir: cacheDir, root: r.Root, past: past, progress: r.Progress}
	for _, dir := range r.FixFolders {
		planned.fixFolders = append(planned.fixFolders, absolute(cwd, dir))
	}
	if lock != nil {
		planned.lock = absolute(cwd, lock.Path())
	}
	return planned, nil
}

// Options of a run.
type Options struct {
	// Version of the program.
	Version string
	// Keep says when nodes are left.
	Keep cell.Keep
	// Attempts is how often a cell that fails is tried.
	Attempts int
	// Stay, if set, takes the place of cells' restarts; see cell.Stay.
	Stay cell.Stay
	// Hear keeps what nodes say last while the run goes on; see runfolder.Say.
	Hear bool
	// Ground, if set, takes the place of the hosts that plans name, as in tests.
	Ground func(catalog.Options) engine.Ground
}

// Run is a run in flight.
type Run struct {
	ID     string
	Engine *engine.Engine
	Folder *runfolder.Folder
	tell   func(runfolder.Event) error
}

// Start writes the plan into a new run's folder and starts the engine. When
// ctx ends, running cells tear down; Finish waits for that.
func (p *Planned) Start(ctx context.Context, o Options) (*Run, error) {
	origin, err := p.origin(verbRun)
	if err != nil {
		return nil, err
	}
	origin.Keep, origin.Attempts = string(o.Keep), max(1, o.Attempts)
	folder, id, err := keepIn(p.root, p.Plan, o.Version, origin)
	if err != nil {
		return nil, err
	}
	return p.start(ctx, folder, id, o, nil), nil
}

// start starts the engine on a run's folder; earlier is the run so far, nil where
// it is new.
func (p *Planned) start(ctx context.Context, folder *runfolder.Folder, id string, o Options, earlier *matrix.Run) *Run {
	options := p.ground(p.Plan, folder, id, o.Keep)
	options.Stay, options.Hear = o.Stay, o.Hear
	var ground engine.Ground
	if o.Ground != nil {
		ground = o.Ground(options)
	} else {
		ground = catalog.NewGround(options)
	}
	e := engine.New(engine.Options{Plan: p.Plan, Folder: folder, Past: p.past, Attempts: o.Attempts, Earlier: earlier, Progress: p.progress, Clock: wallClock{},
		Ground: ground})
	r := &Run{ID: id, Engine: e, Folder: folder, tell: func(e runfolder.Event) error {
		e.Run, e.Time = id, time.Now().UTC()
		err := folder.AppendEvent(e)
		if p.progress != nil {
			p.progress.Event(e)
		}
		return err
	}}
	if p.progress != nil {
		// It is in the folder since that was made, or claimed.
		p.progress.Event(runfolder.Event{Time: time.Now().UTC(), Kind: runfolder.RunStarted, Run: id, PID: os.Getpid()})
	}
	e.Start(ctx)
	return r
}

// Finish waits for the engine's end and reads the run back from its folder.
// interrupted is the signal that ended the run early, or "".
func (r *Run) Finish(interrupted func() string) (matrix.Run, error) {
	r.Engine.Wait()
	signal := interrupted()
	err := r.Folder.Finish(time.Now().UTC(), signal)
	told := runfolder.Event{Kind: runfolder.RunEnded}
	if signal != "" {
		told.Text = "interrupted by " + signal
	}
	run, readErr := r.Folder.Read()
	return run, errors.Join(err, r.tell(told), readErr, r.Folder.Close())
}

// ground are the options of hosts for a run of a plan.
func (p *Planned) ground(plan matrix.Plan, folder *runfolder.Folder, id string, keep cell.Keep) catalog.Options {
	return catalog.Options{Knowledge: p.Knowledge, Artifacts: p.Artifacts, Plan: plan, Folder: folder, RunID: id,
		CacheDir: p.CacheDir, StateDir: host.StateDir(), Hygiene: &hygiene.Ledger{}, Keep: keep, Progress: p.progress, Clock: wallClock{}}
}

// keepIn makes the folder of a run that starts now.
func keepIn(root string, plan matrix.Plan, version string, origin matrix.Origin) (*runfolder.Folder, string, error) {
	started := time.Now()
	id := runfolder.NewRunID(started)
	folder, err := runfolder.Create(filepath.Join(root, id), matrix.Run{ID: id, Version: version, Plan: plan, Started: started.UTC(), Origin: origin},
		runfolder.WithRedactor(redact.Text))
	if err == nil {
		err = folder.Begin(started.UTC())
	}
	return folder, id, err
}

// wallClock is the machine's clock.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
