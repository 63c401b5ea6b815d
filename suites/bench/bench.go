// Package bench measures what the harness costs: one cell by lxcmatrix run,
// and the same steps by hand, with the commands incus, kubeadm and kubectl, on
// the same prepared image and the same kind of daemon, in turns. Stability
// windows, which nobody waits for by hand, are not counted, nor is the start
// of the daemon on either side.
package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Times is how long each proving phase of a cell took, without what was
// waited in stability windows.
type Times map[matrix.Phase]time.Duration

// OfAttempt reads the times of an attempt at a cell that passed. A phase
// counts from the end of the one before, so that what lies between two phases
// is not lost.
func OfAttempt(a matrix.Attempt) (Times, error) {
	times := Times{}
	last := a.Started
	for _, phase := range (matrix.Cell{}).ProvingPhases() {
		r, ok := a.Phase(phase)
		if !ok {
			return nil, fmt.Errorf("read how long the cell took: %s has no result", phase)
		}
		end := r.Started.Add(r.Duration.Std())
		times[phase] = end.Sub(last) - r.Waited.Std()
		last = end
	}
	return times, nil
}

// Through is the time from the beginning to the end of a phase.
func (t Times) Through(last matrix.Phase) time.Duration {
	var sum time.Duration
	for _, phase := range (matrix.Cell{}).ProvingPhases() {
		sum += t[phase]
		if phase == last {
			break
		}
	}
	return sum
}

// Healthy is the time from nothing to a healthy cluster.
func (t Times) Healthy() time.Duration { return t.Through(matrix.PhaseBaseline) }

// Whole is the time of the whole cell, both restarts included.
func (t Times) Whole() time.Duration { return t.Through(matrix.PhaseForcedRecover) }

// Pair is one cell by the harness and one by hand.
type Pair struct {
	Harness, Hand Times
	// Ready is how long lxcmatrix run took until the cell began: the plan, the
	// daemon's start, the artifacts' verification. It is not part of Harness.
	Ready time.Duration
	// PeakBytes is the most resident memory that lxcmatrix run had.
	PeakBytes int64
}

// number is what can be summarised.
type number interface{ ~int64 }

// summary is the middle of several measurements, and how far they spread.
type summary[N number] struct{ median, least, most N }

// summarise needs one value at least. The median of an even number of values
// is the mean of the two in the middle.
func summarise[N number](values []N) summary[N] {
	s := slices.Sorted(slices.Values(values))
	middle := len(s) / 2
	median := s[middle]
	if len(s)%2 == 0 {
		median = (s[middle-1] + s[middle]) / 2
	}
	return summary[N]{median: median, least: s[0], most: s[len(s)-1]}
}
