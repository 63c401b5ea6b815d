package matrix

import (
	"fmt"
	"slices"
	"time"
)

// Restart is a way in which nodes, or what runs in them, go away and come back.
// It is two phases of a cell: in the first it happens, and in the second the
// cluster must be healthy again.
type Restart string

// The restarts.
const (
	// RestartGraceful: nodes are asked to restart, in clusters of several in
	// turns, as their operator would do it.
	RestartGraceful Restart = "graceful"
	// RestartForced: all nodes are killed at once.
	RestartForced Restart = "forced"
	// RestartService: the services that are Kubernetes are restarted on all nodes
	// at once; no node is.
	RestartService Restart = "service"
	// RestartDaemon: the Incus daemon is restarted where the harness started it, and
	// nodes run on.
	RestartDaemon Restart = "daemon"
	// RestartAgents: each agent is asked to restart, in its turn.
	RestartAgents Restart = "agents"
	// RestartRollout: the first server, which has the pods of a Deployment that is
	// being rolled out, is asked to restart meanwhile.
	RestartRollout Restart = "rollout"
	// RestartAgentsAway: the agents are stopped for 90 seconds: the control plane
	// finds them unreachable, and does not evict their pods yet.
	RestartAgentsAway Restart = "agents-away"
	// RestartAgentsGone: the agents are stopped for seven minutes, and their pods
	// are evicted.
	RestartAgentsGone Restart = "agents-gone"
	// RestartSoak: all nodes are asked to restart at once, again and again, each
	// time after the cluster was healthy.
	RestartSoak Restart = "soak"
)

// RestartInfo is what there is to know of a restart.
type RestartInfo struct {
	Restart Restart
	// Happens and Recovers are its phases.
	Happens, Recovers Phase
	// Starts: every node starts anew, with another boot ID.
	Starts bool
	// Always: every cell has it.
	Always bool
	// Driver, if set, is that of the hosts on which it can be done.
	Driver string
	// Alone: nothing else may be done on the host meanwhile.
	Alone bool
	// Times is how often it happens in a cell that has it.
	Times int
	// Agents: only cells with agents have it.
	Agents bool
	// Away is how long the agents are stopped.
	Away time.Duration
}

// Restarts lists every restart, in the order in which a cell has them.
func Restarts() []RestartInfo {
	return []RestartInfo{
		{Restart: RestartGraceful, Happens: PhaseRestart, Recovers: PhaseRecover, Starts: true, Always: true, Times: 1},
		{Restart: RestartForced, Happens: PhaseForcedRestart, Recovers: PhaseForcedRecover, Starts: true, Always: true, Times: 1},
		{Restart: RestartService, Happens: "service-restart", Recovers: "service-recover", Times: 1},
		{Restart: RestartDaemon, Happens: "daemon-restart", Recovers: "daemon-recover", Driver: "embedded", Alone: true, Times: 1},
		{Restart: RestartAgents, Happens: "agents-restart", Recovers: "agents-recover", Agents: true, Times: 1},
		{Restart: RestartRollout, Happens: "rollout-restart", Recovers: "rollout-recover", Times: 1},
		// The node lifecycle controller waits 50 s for a node's lease
		// (node-monitor-grace-period), and pods tolerate its taint for 300 s.
		{Restart: RestartAgentsAway, Happens: "agents-away", Recovers: "agents-back", Agents: true, Away: 90 * time.Second, Times: 1},
		{Restart: RestartAgentsGone, Happens: "agents-gone", Recovers: "agents-returned", Agents: true, Away: 7 * time.Minute, Times: 1},
		{Restart: RestartSoak, Happens: "soak-restart", Recovers: "soak-recover", Starts: true},
	}
}

// RestartsOf are the restarts that a cell has, in their order: a graceful and a
// forced one, which every cell has, those that the matrix asks for, and those in a
// row.
func (c Cell) RestartsOf() (all []RestartInfo) {
	for _, r := range Restarts() {
		if r.Restart == RestartSoak {
			r.Times = c.Soak
		}
		asked := r.Always || r.Restart == RestartSoak || slices.Contains(c.Restarts, r.Restart)
		if asked && r.Times > 0 && (!r.Agents || c.Topology.Agents > 0) {
			all = append(all, r)
		}
	}
	return all
}

// Undoable says why a restart that the cell has cannot be done on its host; empty
// where all can.
func (c Cell) Undoable() string {
	for _, r := range c.RestartsOf() {
		if r.Driver != "" && c.Host.Driver != r.Driver {
			return fmt.Sprintf("restart %s cannot be done on host %s: it needs one with driver %s", r.Restart, c.Host.Name, r.Driver)
		}
	}
	return ""
}

// Alone says whether the cell needs its host for itself.
func (c Cell) Alone() bool {
	return slices.ContainsFunc(c.RestartsOf(), func(r RestartInfo) bool { return r.Alone })
}

// Course is the cell's proving phases in the order, and as often, as it goes
// through them.
func (c Cell) Course() []Phase {
	course := []Phase{PhaseCreate, PhaseFix, PhaseInstall, PhaseBaseline}
	for _, r := range c.RestartsOf() {
		for range r.Times {
			course = append(course, r.Happens, r.Recovers)
		}
	}
	return course
}

// times is how often the cell has a phase.
func (c Cell) times(p Phase) int {
	for _, r := range c.RestartsOf() {
		if p == r.Happens || p == r.Recovers {
			return r.Times
		}
	}
	return 1
}

// Phases are the cell's, in order, each once however often the cell has it.
func (c Cell) Phases() []Phase {
	phases := []Phase{PhaseCreate, PhaseFix, PhaseInstall, PhaseBaseline}
	for _, r := range c.RestartsOf() {
		phases = append(phases, r.Happens, r.Recovers)
	}
	return append(phases, PhaseCollect, PhaseDestroy)
}

// ProvingPhases are those of the cell that a pass needs evidence from.
func (c Cell) ProvingPhases() []Phase {
	return slices.DeleteFunc(c.Phases(), func(p Phase) bool { return !p.Proves() })
}

// Phases lists every phase that a cell may have, in order.
func Phases() []Phase {
	every := Cell{Topology: Topology{Servers: 1, Agents: 1}, Soak: 1}
	for _, r := range Restarts() {
		every.Restarts = append(every.Restarts, r.Restart)
	}
	return every.Phases()
}

// Proves says whether a pass needs evidence from the phase. Collect and destroy
// belong to the harness and prove nothing about a cell.
func (p Phase) Proves() bool { return p != PhaseCollect && p != PhaseDestroy }
