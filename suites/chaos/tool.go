// Package chaos kills lxcmatrix itself: real runs of it, with SIGKILL, at random
// moments. What it left goes on, may be killed again, and is held against a run
// that nobody killed: no finished phase is lost or another, the table is the same,
// and gc leaves nothing on the machine.
package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// teardown is what lxcmatrix may take to end when a test is interrupted, and a
// little more.
const teardown = 45 * time.Second

// Tool is lxcmatrix as a person calls it.
type Tool struct {
	// Binary is the program.
	Binary string
	// State is its state folder; a short path, as sockets lie below it.
	State string
	// Runs is the folder that it keeps runs in.
	Runs string
}

// End is how a process ended.
type End struct {
	// Killed: it was killed; Code is the exit code of one that was not.
	Killed bool
	Code   int
	Took   time.Duration
	// Said is what it printed.
	Said string
}

// Do calls lxcmatrix, with the folder of runs, and waits for its end. A process
// that still runs after a time is killed; after 0 none is. Nothing that it started
// is killed with it.
func (t Tool) Do(ctx context.Context, after time.Duration, args ...string) (End, error) {
	cmd := exec.CommandContext(ctx, t.Binary, append(args, "--runs", t.Runs)...)
	cmd.Env = append(os.Environ(), "LXCMATRIX_STATE="+t.State)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = teardown
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return End{}, fmt.Errorf("call lxcmatrix: %w", err)
	}
	if after > 0 {
		// One that has ended by then needs none.
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		return End{}, fmt.Errorf("lxcmatrix %s: %w", args[0], context.Cause(ctx))
	}
	e := End{Code: cmd.ProcessState.ExitCode(), Took: time.Since(began), Said: said.String()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Killed = status.Signal() == syscall.SIGKILL && after > 0
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return e, fmt.Errorf("lxcmatrix %s: %w", args[0], err)
	}
	return e, nil
}
