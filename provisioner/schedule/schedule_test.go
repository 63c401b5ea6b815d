package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

func TestRunNeverExceedsTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		budget := schedule.Budget{CPUs: 4, MemoryBytes: 10, Jobs: 3}
		var cpus, memory, running, most, ran atomic.Int64
		var jobs []schedule.Job
		for i := range 50 {
			claim := schedule.Claim{CPUs: 1 + i%3, MemoryBytes: int64(1 + i%5)}
			jobs = append(jobs, schedule.Job{Name: fmt.Sprint(i), Claim: claim, Run: func(context.Context) {
				ran.Add(1)
				g.Expect(cpus.Add(int64(claim.CPUs))).To(BeNumerically("<=", 4))
				g.Expect(memory.Add(claim.MemoryBytes)).To(BeNumerically("<=", 10))
				n := running.Add(1)
				g.Expect(n).To(BeNumerically("<=", 3))
				most.Store(max(most.Load(), n))
				time.Sleep(time.Duration(1+i%7) * time.Second)
				running.Add(-1)
				cpus.Add(int64(-claim.CPUs))
				memory.Add(-claim.MemoryBytes)
			}})
		}
		schedule.Run(t.Context(), budget, jobs)
		g.Expect(ran.Load()).To(BeEquivalentTo(50))
		g.Expect(most.Load()).To(BeNumerically(">", 1), "jobs that fit run side by side")
	})
}

func TestRunStartsTheLongestFirst(t *testing.T) {
	g := NewWithT(t)
	var order []string
	job := func(name string, expected time.Duration) schedule.Job {
		return schedule.Job{Name: name, Expected: expected, Claim: schedule.Claim{CPUs: 1},
			Run: func(context.Context) { order = append(order, name) }}
	}
	schedule.Run(t.Context(), schedule.Budget{CPUs: 1}, []schedule.Job{job("short", 1), job("long", 3), job("middle", 2)})
	g.Expect(order).To(Equal([]string{"long", "middle", "short"}))
}

func TestRunStartsNothingAfterTheEnd(t *testing.T) {
	g := NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	ran := 0
	job := schedule.Job{Claim: schedule.Claim{CPUs: 1}, Run: func(context.Context) { ran++; cancel() }}
	schedule.Run(ctx, schedule.Budget{CPUs: 1}, []schedule.Job{job, job, job})
	g.Expect(ran).To(Equal(1))
}

func TestFits(t *testing.T) {
	g := NewWithT(t)
	b := schedule.Budget{CPUs: 2, MemoryBytes: 4 << 30}
	g.Expect(b.Fits(schedule.Claim{CPUs: 2, MemoryBytes: 4 << 30})).To(Succeed())
	var over *schedule.OverBudgetError
	g.Expect(errors.As(b.Fits(schedule.Claim{CPUs: 3}), &over)).To(BeTrue())
	g.Expect(over.Error()).To(ContainSubstring("3 CPUs"))
}
