package health

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// podProblem says why a pod is not Ready with containers of this start of its
// node; empty if it is.
func (s *session) podProblem(ctx context.Context, before *Snapshot, pod *corev1.Pod) (string, error) {
	switch {
	case pod.DeletionTimestamp != nil:
		return "terminating", nil
	case pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded:
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", pod.Status.Phase, pod.Status.Reason, shorten(pod.Status.Message))), nil
	}
	stale, err := s.stalePod(ctx, before, pod)
	if err != nil || stale != "" {
		return stale, err
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			switch w, t := c.State.Waiting, c.State.Terminated; {
			case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
				return strings.TrimSpace(fmt.Sprintf("%s %s %s", c.Name, w.Reason, shorten(w.Message))), nil
			case t != nil && t.ExitCode != 0:
				return fmt.Sprintf("%s ended with exit code %d, %s", c.Name, t.ExitCode, t.Reason), nil
			}
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			if c.Status == corev1.ConditionTrue {
				return "", nil
			}
			return strings.TrimSpace(fmt.Sprintf("%s, not Ready %s %s", pod.Status.Phase, c.Reason, shorten(c.Message))), nil
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return strings.TrimSpace(fmt.Sprintf("%s %s", c.Reason, shorten(c.Message))), nil
		}
	}
	return fmt.Sprintf("%s, not Ready", pod.Status.Phase), nil
}

// stalePod says why what the API tells of a pod is from before the restart;
// empty if it is not, or if there was none.
func (s *session) stalePod(ctx context.Context, before *Snapshot, pod *corev1.Pod) (string, error) {
	if before == nil {
		return "", nil
	}
	i := slices.IndexFunc(s.cluster.Nodes, func(n provisioner.Node) bool { return n.Name() == pod.Spec.NodeName })
	if i < 0 {
		if pod.Spec.NodeName == "" {
			return "not scheduled", nil
		}
		return fmt.Sprintf("on node %s, which is not the cluster's", pod.Spec.NodeName), nil
	}
	was, err := before.of(pod.Spec.NodeName)
	if err != nil {
		return "", err
	}
	start, err := s.start(ctx, s.cluster.Nodes[i])
	if err != nil {
		return "", err
	}
	if len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) || len(pod.Status.ContainerStatuses) == 0 {
		return "no containers reported", nil
	}
	for _, c := range pod.Status.ContainerStatuses {
		switch r := c.State.Running; {
		case c.ContainerID == "" || r == nil:
			// It does not run; what podProblem says of that tells more.
		case slices.Contains(was.Containers, c.ContainerID):
			return fmt.Sprintf("the API still shows container %s from before the restart", c.Name), nil
		case r.StartedAt.Time.Before(start.at):
			return fmt.Sprintf("container %s started at %s, before its node at %s", c.Name,
				r.StartedAt.UTC().Format(time.TimeOnly), start.at.UTC().Format(time.TimeOnly)), nil
		}
	}
	return "", nil
}

// systemNamespaces are those of the pods that make the cluster itself.
var systemNamespaces = [...]string{metav1.NamespaceSystem, "kube-flannel"}

// systemPods: every pod of the system's namespaces is Ready, and those that the
// distribution's clusters are made of are there.
func systemPods(before *Snapshot) check {
	return check{name: "system-pods", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			pods, err := s.pods(ctx)
			if err != nil {
				return nil, err
			}
			var wrong []string
			ready := map[string]bool{}
			dns, total := 0, 0
			for i := range pods {
				p := &pods[i]
				if !slices.Contains(systemNamespaces[:], p.Namespace) || finishedJob(p) {
					continue
				}
				total++
				problem, err := s.podProblem(ctx, before, p)
				if err != nil {
					return nil, err
				}
				if chart := p.Labels[chartLabel]; problem == "" && chart != "" {
					// More pods are to come of it.
					problem = "chart " + chart + " is being installed"
				}
				if problem != "" {
					wrong = append(wrong, p.Name+": "+problem)
					continue
				}
				ready[p.Name] = true
				for _, label := range s.expect.perNode {
					if hasLabel(p, label) {
						ready[label+" on "+p.Spec.NodeName] = true
					}
				}
				if hasLabel(p, s.expect.dns) {
					dns++
				}
			}
			var missing []string
			for i, n := range s.cluster.Nodes {
				if s.server(i) {
					for _, prefix := range s.expect.staticPods {
						if name := prefix + "-" + n.Name(); !ready[name] {
							missing = append(missing, name)
						}
					}
				}
				for _, label := range s.expect.perNode {
					if name := label + " on " + n.Name(); !ready[name] {
						missing = append(missing, name)
					}
				}
			}
			if dns < s.expect.dnsReplicas {
				missing = append(missing, fmt.Sprintf("%d of %d %s", s.expect.dnsReplicas-dns, s.expect.dnsReplicas, s.expect.dns))
			}
			f := finding{ok: len(wrong)+len(missing) == 0, saw: fmt.Sprintf("%d pods Ready", total), want: "every pod Ready and none missing"}
			if !f.ok {
				f.saw = fmt.Sprintf("%d of %d pods Ready", total-len(wrong), total)
				if len(wrong) > 0 {
					f.saw += "; " + strings.Join(wrong, "; ")
				}
				if len(missing) > 0 {
					f.saw += "; no Ready " + strings.Join(missing, ", ")
				}
			}
			return []finding{f}, nil
		}
	}}
}

// chartLabel is on the pods of the jobs by which k3s and RKE2 install their
// add-ons, with the chart's name: k3s-io/helm-controller, pkg/controllers/chart.
const chartLabel = "helmcharts.helm.cattle.io/chart"

// ofJob says whether a pod is to end some day.
func ofJob(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "Job"
}

// finishedJob says whether a pod was to end, and did.
func finishedJob(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded && ofJob(pod) }

// newSandboxes: every container on each node was made after the restart.
func newSandboxes(before Snapshot) check {
	return check{name: "new-sandboxes", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			pods, err := s.pods(ctx)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, n := range s.cluster.Nodes {
				f := finding{node: n.Name(), want: "every container made after the restart"}
				var old []string
				running := 0
				for i := range pods {
					p := &pods[i]
					if p.Spec.NodeName != n.Name() || finishedJob(p) {
						continue
					}
					stale, err := s.stalePod(ctx, &before, p)
					if err != nil {
						return nil, err
					}
					if stale != "" {
						old = append(old, p.Name+": "+stale)
						continue
					}
					for _, c := range p.Status.ContainerStatuses {
						if c.State.Running == nil {
							old = append(old, fmt.Sprintf("%s: container %s does not run", p.Name, c.Name))
						} else {
							running++
						}
					}
				}
				switch {
				case len(old) > 0:
					f.saw = strings.Join(old, "; ")
				case running == 0:
					f.saw = "no containers"
				default:
					f.ok, f.saw = true, fmt.Sprintf("%d containers, all made after the restart", running)
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// stability watches that no container restarts for a while. It looks at the
// pods of every namespace.
type stability struct {
	check
	window time.Duration
}

// restartStability: nothing restarts for the window, and at its end every pod
// that was there at its beginning is there and Ready. Pods of jobs may end, and
// be tried again until they do. It is to begin once everything else is healthy.
func restartStability(window time.Duration) stability {
	return stability{window: window, check: check{name: stabilityName, every: min(time.Second, window/8+time.Millisecond), begin: func(s *session) look {
		var first map[string]corev1.ContainerStatus
		var began time.Time
		return func(ctx context.Context) ([]finding, error) {
			pods, err := s.pods(ctx)
			if err != nil {
				return nil, err
			}
			now := map[string]corev1.ContainerStatus{}
			var unready []string
			for i := range pods {
				p := &pods[i]
				if finishedJob(p) {
					continue
				}
				if !ofJob(p) {
					for _, c := range p.Status.ContainerStatuses {
						now[p.Namespace+"/"+p.Name+"/"+c.Name] = c
					}
				}
				problem, err := s.podProblem(ctx, nil, p)
				if err != nil {
					return nil, err
				}
				if problem != "" {
					unready = append(unready, p.Name+": "+problem)
				}
			}
			if first == nil {
				if len(now) == 0 {
					return []finding{{saw: "no containers", want: "running pods"}}, nil
				}
				first, began = now, time.Now()
			}
			held := time.Since(began)
			risen, gone, earlier := compareRestarts(first, now)
			f := finding{want: fmt.Sprintf("no container restarts for %s", window)}
			switch {
			case len(risen) > 0:
				f.saw, f.final = fmt.Sprintf("after %s: %s", held.Round(time.Second), strings.Join(risen, "; ")), true
			case held < window && len(gone)+len(unready) > 0:
				f.saw = fmt.Sprintf("%s after %s", strings.Join(append(gone, unready...), "; "), held.Round(time.Second))
			case held < window:
				// Nothing is wrong, and nothing is shown yet.
				return nil, &blindError{fmt.Errorf("only %s of %s were watched", held.Round(time.Second), window)}
			case len(gone) > 0:
				f.saw, f.final = strings.Join(gone, "; "), true
			case len(unready) > 0:
				f.saw = "at the window's end: " + strings.Join(unready, "; ")
			default:
				f.ok, f.saw = true, fmt.Sprintf("%d containers, none restarted for %s", len(now), held.Round(100*time.Millisecond))
				if len(earlier) > 0 {
					f.saw += "; restarts before that: " + strings.Join(earlier, ", ")
				}
			}
			return []finding{f}, nil
		}
	}}}
}

const stabilityName = "restart-stability"

// compareRestarts lists the containers that restarted since, those that are
// gone, and the restarts that had happened before.
func compareRestarts(first, now map[string]corev1.ContainerStatus) (risen, gone, earlier []string) {
	for name, was := range first {
		is, ok := now[name]
		switch {
		case !ok:
			gone = append(gone, name+" is gone")
		case is.RestartCount > was.RestartCount:
			risen = append(risen, fmt.Sprintf("restarts of %s rose from %d to %d", name, was.RestartCount, is.RestartCount))
		case startedAt(is).After(startedAt(was)) && is.ContainerID != was.ContainerID:
			risen = append(risen, name+" was started anew")
		}
		if was.RestartCount > 0 {
			earlier = append(earlier, fmt.Sprintf("%s %d", name, was.RestartCount))
		}
	}
	slices.Sort(risen)
	slices.Sort(gone)
	slices.Sort(earlier)
	return risen, gone, earlier
}

func startedAt(c corev1.ContainerStatus) time.Time {
	if c.State.Running == nil {
		return time.Time{}
	}
	return c.State.Running.StartedAt.Time
}
