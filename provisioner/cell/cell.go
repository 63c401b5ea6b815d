// Package cell takes one cell through its phases: create, fix, install,
// baseline, two for each restart, collect, destroy. It knows contracts only; what is behind them is chosen elsewhere.
package cell

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Host is what a cell needs of its host.
type Host interface {
	provisioner.Host
	// Reserve chooses a node's address before the node is there.
	Reserve(ctx context.Context, node string) (string, error)
	// Room makes sure that the nodes' pool takes that many bytes; a
	// *provisioner.NoSpaceError if not.
	Room(ctx context.Context, need int64) error
	// Find finds a node that a run made earlier, once nothing is being done with
	// it; there is false where there is none.
	Find(ctx context.Context, run, node string) (found provisioner.Node, there bool, err error)
}

// Fixes is the fix set.
type Fixes interface {
	// Decide says for each fix whether it applies, from what was observed so
	// far; node is nil before the first node is there. Fixes that the cell
	// leaves out are left-out.
	Decide(c matrix.Cell, host matrix.HostFacts, node *matrix.NodeFacts) ([]matrix.AppliedFix, error)
	// Desired merges the applied fixes into one node's state.
	Desired(applied []matrix.AppliedFix, node NodeContext) (provisioner.Desired, error)
	// Apply brings a node into that state.
	Apply(ctx context.Context, node provisioner.Node, want provisioner.Desired) error
	// Verify shows for each fix whether it is in effect after a phase.
	Verify(ctx context.Context, node provisioner.Node, want provisioner.Desired, after matrix.Phase) []matrix.Evidence
}

// NodeContext is what fixes may name of a node and its host.
type NodeContext struct {
	Name, Address string
	Network       provisioner.Network
	Host          matrix.HostFacts
}

// Health looks at a running cluster.
type Health interface {
	// Baseline runs every check until it is healthy or ctx ends. waited is the
	// time spent on the stability window.
	Baseline(ctx context.Context, cluster *provisioner.Cluster) (evidence []matrix.Evidence, waited time.Duration)
	// Mark writes what must survive a restart and records what must change.
	Mark(ctx context.Context, cluster *provisioner.Cluster) (Mark, error)
	// AfterRestart is Baseline with the proofs that the restart since mark
	// was real and lost nothing.
	AfterRestart(ctx context.Context, cluster *provisioner.Cluster, mark Mark) (evidence []matrix.Evidence, waited time.Duration)
	// AfterServices is Baseline with the proofs that nodes and containers ran on
	// since mark, whatever else was restarted, and that nothing was lost.
	AfterServices(ctx context.Context, cluster *provisioner.Cluster, mark Mark) (evidence []matrix.Evidence, waited time.Duration)
	// Away watches a cluster whose nodes of these names are stopped for as long as
	// away, and returns what the control plane made of it. It looks to the end,
	// whatever it sees.
	Away(ctx context.Context, cluster *provisioner.Cluster, nodes []string, away time.Duration) []matrix.Evidence
	// BeginRollout begins to roll out a Deployment whose pods the first server has,
	// and sees that it is under way: it takes its time, and is to complete in AfterAway
	// of the mark that it returns.
	BeginRollout(ctx context.Context, cluster *provisioner.Cluster, mark Mark) (Mark, []matrix.Evidence)
	// AfterAway is Baseline with the proofs that these nodes were restarted since
	// mark, that what Kubernetes had put on them is gone, and that nothing was lost.
	AfterAway(ctx context.Context, cluster *provisioner.Cluster, mark Mark, nodes []string) (evidence []matrix.Evidence, waited time.Duration)
	// Follow observes a cluster all the time from now on, while nodes of these
	// names, or the services of all nodes, are restarted. told ends that, and is
	// what was seen.
	Follow(ctx context.Context, cluster *provisioner.Cluster, mark Mark, nodes []string) (told func() matrix.Recovery)
	// Returned looks until nodes that were restarted since mark, by themselves,
	// are back in the cluster and all nodes' pods reach each other.
	Returned(ctx context.Context, cluster *provisioner.Cluster, mark Mark, nodes []string) []matrix.Evidence
}

// Services start what stands around clusters.
type Services interface {
	// Start starts a cell's services around nodes that have booted. name is a DNS
	// label of the cell's own that no node has. What was started is returned with
	// an error, too; it is removed once. evidence says what runs where.
	Start(ctx context.Context, c matrix.Cell, name string, nodes []provisioner.Node) (around Around, evidence []matrix.Evidence, err error)
}

// Around are services that run around one cluster.
type Around interface {
	// Steady looks until everything is well as the services see it, or ctx ends.
	Steady(ctx context.Context, cluster *provisioner.Cluster) []matrix.Evidence
	// Watch begins to watch a cluster that is about to be restarted; it goes on
	// after ctx has ended, until Seen or Remove.
	Watch(ctx context.Context, cluster *provisioner.Cluster) error
	// Seen is Steady with what was seen since Watch. fell: every node was to be
	// seen gone meanwhile.
	Seen(ctx context.Context, cluster *provisioner.Cluster, fell bool) ([]matrix.Evidence, []matrix.Traffic)
	// Remove ends the services.
	Remove(ctx context.Context) error
}

// Mark is what Health remembers from before a restart.
type Mark any

// HostLease holds a host's sysctls for as long as cells need them.
type HostLease interface {
	// Acquire waits for other needs to end, writes what is not there yet, and
	// returns what gives it back. satisfied: nothing had to be written.
	Acquire(ctx context.Context, sysctls map[string]string) (release func(context.Context) error, satisfied bool, err error)
}

// Hygiene shows what a cell leaves changed on its host.
type Hygiene interface {
	// Enter looks at the host before the cell's first node is there; leave
	// looks again, puts back what can be, and says what it found. kept: nodes
	// still run. Both happen while the cell holds the host's lease, and neither
	// fails: what could not be seen is said to be not observed.
	Enter(ctx context.Context, cell matrix.CellID) (leave func(ctx context.Context, kept bool) matrix.Hygiene)
}

// Doomed watches a node and returns once it shows a failure that it will not
// get over, with the line that says so; else with ctx's error.
type Doomed func(ctx context.Context, node provisioner.Node) (matrix.Diagnosis, error)

// Diagnose finds known causes in the logs that were kept of a cell.
type Diagnose func(ctx context.Context) ([]matrix.Diagnosis, error)

// KeepLog stores a log of a node for the report; it redacts.
type KeepLog func(node, name string, content []byte) error

// Stay is what is done with a cluster that passed its baseline, in the place of
// its restarts. The cell ends when it returns, and has no verdict: it did not go
// all its way.
type Stay func(ctx context.Context, lodging Lodging)

// Lodging is a cluster to stay with.
type Lodging struct {
	Cluster *provisioner.Cluster
	// Logs reads the logs of a node, by the names that they are kept under. What
	// cannot be had is told by the error, beside the others.
	Logs func(ctx context.Context, node provisioner.Node) (map[string][]byte, error)
}

// Keep says when a cell's nodes are left for a look.
type Keep string

// The ways to keep.
const (
	KeepNever     Keep = "never"
	KeepOnFailure Keep = "on-failure"
	KeepAlways    Keep = "always"
)

// Runner runs cells on one host.
type Runner struct {
	Host   Host
	Facts  matrix.HostFacts
	Distro provisioner.Distro
	Fixes  Fixes
	Health Health
	// Lease is nil where there is no way to the host's own system: what Facts
	// has of its sysctls is all that cells can have of them then.
	Lease    HostLease
	Hygiene  Hygiene
	Diagnose Diagnose
	// Services starts what cells ask for; nil where none can.
	Services Services
	// Doomed ends phases early, in which Kubernetes is to come up; nil lets them
	// take their time.
	Doomed  Doomed
	KeepLog KeepLog
	// Hear, if set, is told what nodes say as long as they are there.
	Hear Hear
	// Stay, if set, takes the place of what follows the baseline.
	Stay     Stay
	Keep     Keep
	Limits   matrix.NodeLimits
	Timeouts matrix.Timeouts
	// Images are the prepared images' fingerprints, by the OS of the nodes.
	Images map[matrix.OS]string
	// Provenance of the distribution's files.
	Provenance string
	// Owner keys for every node.
	Owner map[string]string
	Clock provisioner.Clock
}

// run is one attempt in flight.
type run struct {
	*Runner
	cell    matrix.Cell
	changed func(matrix.Attempt)
	attempt matrix.Attempt
	names   []string
	nodes   []provisioner.Node
	wants   []provisioner.Desired
	// addresses are reserved before the nodes are there.
	addresses []string
	cluster   *provisioner.Cluster
	mark      Mark
	// told ends the observation of a restart, and says what was seen.
	told    func() matrix.Recovery
	release func(context.Context) error
	// around is nil where the cell asks for no services.
	around Around
	// leave is nil as long as the cell has nothing on the host.
	leave func(ctx context.Context, kept bool) matrix.Hygiene
}

// step is one phase: its name, its deadline, whose fault it is when the
// deadline passes, and what is done.
type step struct {
	phase   matrix.Phase
	timeout matrix.Duration
	late    matrix.Blame
	do      func(*run, context.Context, *matrix.PhaseResult) error
	// before, if set, is done first and outside the deadline: it waits for
	// other cells.
	before func(*run, context.Context) error
	// watched: Kubernetes is to come up, and may be seen to be doomed.
	watched bool
}

// steps in order. The cell's way is this table.
func (r *Runner) steps(c matrix.Cell) []step {
	limits, t := r.Timeouts, c.Topology
	// Servers that start at once share the host's CPUs, and an API server that
	// finds too few of etcd's members ends: kubelet starts it again after up to
	// five minutes. The stability window begins when all else is healthy; the rest
	// is for the last answers, and the looks after it.
	checked := matrix.Duration(t.Servers)*limits.Recover + limits.Stability + matrix.Duration(20*time.Second)
	// Servers are installed one after another, and all agents at once.
	installs := matrix.Duration(len(turns(t)))
	steps := []step{
		{phase: matrix.PhaseCreate, timeout: limits.Create, late: matrix.BlameWorld, do: surrounded((*run).create), before: (*run).admit},
		{phase: matrix.PhaseFix, timeout: limits.Fix, late: matrix.BlameNode, do: (*run).fix},
		{phase: matrix.PhaseInstall, timeout: installs * limits.Install, late: matrix.BlameNode, do: (*run).install, watched: true},
		{phase: matrix.PhaseBaseline, timeout: checked, late: matrix.BlameNode, do: steady(looking((*run).baseline)), watched: true},
	}
	agents := span{t.Servers, t.Nodes()}
	for _, info := range c.RestartsOf() {
		happens := step{phase: info.Happens, timeout: limits.Restart, late: matrix.BlameNode}
		recovers := step{phase: info.Recovers, timeout: checked, late: matrix.BlameNode, watched: true}
		switch info.Restart {
		case matrix.RestartGraceful:
			happens.do, recovers.do = restart(provisioner.Node.Restart), looking((*run).afterRestart)
			if t.Nodes() > 1 {
				happens.timeout, happens.do = inTurns(turns(t), limits)
			}
		case matrix.RestartForced:
			happens.do, recovers.do = restart(provisioner.Node.ForceRestart), looking((*run).afterRestart)
		case matrix.RestartSoak:
			happens.do, recovers.do = restart(provisioner.Node.Restart), looking((*run).afterRestart)
		case matrix.RestartService:
			happens.do, recovers.do = (*run).restartServices, looking((*run).afterServices)
		case matrix.RestartDaemon:
			happens.late = matrix.BlameWorld
			happens.do, recovers.do = (*run).restartDaemon, looking((*run).afterServices)
		case matrix.RestartAgents:
			happens.timeout, happens.do = inTurns(singly(agents), limits)
			recovers.do = looking(afterSome(agents))
		case matrix.RestartRollout:
			happens.do, recovers.do = (*run).restartDuringRollout, looking(afterSome(firstServer))
		default:
			happens.timeout += limits.Restart + matrix.Duration(info.Away)
			happens.do, recovers.do = agentsAway(info.Away), looking(afterSome(agents))
		}
		happens.do, recovers.do = watching(happens.do), seen(recovers.do, info.Starts)
		for range info.Times {
			steps = append(steps, happens, recovers)
		}
	}
	return steps
}

// span is some of a cell's nodes: from an index to before another.
type span struct{ from, to int }

// firstServer is the node that has the pods of what is rolled out.
var firstServer = span{0, 1}

// singly are the nodes of a span, each by itself.
func singly(s span) (each []span) {
	for i := s.from; i < s.to; i++ {
		each = append(each, span{i, i + 1})
	}
	return each
}

// turns are the nodes of a topology that may be gone at one time without the
// cluster losing what it can lose: all agents, each server by itself.
func turns(t matrix.Topology) []span {
	var all []span
	if t.Agents > 0 {
		all = append(all, span{t.Servers, t.Nodes()})
	}
	return append(all, singly(span{0, t.Servers})...)
}

// Run takes a cell through one attempt. changed is called after every phase
// with all that is known by then; the attempt it gets is its own. Nodes are
// removed at the end, also when ctx ends, unless they are to be kept. A ctx
// that ends by a *provisioner.HostEndedError is the world's doing, any other an
// interruption.
func (r *Runner) Run(ctx context.Context, c matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt {
	x := r.begin(c, attempt, changed)
	x.attempt = matrix.Attempt{Started: r.Clock.Now(), Host: r.Facts, Provenance: r.Provenance}
	passed, quiet := true, func() {}
	for _, s := range r.steps(c) {
		if passed = x.phase(ctx, s); !passed {
			break
		}
		if s.phase == matrix.PhaseCreate {
			quiet = x.listen(ctx)
		}
		if s.phase == matrix.PhaseBaseline && r.Stay != nil {
			r.Stay(ctx, Lodging{Cluster: x.cluster, Logs: x.logs})
			break
		}
	}
	x.told() // where a restart was not gone through
	x.collect(ctx, passed)
	quiet()
	x.destroy(ctx, passed)
	return x.end()
}

// begin is an attempt of which nothing is known yet but its nodes' names.
func (r *Runner) begin(c matrix.Cell, attempt int, changed func(matrix.Attempt)) *run {
	x := &run{Runner: r, cell: c, changed: changed, release: func(context.Context) error { return nil },
		told: func() matrix.Recovery { return matrix.Recovery{} }}
	for n := range c.Topology.Nodes() {
		x.names = append(x.names, NodeName(c, r.Owner["run"], attempt, n))
	}
	return x
}

// end is the attempt's.
func (x *run) end() matrix.Attempt {
	x.attempt.Ended, x.attempt.Soak = x.Clock.Now(), soaked(x.attempt.Phases)
	x.report()
	return x.attempt
}

// TakeUp ends an attempt of which begun is what is known, and whose process is
// gone. Where its verdict was decided, the logs are kept and the nodes removed, as
// that process would have done. Where it was not, or where it failed and the
// nodes that could tell why are gone, the attempt was interrupted, and what there
// is of its nodes is removed: what it had of the cluster was in its memory alone.
// An attempt that left nothing, and of which nothing is known, has no phases.
func (r *Runner) TakeUp(ctx context.Context, c matrix.Cell, attempt int, begun matrix.Attempt, changed func(matrix.Attempt)) (matrix.Attempt, error) {
	x := r.begin(c, attempt, changed)
	x.attempt = begun
	finding, cancel := context.WithTimeout(ctx, r.Timeouts.Create.Std())
	defer cancel()
	left, err := x.find(finding)
	if err != nil {
		return begun, fmt.Errorf("take up attempt %d of cell %s: %w", attempt, c.ID, err)
	}
	if len(begun.Phases) == 0 {
		if left == 0 {
			return begun, nil
		}
		x.attempt.Started, x.attempt.Host, x.attempt.Provenance = r.Clock.Now(), r.Facts, r.Provenance
	}
	if x.attempt.Hygiene == nil && (left > 0 || len(begun.Nodes) > 0) {
		x.attempt.Hygiene = &matrix.Hygiene{NotObserved: "the process that looked at the host before the cell ended"}
	}
	decided, passed, in := begun.Proof(c)
	gone := in == matrix.PhaseCollect && left < len(x.names)
	switch {
	case !decided, gone && !passed:
		x.attempt = x.attempt.CutShort(c, r.Clock.Now())
	case gone:
		x.finish(matrix.PhaseResult{Phase: in, Started: r.Clock.Now(), Blame: matrix.BlameWorld,
			Error: fmt.Sprintf("%d of %d nodes were gone when the run went on", len(x.names)-left, len(x.names))})
	case in == matrix.PhaseCollect:
		x.collect(ctx, passed)
	}
	if _, destroyed := x.attempt.Phase(matrix.PhaseDestroy); !destroyed {
		x.destroy(ctx, passed)
	}
	return x.end(), nil
}

// find finds the attempt's nodes that are there, and counts them.
func (x *run) find(ctx context.Context) (left int, err error) {
	x.nodes = make([]provisioner.Node, len(x.names))
	for i, name := range x.names {
		node, there, err := x.Host.Find(ctx, x.Owner["run"], name)
		if err != nil {
			return left, err
		}
		if there {
			x.nodes[i] = node
			left++
		}
	}
	return left, nil
}

// soaked is how long the cluster took to recover from the restarts in a row.
func soaked(phases []matrix.PhaseResult) []matrix.Figure {
	var all []matrix.Recovery
	for _, r := range matrix.Restarts() {
		for _, p := range phases {
			if r.Restart == matrix.RestartSoak && p.Phase == r.Recovers && p.Recovery != nil {
				all = append(all, *p.Recovery)
			}
		}
	}
	return matrix.Recoveries(all)
}

// NodeName is a node's name: a DNS label that says what it is, with a hash
// that makes it unique over runs and attempts.
func NodeName(c matrix.Cell, runID string, attempt, index int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", runID, c.ID, attempt))
	role, place := c.Topology.Role(index), fmt.Sprintf("s%d", index+1)
	if role == matrix.RoleAgent {
		place = fmt.Sprintf("a%d", index-c.Topology.Servers+1)
	}
	return strings.ToLower(strings.NewReplacer(".", "", "/", "-").Replace(fmt.Sprintf("%s-%s-%s-%s", c.Distro, c.OSOf(role), hex.EncodeToString(sum[:3]), place)))
}

// phase runs one step and reports it; false means that the cell ends here.
func (x *run) phase(ctx context.Context, s step) bool {
	result := matrix.PhaseResult{Phase: s.phase, Started: x.Clock.Now()}
	err := context.Cause(ctx)
	if err == nil && s.before != nil {
		err = s.before(x, ctx)
		result.Started = x.Clock.Now()
	}
	if err == nil {
		within, cancel := context.WithTimeout(ctx, s.timeout.Std())
		watched, leave := x.watch(within, s.watched)
		err = s.do(x, watched, &result)
		leave()
		var doomed *doomedError
		if errors.As(context.Cause(watched), &doomed) {
			if err != nil || matrix.JudgePhase(result).Verdict != matrix.Pass {
				err, result.Blame = doomed, matrix.BlameNode
			}
		} else if err != nil && within.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%s did not end within %s: %w", s.phase, s.timeout, err)
			result.Blame = s.late
		}
		cancel()
		// What a check saw last when it was cut short is no finding.
		if err == nil && ctx.Err() != nil && matrix.JudgePhase(result).Verdict != matrix.Pass {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		result.Error = err.Error()
		var ended *provisioner.HostEndedError
		switch {
		case errors.As(context.Cause(ctx), &ended):
			result.Error, result.Blame = ended.Error(), matrix.BlameWorld
		case ctx.Err() != nil:
			result.Blame = matrix.BlameInterrupt
			if cause := context.Cause(ctx); !errors.Is(err, cause) {
				result.Error = fmt.Sprintf("%v: %v", cause, err)
			}
		case provisioner.IsNodes(err):
			result.Blame = matrix.BlameNode
		case result.Blame == matrix.BlameNone:
			result.Blame = matrix.BlameWorld
		}
	}
	if matrix.JudgePhase(result).Verdict == matrix.Fail {
		x.blamePool(ctx, &result)
	}
	x.finish(result)
	return matrix.JudgePhase(result).Verdict == matrix.Pass
}

// doomedError is a phase that was ended early.
type doomedError struct {
	node string
	saw  matrix.Diagnosis
}

// Error names the signature and the line.
func (e *doomedError) Error() string {
	return fmt.Sprintf("ended early, as node %s shows %s again and again: %s: %s", e.node, e.saw.Signature, e.saw.Log, e.saw.Line)
}

// watch is a context that also ends once a node is doomed, by a *doomedError;
// leave ends the watching, and waits for it.
func (x *run) watch(ctx context.Context, wanted bool) (watched context.Context, leave func()) {
	if x.Doomed == nil || !wanted {
		return ctx, func() {}
	}
	watched, cancel := context.WithCancelCause(ctx)
	var wait sync.WaitGroup
	x.everyNodeOf(&wait, func(_ int, node provisioner.Node) {
		if saw, err := x.Doomed(watched, node); err == nil {
			cancel(&doomedError{node.Name(), saw})
		}
	})
	return watched, func() {
		cancel(nil)
		wait.Wait()
	}
}

// leastRoom is what a pool has free where nodes can still write.
const leastRoom = 64 << 20

// roomPatience is how long the look at the pool may take.
const roomPatience = 10 * time.Second

// blamePool blames the host for a failed phase where nodes had no room left to
// write: what they do then says nothing about them.
func (x *run) blamePool(ctx context.Context, result *matrix.PhaseResult) {
	looking, cancel := context.WithTimeout(ctx, roomPatience)
	defer cancel()
	var full *provisioner.NoSpaceError
	if !errors.As(x.Host.Room(looking, leastRoom), &full) {
		return
	}
	failed := matrix.JudgePhase(*result).Reason
	result.Blame, result.Error = matrix.BlameWorld, fmt.Sprintf("%v; %s failed on it: %s", full, result.Phase, failed)
}

func (x *run) finish(result matrix.PhaseResult) {
	result.Duration = matrix.Duration(x.Clock.Now().Sub(result.Started))
	x.attempt.Phases = append(x.attempt.Phases, result)
	x.report()
}

// report hands out a copy: the receiver reads it while the run goes on.
func (x *run) report() {
	a := x.attempt
	a.Phases = append([]matrix.PhaseResult(nil), a.Phases...)
	a.Nodes = append([]matrix.NodeFacts(nil), a.Nodes...)
	a.Fixes = append([]matrix.AppliedFix(nil), a.Fixes...)
	a.Repairs = append([]string(nil), a.Repairs...)
	for i := range a.Nodes {
		a.Nodes[i].BootIDs = append([]string(nil), a.Nodes[i].BootIDs...)
	}
	x.changed(a)
}

// admit decides on the fixes by what the host showed, and takes the host's
// lease for them.
func (x *run) admit(ctx context.Context) error {
	x.wants = make([]provisioner.Desired, len(x.names))
	x.addresses = make([]string, len(x.names))
	// Only the wait for others has no deadline.
	within, cancel := context.WithTimeout(ctx, x.Timeouts.Create.Std())
	defer cancel()
	decided := make([][]matrix.AppliedFix, len(x.names))
	for i, name := range x.names {
		var err error
		if x.addresses[i], err = x.Host.Reserve(within, name); err != nil {
			return err
		}
		if decided[i], err = x.Fixes.Decide(x.cell.As(x.cell.Topology.Role(i)), x.Facts, nil); err != nil {
			return err
		}
		if x.wants[i], err = x.Fixes.Desired(decided[i], x.nodeContext(i)); err != nil {
			return err
		}
	}
	x.attempt.Fixes = x.byRole(decided)
	if err := x.hasSources(within); err != nil {
		return err
	}
	want, err := hostState(x.wants)
	if err != nil {
		return err
	}
	if x.Lease == nil {
		if err := x.hasAlready(want); err != nil {
			return err
		}
		x.satisfied(want)
	} else {
		release, satisfied, err := x.Lease.Acquire(ctx, want.Sysctls)
		if err != nil {
			return err
		}
		x.release = release
		if satisfied {
			x.satisfied(want)
		}
	}
	// What the lease changed is the harness's doing; what differs from now on
	// until it is given back is not.
	looking, cancel := context.WithTimeout(ctx, x.Timeouts.Create.Std())
	defer cancel()
	x.leave = x.Hygiene.Enter(looking, x.cell.ID)
	return nil
}

// hasSources sees that the host has the files and folders that its nodes are to
// be shown, as far as there is a way to look; a *provisioner.UnavailableError
// names those that it has not.
func (x *run) hasSources(ctx context.Context) error {
	disks := map[string]string{}
	for _, want := range x.wants {
		for name, device := range want.Incus.Devices {
			if device["type"] == "disk" && strings.HasPrefix(device["source"], "/") {
				disks[device["source"]] = name
			}
		}
	}
	if len(disks) == 0 || x.Host.Exec() == nil {
		return nil
	}
	out, err := x.Host.Exec().Run(ctx, provisioner.Command{Args: append([]string{"sh", "-c", `for f; do [ -e "$f" ] || echo "$f"; done`, "sources"},
		slices.Sorted(maps.Keys(disks))...)})
	if err != nil {
		return fmt.Errorf("look for what nodes are shown of the host: %w", err)
	}
	var lacking, tried []string
	for source := range strings.Lines(out.Stdout) {
		source = strings.TrimSpace(source)
		lacking, tried = append(lacking, disks[source]), append(tried, "the host has no "+source)
	}
	if len(lacking) == 0 {
		return nil
	}
	return &provisioner.UnavailableError{What: "what nodes are to be shown by the device " + strings.Join(lacking, ", "), Tried: tried}
}

// byRole is what was decided for each node, in one list: where servers and
// agents differ, a fix is there once for each of both.
func (x *run) byRole(decided [][]matrix.AppliedFix) []matrix.AppliedFix {
	servers, agents := decided[0], decided[len(decided)-1]
	var all []matrix.AppliedFix
	for i, f := range servers {
		if i < len(agents) && agents[i].ID == f.ID && agents[i].State != f.State {
			other := agents[i]
			f.Role, other.Role = matrix.RoleServer, matrix.RoleAgent
			all = append(all, f, other)
			continue
		}
		all = append(all, f)
	}
	return all
}

// hostState is what all nodes want of the host together.
func hostState(wants []provisioner.Desired) (provisioner.HostState, error) {
	all := provisioner.HostState{Sysctls: map[string]string{}}
	for _, want := range wants {
		for key, value := range want.Host.Sysctls {
			if other, there := all.Sysctls[key]; there && other != value {
				return all, fmt.Errorf("the fixes want the host's %s to be %s for some nodes and %s for others", key, other, value)
			}
			all.Sysctls[key] = value
		}
		for _, id := range want.Host.Fixes {
			if !slices.Contains(all.Fixes, id) {
				all.Fixes = append(all.Fixes, id)
			}
		}
	}
	return all, nil
}

// hasAlready says by the observed sysctls that a host which cannot be changed
// has what is wanted of it; a *provisioner.HostExecError names what it has not.
func (x *run) hasAlready(want provisioner.HostState) error {
	var lacking []string
	for _, key := range slices.Sorted(maps.Keys(want.Sysctls)) {
		switch has, observed := x.Facts.Sysctls[key]; {
		case !observed:
			lacking = append(lacking, fmt.Sprintf("%s=%s (not observed)", key, want.Sysctls[key]))
		case has != want.Sysctls[key]:
			lacking = append(lacking, fmt.Sprintf("%s=%s (it is %s)", key, want.Sysctls[key], has))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return &provisioner.HostExecError{What: fmt.Sprintf("set the host's sysctls %s for %s", strings.Join(lacking, ", "), strings.Join(want.Fixes, ", "))}
}

func (x *run) nodeContext(i int) NodeContext {
	return NodeContext{Name: x.names[i], Address: x.addresses[i], Network: x.Host.Network(), Host: x.Facts}
}

// create creates all nodes and waits until they have booted.
func (x *run) create(ctx context.Context, result *matrix.PhaseResult) error {
	x.nodes = make([]provisioner.Node, len(x.names))
	x.attempt.Nodes = make([]matrix.NodeFacts, len(x.names))
	for i, name := range x.names {
		x.attempt.Nodes[i].Node = name
	}
	boots := make([]matrix.Evidence, len(x.names))
	group, gctx := errgroup.WithContext(ctx)
	for i := range x.names {
		group.Go(func() error {
			owner := maps.Clone(x.Owner)
			owner["cell"], owner["node"] = string(x.cell.ID), fmt.Sprint(i)
			node, err := x.Host.CreateNode(gctx, provisioner.NodeSpec{Name: x.names[i], Image: x.Images[x.cell.OSOf(x.cell.Topology.Role(i))],
				Address: x.addresses[i], Owner: owner, Limits: x.Limits, Incus: x.wants[i].Incus})
			x.nodes[i] = node
			if err != nil {
				return err
			}
			boots[i], err = x.boot(gctx, node)
			if err != nil {
				return err
			}
			return x.observe(gctx, i, node)
		})
	}
	err := group.Wait()
	result.Evidence = append(result.Evidence, present(boots)...)
	return err
}

// satisfied marks the fixes whose host effects were there already: leaving
// them out on this host would prove nothing.
func (x *run) satisfied(want provisioner.HostState) {
	for i, f := range x.attempt.Fixes {
		if f.State == "applied" && slices.Contains(want.Fixes, f.ID) {
			x.attempt.Fixes[i].State = "satisfied"
		}
	}
}

// fix decides again with what the nodes showed, applies and verifies.
func (x *run) fix(ctx context.Context, result *matrix.PhaseResult) error {
	satisfied := map[string]bool{}
	for _, f := range x.attempt.Fixes {
		satisfied[f.ID] = satisfied[f.ID] || f.State == "satisfied"
	}
	decided := make([][]matrix.AppliedFix, len(x.nodes))
	for i, node := range x.nodes {
		applied, err := x.Fixes.Decide(x.cell.As(x.cell.Topology.Role(i)), x.Facts, &x.attempt.Nodes[i])
		if err != nil {
			return err
		}
		for k := range applied {
			if applied[k].State == "undecided" {
				return fmt.Errorf("fix %s on node %s: %s", applied[k].ID, node.Name(), applied[k].Why)
			}
		}
		want, err := x.Fixes.Desired(applied, x.nodeContext(i))
		if err != nil {
			return err
		}
		// These were used up when the node was created.
		if !reflect.DeepEqual(want.Incus, x.wants[i].Incus) || !reflect.DeepEqual(want.Host, x.wants[i].Host) {
			return fmt.Errorf("fix node %s: what it showed asks for another Incus configuration or other host sysctls than it was created with: such a fix may only depend on what is known of the host", node.Name())
		}
		x.wants[i] = want
		for k := range applied {
			if satisfied[applied[k].ID] && applied[k].State == "applied" {
				applied[k].State = "satisfied"
			}
		}
		decided[i] = applied
	}
	x.attempt.Fixes = x.byRole(decided)
	err := x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		if err := x.Fixes.Apply(ctx, node, x.wants[i]); err != nil {
			return nil, err
		}
		return x.Fixes.Verify(ctx, node, x.wants[i], matrix.PhaseFix), nil
	})
	if err == nil && !slices.ContainsFunc(x.wants, showsNow) {
		result.Evidence = append(result.Evidence, matrix.Evidence{Check: "fixes", Outcome: matrix.Healthy, Saw: "no fix is in effect that would show by now"})
	}
	return err
}

// showsNow says whether what is wanted of a node has fixes that can be seen
// right after they were applied.
func showsNow(want provisioner.Desired) bool {
	return slices.ContainsFunc(want.Verify, func(v provisioner.Verification) bool { return v.After == matrix.PhaseFix })
}

// install configures every node at once, starts the first server, and joins
// the others: servers one by one, as etcd takes its members, then all agents.
func (x *run) install(ctx context.Context, result *matrix.PhaseResult) error {
	err := x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		return nil, x.Distro.Configure(ctx, node, x.wants[i])
	})
	if err != nil {
		return err
	}
	first := x.nodes[0]
	started := x.Clock.Now()
	kubeconfig, err := x.Distro.Init(ctx, first, x.wants[0])
	if err != nil {
		return err
	}
	result.Evidence = append(result.Evidence, done("init", first.Name(), "the first server was initialised", x.Clock.Now().Sub(started)))
	if reduced, ok := x.Distro.(provisioner.Reduced); ok {
		for _, line := range reduced.LeftOut() {
			result.Evidence = append(result.Evidence, matrix.Evidence{Check: "left-out", Outcome: matrix.Healthy, Saw: line})
		}
	}
	servers := x.cell.Topology.Servers
	for i := 1; i < servers; i++ {
		if err := x.join(ctx, result, i, i+1); err != nil {
			return err
		}
	}
	if err := x.join(ctx, result, servers, len(x.nodes)); err != nil {
		return err
	}
	if len(x.nodes) > 1 {
		if err := x.Distro.Connect(ctx, x.nodes); err != nil {
			return err
		}
	}
	x.cluster = &provisioner.Cluster{Cell: x.cell, Host: x.Host, Nodes: x.nodes, Kubeconfig: kubeconfig, Sysctls: sysctls(x.wants)}
	return x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		return x.Fixes.Verify(ctx, node, x.wants[i], matrix.PhaseInstall), x.observeRuntime(ctx, i, node)
	})
}

// sysctls are those that are set for any of the nodes.
func sysctls(wants []provisioner.Desired) []string {
	all := map[string]bool{}
	for _, want := range wants {
		for _, values := range []map[string]string{want.Host.Sysctls, want.Node.Sysctls} {
			for key := range values {
				all[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// join joins the nodes from one index to before another at once; the servers
// before them are the members.
func (x *run) join(ctx context.Context, result *matrix.PhaseResult, from, to int) error {
	members := x.nodes[:from:from]
	return x.nodesAt(ctx, result, from, to, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		started := x.Clock.Now()
		role := x.cell.Topology.Role(i)
		if err := x.Distro.Join(ctx, members, node, role, x.wants[i]); err != nil {
			return nil, err
		}
		return []matrix.Evidence{done("join", node.Name(), "joined as "+string(role), x.Clock.Now().Sub(started))}, nil
	})
}

// looking is a phase of health's checks, and of what is seen in the nodes of a
// cluster that runs.
func looking(checks func(*run, context.Context) ([]matrix.Evidence, time.Duration)) func(*run, context.Context, *matrix.PhaseResult) error {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		evidence, waited := checks(x, ctx)
		result.Evidence, result.Waited = evidence, matrix.Duration(waited)
		if result.Phase != matrix.PhaseBaseline {
			result.Recovery = new(x.told())
		}
		if err := x.verifyRunning(ctx, result); err != nil {
			return err
		}
		return x.readRepairs(ctx)
	}
}

func (x *run) baseline(ctx context.Context) ([]matrix.Evidence, time.Duration) {
	return x.Health.Baseline(ctx, x.cluster)
}

func (x *run) afterRestart(ctx context.Context) ([]matrix.Evidence, time.Duration) {
	return x.Health.AfterRestart(ctx, x.cluster, x.mark)
}

func (x *run) afterServices(ctx context.Context) ([]matrix.Evidence, time.Duration) {
	return x.Health.AfterServices(ctx, x.cluster, x.mark)
}

// afterSome is the look after some nodes alone were away.
func afterSome(s span) func(*run, context.Context) ([]matrix.Evidence, time.Duration) {
	return func(x *run, ctx context.Context) ([]matrix.Evidence, time.Duration) {
		return x.Health.AfterAway(ctx, x.cluster, x.mark, x.names[s.from:s.to])
	}
}

// verifyRunning verifies the fixes that only a running cluster can show; the
// others were seen right after they were applied, or the node restarted.
func (x *run) verifyRunning(ctx context.Context, result *matrix.PhaseResult) error {
	return x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		late := x.wants[i]
		late.Verify = slices.DeleteFunc(slices.Clone(late.Verify), func(v provisioner.Verification) bool { return v.After != matrix.PhaseBaseline })
		if len(late.Verify) == 0 {
			return nil, nil
		}
		return x.Fixes.Verify(ctx, node, late, matrix.PhaseBaseline), nil
	})
}

// restart marks the cluster, restarts every node at once, and shows by the boot
// IDs that it happened and by the fixes' verification that they survived it.
func restart(do func(provisioner.Node, context.Context) error) func(*run, context.Context, *matrix.PhaseResult) error {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		if err := x.takeMark(ctx, x.names); err != nil {
			return err
		}
		return x.restartNodes(ctx, result, span{0, len(x.nodes)}, do)
	}
}

// inTurns is a graceful restart of a cluster with several nodes, as its operator
// would do it: the nodes of each turn once those before are back and the nodes'
// pods reach each other.
func inTurns(turns []span, limits matrix.Timeouts) (matrix.Duration, does) {
	return matrix.Duration(len(turns)) * (limits.Restart + limits.Recover), func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		return x.restartInTurns(ctx, result, turns)
	}
}

func (x *run) restartInTurns(ctx context.Context, result *matrix.PhaseResult, turns []span) error {
	var restarted []string
	for _, turn := range turns {
		restarted = append(restarted, x.names[turn.from:turn.to]...)
	}
	if err := x.takeMark(ctx, restarted); err != nil {
		return err
	}
	for _, turn := range turns {
		within, cancel := context.WithTimeout(ctx, x.Timeouts.Restart.Std())
		err := x.restartNodes(within, result, turn, provisioner.Node.Restart)
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("one turn of %s did not end within %s: %w", result.Phase, x.Timeouts.Restart, err)
			result.Blame = matrix.BlameNode
		}
		cancel()
		if err != nil {
			return err
		}
		within, cancel = context.WithTimeout(ctx, x.Timeouts.Recover.Std())
		seen := x.Health.Returned(within, x.cluster, x.mark, x.names[turn.from:turn.to])
		cancel()
		result.Evidence = append(result.Evidence, seen...)
		if !healthy(seen) {
			return nil // which the evidence says, and decides
		}
	}
	return nil
}

// restartDuringRollout restarts the first server while a Deployment is being rolled
// out that has its pods there.
func (x *run) restartDuringRollout(ctx context.Context, result *matrix.PhaseResult) error {
	if err := x.takeMark(ctx, x.names[firstServer.from:firstServer.to]); err != nil {
		return err
	}
	var begun []matrix.Evidence
	x.mark, begun = x.Health.BeginRollout(ctx, x.cluster, x.mark)
	result.Evidence = append(result.Evidence, begun...)
	if !healthy(begun) {
		return nil // which the evidence says, and decides
	}
	return x.restartNodes(ctx, result, firstServer, provisioner.Node.Restart)
}

// takeMark marks the cluster, and has it observed from then on: the nodes of these
// names are to be restarted.
func (x *run) takeMark(ctx context.Context, restarted []string) (err error) {
	if x.mark, err = x.Health.Mark(ctx, x.cluster); err != nil {
		return fmt.Errorf("mark the cluster before the restart: %w", err)
	}
	// It goes on in the next phase, until told.
	x.told = sync.OnceValue(x.Health.Follow(context.WithoutCancel(ctx), x.cluster, x.mark, restarted))
	return nil
}

func (x *run) restartNodes(ctx context.Context, result *matrix.PhaseResult, turn span, do func(provisioner.Node, context.Context) error) error {
	return x.nodesAt(ctx, result, turn.from, turn.to, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		started := x.Clock.Now()
		if err := do(node, ctx); err != nil {
			return nil, err
		}
		what := "stopped and started"
		if len(x.nodes) > 1 {
			what = fmt.Sprintf("stopped at %s, with %d of %d nodes, and started", started.UTC().Format(time.TimeOnly), turn.to-turn.from, len(x.nodes))
		}
		return x.started(ctx, i, node, done("restarted", node.Name(), what, x.Clock.Now().Sub(started)))
	})
}

// started waits for the boot of a node that was started again, and shows by its
// boot ID that it was, and that the fixes survived it. What is Kubernetes on it
// may need the other nodes to be ready, as servers of k3s and RKE2 do, and has
// its own time to recover.
func (x *run) started(ctx context.Context, i int, node provisioner.Node, evidence ...matrix.Evidence) ([]matrix.Evidence, error) {
	boot, err := x.boot(ctx, node, x.Distro.Services(x.cell.Topology.Role(i))...)
	if err != nil {
		return evidence, err
	}
	if err := x.observe(ctx, i, node); err != nil {
		return append(evidence, boot), err
	}
	evidence = append(evidence, boot, bootIDs(node.Name(), x.attempt.Nodes[i].BootIDs))
	return append(evidence, x.Fixes.Verify(ctx, node, x.wants[i], matrix.PhaseInstall)...), nil
}

// restartServices restarts what is Kubernetes on every node, and shows by the
// invocations that it happened.
func (x *run) restartServices(ctx context.Context, result *matrix.PhaseResult) error {
	if err := x.takeMark(ctx, nil); err != nil {
		return err
	}
	return x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		units := x.Distro.Services(x.cell.Topology.Role(i))
		began := x.Clock.Now()
		before, err := invocations(ctx, node, units)
		if err != nil {
			return nil, err
		}
		if _, err := node.Exec(ctx, provisioner.Command{Args: append([]string{"systemctl", "restart"}, units...)}); err != nil {
			return nil, fmt.Errorf("restart %s on node %s: %w", strings.Join(units, ", "), node.Name(), err)
		}
		after, err := invocations(ctx, node, units)
		if err != nil {
			return nil, err
		}
		evidence := done("service-restarted", node.Name(), fmt.Sprintf("%s: invocations %s, before %s", strings.Join(units, ", "), strings.Join(after, " "), strings.Join(before, " ")),
			x.Clock.Now().Sub(began))
		for k := range units {
			if after[k] == "" || after[k] == before[k] {
				evidence.Outcome, evidence.Want = matrix.Unhealthy, "another invocation of each"
			}
		}
		return []matrix.Evidence{evidence}, nil
	})
}

// daemonOwner is a host whose Incus daemon may be one of the harness's own.
type daemonOwner interface {
	// RestartDaemon restarts it, and tells the process IDs of before and after.
	RestartDaemon(ctx context.Context) (was, is int, err error)
}

// restartDaemon restarts the host's Incus daemon, and shows by the boot IDs, which
// it asks the new one for, that no node was restarted.
func (x *run) restartDaemon(ctx context.Context, result *matrix.PhaseResult) error {
	host, ok := x.Host.(daemonOwner)
	if !ok {
		return &provisioner.UnavailableError{What: "a restart of the Incus daemon", Tried: []string{"the host has no way to do it"}}
	}
	if err := x.takeMark(ctx, nil); err != nil {
		return err
	}
	began := x.Clock.Now()
	was, is, err := host.RestartDaemon(ctx)
	if err != nil {
		return err
	}
	e := done("daemon-restarted", "", fmt.Sprintf("process %d ended, and process %d answers", was, is), x.Clock.Now().Sub(began))
	if was == is {
		e.Outcome, e.Want = matrix.Undecided, "another process"
	}
	result.Evidence = append(result.Evidence, e)
	return x.eachNode(ctx, result, func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
		_, boot, err := look(ctx, node)
		if err != nil {
			return nil, err
		}
		e := matrix.Evidence{Check: "boot-id", Node: node.Name(), Outcome: matrix.Healthy, Saw: "boot ID " + boot + " as before"}
		if ids := x.attempt.Nodes[i].BootIDs; boot != ids[len(ids)-1] {
			e.Outcome, e.Saw, e.Want = matrix.Unhealthy, "boot ID "+boot, "boot ID "+ids[len(ids)-1]+": the node was restarted"
		}
		return []matrix.Evidence{e}, nil
	})
}

// invocations are the IDs of the runs that units are in, by systemd.exec(5).
func invocations(ctx context.Context, node provisioner.Node, units []string) ([]string, error) {
	out, err := node.Exec(ctx, provisioner.Command{Args: append([]string{"sh", "-ec",
		`for unit; do echo "$(systemctl show --property InvocationID --value "$unit")"; done`, "invocations"}, units...)})
	if err != nil {
		return nil, fmt.Errorf("read the invocations of %s on node %s: %w", strings.Join(units, ", "), node.Name(), err)
	}
	ids := strings.Split(strings.TrimSuffix(out.Stdout, "\n"), "\n")
	if len(ids) != len(units) {
		return nil, &provisioner.NodeError{Node: node.Name(), Action: "read the invocations of services of",
			Err: fmt.Errorf("%d units, and it printed %q", len(units), out.Stdout)}
	}
	return ids, nil
}

// agentsAway stops all agents, has health watch what the control plane makes of
// it, and starts them.
func agentsAway(away time.Duration) func(*run, context.Context, *matrix.PhaseResult) error {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		servers := x.cell.Topology.Servers
		if err := x.takeMark(ctx, x.names[servers:]); err != nil {
			return err
		}
		err := x.nodesAt(ctx, result, servers, len(x.nodes), func(ctx context.Context, _ int, node provisioner.Node) ([]matrix.Evidence, error) {
			within, cancel := context.WithTimeout(ctx, x.Timeouts.Restart.Std())
			defer cancel()
			began := x.Clock.Now()
			if err := node.Stop(within); err != nil {
				return nil, err
			}
			return []matrix.Evidence{done("stopped", node.Name(), "stopped", x.Clock.Now().Sub(began))}, nil
		})
		if err != nil {
			return err
		}
		result.Evidence = append(result.Evidence, x.Health.Away(ctx, x.cluster, x.names[servers:], away)...)
		return x.nodesAt(ctx, result, servers, len(x.nodes), func(ctx context.Context, i int, node provisioner.Node) ([]matrix.Evidence, error) {
			began := x.Clock.Now()
			if err := node.Start(ctx); err != nil {
				return nil, err
			}
			return x.started(ctx, i, node, done("restarted", node.Name(), "started", x.Clock.Now().Sub(began)))
		})
	}
}

// bootIDs shows that the last start was a new one.
func bootIDs(node string, ids []string) matrix.Evidence {
	e := matrix.Evidence{Check: "boot-id", Node: node, Outcome: matrix.Healthy}
	last := ids[len(ids)-1]
	e.Saw = "new boot ID " + last
	for _, earlier := range ids[:len(ids)-1] {
		if earlier == last {
			e.Outcome, e.Saw, e.Want = matrix.Unhealthy, "boot ID "+last+" again", "a new one: the node did not restart"
		}
	}
	return e
}

// eachNode works on all nodes at once and keeps the evidence in their order.
func (x *run) eachNode(ctx context.Context, result *matrix.PhaseResult, do func(context.Context, int, provisioner.Node) ([]matrix.Evidence, error)) error {
	return x.nodesAt(ctx, result, 0, len(x.nodes), do)
}

// nodesAt is eachNode for the nodes from one index to before another.
func (x *run) nodesAt(ctx context.Context, result *matrix.PhaseResult, from, to int, do func(context.Context, int, provisioner.Node) ([]matrix.Evidence, error)) error {
	evidence := make([][]matrix.Evidence, len(x.nodes))
	group, gctx := errgroup.WithContext(ctx)
	for i := from; i < to; i++ {
		group.Go(func() (err error) {
			evidence[i], err = do(gctx, i, x.nodes[i])
			return err
		})
	}
	err := group.Wait()
	for _, e := range evidence {
		result.Evidence = append(result.Evidence, e...)
	}
	return err
}

func done(check, node, what string, took time.Duration) matrix.Evidence {
	return matrix.Evidence{Check: check, Node: node, Outcome: matrix.Healthy,
		Saw: fmt.Sprintf("%s in %s", what, took.Round(10*time.Millisecond)), Took: matrix.Duration(took)}
}

func present(all []matrix.Evidence) (some []matrix.Evidence) {
	for _, e := range all {
		if e.Check != "" {
			some = append(some, e)
		}
	}
	return some
}

// The teardown of an interrupted run is bounded by 30 seconds in all, 5 of them
// for a node that is just being created.
const (
	collectPatience = 7 * time.Second
	destroyPatience = 13 * time.Second
	// releasePatience is beside that of destroy: nodes that do not go must not
	// leave the host's sysctls changed.
	releasePatience = 5 * time.Second
)

// patience is a context for tearing down: it outlives ctx, and is cut short
// where ctx has ended.
func patience(ctx context.Context, usual matrix.Duration, interrupted time.Duration) (context.Context, context.CancelFunc) {
	d := usual.Std()
	if ctx.Err() != nil {
		d = min(d, interrupted)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// collect keeps every log of every node, and diagnoses what failed. A log that
// cannot be had is told in the phase's error and stops nothing.
func (x *run) collect(ctx context.Context, passed bool) {
	result := matrix.PhaseResult{Phase: matrix.PhaseCollect, Started: x.Clock.Now()}
	interrupted := ctx.Err() != nil
	collecting, cancel := patience(ctx, x.Timeouts.Collect, collectPatience)
	defer cancel()
	kept := 0
	var errs []error
	keep := func(from, name string, content []byte) {
		if err := x.KeepLog(from, name, content); err != nil {
			errs = append(errs, err)
			return
		}
		kept++
	}
	logs := make([]map[string][]byte, len(x.nodes))
	failures := make([]error, len(x.nodes))
	x.everyNode(func(i int, node provisioner.Node) { logs[i], failures[i] = x.logs(collecting, node) })
	errs = append(errs, failures...)
	for i := range logs {
		for _, name := range slices.Sorted(maps.Keys(logs[i])) {
			keep(x.names[i], name, logs[i][name])
		}
	}
	if !passed && !interrupted {
		// What kubeadm itself said is a log like any other, and so is what checks
		// saw last.
		for _, p := range x.attempt.Phases {
			if said := Said(p); len(said) > 0 {
				keep("phases", string(p.Phase)+".log", said)
			}
		}
		// Logs that took all the time are still worth a look.
		diagnosing, cancel := patience(ctx, x.Timeouts.Collect, collectPatience)
		defer cancel()
		diagnoses, err := x.Diagnose(diagnosing)
		x.attempt.Diagnoses = diagnoses
		errs = append(errs, err)
	}
	x.ended(result, errs, "logs", fmt.Sprintf("%d logs kept", kept))
}

// Said is a phase's log: its error, and what checks saw that was not healthy. Each
// line begins with the time at which it was known, which is the phase's end. It
// is empty where all was well.
func Said(p matrix.PhaseResult) []byte {
	var said []string
	if p.Error != "" {
		said = append(said, p.Error)
	}
	for _, e := range p.Evidence {
		if e.Outcome != matrix.Healthy {
			said = append(said, e.String())
		}
	}
	if len(said) == 0 {
		return nil
	}
	ended := p.Started.Add(p.Duration.Std()).UTC().Format(time.RFC3339Nano) + " "
	return []byte(ended + strings.ReplaceAll(strings.Join(said, "\n"), "\n", "\n"+ended) + "\n")
}

// destroy removes the nodes, looks at what they left on the host, and gives
// the host's lease back.
func (x *run) destroy(ctx context.Context, passed bool) {
	result := matrix.PhaseResult{Phase: matrix.PhaseDestroy, Started: x.Clock.Now()}
	keep := ctx.Err() == nil && !x.attempt.Interrupted() && (x.Keep == KeepAlways || x.Keep == KeepOnFailure && !passed)
	errs := make([]error, len(x.nodes))
	removed := slices.DeleteFunc(slices.Clone(x.nodes), func(n provisioner.Node) bool { return n == nil })
	if keep && len(removed) > 0 {
		removed = nil
		x.attempt.Kept = fmt.Sprintf("enter it with: lxcmatrix shell %s; remove it with: lxcmatrix gc --yes", x.cell.ID)
	}
	removing, cancel := patience(ctx, x.Timeouts.Destroy, destroyPatience)
	if len(removed) > 0 {
		x.everyNode(func(i int, node provisioner.Node) { errs[i] = node.Delete(removing) })
	}
	if x.around != nil {
		// Nodes that are kept are kept without.
		errs = append(errs, x.around.Remove(removing))
	}
	if x.leave != nil {
		found := x.leave(removing, x.attempt.Kept != "" || errors.Join(errs...) != nil)
		x.attempt.Hygiene = &found
	}
	cancel()
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasePatience)
	defer cancel()
	errs = append(errs, x.release(releasing))
	x.ended(result, errs, "nodes", fmt.Sprintf("%d nodes removed", len(removed)))
}

// everyNode works on all nodes that are there at once.
func (x *run) everyNode(do func(i int, node provisioner.Node)) {
	var wait sync.WaitGroup
	x.everyNodeOf(&wait, do)
	wait.Wait()
}

// everyNodeOf is everyNode for who does not wait at once.
func (x *run) everyNodeOf(wait *sync.WaitGroup, do func(i int, node provisioner.Node)) {
	for i, node := range x.nodes {
		if node != nil {
			wait.Go(func() { do(i, node) })
		}
	}
}

// ended finishes a phase of the teardown.
func (x *run) ended(result matrix.PhaseResult, errs []error, check, what string) {
	if err := errors.Join(errs...); err != nil {
		result.Error, result.Blame = err.Error(), matrix.BlameWorld
	} else {
		result.Evidence = []matrix.Evidence{done(check, "", what, x.Clock.Now().Sub(result.Started))}
	}
	x.finish(result)
}
