package schedule_test

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

// lowerBound is a time that no schedule of the plan can beat: the larger of
// the critical path and the total work over the capacity, where a host with
// room of its own is as long as its own cells make it, and is itself a piece of
// the budget's work.
func lowerBound(p schedule.Plan) time.Duration {
	var least time.Duration
	var pieces []piece
	for _, h := range p.Hosts {
		var cells []piece
		for _, c := range h.Cells {
			cells = append(cells, piece{c.Claim, c.Expected})
		}
		room := p.Budget
		if h.Own {
			room = h.Room
		}
		up := h.Opening + makespanBound(room, cells) + h.Closing
		least = max(least, up)
		if h.Own {
			pieces = append(pieces, piece{h.Claim, up})
		} else {
			pieces = append(pieces, cells...)
		}
	}
	return max(least, makespanBound(p.Budget, pieces))
}

// piece is something that takes a claim for a time, without a break.
type piece struct {
	claim  schedule.Room
	length time.Duration
}

// makespanBound is what no schedule of the pieces can beat.
func makespanBound(room schedule.Room, pieces []piece) time.Duration {
	pieces = slices.DeleteFunc(slices.Clone(pieces), func(p piece) bool { return p.claim == schedule.Room{} })
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(b.length, a.length) })
	return apartBound(room, pieces, 0, 3)
}

// apartBound is a bound, or least if it finds none above it. Beside work and
// lanes it looks at pieces that cannot run beside others: while one runs, none
// of those that do not fit beside it does, so that they need the time before
// and after it for themselves.
func apartBound(room schedule.Room, pieces []piece, least time.Duration, depth int) time.Duration {
	var sum time.Duration
	for _, p := range pieces {
		sum += p.length
	}
	if len(pieces) == 0 || sum <= least {
		return least
	}
	least = max(least, pieces[0].length, workBound(room, pieces), laneBound(room, pieces))
	if depth == 0 {
		return least
	}
	seen := map[schedule.Room]bool{}
	for _, one := range pieces { // the longest of each claim
		if seen[one.claim] {
			continue
		}
		seen[one.claim] = true
		apart := func(p piece) bool {
			return p.claim.CPUs+one.claim.CPUs > room.CPUs || p.claim.MemoryBytes+one.claim.MemoryBytes > room.MemoryBytes
		}
		// One, or all of its claim if they cannot run beside each other either.
		alone := one.length
		if apart(one) {
			alone = 0
		}
		var others []piece
		for _, p := range pieces {
			switch {
			case !apart(p):
			case p.claim == one.claim:
				alone += p.length
			default:
				others = append(others, p)
			}
		}
		least = max(least, alone+apartBound(room, others, least-alone, depth-1))
	}
	return least
}

// kindOf are all pieces of one claim.
type kindOf struct {
	claim schedule.Room
	count int
	total float64
}

// workBound is the total work over the capacity. Where claims do not fill the
// room, not all of it is capacity: give each claim a price, and let the dearest
// set of pieces that fits together cost 1. Then one second is worth at most 1,
// and all the work takes at least its price: any prices give a bound, those of
// CPU and memory the plain ones, and better ones are looked for.
func workBound(room schedule.Room, pieces []piece) time.Duration {
	var kinds []kindOf
	for _, p := range pieces {
		i := slices.IndexFunc(kinds, func(k kindOf) bool { return k.claim == p.claim })
		if i < 0 {
			i, kinds = len(kinds), append(kinds, kindOf{claim: p.claim})
		}
		kinds[i].count++
		kinds[i].total += p.length.Seconds()
	}
	best := 0.0
	cpu, memory := make([]float64, len(kinds)), make([]float64, len(kinds))
	for i, k := range kinds {
		cpu[i] = float64(k.claim.CPUs) / float64(room.CPUs)
		memory[i] = float64(k.claim.MemoryBytes) / float64(room.MemoryBytes)
	}
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		prices := make([]float64, len(kinds))
		for i := range prices {
			prices[i] = share*cpu[i] + (1-share)*memory[i]
		}
		for step := 0.3; step > 0.01; step *= 0.93 {
			most, set := dearest(room, kinds, prices)
			worth := 0.0
			for i, k := range kinds {
				worth += prices[i] * k.total
			}
			best = max(best, worth/most)
			// What the dearest set holds more of than its part of the work is
			// too dear.
			for i, k := range kinds {
				prices[i] *= math.Exp(step * (k.total/best - float64(set[i])) / float64(k.count))
			}
		}
	}
	return time.Duration(best * float64(time.Second))
}

// dearest is the most that pieces can cost which fit together, and how many of
// each these are; where that takes too long to find, a cost that none exceeds.
func dearest(room schedule.Room, kinds []kindOf, prices []float64) (float64, []int) {
	// The dearest by room come first, so that the rest is soon seen to be too
	// little.
	order := make([]int, len(kinds))
	density := make([]float64, len(kinds))
	for i, k := range kinds {
		order[i] = i
		density[i] = prices[i] / max(float64(k.claim.CPUs)/float64(room.CPUs), float64(k.claim.MemoryBytes)/float64(room.MemoryBytes))
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(density[b], density[a]) })
	// upper is what the rest can add at most, by either room alone.
	upper := func(from int, free schedule.Room) float64 {
		byCPU, byMemory := 0.0, 0.0
		for _, i := range order[from:] {
			if c := kinds[i].claim.CPUs; c > 0 {
				byCPU = max(byCPU, prices[i]/float64(c)*float64(free.CPUs))
			} else {
				byCPU = math.Inf(1)
			}
			if m := kinds[i].claim.MemoryBytes; m > 0 {
				byMemory = max(byMemory, prices[i]/float64(m)*float64(free.MemoryBytes))
			} else {
				byMemory = math.Inf(1)
			}
		}
		return min(byCPU, byMemory)
	}
	var most float64
	set, bestSet := make([]int, len(kinds)), make([]int, len(kinds))
	looked, unfinished := 0, false
	var look func(from int, free schedule.Room, cost float64)
	look = func(from int, free schedule.Room, cost float64) {
		if cost > most {
			most = cost
			copy(bestSet, set)
		}
		if from == len(order) || unfinished {
			return
		}
		if cost+upper(from, free) <= most*(1+1e-9) {
			return
		}
		if looked++; looked > 2000 {
			unfinished = true
			return
		}
		i := order[from]
		fits := kinds[i].count
		if c := kinds[i].claim.CPUs; c > 0 {
			fits = min(fits, free.CPUs/c)
		}
		if m := kinds[i].claim.MemoryBytes; m > 0 {
			fits = min(fits, int(free.MemoryBytes/m))
		}
		for n := fits; n >= 0; n-- {
			set[i] = n
			taken := schedule.Room{CPUs: free.CPUs - n*kinds[i].claim.CPUs, MemoryBytes: free.MemoryBytes - int64(n)*kinds[i].claim.MemoryBytes}
			look(from+1, taken, cost+float64(n)*prices[i])
		}
		set[i] = 0
	}
	look(0, room, 0)
	if unfinished {
		most = max(most, upper(0, room))
	}
	// A bound on time must not profit from rounding.
	return most * (1 + 1e-9), bestSet
}

// laneBound looks at sets of the longest pieces: if at most n of a set fit
// together then they can be put into n lanes without overlap, and one lane has
// its share of them, at the least the shortest ones.
func laneBound(room schedule.Room, pieces []piece) time.Duration {
	var least time.Duration
	floors := []schedule.Room{{}}
	for _, p := range pieces {
		for _, f := range []schedule.Room{p.claim, {CPUs: p.claim.CPUs}, {MemoryBytes: p.claim.MemoryBytes}} {
			if !slices.Contains(floors, f) {
				floors = append(floors, f)
			}
		}
	}
	for _, floor := range floors {
		var set []piece // the longest first
		for _, p := range pieces {
			if p.claim.CPUs >= floor.CPUs && p.claim.MemoryBytes >= floor.MemoryBytes {
				set = append(set, p)
			}
		}
		for n := 2; n <= len(set); n++ {
			lane := (n + together(room, set[:n]) - 1) / together(room, set[:n])
			var sum time.Duration
			for _, p := range set[n-lane : n] {
				sum += p.length
			}
			least = max(least, sum)
		}
	}
	return least
}

// together is how many pieces of a set fit together at most, by CPUs and by
// memory alone.
func together(room schedule.Room, set []piece) int {
	cpus, memory := make([]int64, len(set)), make([]int64, len(set))
	for i, p := range set {
		cpus[i], memory[i] = int64(p.claim.CPUs), p.claim.MemoryBytes
	}
	fit := func(claims []int64, room int64) int {
		slices.Sort(claims)
		for n, c := range claims {
			if room -= c; room < 0 {
				return n
			}
		}
		return len(claims)
	}
	return min(fit(cpus, int64(room.CPUs)), fit(memory, room.MemoryBytes))
}
