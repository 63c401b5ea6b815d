// Package simulated is what cells of tests are made of: they go through all their
// phases over a fakeincus server, and do nothing in their nodes but commands that
// say what they are for.
package simulated

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus/fakeincus"
)

// do runs a command that says what it is for in a node.
func do(ctx context.Context, node provisioner.Node, what string) error {
	_, err := node.Exec(ctx, provisioner.Command{Args: []string{what}})
	return err
}

// see is healthy where the command that says what it looks for ends well, and
// shows what it printed.
func see(ctx context.Context, nodes []provisioner.Node, what string) (all []matrix.Evidence) {
	for _, n := range nodes {
		e := matrix.Evidence{Check: what, Node: n.Name(), Outcome: matrix.Healthy}
		out, err := n.Exec(ctx, provisioner.Command{Args: []string{what}})
		if e.Saw = strings.TrimSpace(out.Stdout); err != nil {
			e.Outcome, e.Saw = matrix.Undecided, err.Error()
		}
		all = append(all, e)
	}
	return all
}

// Distro installs nothing, and says what it would.
type Distro struct{}

// Configure writes a file and runs "configure".
func (Distro) Configure(ctx context.Context, n provisioner.Node, _ provisioner.Desired) error {
	if err := n.Push(ctx, provisioner.File{Path: "/etc/simulated", Content: "as it should be\n"}); err != nil {
		return err
	}
	return do(ctx, n, "configure")
}

// Init runs "init"; its kubeconfig leads nowhere.
func (Distro) Init(ctx context.Context, n provisioner.Node, _ provisioner.Desired) ([]byte, error) {
	return []byte("kubeconfig"), do(ctx, n, "init")
}

// Join runs "join".
func (Distro) Join(ctx context.Context, _ []provisioner.Node, n provisioner.Node, _ matrix.Role, _ provisioner.Desired) error {
	return do(ctx, n, "join")
}

// Connect does nothing.
func (Distro) Connect(context.Context, []provisioner.Node) error { return nil }

// Services are none.
func (Distro) Services(matrix.Role) []string { return nil }

// LogCommands are one.
func (Distro) LogCommands() map[string]string {
	return map[string]string{"journal.log": "journalctl"}
}

// Fixes is a set of one, that every cell needs.
type Fixes struct{}

// Decide applies it.
func (Fixes) Decide(matrix.Cell, matrix.HostFacts, *matrix.NodeFacts) ([]matrix.AppliedFix, error) {
	return []matrix.AppliedFix{{ID: "kmsg-device", State: "applied"}}, nil
}

// Desired is that it is verified.
func (Fixes) Desired([]matrix.AppliedFix, cell.NodeContext) (provisioner.Desired, error) {
	return provisioner.Desired{Verify: []provisioner.Verification{{Fix: "kmsg-device", After: matrix.PhaseFix}}, Repairs: []string{"/run/repairs"}}, nil
}

// Apply runs "apply".
func (Fixes) Apply(ctx context.Context, n provisioner.Node, _ provisioner.Desired) error {
	return do(ctx, n, "apply")
}

// Verify looks by "verify".
func (Fixes) Verify(ctx context.Context, n provisioner.Node, _ provisioner.Desired, _ matrix.Phase) []matrix.Evidence {
	return see(ctx, []provisioner.Node{n}, "verify")
}

// Health looks by one command for each thing, of cells that ask for no further
// restarts.
type Health struct{}

// Baseline looks by "baseline".
func (Health) Baseline(ctx context.Context, c *provisioner.Cluster) ([]matrix.Evidence, time.Duration) {
	return see(ctx, c.Nodes, "baseline"), 0
}

// Mark runs "mark", and remembers nothing.
func (Health) Mark(ctx context.Context, c *provisioner.Cluster) (cell.Mark, error) {
	return nil, do(ctx, c.Nodes[0], "mark")
}

// AfterRestart looks by "after-restart".
func (Health) AfterRestart(ctx context.Context, c *provisioner.Cluster, _ cell.Mark) ([]matrix.Evidence, time.Duration) {
	return see(ctx, c.Nodes, "after-restart"), 0
}

// AfterServices is not asked.
func (Health) AfterServices(context.Context, *provisioner.Cluster, cell.Mark) ([]matrix.Evidence, time.Duration) {
	return nil, 0
}

// Away is not asked.
func (Health) Away(context.Context, *provisioner.Cluster, []string, time.Duration) []matrix.Evidence {
	return nil
}

// BeginRollout is not asked.
func (Health) BeginRollout(_ context.Context, _ *provisioner.Cluster, mark cell.Mark) (cell.Mark, []matrix.Evidence) {
	return mark, nil
}

// AfterAway is not asked.
func (Health) AfterAway(context.Context, *provisioner.Cluster, cell.Mark, []string) ([]matrix.Evidence, time.Duration) {
	return nil, 0
}

// Follow sees nothing.
func (Health) Follow(context.Context, *provisioner.Cluster, cell.Mark, []string) func() matrix.Recovery {
	return func() matrix.Recovery { return matrix.Recovery{} }
}

// Returned looks by "returned".
func (Health) Returned(ctx context.Context, c *provisioner.Cluster, _ cell.Mark, _ []string) []matrix.Evidence {
	return see(ctx, c.Nodes, "returned")
}

// Answer is what a command in a node prints, and its exit code: that all is as it
// should be, and what cells ask to know where they are.
func Answer(c fakeincus.Command) (string, int) {
	script := strings.Join(c.Args, " ")
	switch {
	case strings.Contains(script, "is-system-running"):
		return "running\n", 0
	case strings.Contains(script, "boot_id"):
		return fmt.Sprintf("kernel=6.18.5\ncgroup=tmpfs\nid=debian\nversion=13\nsystemd=systemd 257\ncontainerd=containerd github.com/containerd/containerd/v2 v2.1.4 abc\nrunc=runc version 1.3.0\nkubernetes=Kubernetes v1.34.4\nboot=boot-%d\n", c.Starts), 0
	case slices.Contains(c.Args, "observe"):
		return "kernel=6.18.5\ncgroup=1021994\nv1=cpu\t3\t40\t1\nbounding=000001ffffffffff\ncpus=4\nMemTotal=8388608\n", 0
	}
	return "as it should be\n", 0
}
