package host

import (
	"context"
	"fmt"
	"net"
	"path"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// machine is what an Incus server runs on, wherever that is.
type machine interface {
	// Run runs a command on it, as provisioner.HostExec wants it.
	Run(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error)
	// Dial connects to an address as the machine itself would: nodes are on a
	// bridge of its own.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// system is a machine's own system, as cells and leases use it.
type system struct {
	machine
	// writes says whether its sysctls may be changed.
	writes bool
}

var _ provisioner.HostExec = system{}

// Sysctl reads a sysctl of the machine.
func (s system) Sysctl(ctx context.Context, key string) (string, error) {
	out, err := s.Run(ctx, provisioner.Command{Args: []string{"cat", sysctlPath(key)}})
	if err != nil {
		return "", fmt.Errorf("read host sysctl %s: %w", key, err)
	}
	return strings.Join(strings.Fields(out.Stdout), " "), nil
}

// setSysctl prints a sysctl's value and writes another.
const setSysctl = `cat "$1" && printf '%s\n' "$2" > "$1"`

// SetSysctl writes a sysctl of the machine.
func (s system) SetSysctl(ctx context.Context, key, value string) (string, error) {
	if !s.writes {
		before, err := s.Sysctl(ctx, key)
		if err != nil || before == value {
			return before, err
		}
		return before, &provisioner.HostWriteError{What: fmt.Sprintf("sysctl %s=%s (now %s)", key, value, before)}
	}
	out, err := s.Run(ctx, provisioner.Command{Args: []string{"sh", "-c", setSysctl, "sysctl", sysctlPath(key), value}})
	before := strings.Join(strings.Fields(out.Stdout), " ")
	if err != nil {
		return before, fmt.Errorf("write host sysctl %s=%s: %w", key, value, err)
	}
	return before, nil
}

func sysctlPath(key string) string {
	return path.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
}
