package matrix

import (
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
	// RestartAgentsAway: the agents are stopped for 90 seconds: the control plane
	// finds them unreachable, and does not evict their pods yet.
	RestartAgentsAway Restart = "agents-away"
	// RestartAgentsGone: the agents are stopped for seven minutes, and their pods
	// are evicted.
	RestartAgentsGone Restart = "agents-gone"
)

// RestartInfo is what there is to know of a restart.
type RestartInfo struct {
	Restart Restart
	// Happens and Recovers are its phases.
	Happens, Recovers Phase
	// Starts: every node starts anew, with another boot ID. Every cell has these.
	Starts bool
	// Away is how long the agents are stopped. With any, only cells with agents
	// have it.
	Away time.Duration
}

// Restarts lists every restart, in the order in which a cell has them.
func Restarts() []RestartInfo {
	return []RestartInfo{
		{Restart: RestartGraceful, Happens: PhaseRestart, Recovers: PhaseRecover, Starts: true},
		{Restart: RestartForced, Happens: PhaseForcedRestart, Recovers: PhaseForcedRecover, Starts: true},
		{Restart: RestartService, Happens: "service-restart", Recovers: "service-recover"},
		// The node lifecycle controller waits 50 s for a node's lease
		// (node-monitor-grace-period), and pods tolerate its taint for 300 s.
		{Restart: RestartAgentsAway, Happens: "agents-away", Recovers: "agents-back", Away: 90 * time.Second},
		{Restart: RestartAgentsGone, Happens: "agents-gone", Recovers: "agents-returned", Away: 7 * time.Minute},
	}
}

// RestartsOf are the restarts that a cell has, in their order: a graceful and a
// forced one, which every cell has, and those that the matrix asks for.
func (c Cell) RestartsOf() []RestartInfo {
	return slices.DeleteFunc(Restarts(), func(r RestartInfo) bool {
		return !r.Starts && (!slices.Contains(c.Restarts, r.Restart) || r.Away > 0 && c.Topology.Agents == 0)
	})
}

// Phases are the cell's, in order.
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
	every := Cell{Topology: Topology{Servers: 1, Agents: 1}}
	for _, r := range Restarts() {
		every.Restarts = append(every.Restarts, r.Restart)
	}
	return every.Phases()
}

// Proves says whether a pass needs evidence from the phase. Collect and destroy
// belong to the harness and prove nothing about a cell.
func (p Phase) Proves() bool { return p != PhaseCollect && p != PhaseDestroy }
