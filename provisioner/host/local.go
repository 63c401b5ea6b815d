package host

import (
	"context"
	"fmt"

	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// LocalOptions says how the system's own Incus is used.
type LocalOptions struct {
	// Socket is the daemon's Unix socket; empty means Incus' default.
	Socket string
	// Pool and Bridge name what is there; empty chooses.
	Pool, Bridge string
	// AllowHostWrites lets fixes change the machine's sysctls.
	AllowHostWrites bool
}

// OpenLocal uses the system's Incus, in a project of the harness's own. It
// starts and stops nothing, and touches nothing outside that project.
func OpenLocal(ctx context.Context, opts LocalOptions) (*Host, error) {
	server, err := incus.Connect(ctx, opts.Socket)
	if err != nil {
		return nil, fmt.Errorf("%w; is Incus installed and initialised (incus admin init)?", err)
	}
	if err := server.Use(ctx, opts.Pool, opts.Bridge); err != nil {
		return nil, fmt.Errorf("use the system's Incus: %w", err)
	}
	return newHost(ctx, server, thisMachine{}, opts.AllowHostWrites, func(context.Context) error {
		server.Disconnect()
		return nil
	})
}
