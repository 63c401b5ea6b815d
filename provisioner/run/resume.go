package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
)

// The verbs that runs are started by, as their origin tells them.
const (
	verbRun    = "run"
	verbAblate = "ablate"
)

// ResumeRequest asks for a run to go on that did not end.
type ResumeRequest struct {
	// Dir is the run's folder.
	Dir string
	// Root is the folder that runs are kept in.
	Root string
	// Mirror overrides the plan's, whose secrets were not kept; empty leaves it.
	Mirror string
	// Changed lets it go on with what differs from what it was started with.
	Changed  bool
	Progress engine.Progress
	// Ground is as in Options.
	Ground func(catalog.Options) engine.Ground
}

// Resume goes on with a run whose process is gone, or that somebody interrupted.
// Cells that are over stay as they are. What a process began of the others is
// ended first: machines that it left, and nodes; where a cell's verdict was
// decided already, its logs are kept. Cells without a verdict are made anew.
//
// A run that a process works on, that is finished, that is none of lxcmatrix
// run's, or that was started with something else than there is now, is a
// *UsageError.
func Resume(ctx context.Context, r ResumeRequest) (_ *Run, err error) {
	folder, err := runfolder.Open(r.Dir, runfolder.WithRedactor(redact.Text))
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, folder.Close())
		}
	}()
	if err := folder.Claim(); err != nil {
		if busy := new(runfolder.BusyError); errors.As(err, &busy) {
			return nil, &UsageError{fmt.Errorf("resume: run %s is alive: process %d works on it", filepath.Base(folder.Dir()), busy.PID)}
		}
		return nil, fmt.Errorf("resume: %w", err)
	}
	was, err := folder.Read()
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	left, err := leftOf(was)
	if err != nil {
		return nil, &UsageError{fmt.Errorf("resume run %s: %w", was.ID, err)}
	}
	p, changed, err := replan(ctx, r, was, left)
	if err != nil {
		return nil, fmt.Errorf("resume run %s: %w", was.ID, err)
	}
	if len(changed) > 0 && !r.Changed {
		return nil, &UsageError{fmt.Errorf("resume run %s: what it was started with has changed, so that its cells would not be told by the same; start anew, or go on all the same with --changed\n  %s",
			was.ID, strings.Join(changed, "\n  "))}
	}
	if err := endMachines(ctx, folder, left); err != nil {
		return nil, fmt.Errorf("resume run %s: %w", was.ID, err)
	}
	now := time.Now().UTC()
	if err := folder.Begin(now); err != nil {
		return nil, fmt.Errorf("resume run %s: %w", was.ID, err)
	}
	for _, c := range changed {
		if err := folder.AppendEvent(runfolder.Event{Time: now, Kind: runfolder.Note, Text: "goes on with what has changed: " + c}); err != nil {
			return nil, fmt.Errorf("resume run %s: %w", was.ID, err)
		}
	}
	p.note("run %s goes on: %d of %d cells are over and stay as they are", was.ID, len(was.Plan.Cells)-len(left), len(was.Plan.Cells))
	return p.start(ctx, folder, was.ID, Options{Keep: cell.Keep(cmp.Or(was.Origin.Keep, string(cell.KeepNever))), Attempts: attempts(was), Hear: true, Ground: r.Ground}, &was), nil
}

func attempts(r matrix.Run) int { return max(1, r.Origin.Attempts) }

// leftOf are the cells of a run that are not over; an error says why it cannot go
// on.
func leftOf(was matrix.Run) (left []matrix.Cell, err error) {
	if verb := cmp.Or(was.Origin.Verb, verbRun); verb != verbRun || len(was.Ablations) > 0 {
		return nil, fmt.Errorf("it is of fixes left out; go on with: lxcmatrix ablate --resume %s, or minimize, and the same flags", was.ID)
	}
	for _, result := range was.Results {
		if !matrix.Over(result.Cell, result.Attempts, attempts(was)) {
			left = append(left, result.Cell)
		}
	}
	if len(left) == 0 && !was.Ended.IsZero() {
		return nil, fmt.Errorf("it is finished; lxcmatrix report %s shows it", was.ID)
	}
	return left, nil
}

// replan is a run's plan with what is there now to go on with, and what of it is
// not what the run was started with.
func replan(ctx context.Context, r ResumeRequest, was matrix.Run, left []matrix.Cell) (p *Planned, changed []string, err error) {
	o := was.Origin
	p = &Planned{Plan: was.Plan, root: r.Root, past: runfolder.ReadHistory(r.Root), progress: r.Progress, fixFolders: o.FixFolders, lock: o.Lock}
	if p.Knowledge, err = catalog.LoadKnowledge(ctx, o.FixFolders...); err != nil {
		return nil, nil, &UsageError{err}
	}
	if p.CacheDir, err = artifact.DefaultCacheDir(); err != nil {
		return nil, nil, err
	}
	lock, err := artifact.FindLock(o.Lock, "")
	if err != nil {
		return nil, nil, &UsageError{err}
	}
	p.Artifacts, err = artifact.New(p.CacheDir, artifact.Options{Sources: was.Plan.Sources.Artifacts, Mirror: cmp.Or(r.Mirror, was.Plan.Sources.Mirror), Lock: lock, Progress: r.Progress})
	if err != nil {
		return nil, nil, &UsageError{err}
	}
	now, err := p.origin(verbRun)
	if err != nil {
		return nil, nil, err
	}
	changed = append(differences(o, now), p.otherInputs(ctx, left)...)
	return p, changed, nil
}

// origin is what a run is started with now, by a verb.
func (p *Planned) origin(verb string) (matrix.Origin, error) {
	o := matrix.Origin{Verb: verb, FixFolders: p.fixFolders, Lock: p.lock, Knowledge: p.Knowledge.Digests}
	// The file that runs, wherever its path leads by now.
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return o, fmt.Errorf("read the program: %w", err)
	}
	sum := sha256.New()
	_, err = io.Copy(sum, program)
	if err := errors.Join(err, program.Close()); err != nil {
		return o, fmt.Errorf("read the program: %w", err)
	}
	o.Program = hex.EncodeToString(sum.Sum(nil))
	return o, nil
}

// differences names what a run was started with that is not so now.
func differences(was, now matrix.Origin) (changed []string) {
	if was.Program != now.Program {
		changed = append(changed, fmt.Sprintf("the program: its SHA-256 is %s, it was %s", now.Program, cmp.Or(was.Program, "not kept")))
	}
	all := maps.Clone(now.Knowledge)
	maps.Copy(all, was.Knowledge)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch before, after := was.Knowledge[name], now.Knowledge[name]; {
		case before == after:
		case before == "":
			changed = append(changed, name+" is new")
		case after == "":
			changed = append(changed, name+" is gone")
		default:
			changed = append(changed, name+" is another")
		}
	}
	return changed
}

// otherInputs names the inputs of cells whose bytes are not those of the plan.
// What cannot be had now says so when its cell is run.
func (p *Planned) otherInputs(ctx context.Context, cells []matrix.Cell) (changed []string) {
	resolver := catalog.Resolver{Artifacts: p.Artifacts, Images: &image.Store{CacheDir: p.CacheDir, Sources: p.Plan.Sources.Images, OSes: p.Knowledge.OSes}}
	var now []matrix.Input
	for _, c := range cells {
		// The plan has the version that a channel stood for.
		c.Distro.Channel = ""
		if _, inputs, err := resolver.Distro(ctx, c.Distro, c.Variants); err == nil {
			now = append(now, inputs...)
		}
		for _, one := range c.ByOS() {
			if inputs, err := resolver.Image(ctx, one.OS.Name, c.Distro, c.Variants); err == nil {
				now = append(now, inputs...)
			}
		}
	}
	for _, was := range p.Plan.Inputs {
		i := slices.IndexFunc(now, func(in matrix.Input) bool {
			return in.Kind == was.Kind && in.Name == was.Name && in.Version == was.Version && in.Digest != "" && was.Digest != ""
		})
		if i >= 0 && now[i].Digest != was.Digest {
			changed = append(changed, strings.TrimSpace(fmt.Sprintf("%s %s %s", was.Kind, was.Name, was.Version))+fmt.Sprintf(": its SHA-256 is %s, it was %s", now[i].Digest, was.Digest))
		}
	}
	return changed
}

// endMachines ends the virtual machines that earlier processes of a run left, if
// any of its cells are on such.
func endMachines(ctx context.Context, folder *runfolder.Folder, left []matrix.Cell) error {
	if !slices.ContainsFunc(left, func(c matrix.Cell) bool { return c.Host.Driver == "qemu" }) {
		return nil
	}
	events, err := folder.Events()
	if err != nil {
		return err
	}
	machines, err := qemu.Leftovers(host.StateDir())
	errs := []error{err}
	for _, m := range machines {
		if slices.ContainsFunc(events, func(e runfolder.Event) bool { return e.PID != 0 && e.PID == m.Owner }) {
			errs = append(errs, m.Remove(ctx))
		}
	}
	return errors.Join(errs...)
}

// absolute is a path that holds wherever a process runs.
func absolute(cwd, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(cwd, path)
}
