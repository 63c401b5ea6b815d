package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
)

// MostJoin is how much longer a node may take to join by the harness than by
// hand.
const MostJoin = 1.3

// joinTimeout bounds one join, and the node's preparation before it.
const joinTimeout = 6 * time.Minute

// JoinPair is how long a node of a role took to be Ready from the first command,
// one that the harness joined and one that was joined by hand.
type JoinPair struct {
	Role          matrix.Role
	Harness, Hand time.Duration
}

// Joins is a server and what nodes to join it are made of. Each node is prepared
// before the clock starts, and gone before the next one comes.
type Joins struct {
	Hand
	example   Example
	knowledge *catalog.Knowledge
	distro    provisioner.Distro
	host      *host.Host
	image     string
	server    provisioner.Node
	made      int
	// undo is what Close does, last first.
	undo []func(context.Context) error
}

// Joins has a server ready that is what the example's was. Close removes it, and
// is due after an error too.
func (h Hand) Joins(ctx context.Context, e Example) (*Joins, error) {
	ctx, cancel := context.WithTimeout(ctx, handTimeout)
	defer cancel()
	j := &Joins{Hand: h, example: e}
	// A server that others can join.
	j.example.Cell.Topology.Servers = 2
	fail := func(err error) (*Joins, error) { return j, fmt.Errorf("make a server for nodes to join: %w", err) }
	var err error
	if j.knowledge, err = catalog.LoadKnowledge(ctx); err != nil {
		return fail(err)
	}
	if j.host, err = catalog.OpenHost(ctx, e.Cell.Host, h.StateDir, e.Plan.Budget.DiskBytes); err != nil {
		return fail(err)
	}
	j.undo = append(j.undo, j.host.Close)
	release, fingerprint, err := h.prepared(ctx, j.knowledge, j.host, e)
	if err != nil {
		return fail(err)
	}
	j.image, j.distro = fingerprint, catalog.Distro(release, j.example.Cell, e.Plan.Timeouts)
	var want provisioner.Desired
	if j.server, want, err = j.node(ctx); err != nil {
		return fail(err)
	}
	if _, err := j.distro.Init(ctx, j.server, want); err != nil {
		return fail(err)
	}
	if err := j.ready(ctx, j.server); err != nil {
		return fail(err)
	}
	// The first node waits for what a new server still starts, whoever joins it.
	if _, err := j.ByHand(ctx, matrix.RoleAgent); err != nil {
		return fail(err)
	}
	return j, nil
}

// Close removes what was made.
func (j *Joins) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	var errs []error
	for i := len(j.undo) - 1; i >= 0; i-- {
		errs = append(errs, j.undo[i](ctx))
	}
	j.undo = nil
	return errors.Join(errs...)
}

// ByHarness joins a node as a cell does.
func (j *Joins) ByHarness(ctx context.Context, role matrix.Role) (time.Duration, error) {
	return j.join(ctx, "the harness", role, func(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
		return j.distro.Join(ctx, []provisioner.Node{j.server}, node, role, want)
	})
}

// ByHand joins a node with the command that kubeadm prints for it, as its
// documentation of clusters with several servers says, and tells it its pods'
// addresses.
func (j *Joins) ByHand(ctx context.Context, role matrix.Role) (time.Duration, error) {
	return j.join(ctx, "hand", role, func(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
		printed, err := j.in(ctx, j.server, "kubeadm", "token", "create", "--print-join-command")
		if err != nil {
			return err
		}
		command := append(strings.Fields(printed), "--ignore-preflight-errors="+strings.Join(want.IgnorePreflightErrors, ","))
		hosts := []string{j.server.Address()}
		if role == matrix.RoleServer {
			uploaded, err := j.in(ctx, j.server, "kubeadm", "init", "phase", "upload-certs", "--upload-certs")
			if err != nil {
				return err
			}
			lines := strings.Fields(uploaded)
			command = append(command, "--control-plane", "--certificate-key="+lines[len(lines)-1], "--apiserver-advertise-address="+node.Address())
			hosts = append([]string{node.Address()}, hosts...)
		}
		// The name that the printed command dials.
		endpoint, _, err := net.SplitHostPort(command[2])
		if err != nil {
			return err
		}
		for _, address := range hosts {
			if _, err := j.in(ctx, node, "sh", "-c", `echo "$@" >>/etc/hosts`, "hosts", address, endpoint); err != nil {
				return err
			}
		}
		if _, err := j.in(ctx, node, command...); err != nil {
			return err
		}
		var pods string
		err = until(ctx, clusterEvery, func(ctx context.Context) (err error) {
			pods, err = j.kubectl(ctx, "get", "node", node.Name(), "--output", "jsonpath={.spec.podCIDR}")
			if err == nil && pods == "" {
				err = fmt.Errorf("node %s has no pod CIDR yet", node.Name())
			}
			return err
		})
		if err != nil {
			return err
		}
		_, err = j.incus(ctx, strings.NewReader(bridge.Conflist(pods, `"ipMasq": true`)),
			"file", "push", "--create-dirs", "-", node.Name()+bridge.ConflistPath)
		return err
	})
}

// join prepares a node, and clocks do until it is Ready.
func (j *Joins) join(ctx context.Context, by string, role matrix.Role, do func(context.Context, provisioner.Node, provisioner.Desired) error) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	node, want, err := j.node(ctx)
	if err == nil {
		began := time.Now()
		if err = do(ctx, node, want); err == nil {
			err = j.ready(ctx, node)
		}
		took = time.Since(began)
	}
	if err == nil {
		fmt.Fprintf(j.Log, "%-6s joined by %-12s %6.1fs\n", role, by, took.Seconds())
		err = j.leave(ctx, node, role)
	}
	if err != nil {
		return 0, fmt.Errorf("join a node as %s by %s: %w", role, by, err)
	}
	return took, nil
}

// leave takes a node out of the cluster: a server's member of etcd too, without
// which the ones that stay would be no majority.
func (j *Joins) leave(ctx context.Context, node provisioner.Node, role matrix.Role) error {
	if role == matrix.RoleServer {
		if _, err := j.in(ctx, node, "kubeadm", "reset", "--force"); err != nil {
			return err
		}
	}
	if _, err := j.kubectl(ctx, "delete", "node", node.Name()); err != nil {
		return err
	}
	return node.Delete(ctx)
}

// node creates a node and prepares it as far as a cell does before it is
// initialised or joins.
func (j *Joins) node(ctx context.Context) (provisioner.Node, provisioner.Desired, error) {
	j.made++
	name := fmt.Sprintf("join-%s-%d", strconv.FormatInt(time.Now().UnixMilli(), 36), j.made)
	address, err := j.host.Reserve(ctx, name)
	if err != nil {
		return nil, provisioner.Desired{}, err
	}
	fixes := catalog.Fixes{Catalogue: j.knowledge.Fixes}
	want, err := fixes.Desired(j.example.Attempt.Fixes, cell.NodeContext{Name: name, Address: address, Network: j.host.Network(), Host: j.example.Attempt.Host})
	if err != nil {
		return nil, want, err
	}
	if j.made == 1 {
		release, _, err := lease.New(j.host.Exec(), catalog.LeaseFile).Acquire(ctx, want.Host.Sysctls)
		if err != nil {
			return nil, want, err
		}
		j.undo = append(j.undo, release)
	}
	j.undo = append(j.undo, j.host.Server.Instance(name, address).Delete)
	node, err := j.host.CreateNode(ctx, provisioner.NodeSpec{Name: name, Image: j.image, Address: address,
		Owner: owner(j.example), Limits: j.example.Plan.Budget.Node, Incus: want.Incus})
	if err != nil {
		return nil, want, err
	}
	err = until(ctx, bootEvery, func(ctx context.Context) error {
		_, err := node.Exec(ctx, provisioner.Command{Args: []string{"systemctl", "is-system-running", "--wait"}})
		return err
	})
	if err == nil {
		err = fixes.Apply(ctx, node, want)
	}
	if err == nil {
		err = j.distro.Configure(ctx, node, want)
	}
	return node, want, err
}

// ready waits until a node is Ready.
func (j *Joins) ready(ctx context.Context, node provisioner.Node) error {
	_, err := j.kubectl(ctx, "wait", "--for=condition=Ready", "node/"+node.Name(), "--timeout", joinTimeout.String())
	return err
}

// kubectl asks the API on the server.
func (j *Joins) kubectl(ctx context.Context, args ...string) (string, error) {
	return j.in(ctx, j.server, append([]string{"kubectl", "--kubeconfig", adminConf}, args...)...)
}

// in runs a command in a node by the incus client, as it is done by hand.
func (j *Joins) in(ctx context.Context, node provisioner.Node, args ...string) (string, error) {
	return j.incus(ctx, nil, append([]string{"exec", node.Name(), "--"}, args...)...)
}

// ReportJoins prints every pair, the medians with their spread, and whether the
// target is met. It needs one pair at least.
func ReportJoins(w io.Writer, pairs []JoinPair) error {
	if len(pairs) == 0 {
		return errors.New("report the joins: nothing was measured")
	}
	var b strings.Builder
	for i, p := range pairs {
		fmt.Fprintf(&b, "pair %d, %s: harness %s, by hand %s, ratio %s\n", i+1, p.Role, seconds(p.Harness), seconds(p.Hand), ratio(p.Harness, p.Hand))
	}
	fmt.Fprint(&b, "\nSeconds from the first command until the node is Ready. Medians (least..most):\n")
	for _, role := range []matrix.Role{matrix.RoleAgent, matrix.RoleServer} {
		var harness, hand []time.Duration
		for _, p := range pairs {
			if p.Role == role {
				harness, hand = append(harness, p.Harness), append(hand, p.Hand)
			}
		}
		if len(harness) == 0 {
			continue
		}
		h, m := summarise(harness), summarise(hand)
		fmt.Fprintf(&b, "  join as %s, %d pairs: harness %s (%s..%s), by hand %s (%s..%s), ratio %s; target at most %.2f: %s\n",
			role, len(harness), seconds(h.median), seconds(h.least), seconds(h.most), seconds(m.median), seconds(m.least), seconds(m.most),
			ratio(h.median, m.median), MostJoin, met(float64(h.median) <= MostJoin*float64(m.median)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
