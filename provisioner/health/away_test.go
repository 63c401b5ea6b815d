package health

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func taint(effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: effect}
}

// absent is a world whose agent is away, and in which what is said happens at a
// time.
func absent(t *testing.T, happens map[time.Duration]func(w *world)) *world {
	w := newWorld(t, "cp1", "agent1")
	w.pod("kube-proxy-agent1").Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	w.addPod("shop", "shop-1", "agent1", nil)
	began := time.Now()
	done := map[time.Duration]bool{}
	w.answer = func(http.ResponseWriter, *http.Request) bool {
		for at, happen := range happens {
			if time.Since(began) >= at && !done[at] {
				done[at] = true
				happen(w)
			}
		}
		return false
	}
	return w
}

func tainted(effects ...corev1.TaintEffect) func(w *world) {
	return func(w *world) {
		for _, e := range effects {
			w.nodes[1].Spec.Taints = append(w.nodes[1].Spec.Taints, taint(e))
		}
	}
}

func evicted(w *world) { w.pod("shop-1").DeletionTimestamp = new(metav1.Now()) }

func TestAway(t *testing.T) {
	const short, long = 90 * time.Second, 7 * time.Minute
	both := tainted(corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	down := func(w *world) {
		w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
			http.Error(rw, "etcdserver: no leader", http.StatusServiceUnavailable)
			return true
		}
	}
	for name, test := range map[string]struct {
		away         time.Duration
		happens      map[time.Duration]func(w *world)
		taints, pods matrix.Outcome
		saw          string
	}{
		"as it should":        {short, map[time.Duration]func(*world){46 * time.Second: both}, matrix.Healthy, matrix.Healthy, "NoSchedule after 46s, NoExecute after 46s"},
		"no taint":            {short, nil, matrix.Unhealthy, matrix.Healthy, "no NoSchedule in 1m30s"},
		"one taint":           {short, map[time.Duration]func(*world){time.Second: tainted(corev1.TaintEffectNoSchedule)}, matrix.Unhealthy, matrix.Healthy, "no NoExecute in"},
		"evicted too early":   {short, map[time.Duration]func(*world){time.Second: both, time.Minute: evicted}, matrix.Healthy, matrix.Unhealthy, "1 pods, evicted after 1m0s"},
		"the API is gone":     {short, map[time.Duration]func(*world){0: down}, matrix.Unhealthy, matrix.Unhealthy, "was last answering after 0s of 1m30s"},
		"no pod to evict":     {short, map[time.Duration]func(*world){time.Second: both, 0: func(w *world) { w.removePod("shop-1") }}, matrix.Healthy, matrix.Undecided, "no pod that could be evicted"},
		"gone, as it should":  {long, map[time.Duration]func(*world){46 * time.Second: both, 346 * time.Second: evicted}, matrix.Healthy, matrix.Healthy, "1 pods, evicted after 5m46s"},
		"gone, never evicted": {long, map[time.Duration]func(*world){46 * time.Second: both}, matrix.Healthy, matrix.Unhealthy, "none of 1 pods evicted in 7m0s"},
		"the API goes too":    {long, map[time.Duration]func(*world){46 * time.Second: both, time.Minute: down}, matrix.Healthy, matrix.Unhealthy, "unable to handle the request"},
	} {
		bubble(t, name, func(t *testing.T) {
			g := NewWithT(t)
			w := absent(t, nil)
			if test.happens != nil {
				w = absent(t, test.happens)
			}
			began := time.Now()
			evidence := Away(t.Context(), w.cluster, []string{"agent1"}, test.away)
			g.Expect(time.Since(began)).To(BeNumerically("~", test.away, time.Second), "it looks to the end")
			g.Expect(evidence).To(HaveLen(2))
			g.Expect(evidence[0]).To(And(HaveField("Check", "unreachable-taints"), HaveField("Node", "agent1"), HaveField("Outcome", test.taints)))
			g.Expect(evidence[1]).To(And(HaveField("Check", "evictions"), HaveField("Outcome", test.pods)))
			g.Expect(evidence[0].Saw + "\n" + evidence[1].Saw).To(ContainSubstring(test.saw))
		})
	}
	bubble(t, "a look that ends early", func(t *testing.T) {
		g, w := NewWithT(t), absent(t, map[time.Duration]func(*world){time.Second: both})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the user pressed Ctrl-C"))
		defer cancel()
		evidence := Away(ctx, w.cluster, []string{"agent1"}, short)
		g.Expect(evidence).To(HaveEach(And(HaveField("Outcome", matrix.Undecided), HaveField("Saw", ContainSubstring("Ctrl-C")))))
	})
}

func TestTaintsMended(t *testing.T) {
	ready := func(ago time.Duration) func(w *world) {
		return func(w *world) {
			w.nodes[1].Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Now().Add(-ago))
		}
	}
	bubble(t, "as it should", func(t *testing.T) {
		g, w := NewWithT(t), newWorld(t, "cp1", "agent1")
		ready(4 * time.Second)(w)
		evidence := taintsMended([]string{"agent1"}).Run(t.Context(), w.cluster)
		g.Expect(evidence).To(ConsistOf(And(HaveField("Node", "agent1"), HaveField("Outcome", matrix.Healthy), HaveField("Saw", "none, 4s after it was Ready"))))
	})
	bubble(t, "a taint that stays", func(t *testing.T) {
		w := newWorld(t, "cp1", "agent1")
		ready(31 * time.Second)(w)
		tainted(corev1.TaintEffectNoExecute)(w)
		expectUnhealthy(t, w, taintsMended([]string{"agent1"}), "unreachable:NoExecute, 31s after it was Ready")
	})
	bubble(t, "not Ready", func(t *testing.T) {
		w := newWorld(t, "cp1", "agent1")
		w.nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
		expectUnhealthy(t, w, taintsMended([]string{"agent1"}), "Ready is Unknown")
	})
}

func TestLeaseGoesOn(t *testing.T) {
	bubble(t, "as it should", func(t *testing.T) {
		g, w := NewWithT(t), newWorld(t)
		asked := 0
		w.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/leases/") {
				if asked++; asked == 3 {
					w.leases["cp1"].Spec.RenewTime = &metav1.MicroTime{Time: w.leases["cp1"].Spec.RenewTime.Add(10 * time.Second)}
				}
			}
			return false
		}
		evidence := leaseGoesOn().Run(t.Context(), w.cluster)
		g.Expect(evidence).To(ConsistOf(And(HaveField("Outcome", matrix.Healthy), HaveField("Saw", "renewed 10s later"))))
	})
	bubble(t, "a kubelet that did not come back", func(t *testing.T) {
		expectUnhealthy(t, newWorld(t), leaseGoesOn(), "not renewed yet")
	})
}

func TestRanOn(t *testing.T) {
	for saw, spoil := range map[string]func(w *world){
		"": func(*world) {},
		"1 of 7 containers run no longer: containerd://1-etcd-cp1": func(w *world) { w.pod("etcd-").Status.ContainerStatuses[0].ContainerID = "containerd://2-etcd-cp1" },
		"1 of 7 containers run no longer":                          func(w *world) { w.pod("etcd-").Status.ContainerStatuses[0].State.Running = nil },
		"the node was restarted":                                   func(w *world) { w.starts["cp1"] = nodeStart{bootID: "another", at: time.Now()} },
	} {
		bubble(t, saw, func(t *testing.T) {
			g, w := NewWithT(t), newWorld(t)
			before := Snapshot{Nodes: map[string]NodeSnapshot{"cp1": {BootID: "boot-1-cp1"}}}
			n := before.Nodes["cp1"]
			for _, p := range w.pods {
				n.Containers = append(n.Containers, p.Status.ContainerStatuses[0].ContainerID)
			}
			before.Nodes["cp1"] = n
			spoil(w)
			if saw != "" {
				expectUnhealthy(t, w, ranOn(before), saw)
				return
			}
			g.Expect(ranOn(before).Run(t.Context(), w.cluster)).To(ConsistOf(And(HaveField("Outcome", matrix.Healthy), HaveField("Saw", ContainSubstring("all 7 containers")))))
		})
	}
	bubble(t, "nothing to compare with", func(t *testing.T) {
		w := newWorld(t)
		for _, before := range []Snapshot{{}, {Nodes: map[string]NodeSnapshot{"cp1": {BootID: "boot-1-cp1"}}}} {
			NewWithT(t).Expect(runIntoDeadline(t, w, ranOn(before))).To(HaveEach(HaveField("Outcome", matrix.Undecided)))
		}
	})
}

// TestAfterFurtherRestarts: what is wanted after a restart of services, or of
// agents that were away, holds of a cluster that came through it, and has every
// check of a baseline.
func TestAfterFurtherRestarts(t *testing.T) {
	names := func(checks []provisioner.Check) (names []string) {
		for _, c := range checks {
			names = append(names, c.Name())
		}
		return names
	}
	g := NewWithT(t)
	timeouts := matrix.Timeouts{Stability: matrix.Duration(30 * time.Second)}
	before := Snapshot{Nodes: map[string]NodeSnapshot{"cp1": {}, "agent1": {}}}
	all := names(Baseline(timeouts))
	for _, checks := range [][]provisioner.Check{AfterServices(before, timeouts), AfterAway(before, []string{"agent1"}, timeouts)} {
		g.Expect(names(checks)).To(ContainElements(all))
		g.Expect(names(checks)).To(ContainElements("mounts", "sysctls", "same-pki", "object-survived", "file-survived"))
	}
	g.Expect(names(AfterServices(before, timeouts))).To(ContainElements("ran-on", "lease-renewed"))
	g.Expect(names(AfterAway(before, []string{"agent1"}, timeouts))).To(ContainElements("returned", "taints-mended"))
}
