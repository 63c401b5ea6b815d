package health

import (
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// followed is what Follow sees of a restart of the agent, in which things happen
// at their times.
func followed(t *testing.T, restarted []string, happens map[time.Duration]func(w *world)) matrix.Recovery {
	w := newWorld(t, "cp1", "agent1")
	w.checks = func(string) (int, string) { return http.StatusOK, "ok" }
	before := Snapshot{Nodes: map[string]NodeSnapshot{}}
	for _, n := range w.nodes {
		before.Nodes[n.Name] = NodeSnapshot{BootID: n.Status.NodeInfo.BootID}
	}
	for _, p := range w.pods {
		n := before.Nodes[p.Spec.NodeName]
		n.Containers = append(n.Containers, p.Status.ContainerStatuses[0].ContainerID)
		before.Nodes[p.Spec.NodeName] = n
	}
	told := Follow(t.Context(), w.cluster, before, restarted)
	began := time.Now()
	for at := time.Duration(0); at <= time.Minute; at += time.Second {
		if happen := happens[at]; happen != nil {
			w.mu.Lock()
			happen(w)
			w.mu.Unlock()
		}
		time.Sleep(time.Until(began.Add(at + time.Second)))
	}
	return told()
}

func near(want time.Duration) func(matrix.Duration) bool {
	return func(d matrix.Duration) bool { return d.Std() >= want && d.Std() < want+2*time.Second }
}

func TestFollow(t *testing.T) {
	silent := func(w *world) {
		w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
			http.Error(rw, "starting", http.StatusServiceUnavailable)
			return true
		}
	}
	answers := func(w *world) { w.answer = nil }
	bubble(t, "all nodes", func(t *testing.T) {
		g := NewWithT(t)
		seen := followed(t, []string{"cp1", "agent1"}, map[time.Duration]func(*world){
			2 * time.Second:  silent,
			10 * time.Second: answers,
			12 * time.Second: tainted(corev1.TaintEffectNoSchedule),
			20 * time.Second: func(w *world) {
				for i := range w.nodes {
					w.nodes[i].Status.NodeInfo.BootID = "boot-2-" + w.nodes[i].Name
				}
				w.nodes[1].Spec.Taints = nil
			},
			30 * time.Second: func(w *world) { w.restarted() },
		})
		g.Expect(seen.API).To(HaveValue(Satisfy(near(10 * time.Second))))
		g.Expect(seen.Ready).To(HaveValue(Satisfy(near(20 * time.Second))))
		g.Expect(seen.Pods).To(HaveValue(Satisfy(near(30 * time.Second))))
		g.Expect(seen.Taints).To(HaveExactElements(And(HaveField("Node", "agent1"), HaveField("Taint", "node.kubernetes.io/unreachable:NoSchedule"),
			HaveField("Seen", Satisfy(near(12*time.Second))), HaveField("Gone", HaveValue(Satisfy(near(20*time.Second)))))))
	})
	bubble(t, "services", func(t *testing.T) {
		g := NewWithT(t)
		seen := followed(t, nil, nil)
		for _, d := range []*matrix.Duration{seen.API, seen.Ready, seen.Pods} {
			g.Expect(d).To(HaveValue(Satisfy(near(0))))
		}
		g.Expect(seen.Taints).To(BeEmpty())
	})
	bubble(t, "a node that does not come back", func(t *testing.T) {
		g := NewWithT(t)
		seen := followed(t, []string{"agent1"}, map[time.Duration]func(*world){time.Second: tainted(corev1.TaintEffectNoExecute)})
		g.Expect(seen.API).NotTo(BeNil())
		g.Expect(seen.Ready).To(BeNil(), "it is Ready by its report of before")
		g.Expect(seen.Pods).To(BeNil())
		g.Expect(seen.Taints).To(HaveExactElements(HaveField("Gone", BeNil())))
	})
	bubble(t, "an API that goes again", func(t *testing.T) {
		seen := followed(t, nil, map[time.Duration]func(*world){40 * time.Second: silent})
		NewWithT(t).Expect(seen).To(Equal(matrix.Recovery{}))
	})
}
