// Package runfolder keeps one run on disk: the truth that every report is a
// view of. The layout of a run's folder is
//
//	run.json                        the run itself: ID, version, times, harness errors
//	plan.json                       the frozen plan: the denominator; of a shard, with the
//	                                cells and the digest of the plan that it is a part of
//	events.ndjson                   what happened when, one JSON object a line
//	cells/CELL/result.json          everything that is known of one cell
//	cells/CELL/logs/NODE/NAME       what was collected from a node, until the cell ends
//	cells/CELL/said.txt             what one of its nodes said last, until the cell ends
//	cells/CELL/logs.zip             the same from then on, as NODE/NAME
//	hosts/HOST/console.log          what a machine printed that the run booted
//	summary.json.gz                 what is remembered of a run that is over
//	report.html                     the HTML report
//	ablations.json                  the trials at cells with fixes left out
//	trials/RUN/                     the folder of each such trial, which is a run
//
// Files other than logs and events are replaced atomically: a reader, or a
// crash, finds the old or the new one, never a part. The folder is its owner's
// only.
package runfolder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// APIVersion is the version of run.json that this program reads and writes.
const APIVersion = "lxcmatrix.dev/run/v1"

const (
	runFile    = "run.json"
	planFile   = "plan.json"
	resultFile = "result.json"
	cellsDir   = "cells"
	hostsDir   = "hosts"
	tempPrefix = ".writing-"
	// consoleFile is in the folder of a host below hostsDir.
	consoleFile = "console.log"
)

// CorruptError is a file of a run's folder that is there and cannot be
// believed: it does not parse, has another version, or does not fit the plan.
// It is never read as "no result".
type CorruptError struct {
	Path string
	Err  error
}

// Error names the file.
func (e *CorruptError) Error() string { return fmt.Sprintf("read %s: %v", e.Path, e.Err) }

// Unwrap is the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// header is run.json.
type header struct {
	APIVersion    string    `json:"apiVersion"`
	ID            string    `json:"id"`
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	Ended         time.Time `json:"ended,omitzero"`
	Interrupted   string    `json:"interrupted,omitempty"`
	HarnessErrors []string  `json:"harnessErrors,omitempty"`
	// Origin is absent in runs of before it was kept.
	Origin matrix.Origin `json:"origin,omitzero"`
}

// Folder is the folder of one run. Its methods may be called by several
// goroutines at one time; one process at a time may write events.
type Folder struct {
	dir    string
	plan   matrix.Plan
	redact func([]byte) []byte

	mu     sync.Mutex // guards header and writes of run.json
	header header
	cells  map[matrix.CellID]*plannedCell

	eventsMu sync.Mutex
	events   *os.File // nil until the first event is written
}

// plannedCell is a cell of the plan, and the lock of its result.
type plannedCell struct {
	sync.Mutex
	place int // in the plan
}

// Option changes how a folder is written.
type Option func(*Folder)

// WithRedactor passes everything that other programs said through redact
// before it is written: logs, and the free text of results, events and harness
// errors. What redact is handed is one whole text at a time.
func WithRedactor(redact func([]byte) []byte) Option {
	return func(f *Folder) { f.redact = redact }
}

// Create makes the folder of a run that starts: it writes run.json and
// plan.json from run, whose Results are ignored. A folder that is there
// already is an error that wraps fs.ErrExist.
func Create(dir string, run matrix.Run, opts ...Option) (*Folder, error) {
	fail := func(err error) (*Folder, error) { return nil, fmt.Errorf("create run folder %s: %w", dir, err) }
	if err := checkPlan(run.Plan); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fail(err)
	}
	// What redaction misses is still nobody else's to read.
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fail(err)
	}
	f := newFolder(dir, run.Plan, opts)
	f.plan.Sources.Mirror = f.text(f.plan.Sources.Mirror)
	f.plan.Cells = f.plannedCells(f.plan.Cells)
	if s := f.plan.Shard; s != nil {
		f.plan.Shard = &matrix.Shard{Part: s.Part, Plan: s.Plan, Cells: f.plannedCells(s.Cells)}
	}
	f.header = header{APIVersion: APIVersion, ID: run.ID, Version: run.Version, Started: run.Started, Ended: run.Ended,
		Interrupted: run.Interrupted, HarnessErrors: f.texts(run.HarnessErrors), Origin: run.Origin}
	if err := os.Mkdir(filepath.Join(dir, cellsDir), 0o755); err != nil {
		return fail(err)
	}
	if err := writeJSON(filepath.Join(dir, planFile), f.plan); err != nil {
		return fail(err)
	}
	// run.json comes last: a folder that has one is complete.
	if err := writeJSON(filepath.Join(dir, runFile), f.header); err != nil {
		return fail(err)
	}
	return f, nil
}

// Open opens the folder of a run, to read it or to go on writing. A file that
// does not fit is a *CorruptError; a folder that is no run's wraps
// fs.ErrNotExist.
func Open(dir string, opts ...Option) (*Folder, error) {
	var h header
	if err := readJSON(filepath.Join(dir, runFile), APIVersion, &h); err != nil {
		return nil, fmt.Errorf("open run folder: %w", err)
	}
	var plan matrix.Plan
	if err := readJSON(filepath.Join(dir, planFile), matrix.PlanAPIVersion, &plan); err != nil {
		return nil, fmt.Errorf("open run folder: %w", err)
	}
	if err := checkPlan(plan); err != nil {
		return nil, fmt.Errorf("open run folder: %w", &CorruptError{Path: filepath.Join(dir, planFile), Err: err})
	}
	f := newFolder(dir, plan, opts)
	f.header = h
	return f, nil
}

func newFolder(dir string, plan matrix.Plan, opts []Option) *Folder {
	f := &Folder{dir: dir, plan: plan, cells: map[matrix.CellID]*plannedCell{}, redact: func(b []byte) []byte { return b }}
	for i, c := range plan.Cells {
		f.cells[c.ID] = &plannedCell{place: i}
	}
	for _, o := range opts {
		o(f)
	}
	return f
}

// checkPlan refuses a plan whose cells could not be told apart on disk.
func checkPlan(plan matrix.Plan) error {
	if plan.APIVersion != matrix.PlanAPIVersion {
		return fmt.Errorf("plan has apiVersion %q, want %q", plan.APIVersion, matrix.PlanAPIVersion)
	}
	seen := map[matrix.CellID]bool{}
	for _, c := range plan.Cells {
		if c.ID == "" || seen[c.ID] {
			return fmt.Errorf("plan has cell %q twice, or without an ID", c.ID)
		}
		if _, err := matrix.ParseTopology(c.Topology.String()); err != nil {
			return fmt.Errorf("plan has cell %q: %w", c.ID, err)
		}
		seen[c.ID] = true
	}
	return plan.CheckShard()
}

// Dir is the folder's path.
func (f *Folder) Dir() string { return f.dir }

// Plan is the run's plan, as frozen when the run started.
func (f *Folder) Plan() matrix.Plan { return f.plan }

// WriteResult replaces a cell's result.json and returns the result as written, or
// as it would have been where it could not be: with the judgement that
// matrix.Judge gives, whatever result.Judgement says, and redacted. A cell that is not in the plan, or differs from it in anything
// but a gate or an unavailable input found at admission, is an error.
func (f *Folder) WriteResult(result matrix.Result) (matrix.Result, error) {
	id := result.Cell.ID
	result, err := f.redactResult(result)
	fail := func(err error) (matrix.Result, error) {
		return result, fmt.Errorf("write result of cell %s: %w", id, err)
	}
	if err != nil {
		return fail(err)
	}
	result.APIVersion = matrix.ResultAPIVersion
	result.Judgement = matrix.Judge(result.Cell, result.Attempts)
	if err := f.checkCell(result.Cell); err != nil {
		return fail(err)
	}
	f.cells[id].Lock()
	defer f.cells[id].Unlock()
	dir := f.CellDir(id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	if err := writeJSON(filepath.Join(dir, resultFile), result); err != nil {
		return fail(err)
	}
	return result, nil
}

// checkCell holds a result's cell against the plan.
func (f *Folder) checkCell(cell matrix.Cell) error {
	known, ok := f.cells[cell.ID]
	if !ok {
		return fmt.Errorf("cell %q is not in the plan", cell.ID)
	}
	planned := f.plan.Cells[known.place]
	// Gates and inputs are looked at again at admission, and may only be found
	// wanting there: by facts that were observed, where some had been declared.
	if planned.Gate == nil || cell.Gate != nil {
		cell.Gate = planned.Gate
	}
	if planned.Unavailable == "" {
		cell.Unavailable = ""
	}
	a, err := json.Marshal(planned)
	if err != nil {
		return err
	}
	b, err := json.Marshal(cell)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("cell %s differs from the plan: it is %s, the plan says %s", cell.ID, b, a)
	}
	return nil
}

// CellDir is the folder of a cell's files; it may not be there yet.
func (f *Folder) CellDir(id matrix.CellID) string {
	return filepath.Join(f.dir, cellsDir, id.FileName())
}

// checkName refuses what would not be one visible file of a folder.
func checkName(name string) error {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00") {
		return fmt.Errorf("%q cannot be a file's name", name)
	}
	return nil
}

// Console is the file for what a machine prints that is a host of the run. Its
// folder is made; writing it is for whoever has the machine. Nothing is redacted
// in it.
func (f *Folder) Console(host string) (string, error) {
	if err := checkName(host); err != nil {
		return "", fmt.Errorf("keep the console of host %s: %w", host, err)
	}
	dir := filepath.Join(f.dir, hostsDir, host)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep the console of host %s: %w", host, err)
	}
	return filepath.Join(dir, consoleFile), nil
}

// AddHarnessError adds a failure of the harness itself, and writes run.json at
// once.
func (f *Folder) AddHarnessError(err error) error {
	return f.updateHeader(func(h *header) {
		h.HarnessErrors = append(h.HarnessErrors, f.text(err.Error()))
	})
}

// claimPatience is how long the events may stay locked after their process was
// killed: a child that it was just starting has them open until it is executed.
const claimPatience = 2 * time.Second

// Claim makes this process the one that writes the folder, until Close: any other
// gets a *BusyError. What another process wrote since Open is known then, and what
// it was writing when it was killed is removed.
func (f *Folder) Claim() error {
	if err := f.waitForLock(); err != nil {
		return fmt.Errorf("claim run folder: %w", err)
	}
	if err := f.sweep(); err != nil {
		return fmt.Errorf("claim run folder: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var h header
	if err := readJSON(filepath.Join(f.dir, runFile), APIVersion, &h); err != nil {
		return fmt.Errorf("claim run folder: %w", err)
	}
	f.header = h
	return nil
}

// waitForLock locks the events, or says after a while who has them.
func (f *Folder) waitForLock() error {
	again := time.NewTicker(claimPatience / 20)
	defer again.Stop()
	for until := time.Now().Add(claimPatience); ; <-again.C {
		f.eventsMu.Lock()
		err := f.lock()
		f.eventsMu.Unlock()
		if busy := new(BusyError); !errors.As(err, &busy) || time.Now().After(until) {
			return err
		}
	}
}

// sweep removes files that were being written when their process was killed.
func (f *Folder) sweep() error {
	return filepath.WalkDir(f.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasPrefix(entry.Name(), tempPrefix) {
			return err
		}
		return ignoreGone(os.Remove(path))
	})
}

// Begin claims the folder and writes which process works on the run from now on.
// A run that had ended goes on.
func (f *Folder) Begin(at time.Time) error {
	if err := f.AppendEvent(Event{Time: at, Kind: RunStarted, Run: f.header.ID, PID: os.Getpid()}); err != nil {
		return err
	}
	f.mu.Lock()
	ended := !f.header.Ended.IsZero()
	f.mu.Unlock()
	if !ended {
		return nil
	}
	return f.Finish(time.Time{}, "")
}

// Finish writes when the run ended, and the signal that ended it early, or "".
func (f *Folder) Finish(ended time.Time, interrupted string) error {
	return f.updateHeader(func(h *header) { h.Ended, h.Interrupted = ended, interrupted })
}

func (f *Folder) updateHeader(change func(*header)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.header)
	if err := writeJSON(filepath.Join(f.dir, runFile), f.header); err != nil {
		return fmt.Errorf("update run: %w", err)
	}
	return nil
}

// Read reads the whole run: one result for each cell of the plan, in the
// plan's order. A planned cell without result.json is unknown, by
// matrix.Judge; a result.json that cannot be believed, or that belongs to no
// planned cell, is a *CorruptError. Verdicts are judged anew from the
// evidence: where the stored one differs, the new one is shown and the
// difference is added to the run's HarnessErrors, so that no report shows a
// verdict that the evidence does not bear.
func (f *Folder) Read() (matrix.Run, error) {
	f.mu.Lock()
	h := f.header
	f.mu.Unlock()
	run := matrix.Run{ID: h.ID, Version: h.Version, Plan: f.plan, Started: h.Started, Ended: h.Ended,
		Interrupted: h.Interrupted, HarnessErrors: slices.Clone(h.HarnessErrors), Origin: h.Origin}
	var err error
	if run.Ablations, err = f.Ablations(); err != nil {
		return matrix.Run{}, err
	}
	for _, cell := range f.plan.Cells {
		r, err := f.Result(cell.ID)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r = matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: cell, Judgement: matrix.Judge(cell, nil)}
		case err != nil:
			return matrix.Run{}, err
		}
		stored := r.Judgement
		r.Judgement = matrix.Judge(r.Cell, r.Attempts)
		if stored.Verdict != r.Judgement.Verdict || stored.Phase != r.Judgement.Phase {
			run.HarnessErrors = append(run.HarnessErrors, fmt.Sprintf("cell %s: the stored verdict is %s %s, the evidence says %s %s: %s",
				cell.ID, stored.Verdict, stored.Phase, r.Judgement.Verdict, r.Judgement.Phase, r.Judgement.Reason))
		}
		run.Results = append(run.Results, r)
	}
	return run, f.checkStrays()
}

// Result reads one cell's result.json as stored; fs.ErrNotExist where it has
// none yet.
func (f *Folder) Result(id matrix.CellID) (matrix.Result, error) {
	path := filepath.Join(f.CellDir(id), resultFile)
	var r matrix.Result
	if err := readJSON(path, matrix.ResultAPIVersion, &r); err != nil {
		return matrix.Result{}, err
	}
	if r.Cell.ID != id {
		return matrix.Result{}, &CorruptError{Path: path, Err: fmt.Errorf("it is the result of cell %q, want %q", r.Cell.ID, id)}
	}
	if err := f.checkCell(r.Cell); err != nil {
		return matrix.Result{}, &CorruptError{Path: path, Err: err}
	}
	return r, nil
}

// checkStrays refuses results of cells that were never planned.
func (f *Folder) checkStrays() error {
	planned := map[string]bool{}
	for _, c := range f.plan.Cells {
		planned[c.ID.FileName()] = true
	}
	entries, err := os.ReadDir(filepath.Join(f.dir, cellsDir))
	if err != nil {
		return fmt.Errorf("read run folder: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(f.dir, cellsDir, e.Name(), resultFile)
		if planned[e.Name()] {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			return &CorruptError{Path: path, Err: errors.New("its cell is not in the plan")}
		}
	}
	return nil
}

// Close ends writing events.
func (f *Folder) Close() error {
	f.eventsMu.Lock()
	defer f.eventsMu.Unlock()
	if f.events == nil {
		return nil
	}
	err := f.events.Close()
	f.events = nil
	if err != nil {
		return fmt.Errorf("close events of run %s: %w", f.header.ID, err)
	}
	return nil
}

// plannedCells is a copy of cells with their free text redacted.
func (f *Folder) plannedCells(cells []matrix.Cell) []matrix.Cell {
	cells = slices.Clone(cells)
	for i := range cells {
		cells[i].Unavailable = f.text(cells[i].Unavailable)
	}
	return cells
}

func (f *Folder) text(s string) string { return string(f.redact([]byte(s))) }

func (f *Folder) texts(in []string) []string {
	var out []string
	for _, s := range in {
		out = append(out, f.text(s))
	}
	return out
}

// redactResult is a deep copy of result with its free text redacted. The copy
// matters: the caller goes on appending to the attempts.
func (f *Folder) redactResult(result matrix.Result) (matrix.Result, error) {
	raw, err := json.Marshal(result)
	if err != nil {
		return matrix.Result{}, err
	}
	var r matrix.Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return matrix.Result{}, err
	}
	r.Cell.Unavailable = f.text(r.Cell.Unavailable)
	for i := range r.Attempts {
		a := &r.Attempts[i]
		a.Repairs, a.Kept = f.texts(a.Repairs), f.text(a.Kept)
		for j := range a.Nodes {
			n := &a.Nodes[j]
			for _, said := range []*string{&n.Kernel, &n.Cgroup, &n.OSID, &n.OSVersion, &n.Systemd, &n.SELinux, &n.Containerd, &n.Runc, &n.Kubernetes} {
				*said = f.text(*said)
			}
			n.BootIDs = f.texts(n.BootIDs)
		}
		if h := a.Hygiene; h != nil {
			h.NotObserved, h.Unseen = f.text(h.NotObserved), f.texts(h.Unseen)
			for j := range h.Changes {
				h.Changes[j] = f.change(h.Changes[j])
			}
			for j := range h.Suspect {
				h.Suspect[j].HostChange = f.change(h.Suspect[j].HostChange)
			}
		}
		for j := range a.Diagnoses {
			a.Diagnoses[j].Line = f.text(a.Diagnoses[j].Line)
		}
		for j := range a.Phases {
			p := &a.Phases[j]
			p.Error = f.text(p.Error)
			for k := range p.Evidence {
				p.Evidence[k].Saw, p.Evidence[k].Want = f.text(p.Evidence[k].Saw), f.text(p.Evidence[k].Want)
			}
		}
	}
	return r, nil
}

func (f *Folder) change(c matrix.HostChange) matrix.HostChange {
	c.What, c.Before, c.After, c.Left = f.text(c.What), f.text(c.Before), f.text(c.After), f.text(c.Left)
	return c
}

// readJSON reads exactly one JSON value of the wanted version. Fields that
// this program does not know are refused: what they would have said is lost.
func readJSON(path, version string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	corrupt := func(err error) error { return &CorruptError{Path: path, Err: err} }
	var v struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return corrupt(err)
	}
	if v.APIVersion != version {
		return corrupt(fmt.Errorf("apiVersion is %q, this program reads %q", v.APIVersion, version))
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return corrupt(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return corrupt(errors.New("more than one JSON value"))
	}
	return nil
}

func writeJSON(path string, value any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeAtomic(path, b.Bytes(), 0o644)
}

// writeAtomic replaces a file: a temporary one beside it, synced, renamed, and
// the folder synced, so that after a crash the old or the new one is there.
func writeAtomic(path string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	t, err := os.CreateTemp(dir, tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), ignoreGone(os.Remove(t.Name())))
		}
	}()
	_, err = t.Write(content)
	if err == nil {
		err = t.Chmod(mode)
	}
	if err == nil {
		err = t.Sync()
	}
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(t.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
