package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// followInterval is how exact the times of a recovery are, where looks are not slow
// themselves. A look costs the API server two lists.
const followInterval = 500 * time.Millisecond

// Follow looks at a cluster all the time from now on, while nodes of these names,
// or the services of all nodes, are restarted, until told to end: told is what it
// saw by then. It decides nothing, and asks the API alone.
func Follow(ctx context.Context, cluster *provisioner.Cluster, before Snapshot, restarted []string) (told func() matrix.Recovery) {
	ctx, cancel := context.WithCancel(quiet(ctx))
	f := follower{before: before, restarted: restarted, began: time.Now(), open: map[string]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.follow(ctx, cluster)
	}()
	return func() matrix.Recovery {
		cancel()
		<-ended
		return f.seen
	}
}

type follower struct {
	before    Snapshot
	restarted []string
	began     time.Time
	seen      matrix.Recovery
	// open are the taints that are there, as indexes of seen.Taints.
	open map[string]int
}

func (f *follower) follow(ctx context.Context, cluster *provisioner.Cluster) {
	s, err := newSession(cluster)
	if err != nil {
		return // nothing is to be seen, and the checks say why
	}
	defer s.close()
	for ctx.Err() == nil {
		began := time.Now()
		// Bounded more narrowly than a check's: what hangs is not there.
		within, cancel := context.WithTimeout(ctx, requestTimeout)
		f.look(within, s)
		cancel()
		pause(ctx, max(followInterval, min(2*time.Since(began), slowInterval)))
	}
}

// look notes what the cluster has.
func (f *follower) look(ctx context.Context, s *session) {
	body, err := s.api.raw(ctx, "/readyz", "")
	nodes, nodesErr := s.nodes(ctx)
	pods, podsErr := s.pods(ctx)
	if ctx.Err() == context.Canceled {
		return // cut short, it shows nothing
	}
	at := matrix.Duration(time.Since(f.began))
	note(&f.seen.API, at, err == nil && nodesErr == nil && podsErr == nil && strings.TrimSpace(string(body)) == "ok")
	note(&f.seen.Ready, at, nodesErr == nil && f.ready(s, nodes))
	note(&f.seen.Pods, at, nodesErr == nil && podsErr == nil && f.ready(s, nodes) && f.running(pods))
	if nodesErr == nil {
		f.taints(nodes, at)
	}
}

// note keeps since when something holds.
func note(since **matrix.Duration, at matrix.Duration, holds bool) {
	switch {
	case !holds:
		*since = nil
	case *since == nil:
		*since = &at
	}
}

// ready says whether every node is, those that are restarted by a report of their
// new start.
func (f *follower) ready(s *session, nodes map[string]corev1.Node) bool {
	return !slices.ContainsFunc(s.cluster.Nodes, func(n provisioner.Node) bool {
		api, there := nodes[n.Name()]
		old := slices.Contains(f.restarted, n.Name()) && api.Status.NodeInfo.BootID == f.before.Nodes[n.Name()].BootID
		return !there || old || !readiness(api).ok
	})
}

// running says whether every pod is Ready, with containers that are new where its
// node is restarted.
func (f *follower) running(pods []corev1.Pod) bool {
	return len(pods) > 0 && !slices.ContainsFunc(pods, func(p corev1.Pod) bool {
		if finishedJob(&p) {
			return false
		}
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		was := f.before.Nodes[p.Spec.NodeName].Containers
		return !ready || p.DeletionTimestamp != nil || slices.Contains(f.restarted, p.Spec.NodeName) &&
			slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return slices.Contains(was, c.ContainerID) })
	})
}

// taints notes those of Kubernetes' own that came and went.
func (f *follower) taints(nodes map[string]corev1.Node, at matrix.Duration) {
	there := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		for _, t := range nodes[name].Spec.Taints {
			if !setByKubernetes(t) {
				continue
			}
			taint := fmt.Sprintf("%s:%s", t.Key, t.Effect)
			key := name + " " + taint
			there[key] = true
			if _, known := f.open[key]; !known {
				f.open[key] = len(f.seen.Taints)
				f.seen.Taints = append(f.seen.Taints, matrix.TaintSeen{Node: name, Taint: taint, Seen: at})
			}
		}
	}
	for key, i := range f.open {
		if !there[key] {
			f.seen.Taints[i].Gone = &at
			delete(f.open, key)
		}
	}
}
