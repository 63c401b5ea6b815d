package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

func (p *program) gc() *cobra.Command {
	var root, file string
	var yes, asJSON bool
	var remotes []string
	hosts := []string{"embedded", "qemu", "docker"}
	cmd := &cobra.Command{
		Use: "gc", Short: "Show what ended runs left behind, and remove it with --yes", Args: args(noArgs),
		Long: `Gc looks for what runs left behind: nodes that were kept or that a run which
did not end could not remove, services around clusters, on the Docker engine too,
a daemon, a mounted pool, virtual machines, host sysctls. It shows them; --yes removes them. What belongs to a process that lives is left alone.
Images and releases stay: see lxcmatrix image remove. Of the root disks of
virtual machines, those go that no run asked for in 30 days or that a newer one
replaced.

Servers elsewhere are looked at where they are named, by --remote or as remote
hosts of a matrix file, and only what runs from here left on them is removed.`,
		Example: `  lxcmatrix gc
  lxcmatrix gc --yes
  lxcmatrix gc --host embedded --host local --yes
  lxcmatrix gc --remote lab
  lxcmatrix gc -f matrix.yaml --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := &collector{program: p, root: root, yes: yes, shown: p.lines(), items: []leftover{}}
			elsewhere, err := remoteHosts(file, remotes)
			if err != nil {
				return err
			}
			var errs []error
			for _, ref := range elsewhere {
				errs = append(errs, c.remote(cmd.Context(), ref))
			}
			for _, driver := range hosts {
				switch driver {
				case "embedded":
					errs = append(errs, c.embedded(cmd.Context()))
				case "local":
					errs = append(errs, c.local(cmd.Context()))
				case "qemu":
					errs = append(errs, c.machines(cmd.Context()), c.disks())
				case "docker":
					errs = append(errs, c.docker(cmd.Context()))
				default:
					return usage("--host %q: want docker, embedded, local or qemu", driver)
				}
			}
			return errors.Join(append(errs, c.print(asJSON))...)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&hosts, "host", hosts, "`host` to look at: docker, embedded, local or qemu; may be repeated")
	f.StringArrayVar(&remotes, "remote", nil, "`name` of a server in your Incus client's configuration to look at as well; may be repeated")
	f.StringVarP(&file, "file", "f", "", "look at the remote hosts of a `matrix` as well: a file, or the name of a built-in one")
	f.BoolVar(&yes, "yes", false, "remove what is shown")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	rootFlag(f, &root)
	complete(cmd, "host", words("docker", "embedded", "local", "qemu"))
	completeMatrix(cmd)
	return cmd
}

// removePatience bounds the removal of one instance: one that cannot be killed
// must not keep the others.
const removePatience = time.Minute

// The states of a leftover.
const (
	toRemove  = "to remove"
	removed   = "removed"
	leftAlone = "left alone"
	failed    = "failed"
)

// leftover is one thing that a run left behind.
type leftover struct {
	Host string `json:"host"`
	// What is node, service, image in the making, daemon, mount, machine, root disk
	// or sysctls.
	What string `json:"what"`
	Name string `json:"name"`
	Why  string `json:"why"`
	// State is one of those above.
	State string `json:"state"`
}

// collector gathers leftovers and removes them.
type collector struct {
	*program
	root  string
	yes   bool
	shown *progress.Teller
	items []leftover
	// leases are the files of changed sysctls that were taken.
	leases []string
}

// take notes a leftover, and removes it where that was asked for.
func (c *collector) take(item leftover, remove func() error) error {
	item.State = toRemove
	var err error
	if c.yes {
		item.State = removed
		if err = remove(); err != nil {
			item.State = failed
		}
	}
	c.items = append(c.items, item)
	return err
}

// embedded looks at the embedded host, if it was ever opened.
func (c *collector) embedded(ctx context.Context) error {
	dir := host.StateDir()
	if !hasEmbedded(dir) {
		return nil
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	free, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("look at the embedded host in %s: %w", dir, err)
	}
	if !free {
		c.items = append(c.items, leftover{Host: "embedded", What: "host", Name: dir, Why: "a live run has it open", State: leftAlone})
		return nil
	}
	if err := lock.Unlock(); err != nil {
		return fmt.Errorf("look at the embedded host in %s: %w", dir, err)
	}
	// Closing the host ends its daemon and unmounts its pool.
	closes := func() error { return nil }
	errs := []error{}
	daemon, err := host.Daemon(dir)
	if err != nil {
		return err
	}
	if daemon != 0 {
		errs = append(errs, c.take(leftover{Host: "embedded", What: "daemon", Name: fmt.Sprintf("incusd %d", daemon), Why: "its run did not end"}, closes))
	}
	if mounted(filepath.Join(dir, "pool")) {
		errs = append(errs, c.take(leftover{Host: "embedded", What: "mount", Name: filepath.Join(dir, "pool"), Why: "its run did not end"}, closes))
	}
	if daemon != 0 && !c.yes {
		// To open the host would be to end its daemon afterwards.
		server, err := incus.Connect(ctx, filepath.Join(dir, "incus", "unix.socket"))
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		defer server.Disconnect()
		return errors.Join(append(errs, c.instances(ctx, embedded, server), c.sysctls(ctx, "embedded", catalog.LeaseFile, nil))...)
	}
	return errors.Join(append(errs, c.withHost(ctx, embedded, 0, c.shown, func(h *host.Host) error {
		return errors.Join(c.instances(ctx, embedded, h.Server), c.sysctls(ctx, "embedded", catalog.LeaseFile, h))
	}))...)
}

// local looks at the harness's project in the system's Incus.
func (c *collector) local(ctx context.Context) error {
	ref := matrix.HostRef{Name: "local", Driver: "local", HostWrites: "allow"}
	if !c.yes {
		server, err := incus.Connect(ctx, "")
		if err != nil {
			return fmt.Errorf("look at the local host: %w", err)
		}
		defer server.Disconnect()
		return errors.Join(c.instances(ctx, ref, server), c.sysctls(ctx, "local", catalog.LeaseFile, nil))
	}
	return c.withHost(ctx, ref, 0, c.shown, func(h *host.Host) error {
		if err := c.instances(ctx, ref, h.Server); err != nil {
			return err
		}
		return c.sysctls(ctx, "local", catalog.LeaseFile, h)
	})
}

// remoteHosts are the servers of a matrix and those that are named, each once
// and with the way to its machine where one is given.
func remoteHosts(file string, names []string) (all []matrix.HostRef, err error) {
	add := func(ref matrix.HostRef) {
		i := slices.IndexFunc(all, func(known matrix.HostRef) bool {
			return known.Remote.Name == ref.Remote.Name && known.Remote.URL == ref.Remote.URL
		})
		switch {
		case i < 0:
			all = append(all, ref)
		case all[i].Remote.SSH == "" && ref.Remote.SSH != "":
			all[i] = ref
		}
	}
	if file != "" {
		m, err := config.Find(file, "")
		if err != nil {
			return nil, usage("%w", err)
		}
		for _, h := range m.Hosts {
			if ref := h.Ref(); ref.Driver == "remote" {
				add(ref)
			}
		}
	}
	for _, name := range names {
		add(matrix.HostRef{Name: name, Driver: "remote", Remote: matrix.RemoteRef{Name: name}})
	}
	return all, nil
}

// remote looks at the harness's project on a server elsewhere, all members of a
// cluster in one, and at the sysctls of a machine that there is a way to.
func (c *collector) remote(ctx context.Context, ref matrix.HostRef) error {
	server, err := host.ConnectRemote(ctx, ref.Remote)
	if err != nil {
		return fmt.Errorf("look at host %s: %w", ref.Name, err)
	}
	defer server.Disconnect()
	if err := c.instances(ctx, ref, server); err != nil || ref.Remote.SSH == "" {
		return err
	}
	// What runs were allowed to change they may put back.
	ref.HostWrites = "allow"
	file := catalog.RemoteLeaseFile(ref.Remote)
	if !c.yes {
		return c.sysctls(ctx, ref.Name, file, nil)
	}
	members, err := server.Members(ctx)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		// The way to the machine is the same through any of them.
		ref.Remote.Member = members[0]
	}
	return c.withHost(ctx, ref, 0, c.shown, func(h *host.Host) error { return c.sysctls(ctx, ref.Name, file, h) })
}

// machines takes the virtual machines whose run is gone. QEMU ends with its run,
// so most often only a machine's files are left.
func (c *collector) machines(ctx context.Context) error {
	left, err := qemu.Leftovers(host.StateDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range left {
		item := leftover{Host: "qemu", What: "machine", Name: l.Dir, Why: "its run did not end; QEMU has"}
		if l.PID != 0 {
			item.Why = fmt.Sprintf("its run did not end; QEMU runs as process %d", l.PID)
		}
		errs = append(errs, c.take(item, func() error { return l.Remove(ctx) }))
	}
	return errors.Join(errs...)
}

// disks takes the root disks of virtual machines that are not worth their place.
func (c *collector) disks() error {
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		return err
	}
	old, err := qemu.OldDisks(cache)
	errs := []error{err}
	for _, d := range old {
		errs = append(errs, c.take(leftover{Host: "qemu", What: "root disk", Name: d.Dir, Why: d.Why}, d.Remove))
	}
	return errors.Join(errs...)
}

// docker takes the services that are left on the Docker engine, if one answers.
func (c *collector) docker(ctx context.Context) (err error) {
	owned, end, err := containers.DockerOwned(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	var errs []error
	for _, o := range owned {
		item := c.left(matrix.HostRef{Name: "docker", Driver: "docker"}, incus.Owned{Name: o.Name, Owner: o.Owner, Created: o.Created})
		if item.State == leftAlone {
			c.items = append(c.items, item)
			continue
		}
		errs = append(errs, c.take(item, func() error {
			within, cancel := context.WithTimeoutCause(ctx, removePatience, fmt.Errorf("not gone within %s", removePatience))
			defer cancel()
			return o.Remove(within)
		}))
	}
	return errors.Join(errs...)
}

// instances takes the harness's instances that are left.
func (c *collector) instances(ctx context.Context, ref matrix.HostRef, server *incus.Server) error {
	owned, err := server.Owned(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range owned {
		item := c.left(ref, o)
		if item.State == leftAlone {
			c.items = append(c.items, item)
			continue
		}
		errs = append(errs, c.take(item, func() error {
			within, cancel := context.WithTimeoutCause(ctx, removePatience, fmt.Errorf("not gone within %s", removePatience))
			defer cancel()
			return server.Instance(o.Name, o.Address).Delete(within)
		}))
	}
	return errors.Join(errs...)
}

// left says whether an instance is left of a run that is no more, and why. The
// embedded host is open for one process at a time: what is on it is nobody's
// else. A server elsewhere has other clients, whose processes do not show here:
// only what belongs to a run that is kept here is known to have been made from
// here.
func (c *collector) left(ref matrix.HostRef, o incus.Owned) leftover {
	item := leftover{Host: ref.Name, What: "node", Name: o.Name, State: leftAlone}
	switch o.Owner["kind"] {
	case "prepare":
		item.What = "image in the making"
	case "service":
		item.What = "service"
	}
	pid, err := strconv.Atoi(o.Owner["pid"])
	switch {
	case o.Owner["kind"] == "" || err != nil:
		item.Why = "it has no owner: it is not lxcmatrix'"
	case ref.Driver == "remote" && !c.knows(o.Owner["run"]):
		item.Why = fmt.Sprintf("no run %q is kept under %s: clean up where it was started, or name its folder with --runs", o.Owner["run"], c.root)
	case ref.Driver != "embedded" && lives(pid, o.Created):
		item.Why = fmt.Sprintf("process %d lives", pid)
	default:
		item.Why, item.State = c.why(o, pid), toRemove
	}
	return item
}

// knows says whether a run was started here: its folder is.
func (c *collector) knows(run string) bool {
	// The server tells the name, which is a folder's and no path.
	_, err := os.Stat(filepath.Join(c.root, filepath.Base(run), "run.json"))
	return run != "" && err == nil
}

// why says whether a node was kept on purpose.
func (c *collector) why(o incus.Owned, pid int) string {
	run, id := o.Owner["run"], o.Owner["cell"]
	if run == "" {
		return fmt.Sprintf("process %d is gone", pid)
	}
	if folder, err := openRun(c.root, run); err == nil {
		if result, err := folder.Result(matrix.CellID(id)); err == nil {
			if last, ok := result.Last(); ok && last.Kept != "" {
				return fmt.Sprintf("kept of cell %s by run %s, which has ended", id, run)
			}
		}
	}
	return fmt.Sprintf("left of cell %s by run %s, whose process %d is gone", id, run, pid)
}

// sysctls takes the host's sysctls that were changed and not restored, as a file
// says; h is nil where they are only shown. What a live run holds is not among
// them.
func (c *collector) sysctls(ctx context.Context, name, file string, h *host.Host) error {
	keys, err := lease.Left(ctx, file)
	if err != nil {
		return fmt.Errorf("look for changed host sysctls: %w", err)
	}
	// Two hosts of one machine share the file.
	if len(keys) == 0 || slices.Contains(c.leases, file) {
		return nil
	}
	c.leases = append(c.leases, file)
	item := leftover{Host: name, What: "sysctls", Name: strings.Join(keys, " "), Why: "their run did not restore them"}
	return c.take(item, func() error {
		_, err := lease.Restore(ctx, h.Exec(), file)
		return err
	})
}

func (c *collector) print(asJSON bool) error {
	if asJSON {
		return writeJSON(c.Out, c.items)
	}
	if len(c.items) == 0 {
		_, err := fmt.Fprintln(c.Out, "nothing was left behind")
		return err
	}
	var rows [][]string
	for _, i := range c.items {
		rows = append(rows, []string{i.State, i.Host, i.What, i.Name, i.Why})
	}
	if err := columns(c.Out, []string{"STATE", "HOST", "WHAT", "NAME", "WHY"}, rows); err != nil {
		return err
	}
	if slices.ContainsFunc(c.items, func(i leftover) bool { return i.State == toRemove }) {
		c.say("lxcmatrix gc --yes removes what is shown as %q", toRemove)
	}
	return nil
}

// mounted says whether something is mounted at path.
func mounted(path string) bool {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}

// lives says whether a process is there that is old enough to have made
// something at a time: process IDs come around again.
func lives(pid int, made time.Time) bool {
	started, err := startedAt(pid)
	// The kernel counts in hundredths of a second, and clocks are set.
	return err == nil && started.Before(made.Add(time.Minute))
}

// startedAt is when a process started: field 22 of /proc/PID/stat, in
// hundredths of a second since the boot that /proc/stat tells the time of.
func startedAt(pid int) (time.Time, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	// The command's name, field 2, may hold spaces and parentheses itself.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return time.Time{}, fmt.Errorf("read the start time of process %d: %q", pid, stat)
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	kernel, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(kernel)) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			boot, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Unix(boot, 0).Add(time.Duration(ticks) * 10 * time.Millisecond), err
		}
	}
	return time.Time{}, errors.New("read when this machine booted: /proc/stat has no btime")
}
