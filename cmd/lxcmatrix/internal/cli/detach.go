package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// apart is a run in a process and session of its own, which outlives this
// process and its terminal.
type apart struct {
	*exec.Cmd
	// events are the run's, from its plan on.
	events <-chan runfolder.Event
	// said is what it says on standard error.
	said *tail
}

// apart starts this program's own command again, by itself; ctx does not end it.
func (p *program) apart(ctx context.Context) (*apart, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	// What is given last counts.
	c := exec.CommandContext(context.WithoutCancel(ctx), self, append(p.args, "--output", outputJSON, "--show", showLines, "--detach=false")...)
	c.Args[0] = os.Args[0]
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	said := &tail{}
	c.Stderr = said
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the run: %w", err)
	}
	// What is ignored here is ignored there, too: a run outlives whoever started
	// it. This process only looks on, and ends with its terminal.
	signal.Ignore(syscall.SIGHUP)
	err = c.Start()
	signal.Reset(syscall.SIGHUP)
	if err != nil {
		return nil, fmt.Errorf("start the run: %w", err)
	}
	events := make(chan runfolder.Event)
	go func() {
		defer close(events)
		for decoder := json.NewDecoder(out); ; {
			var e runfolder.Event
			if decoder.Decode(&e) != nil {
				return
			}
			events <- e
		}
	}()
	return &apart{Cmd: c, events: events, said: said}, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// tailBytes is how much is kept: more than a harness's errors take.
const tailBytes = 1 << 20

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() > tailBytes {
		t.buf.Next(t.buf.Len() / 2)
	}
	return t.buf.Write(b)
}

func (t *tail) writeTo(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A terminal that is gone stops nothing.
	_, _ = w.Write(t.buf.Bytes())
}

// runApart runs the matrix in a process of its own, and shows it on the
// terminal until it is over or left; detached leaves it as soon as it started.
func (p *program) runApart(ctx context.Context, root string, detached bool) error {
	a, err := p.apart(ctx)
	if err != nil {
		return err
	}
	// It is in a session of its own, so that the terminal's signals do not reach it.
	stop := context.AfterFunc(ctx, a.interrupt(p))
	defer stop()
	shown := p.lines()
	id := ""
	for e := range a.events {
		if e.Kind == runfolder.RunStarted {
			id = e.Run
			break
		}
		shown.Event(e)
	}
	if id == "" {
		return a.end(p)
	}
	if detached {
		if _, err := fmt.Fprintln(p.Out, id); err != nil {
			return fmt.Errorf("say which run it is: %w", err)
		}
		p.say("run %s goes on by itself in process %d; look on with: lxcmatrix watch %[1]s", id, a.Process.Pid)
		return nil
	}
	folder, err := openRun(root, id)
	if err != nil {
		return err
	}
	left, err := p.show(ctx, folder, root, a.events, a.interrupt(p))
	switch {
	case err != nil:
		return errors.Join(err, fmt.Errorf("run %s goes on in process %d", id, a.Process.Pid))
	case left && ctx.Err() == nil:
		p.say("run %s goes on by itself in process %d; look on with: lxcmatrix watch %[1]s", id, a.Process.Pid)
		return nil
	}
	for range a.events { // what it tells while it tears down is in its folder
	}
	if err := a.end(p); err != nil && !isExit(err) {
		return err
	}
	run, err := folder.Read()
	if err != nil {
		return err
	}
	if err := p.table(run); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(p.Out, "\nreport: %s\n", reportPath(folder)); err != nil {
		return fmt.Errorf("say where the report is: %w", err)
	}
	return exitCodeOf(a)
}

// interrupt sends the run the signal that this program got, else SIGINT.
func (a *apart) interrupt(p *program) func() {
	return func() {
		s := os.Interrupt
		if p.signalled.Load() == "SIGTERM" {
			s = syscall.SIGTERM
		}
		// One that is over already needs none.
		_ = a.Process.Signal(s)
	}
}

// end waits for the process, tells what it said, and has its exit code.
func (a *apart) end(p *program) error {
	err := a.Wait()
	a.said.writeTo(p.Err)
	if err != nil && a.ProcessState == nil {
		return fmt.Errorf("wait for the run: %w", err)
	}
	return exitCodeOf(a)
}

func exitCodeOf(a *apart) error {
	switch code := a.ProcessState.ExitCode(); {
	case code == matrix.ExitExpected:
		return nil
	case code > 0:
		return exitError(code)
	}
	return fmt.Errorf("the run ended by %s; what is left of it is removed by: lxcmatrix gc --yes", a.ProcessState)
}

func isExit(err error) bool {
	var code exitError
	return errors.As(err, &code)
}
