package cell_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/quick"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	"go.uber.org/goleak"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// attempt runs a cell in a bubble of its own, where time passes only while
// all wait, and returns with nothing left running in it.
func attempt(t *testing.T, w *fakeWorld, c matrix.Cell, change func(*cell.Runner)) (a matrix.Attempt) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { a = run(t.Context(), w, c, change) })
	return a
}

func run(ctx context.Context, w *fakeWorld, c matrix.Cell, change func(*cell.Runner)) matrix.Attempt {
	r := w.runner()
	if change != nil {
		change(r)
	}
	return r.Run(ctx, c, 1, func(matrix.Attempt) {})
}

func phases(a matrix.Attempt) (names []matrix.Phase) {
	for _, p := range a.Phases {
		names = append(names, p.Phase)
	}
	return names
}

func verdict(c matrix.Cell, a matrix.Attempt) matrix.Judgement {
	return matrix.Judge(c, []matrix.Attempt{a})
}

func TestPass(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(phases(a)).To(Equal(c.Phases()))
	g.Expect(w.calls).To(HaveExactElements("reserve 1", "acquire 1", "look 1", "create 1", "create s1 1", "boot 1", "observe 1",
		"apply 1", "verify 1", "configure 1", "init 1", "verify 2", "baseline 1",
		"mark 1", "restart 1", "boot 2", "observe 2", "verify 3", "after-restart 1",
		"mark 2", "force-restart 1", "boot 3", "observe 3", "verify 4", "after-restart 2",
		"log 1", "log 2", "log 3", "console 1", "delete 1", "look 2", "release 1"))
	g.Expect(a.Hygiene).To(Equal(&matrix.Hygiene{}))
	g.Expect(w.verified).To(Equal([]matrix.Phase{matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseInstall, matrix.PhaseInstall}))
	g.Expect(a.Nodes).To(HaveLen(1))
	g.Expect(a.Nodes[0].BootIDs).To(Equal([]string{"boot-1", "boot-2", "boot-3"}))
	g.Expect(a.Nodes[0].Containerd).To(Equal("2.1.4"), "not the 2 of containerd/v2")
	g.Expect(a.Nodes[0].Systemd).To(Equal("257"))
	g.Expect(a.Nodes[0].Kubernetes).To(Equal("1.34.4"))
	baseline, _ := a.Phase(matrix.PhaseBaseline)
	g.Expect(baseline.Waited.Std()).To(Equal(stability))
	g.Expect(a.Diagnoses).To(BeEmpty())
	g.Expect(w.logs).To(And(HaveLen(4), HaveKey(a.Nodes[0].Node+"/kubelet.log"), HaveKey(a.Nodes[0].Node+"/state.txt"), HaveKey(a.Nodes[0].Node+"/console.log")))
	g.Expect(w.specs[a.Nodes[0].Node].Owner).To(Equal(map[string]string{"run": "r1", "cell": string(c.ID), "node": "0"}))
}

// TestStay: who stays has the cluster in the place of the restarts, and its logs;
// the cell is taken down then, and proves nothing.
func TestStay(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	var logs map[string][]byte
	a := attempt(t, w, c, func(r *cell.Runner) {
		r.Stay = func(ctx context.Context, l cell.Lodging) {
			g.Expect(l.Cluster.Nodes).To(HaveLen(2))
			var err error
			logs, err = l.Logs(ctx, l.Cluster.Nodes[1])
			g.Expect(err).NotTo(HaveOccurred())
		}
	})
	g.Expect(logs).To(And(HaveKey("kubelet.log"), HaveKey("state.txt")))
	g.Expect(phases(a)).To(Equal([]matrix.Phase{matrix.PhaseCreate, matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseBaseline, matrix.PhaseCollect, matrix.PhaseDestroy}))
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Unknown))
	nodes, leases := w.left()
	g.Expect([]int{nodes, leases}).To(Equal([]int{0, 0}))
}

// TestStayNeedsABaseline: a cluster that is not healthy is nobody's to stay with.
func TestStayNeedsABaseline(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.evidence = func(_ context.Context, called string) matrix.Evidence {
		if called == "baseline 1" {
			return matrix.Evidence{Check: "baseline", Outcome: matrix.Unhealthy, Saw: "it broke", Want: "a whole one"}
		}
		return matrix.Evidence{}
	}
	a := attempt(t, w, c, func(r *cell.Runner) {
		r.Stay = func(context.Context, cell.Lodging) { t.Error("somebody stays") }
	})
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Fail))
	g.Expect(w.logs).To(HaveKeyWithValue("phases/baseline.log", HaveSuffix("Z baseline: it broke, want a whole one\n")))
}

// TestNoLogsOfItsOwn: a distribution without logs leaves those that every node has.
func TestNoLogsOfItsOwn(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.noLogs = true
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Pass))
	g.Expect(w.logs).To(And(HaveLen(2), HaveKey(a.Nodes[0].Node+"/state.txt"), HaveKey(a.Nodes[0].Node+"/console.log")))
}

// TestFurtherRestarts: what the matrix asks for comes after what every cell has.
func TestFurtherRestarts(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+2")
	c.Restarts = []matrix.Restart{matrix.RestartAgentsAway, matrix.RestartService}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(phases(a)).To(Equal([]matrix.Phase{"create", "fix", "install", "baseline", "restart", "recover", "forced-restart", "forced-recover",
		"service-restart", "service-recover", "agents-away", "agents-back", "collect", "destroy"}))
	first := slices.Index(w.calls, "restart-services 1")
	g.Expect(first).To(BeNumerically(">", slices.Index(w.calls, "after-restart 2")))
	g.Expect(w.counts["restart-services"]).To(Equal(3), "all nodes")
	g.Expect(w.calls).To(ContainElements("after-services 1", "stop 2", "away 1m30s of 2 1", "start 2", "after-away of 2 1"))
	g.Expect(w.counts["stop"]).To(Equal(2), "the agents, and no server")
	g.Expect(slices.Index(w.calls, "away 1m30s of 2 1")).To(And(BeNumerically(">", slices.Index(w.calls, "stop 2")), BeNumerically("<", slices.Index(w.calls, "start 1"))))
	for i, want := range []int{3, 4, 4} {
		g.Expect(a.Nodes[i].BootIDs).To(HaveLen(want))
	}
	g.Expect(w.followed).To(HaveExactElements(3, 3, 0, 2), "the nodes that are restarted")
	g.Expect(w.told).To(Equal(4), "each observation ends, once")
	for phase, want := range map[matrix.Phase]*matrix.Duration{"baseline": nil, "restart": nil, "recover": seconds(1), "forced-recover": seconds(2), "service-recover": seconds(3), "agents-back": seconds(4)} {
		if r, _ := a.Phase(phase); want == nil {
			g.Expect(r.Recovery).To(BeNil(), "%s", phase)
		} else {
			g.Expect(r.Recovery).To(HaveValue(HaveField("API", HaveValue(Equal(*want)))), "%s", phase)
		}
	}
	away, _ := a.Phase("agents-away")
	g.Expect(away.Duration.Std()).To(BeNumerically(">=", 90*time.Second))

	c = planned("1")
	c.Restarts = []matrix.Restart{matrix.RestartAgentsGone}
	g.Expect(phases(attempt(t, newFakeWorld(), c, nil))).To(Equal((matrix.Cell{}).Phases()), "there is no agent")
}

// TestDaemonRestarts: a restart of the host's daemon is none of its nodes.
func TestDaemonRestarts(t *testing.T) {
	g := NewWithT(t)
	c := planned("1+1")
	c.Restarts = []matrix.Restart{matrix.RestartDaemon}
	w := newFakeWorld()
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(w.calls).To(ContainElements("mark 3", "restart-daemon 1", "after-services 1"))
	g.Expect(w.followed).To(HaveExactElements(2, 2, 0))
	happened, _ := a.Phase("daemon-restart")
	g.Expect(happened.Evidence).To(HaveExactElements(HaveField("Saw", HavePrefix("process 1 ended, and process 2 answers")),
		HaveField("Saw", "boot ID boot-3 as before"), HaveField("Saw", "boot ID boot-3 as before")))
	g.Expect(a.Nodes[0].BootIDs).To(HaveLen(3))

	// A node goes with its daemon.
	w = newFakeWorld()
	w.meet = func(_ context.Context, call, _ string) error {
		if call == "restart-daemon" {
			w.mu.Lock()
			defer w.mu.Unlock()
			for name := range w.starts {
				w.starts[name]++
			}
		}
		return nil
	}
	j := verdict(c, attempt(t, w, c, nil))
	g.Expect(j).To(And(HaveField("Verdict", matrix.Fail), HaveField("Reason", ContainSubstring("boot ID boot-4, want boot ID boot-3: the node was restarted"))))

	// It does not come up, or does so too late, which no node did.
	for _, how := range []func(context.Context) error{func(context.Context) error { return errWorld }, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}} {
		w = newFakeWorld()
		w.meet = func(ctx context.Context, call, _ string) error {
			if call == "restart-daemon" {
				return how(ctx)
			}
			return nil
		}
		g.Expect(verdict(c, attempt(t, w, c, nil))).To(And(HaveField("Verdict", matrix.Blocked), HaveField("Phase", BeEquivalentTo("daemon-restart"))))
	}

	// Nobody knows how to restart it.
	j = verdict(c, attempt(t, newFakeWorld(), c, func(r *cell.Runner) { r.Host = struct{ cell.Host }{r.Host} }))
	g.Expect(j).To(And(HaveField("Verdict", matrix.Blocked), HaveField("Reason", ContainSubstring("a restart of the Incus daemon cannot be had"))))
}

// TestAgentsInTurns: each agent is restarted once the one before is back, and no
// server is.
func TestAgentsInTurns(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+2")
	c.Restarts = []matrix.Restart{matrix.RestartAgents}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	from := slices.Index(w.calls, "mark 3")
	turns := slices.DeleteFunc(slices.Clone(w.calls[from:]), func(call string) bool {
		return !strings.HasPrefix(call, "restart") && !strings.HasPrefix(call, "returned") && !strings.HasPrefix(call, "after")
	})
	g.Expect(turns).To(HaveExactElements("restart 4", "returned a1 1", "restart 5", "returned a2 1", "after-away of 2 1"))
	g.Expect(w.followed).To(HaveExactElements(3, 3, 2))
	for i, want := range []int{3, 4, 4} {
		g.Expect(a.Nodes[i].BootIDs).To(HaveLen(want))
	}
	c = planned("1")
	c.Restarts = []matrix.Restart{matrix.RestartAgents}
	g.Expect(phases(attempt(t, newFakeWorld(), c, nil))).To(Equal((matrix.Cell{}).Phases()), "there is no agent")
}

// TestRestartDuringRollout: the first server is restarted once a rollout is under
// way, and not where none is.
func TestRestartDuringRollout(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	c.Restarts = []matrix.Restart{matrix.RestartRollout}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	from := slices.Index(w.calls, "mark 3")
	g.Expect(w.calls[from:]).To(ContainElements("rolling 1", "restart 3", "after-away of 1 1"))
	g.Expect(slices.Index(w.calls, "rolling 1")).To(BeNumerically("<", slices.Index(w.calls, "restart 3")))
	g.Expect(a.Nodes[0].BootIDs).To(HaveLen(4))
	g.Expect(a.Nodes[1].BootIDs).To(HaveLen(3))

	w = newFakeWorld()
	w.evidence = func(_ context.Context, called string) matrix.Evidence {
		if called == "rolling 1" {
			return matrix.Evidence{Check: "rolling", Outcome: matrix.Unhealthy, Saw: "the rollout is over"}
		}
		return matrix.Evidence{}
	}
	g.Expect(verdict(c, attempt(t, w, c, nil))).To(And(HaveField("Verdict", matrix.Fail), HaveField("Phase", BeEquivalentTo("rollout-restart"))))
	g.Expect(w.calls).NotTo(ContainElement("restart 3"))
}

// TestSoak: the restarts in a row come last, each observed by itself.
func TestSoak(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	c.Soak = 3
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(phases(a)[8:]).To(Equal([]matrix.Phase{"soak-restart", "soak-recover", "soak-restart", "soak-recover", "soak-restart", "soak-recover", "collect", "destroy"}))
	g.Expect(a.Soak).To(Equal([]matrix.Figure{{Name: "api", Of: 3, P50: *seconds(4), P95: *seconds(5), Max: *seconds(5)}}))
	g.Expect(a.Nodes[0].BootIDs).To(HaveLen(6))

	// Its process is gone in the second one: what was seen of the first stays.
	begun := a
	begun.Phases, begun.Ended, begun.Hygiene, begun.Soak = a.Phases[:11], time.Time{}, nil, nil
	synctest.Test(t, func(t *testing.T) {
		taken, err := newFakeWorld().runner().TakeUp(t.Context(), c, 1, begun, func(matrix.Attempt) {})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(phases(taken)[10:]).To(Equal([]matrix.Phase{"soak-restart", "soak-recover", "destroy"}))
		g.Expect(taken.Interrupted()).To(BeTrue())
		g.Expect(taken.Soak).To(HaveExactElements(HaveField("Of", 1)))
	})

	w = newFakeWorld()
	w.meet = func(_ context.Context, _, called string) error {
		if called == "restart 3" {
			return errWorld
		}
		return nil
	}
	a = attempt(t, w, c, nil)
	g.Expect(verdict(c, a).Phase).To(BeEquivalentTo("soak-restart"))
	g.Expect(a.Soak).To(Equal([]matrix.Figure{{Name: "api", Of: 1, P50: *seconds(3), P95: *seconds(3), Max: *seconds(3)}}))
}

func seconds(n time.Duration) *matrix.Duration { return new(matrix.Duration(n * time.Second)) }

// TestObservationEnds: a cell that fails in a restart is not observed any longer.
func TestObservationEnds(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.meet = func(_ context.Context, call, _ string) error {
		if call == "restart" {
			return errWorld
		}
		return nil
	}
	g.Expect(verdict(c, attempt(t, w, c, nil)).Phase).To(Equal(matrix.PhaseRestart))
	g.Expect(w.told).To(Equal(1))
}

// TestServiceThatDoesNotRestart: one that runs on as it did was not restarted.
func TestServiceThatDoesNotRestart(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	c.Restarts = []matrix.Restart{matrix.RestartService}
	w.sameInvocation = true
	j := verdict(c, attempt(t, w, c, nil))
	g.Expect(j.Verdict).To(Equal(matrix.Fail))
	g.Expect(j.Phase).To(BeEquivalentTo("service-restart"))
	g.Expect(j.Reason).To(ContainSubstring("another invocation of each"))
}

// TestRuntimeOfTheDistributions: what a distribution unpacks when it starts is
// observed once it has, and not only after a restart.
func TestRuntimeOfTheDistributions(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	w.runtimeLate = true
	w.meet = func(_ context.Context, call, _ string) error {
		if call == "baseline" {
			return errWorld
		}
		return nil
	}
	a := attempt(t, w, c, nil)
	g.Expect(w.was("restart")).To(BeFalse())
	g.Expect(a.Nodes).To(HaveLen(2))
	for _, n := range a.Nodes {
		g.Expect(n.Containerd).To(Equal("2.1.4"))
		g.Expect(n.Runc).To(Equal("1.3.0"))
		g.Expect(n.BootIDs).To(Equal([]string{"boot-1"}), "it was one boot")
	}
}

// TestServersRecoverTogether: several servers that come up at once are given
// the time of each, and agents add none.
func TestServersRecoverTogether(t *testing.T) {
	for topology, servers := range map[string]int{"1": 1, "1+2": 1, "3": 3, "3+1": 3} {
		t.Run(topology, func(t *testing.T) {
			g := NewWithT(t)
			w := newFakeWorld()
			checked := 0
			w.meet = func(ctx context.Context, call, called string) error {
				if call != "baseline" && call != "after-restart" {
					return nil
				}
				checked++
				deadline, ok := ctx.Deadline()
				g.Expect(ok).To(BeTrue())
				recover := time.Duration(servers) * w.runner().Timeouts.Recover.Std()
				g.Expect(time.Until(deadline)).To(Equal(recover+stability+20*time.Second), called)
				return nil
			}
			a := attempt(t, w, planned(topology), nil)
			g.Expect(a.Phases).NotTo(BeEmpty())
			g.Expect(checked).To(Equal(3))
		})
	}
}

// attacks is one call of each proving phase; those that are checks show what
// they saw and have no error.
var attacks = []struct {
	phase  matrix.Phase
	called string
	check  bool
	late   matrix.Verdict
}{
	{matrix.PhaseCreate, "acquire 1", false, matrix.Unknown}, // waits for others, without a deadline of its own
	{matrix.PhaseCreate, "reserve 1", false, matrix.Blocked},
	{matrix.PhaseCreate, "create 1", false, matrix.Blocked},
	{matrix.PhaseCreate, "boot 1", false, matrix.Blocked},
	{matrix.PhaseCreate, "observe 1", false, matrix.Blocked},
	{matrix.PhaseFix, "apply 1", false, matrix.Fail},
	{matrix.PhaseInstall, "configure 1", false, matrix.Fail},
	{matrix.PhaseInstall, "init 1", false, matrix.Fail},
	{matrix.PhaseBaseline, "baseline 1", true, matrix.Fail},
	{matrix.PhaseRestart, "mark 1", false, matrix.Fail},
	{matrix.PhaseRestart, "restart 1", false, matrix.Fail},
	{matrix.PhaseRestart, "observe 2", false, matrix.Fail},
	{matrix.PhaseRecover, "after-restart 1", true, matrix.Fail},
	{matrix.PhaseForcedRestart, "force-restart 1", false, matrix.Fail},
	{matrix.PhaseForcedRestart, "boot 3", false, matrix.Fail},
	{matrix.PhaseForcedRecover, "after-restart 2", true, matrix.Fail},
}

var (
	errNode  = &provisioner.CommandError{Node: "s1", Command: []string{"it"}, Output: provisioner.Output{Stderr: "broke", ExitCode: 1}}
	errWorld = errors.New("the server does not answer")
	errGone  = errors.New("the user pressed Ctrl-C")
	errEnded = &provisioner.HostEndedError{Host: "k6.1", Err: errors.New("QEMU ended")}
)

// TestEndings lets every phase fail in every way and looks at the verdict, at
// what was never started, and at what is left.
func TestEndings(t *testing.T) {
	for _, at := range attacks {
		for _, how := range []string{"node", "world", "deadline", "interrupt", "host ended"} {
			switch {
			case how == "deadline" && at.late == matrix.Unknown:
				continue
			case how == "node" && (strings.HasPrefix(at.called, "boot") || strings.HasPrefix(at.called, "acquire")):
				continue // a command that fails while booting is asked again
			}
			t.Run(at.called+"/"+how, func(t *testing.T) {
				g := NewWithT(t)
				w, c := newFakeWorld(), planned("1")
				var a matrix.Attempt
				synctest.Test(t, func(t *testing.T) {
					ctx, interrupt := context.WithCancelCause(t.Context())
					defer interrupt(nil)
					end := func(ctx context.Context) {
						switch how {
						case "interrupt":
							interrupt(errGone)
						case "host ended":
							interrupt(errEnded)
						}
						<-ctx.Done()
					}
					w.meet = func(ctx context.Context, _, called string) error {
						switch {
						case called != at.called || at.check:
							return nil
						case how == "node":
							return errNode
						case how == "world":
							return errWorld
						}
						end(ctx)
						return ctx.Err()
					}
					w.evidence = func(ctx context.Context, called string) matrix.Evidence {
						e := matrix.Evidence{Check: "nodes-ready", Outcome: matrix.Unhealthy, Saw: "0 of 1 Ready"}
						switch {
						case called != at.called:
							return matrix.Evidence{}
						case how == "world":
							e.Outcome, e.Saw = matrix.Undecided, errWorld.Error()
						case how != "node":
							end(ctx)
						}
						return e
					}
					a = run(ctx, w, c, func(r *cell.Runner) { r.Keep = cell.KeepOnFailure })
				})
				want := map[string]matrix.Verdict{"node": matrix.Fail, "world": matrix.Blocked, "deadline": at.late, "interrupt": matrix.Unknown, "host ended": matrix.Blocked}[how]
				j := verdict(c, a)
				g.Expect(j.Verdict).To(Equal(want), j.Reason)
				g.Expect(j.Phase).To(Equal(at.phase))
				switch how {
				case "interrupt":
					g.Expect(j.Reason).To(ContainSubstring("interrupted"))
				case "host ended":
					g.Expect(j.Reason).To(Equal(errEnded.Error()))
				}
				torn := how == "interrupt" || how == "host ended"
				proving := matrix.Cell{}.ProvingPhases()
				ran := append(slices.Clone(proving[:slices.Index(proving, at.phase)+1]), matrix.PhaseCollect, matrix.PhaseDestroy)
				g.Expect(phases(a)).To(Equal(ran))
				// Nothing after the call that failed but the teardown.
				rest := w.calls[slices.Index(w.calls, at.called)+1:]
				for _, call := range rest {
					name, _, _ := strings.Cut(call, " ")
					g.Expect(name).To(BeElementOf("room", "log", "console", "diagnose", "delete", "look", "release"))
				}
				nodes, leases := w.left()
				g.Expect(leases).To(BeZero())
				created := at.called != "reserve 1" && at.called != "acquire 1" && at.called != "create 1"
				if created && !torn {
					g.Expect(nodes).To(Equal(1), "keep=on-failure")
					g.Expect(a.Kept).To(ContainSubstring("lxcmatrix shell " + string(c.ID)))
					g.Expect(w.was("log")).To(BeTrue())
				} else {
					g.Expect(nodes).To(BeZero())
					g.Expect(a.Kept).To(BeEmpty())
				}
				if torn {
					g.Expect(w.was("diagnose")).To(BeFalse(), "an interrupted cell failed at nothing")
				} else {
					g.Expect(a.Diagnoses).To(HaveLen(1))
				}
			})
		}
	}
}

// TestFullPool: what fails where nodes cannot write is the host's doing, and
// what fails where they can, or nobody can tell, is not.
func TestFullPool(t *testing.T) {
	full := &provisioner.NoSpaceError{Free: 3 << 20, Need: 64 << 20}
	for _, at := range attacks {
		for name, room := range map[string]error{"full": full, "room": nil, "not told": errWorld} {
			if strings.HasPrefix(at.called, "boot") || strings.HasPrefix(at.called, "acquire") {
				continue // nothing of a node's fails there
			}
			t.Run(at.called+"/"+name, func(t *testing.T) {
				g := NewWithT(t)
				w, c := newFakeWorld(), planned("1")
				w.meet = func(_ context.Context, call, called string) error {
					switch {
					case call == "room":
						return room
					case called == at.called && !at.check:
						return errNode
					}
					return nil
				}
				w.evidence = func(_ context.Context, called string) matrix.Evidence {
					if called != at.called {
						return matrix.Evidence{}
					}
					return matrix.Evidence{Check: "nodes-ready", Outcome: matrix.Unhealthy, Saw: "0 of 1 Ready"}
				}
				j := verdict(c, attempt(t, w, c, nil))
				g.Expect(j.Phase).To(Equal(at.phase))
				if name == "full" {
					g.Expect(j.Verdict).To(Equal(matrix.Blocked))
					g.Expect(j.Reason).To(And(ContainSubstring("the pool has 3 MiB free and 64 MiB are needed"), Or(ContainSubstring("broke"), ContainSubstring("0 of 1 Ready"))))
				} else {
					g.Expect(j.Verdict).To(Equal(matrix.Fail))
					g.Expect(j.Reason).NotTo(ContainSubstring("pool"))
				}
			})
		}
	}
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		keep        cell.Keep
		fails, left bool
	}{{cell.KeepNever, false, false}, {cell.KeepNever, true, false}, {cell.KeepOnFailure, false, false},
		{cell.KeepOnFailure, true, true}, {cell.KeepAlways, false, true}, {cell.KeepAlways, true, true}} {
		t.Run(fmt.Sprintf("%s fails=%t", c.keep, c.fails), func(t *testing.T) {
			g := NewWithT(t)
			w := newFakeWorld()
			if c.fails {
				w.meet = func(_ context.Context, call, _ string) error {
					if call == "init" {
						return errNode
					}
					return nil
				}
			}
			a := attempt(t, w, planned("1"), func(r *cell.Runner) { r.Keep = c.keep })
			nodes, leases := w.left()
			if c.left {
				g.Expect(nodes).To(Equal(1))
				g.Expect(a.Kept).NotTo(BeEmpty())
			} else {
				g.Expect(nodes).To(BeZero())
				g.Expect(a.Kept).To(BeEmpty())
			}
			g.Expect(leases).To(BeZero())
			g.Expect(a.Diagnoses != nil).To(Equal(c.fails))
		})
	}
}

func TestCreatedButNotStarted(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.meet = func(_ context.Context, call, _ string) error {
		if call == "create s1" {
			return unstarted{&provisioner.NodeError{Node: "s1", Action: "start", Err: errors.New("lxc.mount.entry: no such key")}}
		}
		return nil
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(And(HaveField("Verdict", matrix.Fail), HaveField("Phase", matrix.PhaseCreate), HaveField("Reason", ContainSubstring("no such key"))))
	g.Expect(w.was("console")).To(BeTrue())
	nodes, leases := w.left()
	g.Expect(nodes + leases).To(BeZero())
}

func TestTwoNodes(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(w.counts).To(And(HaveKeyWithValue("join", 1), HaveKeyWithValue("connect", 1), HaveKeyWithValue("init", 1), HaveKeyWithValue("restart", 2), HaveKeyWithValue("delete", 2), HaveKeyWithValue("configure", 2)))
	g.Expect(a.Nodes).To(HaveLen(2))
	g.Expect(a.Nodes[0].Node).To(HaveSuffix("-s1"))
	g.Expect(a.Nodes[1].Node).To(HaveSuffix("-a1"))
	install, _ := a.Phase(matrix.PhaseInstall)
	g.Expect(install.Evidence[1]).To(And(HaveField("Check", "join"), HaveField("Node", a.Nodes[1].Node)))
}

// TestJoinOrder: servers join one at a time with those before them as members,
// agents at once and after them, and then all are connected.
func TestJoinOrder(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("3+2")
	joining, most := 0, map[matrix.Role]int{}
	w.joins = func(ctx context.Context, members []string, node string, role matrix.Role) error {
		w.mu.Lock()
		joining++
		most[role] = max(most[role], joining)
		w.mu.Unlock()
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		joining--
		g.Expect(members).To(Equal(map[string][]string{"s2": {"s1"}, "s3": {"s1", "s2"}, "a1": {"s1", "s2", "s3"}, "a2": {"s1", "s2", "s3"}}[node]), node)
		return nil
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	g.Expect(most).To(Equal(map[matrix.Role]int{matrix.RoleServer: 1, matrix.RoleAgent: 2}))
	g.Expect(slices.Index(w.calls, "connect 1")).To(Equal(slices.Index(w.calls, "join 4") + 1))
	install, _ := a.Phase(matrix.PhaseInstall)
	var joined []string
	for _, e := range install.Evidence {
		if e.Check == "join" {
			joined = append(joined, e.Node[strings.LastIndex(e.Node, "-")+1:])
		}
	}
	g.Expect(joined).To(Equal([]string{"s2", "s3", "a1", "a2"}))
}

// TestTurns: a graceful restart of several nodes takes the agents, then each
// server, and waits for those before; a forced one takes all at once.
func TestTurns(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("3+2")
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	var turns []string
	for _, call := range w.calls {
		if strings.HasPrefix(call, "restart") || strings.HasPrefix(call, "returned") || strings.HasPrefix(call, "after-restart") {
			turns = append(turns, call)
		}
	}
	g.Expect(turns).To(Equal([]string{"restart 1", "restart 2", "returned a1 a2 1", "restart 3", "returned s1 1",
		"restart 4", "returned s2 1", "restart 5", "returned s3 1", "after-restart 1", "after-restart 2"}))
	g.Expect(w.counts).To(And(HaveKeyWithValue("mark", 2), HaveKeyWithValue("force-restart", 5)))
	graceful, _ := a.Phase(matrix.PhaseRestart)
	forced, _ := a.Phase(matrix.PhaseForcedRestart)
	g.Expect(restarts(graceful)).To(Equal([]string{"a1 with 2 of 5", "a2 with 2 of 5", "s1 with 1 of 5", "s2 with 1 of 5", "s3 with 1 of 5"}))
	g.Expect(restarts(forced)).To(Equal([]string{"s1 with 5 of 5", "s2 with 5 of 5", "s3 with 5 of 5", "a1 with 5 of 5", "a2 with 5 of 5"}))
}

// restarts says in which order nodes were restarted, and how many at once.
func restarts(r matrix.PhaseResult) (all []string) {
	for _, e := range r.Evidence {
		if e.Check == "restarted" {
			_, with, _ := strings.Cut(e.Saw, ", ")
			with, _, _ = strings.Cut(with, " nodes")
			all = append(all, e.Node[strings.LastIndex(e.Node, "-")+1:]+" "+with)
		}
	}
	return all
}

// TestTurnThatDoesNotReturn: no other node is restarted then.
func TestTurnThatDoesNotReturn(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	w.evidence = func(_ context.Context, called string) matrix.Evidence {
		if called == "returned a1 1" {
			return matrix.Evidence{Check: "returned", Outcome: matrix.Unhealthy, Saw: "Ready is Unknown"}
		}
		return matrix.Evidence{}
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(And(HaveField("Verdict", matrix.Fail), HaveField("Phase", matrix.PhaseRestart)))
	g.Expect(w.counts["restart"]).To(Equal(1))
}

// TestTurnThatHangs: a turn has no more time than a restart has, and running out
// of it is the node's doing.
func TestTurnThatHangs(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	w.meet = func(ctx context.Context, _, called string) error {
		if called != "restart 2" {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(And(HaveField("Verdict", matrix.Fail), HaveField("Phase", matrix.PhaseRestart),
		HaveField("Reason", ContainSubstring("one turn of restart did not end within 2m0s"))))
	graceful, _ := a.Phase(matrix.PhaseRestart)
	g.Expect(graceful.Duration.Std()).To(BeNumerically("<", 3*time.Minute))
}

// TestMixedOS: each node has its role's image and fixes, and what differs is
// told apart.
func TestMixedOS(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	c.OS = matrix.OS{Name: "debian/13", Agents: "debian/12"}
	c.ID = c.NewID()
	w.appliedTo = func(c matrix.Cell) []matrix.AppliedFix {
		state := map[string]string{"debian/13": "applied", "debian/12": "not-applicable"}[c.OS.Written()]
		return []matrix.AppliedFix{{ID: "host-sysctls", State: "applied"}, {ID: "newer", State: state}}
	}
	a := attempt(t, w, c, nil)
	g.Expect(w.specs[a.Nodes[0].Node].Image).To(Equal("image"))
	g.Expect(w.specs[a.Nodes[1].Node].Image).To(Equal("older image"))
	g.Expect(a.Nodes[0].Node).To(HavePrefix("kubeadm-134-debian-13-"))
	g.Expect(a.Nodes[1].Node).To(HavePrefix("kubeadm-134-debian-12-"))
	g.Expect(a.Fixes).To(Equal([]matrix.AppliedFix{{ID: "host-sysctls", State: "applied"},
		{ID: "newer", State: "applied", Role: matrix.RoleServer}, {ID: "newer", State: "not-applicable", Role: matrix.RoleAgent}}))
	g.Expect(verdict(c, a).Reason).To(ContainSubstring(`"debian" "13", the cell says debian/12`), "both of the world's nodes say 13")
}

// TestRolesWantAnotherHost: what one host cannot be at once is an error.
func TestRolesWantAnotherHost(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	c.OS.Agents = "debian/12"
	w.appliedTo = func(c matrix.Cell) []matrix.AppliedFix { return []matrix.AppliedFix{{ID: c.OS.Name, State: "applied"}} }
	w.desired = func(applied []matrix.AppliedFix) provisioner.Desired {
		return provisioner.Desired{Host: provisioner.HostState{Sysctls: map[string]string{"kernel.panic": applied[0].ID}}}
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a).Reason).To(ContainSubstring("kernel.panic to be debian/13 for some nodes and debian/12 for others"))
}

func TestSecondNodeCannotBeCreated(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	w.meet = func(_ context.Context, call, _ string) error {
		if call == "create a1" {
			return errWorld
		}
		return nil
	}
	// The first one would boot for ever: the second's end must end it.
	w.state = func(string, int) string { return "starting" }
	a := attempt(t, w, c, func(r *cell.Runner) { r.Keep = cell.KeepNever })
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Blocked, Phase: matrix.PhaseCreate, Reason: errWorld.Error()}))
	g.Expect(a.Ended.Sub(a.Started)).To(BeNumerically("<", time.Second))
	g.Expect(a.Nodes).To(HaveEach(HaveField("Node", Not(BeEmpty()))))
	nodes, leases := w.left()
	g.Expect(nodes + leases).To(BeZero())
}

func TestBoot(t *testing.T) {
	for name, c := range map[string]struct {
		state   func(string, int) string
		verdict matrix.Verdict
		reason  string
	}{
		"starting, then running": {func(_ string, asked int) string {
			return map[bool]string{true: "starting", false: "running"}[asked < 20]
		}, matrix.Pass, ""},
		"no bus, then degraded": {func(_ string, asked int) string {
			return map[bool]string{true: "Failed to connect to bus", false: "degraded\nsystemd-sysctl.service loaded failed failed Apply Kernel Variables"}[asked < 3]
		}, matrix.Fail, "systemd-sysctl.service"},
		"starting for ever": {func(string, int) string { return "starting" }, matrix.Fail, `systemd is "starting"`},
		"nothing is said":   {func(string, int) string { return "" }, matrix.Fail, "not answering"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w, planned := newFakeWorld(), planned("1")
			w.state = c.state
			a := attempt(t, w, planned, nil)
			j := verdict(planned, a)
			g.Expect(j.Verdict).To(Equal(c.verdict), j.Reason)
			g.Expect(j.Reason).To(ContainSubstring(c.reason))
			if c.verdict == matrix.Fail {
				g.Expect(j.Phase).To(Equal(matrix.PhaseCreate))
			}
		})
	}
}

// TestBootThatAwaitsKubernetes: units that need other nodes to be ready have
// their own time for it, once all else of a node that was restarted has started.
func TestBootThatAwaitsKubernetes(t *testing.T) {
	for name, c := range map[string]struct {
		state   string
		verdict matrix.Verdict
		reason  string
	}{
		"alone":              {"awaiting node.service", matrix.Pass, ""},
		"beside failed ones": {"awaiting node.service\nsystemd-sysctl.service loaded failed failed Apply Kernel Variables", matrix.Fail, "systemd-sysctl.service"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w, planned := newFakeWorld(), planned("1")
			w.state = func(node string, _ int) string {
				if w.starts[node] > 1 {
					return c.state
				}
				return "running"
			}
			a := attempt(t, w, planned, nil)
			j := verdict(planned, a)
			g.Expect(j.Verdict).To(Equal(c.verdict), j.Reason)
			g.Expect(j.Reason).To(ContainSubstring(c.reason))
		})
	}
}

func TestRestartThatWasNone(t *testing.T) {
	for start, phase := range map[int]matrix.Phase{2: matrix.PhaseRestart, 3: matrix.PhaseForcedRestart} {
		g := NewWithT(t)
		w, c := newFakeWorld(), planned("1")
		w.boot = func(_ string, n int) string {
			if n == start {
				n--
			}
			return fmt.Sprint("boot-", n)
		}
		j := verdict(c, attempt(t, w, c, nil))
		g.Expect(j.Verdict).To(Equal(matrix.Fail))
		g.Expect(j.Phase).To(Equal(phase))
		g.Expect(j.Reason).To(ContainSubstring("again"))
	}
}

// TestFixStaysUndecided: before nodes are there a fix may be undecided, not
// after.
func TestFixStaysUndecided(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.applied = func(bool) []matrix.AppliedFix {
		return []matrix.AppliedFix{{ID: "restrict-oom-score-adj", State: "undecided", Why: "capabilities were not observed"}}
	}
	j := verdict(c, attempt(t, w, c, nil))
	g.Expect(j.Verdict).To(Equal(matrix.Blocked))
	g.Expect(j.Phase).To(Equal(matrix.PhaseFix))
	g.Expect(j.Reason).To(And(ContainSubstring("restrict-oom-score-adj"), ContainSubstring("capabilities were not observed")))
	g.Expect(w.was("apply")).To(BeFalse())
}

// TestFixComesTooLate: what the node shows cannot change how it was created.
// TestFixThatOnlyARunningClusterShows is verified after every check of it.
func TestFixThatOnlyARunningClusterShows(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.desired = func([]matrix.AppliedFix) provisioner.Desired {
		return provisioner.Desired{Verify: []provisioner.Verification{{Fix: "conntrack-max", After: matrix.PhaseBaseline}}}
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Pass))
	g.Expect(w.verified).To(Equal([]matrix.Phase{matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseBaseline,
		matrix.PhaseInstall, matrix.PhaseBaseline, matrix.PhaseInstall, matrix.PhaseBaseline}))

	w = newFakeWorld()
	w.desired = func([]matrix.AppliedFix) provisioner.Desired {
		return provisioner.Desired{Verify: []provisioner.Verification{{Fix: "conntrack-max", After: matrix.PhaseBaseline}}}
	}
	w.evidence = func(_ context.Context, called string) matrix.Evidence {
		if called != "verify 3" {
			return matrix.Evidence{}
		}
		return matrix.Evidence{Check: "fix:conntrack-max", Outcome: matrix.Unhealthy, Saw: "maxPerCore: 32768"}
	}
	a = attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(HaveField("Phase", matrix.PhaseBaseline))
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Fail))
}

// A node that only came up since something mended it did not come up.
func TestRepairs(t *testing.T) {
	watched := func([]matrix.AppliedFix) provisioner.Desired {
		return provisioner.Desired{Repairs: []string{"/watched"}}
	}
	const (
		kmsg    = `{"time":"2026-11-21T12:00:30Z","repaired":"/dev/kmsg","saw":"it was missing"}` + "\n"
		kubelet = `{"time":"2026-11-21T12:01:00Z","repaired":"kubelet.service","saw":"it was failed: exit-code"}` + "\n"
		found   = `{"time":"2026-11-21T12:01:30Z","found":"/dev/kmsg","saw":"it was missing; mknod: not permitted"}` + "\n"
	)
	g := NewWithT(t)
	for what, tc := range map[string]struct {
		pulled  func(called, path string) ([]byte, error)
		verdict matrix.Verdict
		repairs []string
	}{
		"nothing told":  {func(string, string) ([]byte, error) { return nil, fs.ErrNotExist }, matrix.Pass, nil},
		"nothing in it": {func(string, string) ([]byte, error) { return nil, nil }, matrix.Pass, nil},
		"found only":    {func(string, string) ([]byte, error) { return []byte(found), nil }, matrix.Pass, nil},
		"one each time": {func(called, _ string) ([]byte, error) {
			return []byte(map[string]string{"pull 2": kmsg, "pull 3": kmsg + kubelet}[called]), nil
		}, matrix.Fail, []string{"/dev/kmsg on %s at 12:00:30: it was missing", "kubelet.service on %s at 12:01:00: it was failed: exit-code"}},
		"half a line": {func(string, string) ([]byte, error) { return []byte(kmsg + `{"time":"2026`), nil }, matrix.Fail,
			[]string{"/dev/kmsg on %s at 12:00:30: it was missing", `on %s: {"time":"2026`}},
		"not to be read": {func(string, string) ([]byte, error) { return nil, errors.New("connection refused") }, matrix.Blocked, nil},
	} {
		w, c := newFakeWorld(), planned("1")
		w.desired = watched
		w.pulled = func(called, path string) ([]byte, error) {
			g.Expect(path).To(Equal("/watched"))
			return tc.pulled(called, path)
		}
		a := attempt(t, w, c, nil)
		g.Expect(verdict(c, a).Verdict).To(Equal(tc.verdict), what)
		var want []string
		for _, r := range tc.repairs {
			want = append(want, fmt.Sprintf(r, a.Nodes[0].Node))
		}
		g.Expect(a.Repairs).To(Equal(want), what)
		if want != nil {
			g.Expect(verdict(c, a).Reason).To(Equal("repaired: "+strings.Join(want, "; ")), what)
		}
	}
}

func TestFixComesTooLate(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.applied = func(node bool) []matrix.AppliedFix {
		return []matrix.AppliedFix{{ID: "by-containerd", State: map[bool]string{true: "applied", false: "undecided"}[node]}}
	}
	w.desired = func(applied []matrix.AppliedFix) (want provisioner.Desired) {
		if applied[0].State == "applied" {
			want.Incus.RawLXC = []string{"lxc.cap.drop="}
		}
		return want
	}
	j := verdict(c, attempt(t, w, c, nil))
	g.Expect(j.Verdict).To(Equal(matrix.Blocked))
	g.Expect(j.Reason).To(ContainSubstring("another Incus configuration"))
}

func TestHostLease(t *testing.T) {
	t.Run("satisfied", func(t *testing.T) {
		g := NewWithT(t)
		w := newFakeWorld()
		a := attempt(t, w, planned("1"), func(r *cell.Runner) { r.Lease = satisfiedLease{} })
		g.Expect(a.Fixes).To(Equal([]matrix.AppliedFix{{ID: "kmsg-device", State: "applied"}, {ID: "host-sysctls", State: "satisfied"}}))
	})
	t.Run("no way to the host", func(t *testing.T) {
		for name, tc := range map[string]struct {
			observed map[string]string
			verdict  matrix.Verdict
			reason   string
		}{
			"right already": {map[string]string{"kernel.panic": "10", "vm.overcommit_memory": "1"}, matrix.Pass, ""},
			"another value": {map[string]string{"kernel.panic": "0", "vm.overcommit_memory": "1"}, matrix.Blocked,
				"set the host's sysctls kernel.panic=10 (it is 0) for host-sysctls: there is no way to the host's own system"},
			"not observed": {map[string]string{"kernel.panic": "10"}, matrix.Blocked,
				"set the host's sysctls vm.overcommit_memory=1 (not observed) for host-sysctls: there is no way to the host's own system"},
			"nothing is observed": {nil, matrix.Blocked, "kernel.panic=10 (not observed), vm.overcommit_memory=1 (not observed)"},
		} {
			t.Run(name, func(t *testing.T) {
				g := NewWithT(t)
				w, c := newFakeWorld(), planned("1")
				w.desired = func([]matrix.AppliedFix) provisioner.Desired {
					return provisioner.Desired{Host: provisioner.HostState{Fixes: []string{"host-sysctls"},
						Sysctls: map[string]string{"kernel.panic": "10", "vm.overcommit_memory": "1"}}}
				}
				a := attempt(t, w, c, func(r *cell.Runner) {
					r.Lease = nil
					r.Facts.Sysctls = tc.observed
				})
				g.Expect(verdict(c, a)).To(And(HaveField("Verdict", tc.verdict), HaveField("Reason", ContainSubstring(tc.reason))))
				g.Expect(w.was("create")).To(Equal(tc.verdict == matrix.Pass))
				if tc.verdict == matrix.Pass {
					g.Expect(a.Fixes).To(ContainElement(matrix.AppliedFix{ID: "host-sysctls", State: "satisfied"}))
				}
			})
		}
		t.Run("nothing is wanted", func(t *testing.T) {
			g := NewWithT(t)
			w, c := newFakeWorld(), planned("1")
			w.desired = func([]matrix.AppliedFix) (none provisioner.Desired) { return none }
			a := attempt(t, w, c, func(r *cell.Runner) { r.Lease = nil })
			g.Expect(verdict(c, a)).To(HaveField("Verdict", matrix.Pass))
			g.Expect(a.Fixes).To(ContainElement(matrix.AppliedFix{ID: "host-sysctls", State: "applied"}))
		})
	})
	t.Run("others hold it for long", func(t *testing.T) {
		g := NewWithT(t)
		w, c := newFakeWorld(), planned("1")
		w.meet = func(_ context.Context, call, _ string) error {
			if call == "acquire" {
				time.Sleep(time.Hour) // of the bubble's
			}
			return nil
		}
		a := attempt(t, w, c, nil)
		g.Expect(verdict(c, a)).To(HaveField("Verdict", matrix.Pass), "waiting for others is not the cell's time")
		create, _ := a.Phase(matrix.PhaseCreate)
		g.Expect(create.Duration.Std()).To(BeNumerically("<", time.Minute))
	})
}

// TestHygiene: what a cell leaves on its host is told, whatever its end, and
// decides nothing.
func TestHygiene(t *testing.T) {
	for name, c := range map[string]struct {
		keep    cell.Keep
		meet    map[string]func(ctx context.Context) error
		verdict matrix.Verdict
		want    *matrix.Hygiene
	}{
		"no node was to come": {meet: map[string]func(context.Context) error{"acquire 1": fails}, verdict: matrix.Blocked},
		"no node came":        {meet: map[string]func(context.Context) error{"create 1": fails}, verdict: matrix.Blocked, want: &matrix.Hygiene{}},
		"not seen before":     {meet: map[string]func(context.Context) error{"look 1": fails}, verdict: matrix.Pass, want: &matrix.Hygiene{NotObserved: errWorld.Error()}},
		"not seen after":      {meet: map[string]func(context.Context) error{"look 2": fails}, verdict: matrix.Pass, want: &matrix.Hygiene{NotObserved: errWorld.Error()}},
		"never seen":          {meet: map[string]func(context.Context) error{"look 1": hangs}, verdict: matrix.Pass, want: &matrix.Hygiene{NotObserved: "context deadline exceeded"}},
		"kept":                {keep: cell.KeepAlways, verdict: matrix.Pass, want: &matrix.Hygiene{}},
		"not removed":         {meet: map[string]func(context.Context) error{"delete 1": fails}, verdict: matrix.Pass, want: &matrix.Hygiene{}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w, planned := newFakeWorld(), planned("1")
			w.meet = func(ctx context.Context, _, called string) error {
				if meet := c.meet[called]; meet != nil {
					return meet(ctx)
				}
				return nil
			}
			a := attempt(t, w, planned, func(r *cell.Runner) { r.Keep = c.keep })
			g.Expect(a.Hygiene).To(Equal(c.want))
			g.Expect(verdict(planned, a).Verdict).To(Equal(c.verdict))
			create, _ := a.Phase(matrix.PhaseCreate)
			g.Expect(create.Duration).To(BeZero(), "looking is not the cell's time")
			_, leases := w.left()
			g.Expect(leases).To(BeZero())
		})
	}
}

func fails(context.Context) error { return errWorld }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

type satisfiedLease struct{}

func (satisfiedLease) Acquire(context.Context, map[string]string) (func(context.Context) error, bool, error) {
	return func(context.Context) error { return nil }, true, nil
}

// TestInterruptEndsInTime: every call of the teardown hangs until its
// time is over, on two nodes.
func TestInterruptEndsInTime(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	var took time.Duration
	var a matrix.Attempt
	synctest.Test(t, func(t *testing.T) {
		ctx, interrupt := context.WithCancelCause(t.Context())
		var at time.Time
		w.meet = func(ctx context.Context, call, _ string) error {
			if call == "init" {
				at = time.Now()
				interrupt(errGone)
			}
			if call == "init" || call == "log" || call == "console" || call == "delete" || call == "release" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		a = run(ctx, w, c, nil)
		took = time.Since(at)
	})
	g.Expect(took).To(BeNumerically("<=", 25*time.Second), "5 more are a node's that is being created")
	g.Expect(verdict(c, a)).To(And(HaveField("Verdict", matrix.Unknown), HaveField("Reason", ContainSubstring("Ctrl-C"))))
	g.Expect(w.counts).To(And(HaveKeyWithValue("delete", 2), HaveKeyWithValue("release", 1)))
	destroy, _ := a.Phase(matrix.PhaseDestroy)
	g.Expect(matrix.JudgePhase(destroy).Verdict).To(Equal(matrix.Blocked), "what could not be removed is told")
}

func TestInterruptBeforeTheStart(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	ctx, interrupt := context.WithCancelCause(t.Context())
	interrupt(errGone)
	a := run(ctx, w, c, nil)
	g.Expect(verdict(c, a)).To(And(HaveField("Verdict", matrix.Unknown), HaveField("Phase", matrix.PhaseCreate)))
	g.Expect(w.calls).To(BeEmpty())
}

// TestDeletionThatFails: a node that stays is told, and the lease is given
// back all the same.
func TestDeletionThatFails(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	w.meet = func(ctx context.Context, call, called string) error {
		switch {
		case called == "delete 1":
			return errWorld
		case call == "delete":
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Pass), "the teardown proves nothing about the cell")
	destroy, _ := a.Phase(matrix.PhaseDestroy)
	g.Expect(destroy.Error).To(And(ContainSubstring(errWorld.Error()), ContainSubstring("deadline")))
	_, leases := w.left()
	g.Expect(leases).To(BeZero())
}

// TestReportsAreCopies reads every report while the run goes on; the race
// detector sees a shared one.
func TestReportsAreCopies(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	var reports atomic.Int64
	synctest.Test(t, func(t *testing.T) {
		last := w.runner().Run(t.Context(), c, 1, func(a matrix.Attempt) {
			n := reports.Add(1)
			if want := min(int(n), len(matrix.Cell{}.Phases())); len(a.Phases) != want {
				t.Errorf("report %d has %d phases", n, len(a.Phases))
			}
			go func() {
				for i := range a.Phases {
					a.Phases[i].Error = "mine"
				}
				for i := range a.Nodes {
					a.Nodes[i].Kernel = "mine"
					for k := range a.Nodes[i].BootIDs {
						a.Nodes[i].BootIDs[k] = "mine"
					}
				}
				for i := range a.Fixes {
					a.Fixes[i].State = "mine"
				}
			}()
		})
		synctest.Wait()
		g.Expect(verdict(c, last)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
		g.Expect(last.Fixes[0].State).To(Equal("applied"))
	})
	g.Expect(reports.Load()).To(BeEquivalentTo(len(matrix.Cell{}.Phases()) + 1))
}

// TestAnyWorld: whatever answers come, in whatever order, a pass has evidence
// from every proving phase, destroy is last, the lease is given back, no node
// stays, and it ends.
func TestAnyWorld(t *testing.T) {
	seen := map[matrix.Verdict]int{}
	property := func(seed int64) bool {
		g := NewWithT(t)
		w, c := newFakeWorld(), planned([]string{"1", "1+1", "1+2"}[int(uint64(seed)%3)])
		var a matrix.Attempt
		synctest.Test(t, func(t *testing.T) {
			ctx, interrupt := context.WithCancelCause(t.Context())
			defer interrupt(nil)
			// Several nodes ask at once; which gets which answer is chance,
			// and the properties hold for all of it.
			var dice = make(chan *rand.Rand, 1)
			dice <- rand.New(rand.NewSource(seed))
			roll := func() int {
				d := <-dice
				defer func() { dice <- d }()
				return d.Intn(250)
			}
			w.meet = func(ctx context.Context, call, _ string) error {
				switch roll() {
				case 0:
					return errNode
				case 1:
					return errWorld
				case 2:
					if call != "acquire" { // others give theirs back some time
						<-ctx.Done()
						return ctx.Err()
					}
				case 3:
					interrupt(errGone)
					return nil
				case 4:
					if call == "create s1" {
						return unstarted{errNode}
					}
				case 5:
					time.Sleep(20 * time.Second) // of the bubble's
				}
				return nil
			}
			w.evidence = func(context.Context, string) matrix.Evidence {
				switch roll() {
				case 0:
					return matrix.Evidence{Check: "x", Outcome: matrix.Unhealthy, Saw: "bad"}
				case 1:
					return matrix.Evidence{Check: "x", Saw: "cannot look"}
				case 2:
					return matrix.Evidence{Check: "x", Outcome: matrix.Healthy}
				}
				return matrix.Evidence{}
			}
			a = run(ctx, w, c, nil)
		})
		j := verdict(c, a)
		seen[j.Verdict]++
		order := phases(a)
		g.Expect(order[len(order)-2:]).To(Equal([]matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}))
		g.Expect(matrix.Cell{}.Phases()).To(ContainElements(order))
		if j.Verdict == matrix.Pass {
			g.Expect(order).To(Equal(c.Phases()))
			for _, p := range a.Phases[:len(matrix.Cell{}.ProvingPhases())] {
				g.Expect(p.Evidence).NotTo(BeEmpty())
				g.Expect(p.Evidence).To(HaveEach(And(HaveField("Outcome", matrix.Healthy), HaveField("Saw", Not(BeEmpty())))))
			}
		} else {
			g.Expect(j.Reason).NotTo(BeEmpty())
		}
		g.Expect(w.counts["delete"]).To(Equal(len(w.specs)), "every node that was there is removed")
		destroy, _ := a.Phase(matrix.PhaseDestroy)
		if nodes, leases := w.left(); nodes+leases > 0 {
			g.Expect(destroy.Error).NotTo(BeEmpty(), "what is left is told")
		}
		return !t.Failed()
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 300, Rand: rand.New(rand.NewSource(1))}); err != nil {
		t.Error(err)
	}
	for _, v := range []matrix.Verdict{matrix.Pass, matrix.Fail, matrix.Blocked, matrix.Unknown} {
		if seen[v] < 10 {
			t.Errorf("only %d of the worlds ended %s: %v", seen[v], v, seen)
		}
	}
}

func TestNodeName(t *testing.T) {
	g := NewWithT(t)
	c := planned("1+2")
	c.OS.Name = "centos/10-Stream"
	seen := map[string]bool{}
	for _, run := range []string{"a", "b"} {
		for attempt := range 3 {
			for index := range 3 {
				name := cell.NodeName(c, run, attempt, index)
				g.Expect(name).To(MatchRegexp(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`))
				g.Expect(seen).NotTo(HaveKey(name))
				seen[name] = true
			}
		}
	}
}

// A phase ends early once a node is doomed, and is the node's failure; one that
// is not watched, or that ends before, knows nothing of it.
func TestDoomed(t *testing.T) {
	saw := matrix.Diagnosis{Signature: "kmsg-missing", Log: "kubelet.log", Line: "open /dev/kmsg"}
	tests := map[string]struct {
		// hangs is the call that never ends by itself.
		hangs string
		// doomed: the nodes are, after so many phases that were watched.
		after int32
		phase matrix.Phase
	}{
		"install":        {"init 1", 1, matrix.PhaseInstall},
		"baseline":       {"baseline 1", 2, matrix.PhaseBaseline},
		"recover":        {"after-restart 1", 3, matrix.PhaseRecover},
		"forced-recover": {"after-restart 2", 4, matrix.PhaseForcedRecover},
		"never":          {"", 5, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w, c := newFakeWorld(), planned("1")
			w.meet = func(ctx context.Context, _, called string) error {
				if called != test.hangs {
					return nil
				}
				<-ctx.Done()
				return context.Cause(ctx)
			}
			w.evidence = func(ctx context.Context, _ string) matrix.Evidence {
				if ctx.Err() != nil {
					return matrix.Evidence{Check: "nodes", Saw: "cut short"}
				}
				return matrix.Evidence{}
			}
			var watched atomic.Int32
			started := time.Time{}
			a := attempt(t, w, c, func(r *cell.Runner) {
				started = r.Clock.Now()
				r.Doomed = func(ctx context.Context, _ provisioner.Node) (matrix.Diagnosis, error) {
					if watched.Add(1) == test.after {
						return saw, r.Clock.Sleep(ctx, time.Second)
					}
					<-ctx.Done()
					return matrix.Diagnosis{}, context.Cause(ctx)
				}
			})
			if test.phase == "" {
				g.Expect(verdict(c, a).Verdict).To(Equal(matrix.Pass))
				g.Expect(watched.Load()).To(BeEquivalentTo(4), "install, baseline and both recoveries")
				return
			}
			j := verdict(c, a)
			g.Expect(j.Verdict).To(Equal(matrix.Fail), j.Reason)
			g.Expect(j.Phase).To(Equal(test.phase))
			failed, _ := a.Phase(test.phase)
			g.Expect(failed.Error).To(MatchRegexp("ended early, as node .* shows kmsg-missing again and again: kubelet.log: open /dev/kmsg"))
			g.Expect(a.Ended.Sub(started)).To(BeNumerically("<", 3*time.Minute))
			nodes, leases := w.left()
			g.Expect(nodes + leases).To(BeZero())
		})
	}
}

// A cell whose fixes are all left out has nothing to show of them, and goes on.
func TestWithoutFixes(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1")
	w.desired = func([]matrix.AppliedFix) provisioner.Desired { return provisioner.Desired{} }
	a := attempt(t, w, c, nil)
	g.Expect(verdict(c, a)).To(Equal(matrix.Judgement{Verdict: matrix.Pass}))
	fixes, _ := a.Phase(matrix.PhaseFix)
	g.Expect(fixes.Evidence).To(HaveLen(1))
	g.Expect(fixes.Evidence[0].Saw).To(Equal("no fix is in effect that would show by now"))
}

// TestTakeUp: an attempt whose process is gone ends as that process would have
// ended it where its verdict was decided, and is interrupted where not; its nodes
// go either way.
func TestTakeUp(t *testing.T) {
	c := planned("1+1")
	names := []string{cell.NodeName(c, "r1", 1, 0), cell.NodeName(c, "r1", 1, 1)}
	through := func(last matrix.Phase, fails bool) matrix.Attempt {
		a := attempt(t, newFakeWorld(), c, nil)
		i := slices.IndexFunc(a.Phases, func(p matrix.PhaseResult) bool { return p.Phase == last })
		a.Phases, a.Ended, a.Hygiene = a.Phases[:i+1], time.Time{}, nil
		if fails {
			a.Phases[i] = matrix.PhaseResult{Phase: last, Blame: matrix.BlameNode, Error: "it broke"}
		}
		return a
	}
	for name, tc := range map[string]struct {
		begun matrix.Attempt
		// left are the nodes that are there.
		left []string
		// then are the phases that follow, and verdict is what it comes to.
		then    []matrix.Phase
		verdict matrix.Verdict
		// logs and diagnosed say whether the logs were kept, and looked at.
		logs, diagnosed bool
	}{
		"nothing was there":             {matrix.Attempt{}, nil, nil, matrix.Unknown, false, false},
		"nodes that nobody told of":     {matrix.Attempt{}, names[:1], []matrix.Phase{matrix.PhaseCreate, matrix.PhaseDestroy}, matrix.Unknown, false, false},
		"in install":                    {through(matrix.PhaseFix, false), names, []matrix.Phase{matrix.PhaseInstall, matrix.PhaseDestroy}, matrix.Unknown, false, false},
		"in recovery, a node gone":      {through(matrix.PhaseRestart, false), names[1:], []matrix.Phase{matrix.PhaseRecover, matrix.PhaseDestroy}, matrix.Unknown, false, false},
		"passed":                        {through(matrix.PhaseForcedRecover, false), names, []matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}, matrix.Pass, true, false},
		"passed, and its nodes gone":    {through(matrix.PhaseForcedRecover, false), nil, []matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}, matrix.Pass, false, false},
		"passed, in destroy":            {through(matrix.PhaseCollect, false), names[:1], []matrix.Phase{matrix.PhaseDestroy}, matrix.Pass, false, false},
		"passed, and torn down":         {through(matrix.PhaseDestroy, false), nil, nil, matrix.Pass, false, false},
		"failed":                        {through(matrix.PhaseInstall, true), names, []matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}, matrix.Fail, true, true},
		"failed, and nothing tells why": {through(matrix.PhaseInstall, true), names[:1], []matrix.Phase{matrix.PhaseCollect, matrix.PhaseDestroy}, matrix.Fail, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w := newFakeWorld()
			for _, n := range tc.left {
				w.alive[n] = true
			}
			var a, told matrix.Attempt
			synctest.Test(t, func(t *testing.T) {
				r := w.runner()
				r.Keep = cell.KeepNever
				var err error
				a, err = r.TakeUp(t.Context(), c, 1, tc.begun, func(a matrix.Attempt) { told = a })
				g.Expect(err).NotTo(HaveOccurred())
			})
			had := len(tc.begun.Phases)
			g.Expect(a.Phases[:had]).To(HaveExactElements(tc.begun.Phases))
			g.Expect(phases(a)[had:]).To(HaveExactElements(tc.then))
			g.Expect(verdict(c, a).Verdict).To(Equal(tc.verdict))
			nodes, leases := w.left()
			g.Expect([]int{nodes, leases}).To(Equal([]int{0, 0}))
			logs, diagnosed := len(w.logs) > 0, len(a.Diagnoses) > 0
			g.Expect([]bool{logs, diagnosed}).To(Equal([]bool{tc.logs, tc.diagnosed}))
			g.Expect(told.Phases).To(Equal(a.Phases))
			if len(a.Phases) > 0 {
				g.Expect(a.Ended).NotTo(BeZero())
				g.Expect(a.Hygiene.NotObserved).NotTo(BeEmpty())
			}
			if tc.begun.Phases != nil && tc.verdict == matrix.Unknown {
				g.Expect(a.Interrupted()).To(BeTrue(), "it is made again, and not called flaky then")
			}
		})
	}
}

// TestTakeUpKeeps: nodes of a cell that failed stay where that was asked for, and
// those of one that was interrupted do not.
func TestTakeUpKeeps(t *testing.T) {
	c := planned("1")
	name := cell.NodeName(c, "r1", 1, 0)
	for reason, keeps := range map[matrix.Blame]bool{matrix.BlameNode: true, matrix.BlameInterrupt: false} {
		synctest.Test(t, func(t *testing.T) {
			g := NewWithT(t)
			w := newFakeWorld()
			w.alive[name] = true
			r := w.runner()
			r.Keep = cell.KeepAlways
			a, err := r.TakeUp(t.Context(), c, 1, matrix.Attempt{Phases: []matrix.PhaseResult{{Phase: matrix.PhaseCreate, Blame: reason, Error: "it broke"}}}, func(matrix.Attempt) {})
			g.Expect(err).NotTo(HaveOccurred())
			nodes, _ := w.left()
			there, told := nodes == 1, a.Kept != ""
			g.Expect([]bool{there, told}).To(Equal([]bool{keeps, keeps}))
		})
	}
}
