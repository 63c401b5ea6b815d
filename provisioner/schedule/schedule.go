// Package schedule admits cells within a budget: what runs at one time never
// claims more memory, CPUs or places than there are.
package schedule

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Claim is what a job needs while it runs.
type Claim struct {
	CPUs        int
	MemoryBytes int64
}

// Budget is what all running jobs share. Zero Jobs means as many as fit.
type Budget struct {
	CPUs        int
	MemoryBytes int64
	Jobs        int
}

// Job is one cell to run.
type Job struct {
	Name  string
	Claim Claim
	// Expected is how long it is expected to take; longer ones start first.
	Expected time.Duration
	// Run does the work; it is called once, unless ctx ends before.
	Run func(ctx context.Context)
}

// OverBudgetError is a job that can never be admitted.
type OverBudgetError struct {
	Claim  Claim
	Budget Budget
}

// Error names the claim and the budget.
func (e *OverBudgetError) Error() string {
	return fmt.Sprintf("the cell needs %d CPUs and %d MiB of memory, the budget holds %d CPUs and %d MiB; raise budget or lower budget.node in the matrix",
		e.Claim.CPUs, e.Claim.MemoryBytes>>20, e.Budget.CPUs, e.Budget.MemoryBytes>>20)
}

// Fits says whether a claim fits into an empty budget; *OverBudgetError if not.
func (b Budget) Fits(c Claim) error {
	if c.CPUs > b.CPUs || c.MemoryBytes > b.MemoryBytes {
		return &OverBudgetError{Claim: c, Budget: b}
	}
	return nil
}

// Run runs the jobs, longest expected first, each as soon as its claim fits,
// and returns when all that were started have ended. Jobs must fit the budget.
// When ctx ends, no further job is started.
func Run(ctx context.Context, budget Budget, jobs []Job) {
	waiting := slices.Clone(jobs)
	slices.SortStableFunc(waiting, func(a, b Job) int { return cmp.Compare(b.Expected, a.Expected) })
	ended := make(chan Claim)
	var running int
	var used Claim
	var wait sync.WaitGroup
	for len(waiting) > 0 || running > 0 {
		for i := 0; i < len(waiting) && ctx.Err() == nil; {
			j := waiting[i]
			full := budget.Jobs > 0 && running >= budget.Jobs
			if full || used.CPUs+j.Claim.CPUs > budget.CPUs || used.MemoryBytes+j.Claim.MemoryBytes > budget.MemoryBytes {
				i++
				continue
			}
			waiting = slices.Delete(waiting, i, i+1)
			used.CPUs += j.Claim.CPUs
			used.MemoryBytes += j.Claim.MemoryBytes
			running++
			wait.Go(func() {
				j.Run(ctx)
				ended <- j.Claim
			})
		}
		if running == 0 {
			// Nothing runs and nothing was admitted: the run was ended.
			break
		}
		c := <-ended
		running--
		used.CPUs -= c.CPUs
		used.MemoryBytes -= c.MemoryBytes
	}
	wait.Wait()
}
