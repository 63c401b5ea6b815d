package host

import (
	"context"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// ThisMachine is what is observed of the machine that tests run on.
func ThisMachine(ctx context.Context) (matrix.HostFacts, error) {
	return observe(ctx, thisMachine{}.Run)
}

// StartDaemon starts the daemon of an embedded host again, once it has ended.
func StartDaemon(ctx context.Context, stateDir string) error {
	_, d := embeddedParts(stateDir)
	server, err := d.start(ctx)
	if err != nil {
		return err
	}
	server.Disconnect()
	return nil
}
