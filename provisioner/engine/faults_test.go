package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine/simulated"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus/fakeincus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/memnet"
)

// fault is one thing that goes wrong on a host's server. Instances are told by
// the ends of their names, or by how they begin where they are there to look.
type fault struct {
	host           int
	what, instance string
	nth            int
	kind           fakeincus.Fault
}

func (f fault) String() string {
	return fmt.Sprintf("host%d: %s %d of %q: %s", f.host, f.what, f.nth, f.instance, f.kind)
}

// scenario is a run and what goes wrong in it.
type scenario struct {
	hosts, attempts int
	cells           []matrix.Cell
	faults          []fault
	// interrupt is when somebody ends the run; 0 is never.
	interrupt time.Duration
}

func drawScenario(t *rapid.T) scenario {
	s := scenario{hosts: rapid.IntRange(1, 2).Draw(t, "hosts"), attempts: rapid.IntRange(1, 2).Draw(t, "attempts")}
	for h := range s.hosts {
		for i := range rapid.IntRange(1, 3).Draw(t, "cells") {
			c := named(cellOn(fmt.Sprintf("host%d", h), rapid.SampledFrom([]string{"1", "1", "1+1"}).Draw(t, "topology")), fmt.Sprintf("v%d", i))
			c.Host.Driver = "remote"
			s.cells = append(s.cells, c)
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "faults") {
		s.faults = append(s.faults, fault{rapid.IntRange(0, s.hosts-1).Draw(t, "host"), rapid.SampledFrom(fakeincus.Calls()).Draw(t, "call"),
			rapid.SampledFrom([]string{"s1", "a1", "observe", ""}).Draw(t, "instance"), rapid.IntRange(1, 12).Draw(t, "nth"),
			rapid.SampledFrom(fakeincus.Faults()).Draw(t, "fault")})
	}
	if rapid.IntRange(0, 3).Draw(t, "interrupted") == 0 {
		s.interrupt = time.Duration(rapid.IntRange(1, 600).Draw(t, "after")) * time.Second
	}
	return s
}

const nodeMemory, hostMemory = 4 * gib, 8 * gib

// stage is the hosts of a scenario: fake servers behind real drivers.
type stage struct {
	scenario
	identity fakeincus.Identity
	network  memnet.Network
	servers  []*fakeincus.Server
	// met, if set, says what goes wrong with a call in the place of the scenario's
	// faults.
	met func(host int, c fakeincus.Call) fakeincus.Fault
	// command, if set, is what commands print in the place of simulated.Answer.
	command func(fakeincus.Command) (string, int)
	// dial, if set, is the way to the servers in the place of the network's own.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// folder, if set, keeps the cells' logs, in which a diagnosis is found.
	folder *runfolder.Folder

	mu sync.Mutex
	// hit counts the faults that happened, by host.
	hit []int
	// running are the nodes of cells that run now, and entered the hygiene looks
	// that were not ended.
	running map[string]bool
	entered int
	broken  []string
}

func (s *stage) violated(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
}

// serve starts the servers.
func (s *stage) serve(t *testing.T) {
	s.running, s.hit = map[string]bool{}, make([]int, s.hosts)
	for h := range s.hosts {
		command := simulated.Answer
		if s.command != nil {
			command = s.command
		}
		fake := fakeincus.New(fakeincus.Options{CPUs: 4, MemoryBytes: hostMemory, Command: command,
			Fault:   func(c fakeincus.Call) fakeincus.Fault { return s.faultOf(h, c) },
			Created: func(all []fakeincus.State) { s.budget(h, all) }})
		server := s.network.Server(t, 8443+h, fake)
		server.TLS = s.identity.Server
		server.StartTLS()
		t.Cleanup(fake.Close)
		s.servers = append(s.servers, fake)
	}
}

func (s *stage) faultOf(h int, c fakeincus.Call) fakeincus.Fault {
	if s.met != nil {
		return s.met(h, c)
	}
	for _, f := range s.faults {
		of := f.instance == "" && c.Instance == "" || f.instance != "" && (strings.HasPrefix(c.Instance, f.instance) || strings.HasSuffix(c.Instance, "-"+f.instance))
		if f.host == h && f.what == c.What && f.nth == c.Nth && of {
			s.mu.Lock()
			s.hit[h]++
			s.mu.Unlock()
			return f.kind
		}
	}
	return fakeincus.None
}

// budget holds the nodes of the cells that run to what there is.
func (s *stage) budget(h int, all []fakeincus.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	memory := 0
	for _, one := range all {
		if s.running[one.Name] {
			n, err := strconv.Atoi(one.Config["limits.memory"])
			if err != nil {
				s.broken = append(s.broken, fmt.Sprintf("node %s has no limit of memory: %v", one.Name, err))
			}
			memory += n
		}
	}
	if memory > hostMemory {
		s.broken = append(s.broken, fmt.Sprintf("host%d: nodes of %d bytes of memory where there are %d", h, memory, hostMemory))
	}
}

// Open opens a host through its driver.
func (s *stage) Open(ctx context.Context, ref matrix.HostRef) (engine.Host, error) {
	h, err := strconv.Atoi(strings.TrimPrefix(ref.Name, "host"))
	if err != nil {
		return nil, err
	}
	dial := s.network.DialContext
	if s.dial != nil {
		dial = s.dial
	}
	server, err := incus.ConnectHTTPS(ctx, "https://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(8443+h)),
		incus.TLS{Server: s.identity.Certificate, ClientCert: s.identity.ClientCert, ClientKey: s.identity.ClientKey, Dial: dial})
	if err != nil {
		return nil, err
	}
	opened, err := host.OpenServer(ctx, server, ref.Remote, false)
	if err != nil {
		return nil, err
	}
	facts, err := opened.Facts(ctx)
	if err != nil {
		return nil, errors.Join(err, opened.Close(ctx))
	}
	return &stageHost{stage: s, Host: opened, looking: make(chan struct{}, 1), facts: facts}, nil
}

type stageHost struct {
	*stage
	*host.Host
	// looking holds whose look it is: a mutex would hold the bubble's time up.
	looking chan struct{}
	known   sync.Mutex
	facts   matrix.HostFacts
}

func (h *stageHost) Facts() matrix.HostFacts {
	h.known.Lock()
	defer h.known.Unlock()
	return h.facts
}

func (h *stageHost) Gate(matrix.Cell) (*matrix.GateFinding, error) { return nil, nil }

func (h *stageHost) Ready(ctx context.Context, c matrix.Cell) (engine.Runner, error) {
	h.looking <- struct{}{}
	defer func() { <-h.looking }()
	facts := h.Facts()
	if facts.Cgroup == "" {
		var err error
		if facts, err = h.FactsFrom(ctx, facts, "image", map[string]string{"run": "r"}); err != nil {
			return nil, err
		}
		h.known.Lock()
		h.facts = facts
		h.known.Unlock()
	}
	minute := matrix.Duration(time.Minute)
	return &stageRunner{h, cell.Runner{Host: h.Host, Facts: facts, Distro: simulated.Distro{}, Fixes: simulated.Fixes{}, Health: simulated.Health{}, Hygiene: stageHygiene{h.stage},
		Diagnose: func(context.Context) ([]matrix.Diagnosis, error) { return h.diagnose(c) },
		KeepLog:  func(node, name string, content []byte) error { return h.keepLog(c, node, name, content) },
		Keep:     cell.KeepNever, Limits: matrix.NodeLimits{MemoryBytes: nodeMemory}, Images: map[matrix.OS]string{{Name: "debian/13"}: "image"}, Provenance: "release",
		Owner: map[string]string{"run": "r"}, Clock: bubbleClock{},
		Timeouts: matrix.Timeouts{Create: 2 * minute, Fix: minute, Install: 5 * minute, Recover: 3 * minute, Restart: 2 * minute, Collect: minute, Destroy: minute, Stability: minute}}}, nil
}

func (s *stage) keepLog(c matrix.Cell, node, name string, content []byte) error {
	if s.folder == nil {
		return nil
	}
	_, err := s.folder.WriteLog(c.ID, node, name, content)
	return err
}

// diagnose finds a signature where a node's journal was kept.
func (s *stage) diagnose(c matrix.Cell) ([]matrix.Diagnosis, error) {
	if s.folder == nil {
		return nil, nil
	}
	logs, err := s.folder.Logs(c.ID)
	if slices.ContainsFunc(logs, func(l runfolder.Log) bool { return l.Name == "journal.log" }) {
		return []matrix.Diagnosis{{Signature: "known"}}, err
	}
	return nil, err
}

// stageRunner notes which nodes a cell claims room for.
type stageRunner struct {
	host   *stageHost
	runner cell.Runner
}

func (r *stageRunner) Run(ctx context.Context, c matrix.Cell, attempt int, changed func(matrix.Attempt)) matrix.Attempt {
	claim := func(now bool) {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		for i := range c.Topology.Nodes() {
			if now {
				r.host.running[cell.NodeName(c, "r", attempt, i)] = true
			} else {
				delete(r.host.running, cell.NodeName(c, "r", attempt, i))
			}
		}
	}
	claim(true)
	defer claim(false)
	return r.runner.Run(ctx, c, attempt, changed)
}

func (r *stageRunner) TakeUp(ctx context.Context, c matrix.Cell, attempt int, begun matrix.Attempt, changed func(matrix.Attempt)) (matrix.Attempt, error) {
	return r.runner.TakeUp(ctx, c, attempt, begun, changed)
}

// stageHygiene counts the looks at a host that were begun and not ended.
type stageHygiene struct{ *stage }

func (h stageHygiene) Enter(context.Context, matrix.CellID) func(context.Context, bool) matrix.Hygiene {
	count := func(by int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.entered += by
	}
	count(1)
	return func(context.Context, bool) matrix.Hygiene {
		count(-1)
		return matrix.Hygiene{}
	}
}

type bubbleClock struct{}

func (bubbleClock) Now() time.Time { return time.Now() }

func (bubbleClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// play runs a scenario in a bubble, in which nothing may stay behind, and
// returns how the engine's promises were broken.
func (s *stage) play(t *testing.T) (run matrix.Run, broken []string) {
	dir := filepath.Join(memory(t), "run")
	synctest.Test(t, func(t *testing.T) {
		s.serve(t)
		plan := planOf(s.cells...)
		plan.Budget.Node.MemoryBytes = nodeMemory
		folder, err := runfolder.Create(dir, matrix.Run{ID: "r", Plan: plan})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		e := engine.New(engine.Options{Ground: s, Plan: plan, Folder: folder, Attempts: s.attempts, Clock: bubbleClock{}})
		began := time.Now()
		e.Start(ctx)
		if s.interrupt > 0 {
			timer := time.AfterFunc(s.interrupt, cancel)
			defer timer.Stop()
		}
		e.Wait()
		took := time.Since(began)
		if s.interrupt > 0 && took > s.interrupt+teardown {
			s.violated("it ended %s after it was interrupted", took-s.interrupt)
		}
		if most := time.Duration(len(s.cells)*s.attempts) * longestAttempt; took > most {
			s.violated("it took %s", took)
		}
		if run, err = folder.Read(); err != nil {
			t.Fatal(err)
		}
		if err := folder.Close(); err != nil {
			t.Fatal(err)
		}
	})
	s.judge(run)
	return run, s.broken
}

const (
	// teardown is how long it may take after an interruption.
	teardown = 40 * time.Second
	// longestAttempt is more than all deadlines of an attempt together.
	longestAttempt = time.Hour
)

// judge holds what is on disk against what happened.
func (s *stage) judge(run matrix.Run) {
	if s.entered != 0 {
		s.violated("%d looks at the host were begun and not ended", s.entered)
	}
	if len(run.Results) != len(s.cells) {
		s.violated("%d results of %d cells", len(run.Results), len(s.cells))
	}
	for _, r := range run.Results {
		for i, a := range r.Attempts {
			s.judgeAttempt(r.Cell, i+1, a)
		}
		verdict := r.Judgement.Verdict
		if verdict == matrix.Pass && (len(r.Attempts) == 0 || !proven(r.Attempts[len(r.Attempts)-1])) {
			s.violated("cell %s passes without evidence of every phase", r.Cell.ID)
		}
		if verdict == matrix.Unknown && s.interrupt == 0 {
			s.violated("cell %s has no verdict: %s", r.Cell.ID, r.Judgement.Reason)
		}
		h, _ := strconv.Atoi(strings.TrimPrefix(r.Cell.Host.Name, "host"))
		if verdict != matrix.Pass && s.interrupt == 0 && s.hit[h] == 0 {
			s.violated("cell %s is %s, and nothing went wrong on its host: %s", r.Cell.ID, verdict, r.Judgement.Reason)
		}
	}
}

// proven says whether every phase has evidence, all of it healthy.
func proven(a matrix.Attempt) bool {
	for _, p := range (matrix.Cell{}).ProvingPhases() {
		r, ran := a.Phase(p)
		if !ran || r.Error != "" || len(r.Evidence) == 0 || slices.ContainsFunc(r.Evidence, func(e matrix.Evidence) bool { return e.Outcome != matrix.Healthy || e.Saw == "" }) {
			return false
		}
	}
	return true
}

// judgeAttempt: phases come in their order, none is left out before the one
// that ended the cell, and then it is torn down; a node that is still there
// shows in the attempt.
func (s *stage) judgeAttempt(c matrix.Cell, attempt int, a matrix.Attempt) {
	var went []matrix.Phase
	for _, r := range a.Phases {
		went = append(went, r.Phase)
	}
	proving := (matrix.Cell{}).ProvingPhases()
	n := 0
	for n < len(went) && n < len(proving) && went[n] == proving[n] {
		n++
		if r := a.Phases[n-1]; matrix.JudgePhase(r).Verdict != matrix.Pass && n < len(went) && slices.Contains(proving, went[n]) {
			s.violated("cell %s went on after %s: %v", c.ID, r.Phase, went)
		}
	}
	// A cell that could not be made ready has nothing to tear down.
	stopped := len(went) == 1 && went[0] == matrix.PhaseCreate && a.Phases[0].Duration == 0
	if !stopped && !slices.Equal(went[n:], []matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}) {
		s.violated("cell %s went through %v", c.ID, went)
	}
	destroyed, _ := a.Phase(matrix.PhaseDestroy)
	h, _ := strconv.Atoi(strings.TrimPrefix(c.Host.Name, "host"))
	for i := range c.Topology.Nodes() {
		name := cell.NodeName(c, "r", attempt, i)
		for _, left := range s.servers[h].All() {
			if left.Name == name && destroyed.Error == "" {
				s.violated("node %s is still there, its end was asked for %d times, and destroy says nothing", name, left.Deletes)
			}
		}
	}
}

// TestFaults: whatever the server does, a cell's phases come in their order and
// none is skipped, nothing passes without evidence, whatever was created is
// torn down or told of, no more runs than fits, every wait ends, and no
// goroutine stays.
func TestFaults(t *testing.T) {
	identity := newIdentity(t)
	// A scenario is some hundred connections: as many as take seconds, and the same
	// ones every time, but where somebody asks for more or for others.
	for name, value := range map[string]string{"rapid.checks": "10", "rapid.seed": "1"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := f.Value.Set(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		s := drawScenario(r)
		run, broken := (&stage{scenario: s, identity: identity}).play(t)
		if len(broken) > 0 {
			for _, result := range run.Results {
				r.Logf("%s: %+v", result.Cell.ID, result.Judgement)
			}
			r.Fatalf("%v, %d attempts, interrupted after %s:\n%s", s.faults, s.attempts, s.interrupt, strings.Join(broken, "\n"))
		}
	})
}

// TestEveryFault: each fault of each call, alone; most of them keep a cell from
// passing, and none does so as if the node had done it, but where it may have.
func TestEveryFault(t *testing.T) {
	identity := newIdentity(t)
	var mu sync.Mutex
	verdicts := map[matrix.Verdict]int{}
	alone := func(t *testing.T, f fault) {
		t.Parallel()
		c := cellOn("host0", "1")
		c.Host.Driver = "remote"
		s := &stage{scenario: scenario{hosts: 1, attempts: 1, cells: []matrix.Cell{c}, faults: []fault{f}}, identity: identity}
		run, broken := s.play(t)
		if len(broken) > 0 {
			t.Errorf("%+v\n%s", run.Results[0].Judgement, strings.Join(broken, "\n"))
		}
		if s.hit[0] == 0 {
			t.Error("it was not met")
		}
		mu.Lock()
		defer mu.Unlock()
		verdicts[run.Results[0].Judgement.Verdict]++
	}
	t.Run("each", func(t *testing.T) {
		for _, what := range fakeincus.Calls() {
			// Not of an instance's are the calls about the server.
			f := fault{what: what, nth: 1}
			switch what {
			case fakeincus.Info, fakeincus.Resources, fakeincus.Pool, fakeincus.Instances:
			default:
				f.instance = "s1"
			}
			kinds := fakeincus.Faults()
			switch what {
			case fakeincus.Create, fakeincus.Start, fakeincus.Stop, fakeincus.Restart, fakeincus.Delete, fakeincus.Exec:
			default:
				kinds = []fakeincus.Fault{fakeincus.Unavailable, fakeincus.Garbage, fakeincus.Cut, fakeincus.Hangs}
			}
			for _, f.kind = range kinds {
				t.Run(fmt.Sprintf("%s/%s", what, f.kind), func(t *testing.T) { alone(t, f) })
			}
		}
	})
	if verdicts[matrix.Pass] == 0 || verdicts[matrix.Fail] == 0 || verdicts[matrix.Blocked] < verdicts[matrix.Pass] {
		t.Errorf("verdicts: %v", verdicts)
	}
}

// newIdentity is what the servers of a test share.
func newIdentity(t *testing.T) fakeincus.Identity {
	t.Helper()
	identity, err := fakeincus.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// memory is a folder for a run: in memory, where that can be, as the engine
// syncs every result to disk.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lxcmatrix-") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
