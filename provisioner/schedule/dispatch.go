package schedule

import (
	"math"
	"slices"
)

// kind is what is to be done.
type kind int

const (
	open kind = iota
	run
	shut
	refuse
)

// action is one decision.
type action struct {
	kind       kind
	host, cell int
	err        error
}

// dispatcher decides what starts next. It knows neither time nor goroutines:
// next says what to do, and what came of it is told by opened, ended and
// closed. One that is simulated and one that is real decide alike.
type dispatcher struct {
	plan Plan
	ranks
	hosts []host
	// free is what is left of the budget, places of the cells at one time.
	free   Room
	places int
	// lines wait for the budget's room.
	lines   []line
	stopped bool
	// todo was decided already.
	todo []action
	// stirred are the hosts whose own lines may move again; machine says the
	// same of lines.
	stirred []int
	machine bool
}

// ranks say who comes first: the lowest of those that fit. Hosts and cells are
// ranked together, as both wait for the budget's room.
type ranks struct {
	hosts []int
	cells [][]int
}

// host is where a host of the plan stands.
type host struct {
	up bool
	// free is what is left of its own room, lines wait for it.
	free  Room
	lines []line
	// first is the cell whose room was taken with the host's, and which starts
	// when it is open; -1 where that is not known before.
	first int
	// left were neither run nor refused, running run.
	left, running int
}

// line is a queue of those that claim the same, so that only its head needs
// to be looked at.
type line struct {
	claim Room
	queue []waiter
	// mixed: somebody joined since it was put into order.
	mixed bool
}

// waiter is a cell, or a host to open where cell is -1.
type waiter struct{ host, cell, rank int }

func newDispatcher(plan Plan, r ranks) *dispatcher {
	d := &dispatcher{plan: plan, ranks: r, hosts: make([]host, len(plan.Hosts)), free: plan.Budget, places: plan.Cells, machine: true}
	if plan.Cells == 0 {
		d.places = math.MaxInt
	}
	for h := range plan.Hosts {
		d.admit(h)
	}
	d.lines = ordered(d.lines)
	return d
}

// admit lets a host wait for its opening, and refuses what never fits.
func (d *dispatcher) admit(h int) {
	p, s := &d.plan.Hosts[h], &d.hosts[h]
	s.first, s.left = -1, len(p.Cells)
	if p.Own && !d.plan.Budget.holds(p.Claim) {
		d.refuseAll(h, &RoomError{What: "host " + p.Name, Claim: p.Claim, Of: "the budget", Has: d.plan.Budget,
			Remedy: "raise budget, or lower cpus or memory of the host in the matrix"})
		return
	}
	claim := p.Claim
	if !p.Own {
		for c := range p.Cells {
			if d.plan.Budget.holds(p.Cells[c].Claim) && (s.first < 0 || d.ranks.cells[h][c] < d.ranks.cells[h][s.first]) {
				s.first = c
			}
		}
		if s.first < 0 {
			d.refuseMisfits(h, d.plan.Budget)
			return
		}
		claim = p.Cells[s.first].Claim
	}
	if s.left > 0 {
		d.lines = join(d.lines, claim, waiter{h, -1, d.ranks.hosts[h]})
	}
}

func (d *dispatcher) refuse(h, c int, err error) {
	d.todo = append(d.todo, action{refuse, h, c, err})
	d.hosts[h].left--
}

func (d *dispatcher) refuseAll(h int, err error) {
	for c := range d.plan.Hosts[h].Cells {
		d.refuse(h, c, err)
	}
}

// refuseMisfits refuses the cells that would not fit if nothing else ran.
func (d *dispatcher) refuseMisfits(h int, in Room) {
	p := &d.plan.Hosts[h]
	for c := range p.Cells {
		if in.holds(p.Cells[c].Claim) {
			continue
		}
		err := &RoomError{What: "the cell", Claim: p.Cells[c].Claim, Of: "the budget", Has: in,
			Remedy: "raise budget, or lower budget.node in the matrix"}
		if p.Own {
			err.Of, err.Remedy = "host "+p.Name, "give the host more CPUs and memory, or lower budget.node in the matrix"
		}
		d.refuse(h, c, err)
	}
}

// join adds a waiter to the line of its claim.
func join(lines []line, claim Room, w waiter) []line {
	for i := range lines {
		if lines[i].claim == claim {
			lines[i].queue = append(lines[i].queue, w)
			lines[i].mixed = true
			return lines
		}
	}
	return append(lines, line{claim: claim, queue: []waiter{w}})
}

// ordered puts the first in rank first in each line.
func ordered(lines []line) []line {
	for i := range lines {
		if l := &lines[i]; l.mixed {
			slices.SortFunc(l.queue, func(a, b waiter) int { return a.rank - b.rank })
			l.mixed = false
		}
	}
	return lines
}

// best finds the first in rank of all heads that fit, or nil.
func best(lines []line, free Room, than *line) *line {
	for i := range lines {
		l := &lines[i]
		if len(l.queue) > 0 && free.holds(l.claim) && (than == nil || l.queue[0].rank < than.queue[0].rank) {
			than = l
		}
	}
	return than
}

// next decides what to do now; ok is false when the next event must come first.
func (d *dispatcher) next() (a action, ok bool) {
	if len(d.todo) > 0 {
		a, d.todo = d.todo[0], d.todo[1:]
		return a, true
	}
	if d.stopped || d.places == 0 {
		return action{}, false
	}
	var l *line
	if d.machine {
		l = best(d.lines, d.free, nil)
	}
	for _, h := range d.stirred {
		l = best(d.hosts[h].lines, d.hosts[h].free, l)
	}
	if l == nil {
		d.machine, d.stirred = false, d.stirred[:0]
		return action{}, false
	}
	w := l.queue[0]
	l.queue = l.queue[1:]
	if w.cell < 0 {
		d.free = d.free.minus(l.claim)
		d.places--
		return action{kind: open, host: w.host}, true
	}
	return d.start(w.host, w.cell), true
}

// start takes a cell's room and place.
func (d *dispatcher) start(h, c int) action {
	d.places--
	s := &d.hosts[h]
	s.left--
	s.running++
	room := d.roomOf(h)
	*room = room.minus(d.plan.Hosts[h].Cells[c].Claim)
	return action{kind: run, host: h, cell: c}
}

// roomOf is the room that a host's cells claim of.
func (d *dispatcher) roomOf(h int) *Room {
	if d.plan.Hosts[h].Own {
		return &d.hosts[h].free
	}
	return &d.free
}

// opened is told what came of an opening. The place and the room that were
// taken for the first cell are its own now.
func (d *dispatcher) opened(h int, room Room, err error) {
	p, s := &d.plan.Hosts[h], &d.hosts[h]
	d.placeFree()
	if s.first >= 0 {
		d.free = d.free.plus(p.Cells[s.first].Claim)
	}
	if err != nil {
		d.refuseAll(h, err)
		d.closed(h)
		return
	}
	s.up, s.free = true, room
	if !p.Own {
		room = d.plan.Budget
	}
	d.refuseMisfits(h, room)
	if d.stopped {
		d.leave(h)
		return
	}
	var lines []line
	for c := range p.Cells {
		switch {
		case !room.holds(p.Cells[c].Claim):
		case p.Own:
			lines = join(lines, p.Cells[c].Claim, waiter{h, c, d.ranks.cells[h][c]})
		case c != s.first:
			d.lines = join(d.lines, p.Cells[c].Claim, waiter{h, c, d.ranks.cells[h][c]})
		}
	}
	if p.Own {
		s.lines = ordered(lines)
		if l := best(s.lines, s.free, nil); l != nil {
			s.first = l.queue[0].cell
			l.queue = l.queue[1:]
		}
		d.stirred = append(d.stirred, h)
	} else {
		d.lines = ordered(d.lines)
		d.machine = true
	}
	if s.first >= 0 {
		d.todo = append(d.todo, d.start(h, s.first))
	}
	d.leave(h)
}

// ended is told that a cell has ended.
func (d *dispatcher) ended(h, c int) {
	s := &d.hosts[h]
	s.running--
	room := d.roomOf(h)
	*room = room.plus(d.plan.Hosts[h].Cells[c].Claim)
	if d.plan.Hosts[h].Own {
		d.stirred = append(d.stirred, h)
	} else {
		d.machine = true
	}
	d.placeFree()
	d.leave(h)
}

// closed is told that a host is closed, or was never open.
func (d *dispatcher) closed(h int) {
	d.machine = true
	if d.plan.Hosts[h].Own {
		d.free = d.free.plus(d.plan.Hosts[h].Claim)
	}
}

// placeFree gives a place back. Where places are short, anybody may have
// waited for it.
func (d *dispatcher) placeFree() {
	d.places++
	if d.plan.Cells == 0 {
		return
	}
	d.machine = true
	d.stirred = d.stirred[:0]
	for h := range d.hosts {
		if d.hosts[h].up {
			d.stirred = append(d.stirred, h)
		}
	}
}

// leave closes a host that has nothing more to do.
func (d *dispatcher) leave(h int) {
	s := &d.hosts[h]
	if s.up && s.running == 0 && (s.left == 0 || d.stopped) {
		s.up = false
		d.todo = append(d.todo, action{kind: shut, host: h})
	}
}

// stop lets nothing more start but the closing of hosts.
func (d *dispatcher) stop() {
	if d.stopped {
		return
	}
	d.stopped = true
	for h := range d.hosts {
		d.leave(h)
	}
}

// waiting lists the hosts that wait to be opened.
func (d *dispatcher) waiting() []int {
	var hosts []int
	for _, l := range d.lines {
		for _, w := range l.queue {
			if w.cell < 0 {
				hosts = append(hosts, w.host)
			}
		}
	}
	slices.Sort(hosts)
	return hosts
}
