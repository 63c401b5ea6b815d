package cell_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

// fakeWorld stands for everything that a cell's runner is given. It keeps what
// was called in order, and meet may answer any call in the world's place.
type fakeWorld struct {
	// meet is asked first; called is the call's name and how often it was
	// called by then, as "after-restart 2". nil goes on as if all were well.
	meet func(ctx context.Context, call, called string) error
	// evidence is what a check saw, "" standing for healthy.
	evidence func(ctx context.Context, called string) matrix.Evidence
	// state is what systemd says, by how often the node was asked since its
	// last start.
	state func(node string, asked int) string
	// boot is the boot ID of a node's nth start.
	boot func(node string, start int) string
	// applied is what the fixes decide; node is false before nodes are there.
	applied func(node bool) []matrix.AppliedFix
	// appliedTo is applied by the cell that the fixes are asked about.
	appliedTo func(c matrix.Cell) []matrix.AppliedFix
	// desired is what the fixes want of a node, by what they decided.
	desired func(applied []matrix.AppliedFix) provisioner.Desired
	// pulled are the files of nodes, by how often one was read; the others are
	// not there.
	pulled func(called, path string) ([]byte, error)

	// runtimeLate: a node has no runtime until the first server is initialised.
	runtimeLate bool
	// noLogs: the distribution has no logs of its own.
	noLogs bool
	// sameInvocation: services run on as they did, whoever restarts them.
	sameInvocation bool

	// joins is asked before a node joins, by the ends of the nodes' names.
	joins func(ctx context.Context, members []string, node string, role matrix.Role) error

	mu     sync.Mutex
	calls  []string
	counts map[string]int
	// alive are the nodes that were created and not deleted.
	alive   map[string]bool
	asked   map[string]int
	starts  map[string]int
	holders int
	// services is how many were started and not removed.
	services int
	verified []matrix.Phase
	// followed is of how many nodes each observation of a restart was, told how
	// many of them ended.
	followed []int
	told     int
	logs     map[string]string
	specs    map[string]provisioner.NodeSpec
}

func newFakeWorld() *fakeWorld {
	return &fakeWorld{counts: map[string]int{}, alive: map[string]bool{}, asked: map[string]int{}, starts: map[string]int{},
		logs: map[string]string{}, specs: map[string]provisioner.NodeSpec{}}
}

// call notes a call and lets meet answer it.
func (w *fakeWorld) call(ctx context.Context, name string) error {
	w.mu.Lock()
	w.counts[name]++
	called := fmt.Sprintf("%s %d", name, w.counts[name])
	w.calls = append(w.calls, called)
	w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.meet == nil {
		return nil
	}
	return w.meet(ctx, name, called)
}

func (w *fakeWorld) was(call string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[call] > 0
}

// left are the nodes that are still there, and leases that are still held.
func (w *fakeWorld) left() (nodes, leases int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.alive), w.holders
}

type fakeHost struct{ *fakeWorld }

func (h fakeHost) Facts(context.Context) (matrix.HostFacts, error) { return hostFacts(), nil }
func (h fakeHost) Network() provisioner.Network                    { return provisioner.Network{Gateway: "10.0.0.1"} }
func (h fakeHost) Exec() provisioner.HostExec                      { return nil }
func (h fakeHost) Close(context.Context) error                     { return nil }
func (h fakeHost) Dial(context.Context, string, int) (net.Conn, error) {
	return nil, errors.New("nothing listens here")
}

func (h fakeHost) Reserve(ctx context.Context, node string) (string, error) {
	return "10.0.0.9", h.call(ctx, "reserve")
}

func (h fakeHost) Room(ctx context.Context, _ int64) error { return h.call(ctx, "room") }

// RestartDaemon is the daemon's second process after the first.
func (h fakeHost) RestartDaemon(ctx context.Context) (was, is int, err error) {
	return 1, 2, h.call(ctx, "restart-daemon")
}

func (h fakeHost) Find(ctx context.Context, _, node string) (provisioner.Node, bool, error) {
	if err := h.call(ctx, "find"); err != nil {
		return nil, false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return &fakeNode{h.fakeWorld, node}, h.alive[node], nil
}

// unstarted is a node that was created and refused to start.
type unstarted struct{ error }

func (h fakeHost) CreateNode(ctx context.Context, spec provisioner.NodeSpec) (provisioner.Node, error) {
	role := spec.Name[strings.LastIndex(spec.Name, "-")+1:]
	err := h.call(ctx, "create")
	if err == nil {
		err = h.call(ctx, "create "+role)
	}
	var half unstarted
	if err != nil && !errors.As(err, &half) {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alive[spec.Name], h.specs[spec.Name] = true, spec
	h.starts[spec.Name]++
	if err != nil {
		err = half.error
	}
	return &fakeNode{h.fakeWorld, spec.Name}, err
}

type fakeNode struct {
	*fakeWorld
	name string
}

func (n *fakeNode) Name() string    { return n.name }
func (n *fakeNode) Address() string { return "10.0.0.9" }

func (n *fakeNode) Exec(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	script := strings.Join(cmd.Args, " ")
	switch {
	case strings.Contains(script, "is-system-running"):
		if err := n.call(ctx, "boot"); err != nil {
			return provisioner.Output{}, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.asked[n.name]++
		state := "running"
		if n.state != nil {
			state = n.state(n.name, n.asked[n.name])
		}
		return provisioner.Output{Stdout: state + "\n"}, nil
	case strings.Contains(script, "InvocationID"):
		n.mu.Lock()
		defer n.mu.Unlock()
		run := n.counts["restart-services"]
		if n.sameInvocation {
			run = 0
		}
		return provisioner.Output{Stdout: strings.Repeat(fmt.Sprintf("invocation-%d\n", run), len(cmd.Args)-4)}, nil
	case strings.HasPrefix(script, "systemctl restart "):
		return provisioner.Output{}, n.call(ctx, "restart-services")
	case strings.Contains(script, "boot_id"):
		if err := n.call(ctx, "observe"); err != nil {
			return provisioner.Output{}, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		boot := fmt.Sprintf("boot-%d", n.starts[n.name])
		if n.fakeWorld.boot != nil {
			boot = n.fakeWorld.boot(n.name, n.starts[n.name])
		}
		lines := []string{"kernel=6.18.5", "cgroup=tmpfs", "id=debian", "version=13",
			"systemd=systemd 257 (257.8-1~deb13u2)", "kubernetes=Kubernetes v1.34.4", "boot=" + boot}
		if !n.runtimeLate || n.counts["init"] > 0 {
			lines = append(lines, "containerd=containerd github.com/containerd/containerd/v2 v2.1.4 abc", "runc=runc version 1.3.0")
		}
		return provisioner.Output{Stdout: strings.Join(lines, "\n")}, nil
	}
	return provisioner.Output{Stdout: "log of " + script}, n.call(ctx, "log")
}

func (n *fakeNode) Push(ctx context.Context, _ provisioner.File) error { return n.call(ctx, "push") }
func (n *fakeNode) Pull(ctx context.Context, path string) ([]byte, error) {
	if err := n.call(ctx, "pull"); err != nil {
		return nil, err
	}
	if n.pulled == nil {
		return nil, fs.ErrNotExist
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pulled(fmt.Sprintf("pull %d", n.counts["pull"]), path)
}
func (n *fakeNode) Console(ctx context.Context) (string, error) {
	return "console", n.call(ctx, "console")
}

func (n *fakeNode) start() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.starts[n.name]++
	n.asked[n.name] = 0
}

func (n *fakeNode) Restart(ctx context.Context) error {
	err := n.call(ctx, "restart")
	n.start()
	return err
}

func (n *fakeNode) Stop(ctx context.Context) error { return n.call(ctx, "stop") }

func (n *fakeNode) Start(ctx context.Context) error {
	err := n.call(ctx, "start")
	n.start()
	return err
}

func (n *fakeNode) ForceRestart(ctx context.Context) error {
	err := n.call(ctx, "force-restart")
	n.start()
	return err
}

func (n *fakeNode) Delete(ctx context.Context) error {
	if err := n.call(ctx, "delete"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.alive, n.name)
	return nil
}

type fakeFixes struct{ *fakeWorld }

func (f fakeFixes) Decide(c matrix.Cell, _ matrix.HostFacts, node *matrix.NodeFacts) ([]matrix.AppliedFix, error) {
	if f.appliedTo != nil {
		return f.appliedTo(c), nil
	}
	if f.applied != nil {
		return f.applied(node != nil), nil
	}
	return []matrix.AppliedFix{{ID: "kmsg-device", State: "applied"}, {ID: "host-sysctls", State: "applied"}}, nil
}

func (f fakeFixes) Desired(applied []matrix.AppliedFix, _ cell.NodeContext) (provisioner.Desired, error) {
	if f.desired != nil {
		return f.desired(applied), nil
	}
	return provisioner.Desired{Host: provisioner.HostState{Sysctls: map[string]string{"kernel.panic": "10"}, Fixes: []string{"host-sysctls"}},
		Verify: []provisioner.Verification{{Fix: "host-sysctls", After: matrix.PhaseFix}}}, nil
}

func (f fakeFixes) Apply(ctx context.Context, _ provisioner.Node, _ provisioner.Desired) error {
	return f.call(ctx, "apply")
}

func (f fakeFixes) Verify(ctx context.Context, node provisioner.Node, want provisioner.Desired, after matrix.Phase) []matrix.Evidence {
	f.mu.Lock()
	f.verified = append(f.verified, after)
	f.mu.Unlock()
	if len(want.Verify) == 0 {
		return nil
	}
	return []matrix.Evidence{f.look(ctx, "verify", node.Name())}
}

// look is a check: what it saw, healthy unless evidence says otherwise.
func (w *fakeWorld) look(ctx context.Context, name, node string) matrix.Evidence {
	e := matrix.Evidence{Check: name, Node: node, Outcome: matrix.Healthy, Saw: "all is well"}
	if err := w.call(ctx, name); err != nil {
		e.Outcome, e.Saw = matrix.Undecided, err.Error()
		return e
	}
	w.mu.Lock()
	called := fmt.Sprintf("%s %d", name, w.counts[name])
	w.mu.Unlock()
	if w.evidence != nil {
		if other := w.evidence(ctx, called); other.Check != "" {
			other.Node = node
			return other
		}
	}
	return e
}

type fakeHealth struct{ *fakeWorld }

const stability = 30 * time.Second

func (h fakeHealth) Baseline(ctx context.Context, cluster *provisioner.Cluster) ([]matrix.Evidence, time.Duration) {
	if string(cluster.Kubeconfig) != "kubeconfig" {
		return nil, 0
	}
	return []matrix.Evidence{h.look(ctx, "baseline", "")}, stability
}

func (h fakeHealth) Mark(ctx context.Context, _ *provisioner.Cluster) (cell.Mark, error) {
	return "mark", h.call(ctx, "mark")
}

func (h fakeHealth) AfterRestart(ctx context.Context, _ *provisioner.Cluster, mark cell.Mark) ([]matrix.Evidence, time.Duration) {
	if mark != "mark" {
		return nil, 0
	}
	return []matrix.Evidence{h.look(ctx, "after-restart", "")}, stability
}

func (h fakeHealth) AfterServices(ctx context.Context, _ *provisioner.Cluster, _ cell.Mark) ([]matrix.Evidence, time.Duration) {
	return []matrix.Evidence{h.look(ctx, "after-services", "")}, stability
}

func (h fakeHealth) Away(ctx context.Context, _ *provisioner.Cluster, nodes []string, away time.Duration) []matrix.Evidence {
	_ = bubbleClock{}.Sleep(ctx, away)
	return []matrix.Evidence{h.look(ctx, fmt.Sprintf("away %s of %d", away, len(nodes)), "")}
}

func (h fakeHealth) BeginRollout(ctx context.Context, _ *provisioner.Cluster, mark cell.Mark) (cell.Mark, []matrix.Evidence) {
	return mark, []matrix.Evidence{h.look(ctx, "rolling", "")}
}

func (h fakeHealth) AfterAway(ctx context.Context, _ *provisioner.Cluster, _ cell.Mark, nodes []string) ([]matrix.Evidence, time.Duration) {
	return []matrix.Evidence{h.look(ctx, fmt.Sprintf("after-away of %d", len(nodes)), "")}, stability
}

// Follow sees the API come back after as many seconds as it was begun.
func (h fakeHealth) Follow(_ context.Context, _ *provisioner.Cluster, _ cell.Mark, nodes []string) func() matrix.Recovery {
	h.followed = append(h.followed, len(nodes))
	begun := matrix.Duration(len(h.followed))
	return func() matrix.Recovery {
		h.told++
		return matrix.Recovery{API: new(begun * matrix.Duration(time.Second))}
	}
}

func (h fakeHealth) Returned(ctx context.Context, _ *provisioner.Cluster, mark cell.Mark, nodes []string) []matrix.Evidence {
	if mark != "mark" {
		return nil
	}
	var ends []string
	for _, n := range nodes {
		ends = append(ends, n[strings.LastIndex(n, "-")+1:])
	}
	return []matrix.Evidence{h.look(ctx, "returned "+strings.Join(ends, " "), "")}
}

type fakeDistro struct{ *fakeWorld }

func (d fakeDistro) Configure(ctx context.Context, _ provisioner.Node, _ provisioner.Desired) error {
	return d.call(ctx, "configure")
}

func (d fakeDistro) Init(ctx context.Context, _ provisioner.Node, _ provisioner.Desired) ([]byte, error) {
	return []byte("kubeconfig"), d.call(ctx, "init")
}

func (d fakeDistro) Join(ctx context.Context, members []provisioner.Node, node provisioner.Node, role matrix.Role, _ provisioner.Desired) error {
	if d.joins == nil {
		return d.call(ctx, "join")
	}
	short := func(n provisioner.Node) string { return n.Name()[strings.LastIndex(n.Name(), "-")+1:] }
	var names []string
	for _, m := range members {
		names = append(names, short(m))
	}
	return errors.Join(d.joins(ctx, names, short(node), role), d.call(ctx, "join"))
}

func (d fakeDistro) Connect(ctx context.Context, _ []provisioner.Node) error {
	return d.call(ctx, "connect")
}

func (d fakeDistro) Services(matrix.Role) []string {
	return []string{"runtime.service", "node.service"}
}

func (d fakeDistro) LogCommands() map[string]string {
	if d.noLogs {
		return nil
	}
	return map[string]string{"kubelet.log": "journalctl kubelet", "journal.log": "journalctl"}
}

type fakeLease struct{ *fakeWorld }

func (l fakeLease) Acquire(ctx context.Context, _ map[string]string) (func(context.Context) error, bool, error) {
	if err := l.call(ctx, "acquire"); err != nil {
		return nil, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders++
	return func(ctx context.Context) error {
		if err := l.call(ctx, "release"); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.holders--
		return nil
	}, false, nil
}

type fakeServices struct{ *fakeWorld }

func (s fakeServices) Start(ctx context.Context, _ matrix.Cell, name string, nodes []provisioner.Node) (cell.Around, []matrix.Evidence, error) {
	s.mu.Lock()
	s.services++
	s.mu.Unlock()
	return s, []matrix.Evidence{{Check: "service", Outcome: matrix.Healthy, Saw: fmt.Sprintf("%s around %d nodes", name, len(nodes))}}, s.call(ctx, "services")
}

func (s fakeServices) Steady(ctx context.Context, _ *provisioner.Cluster) []matrix.Evidence {
	return s.looked(ctx, "steady")
}

func (s fakeServices) Watch(ctx context.Context, _ *provisioner.Cluster) error {
	return s.call(ctx, "watch")
}

func (s fakeServices) Seen(ctx context.Context, _ *provisioner.Cluster, fell bool) ([]matrix.Evidence, []matrix.Traffic) {
	return s.looked(ctx, fmt.Sprintf("seen fell=%t", fell)), []matrix.Traffic{{Through: "haproxy/api", Sent: 9, Failed: 2}}
}

func (s fakeServices) looked(ctx context.Context, call string) []matrix.Evidence {
	if err := s.call(ctx, call); err != nil {
		return []matrix.Evidence{{Check: "service", Outcome: matrix.Unhealthy, Saw: err.Error()}}
	}
	return []matrix.Evidence{{Check: "service", Outcome: matrix.Healthy, Saw: call}}
}

func (s fakeServices) Remove(ctx context.Context) error {
	s.mu.Lock()
	s.services--
	s.mu.Unlock()
	return s.call(ctx, "unservice")
}

type fakeHygiene struct{ *fakeWorld }

func (h fakeHygiene) Enter(ctx context.Context, id matrix.CellID) func(context.Context, bool) matrix.Hygiene {
	look := func(ctx context.Context, called string) matrix.Hygiene {
		h.mu.Lock()
		held := h.holders > 0
		h.mu.Unlock()
		if err := h.call(ctx, called); err != nil {
			return matrix.Hygiene{NotObserved: err.Error()}
		}
		if !held {
			return matrix.Hygiene{NotObserved: called + " without the lease"}
		}
		return matrix.Hygiene{}
	}
	found := look(ctx, "look")
	return func(ctx context.Context, kept bool) matrix.Hygiene {
		if found.NotObserved != "" {
			return found
		}
		found = look(ctx, "look")
		if alive, _ := h.left(); kept != (alive > 0) {
			found.NotObserved = fmt.Sprintf("%s: kept is %v and %d nodes are there", id, kept, alive)
		}
		return found
	}
}

// bubbleClock is time itself, which synctest fakes.
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

func hostFacts() matrix.HostFacts {
	return matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"}
}

func (w *fakeWorld) runner() *cell.Runner {
	minute := matrix.Duration(time.Minute)
	return &cell.Runner{
		Host: fakeHost{w}, Facts: hostFacts(), Distro: fakeDistro{w}, Fixes: fakeFixes{w}, Health: fakeHealth{w}, Lease: fakeLease{w}, Hygiene: fakeHygiene{w},
		Diagnose: func(ctx context.Context) ([]matrix.Diagnosis, error) {
			return []matrix.Diagnosis{{Signature: "known", Line: "it broke"}}, w.call(ctx, "diagnose")
		},
		KeepLog: func(node, name string, content []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.logs[node+"/"+name] = string(content)
			return nil
		},
		Keep: cell.KeepNever, Images: map[matrix.OS]string{{Name: "debian/13"}: "image", {Name: "debian/12"}: "older image"}, Provenance: "release", Owner: map[string]string{"run": "r1"}, Clock: bubbleClock{},
		Timeouts: matrix.Timeouts{Create: minute, Fix: minute, Install: 5 * minute, Recover: 3 * minute, Restart: 2 * minute,
			Collect: minute, Destroy: minute, Stability: matrix.Duration(stability)},
	}
}

func planned(topology string) matrix.Cell {
	t, err := matrix.ParseTopology(topology)
	if err != nil {
		panic(err)
	}
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/13"}, Topology: t}
	c.ID = c.NewID()
	return c
}
