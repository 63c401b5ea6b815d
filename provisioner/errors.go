package provisioner

import (
	"errors"
	"fmt"
	"strings"
)

// CommandError is a command that ran in a node and failed.
type CommandError struct {
	Node    string
	Command []string
	Output  Output
}

// Error names the node, the command and the end of what it printed.
func (e *CommandError) Error() string {
	return fmt.Sprintf("run %q on node %s: %s", strings.Join(e.Command, " "), e.Node, e.Output.failure())
}

// HostCommandError is a command that ran on a host's own system and failed.
type HostCommandError struct {
	Command []string
	Output  Output
}

// Error names the command and the end of what it printed.
func (e *HostCommandError) Error() string {
	return fmt.Sprintf("run %q on the host: %s", strings.Join(e.Command, " "), e.Output.failure())
}

// failure is the exit code and the end of what was printed.
func (o Output) failure() string {
	tail := strings.TrimSpace(o.Stderr)
	if tail == "" {
		tail = strings.TrimSpace(o.Stdout)
	}
	const most = 2000
	if len(tail) > most {
		tail = "..." + tail[len(tail)-most:]
	}
	return fmt.Sprintf("exit code %d: %s", o.ExitCode, tail)
}

// NodeError is a failure that a node's own state or configuration causes, as
// a configuration that Incus refuses to start. Anything else that goes wrong
// around a node is the world's doing.
type NodeError struct {
	Node   string
	Action string
	Err    error
}

// Error says what was attempted on which node.
func (e *NodeError) Error() string { return fmt.Sprintf("%s node %s: %v", e.Action, e.Node, e.Err) }

// Unwrap is the cause.
func (e *NodeError) Unwrap() error { return e.Err }

// IsNodes says whether err is the node's doing and not the world's.
func IsNodes(err error) bool {
	var ce *CommandError
	var ne *NodeError
	return errors.As(err, &ce) || errors.As(err, &ne)
}

// HostEndedError is a host that ended by itself while its cells ran. It is the
// cause of a context that ended with the host, and the world's doing.
type HostEndedError struct {
	Host string
	// Err says how it ended; it may be nil.
	Err error
}

// Error names the host and how it ended.
func (e *HostEndedError) Error() string {
	s := fmt.Sprintf("host %s ended while its cells ran", e.Host)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is how it ended.
func (e *HostEndedError) Unwrap() error { return e.Err }

// NoSpaceError is a host's pool with too little room. Sizes are in bytes.
type NoSpaceError struct {
	Free, Need int64
}

// Error names both sizes and the remedy.
func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("the pool has %d MiB free and %d MiB are needed; make room with lxcmatrix gc --yes, or give the host more disk: budget.disk in the matrix is the embedded host's, disk that of a qemu host", e.Free>>20, e.Need>>20)
}

// UnavailableError is an input (an image, an artifact, a release) that cannot
// be had. Cells that need it are blocked.
type UnavailableError struct {
	What string
	// Tried lists each source and its answer.
	Tried []string
}

// Error names the input and every source's answer.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("%s cannot be had: %s", e.What, strings.Join(e.Tried, "; "))
}

// HostWriteError is a change of the host that the matrix does not allow. Cells
// that need it are blocked.
type HostWriteError struct {
	What string
}

// Error names the change and how to allow it.
func (e *HostWriteError) Error() string {
	return fmt.Sprintf("change the host's %s: not allowed; set it yourself, or write hostWrites: allow for this host in the matrix", e.What)
}

// HostExecError is something that only the way to a host's own system could
// bring about, where the host offers none. Cells that need it are blocked.
type HostExecError struct {
	What string
}

// Error names what is needed and how it can be had.
func (e *HostExecError) Error() string {
	return fmt.Sprintf("%s: there is no way to the host's own system; set it there yourself, or write ssh: USER@ADDRESS for this host in the matrix", e.What)
}

// Unavailable is true: who plans cells asks any error for it, without knowing
// this type.
func (e *UnavailableError) Unavailable() bool { return true }
