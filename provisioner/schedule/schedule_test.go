package schedule_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"pgregory.net/rapid"

	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

// anyPlan draws plans that nobody would write, small and with much that fits
// nowhere.
func anyPlan(t *rapid.T) schedule.Plan {
	room := func(label string, least, most int) schedule.Room {
		return schedule.Room{CPUs: rapid.IntRange(least, most).Draw(t, label+" CPUs"),
			MemoryBytes: rapid.Int64Range(int64(least), int64(most)).Draw(t, label+" memory")}
	}
	duration := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.IntRange(0, 20).Draw(t, "time")) })
	p := schedule.Plan{Budget: room("budget", 1, 8), Cells: rapid.IntRange(0, 3).Draw(t, "at one time")}
	for h := range rapid.IntRange(0, 6).Draw(t, "hosts") {
		host := schedule.Host{Name: fmt.Sprint("h", h), Opening: duration.Draw(t, "opening"), Closing: duration.Draw(t, "closing")}
		if host.Own = rapid.Bool().Draw(t, "own"); host.Own {
			host.Claim, host.Room = room("claim", 0, 9), room("own", 1, 8)
		}
		for c := range rapid.IntRange(0, 6).Draw(t, "cells") {
			host.Cells = append(host.Cells, schedule.Cell{Name: fmt.Sprint("h", h, "/", c), Claim: room("cell", 0, 9), Expected: duration.Draw(t, "expected")})
		}
		p.Hosts = append(p.Hosts, host)
	}
	return p
}

// TestRun: whatever the plan, nothing is ever over budget, every cell is run
// once or refused for its reason, and every host is opened once at the most
// and closed.
func TestRun(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := simulate(anyPlan(rt))
		for h := range s.broken {
			s.broken[h] = rapid.IntRange(0, 4).Draw(rt, "broken") == 0
			s.rooms = append(s.rooms, schedule.Room{CPUs: rapid.IntRange(1, 8).Draw(rt, "observed CPUs"),
				MemoryBytes: rapid.Int64Range(1, 8).Draw(rt, "observed memory")})
		}
		s.in(t, forever)
		if err := s.check(); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestRunInterrupted: whenever a run ends, nothing new starts, and what was
// opened is closed.
func TestRunInterrupted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := simulate(anyPlan(rt))
		end := time.Duration(rapid.IntRange(0, 60).Draw(rt, "end"))
		took := s.in(t, end)
		var longest time.Duration
		for _, h := range s.plan.Hosts {
			longest = max(longest, h.Closing)
		}
		if took > end+longest {
			rt.Fatalf("ended after %v, was interrupted after %v", took, end)
		}
		if err := s.errAtEnd(); err != nil {
			rt.Fatal(err)
		}
	})
}

func cell(cpus int, memory int64, expected time.Duration) schedule.Cell {
	return schedule.Cell{Claim: schedule.Room{CPUs: cpus, MemoryBytes: memory * gib}, Expected: expected * time.Minute}
}

// twoCores is this: an embedded host, and machines that each need the whole of
// a small computer.
func twoCores() schedule.Plan {
	machine := func(name string, cells ...schedule.Cell) schedule.Host {
		return schedule.Host{Name: name, Own: true, Claim: schedule.Room{CPUs: 2, MemoryBytes: 6 * gib},
			Room: schedule.Room{CPUs: 2, MemoryBytes: 6 * gib}, Opening: time.Minute, Closing: time.Minute, Cells: cells}
	}
	return schedule.Plan{Budget: schedule.Room{CPUs: 2, MemoryBytes: 16 * gib}, Hosts: []schedule.Host{
		machine("short", cell(1, 2, 1)),
		{Name: "embedded", Cells: []schedule.Cell{cell(1, 5, 2), cell(1, 5, 9), cell(1, 5, 8)}},
		machine("long", cell(1, 2, 5), cell(1, 2, 7), cell(1, 2, 6)),
	}}
}

// TestRunOrder: the longest way comes first, what fits beside it runs beside
// it, and a host is up only while it has cells.
func TestRunOrder(t *testing.T) {
	g := NewWithT(t)
	s := simulate(twoCores())
	took := s.in(t, forever)
	g.Expect(s.check()).To(Succeed())
	g.Expect(s.log).To(ConsistOf(
		" 0 open h2", " 1 run h2/1", " 1 run h2/2", " 7 run h2/0", "12 close h2",
		"13 open h1", "13 run h1/1", "13 run h1/2", "21 run h1/0", "23 close h1",
		"23 open h0", "24 run h0/0", "25 close h0"))
	g.Expect(took).To(Equal((1 + 6 + 5 + 1 + 8 + 2 + 1 + 1 + 1) * time.Minute))
	g.Expect(schedule.Makespan(twoCores())).To(Equal(took))
	g.Expect(s.waited).To(Equal([][]int{{0, 1}}))
}

// TestRunCellsAtOneTime: the limit is the run's, not a host's.
func TestRunCellsAtOneTime(t *testing.T) {
	g := NewWithT(t)
	p := twoCores()
	p.Cells = 1
	p.Budget.CPUs = 64
	s := simulate(p)
	took := s.in(t, forever)
	g.Expect(s.check()).To(Succeed())
	g.Expect(took).To(BeNumerically(">=", (1+2+9+8+5+7+6)*time.Minute))
}

// TestRunRefuses: what never fits says what it needs, what there is, and what
// to change.
func TestRunRefuses(t *testing.T) {
	g := NewWithT(t)
	own := schedule.Room{CPUs: 2, MemoryBytes: 6 * gib}
	s := simulate(schedule.Plan{Budget: schedule.Room{CPUs: 2, MemoryBytes: 8 * gib}, Hosts: []schedule.Host{
		{Name: "embedded", Cells: []schedule.Cell{cell(3, 1, 1), cell(1, 1, 1)}},
		{Name: "only-big", Cells: []schedule.Cell{cell(1, 9, 1)}},
		{Name: "big", Own: true, Claim: schedule.Room{CPUs: 2, MemoryBytes: 9 * gib}, Room: own, Cells: []schedule.Cell{cell(1, 1, 1)}},
		{Name: "small", Own: true, Claim: own, Room: own, Cells: []schedule.Cell{cell(2, 10, 1)}},
		{Name: "empty"},
	}})
	s.in(t, forever)
	g.Expect(s.check()).To(Succeed())
	said := map[[2]int]string{}
	for id, errs := range s.refused {
		said[id] = errs[0].Error()
	}
	g.Expect(said).To(Equal(map[[2]int]string{
		{0, 0}: "the cell needs 3 CPUs and 1024 MiB of memory, the budget holds 2 CPUs and 8192 MiB of memory; raise budget, or lower budget.node in the matrix",
		{1, 0}: "the cell needs 1 CPUs and 9216 MiB of memory, the budget holds 2 CPUs and 8192 MiB of memory; raise budget, or lower budget.node in the matrix",
		{2, 0}: "host big needs 2 CPUs and 9216 MiB of memory, the budget holds 2 CPUs and 8192 MiB of memory; raise budget, or lower cpus or memory of the host in the matrix",
		{3, 0}: "the cell needs 2 CPUs and 10240 MiB of memory, host small holds 2 CPUs and 6144 MiB of memory; give the host more CPUs and memory, or lower budget.node in the matrix",
	}))
	g.Expect(s.opened).To(Equal([]int{1, 0, 0, 1, 0}))
}

// TestRunEndedBefore: a run that was over before it began opens nothing.
func TestRunEndedBefore(t *testing.T) {
	g := NewWithT(t)
	s := simulate(twoCores())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	schedule.Run(ctx, s.plan, s)
	g.Expect(s.errAtEnd()).To(Succeed())
	g.Expect(s.opened).To(Equal([]int{0, 0, 0}))
}

// TestMakespanNearItsBound: on 500 random matrices the real scheduler takes at
// most 1.15 times of what no scheduler can beat, and as long as was expected.
func TestMakespanNearItsBound(t *testing.T) {
	for seed := range uint64(500) {
		s := simulate(randomPlan(seed))
		took := s.in(t, forever)
		if err := s.check(); err != nil {
			t.Fatalf("matrix %d: %v", seed, err)
		}
		if seed%10 == 0 { // ordering is what takes time here
			if expected := schedule.Makespan(s.plan); took != expected {
				t.Errorf("matrix %d takes %v, expected were %v", seed, took, expected)
			}
		}
		if bound := lowerBound(s.plan); took < bound || float64(took) > 1.15*float64(bound) {
			t.Errorf("matrix %d takes %v, its lower bound is %v", seed, took, bound)
		}
	}
}

// BenchmarkMakespanOverBound reports how far 500 random matrices are from
// their lower bound.
func BenchmarkMakespanOverBound(b *testing.B) {
	for b.Loop() {
		var ratios []float64
		sum := 0.0
		for seed := range uint64(500) {
			p := randomPlan(seed)
			r := float64(schedule.Makespan(p)) / float64(lowerBound(p))
			ratios = append(ratios, r)
			sum += r
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[499], "max")
		b.ReportMetric(ratios[474], "p95")
		b.ReportMetric(sum/500, "mean")
	}
}

// manyCells is a matrix of n cells, a hundred to a host.
func manyCells(n int) schedule.Plan {
	p := schedule.Plan{Budget: schedule.Room{CPUs: 64, MemoryBytes: 256 * gib}}
	for seed := uint64(0); n > 0; seed++ {
		for _, h := range randomPlan(seed).Hosts {
			if h.Own && (h.Claim.CPUs > 64 || h.Claim.MemoryBytes > 256*gib) || !h.Own && h.Cells[0].Claim.CPUs > 64 {
				continue
			}
			few := h.Cells
			h.Cells = nil
			for c := range min(n, 100) {
				h.Cells = append(h.Cells, few[c%len(few)])
			}
			n -= len(h.Cells)
			p.Hosts = append(p.Hosts, h)
			if n == 0 {
				break
			}
		}
	}
	return p
}

// instant does everything at once.
type instant struct{ plan schedule.Plan }

func (i instant) Open(_ context.Context, h int) (schedule.Room, error) {
	return i.plan.Hosts[h].Room, nil
}
func (instant) Run(context.Context, int, int)           {}
func (instant) Close(context.Context, int)              {}
func (instant) Refuse(context.Context, int, int, error) {}
func (instant) Wait([]int, schedule.Room)               {}

// BenchmarkCells orders and runs plans that take no time themselves; memory
// for each cell should be the same however many there are.
func BenchmarkCells(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := manyCells(n)
			b.ReportAllocs()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				schedule.Run(b.Context(), p, instant{p})
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/float64(n), "B/cell")
		})
	}
}
