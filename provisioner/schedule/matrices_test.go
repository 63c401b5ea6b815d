package schedule_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

const gib = 1 << 30

// randomPlan is a matrix as people may have one. The machine has 2 to 64 CPUs
// and 2, 4 or 8 GiB for each, three quarters of which are the budget. Nodes have
// 2, 3 or 5 GiB. There are 1 to 12 hosts: at most one embedded and one local,
// which share the budget; else machines of 1 to 4 CPUs with memory for 1 to 4
// nodes, and remote servers of 4 to 16 CPUs. Each has 1 to 24 cells of 1 to 3
// nodes. A cell takes 2 to 8 minutes, most of them 3 to 4, and a minute more for
// each further node, and on a machine 1 to 4 times that, as it has KVM or not;
// machines boot in 10 to 90 s, other hosts open within 6, all close within 15.
// What would not fit was made smaller until it does.
func randomPlan(seed uint64) schedule.Plan {
	r := rand.New(rand.NewPCG(seed, 42))
	seconds := func(from, to float64) time.Duration {
		return time.Duration((from + r.Float64()*(to-from)) * float64(time.Second))
	}
	cpus := 2 << r.IntN(6)
	p := schedule.Plan{Budget: schedule.Room{CPUs: cpus, MemoryBytes: max(int64(cpus)<<(1+r.IntN(3))*gib*3/4, 6*gib)}}
	node := []int64{2 * gib, 3 * gib, 5 * gib}[r.IntN(3)]
	var embedded, local bool
	for n := range 1 + r.IntN(12) {
		h := schedule.Host{Name: fmt.Sprint("h", n), Closing: seconds(1, 15)}
		room, slower := p.Budget, 1.0
		switch draw := r.IntN(100); {
		case draw < 25 && !embedded:
			embedded = true
			h.Opening = seconds(3, 6)
		case draw < 35 && !local:
			local = true
			h.Opening = seconds(1, 3)
		case draw < 55:
			c := 4 << r.IntN(3)
			room = schedule.Room{CPUs: c, MemoryBytes: int64(c) * 4 * gib}
			h.Own, h.Room, h.Opening = true, room, seconds(1, 6)
		default:
			h.Claim = schedule.Room{CPUs: min(1+r.IntN(4), cpus), MemoryBytes: min(node<<r.IntN(3)+gib, p.Budget.MemoryBytes)}
			room = schedule.Room{CPUs: h.Claim.CPUs, MemoryBytes: h.Claim.MemoryBytes - 256<<20}
			h.Own, h.Room, h.Opening = true, room, seconds(10, 90)
			slower = 1 + 3*r.Float64()
		}
		for c := range 1 + r.IntN(24) {
			nodes := []int{1, 1, 1, 1, 1, 1, 2, 2, 3, 3}[r.IntN(10)]
			nodes = max(1, min(nodes, room.CPUs, int(room.MemoryBytes/node)))
			took := min(max(math.Exp(math.Log(210)+0.3*r.NormFloat64()), 120), 480) + 60*float64(nodes-1)
			h.Cells = append(h.Cells, schedule.Cell{Name: fmt.Sprint(h.Name, "/", c),
				Claim:    schedule.Room{CPUs: nodes, MemoryBytes: min(int64(nodes)*node, room.MemoryBytes)},
				Expected: time.Duration(took * slower * float64(time.Second))})
		}
		p.Hosts = append(p.Hosts, h)
	}
	return p
}
