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

// kind is one of the ways in which a cell's nodes are set up.
type kind struct {
	// name and where are those of its part.
	name, where string
	// index is that of the first such node.
	index int
}

// kinds are those of a topology. Servers differ from the first on, as they join
// it.
func kinds(t matrix.Topology) []kind {
	if t.Nodes() == 1 {
		return []kind{{"node", "in the node", 0}}
	}
	all := []kind{{"server", "in the server", 0}}
	if t.Servers > 1 {
		all = []kind{{"first-server", "in the first server", 0}, {"server", "in each other server", 1}}
	}
	if t.Agents > 0 {
		all = append(all, kind{"agent", "in each agent", t.Servers})
	}
	return all
}

// Steps are what made a cell's nodes pass in an attempt, for nodes whose names
// and addresses are told where they are. The knowledge is to hold the fixes that
// the attempt had.
func Steps(k *Knowledge, store *artifact.Store, c matrix.Cell, a matrix.Attempt, t matrix.Timeouts) (export.Steps, error) {
	fail := func(err error) (export.Steps, error) {
		return export.Steps{}, fmt.Errorf("export cell %s: %w", c.ID, err)
	}
	if len(a.Nodes) < c.Topology.Nodes() {
		return fail(fmt.Errorf("what its nodes are was not observed"))
	}
	release := artifact.Release{Distro: c.Distro.Name, Version: c.Distro.Version, Files: []artifact.File{{Images: store.Images(c.Distro.Name, c.Distro.Version)}}}
	distro, ok := Distro(release, c, t).(provisioner.Prepared)
	if !ok {
		return fail(fmt.Errorf("%s cannot tell what it writes", c.Distro.Name))
	}
	all := kinds(c.Topology)
	wants := make([]provisioner.Desired, len(all))
	for i, of := range all {
		role := c.Topology.Role(of.index)
		applied := slices.DeleteFunc(slices.Clone(a.Fixes), func(f matrix.AppliedFix) bool { return f.Role != "" && f.Role != role })
		var err error
		wants[i], err = Fixes{k.Fixes}.Desired(applied, cell.NodeContext{Name: export.NodeName, Address: export.NodeAddress,
			Network: provisioner.Network{Gateway: export.Gateway}, Host: a.Host})
		if err != nil {
			return fail(err)
		}
	}
	steps := export.Derive(c, a.Host, wants...)
	for i, of := range all {
		place := provisioner.Place{Name: export.NodeName, Address: export.NodeAddress,
			Containerd: "containerd " + a.Nodes[of.index].Containerd, Role: c.Topology.Role(of.index)}
		if of.index > 0 {
			place.Invitation = export.Invitation(place.Role)
		}
		preparation, err := distro.Prepare(place, wants[i])
		if err != nil {
			return fail(fmt.Errorf("what is done %s: %w", of.where, err))
		}
		steps.Add(of.name, of.where, wants[i], preparation)
	}
	return steps, nil
}
