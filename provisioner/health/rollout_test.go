package health

import (
	"context"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// begun is a world of two nodes, whose first was restarted while a rollout was under
// way, and what was there before.
func begun(t *testing.T) (*world, Snapshot) {
	t.Helper()
	w := newWorld(t, "cp1", "agent1").withProbe()
	before, err := TakeSnapshot(t.Context(), w.cluster)
	if err != nil {
		t.Fatal(err)
	}
	before, evidence := BeginRollout(t.Context(), w.cluster, before)
	NewWithT(t).Expect(evidence).To(ConsistOf(And(HaveField("Check", "rolling"), HaveField("Outcome", matrix.Healthy),
		HaveField("Saw", "pod rollout-2 of the new revision is Ready, and 1 of before"))))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restarted()
	w.nodes[0].Status.Conditions[0].LastTransitionTime = metav1.Now()
	return w, before
}

// TestRolloutThatIsInterrupted: what was begun before a restart must complete after
// it, and no other rollout is begun in its place.
func TestRolloutThatIsInterrupted(t *testing.T) {
	bubble(t, "completes", func(t *testing.T) {
		g := NewWithT(t)
		w, before := begun(t)
		time.AfterFunc(unhurried, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.removePod("before-")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		evidence, _ := RunAll(ctx, w.cluster, AfterAway(before, []string{"cp1"}, timeouts()))
		for _, e := range evidence {
			g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
		}
		g.Expect(w.rolled).To(Equal(2))
		g.Expect(evidence).To(ContainElement(And(HaveField("Check", "rollout"), HaveField("Saw", "pod rollout-2 of the new revision is Ready, and the one of before is gone"))))
	})
	bubble(t, "does not", func(t *testing.T) {
		w, before := begun(t)
		expectUnhealthy(t, w, byName(AfterAway(before, []string{"cp1"}, timeouts()), "rollout"), "pod rollout-2 of the new revision is Ready, and 1 of before are left")
		NewWithT(t).Expect(w.rolled).To(Equal(2))
	})
}

// TestRolloutThatIsNotUnderWay: a restart is to find a rollout that goes on.
func TestRolloutThatIsNotUnderWay(t *testing.T) {
	for saw, spoil := range map[string]func(w *world){
		"no pod of the new revision yet": func(w *world) { w.answer = ignorePatches },
		"the rollout is over":            func(w *world) { w.hasty = true },
		"not found":                      func(w *world) { w.removePod("rollout-") },
	} {
		bubble(t, strings.Fields(saw)[len(strings.Fields(saw))-1], func(t *testing.T) {
			w := newWorld(t).withProbe()
			spoil(w)
			expectUnhealthy(t, w, rolling("next"), saw)
		})
	}
}
