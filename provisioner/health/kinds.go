package health

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// What the manifests call what the probe workload has of other kinds.
const (
	daemonLabel     = "app.kubernetes.io/name=lxcmatrix-daemon"
	daemonHostPort  = 18080
	headlessService = "probe-headless"
	portService     = "probe-node-port"
	rolloutName     = "rollout"
	rolloutLabel    = "app.kubernetes.io/name=lxcmatrix-rollout"
	// rolloutKey is the annotation of a pod template that makes it a new one.
	rolloutKey = "lxcmatrix.dev/rollout"
	// claimFile is in the volume that the rollout's pods claim.
	claimFile = "/claim/survivor"
)

// daemons finds the pod of the DaemonSet on each of the cluster's nodes, in their
// order.
func (s *session) daemons(ctx context.Context, before *Snapshot) ([]probePod, error) {
	return s.podOnEach(ctx, before, "daemon", func(p *corev1.Pod, node string) bool {
		return hasLabel(p, daemonLabel) && p.Spec.NodeName == node
	})
}

// daemonSet: the pod of a DaemonSet is Ready on every node.
func daemonSet(before *Snapshot) check {
	return check{name: "daemonset", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			found, err := s.daemons(ctx, before)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, p := range found {
				findings = append(findings, p.finding())
			}
			return findings, nil
		}
	}}
}

// hostPort: the host reaches the pod of each node that has one of its node's
// ports.
func hostPort(before *Snapshot) check {
	return fromHost("host-port", func(context.Context, *session) (int, error) { return daemonHostPort, nil },
		func(ctx context.Context, s *session) ([]probePod, error) { return s.daemons(ctx, before) })
}

// serviceNodePort: the host reaches a service at its port of every node, and the
// pod on that node answers, as the service says.
func serviceNodePort(before *Snapshot) check {
	return fromHost("service-nodeport", func(ctx context.Context, s *session) (int, error) {
		service, err := s.api.core.Services(probeNamespace).Get(ctx, portService, metav1.GetOptions{})
		switch {
		case err != nil:
			return 0, fmt.Errorf("get service %s: %w", portService, err)
		case len(service.Spec.Ports) == 0 || service.Spec.Ports[0].NodePort == 0:
			return 0, fmt.Errorf("service %s has no node port", portService)
		}
		return int(service.Spec.Ports[0].NodePort), nil
	}, func(ctx context.Context, s *session) ([]probePod, error) { return s.probePods(ctx, before) })
}

// fromHost asks a port of each node from outside of the cluster, once the node's
// pod that is to answer is Ready.
func fromHost(name string, port func(ctx context.Context, s *session) (int, error), pods func(ctx context.Context, s *session) ([]probePod, error)) check {
	return check{name: name, every: pollInterval, begin: func(s *session) look {
		asked := 0
		good := map[string]finding{}
		return func(ctx context.Context) ([]finding, error) {
			all, err := pods(ctx, s)
			if err != nil {
				return nil, err
			}
			at, err := port(ctx, s)
			if err != nil {
				return nil, err
			}
			timeout := patience(asked)
			asked++
			var findings []finding
			for i, p := range all {
				f, done := good[p.node]
				switch {
				case done:
				case p.problem != "":
					f = p.finding()
				default:
					if f, err = s.askFromHost(ctx, i, at, p, timeout); err != nil {
						return nil, err
					}
					if f.ok {
						good[p.node] = f
					}
				}
				f.node = p.node
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// askFromHost asks a port of the cluster's i-th node, where a pod is to answer.
func (s *session) askFromHost(ctx context.Context, i, port int, pod probePod, timeout time.Duration) (finding, error) {
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	node := s.cluster.Nodes[i]
	f := finding{want: "an answer of pod " + pod.name}
	got, err := s.getPlain(within, node, port, "/")
	switch {
	case err != nil && (isBlind(err) || outOfTime(ctx)):
		return f, err
	case err != nil:
		f.saw = fmt.Sprintf("port %d of the node: %s", port, shorten(err.Error()))
	case !got.good() || !slices.Contains(strings.Fields(got.body), pod.name):
		f.saw = fmt.Sprintf("port %d of the node answered %s %q", port, got.status, shorten(got.body))
	default:
		f.ok, f.saw = true, fmt.Sprintf("port %d of the node answered by %s", port, pod.name)
	}
	return f, nil
}

// serviceHeadless: the name of a service without an address of its own leads to
// its pods, from a pod on every node.
func serviceHeadless(before *Snapshot) check {
	c := check{name: "service-headless", every: pollInterval}
	c.begin = func(s *session) look {
		asked := 0
		return fromEachProbe(c.name, before, func(ctx context.Context, s *session, from probePod, _ []probePod) (finding, error) {
			backends, err := s.readyPods(ctx, before, probeNamespace, probeLabel)
			if err != nil {
				return finding{}, err
			}
			if problem, err := s.notServed(ctx, probeNamespace, headlessService, backends); err != nil || problem != "" {
				return finding{saw: problem, want: "a service that leads to its pods"}, err
			}
			var want []string
			for _, p := range backends {
				want = append(want, p.Status.PodIP)
			}
			timeout := patience(asked).String()
			asked++
			f := finding{want: strings.Join(want, ", ")}
			out, err := s.api.exec(ctx, from.name, "/probe", "dns", "--timeout", timeout, headlessService)
			if err != nil {
				return f, err
			}
			have := strings.Fields(out.stdout)
			slices.Sort(have)
			slices.Sort(want)
			f.ok, f.saw = slices.Equal(have, want), fmt.Sprintf("%s is %s", headlessService, strings.Join(have, ", "))
			return f, nil
		}).begin(s)
	}
	return c
}

// datagrams are sizes of what is sent in one packet, and in several fragments of
// one.
var datagrams = [...]string{"1400", "4000"}

// podToPodUDP: the probe on each node gets its datagrams back from a pod on its
// own node and on every other, whole ones and such as take several packets.
func podToPodUDP(before *Snapshot) check {
	c := check{name: "pod-to-pod-udp", every: pollInterval}
	c.begin = func(s *session) look {
		asked := 0
		return fromEachProbe(c.name, before, func(ctx context.Context, s *session, from probePod, all []probePod) (finding, error) {
			timeout := patience(asked).String()
			asked++
			return s.askEachNode(ctx, before, from, all, func(to probePod, address string) (string, error) {
				out, err := s.api.exec(ctx, from.name, append([]string{"/probe", "udp", "--timeout", timeout, address}, datagrams[:]...)...)
				if err != nil {
					return "", err
				}
				if lines := strings.Count(out.stdout, "pod "+to.name+","); lines != len(datagrams) {
					return fmt.Sprintf("%s answered %q", address, shorten(out.stdout)), nil
				}
				return "", nil
			})
		}).begin(s)
	}
	return c
}

// askEachNode asks a pod on each node from a probe: on its own node the
// DaemonSet's, since the probe is the one that asks, and the probes on the others.
// ask says what is wrong with the answer; empty if nothing is.
func (s *session) askEachNode(ctx context.Context, before *Snapshot, from probePod, probes []probePod, ask func(to probePod, address string) (string, error)) (finding, error) {
	daemons, err := s.daemons(ctx, before)
	if err != nil {
		return finding{}, err
	}
	var answered []string
	for i, to := range probes {
		if to.node == from.node {
			to = daemons[i]
		}
		address := net.JoinHostPort(to.ip, probePort)
		want := fmt.Sprintf("an answer of pod %s at %s on node %s", to.name, address, to.node)
		if to.problem != "" || net.ParseIP(to.ip) == nil {
			return finding{saw: fmt.Sprintf("on node %s, %s", to.node, to.finding().saw), want: want}, nil
		}
		problem, err := ask(to, address)
		if err != nil || problem != "" {
			return finding{saw: problem, want: want}, err
		}
		answered = append(answered, fmt.Sprintf("%s on node %s", to.ip, to.node))
	}
	return finding{ok: true, saw: "answered by " + strings.Join(answered, ", ")}, nil
}

// job: a Job that is created now completes.
func job() check {
	return check{name: "job", every: pollInterval, begin: func(s *session) look {
		var wanted *batchv1.Job
		created := false
		return func(ctx context.Context) ([]finding, error) {
			if wanted == nil {
				objects, err := decodeManifest(fixtures.Manifests(), "workload-job.yaml")
				if err != nil {
					return nil, &blindError{err}
				}
				of, ok := objects[0].(*batchv1.Job)
				if !ok || len(objects) != 1 {
					return nil, &blindError{fmt.Errorf("read manifest workload-job.yaml: it holds a %T and is to hold one Job", objects[0])}
				}
				of.Name += "-" + strings.ToLower(newNonce()[:8])
				wanted = of
			}
			if !created {
				if err := s.api.create(ctx, wanted); err != nil {
					return nil, err
				}
				created = true
			}
			got, err := s.api.batch.Jobs(probeNamespace).Get(ctx, wanted.Name, metav1.GetOptions{})
			if err != nil {
				return nil, fmt.Errorf("get job %s: %w", wanted.Name, err)
			}
			f := finding{want: "complete"}
			for _, c := range got.Status.Conditions {
				switch {
				case c.Status != corev1.ConditionTrue:
				case c.Type == batchv1.JobComplete:
					f.ok, f.saw = true, fmt.Sprintf("job %s is complete, %d of its pods failed", wanted.Name, got.Status.Failed)
				case c.Type == batchv1.JobFailed:
					f.saw, f.final = fmt.Sprintf("job %s failed: %s: %s", wanted.Name, c.Reason, shorten(c.Message)), true
				}
			}
			if f.saw == "" {
				if f.saw, err = s.jobsPods(ctx, got); err != nil {
					return nil, err
				}
			}
			return []finding{f}, nil
		}
	}}
}

// jobsPods says how far a Job has come that is not complete.
func (s *session) jobsPods(ctx context.Context, of *batchv1.Job) (string, error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	saw := fmt.Sprintf("job %s has no pod yet", of.Name)
	for i := range pods {
		p := &pods[i]
		if owner := metav1.GetControllerOf(p); owner == nil || owner.UID != of.UID {
			continue
		}
		problem, err := s.podProblem(ctx, nil, p)
		if err != nil {
			return "", err
		}
		saw = fmt.Sprintf("job %s is not complete; pod %s: %s", of.Name, p.Name, problem)
	}
	return saw, nil
}

// unhurried is for how long a pod must be Ready until the one of before is ended,
// where a rollout is to be under way while a node restarts.
const unhurried = 20 * time.Second

// rollout: a Deployment has a new pod, and none of those of before: of the revision
// that is being rolled out, or, where that is empty, of one that is rolled out now.
func rollout(before *Snapshot, rolling string) check {
	return check{name: "rollout", every: pollInterval, begin: func(s *session) look {
		revision, begun := rolling, rolling != ""
		if !begun {
			revision = newNonce()
		}
		return func(ctx context.Context) ([]finding, error) {
			if !begun {
				if err := s.roll(ctx, revision, 0); err != nil {
					return nil, err
				}
				begun = true
			}
			r, err := s.rolled(ctx, before, revision)
			if err != nil {
				return nil, err
			}
			f := finding{want: "one Ready pod of the new revision and no other", saw: "no pod of the new revision yet"}
			if r.pending != "" {
				f.saw = "pod " + r.pending
			}
			switch {
			case r.ready != "" && r.others == 0:
				f.ok, f.saw = true, fmt.Sprintf("pod %s of the new revision is Ready, and the one of before is gone", r.ready)
			case r.ready != "":
				f.saw = fmt.Sprintf("pod %s of the new revision is Ready, and %d of before are left", r.ready, r.others)
			case r.others > 0:
				f.saw += fmt.Sprintf("; %d of before", r.others)
			}
			return []finding{f}, nil
		}
	}}
}

// rollingOut is how far a rollout has come.
type rollingOut struct {
	// ready and pending are pods of the new revision; what is wrong with one is told
	// behind its name.
	ready, pending string
	// others is how many pods there are of the revisions of before.
	others int
}

// rolled looks how far the rollout of a revision has come.
func (s *session) rolled(ctx context.Context, before *Snapshot, revision string) (r rollingOut, err error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return r, err
	}
	for i := range pods {
		p := &pods[i]
		if p.Namespace != probeNamespace || !hasLabel(p, rolloutLabel) {
			continue
		}
		problem, err := s.podProblem(ctx, before, p)
		if err != nil {
			return r, err
		}
		switch isNew := p.Annotations[rolloutKey] == revision; {
		case isNew && problem == "":
			r.ready = p.Name
		case isNew:
			r.pending = fmt.Sprintf("%s of the new revision: %s", p.Name, problem)
		default:
			r.others++
		}
	}
	return r, nil
}

// BeginRollout begins to roll out the Deployment whose pods are on the first server,
// and looks until the new pod is there beside the one of before, which stays for some
// time. The snapshot that it returns is the one that it was given, and knows of it.
func BeginRollout(ctx context.Context, cluster *provisioner.Cluster, before Snapshot) (Snapshot, []matrix.Evidence) {
	before.Rolling = newNonce()
	evidence, _ := RunAll(ctx, cluster, []provisioner.Check{rolling(before.Rolling)})
	return before, evidence
}

// rolling: the rollout of a revision was begun, and is not over.
func rolling(revision string) check {
	return check{name: "rolling", every: pollInterval, begin: func(s *session) look {
		begun := false
		return func(ctx context.Context) ([]finding, error) {
			if !begun {
				if err := s.roll(ctx, revision, unhurried); err != nil {
					return nil, err
				}
				begun = true
			}
			r, err := s.rolled(ctx, nil, revision)
			if err != nil {
				return nil, err
			}
			f := finding{want: "a pod of the new revision and one of before", saw: "no pod of the new revision yet"}
			there := r.ready != "" || r.pending != ""
			switch {
			case there && r.others > 0:
				f.ok, f.saw = true, fmt.Sprintf("pod %s, and %d of before", cmp.Or(r.pending, r.ready+" of the new revision is Ready"), r.others)
			case there:
				f.saw, f.final = "the rollout is over", true
			}
			return []finding{f}, nil
		}
	}}
}

// roll changes the template of the Deployment. A pod of before goes once the new one
// was Ready for as long as ready.
func (s *session) roll(ctx context.Context, revision string, ready time.Duration) error {
	change := map[string]any{"spec": map[string]any{
		"minReadySeconds": int(ready.Seconds()),
		"template":        map[string]any{"metadata": map[string]any{"annotations": map[string]string{rolloutKey: revision}}},
	}}
	patch, err := json.Marshal(change)
	if err != nil {
		return &blindError{fmt.Errorf("roll out deployment %s: %w", rolloutName, err)}
	}
	if _, err := s.api.apps.Deployments(probeNamespace).Patch(ctx, rolloutName, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("roll out deployment %s: %w", rolloutName, err)
	}
	return nil
}

// claimant is a Ready pod that has the claimed volume.
func (s *session) claimant(ctx context.Context, before *Snapshot) (string, error) {
	ready, err := s.readyPods(ctx, before, probeNamespace, rolloutLabel)
	if err != nil {
		return "", err
	}
	if len(ready) == 0 {
		return "", fmt.Errorf("no pod of deployment %s is Ready", rolloutName)
	}
	return ready[0].Name, nil
}

// claimSurvived: the file that was left in the volume that a pod claims is there,
// as a pod reads it that is new since a restart of its node, if restarted is what
// was before it.
func claimSurvived(before Snapshot, restarted *Snapshot) check {
	return check{name: "claim-survived", every: execInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			pod, err := s.claimant(ctx, restarted)
			if err != nil {
				return nil, err
			}
			out, err := s.api.exec(ctx, pod, "/probe", "read", claimFile)
			if err != nil {
				return nil, err
			}
			return []finding{{ok: out.stdout == before.Nonce, want: before.Nonce,
				saw: fmt.Sprintf("%s of pod %s holds %q", claimFile, pod, shorten(out.stdout))}}, nil
		}
	}}
}
