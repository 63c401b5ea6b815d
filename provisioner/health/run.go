package health

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// windowMargin is what the stability window's looks may take beyond it, and those
// after it.
const windowMargin = 20 * time.Second

// settleTime is how long what is looked at in the end may take to settle, and to be
// seen: a storm of events is over in 30 s, and to list the events of an emulated
// machine can take as long.
const settleTime = 2 * time.Minute

// Baseline is what must hold of a cluster that was just installed. It creates
// the probe workload.
func Baseline(timeouts matrix.Timeouts) []provisioner.Check {
	return append(append(cluster(nil, ""), restartStability(timeouts.Stability.Std())), afterwards()...)
}

// AfterRestart is what must hold after a restart of all nodes: everything that
// Baseline wants, seen anew, and the proofs that there was a restart and that
// nothing was lost.
func AfterRestart(before Snapshot, timeouts matrix.Timeouts) []provisioner.Check {
	proofs := []provisioner.Check{
		bootID(before), leaseRenewed(before), newSandboxes(before), sameMounts(before), sameSysctls(before), samePKI(before),
		objectSurvived(before), fileSurvived(before, &before), claimSurvived(before, &before),
		restartStability(timeouts.Stability.Std()),
	}
	return append(append(cluster(&before, ""), proofs...), afterwards()...)
}

// AfterServices is what must hold after what is Kubernetes, or what nodes run under,
// was restarted, and no node was: everything that Baseline wants, and the proofs that
// nodes and containers ran on, that kubelets report anew and nothing was lost.
func AfterServices(before Snapshot, timeouts matrix.Timeouts) []provisioner.Check {
	proofs := append([]provisioner.Check{ranOn(before), leaseGoesOn()}, kept(before)...)
	proofs = append(proofs, restartStability(timeouts.Stability.Std()))
	return append(append(cluster(nil, ""), proofs...), afterwards()...)
}

// AfterAway is what must hold after some of a cluster's nodes were away, be it for so
// long that Kubernetes tainted them: everything that Baseline wants, and the
// proofs that these nodes were restarted, that their taints went by themselves
// and nothing was lost. A rollout that was begun before must have completed.
func AfterAway(before Snapshot, nodes []string, timeouts matrix.Timeouts) []provisioner.Check {
	proofs := append([]provisioner.Check{nodesReturned(before, nodes), taintsMended(nodes)}, kept(before)...)
	proofs = append(proofs, restartStability(timeouts.Stability.Std()))
	return append(append(cluster(nil, before.Rolling), proofs...), afterwards()...)
}

// kept are the proofs that nothing was lost, where not every node was restarted.
func kept(before Snapshot) []provisioner.Check {
	return []provisioner.Check{sameMounts(before), sameSysctls(before), samePKI(before), objectSurvived(before), fileSurvived(before, nil), claimSurvived(before, nil)}
}

// Returned is what must hold after some of a cluster's nodes were restarted by
// themselves: they are back, and the pods of all nodes reach each other.
func Returned(before Snapshot, nodes []string) []provisioner.Check {
	// What came back to life shows by its answers; the others were not gone.
	return []provisioner.Check{nodesReturned(before, nodes), podToPod(nil)}
}

// cluster is what must hold at any time of a cluster. before is nil or what was
// there before a restart of all nodes, rolling the revision whose rollout was begun
// before, if any was.
func cluster(before *Snapshot, rolling string) []provisioner.Check {
	checks := []provisioner.Check{
		apiEndpoint("livez"), apiEndpoint("readyz"),
		nodesReady(before), taints(before), nodeFacts(before), systemPods(before), proxyHealth(), kernelMessages(), controlPlane(), leases(),
		workload(before), daemonSet(before), job(), rollout(before, rolling), execInPods(before), logsOfPods(before),
	}
	return append(checks, network(before)...)
}

// network are the checks of how pods and services reach each other, and how they
// are reached.
func network(before *Snapshot) []provisioner.Check {
	return []provisioner.Check{
		podToPod(before), podToPodUDP(before), dns(before),
		serviceClusterIP(before), serviceHeadless(before), serviceNodePort(before), hostPort(before),
	}
}

// afterwards is what must hold of any cluster at the end: nothing went wrong on
// the way that the cluster got over, or is not seen by Kubernetes.
func afterwards() []provisioner.Check {
	return []provisioner.Check{events(), units(), shims(), crashes(), resources(), kernelLog()}
}

// shared is a check that can share a session.
type shared interface {
	runIn(ctx context.Context, s *session) []matrix.Evidence
}

// RunAll runs checks side by side and returns their evidence in their order,
// without those that do not apply to such a cluster. Once all others are healthy
// the stability window begins; waited is how long it was. After it come the
// checks of what went wrong on the way. ctx's deadline holds for everything, and
// the others get what the window leaves of it, so it should be the phase's
// timeout and the window together.
func RunAll(ctx context.Context, cluster *provisioner.Cluster, checks []provisioner.Check) (evidence []matrix.Evidence, waited time.Duration) {
	ctx = quiet(ctx)
	s, err := newSession(cluster)
	if err != nil {
		for _, c := range checks {
			evidence = append(evidence, undecided(c.Name(), err.Error(), 0)...)
		}
		return evidence, 0
	}
	defer s.close()
	return s.runAll(ctx, checks)
}

// runAll is RunAll in a session.
func (s *session) runAll(ctx context.Context, checks []provisioner.Check) (evidence []matrix.Evidence, waited time.Duration) {
	checks = slices.DeleteFunc(slices.Clone(checks), func(c provisioner.Check) bool {
		own, ok := c.(check)
		return ok && own.applies != nil && !own.applies(s)
	})
	early, cancel := beforeWindows(ctx, checks)
	defer cancel()
	results := make([][]matrix.Evidence, len(checks))
	together := func(ctx context.Context, chosen func(provisioner.Check) bool) {
		var running sync.WaitGroup
		for i, c := range checks {
			if chosen(c) {
				running.Go(func() { results[i] = runOne(ctx, s, c) })
			}
		}
		running.Wait()
	}
	together(early, func(c provisioner.Check) bool { _, window := c.(stability); return !window && !isLate(c) })
	for i, c := range checks {
		window, ok := c.(stability)
		if !ok {
			continue
		}
		if wrong := firstUnhealthy(results); wrong != "" {
			results[i] = undecided(c.Name(), "the window did not begin, since "+wrong+" is not healthy", 0)
			continue
		}
		began := time.Now()
		results[i] = window.runIn(ctx, s)
		waited += time.Since(began)
	}
	wrong := firstUnhealthy(results)
	if wrong == "" {
		settling, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		together(settling, isLate)
	}
	for i, c := range checks {
		if wrong != "" && isLate(c) {
			results[i] = undecided(c.Name(), "it did not begin, since "+wrong+" is not healthy", 0)
		}
	}
	for _, es := range results {
		evidence = append(evidence, es...)
	}
	return evidence, waited
}

// firstUnhealthy is the first check that found something that is not healthy;
// empty where none did.
func firstUnhealthy(results [][]matrix.Evidence) string {
	for _, es := range results {
		for _, e := range es {
			if e.Outcome != matrix.Healthy {
				return e.Check
			}
		}
	}
	return ""
}

// isLate says whether a check looks once everything else was healthy.
func isLate(c provisioner.Check) bool {
	own, ok := c.(check)
	return ok && own.late
}

// beforeWindows leaves the stability windows their time before ctx's deadline.
func beforeWindows(ctx context.Context, checks []provisioner.Check) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	for _, c := range checks {
		if last, ok := c.(stability); ok {
			deadline = deadline.Add(-last.window)
			if left := time.Until(deadline); left > 2*windowMargin {
				deadline = deadline.Add(-windowMargin)
			}
		}
	}
	return context.WithDeadline(ctx, deadline)
}

// runOne runs a check and holds it to the contract: a check without evidence
// is undecided.
func runOne(ctx context.Context, s *session, c provisioner.Check) []matrix.Evidence {
	var evidence []matrix.Evidence
	if in, ok := c.(shared); ok {
		evidence = in.runIn(ctx, s)
	} else {
		evidence = c.Run(ctx, s.cluster)
	}
	if len(evidence) == 0 {
		return undecided(c.Name(), "the check returned no evidence", 0)
	}
	return evidence
}
