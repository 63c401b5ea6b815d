package incus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"
	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Exec runs a command in the instance. The output is complete: it is read to
// its end before the exit code is looked at. Where it is more than is kept, the
// error says so beside how it begins. When ctx ends, the command is killed.
func (i *Instance) Exec(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	var stdout, stderr output
	code, err := i.Stream(ctx, cmd, &stdout, &stderr)
	out := provisioner.Output{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: code}
	if err == nil && (stdout.isCut() || stderr.isCut()) {
		err = errTooMuch
	}
	if err != nil {
		return out, fmt.Errorf("run %q on node %s: %w", strings.Join(cmd.Args, " "), i.name, err)
	}
	if code != 0 {
		return out, &provisioner.CommandError{Node: i.name, Command: cmd.Args, Output: out}
	}
	return out, nil
}

// mostOutput is more than any log or file of a node's has that is of use.
const mostOutput = 64 << 20

var errTooMuch = fmt.Errorf("it has more than the %d MiB that are kept", mostOutput>>20)

// output is written by the client's goroutines, which a command that was given
// up on may still keep. What comes after mostOutput is not kept.
type output struct {
	mu  sync.Mutex
	b   bytes.Buffer
	cut bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := p[:min(len(p), mostOutput-o.b.Len())]
	o.cut = o.cut || len(kept) < len(p)
	_, _ = o.b.Write(kept)
	return len(p), nil
}

// readMost reads up to mostOutput bytes; where there are more, it comes with an
// error.
func readMost(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, mostOutput+1))
	if err == nil && len(data) > mostOutput {
		data, err = data[:mostOutput], errTooMuch
	}
	return data, err
}

func (o *output) isCut() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cut
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Stream is Exec with the output written as it comes. A command that ran and
// failed is no error: its exit code says so.
func (i *Instance) Stream(ctx context.Context, cmd provisioner.Command, stdout, stderr io.Writer) (int, error) {
	stdin := cmd.Stdin
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	return i.run(ctx, api.InstanceExecPost{Command: cmd.Args, Environment: cmd.Env, WaitForWS: true},
		client.InstanceExecArgs{Stdin: io.NopCloser(stdin), Stdout: stdout, Stderr: stderr}, &controlSocket{})
}

// Size is a terminal's size.
type Size struct{ Columns, Rows int }

// Terminal is what an interactive command reads from and writes to, in raw
// mode: the command's own terminal, in the instance, does the rest.
type Terminal struct {
	In   io.Reader
	Out  io.Writer
	Size Size
	// Resized sends the size whenever it changes; nil where it never does.
	Resized <-chan Size
}

// Interactive runs a command on a terminal until it ends and returns its exit
// code. When ctx ends, the command is killed.
func (i *Instance) Interactive(ctx context.Context, cmd provisioner.Command, terminal Terminal) (int, error) {
	var control controlSocket
	resizing, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for {
			select {
			case size := <-terminal.Resized:
				control.resize(size)
			case <-resizing.Done():
				return
			}
		}
	}()
	return i.run(ctx, api.InstanceExecPost{Command: cmd.Args, Environment: cmd.Env, WaitForWS: true, Interactive: true,
		Width: terminal.Size.Columns, Height: terminal.Size.Rows},
		client.InstanceExecArgs{Stdin: io.NopCloser(terminal.In), Stdout: terminal.Out}, &control)
}

// run runs a command to its end and returns its exit code.
func (i *Instance) run(ctx context.Context, post api.InstanceExecPost, args client.InstanceExecArgs, control *controlSocket) (int, error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	done := make(chan bool)
	args.DataDone, args.Control = done, control.set
	type answer struct {
		op  client.Operation
		err error
	}
	started := make(chan answer, 1)
	go func() {
		// Not bound to ctx: the control socket must outlive it for the kill.
		op, err := i.server.with(context.WithoutCancel(ctx)).ExecInstance(i.name, post, &args)
		started <- answer{op, err}
	}()
	var op client.Operation
	select {
	case a := <-started:
		if a.err != nil {
			return -1, i.execError(ctx, a.err)
		}
		op = a.op
	case <-ctx.Done():
		control.kill()
		return -1, ctx.Err()
	}
	// The operation's result is only read after the data: the other way round
	// cuts the output off.
	select {
	case <-done:
	case <-ctx.Done():
		control.kill()
		return -1, ctx.Err()
	}
	finished := make(chan error, 1)
	go func() { finished <- op.Wait() }()
	var err error
	select {
	case err = <-finished:
	case <-ctx.Done():
		control.kill()
		return -1, ctx.Err()
	}
	code, ok := op.Get().Metadata["return"].(float64)
	if !ok && err != nil {
		// An exit code of 126 or 127, a shell's for a program that is not there,
		// fails the operation; what it carries may not have come with that news.
		if ended, _, getErr := i.server.with(ctx).GetOperation(op.Get().ID); getErr == nil {
			code, ok = ended.Metadata["return"].(float64)
		}
	}
	if !ok {
		if err == nil {
			err = fmt.Errorf("operation %s carries no exit code", op.Get().ID)
		}
		return -1, err
	}
	return int(code), nil
}

// execError tells a node that is down from a server that is.
func (i *Instance) execError(ctx context.Context, err error) error {
	state, _, stateErr := i.server.with(ctx).GetInstance(i.name)
	if stateErr != nil || state.StatusCode == api.Running {
		return err
	}
	return &provisioner.NodeError{Node: i.name, Action: "run a command on", Err: fmt.Errorf("it is %s: %w", strings.ToLower(state.Status), err)}
}

// controlSocket is the exec's control connection, which arrives on a
// goroutine of the client's.
type controlSocket struct {
	mu     sync.Mutex
	conn   *websocket.Conn
	killed bool
}

func (c *controlSocket) set(conn *websocket.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if c.killed {
		c.signal()
	}
}

// resize tells the command's terminal its size. One that is lost is followed
// by the next.
func (c *controlSocket) resize(size Size) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.WriteJSON(api.InstanceExecControl{Command: "window-resize",
			Args: map[string]string{"width": strconv.Itoa(size.Columns), "height": strconv.Itoa(size.Rows)}})
	}
}

// kill ends the command, now or as soon as the socket is there.
func (c *controlSocket) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.conn != nil {
		c.signal()
	}
}

// signal kills the command, with the lock held; a control socket that is gone
// means that the command is, too.
func (c *controlSocket) signal() {
	_ = c.conn.WriteJSON(api.InstanceExecControl{Command: "signal", Signal: int(syscall.SIGKILL)})
	_ = c.conn.Close()
}

// Start starts an instance that is stopped. Errors are as those of Create.
func (i *Instance) Start(ctx context.Context) error {
	if err := i.setState(ctx, "start", false); err != nil {
		return i.startError(ctx, err)
	}
	return nil
}
