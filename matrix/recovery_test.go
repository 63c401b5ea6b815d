package matrix_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// TestRecoveries: a percentile is a time that was seen, and what was not seen
// counts nowhere.
func TestRecoveries(t *testing.T) {
	g := NewWithT(t)
	second := func(n int) *matrix.Duration { return new(matrix.Duration(n) * matrix.Duration(time.Second)) }
	var all []matrix.Recovery
	for i := 20; i > 0; i-- {
		all = append(all, matrix.Recovery{API: second(i), Pods: second(2 * i)})
	}
	all = append(all, matrix.Recovery{}, matrix.Recovery{Ready: second(0)})
	g.Expect(matrix.Recoveries(all)).To(HaveExactElements(
		matrix.Figure{Name: "api", Of: 20, P50: *second(10), P95: *second(19), Max: *second(20)},
		matrix.Figure{Name: "ready", Of: 1},
		matrix.Figure{Name: "pods", Of: 20, P50: *second(20), P95: *second(38), Max: *second(40)},
	))
	g.Expect(matrix.Recoveries(nil)).To(BeEmpty())
	g.Expect(matrix.Recoveries(all[:3])[0]).To(Equal(matrix.Figure{Name: "api", Of: 3, P50: *second(19), P95: *second(20), Max: *second(20)}))
}

// TestSoak: each of the restarts in a row needs a result, and a start of its own.
func TestSoak(t *testing.T) {
	g := NewWithT(t)
	c := cell()
	c.Soak = 2
	g.Expect(c.Phases()).To(Equal(append(append(matrix.Cell{}.Phases()[:8:8], "soak-restart", "soak-recover"), "collect", "destroy")))
	g.Expect(c.RestartsOf()[2]).To(And(HaveField("Restart", matrix.RestartSoak), HaveField("Times", 2)))
	g.Expect(matrix.Cell{}.RestartsOf()).To(HaveLen(2))

	judged := func(boots []string, phases ...matrix.Phase) matrix.Judgement {
		a := passing()
		a.Nodes[0].BootIDs = boots
		for _, p := range phases {
			a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p, Evidence: []matrix.Evidence{healthy()}})
		}
		return matrix.Judge(c, []matrix.Attempt{a})
	}
	twice := []matrix.Phase{"soak-restart", "soak-recover", "soak-restart", "soak-recover"}
	g.Expect(judged([]string{"a", "b", "c", "d", "e"}, twice...)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(judged([]string{"a", "b", "c", "d", "e"}, twice[:3]...)).To(Equal(matrix.Judgement{Verdict: matrix.Unknown, Phase: "soak-recover", Reason: "soak-recover has 1 results of 2"}))
	g.Expect(judged([]string{"a", "b", "c", "d", "d"}, twice...)).To(And(HaveField("Verdict", matrix.Blocked), HaveField("Reason", ContainSubstring("4 different boot IDs were observed over 5 starts"))))

	// One that is cut short ends in the phase that was next, and no earlier one of
	// that name stands for it.
	begun := passing()
	for i, phase := range twice {
		decided, _, in := begun.Proof(c)
		g.Expect(decided).To(BeFalse())
		g.Expect(in).To(Equal(phase))
		cut := begun.CutShort(c, time.Now())
		g.Expect(cut.Phases[len(cut.Phases)-1]).To(And(HaveField("Phase", phase), HaveField("Blame", matrix.BlameInterrupt)))
		g.Expect(matrix.Over(c, []matrix.Attempt{cut}, 1)).To(BeFalse())
		begun.Phases = append(begun.Phases, matrix.PhaseResult{Phase: phase, Evidence: []matrix.Evidence{healthy()}})
		_, through := begun.Through(c, phase)
		g.Expect(through).To(Equal(i >= 2), "%d", i)
	}
	decided, passed, in := begun.Proof(c)
	g.Expect([]any{decided, passed, in}).To(Equal([]any{true, true, matrix.PhaseCollect}))

	// One that does not pass is the one that counts, and nothing follows it.
	begun.Phases = append(begun.Phases[:len(begun.Phases)-2:len(begun.Phases)-2], matrix.PhaseResult{Phase: "soak-restart", Blame: matrix.BlameNode, Error: "it broke"})
	result, through := begun.Through(c, "soak-restart")
	g.Expect(through).To(BeTrue())
	g.Expect(result.Error).To(Equal("it broke"))
	decided, passed, in = begun.Proof(c)
	g.Expect([]any{decided, passed, in}).To(Equal([]any{true, false, matrix.PhaseCollect}))
}
