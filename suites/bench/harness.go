package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// Matrix is the built-in matrix whose one cell is measured.
const Matrix = "smoke"

const (
	// memoryEvery is how often the harness's peak memory is read. The peak only
	// rises, and its last part is the report of a cell that has ended, so that
	// little is missed between the last reading and the end.
	memoryEvery = 100 * time.Millisecond
	// teardown is what lxcmatrix run may take to remove its nodes when it is
	// interrupted, and a little more.
	teardown = 45 * time.Second
)

// Example is a cell that the harness passed. It says what is to be done by
// hand: the same, with what was observed and decided there.
type Example struct {
	Plan    matrix.Plan
	Cell    matrix.Cell
	Attempt matrix.Attempt
}

// Harness is the command that is measured.
type Harness struct {
	// Binary is the path of lxcmatrix.
	Binary string
	// Runs is the folder that runs are kept in.
	Runs string
	// Log gets what the command prints.
	Log io.Writer
}

// Run runs the cell once. A cell that does not pass is an error. Hand of the
// pair is left empty.
func (h Harness) Run(ctx context.Context) (Example, Pair, error) {
	fail := func(err error) (Example, Pair, error) {
		return Example{}, Pair{}, fmt.Errorf("run the cell by the harness: %w", err)
	}
	runs, err := os.MkdirTemp(h.Runs, "run-")
	if err != nil {
		return fail(err)
	}
	cmd := exec.CommandContext(ctx, h.Binary, "run", "--file", Matrix, "--runs", runs, "--keep", "never")
	cmd.Stdout, cmd.Stderr = h.Log, h.Log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = teardown
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	watching, stop := context.WithCancel(ctx)
	peak := make(chan int64, 1)
	go func() { peak <- peakMemory(watching, cmd.Process.Pid) }()
	err = cmd.Wait()
	stop()
	p := Pair{PeakBytes: <-peak}
	if err != nil {
		return fail(err)
	}
	e, err := read(runs)
	if err != nil {
		return fail(err)
	}
	if p.PeakBytes == 0 {
		return fail(errors.New("its peak memory could not be read"))
	}
	p.Ready = e.Attempt.Started.Sub(began)
	if p.Harness, err = OfAttempt(e.Attempt); err != nil {
		return fail(err)
	}
	return e, p, nil
}

// read finds the one cell of the one run that a folder holds.
func read(runs string) (Example, error) {
	folders, err := filepath.Glob(filepath.Join(runs, "*"))
	if err != nil || len(folders) != 1 {
		return Example{}, fmt.Errorf("%s holds %d runs, want one: %w", runs, len(folders), err)
	}
	folder, err := runfolder.Open(folders[0])
	if err != nil {
		return Example{}, err
	}
	run, err := folder.Read()
	if err := errors.Join(err, folder.Close()); err != nil {
		return Example{}, err
	}
	if len(run.Results) != 1 {
		return Example{}, fmt.Errorf("matrix %s has %d cells, want one", Matrix, len(run.Results))
	}
	r := run.Results[0]
	attempt, ok := r.Last()
	if !ok || r.Judgement.Verdict != matrix.Pass {
		return Example{}, fmt.Errorf("cell %s is %s: %s", r.Cell.ID, r.Judgement.Verdict, r.Judgement.Reason)
	}
	return Example{Plan: run.Plan, Cell: r.Cell, Attempt: attempt}, nil
}

// peakMemory reads a process's peak resident memory until ctx ends, in bytes;
// 0 if it could never be read. The rusage of a process that ended would not
// do: it counts the daemon, its child, and what the parent had at the fork.
func peakMemory(ctx context.Context, pid int) int64 {
	var peak int64
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		if now, ok := highWater(pid); ok {
			peak = max(peak, now)
		}
		select {
		case <-ctx.Done():
			return peak
		case <-tick.C:
		}
	}
}

// highWater is VmHWM of proc_pid_status(5).
func highWater(pid int) (int64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(value)), " kB"), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}
