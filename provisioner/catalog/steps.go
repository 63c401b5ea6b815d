package catalog

import (
	"fmt"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/export"
)

// Steps are what made a cell's servers pass in an attempt, for a node whose name
// and addresses are told where it is. The knowledge is to hold the fixes that the
// attempt had.
func Steps(k *Knowledge, store *artifact.Store, c matrix.Cell, a matrix.Attempt, t matrix.Timeouts) (export.Steps, error) {
	fail := func(err error) (export.Steps, error) {
		return export.Steps{}, fmt.Errorf("export cell %s: %w", c.ID, err)
	}
	applied := slices.DeleteFunc(slices.Clone(a.Fixes), func(f matrix.AppliedFix) bool { return f.Role == matrix.RoleAgent })
	want, err := Fixes{k.Fixes}.Desired(applied, cell.NodeContext{Name: export.NodeName, Address: export.NodeAddress,
		Network: provisioner.Network{Gateway: export.Gateway}, Host: a.Host})
	if err != nil {
		return fail(err)
	}
	if len(a.Nodes) == 0 {
		return fail(fmt.Errorf("what its nodes are was not observed"))
	}
	release := artifact.Release{Distro: c.Distro.Name, Version: c.Distro.Version, Files: []artifact.File{{Images: store.Images(c.Distro.Name, c.Distro.Version)}}}
	distro, ok := Distro(release, c, t).(provisioner.Prepared)
	if !ok {
		return fail(fmt.Errorf("%s cannot tell what it writes", c.Distro.Name))
	}
	preparation, err := distro.Prepare(export.NodeName, export.NodeAddress, "containerd "+a.Nodes[0].Containerd, want)
	if err != nil {
		return fail(err)
	}
	return export.Derive(c, a.Host, want, preparation), nil
}
