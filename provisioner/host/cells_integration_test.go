//go:build integration

package host_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// ground is one host that is open already. Its cells go through the engine and
// through all of their phases with real nodes; what they would install, and
// what they would look at, is a function of the test's.
type ground struct {
	host  *host.Host
	facts matrix.HostFacts
	image string
	// install takes the place of a distribution, and mark is called before each
	// restart. Both may be nil; without mark a cell ends at its baseline, which
	// is undecided.
	install func(ctx context.Context, c matrix.Cell, node provisioner.Node) error
	mark    func(ctx context.Context, c matrix.Cell, node provisioner.Node)
}

// nodeRoom is what one of these nodes needs of a pool.
const nodeRoom = 256 << 20

var (
	small = matrix.NodeLimits{MemoryBytes: 256 << 20, Processes: 200}
	// patient: no phase ends by its deadline.
	patient = matrix.Timeouts{Create: hour, Fix: hour, Install: hour, Recover: hour, Restart: hour, Collect: hour, Destroy: hour}
)

const hour = matrix.Duration(time.Hour)

func newGround(t *testing.T, h *host.Host) *ground {
	t.Helper()
	facts, err := h.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image := tinyimage.Import(t, h.Server, "cells", "sh", "uname", "stat", "cat", "head", "timeout")
	return &ground{host: h, facts: facts, image: image.Fingerprint}
}

// run takes cells through the engine, one after the other, and returns their
// results once all have ended.
func (g *ground) run(t *testing.T, names ...string) []matrix.Result {
	t.Helper()
	plan := matrix.Plan{APIVersion: matrix.PlanAPIVersion,
		Budget:   matrix.Budget{CPUs: 2, MemoryBytes: 4 << 30, Cells: 1, Node: small},
		Timeouts: patient}
	for _, name := range names {
		c := matrix.Cell{Host: matrix.HostRef{Name: "here", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
			OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}, Variants: []string{name}}
		c.ID = c.NewID()
		plan.Cells = append(plan.Cells, c)
	}
	folder, err := runfolder.Create(filepath.Join(t.TempDir(), "run"), matrix.Run{ID: "test", Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	e := engine.New(engine.Options{Ground: g, Plan: plan, Folder: folder, Clock: clock{}})
	e.Start(ctx)
	for _, err := range e.Wait() {
		t.Error(err)
	}
	if ctx.Err() != nil {
		t.Error("the cells had not ended after 10 minutes")
	}
	kept, err := folder.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range kept.Results {
		t.Logf("%s: %s: %s", r.Cell.ID, r.Judgement.Verdict, r.Judgement.Reason)
		if last, ok := r.Last(); ok {
			for _, p := range last.Phases {
				t.Logf("  %s %s %s", p.Phase, p.Duration.Std().Round(100*time.Millisecond), p.Error)
			}
		}
	}
	return kept.Results
}

func (g *ground) Open(context.Context, matrix.HostRef) (engine.Host, error) {
	return openGround{g}, nil
}

// openGround outlives a run: its test closes the host.
type openGround struct{ *ground }

var _ engine.Mortal = openGround{}

func (g openGround) Facts() matrix.HostFacts                       { return g.facts }
func (g openGround) Gate(matrix.Cell) (*matrix.GateFinding, error) { return nil, nil }
func (g openGround) Close(context.Context) error                   { return nil }
func (g openGround) Done() <-chan struct{}                         { return g.host.Done() }
func (g openGround) Err() error                                    { return g.host.Err() }
func (g openGround) Ready(ctx context.Context, c matrix.Cell) (engine.Runner, error) {
	if err := g.host.Room(ctx, nodeRoom); err != nil {
		return nil, err
	}
	f := fakes{g.ground, c}
	return &cell.Runner{Host: g.host, Facts: g.facts, Distro: f, Fixes: f, Health: f, Hygiene: f, Clock: clock{}, Keep: cell.KeepNever,
		KeepLog:  func(string, string, []byte) error { return nil },
		Diagnose: func(context.Context) ([]matrix.Diagnosis, error) { return nil, nil },
		Limits:   small, Images: map[matrix.OS]string{c.OS: g.image}, Owner: map[string]string{"kind": "node", "run": "test"}, Timeouts: patient}, nil
}

// fakes stand for what a cell would install, fix and look at.
type fakes struct {
	*ground
	cell matrix.Cell
}

// enough is why a cell is not restarted.
const enough = "the test has seen enough"

func healthy(check string) []matrix.Evidence {
	return []matrix.Evidence{{Check: check, Outcome: matrix.Healthy, Saw: "a fake"}}
}

func (f fakes) Decide(matrix.Cell, matrix.HostFacts, *matrix.NodeFacts) ([]matrix.AppliedFix, error) {
	return nil, nil
}
func (f fakes) Desired([]matrix.AppliedFix, cell.NodeContext) (provisioner.Desired, error) {
	return provisioner.Desired{Incus: provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true"}}}, nil
}
func (f fakes) Apply(context.Context, provisioner.Node, provisioner.Desired) error { return nil }
func (f fakes) Verify(context.Context, provisioner.Node, provisioner.Desired, matrix.Phase) []matrix.Evidence {
	return healthy("fix")
}
func (f fakes) Configure(ctx context.Context, node provisioner.Node, _ provisioner.Desired) error {
	if f.install == nil {
		return nil
	}
	return f.install(ctx, f.cell, node)
}
func (f fakes) Init(context.Context, provisioner.Node, provisioner.Desired) ([]byte, error) {
	return nil, nil
}
func (f fakes) Join(context.Context, []provisioner.Node, provisioner.Node, matrix.Role, provisioner.Desired) error {
	return nil
}
func (f fakes) Connect(context.Context, []provisioner.Node) error { return nil }
func (f fakes) Services(matrix.Role) []string                     { return nil }
func (f fakes) LogCommands() map[string]string                    { return nil }
func (f fakes) AfterServices(context.Context, *provisioner.Cluster, cell.Mark) ([]matrix.Evidence, time.Duration) {
	return healthy("after-services"), 0
}
func (f fakes) Away(context.Context, *provisioner.Cluster, []string, time.Duration) []matrix.Evidence {
	return healthy("away")
}
func (f fakes) BeginRollout(_ context.Context, _ *provisioner.Cluster, mark cell.Mark) (cell.Mark, []matrix.Evidence) {
	return mark, healthy("rolling")
}
func (f fakes) AfterAway(context.Context, *provisioner.Cluster, cell.Mark, []string) ([]matrix.Evidence, time.Duration) {
	return healthy("after-away"), 0
}
func (f fakes) Baseline(context.Context, *provisioner.Cluster) ([]matrix.Evidence, time.Duration) {
	if f.mark == nil {
		return []matrix.Evidence{{Check: "baseline", Saw: enough}}, 0
	}
	return healthy("baseline"), 0
}
func (f fakes) Follow(context.Context, *provisioner.Cluster, cell.Mark, []string) func() matrix.Recovery {
	return func() matrix.Recovery { return matrix.Recovery{} }
}
func (f fakes) Returned(context.Context, *provisioner.Cluster, cell.Mark, []string) []matrix.Evidence {
	return healthy("returned")
}
func (f fakes) Mark(ctx context.Context, cluster *provisioner.Cluster) (cell.Mark, error) {
	if f.mark != nil {
		f.mark(ctx, f.cell, cluster.Nodes[0])
	}
	return nil, nil
}
func (f fakes) AfterRestart(context.Context, *provisioner.Cluster, cell.Mark) ([]matrix.Evidence, time.Duration) {
	return healthy("recovered"), 0
}
func (f fakes) Enter(context.Context, matrix.CellID) func(context.Context, bool) matrix.Hygiene {
	return func(context.Context, bool) matrix.Hygiene { return matrix.Hygiene{NotObserved: "a fake"} }
}

type clock struct{}

func (clock) Now() time.Time { return time.Now() }

func (clock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fullPool: a cell whose node finds no room to write is blocked, with what is
// free, and so is the next one, before it has a node. With room again they go
// on. fill takes so many bytes of the pool, and empty gives them back.
func fullPool(t *testing.T, here *ground, fill func(ctx context.Context, bytes int64) error, empty func() error) {
	t.Helper()
	g := NewWithT(t)
	here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error {
		free, err := here.host.Server.Free(ctx)
		if err != nil {
			return err
		}
		if err := fill(ctx, *free-32<<20); err != nil {
			return err
		}
		return writeMuch(ctx, node)
	}
	blockedByTheDisk(g, here.run(t, "first", "second"))

	g.Expect(empty()).To(Succeed())
	here.install = func(ctx context.Context, _ matrix.Cell, node provisioner.Node) error { return writeMuch(ctx, node) }
	comesToItsBaseline(g, here.run(t, "third")[0])
}

// daemonRestarts: what is under way on a node when its host's daemon ends is
// the world's doing, and what comes after the next one is up goes on.
func daemonRestarts(t *testing.T, here *ground, restart func(context.Context) error) {
	t.Helper()
	g := NewWithT(t)
	here.install = func(ctx context.Context, c matrix.Cell, node provisioner.Node) error {
		if c.Variants[0] == "second" {
			return nil
		}
		return whileItSleeps(ctx, node, restart)
	}
	results := here.run(t, "first", "second")
	blockedIn(g, results[0], matrix.PhaseInstall)
	comesToItsBaseline(g, results[1])
}

// writeMuch writes more than a full pool takes.
func writeMuch(ctx context.Context, node provisioner.Node) error {
	_, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", "head -c 67108864 /dev/zero > /var/much"}})
	return err
}

// whileItSleeps runs a command in a node that does not end by itself, does
// something, and returns how the command ended.
func whileItSleeps(ctx context.Context, node provisioner.Node, do func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() {
		_, err := node.Exec(ctx, provisioner.Command{Args: []string{"/sbin/init", "sleep", "/run/sleeps"}})
		ended <- err
	}()
	for {
		if _, err := node.Pull(ctx, "/run/sleeps"); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", undone, err)
	}
	return <-ended
}

// undone is of a test that could not do what it is about.
const undone = "the test failed"

// blockedIn expects that a cell is blocked in a phase, by what the test did.
func blockedIn(g *WithT, r matrix.Result, phase matrix.Phase) {
	g.Expect(r.Judgement.Reason).NotTo(ContainSubstring(undone))
	g.Expect(r.Judgement).To(And(HaveField("Verdict", matrix.Blocked), HaveField("Phase", phase)), r.Judgement.Reason)
}

// blockedByTheDisk expects that the first cell found a full pool in install,
// and the second one before it had a node.
func blockedByTheDisk(g *WithT, results []matrix.Result) {
	blockedIn(g, results[0], matrix.PhaseInstall)
	g.Expect(results[0].Judgement.Reason).To(And(MatchRegexp(`the pool has \d+ MiB free and 64 MiB are needed`), ContainSubstring("No space left on device")))
	blockedIn(g, results[1], matrix.PhaseCreate)
	g.Expect(results[1].Judgement.Reason).To(MatchRegexp(`the pool has \d+ MiB free and 256 MiB are needed`))
}

// comesToItsBaseline expects that all went well as far as a test's cell goes.
func comesToItsBaseline(g *WithT, r matrix.Result) {
	blockedIn(g, r, matrix.PhaseBaseline)
	g.Expect(r.Judgement.Reason).To(ContainSubstring(enough))
}
