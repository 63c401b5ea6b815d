package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
)

const (
	// scriptPatience bounds one script in a node.
	scriptPatience = 3 * time.Minute
	// healPatience is how long the cluster may take to be healthy again, and
	// busyAfter how long until its machine is taken to be too busy for a deadline,
	// which is multiplied by busyFactor then.
	healPatience = 5 * time.Minute
	busyAfter    = 150 * time.Second
	busyFactor   = 3
	// restartPatience bounds a restart of every node, with the snapshot before it.
	restartPatience = 3 * time.Minute
	// logPatience is how long the logs of all nodes may take.
	logPatience = time.Minute
	// pausePatience bounds what Incus does to a node.
	pausePatience = 30 * time.Second
)

// Outcome is what came of one fault.
type Outcome struct {
	Fault Fault `json:"fault"`
	// Blocked is why the fault cannot be made here.
	Blocked string `json:"blocked,omitempty"`
	// Error is why it was not tried to the end.
	Error string `json:"error,omitempty"`
	// Evidence is what the checks saw of the broken cluster.
	Evidence  []matrix.Evidence  `json:"evidence,omitempty"`
	Diagnoses []matrix.Diagnosis `json:"diagnoses,omitempty"`
	// Seen is when the checks began to look, Took is from there to the verdict, Whole all that the fault took with
	// the look before it and its healing.
	Seen  time.Time       `json:"seen,omitzero"`
	Took  matrix.Duration `json:"took,omitempty"`
	Whole matrix.Duration `json:"whole,omitempty"`
}

// Bed is a cluster to sow faults in.
type Bed struct {
	cell.Lodging
	Signatures []*diagnose.Signature
	// Folder gets the logs of each fault, in a folder of its name.
	Folder string
	// Progress gets a line for each fault.
	Progress provisioner.Progress

	before *health.Snapshot
	// checks, if set, take the place of those that a cell goes through.
	checks func(before *health.Snapshot, f Fault) []provisioner.Check
}

// Sow tries faults one after the other, each once the cluster was seen to be
// healthy. Where it does not get well, or ctx ends, the error says so, and left
// are the faults that were not tried.
func (b *Bed) Sow(ctx context.Context, faults []Fault) (outcomes []Outcome, left []Fault, err error) {
	for i, f := range faults {
		if ctx.Err() != nil {
			return outcomes, faults[i:], fmt.Errorf("before fault %s: %w", f.ID, context.Cause(ctx))
		}
		o := Outcome{Fault: f}
		began := time.Now()
		if o.Blocked = b.cannot(ctx, f); o.Blocked == "" {
			if err := b.prepare(ctx, &o.Fault); err != nil {
				return outcomes, faults[i:], fmt.Errorf("before fault %s: %w", f.ID, err)
			}
			if err := b.try(ctx, &o); err != nil {
				o.Error = err.Error()
			}
		}
		o.Whole = matrix.Duration(time.Since(began))
		b.Progress.Note("%s", o.line())
		outcomes = append(outcomes, o)
	}
	return outcomes, nil, nil
}

// cannot says why a fault cannot be made in this cluster; empty if it can.
func (b *Bed) cannot(ctx context.Context, f Fault) string {
	if have := len(b.Cluster.Nodes); f.Topology.nodes() > have {
		return fmt.Sprintf("it needs topology %s", f.Topology)
	}
	if f.Needs == "" {
		return ""
	}
	err := b.script(ctx, b.server(), f.Needs)
	var said *provisioner.CommandError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &said):
		return f.Why
	}
	return fmt.Sprintf("it could not be told whether it can be made here: %v", err)
}

// try makes one fault and heals it.
func (b *Bed) try(ctx context.Context, o *Outcome) (err error) {
	f := o.Fault
	defer func() { err = errors.Join(err, b.heal(ctx, f)) }()
	began := time.Now()
	if err := b.inject(ctx, f); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	cluster := *b.Cluster
	if f.Kubeconfig != "" {
		if cluster.Kubeconfig, err = b.server().Pull(ctx, f.Kubeconfig); err != nil {
			return fmt.Errorf("inject: %w", err)
		}
	}
	o.Seen = time.Now()
	o.Evidence = b.look(ctx, &cluster, f)
	o.Took = matrix.Duration(time.Since(o.Seen))
	logs := filepath.Join(b.Folder, f.ID)
	if err := b.keepLogs(ctx, logs, began, o.phase()); err != nil {
		return err
	}
	o.Diagnoses, err = diagnose.Diagnose(ctx, b.Signatures, fixtures.Passing(), os.DirFS(logs))
	return err
}

// prepare brings the cluster to where the fault is to be made, and sees it
// healthy there within the fault's own deadline.
func (b *Bed) prepare(ctx context.Context, f *Fault) error {
	switch {
	case f.After == AfterNothing:
		b.before = nil
		return b.healthy(ctx, f)
	case f.After == AfterRestart && b.before != nil:
		return b.healthy(ctx, f)
	}
	b.before = nil
	if err := b.healthy(ctx, f); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, restartPatience)
	defer cancel()
	before, err := health.TakeSnapshot(within, b.Cluster)
	if err != nil {
		return err
	}
	b.before = &before
	if f.After == AfterNoRestart {
		return nil // a cluster that was not restarted is the fault
	}
	if err := b.everyNode(func(n provisioner.Node) error { return n.Restart(within) }); err != nil {
		return err
	}
	return b.healthy(ctx, f)
}

// healthy looks until one look within the fault's deadline finds all healthy. A
// machine that is too busy for that is given more time, and the fault with it.
func (b *Bed) healthy(ctx context.Context, f *Fault) error {
	given, began := f.Within, time.Now()
	for {
		j := judge(b.look(ctx, b.Cluster, *f))
		if j.Verdict == matrix.Pass {
			return nil
		}
		if ctx.Err() != nil || time.Since(began) > healPatience {
			return fmt.Errorf("the cluster is not healthy: %s", j.Reason)
		}
		if time.Since(began) > busyAfter {
			f.Within = busyFactor * given
		}
	}
}

// look runs the checks of a baseline, or of what comes after a restart.
func (b *Bed) look(ctx context.Context, cluster *provisioner.Cluster, f Fault) []matrix.Evidence {
	timeouts := matrix.Timeouts{Stability: f.Stability}
	var checks []provisioner.Check
	switch {
	case b.checks != nil:
		checks = b.checks(b.before, f)
	case b.before != nil:
		checks = health.AfterRestart(*b.before, timeouts)
	default:
		checks = health.Baseline(timeouts)
	}
	within, cancel := context.WithTimeout(ctx, f.Within.Std()+f.Stability.Std())
	defer cancel()
	evidence, _ := health.RunAll(within, cluster, checks)
	return evidence
}

// judge is the verdict on what the checks saw.
func judge(evidence []matrix.Evidence) matrix.Judgement {
	return matrix.JudgePhase(matrix.PhaseResult{Phase: matrix.PhaseBaseline, Evidence: evidence})
}

func (b *Bed) server() provisioner.Node { return b.Cluster.Nodes[0] }

// node is the first of a role; nil where there is none.
func (b *Bed) node(role matrix.Role) provisioner.Node {
	for i, n := range b.Cluster.Nodes {
		if b.Cluster.Cell.Topology.Role(i) == role {
			return n
		}
	}
	return nil
}

// everyNode works on all nodes at once.
func (b *Bed) everyNode(do func(provisioner.Node) error) error {
	errs := make([]error, len(b.Cluster.Nodes))
	var wait sync.WaitGroup
	for i, n := range b.Cluster.Nodes {
		wait.Go(func() { errs[i] = do(n) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// pausable is a node whose processes can be frozen.
type pausable interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

func (b *Bed) inject(ctx context.Context, f Fault) error {
	if err := b.scripts(ctx, f.Inject); err != nil {
		return err
	}
	if f.Pause == "" {
		return nil
	}
	node := b.node(f.Pause)
	p, ok := node.(pausable)
	if !ok {
		return fmt.Errorf("pause node %s: it is a %T, which cannot be paused", node.Name(), node)
	}
	ctx, cancel := context.WithTimeout(ctx, pausePatience)
	defer cancel()
	return p.Pause(ctx)
}

// heal undoes a fault, also where it was made in part only, and where ctx ended.
// Whether the cluster is well then shows before the next one.
func (b *Bed) heal(ctx context.Context, f Fault) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scriptPatience)
	defer cancel()
	var err error
	if p, ok := b.node(f.Pause).(pausable); ok && f.Pause != "" {
		err = p.Resume(ctx)
	}
	if err = errors.Join(err, b.scripts(ctx, f.Heal)); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return nil
}

func (b *Bed) scripts(ctx context.Context, s Scripts) error {
	if s.Host != "" {
		exec := b.Cluster.Host.Exec()
		if exec == nil {
			return errors.New("the host offers no way to its own system")
		}
		if _, err := exec.Run(ctx, b.command(s.Host)); err != nil {
			return err
		}
	}
	if s.Agent != "" {
		if err := b.script(ctx, b.node(matrix.RoleAgent), s.Agent); err != nil {
			return err
		}
	}
	if s.Server != "" {
		return b.script(ctx, b.server(), s.Server)
	}
	return nil
}

func (b *Bed) script(ctx context.Context, node provisioner.Node, text string) error {
	ctx, cancel := context.WithTimeout(ctx, scriptPatience)
	defer cancel()
	_, err := node.Exec(ctx, b.command(text))
	return err
}

// words are those that scripts may use: until_ waits until a command succeeds.
const words = `set -eu
until_() { n=0; until "$@" >/dev/null 2>&1; do n=$((n+1)); if [ $n -gt 600 ]; then echo "gave up waiting for: $*" >&2; "$@" >&2; return 1; fi; sleep 0.2; done; }
`

// command is a script with what it may need to know.
func (b *Bed) command(text string) provisioner.Command {
	env := map[string]string{
		"KUBECONFIG": "/etc/kubernetes/admin.conf",
		"DRIVER":     b.Cluster.Cell.Host.Driver,
		"SERVER":     b.server().Name(), "SERVER_IP": b.server().Address(),
	}
	if agent := b.node(matrix.RoleAgent); agent != nil {
		env["AGENT"], env["AGENT_IP"] = agent.Name(), agent.Address()
		if b.before != nil {
			env["BOOT_ID_BEFORE"] = b.before.Nodes[agent.Name()].BootID
		}
	}
	return provisioner.Command{Args: []string{"sh", "-c", words + text}, Env: env}
}

// keepLogs keeps what the nodes logged since the fault, and what was seen. What a
// node does not give is a log of its own.
func (b *Bed) keepLogs(ctx context.Context, folder string, since time.Time, seen matrix.PhaseResult) error {
	collecting, cancel := context.WithTimeout(ctx, logPatience)
	defer cancel()
	keep := func(from, name string, content []byte) error {
		path := filepath.Join(folder, from, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("keep log %s: %w", name, err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("keep log %s: %w", name, err)
		}
		return nil
	}
	var missing []error
	var mu sync.Mutex
	err := b.everyNode(func(n provisioner.Node) error {
		logs, failed := b.Logs(collecting, n)
		mu.Lock()
		missing = append(missing, failed)
		mu.Unlock()
		var errs []error
		for name, content := range logs {
			errs = append(errs, keep(n.Name(), name, diagnose.Since(since, content)))
		}
		return errors.Join(errs...)
	})
	if lost := errors.Join(missing...); lost != nil {
		err = errors.Join(err, keep("phases", "collect.log", []byte(lost.Error())))
	}
	return errors.Join(err, keep("phases", string(seen.Phase)+".log", cell.Said(seen)))
}

// phase is what was seen, as a phase of a cell.
func (o Outcome) phase() matrix.PhaseResult {
	p := matrix.PhaseResult{Phase: matrix.PhaseBaseline, Started: o.Seen, Duration: o.Took, Evidence: o.Evidence}
	if o.Fault.After != AfterNothing {
		p.Phase = matrix.PhaseRecover
	}
	return p
}

// Tried says whether the fault was made and looked at.
func (o Outcome) Tried() bool { return o.Blocked == "" }

// Missed says what is not as it should have been; empty for a fault that was
// caught.
func (o Outcome) Missed() string {
	if o.Error != "" {
		return o.Error
	}
	if v := judge(o.Evidence); v.Verdict != o.Fault.verdict() {
		return strings.TrimSpace(fmt.Sprintf("the verdict is %s %s", v.Verdict, v.Reason))
	}
	for _, check := range o.Fault.Checks {
		if !o.saw(check) {
			return "check " + check + " did not see it"
		}
	}
	if !o.named() {
		return "the diagnosis does not name it"
	}
	return ""
}

// saw says whether a check saw the fault: it was unhealthy where the verdict is
// to be fail, and could not tell where it is to be blocked.
func (o Outcome) saw(check string) bool {
	want := matrix.Unhealthy
	if o.Fault.verdict() == matrix.Blocked {
		want = matrix.Undecided
	}
	return slices.ContainsFunc(o.Evidence, func(e matrix.Evidence) bool { return e.Check == check && e.Outcome == want })
}

func (o Outcome) named() bool {
	return slices.ContainsFunc(o.Diagnoses, func(d matrix.Diagnosis) bool { return d.Signature == o.Fault.Signature })
}

// line is the outcome in one line.
func (o Outcome) line() string {
	switch missed := o.Missed(); {
	case o.Blocked != "":
		return fmt.Sprintf("%s: blocked: %s", o.Fault.ID, o.Blocked)
	case missed != "":
		return fmt.Sprintf("%s: NOT CAUGHT, %.1fs in all: %s", o.Fault.ID, o.Whole.Std().Seconds(), missed)
	}
	return fmt.Sprintf("%s: caught in %.1fs, %.1fs in all: %s", o.Fault.ID, o.Took.Std().Seconds(), o.Whole.Std().Seconds(), judge(o.Evidence).Reason)
}
