package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// bootPatience bounds the start of the kept nodes of a cell, networkPatience
// the wait for the network of one.
const (
	bootPatience    = 2 * time.Minute
	networkPatience = 15 * time.Second
)

func (p *program) shell() *cobra.Command {
	var root, name string
	cmd := &cobra.Command{
		Use: "shell CELL [NODE] [-- COMMAND...]", Short: "Enter a node that was kept, or run a command in it", Args: args(shellArgs),
		Long: `Shell enters a node of a cell that was kept (run --keep). An embedded host's
nodes stop when its run ends: shell opens the host again, starts the cell's
nodes, and closes the host when it is left. The nodes stay until
lxcmatrix gc --yes removes them. A virtual machine ends with its run, and so do
the nodes on it.

CELL is a cell's ID or a selector that matches it alone; NODE is a node's name
or the end of it, as s1, the default. With a command, its exit code is shell's.`,
		Example: `  lxcmatrix run -f smoke --keep always
  lxcmatrix shell debian/13
  lxcmatrix shell debian/13 s1 -- kubectl get pods -A
  lxcmatrix shell debian/13 -- journalctl -u kubelet --no-pager | tail`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var command []string
			if at := cmd.ArgsLenAtDash(); at >= 0 {
				args, command = args[:at], args[at:]
			}
			folder, err := openRun(root, name)
			if err != nil {
				return err
			}
			c, err := findCell(folder.Plan(), args[0])
			if err != nil {
				return err
			}
			r, err := folder.Read()
			if err != nil {
				return err
			}
			none := usage("run %s keeps no node of cell %s; keep one with lxcmatrix run --keep always, or name another run with --run", r.ID, c.ID)
			if c.Host.Driver == embedded.Driver && !hasEmbedded(host.StateDir()) {
				return none
			}
			if c.Host.Driver == "qemu" {
				return usage("cell %s was on host %s, a virtual machine that ended with its run: nothing on it is kept", c.ID, c.Host.Name)
			}
			shown := p.lines()
			return p.withHost(cmd.Context(), c.Host, r.Plan.Budget.DiskBytes, shown, func(h *host.Host) error {
				nodes, err := keptNodes(cmd.Context(), h, r.ID, c.ID)
				if err != nil {
					return err
				}
				if len(nodes) == 0 {
					return none
				}
				i := 0
				if len(args) > 1 {
					i = slices.IndexFunc(nodes, func(o incus.Owned) bool { return isNode(o.Name, args[1]) })
				}
				if i < 0 {
					return usage("cell %s has no node %q%s", c.ID, args[1], indented("; there are:", nodeNames(nodes)))
				}
				release, err := leaseFor(cmd.Context(), h, r, c, nodes[i])
				if err != nil {
					return err
				}
				defer func() {
					if err := release(context.WithoutCancel(cmd.Context())); err != nil {
						p.say("%v", err)
					}
				}()
				if err := wake(cmd.Context(), h, nodes, c.Host.Driver == embedded.Driver, shown); err != nil {
					return err
				}
				return p.enter(cmd.Context(), h.Server.Instance(nodes[i].Name, nodes[i].Address), catalog.Kubeconfig(c.Distro.Name), command)
			})
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return keptCells(root, name), cobra.ShellCompDirectiveNoFileComp
		},
	}
	rootFlag(cmd.Flags(), &root)
	cmd.Flags().StringVar(&name, "run", "", "a `run` by ID or folder; default: the latest")
	return cmd
}

// shellArgs wants one or two arguments before the dash.
func shellArgs(cmd *cobra.Command, args []string) error {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		if at == len(args) {
			return errors.New("no command after --")
		}
		args = args[:at]
	}
	return cobra.RangeArgs(1, 2)(cmd, args)
}

// keptNodes lists the nodes of a cell's last attempt that is still there, in
// their order.
func keptNodes(ctx context.Context, h *host.Host, run string, id matrix.CellID) ([]incus.Owned, error) {
	all, err := h.Server.Owned(ctx)
	if err != nil {
		return nil, err
	}
	byIndex := map[string]incus.Owned{}
	for _, o := range all {
		if o.Owner["kind"] != "node" || o.Owner["run"] != run || o.Owner["cell"] != string(id) {
			continue
		}
		if other, ok := byIndex[o.Owner["node"]]; !ok || other.Created.Before(o.Created) {
			byIndex[o.Owner["node"]] = o
		}
	}
	var nodes []incus.Owned
	for _, o := range byIndex {
		nodes = append(nodes, o)
	}
	slices.SortFunc(nodes, func(a, b incus.Owned) int {
		return cmp.Or(cmp.Compare(len(a.Owner["node"]), len(b.Owner["node"])), cmp.Compare(a.Owner["node"], b.Owner["node"]))
	})
	return nodes, nil
}

func nodeNames(nodes []incus.Owned) []string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names
}

// leaseFor takes the host's sysctls that the cell's fixes want for as long as
// its nodes run: without them a kubelet that worked does not start again.
func leaseFor(ctx context.Context, h *host.Host, r matrix.Run, c matrix.Cell, node incus.Owned) (lease.Release, error) {
	none := func(context.Context) error { return nil }
	i := slices.IndexFunc(r.Results, func(result matrix.Result) bool { return result.Cell.ID == c.ID })
	attempt, ok := r.Results[i].Last()
	if !ok || len(attempt.Fixes) == 0 {
		return none, nil
	}
	knowledge, err := catalog.LoadKnowledge(ctx)
	if err != nil {
		return nil, err
	}
	// Fixes of the user's own may be gone by now; their host effects, too. What
	// one role's nodes want of the host holds for all.
	applied := slices.DeleteFunc(slices.Clone(attempt.Fixes), func(f matrix.AppliedFix) bool {
		_, err := knowledge.Fixes.Fix(f.ID)
		return err != nil
	})
	want, err := catalog.Fixes{Catalogue: knowledge.Fixes}.Desired(applied,
		cell.NodeContext{Name: node.Name, Address: node.Address, Network: h.Network(), Host: attempt.Host})
	if err != nil {
		return nil, err
	}
	release, _, err := lease.New(h.Exec(), catalog.LeaseFile).Acquire(ctx, want.Host.Sysctls)
	return release, err
}

// wake starts the nodes that are stopped, and waits until they have booted.
// stopped says that they were all stopped, whatever the host did since it was
// opened.
func wake(ctx context.Context, h *host.Host, nodes []incus.Owned, stopped bool, shown provisioner.Progress) error {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	for _, n := range nodes {
		instance := h.Server.Instance(n.Name, n.Address)
		if stopped || !n.Running {
			shown.Note("node %s was stopped when its run ended, and is started again", n.Name)
		}
		if err := up(ctx, h, instance, shown); err != nil {
			return err
		}
		err := online(ctx, instance)
		if err != nil && stopped {
			// It ran on while its host was closed, and lost its bridge.
			shown.Note("node %s has no network: %v; restarting it", n.Name, err)
			if err := instance.ForceRestart(ctx); err != nil {
				return err
			}
			if err := up(ctx, h, instance, shown); err != nil {
				return err
			}
			err = online(ctx, instance)
		}
		if err != nil {
			shown.Note("node %s has no network: %v", n.Name, err)
		}
	}
	return nil
}

// up starts a node if it is stopped, and waits until it has booted.
func up(ctx context.Context, h *host.Host, instance *incus.Instance, shown provisioner.Progress) error {
	booted := shown.Step("waiting for node %s to boot", instance.Name())
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, awake(ctx, h, instance) },
		backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(bootPatience))
	booted(err)
	if err != nil {
		return fmt.Errorf("start node %s: %w", instance.Name(), err)
	}
	return nil
}

// online waits, not for long, until a node has its default route: one that
// never gets it is worth a look all the same.
func online(ctx context.Context, instance *incus.Instance) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		out, err := instance.Exec(ctx, provisioner.Command{Args: []string{"ip", "-4", "route", "show", "default"}})
		if err == nil && out.Stdout == "" {
			err = errors.New("there is no default route")
		}
		return struct{}{}, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(networkPatience))
	return err
}

// awake starts a node that is stopped and fails until it has booted. The
// daemon itself may be starting it at the same time: then an attempt fails,
// and the next one finds it running.
func awake(ctx context.Context, h *host.Host, instance *incus.Instance) error {
	all, err := h.Server.Owned(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(o incus.Owned) bool { return o.Name == instance.Name() && o.Running }) {
		if err := instance.Start(ctx); err != nil {
			return err
		}
	}
	// A node with failed units is worth a look, too.
	out, err := instance.Exec(ctx, provisioner.Command{Args: []string{"systemctl", "is-system-running"}})
	state := strings.TrimSpace(out.Stdout)
	if state == "running" || state == "degraded" {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("systemd is %q", state)
	}
	return err
}

// enter runs a command, or a shell on the terminal, in a node.
func (p *program) enter(ctx context.Context, node *incus.Instance, kubeconfig string, command []string) error {
	env := map[string]string{"HOME": "/root", "USER": "root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if kubeconfig != "" {
		env["KUBECONFIG"] = kubeconfig
	}
	var code int
	var err error
	if len(command) == 0 && isTerminal(p.In) && isTerminal(p.Out) {
		env["TERM"] = cmp.Or(os.Getenv("TERM"), "linux")
		code, err = p.terminal(ctx, node, provisioner.Command{Args: []string{"bash", "-l"}, Env: env})
	} else {
		if len(command) == 0 {
			command = []string{"bash", "-l"}
		}
		var stdin io.Reader
		if !isTerminal(p.In) {
			stdin = p.In
		}
		code, err = node.Stream(ctx, provisioner.Command{Args: command, Env: env, Stdin: stdin}, p.Out, p.Err)
	}
	if err != nil {
		return fmt.Errorf("run a command in node %s: %w", node.Name(), err)
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// terminal runs a command on the program's own terminal, which is raw for as
// long.
func (p *program) terminal(ctx context.Context, node *incus.Instance, command provisioner.Command) (int, error) {
	in, out := int(p.In.(*os.File).Fd()), int(p.Out.(*os.File).Fd())
	size := func() incus.Size {
		columns, rows, err := term.GetSize(out)
		if err != nil {
			return incus.Size{Columns: 80, Rows: 24}
		}
		return incus.Size{Columns: columns, Rows: rows}
	}
	before, err := term.MakeRaw(in)
	if err != nil {
		return -1, fmt.Errorf("make the terminal raw: %w", err)
	}
	defer func() { _ = term.Restore(in, before) }()
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	defer signal.Stop(changes)
	resized := make(chan incus.Size)
	ended, end := context.WithCancel(ctx)
	defer end()
	go func() {
		for {
			select {
			case <-changes:
			case <-ended.Done():
				return
			}
			select {
			case resized <- size():
			case <-ended.Done():
				return
			}
		}
	}()
	return node.Interactive(ctx, command, incus.Terminal{In: p.In, Out: p.Out, Size: size(), Resized: resized})
}
