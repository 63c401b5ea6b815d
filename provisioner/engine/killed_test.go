package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine/simulated"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus/fakeincus"
)

// process is a process that works on a run and may be killed: with a call that it
// makes, its run's folder is copied as it is, and nothing that it does from then
// on is seen by anybody.
type process struct {
	stage  *stage
	random *rand.Rand
	// dir is the folder that it writes, left the copy; left is there once it is
	// dead.
	dir, left string
	// at is the call with which it is killed, and calls how many it made; 0 is
	// never.
	at, calls int
	kill      func()

	mu    sync.Mutex
	dead  bool
	conns []net.Conn
	err   error
}

// dial is the process' way to the servers.
func (p *process) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := p.stage.network.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, errors.Join(&net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}, conn.Close())
	}
	p.conns = append(p.conns, conn)
	return conn, nil
}

// met is told of each call that a server takes. The one that the process is
// killed with may still be obeyed.
func (p *process) met(int, fakeincus.Call) fakeincus.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return fakeincus.Cut
	}
	p.calls++
	if p.calls != p.at {
		return fakeincus.None
	}
	p.die()
	return []fakeincus.Fault{fakeincus.Cut, fakeincus.Lost}[p.random.IntN(2)]
}

// die kills the process; the lock is held.
func (p *process) die() {
	p.err = crash(p.random, p.dir, p.left)
	p.dead = true
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.kill()
}

// crash copies a run's folder as a crash leaves it: the journal ends at any byte,
// and a file that was being written is beside the one that it would have
// replaced.
func crash(random *rand.Rand, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was being written
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		switch d.Name() {
		case "events.ndjson":
			content = content[:random.IntN(len(content)+1)]
		case "result.json":
			if random.IntN(4) == 0 {
				torn := filepath.Join(to, filepath.Dir(rel), ".writing-result.json-1")
				if err := os.WriteFile(torn, content[:random.IntN(len(content))], 0o600); err != nil {
					return err
				}
			}
		}
		return os.WriteFile(filepath.Join(to, rel), content, 0o600)
	})
}

// mortal is a run that processes work on, one after the other.
type mortal struct {
	*stage
	plan   matrix.Plan
	random *rand.Rand
	base   string
	// cells are those of the plan, by the names that their nodes may have.
	cellOf map[string]matrix.Cell
	// seen are the runs as each dead process left them.
	seen []matrix.Run
}

// The variants of cells that do not pass, and that nobody keeps from it.
const (
	failing   = "failing"
	expected  = "expected"
	undecided = "undecided"
)

func drawMortal(t *testing.T, random *rand.Rand, identity fakeincus.Identity) *mortal {
	s := scenario{hosts: 1 + random.IntN(2), attempts: 1 + random.IntN(2)}
	kinds := []string{"", "", failing, expected, undecided}
	for h := range s.hosts {
		for i := range 1 + random.IntN(2) {
			kind := kinds[random.IntN(len(kinds))]
			c := cellOn(fmt.Sprintf("host%d", h), []string{"1", "1", "1+1"}[random.IntN(3)])
			c.Host.Driver, c.Soak = "remote", []int{0, 0, 2}[random.IntN(3)]
			if kind == expected {
				c.Expect = &matrix.Expectation{Phase: matrix.PhaseInstall, Signature: "known", Issue: "https://example.org/1"}
			}
			s.cells = append(s.cells, named(c, fmt.Sprintf("v%d%s", i, kind)))
		}
	}
	m := &mortal{stage: &stage{scenario: s, identity: identity}, random: random, base: memory(t), cellOf: map[string]matrix.Cell{}}
	m.plan = planOf(s.cells...)
	m.plan.Budget.Node.MemoryBytes = nodeMemory
	const most = 20 // attempts, killed ones among them
	for _, c := range s.cells {
		for attempt := range most {
			for i := range c.Topology.Nodes() {
				m.cellOf[cell.NodeName(c, "r", attempt+1, i)] = c
			}
		}
	}
	m.command = m.answer
	return m
}

// answer is what commands print in the nodes of each kind of cell.
func (m *mortal) answer(c fakeincus.Command) (string, int) {
	of := m.cellOf[c.Instance].Variant()
	switch {
	case slices.Contains(c.Args, "init") && (strings.HasSuffix(of, failing) || strings.HasSuffix(of, expected)),
		slices.Contains(c.Args, "after-restart") && strings.HasSuffix(of, undecided):
		return "it is as it is\n", 1
	}
	return simulated.Answer(c)
}

// process works on the run in a folder, until it is killed with its at-th call or
// ends, and returns the run as it left it, and whether it was killed. A run that
// was there goes on.
func (m *mortal) process(t *testing.T, n, at int) (left matrix.Run, calls int, killed bool) {
	dir := filepath.Join(m.base, strconv.Itoa(n))
	folder, err := runfolder.Open(dir)
	var earlier *matrix.Run
	if errors.Is(err, fs.ErrNotExist) {
		folder, err = runfolder.Create(dir, matrix.Run{ID: "r", Plan: m.plan})
	} else if err == nil {
		var was matrix.Run
		if was, err = folder.Read(); err == nil {
			earlier = &was
		}
	}
	if err == nil {
		err = folder.Begin(time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	p := &process{stage: m.stage, random: m.random, dir: dir, left: filepath.Join(m.base, strconv.Itoa(n+1)), at: at, kill: kill}
	m.met, m.dial, m.folder = p.met, p.dial, folder
	e := engine.New(engine.Options{Ground: m, Plan: m.plan, Folder: folder, Attempts: m.attempts, Earlier: earlier, Clock: bubbleClock{}})
	e.Start(ctx)
	e.Wait()
	// What servers still do for it is done, and what they cannot tell it is over.
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if at > p.calls && !p.dead {
		// It had nothing left to do but to say that it is over.
		p.die()
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	if !p.dead {
		m.allEnded(t, folder)
	}
	if err := folder.Close(); err != nil {
		t.Fatal(err)
	}
	if p.dead {
		dir = p.left
	}
	if folder, err = runfolder.Open(dir); err != nil {
		t.Fatal(err)
	}
	if left, err = folder.Read(); err != nil {
		t.Fatal(err)
	}
	return left, p.calls, p.dead
}

// allEnded sees that a run which is over tells the end of each cell, after all else
// of it.
func (m *mortal) allEnded(t *testing.T, folder *runfolder.Folder) {
	events, err := folder.Events()
	if err != nil {
		t.Fatal(err)
	}
	last := map[matrix.CellID]runfolder.EventKind{}
	for _, e := range events {
		last[e.Cell] = e.Kind
	}
	for _, c := range m.plan.Cells {
		if last[c.ID] != runfolder.CellEnded {
			t.Errorf("the last that is told of cell %s is %q", c.ID, last[c.ID])
		}
	}
}

// told is a run as its table tells it: without what chance and time decide.
func (m *mortal) told(run matrix.Run) string {
	var b strings.Builder
	names := regexp.MustCompile(`kubeadm-134-debian-13-[0-9a-f]{6}-`)
	for _, r := range run.Results {
		fmt.Fprintf(&b, "%s: %s %s: %s, %d tries\n", r.Cell.ID, r.Judgement.Verdict, r.Judgement.Phase, r.Judgement.Reason, matrix.Tries(r.Cell, r.Attempts))
		last, _ := r.Last()
		for _, p := range last.Phases {
			fmt.Fprintf(&b, "  %s: %s %s\n", p.Phase, matrix.JudgePhase(p).Verdict, p.Error)
			for _, e := range p.Evidence {
				fmt.Fprintf(&b, "    %s\n", e)
			}
		}
		for _, d := range last.Diagnoses {
			fmt.Fprintf(&b, "  diagnosis: %s\n", d.Signature)
		}
	}
	text := names.ReplaceAllString(b.String(), "")
	text = regexp.MustCompile(` in [0-9.a-zµ]+\n`).ReplaceAllString(text, "\n")
	text = regexp.MustCompile(`stopped at [0-9:]+`).ReplaceAllString(text, "stopped")
	// What was left to remove when the last process began is not the table's.
	return regexp.MustCompile(`nodes: \d+ nodes removed`).ReplaceAllString(text, "nodes removed")
}

// collect removes what is left on the servers, as lxcmatrix gc does: by its owner.
// It returns how much there was to remove, and what is there after it.
func (m *mortal) collect(t *testing.T) (removed int, leaked []string) {
	m.met, m.dial = func(int, fakeincus.Call) fakeincus.Fault { return fakeincus.None }, nil
	for h, server := range m.servers {
		opened, err := m.Open(t.Context(), matrix.HostRef{Name: fmt.Sprintf("host%d", h)})
		if err != nil {
			t.Fatal(err)
		}
		of := opened.(*stageHost).Host
		owned, err := of.Server.Owned(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range owned {
			if o.Owner["run"] != "r" {
				continue
			}
			if _, of := m.cellOf[o.Name]; of {
				leaked = append(leaked, o.Name+", which the run that went on should have removed")
			}
			if err := deleteFrom(t.Context(), of, o.Name); err != nil {
				t.Fatal(err)
			}
			removed++
		}
		for _, left := range server.All() {
			leaked = append(leaked, left.Name)
		}
		if err := of.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return removed, leaked
}

func deleteFrom(ctx context.Context, h *host.Host, name string) error {
	return h.Server.Instance(name, "").Delete(ctx)
}

// TestKilled kills a run's process with a call that it makes, at random, and what
// goes on with it again, up to four times. In the end no phase that was finished
// is lost or another, the run tells what one tells that nobody killed, and gc
// leaves nothing. LXCMATRIX_TEST_KILLS is how often somebody dies.
func TestKilled(t *testing.T) {
	most := 10
	if more := os.Getenv("LXCMATRIX_TEST_KILLS"); more != "" {
		var err error
		if most, err = strconv.Atoi(more); err != nil {
			t.Fatal(err)
		}
	}
	identity := newIdentity(t)
	kills, runs, removed, kept, phases := 0, 0, 0, 0, 0
	for ; kills < most; runs++ {
		seed := uint64(runs)
		again := func() *mortal { return drawMortal(t, rand.New(rand.NewPCG(seed, 1)), identity) }
		var calls int
		var want string
		synctest.Test(t, func(t *testing.T) {
			m := again()
			m.serve(t)
			var run matrix.Run
			run, calls, _ = m.process(t, 0, 0)
			want = m.told(run)
		})
		synctest.Test(t, func(t *testing.T) {
			m := again()
			m.serve(t)
			var run matrix.Run
			times := 1 + m.random.IntN(4)
			var moments []int
			for n := range times + 1 {
				at := 0
				if n < times {
					at = 1 + m.random.IntN(calls+calls/10)
				}
				var died bool
				run, _, died = m.process(t, n, at)
				moments = append(moments, at)
				if died {
					kills++
					m.seen = append(m.seen, run)
				}
			}
			for _, r := range m.seen[len(m.seen)-1].Results {
				for _, a := range r.Attempts {
					phases += len(a.Phases)
				}
				if matrix.Over(r.Cell, r.Attempts, m.attempts) {
					kept++
				}
			}
			var problems []string
			for n, was := range m.seen {
				for _, lost := range matrix.Lost(was, run) {
					problems = append(problems, fmt.Sprintf("as process %d left it: %s", n, lost))
				}
			}
			if got := m.told(run); got != want {
				problems = append(problems, "it tells otherwise than one that nobody killed:\n"+cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
			}
			gone, leaked := m.collect(t)
			removed += gone
			if len(leaked) > 0 {
				problems = append(problems, "gc leaves "+strings.Join(leaked, ", "))
			}
			if len(problems) > 0 {
				t.Errorf("run %d, killed with calls %v of %d, %d attempts:\n%s", seed, moments, calls, m.attempts, strings.Join(problems, "\n"))
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d processes of %d runs were killed; before the last went on, %d finished phases were there and %d cells over; lost or changed: 0; removed by gc: %d; leaked: 0; every table as if nobody had been killed",
		kills, runs, phases, kept, removed)
}
