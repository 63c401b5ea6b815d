package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// OfCell is the matrix of one planned cell alone, as the plan froze it: at its exact
// version, with the plan's limits, timeouts and sources. What it gives was read back
// from its text. Fixes that were chosen, gates that are defied and restarts in a row
// are no part of a matrix, and a member of a remote cluster is one of the cells that it makes.
func OfCell(p matrix.Plan, c matrix.Cell) (*Matrix, error) {
	fail := func(err error) (*Matrix, error) {
		return nil, fmt.Errorf("write a matrix of cell %s: %w", c.ID, err)
	}
	want := c
	want.Gate, want.Unavailable, want.DefyGates, want.With, want.Without, want.Soak = nil, "", false, nil, nil, 0
	if want.Distro.Version != "" {
		want.Distro.Channel = ""
	}
	if member := want.Host.Remote.Member; member != "" {
		want.Host.Name, want.Host.Remote.Member = strings.TrimSuffix(want.Host.Name, "-"+member), ""
		want.ID = want.NewID()
	}

	h, b, t := want.Host, p.Budget, p.Timeouts
	m := &Matrix{APIVersion: APIVersion, File: "matrix.yaml",
		Hosts: []Host{{Name: h.Name, Driver: h.Driver, Cgroup: h.Cgroup, HostWrites: h.HostWrites,
			QEMUHost: QEMUHost{OS: h.QEMU.OS, Kernel: h.QEMU.Kernel, Initrd: h.QEMU.Initrd, Modules: h.QEMU.Modules, Incus: h.QEMU.Incus,
				CPUs: h.QEMU.CPUs, Memory: Size(h.QEMU.MemoryBytes), Disk: Size(h.QEMU.DiskBytes), Accel: h.QEMU.Accel},
			RemoteHost: RemoteHost{URL: h.Remote.URL, Remote: h.Remote.Name, Fingerprint: h.Remote.Fingerprint,
				ClientCert: h.Remote.ClientCert, ClientKey: h.Remote.ClientKey, Pool: h.Remote.Pool, Network: h.Remote.Network, SSH: h.Remote.SSH}}},
		Distros:    []Distro{{Name: want.Distro.Name, Version: want.Distro.Wanted(), Optional: want.Optional}},
		OS:         []OS{{Name: want.OS.Name}},
		Topologies: []Topology{Topology(want.Topology)},
		Variants:   []Variant{Variant(want.Variant())},
		Budget: Budget{CPUs: b.CPUs, Memory: Size(b.MemoryBytes), Disk: Size(b.DiskBytes), Cells: b.Cells,
			Node: NodeLimits{Memory: Size(b.Node.MemoryBytes), Processes: b.Node.Processes, CPUs: b.Node.CPUs}},
		Timeouts: Timeouts{Create: Duration(t.Create), Fix: Duration(t.Fix), Install: Duration(t.Install), Restart: Duration(t.Restart),
			Recover: Duration(t.Recover), Collect: Duration(t.Collect), Destroy: Duration(t.Destroy), Stability: Duration(t.Stability)},
		Sources: Sources{Mirror: p.Sources.Mirror}}
	if want.OS.Agents != "" {
		m.OS = []OS{{Servers: want.OS.Name, Agents: want.OS.Agents}}
	}
	for _, r := range want.Restarts {
		m.Restarts = append(m.Restarts, Restart(r))
	}
	for _, s := range p.Sources.Artifacts {
		m.Sources.Artifacts = append(m.Sources.Artifacts, ArtifactSource(s))
	}
	for _, s := range p.Sources.Images {
		m.Sources.Images = append(m.Sources.Images, ImageSource(s))
	}
	if e := want.Expect; e != nil {
		m.Expect = []Expect{{Selector: Selector{OS: want.OS.Written()}, Phase: FailingPhase(e.Phase), Signature: e.Signature, Issue: e.Issue}}
	}

	text, err := m.YAML()
	if err != nil {
		return fail(err)
	}
	machine, err := ThisMachine()
	if err != nil {
		return fail(err)
	}
	read, err := Parse(m.File, text, machine)
	if err != nil {
		return fail(err)
	}
	cells, err := read.Cells()
	if err != nil {
		return fail(err)
	}
	if len(cells) != 1 || !reflect.DeepEqual(cells[0], want) {
		return fail(fmt.Errorf("it would make %+v, the plan has %+v", cells, want))
	}
	return read, nil
}
