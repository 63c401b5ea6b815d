package cell_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

// surrounded is a cell that asks for a service.
func surrounded() matrix.Cell {
	c := planned("1")
	c.Services = []matrix.Service{"haproxy"}
	c.Restarts = []matrix.Restart{matrix.RestartService}
	return c
}

func withServices(w *fakeWorld) func(*cell.Runner) {
	return func(r *cell.Runner) { r.Services = fakeServices{w} }
}

func TestServices(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), surrounded()
	a := attempt(t, w, c, withServices(w))
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(w.services).To(BeZero())
	var of []string
	for _, call := range w.calls {
		if slices.Contains([]string{"services 1", "steady 1", "watch 1", "watch 2", "watch 3", "seen fell=true 1", "seen fell=true 2", "seen fell=false 1", "unservice 1"}, call) {
			of = append(of, call)
		}
	}
	// A restart of services alone takes no server down that can be counted on.
	g.Expect(of).To(HaveExactElements("services 1", "steady 1", "watch 1", "seen fell=true 1", "watch 2", "seen fell=true 2", "watch 3", "seen fell=false 1", "unservice 1"))
	for _, p := range a.Phases {
		if slices.Contains([]matrix.Phase{matrix.PhaseRecover, matrix.PhaseForcedRecover, "service-recover"}, p.Phase) {
			g.Expect(p.Traffic).To(HaveExactElements(HaveField("Sent", 9)), string(p.Phase))
		} else {
			g.Expect(p.Traffic).To(BeEmpty(), string(p.Phase))
		}
	}
}

// TestServicesThatFail: what befalls a service blocks the cell, what it sees of
// the cluster fails it, and it is removed whatever happens.
func TestServicesThatFail(t *testing.T) {
	for call, want := range map[string]matrix.Judgement{
		"services 1":       {Verdict: matrix.Blocked, Phase: matrix.PhaseCreate},
		"steady 1":         {Verdict: matrix.Fail, Phase: matrix.PhaseBaseline},
		"watch 1":          {Verdict: matrix.Blocked, Phase: matrix.PhaseRestart},
		"seen fell=true 1": {Verdict: matrix.Fail, Phase: matrix.PhaseRecover},
		"unservice 1":      {Verdict: matrix.Pass},
	} {
		t.Run(call, func(t *testing.T) {
			g := NewWithT(t)
			w, c := newFakeWorld(), surrounded()
			w.meet = func(_ context.Context, _, called string) error {
				if called != call {
					return nil
				}
				// One in a container of Incus' looks like a node.
				return &provisioner.NodeError{Node: "svc", Action: "start", Err: errors.New("it broke")}
			}
			a := attempt(t, w, c, withServices(w))
			got := verdict(c, a)
			if want.Verdict != matrix.Pass {
				g.Expect(got.Reason).To(ContainSubstring("it broke"))
			}
			got.Reason = ""
			g.Expect(got).To(Equal(want))
			g.Expect(w.services).To(BeZero())
		})
	}
}

// TestServicesThatNobodyRuns: a cell that asks for them does not pass without.
func TestServicesThatNobodyRuns(t *testing.T) {
	g := NewWithT(t)
	c := surrounded()
	g.Expect(verdict(c, attempt(t, newFakeWorld(), c, nil)).Verdict).To(Equal(matrix.Blocked))
	g.Expect(verdict(planned("1"), attempt(t, newFakeWorld(), planned("1"), nil)).Verdict).To(Equal(matrix.Pass))
}

// TestServicesKeepOut: they are gone even where nodes are kept.
func TestServicesKeepOut(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), surrounded()
	a := attempt(t, w, c, func(r *cell.Runner) {
		withServices(w)(r)
		r.Keep = cell.KeepAlways
	})
	g.Expect(a.Kept).NotTo(BeEmpty())
	g.Expect(w.services).To(BeZero())
}
