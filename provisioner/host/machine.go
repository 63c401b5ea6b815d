package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// thisMachine is the system that lxcmatrix itself runs on.
type thisMachine struct {
	// writes says whether its sysctls may be changed.
	writes bool
}

var _ provisioner.HostExec = thisMachine{}

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

// Sysctl reads a sysctl of this machine.
func (thisMachine) Sysctl(_ context.Context, key string) (string, error) {
	value, err := os.ReadFile(sysctlPath(key))
	if err != nil {
		return "", fmt.Errorf("read host sysctl %s: %w", key, err)
	}
	return strings.Join(strings.Fields(string(value)), " "), nil
}

// SetSysctl writes a sysctl of this machine.
func (m thisMachine) SetSysctl(ctx context.Context, key, value string) (string, error) {
	before, err := m.Sysctl(ctx, key)
	if err != nil || before == value {
		return before, err
	}
	if !m.writes {
		return before, &provisioner.HostWriteError{What: fmt.Sprintf("sysctl %s=%s (now %s)", key, value, before)}
	}
	if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
		return before, fmt.Errorf("write host sysctl %s=%s: %w", key, value, err)
	}
	return before, nil
}

func sysctlPath(key string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
}
