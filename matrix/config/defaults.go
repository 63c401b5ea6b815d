package config

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// APIVersion is the version of matrix files that this program reads.
const APIVersion = "lxcmatrix.dev/v1"

// Limits that are checked beside those in the types' tags.
const (
	// leastNodeMemory is what k3s asks for; kubeadm wants more and says so.
	leastNodeMemory = 512 * mib
	leastDisk       = 1 * gib
	// A kubelet's CrashLoopBackOff waits 10, 20, 40 s: less than this looks
	// stable between two crashes.
	leastStability = Duration(30 * time.Second)
	mostCells      = 50_000
	// leastMachine and leastMachineDisk are what a qemu host's own system and
	// Incus daemon need.
	leastMachine     = 1 * gib
	leastMachineDisk = 2 * gib
	mostAliases      = 100
)

// Machine is what the default budget is a part of.
type Machine struct {
	CPUs   int
	Memory Size
}

// ThisMachine is the machine that the program runs on, as the Go runtime and
// /proc/meminfo see it.
func ThisMachine() (Machine, error) {
	const path = "/proc/meminfo"
	data, err := os.ReadFile(path)
	if err != nil {
		return Machine{}, fmt.Errorf("read this machine's memory: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" && fields[2] == "kB" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return Machine{}, fmt.Errorf("read this machine's memory: %s: %w", path, err)
			}
			return Machine{CPUs: runtime.NumCPU(), Memory: Size(kib * 1024)}, nil
		}
	}
	return Machine{}, fmt.Errorf("read this machine's memory: %s has no line MemTotal", path)
}

// setDefaults fills in everything that was not written, so that the effective
// matrix says all that a run goes by.
func (m *Matrix) setDefaults(machine Machine) {
	orDefault(&m.APIVersion, APIVersion)
	if m.Hosts == nil {
		m.Hosts = []Host{{Name: "embedded", Driver: "embedded"}}
	}
	if m.Topologies == nil {
		m.Topologies = []Topology{{Servers: 1}}
	}
	if m.Variants == nil {
		m.Variants = []Variant{matrix.NoVariant}
	}

	b := &m.Budget
	orDefault(&b.CPUs, max(machine.CPUs, 1))
	orDefault(&b.Memory, machine.Memory*3/4/mib*mib)
	orDefault(&b.Disk, 20*gib)
	orDefault(&b.Node.Memory, min(5*gib, m.roomForNodes()/Size(m.largest().Nodes())/mib*mib))
	orDefault(&b.Node.Processes, 4096)
	orDefault(&b.Node.CPUs, min(2, b.CPUs))

	for i := range m.Hosts {
		if h := &m.Hosts[i]; h.Driver == driverQEMU {
			orDefault(&h.Cgroup, "v2")
			// What the budget and the topologies say comes before what holds anywhere.
			orDefault(&h.CPUs, min(matrix.DefaultQEMUCPUs, b.CPUs))
			orDefault(&h.Memory, min(b.Node.Memory*Size(m.largest().Nodes())+leastMachine, b.Memory-Size(h.Ref().QEMU.Overhead())))
			q := h.Ref().QEMU.WithDefaults(h.Cgroup)
			h.OS, h.Kernel, h.Incus, h.Disk, h.Accel = q.OS, q.Kernel, q.Incus, Size(q.DiskBytes), q.Accel
		}
	}

	t := &m.Timeouts
	for _, d := range []struct {
		field    *Duration
		fallback time.Duration
	}{
		{&t.Create, 2 * time.Minute}, {&t.Fix, 2 * time.Minute}, {&t.Install, 6 * time.Minute},
		{&t.Restart, 2 * time.Minute}, {&t.Recover, 5 * time.Minute}, {&t.Collect, time.Minute},
		{&t.Destroy, time.Minute}, {&t.Stability, 30 * time.Second},
	} {
		orDefault(d.field, Duration(d.fallback))
	}

	if m.Sources.Artifacts == nil {
		m.Sources.Artifacts = []ArtifactSource{ArtifactCache, ArtifactMirror, ArtifactUpstream, ArtifactBuild}
	}
	if m.Sources.Images == nil {
		m.Sources.Images = []ImageSource{ImageServer, ImageMmdebstrap}
	}
}

// roomForNodes is the memory that is left of the budget on every host: a machine
// whose size nobody wrote needs some for itself and for QEMU.
func (m *Matrix) roomForNodes() Size {
	room := m.Budget.Memory
	for _, h := range m.Hosts {
		if h.Driver == driverQEMU && h.Memory == 0 {
			room = min(room, max(0, m.Budget.Memory-leastMachine-Size(h.Ref().QEMU.Overhead())))
		}
	}
	return room
}

func orDefault[T comparable](field *T, fallback T) {
	var zero T
	if *field == zero {
		*field = fallback
	}
}

// largest is the topology with the most nodes, those of include among them.
func (m *Matrix) largest() Topology {
	largest := Topology{Servers: 1}
	consider := func(t matrix.Topology) {
		if t.Nodes() > matrix.Topology(largest).Nodes() {
			largest = Topology(t)
		}
	}
	for _, t := range m.Topologies {
		consider(matrix.Topology(t))
	}
	for _, c := range m.Include {
		if t, err := matrix.ParseTopology(c.Topology); err == nil {
			consider(t)
		}
	}
	return largest
}

// Nodes is the number of nodes.
func (t Topology) Nodes() int { return matrix.Topology(t).Nodes() }

// PlanBudget is the budget as a plan holds it.
func (m *Matrix) PlanBudget() matrix.Budget {
	b := m.Budget
	return matrix.Budget{CPUs: b.CPUs, MemoryBytes: int64(b.Memory), DiskBytes: int64(b.Disk), Cells: b.Cells,
		Node: matrix.NodeLimits{MemoryBytes: int64(b.Node.Memory), Processes: b.Node.Processes, CPUs: b.Node.CPUs}}
}

// PlanTimeouts is the timeouts as a plan holds them.
func (m *Matrix) PlanTimeouts() matrix.Timeouts {
	t := m.Timeouts
	return matrix.Timeouts{Create: matrix.Duration(t.Create), Fix: matrix.Duration(t.Fix), Install: matrix.Duration(t.Install),
		Recover: matrix.Duration(t.Recover), Restart: matrix.Duration(t.Restart), Collect: matrix.Duration(t.Collect),
		Destroy: matrix.Duration(t.Destroy), Stability: matrix.Duration(t.Stability)}
}

// PlanSources is the sources as a plan holds them.
func (m *Matrix) PlanSources() matrix.Sources {
	s := matrix.Sources{Mirror: m.Sources.Mirror}
	for _, a := range m.Sources.Artifacts {
		s.Artifacts = append(s.Artifacts, string(a))
	}
	for _, i := range m.Sources.Images {
		s.Images = append(s.Images, string(i))
	}
	return s
}
