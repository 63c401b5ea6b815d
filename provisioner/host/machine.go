package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// thisMachine is the one that lxcmatrix itself runs on.
type thisMachine struct{}

var _ machine = thisMachine{}

// Run runs a command here, with the command's variables beside those of this
// process.
func (thisMachine) Run(ctx context.Context, command provisioner.Command) (provisioner.Output, error) {
	cmd := exec.CommandContext(ctx, command.Args[0], command.Args[1:]...)
	cmd.Env = os.Environ()
	for key, value := range command.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = command.Stdin, &stdout, &stderr
	// What a command that was given up on left behind may keep its outputs open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	out := provisioner.Output{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return out, fmt.Errorf("run %q on the host: %w", strings.Join(command.Args, " "), context.Cause(ctx))
	case errors.As(err, &exit):
		return out, &provisioner.HostCommandError{Command: command.Args, Output: out}
	case err != nil:
		return out, fmt.Errorf("run %q on the host: %w", strings.Join(command.Args, " "), err)
	}
	return out, nil
}

// Dial connects from here.
func (thisMachine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}
