package engine

import (
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

// What is expected where no earlier run tells, as seen on two cores. It only
// orders the cells and makes a guess of the whole, and bounds nothing.
const (
	// guessedCell is a cell of one node without its stability windows, and
	// guessedNode each further node.
	guessedCell = 110 * time.Second
	guessedNode = 30 * time.Second
	// windows are those after the baseline and both recoveries.
	windows = 3
	// emulated is how much slower a machine without KVM is; whether there is
	// KVM is known only when it boots, and what is thought longer starts
	// earlier, which costs least if it is wrong.
	emulated = 4
	// A machine boots; any other host is a daemon that starts, or is there.
	guessedBoot    = 45 * time.Second
	guessedOpening = 5 * time.Second
	guessedClosing = 5 * time.Second
)

// Expect says how long a run of the plan will take, by the scheduler's own
// decisions in simulated time.
func Expect(p matrix.Plan, past runfolder.History) matrix.Estimate {
	hosts := hostsOf(p)
	e := matrix.Estimate{Makespan: matrix.Duration(schedule.Makespan(toSchedule(p, hosts, past)))}
	for _, h := range hosts {
		for _, c := range h.cells {
			e.Cells++
			if _, known := past.Cells[c.ID]; known {
				e.Known++
			}
		}
	}
	return e
}

// Expected is how long each cell that is to run is expected to take, readying it
// not counted.
func Expected(p matrix.Plan, past runfolder.History) map[matrix.CellID]time.Duration {
	all := map[matrix.CellID]time.Duration{}
	for _, h := range toSchedule(p, hostsOf(p), past).Hosts {
		for _, c := range h.Cells {
			all[matrix.CellID(c.Name)] = c.Expected
		}
	}
	return all
}

// hostCells are a host and its cells to run.
type hostCells struct {
	ref   matrix.HostRef
	cells []matrix.Cell
}

// hostsOf groups the cells that are to run by their hosts, in the plan's order.
func hostsOf(p matrix.Plan) []hostCells {
	var hosts []hostCells
	place := map[matrix.HostRef]int{}
	for _, c := range p.Cells {
		if !c.Runs() {
			continue
		}
		i, there := place[c.Host]
		if !there {
			i = len(hosts)
			place[c.Host] = i
			hosts = append(hosts, hostCells{ref: c.Host})
		}
		hosts[i].cells = append(hosts[i].cells, c)
	}
	return hosts
}

// toSchedule says what hosts and cells claim and how long they are expected to
// take.
func toSchedule(p matrix.Plan, hosts []hostCells, past runfolder.History) schedule.Plan {
	s := schedule.Plan{Budget: schedule.Room{CPUs: p.Budget.CPUs, MemoryBytes: p.Budget.MemoryBytes}, Cells: p.Budget.Cells}
	for _, h := range hosts {
		host := schedule.Host{Name: h.ref.Name, Opening: guessedOpening, Closing: guessedClosing}
		slower := time.Duration(1)
		switch h.ref.Driver {
		case "qemu":
			// Two machines that emulate their CPUs on the same ones only slow
			// each other down: a machine claims its CPUs in full.
			host.Room.CPUs, host.Room.MemoryBytes = h.ref.QEMU.Size()
			host.Claim = schedule.Room{CPUs: host.Room.CPUs, MemoryBytes: host.Room.MemoryBytes + h.ref.QEMU.Overhead()}
			host.Own, host.Opening = true, guessedBoot
			if h.ref.QEMU.MayEmulate() {
				slower = emulated
			}
		case "remote":
			// What it has is observed when it is open; until then it is thought
			// to have as much as this machine.
			host.Own, host.Room = true, s.Budget
		}
		host.Opening = expected(past.Opening, h.ref.Name, host.Opening)
		host.Closing = expected(past.Closing, h.ref.Name, host.Closing)
		for _, c := range h.cells {
			// CPUs are shared, not given out: a node's limit is its share at the
			// most, and half of the time it waits, so that a cell of many nodes
			// takes all there are and no more. Memory is claimed in full.
			nodes, room := c.Topology.Nodes(), s.Budget
			if host.Own {
				room = host.Room
			}
			cpus := min(nodes, room.CPUs)
			if slower > 1 {
				// A machine that emulates its CPUs has none to share: two cells at once
				// run into Kubernetes' own time limits, and neither is done earlier.
				cpus = room.CPUs
			}
			claim := schedule.Room{CPUs: cpus, MemoryBytes: int64(nodes) * p.Budget.Node.MemoryBytes}
			if c.Alone() {
				claim = room
			}
			guess := slower*(guessedCell+time.Duration(nodes-1)*guessedNode) + windows*p.Timeouts.Stability.Std()
			host.Cells = append(host.Cells, schedule.Cell{Name: string(c.ID),
				Claim: claim, Expected: expected(past.Cells, c.ID, guess)})
		}
		s.Hosts = append(s.Hosts, host)
	}
	return s
}

func expected[K comparable](past map[K]time.Duration, key K, guess time.Duration) time.Duration {
	if seen, known := past[key]; known {
		return seen
	}
	return guess
}
