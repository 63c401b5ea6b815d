package incus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"
	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Exec runs a command in the instance. The output is complete: it is read to
// its end before the exit code is looked at. When ctx ends, the command is
// killed.
func (i *Instance) Exec(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	var stdout, stderr bytes.Buffer
	code, err := i.Stream(ctx, cmd, &stdout, &stderr)
	out := provisioner.Output{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: code}
	if err != nil {
		return out, fmt.Errorf("run %q on node %s: %w", strings.Join(cmd.Args, " "), i.name, err)
	}
	if code != 0 {
		return out, &provisioner.CommandError{Node: i.name, Command: cmd.Args, Output: out}
	}
	return out, nil
}

// Stream is Exec with the output written as it comes. A command that ran and
// failed is no error: its exit code says so.
func (i *Instance) Stream(ctx context.Context, cmd provisioner.Command, stdout, stderr io.Writer) (int, error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	stdin := cmd.Stdin
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var control controlSocket
	done := make(chan bool)
	op, err := i.server.with(context.WithoutCancel(ctx)).ExecInstance(i.name, api.InstanceExecPost{
		Command: cmd.Args, Environment: cmd.Env, WaitForWS: true,
	}, &client.InstanceExecArgs{Stdin: io.NopCloser(stdin), Stdout: stdout, Stderr: stderr, DataDone: done, Control: control.set})
	if err != nil {
		return -1, i.execError(ctx, err)
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
	select {
	case err = <-finished:
	case <-ctx.Done():
		control.kill()
		return -1, ctx.Err()
	}
	code, ok := op.Get().Metadata["return"].(float64)
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
	state, _, stateErr := i.server.with(ctx).GetInstanceState(i.name)
	if stateErr != nil || state.StatusCode == api.Running {
		return err
	}
	return &provisioner.NodeError{Node: i.name, Action: "run a command on", Err: fmt.Errorf("it is %s: %w", strings.ToLower(state.Status), err)}
}

// controlSocket is the exec's control connection, which arrives on a
// goroutine of the client's.
type controlSocket struct {
	mu   sync.Mutex
	conn *websocket.Conn
}

func (c *controlSocket) set(conn *websocket.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
}

// kill ends the command; a control socket that is gone means that the command
// is, too.
func (c *controlSocket) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return
	}
	_ = c.conn.WriteJSON(api.InstanceExecControl{Command: "signal", Signal: int(syscall.SIGKILL)})
	_ = c.conn.Close()
}
