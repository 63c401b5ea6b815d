package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/lxcmatrix/lxcmatrix/provisioner/schedule"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// simulated stands for real hosts in a synctest bubble: everything takes its
// time in the bubble's clock, and what must never be is written down.
type simulated struct {
	plan schedule.Plan
	// broken hosts cannot be opened; rooms, if set, are those that hosts with
	// room of their own turn out to have.
	broken []bool
	rooms  []schedule.Room

	mu    sync.Mutex
	wrong []error
	// claimed of the budget, and by host of its own room.
	claimed schedule.Room
	own     []schedule.Room
	running int
	state   []string
	active  []int
	opened  []int
	ran     map[[2]int]int
	refused map[[2]int][]error
	waited  [][]int
	// log is what started, by its minute.
	log   []string
	began time.Time
}

var errBroken = errors.New("it is off")

func simulate(plan schedule.Plan) *simulated {
	n := len(plan.Hosts)
	return &simulated{plan: plan, broken: make([]bool, n), own: make([]schedule.Room, n), state: make([]string, n),
		active: make([]int, n), opened: make([]int, n), ran: map[[2]int]int{}, refused: map[[2]int][]error{}}
}

func (s *simulated) room(h int) schedule.Room {
	switch {
	case !s.plan.Hosts[h].Own:
		return s.plan.Budget
	case s.rooms != nil:
		return s.rooms[h]
	}
	return s.plan.Hosts[h].Room
}

func (s *simulated) fail(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Errorf(format, args...))
}

// note adds to the log; the lock is held.
func (s *simulated) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%2.0f ", time.Since(s.began).Minutes())+fmt.Sprintf(format, args...))
}

// become moves a host on; the lock is held.
func (s *simulated) become(h int, from, to string) {
	if s.state[h] != from {
		s.fail("host %d becomes %q, and was %q", h, to, s.state[h])
	}
	s.state[h] = to
}

// claim adds to what is claimed and looks that it holds; the lock is held.
func (s *simulated) claim(of *schedule.Room, has, claim schedule.Room, times int) {
	of.CPUs += times * claim.CPUs
	of.MemoryBytes += int64(times) * claim.MemoryBytes
	if of.CPUs > has.CPUs || of.MemoryBytes > has.MemoryBytes {
		s.fail("%v are claimed of %v", *of, has)
	}
}

func (s *simulated) pool(h int) *schedule.Room {
	if s.plan.Hosts[h].Own {
		return &s.own[h]
	}
	return &s.claimed
}

// pause takes its time, or less if the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (s *simulated) Open(ctx context.Context, h int) (schedule.Room, error) {
	p := s.plan.Hosts[h]
	s.mu.Lock()
	s.become(h, "", "opening")
	s.opened[h]++
	s.note("open h%d", h)
	if p.Own {
		s.claim(&s.claimed, s.plan.Budget, p.Claim, 1)
	}
	s.mu.Unlock()
	pause(ctx, p.Opening)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken[h] {
		s.become(h, "opening", "broken")
		if p.Own {
			s.claim(&s.claimed, s.plan.Budget, p.Claim, -1)
		}
		return schedule.Room{}, errBroken
	}
	s.become(h, "opening", "up")
	return s.room(h), nil
}

func (s *simulated) Run(ctx context.Context, h, c int) {
	p := s.plan.Hosts[h]
	s.mu.Lock()
	s.ran[[2]int{h, c}]++
	s.note("run h%d/%d", h, c)
	if s.state[h] != "up" {
		s.fail("cell %d runs on host %d, which is %q", c, h, s.state[h])
	}
	s.claim(s.pool(h), s.room(h), p.Cells[c].Claim, 1)
	s.active[h]++
	if s.running++; s.plan.Cells > 0 && s.running > s.plan.Cells {
		s.fail("%d cells run, of %d", s.running, s.plan.Cells)
	}
	s.mu.Unlock()
	pause(ctx, p.Cells[c].Expected)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claim(s.pool(h), s.room(h), p.Cells[c].Claim, -1)
	s.active[h]--
	s.running--
}

func (s *simulated) Close(_ context.Context, h int) {
	p := s.plan.Hosts[h]
	s.mu.Lock()
	s.become(h, "up", "closing")
	s.note("close h%d", h)
	if s.active[h] > 0 {
		s.fail("host %d closes while %d cells run", h, s.active[h])
	}
	s.mu.Unlock()
	time.Sleep(p.Closing)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.become(h, "closing", "closed")
	if p.Own {
		s.claim(&s.claimed, s.plan.Budget, p.Claim, -1)
	}
}

func (s *simulated) Refuse(_ context.Context, h, c int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[[2]int{h, c}] = append(s.refused[[2]int{h, c}], err)
}

func (s *simulated) Wait(hosts []int, free schedule.Room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited = append(s.waited, hosts)
	if free.CPUs < 0 || free.MemoryBytes < 0 {
		s.fail("%v are free", free)
	}
}

// check looks at the end of a run that was not interrupted: every cell ran, or
// was refused with the reason that it had.
func (s *simulated) check() error {
	for h, p := range s.plan.Hosts {
		anyFits := false
		for c, cell := range p.Cells {
			id := [2]int{h, c}
			errs := s.refused[id]
			if s.ran[id]+len(errs) != 1 {
				s.fail("cell %v ran %d times and was refused %d times", id, s.ran[id], len(errs))
				continue
			}
			room := s.room(h)
			fits := cell.Claim.CPUs <= room.CPUs && cell.Claim.MemoryBytes <= room.MemoryBytes
			anyFits = anyFits || fits
			up := !p.Own || p.Claim.CPUs <= s.plan.Budget.CPUs && p.Claim.MemoryBytes <= s.plan.Budget.MemoryBytes
			var room1 *schedule.RoomError
			switch {
			case len(errs) == 0:
				if !fits || !up || s.broken[h] {
					s.fail("cell %v ran", id)
				}
			case !up, !fits && s.state[h] != "broken":
				if !errors.As(errs[0], &room1) {
					s.fail("cell %v was refused with %w", id, errs[0])
				}
			case !s.broken[h] || !errors.Is(errs[0], errBroken):
				s.fail("cell %v was refused with %w", id, errs[0])
			}
		}
	}
	return s.errAtEnd()
}

// errAtEnd is everything that was wrong, however the run ended.
func (s *simulated) errAtEnd() error {
	for h, state := range s.state {
		if state != "" && state != "closed" && state != "broken" {
			s.fail("host %d is left %s", h, state)
		}
	}
	if s.claimed != (schedule.Room{}) || s.running != 0 {
		s.fail("%v are left claimed, %d cells running", s.claimed, s.running)
	}
	if len(s.waited) > 1 {
		s.fail("it was told %d times who waits", len(s.waited))
	}
	return errors.Join(s.wrong...)
}

// in runs the plan in a bubble, ends it after some time, and says how long it
// took.
func (s *simulated) in(t *testing.T, end time.Duration) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), end)
		defer cancel()
		s.began = time.Now()
		schedule.Run(ctx, s.plan, s)
		took = time.Since(s.began)
	})
	return took
}

// forever is longer than any run.
const forever = time.Duration(math.MaxInt64)
