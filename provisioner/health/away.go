package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

const (
	// tolerated is how long pods stay on a node that cannot be reached: 300 s by
	// the toleration that the admission plugin DefaultTolerationSeconds gives them,
	// after the 40 or 50 s in which the node lifecycle controller finds out.
	tolerated = 350 * time.Second
	// mended is how long taints may stay on a node that is Ready again.
	mended = 30 * time.Second
)

// unreachable are the effects with which the node lifecycle controller taints a
// node that reports nothing.
var unreachable = [...]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}

// absence is what was seen of one node that is away.
type absence struct {
	// tainted is when each effect was first seen, evicted when the first pod was
	// on its way out; zero as long as it was not.
	tainted map[corev1.TaintEffect]time.Duration
	evicted time.Duration
	pods    int
}

// Away looks at a cluster whose nodes of these names were just stopped, until as
// much time as away has passed or ctx ends. Each must be tainted as unreachable
// by then, with both effects, and its pods be evicted if and only if away is
// longer than they tolerate that.
func Away(ctx context.Context, cluster *provisioner.Cluster, names []string, away time.Duration) []matrix.Evidence {
	ctx = quiet(ctx)
	const taintsCheck, podsCheck = "unreachable-taints", "evictions"
	s, err := newSession(cluster)
	if err != nil {
		return append(undecided(taintsCheck, err.Error(), 0), undecided(podsCheck, err.Error(), 0)...)
	}
	defer s.close()
	began := time.Now()
	seen := map[string]*absence{}
	for _, name := range names {
		seen[name] = &absence{tainted: map[corev1.TaintEffect]time.Duration{}}
	}
	var blind error
	var looked time.Duration
	for ctx.Err() == nil && time.Since(began) < away {
		if err := s.lookAtAbsent(ctx, seen, began); err == nil {
			looked = time.Since(began)
		} else if ctx.Err() == nil {
			blind = err
		}
		pause(ctx, pollInterval)
	}
	took := time.Since(began)
	var evidence []matrix.Evidence
	for _, name := range names {
		a := seen[name]
		taints := matrix.Evidence{Check: taintsCheck, Node: name, Outcome: matrix.Healthy, Took: matrix.Duration(took), Want: "NoSchedule and NoExecute"}
		var effects []string
		for _, effect := range unreachable {
			if at, there := a.tainted[effect]; there {
				effects = append(effects, fmt.Sprintf("%s after %s", effect, at.Round(time.Second)))
			} else {
				effects, taints.Outcome = append(effects, fmt.Sprintf("no %s in %s", effect, took.Round(time.Second))), matrix.Unhealthy
			}
		}
		taints.Saw = corev1.TaintNodeUnreachable + ": " + strings.Join(effects, ", ")
		pods := matrix.Evidence{Check: podsCheck, Node: name, Outcome: matrix.Healthy, Took: matrix.Duration(took)}
		switch {
		case away > tolerated:
			pods.Want = "its pods evicted"
		default:
			pods.Want = "no pod evicted"
		}
		pods.Saw = fmt.Sprintf("none of %d pods evicted in %s", a.pods, took.Round(time.Second))
		if a.evicted > 0 {
			pods.Saw = fmt.Sprintf("%d pods, evicted after %s", a.pods, a.evicted.Round(time.Second))
		}
		switch {
		case (a.evicted > 0) != (away > tolerated):
			pods.Outcome = matrix.Unhealthy
		case a.evicted == 0 && took-looked > lookTimeout:
			// That none was evicted shows only to who looked until the end.
			pods.Outcome, pods.Saw = matrix.Unhealthy, fmt.Sprintf("the API was last answering after %s of %s", looked.Round(time.Second), took.Round(time.Second))
		case a.pods == 0:
			pods.Outcome, pods.Saw = matrix.Undecided, "the node had no pod that could be evicted"
		}
		for _, e := range []*matrix.Evidence{&taints, &pods} {
			switch {
			case ctx.Err() != nil:
				e.Outcome, e.Saw = matrix.Undecided, fmt.Sprintf("%s; the look ended early: %v", e.Saw, context.Cause(ctx))
			case e.Outcome == matrix.Unhealthy && blind != nil:
				e.Saw += "; the last look that failed: " + shorten(blind.Error())
			}
			evidence = append(evidence, *e)
		}
	}
	return evidence
}

// lookAtAbsent looks once at nodes that are away since began.
func (s *session) lookAtAbsent(ctx context.Context, seen map[string]*absence, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	listed, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	pods, err := s.pods(ctx)
	if err != nil {
		return err
	}
	since := time.Since(began)
	for name, a := range seen {
		for _, t := range listed[name].Spec.Taints {
			if _, known := a.tainted[t.Effect]; t.Key == corev1.TaintNodeUnreachable && !known {
				a.tainted[t.Effect] = since
			}
		}
		a.pods = 0
		for _, p := range pods {
			// Pods of a DaemonSet and of files in the node tolerate it for ever.
			if p.Spec.NodeName != name || toleratesForEver(&p) {
				continue
			}
			a.pods++
			if p.DeletionTimestamp != nil && a.evicted == 0 {
				a.evicted = since
			}
		}
	}
	return nil
}

// toleratesForEver says whether a pod stays on a node that cannot be reached.
func toleratesForEver(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
		return t.TolerationSeconds == nil && t.ToleratesTaint(klog.Background(), &corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, false)
	})
}

// taintsMended: of the nodes named, each lost what Kubernetes tainted it with
// soon after it was Ready, and nobody but Kubernetes took it away.
func taintsMended(names []string) check {
	return check{name: "taints-mended", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			listed, err := s.nodes(ctx)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, name := range names {
				f := finding{node: name, want: fmt.Sprintf("no taint %s after it was Ready", mended)}
				node := listed[name]
				var left []string
				for _, t := range node.Spec.Taints {
					if setByKubernetes(t) {
						left = append(left, t.ToString())
					}
				}
				ready := readyAt(node)
				switch since := time.Since(ready); {
				case ready.IsZero():
					f.saw = readiness(node).saw
				case len(left) == 0:
					f.ok, f.saw = true, fmt.Sprintf("none, %s after it was Ready", since.Round(time.Second))
				default:
					f.saw, f.final = fmt.Sprintf("%s, %s after it was Ready", strings.Join(left, ", "), since.Round(time.Second)), since > mended
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// readyAt is when a node that is Ready became so, to the second; zero for others.
func readyAt(n corev1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// leaseGoesOn: kubelet of each node renews its lease anew, which what was written
// before cannot show.
func leaseGoesOn() check {
	return check{name: "lease-renewed", every: pollInterval, begin: func(s *session) look {
		first := map[string]time.Time{}
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				renewed, err := s.leaseTime(ctx, n.Name())
				if err != nil {
					return nil, err
				}
				was, known := first[n.Name()]
				if !known {
					first[n.Name()], was = renewed, renewed
				}
				f := finding{node: n.Name(), want: "renewed since the restart", ok: renewed.After(was)}
				if f.saw = "not renewed yet"; f.ok {
					f.saw = fmt.Sprintf("renewed %s later", renewed.Sub(was).Round(time.Millisecond))
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// ranOn: no node was restarted, and all containers of before still run.
func ranOn(before Snapshot) check {
	return check{name: "ran-on", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			pods, err := s.pods(ctx)
			if err != nil {
				return nil, err
			}
			running := map[string]bool{}
			for _, p := range pods {
				for _, c := range p.Status.ContainerStatuses {
					running[c.ContainerID] = c.State.Running != nil
				}
			}
			var findings []finding
			for _, n := range s.cluster.Nodes {
				was, err := before.of(n.Name())
				if err != nil {
					return nil, err
				}
				start, err := s.start(ctx, n)
				if err != nil {
					return nil, err
				}
				f := finding{node: n.Name(), want: "the start and the containers of before"}
				var gone []string
				for _, id := range was.Containers {
					if !running[id] {
						gone = append(gone, id)
					}
				}
				switch {
				case start.bootID != was.BootID:
					f.saw, f.final = fmt.Sprintf("the node was restarted: boot ID %s, before %s", start.bootID, was.BootID), true
				case len(was.Containers) == 0:
					return nil, &blindError{fmt.Errorf("which containers node %s had is not known", n.Name())}
				case len(gone) > 0:
					f.saw = fmt.Sprintf("%d of %d containers run no longer: %s", len(gone), len(was.Containers), strings.Join(gone, ", "))
				default:
					f.ok, f.saw = true, fmt.Sprintf("the same boot ID, and all %d containers of before", len(was.Containers))
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}
