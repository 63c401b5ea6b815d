package cell

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// localHost is a host of which only its own system can be reached, which is this
// one.
type localHost struct{ Host }

func (localHost) Exec() provisioner.HostExec { return localExec{} }

type localExec struct{ provisioner.HostExec }

func (localExec) Run(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	out, err := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...).Output()
	return provisioner.Output{Stdout: string(out)}, err
}

// noSystem is a host without a way to its own system.
type noSystem struct{ Host }

func (noSystem) Exec() provisioner.HostExec { return nil }

// TestDisksOfTheHost: a host that lacks what its nodes are to be shown is told
// with it, before a node is created.
func TestDisksOfTheHost(t *testing.T) {
	there := t.TempDir()
	missing := filepath.Join(there, "modules")
	wants := func(source string) []provisioner.Desired {
		return []provisioner.Desired{{Incus: provisioner.IncusConfig{Devices: map[string]map[string]string{
			"lib-modules": {"type": "disk", "source": source, "path": "/lib/modules"},
			"root":        {"type": "disk", "source": "volume", "pool": "nodes"},
			"kmsg":        {"type": "unix-char", "source": "/no/such/device"},
		}}}}
	}
	look := func(host Host, source string) error {
		return (&run{Runner: &Runner{Host: host}, wants: wants(source)}).hasSources(t.Context())
	}
	g := NewWithT(t)
	g.Expect(look(localHost{}, there)).To(Succeed())
	err := look(localHost{}, missing)
	var unavailable *provisioner.UnavailableError
	g.Expect(err).To(BeAssignableToTypeOf(unavailable))
	g.Expect(err).To(MatchError("what nodes are to be shown by the device lib-modules cannot be had: the host has no " + missing))
	g.Expect(provisioner.IsNodes(err)).To(BeFalse())
	g.Expect(look(noSystem{}, missing)).To(Succeed(), "where nobody can look, Incus will")
}
