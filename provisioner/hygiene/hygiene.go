// Package hygiene shows what cells leave changed on their hosts. A host is
// fingerprinted before a cell's first node is there and after the last is
// gone; what differs is told in the cell's result, sysctls are set back, and
// what stays changed is told in the results of the cells that come after.
//
// Both looks happen while the cell holds the host's lease, so what the lease
// sets is the same in both. Incus' own doings are passed over. Whatever else
// works on a machine at the same time cannot be told apart: a change says that
// something became different while the cell ran. Of other runs it is known
// whether they had cells there at either look.
package hygiene

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Ledger knows the machines of one run. Its zero value is ready. It is safe
// for concurrent use.
type Ledger struct {
	mu       sync.Mutex
	machines map[string]*machine
}

// machine is what is known of one boot of a machine.
type machine struct {
	// turn is taken by who looks at the machine and notes what was seen, so
	// that nobody sees it half put back.
	turn chan struct{}
	// visits are the cells whose nodes are there, oldest first.
	visits []*visit
	// before is what the machine had when the first of the visits began; those
	// that ended meanwhile count.
	before Fingerprint
	// traces are what cells that ended left.
	traces []matrix.HostTrace
}

// visit is one cell on a machine.
type visit struct {
	cell   matrix.CellID
	before Fingerprint
	// shared are those who were there meanwhile, others whether cells of other
	// runs were.
	shared []matrix.CellID
	others bool
}

// Host is one host as cells visit it. Hosts that are the same machine, as a
// boot ID shows, share what is known of it.
type Host struct {
	exec    provisioner.HostExec
	alone   Alone
	machine *machine
	// blind is why nothing can be seen.
	blind string
}

// Alone says whether no other process has cells on a host. It is asked while a
// cell of this one has the host's lease.
type Alone func(ctx context.Context) (bool, error)

// Host begins to know a host. A host that offers no exec, or does not answer,
// is one of which nothing is observed.
func (l *Ledger) Host(ctx context.Context, exec provisioner.HostExec, alone Alone) *Host {
	if exec == nil {
		return &Host{blind: "the host offers no way to its own system"}
	}
	boot, err := exec.Sysctl(ctx, "kernel.random.boot_id")
	if err != nil {
		return &Host{blind: err.Error()}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.machines == nil {
		l.machines = map[string]*machine{}
	}
	m := l.machines[boot]
	if m == nil {
		m = &machine{turn: make(chan struct{}, 1)}
		l.machines[boot] = m
	}
	return &Host{exec: exec, alone: alone, machine: m}
}

// Enter begins a cell's visit, while the cell holds the host's lease and has no
// node yet. leave ends it, once, while it still holds the lease and its nodes
// are gone; kept says that they are not, and the visit goes on for everybody
// else. Both end with their ctx, and neither fails: where the host could not be
// looked at, the result says that nothing was observed.
func (h *Host) Enter(ctx context.Context, cell matrix.CellID) (leave func(ctx context.Context, kept bool) matrix.Hygiene) {
	if h.blind != "" {
		return unobserved(h.blind)
	}
	if err := h.machine.take(ctx); err != nil {
		return unobserved(err.Error())
	}
	defer h.machine.give()
	seen, err := Look(ctx, h.exec)
	v := h.machine.begin(cell, seen, err)
	v.others = h.others(ctx) != ""
	suspect := append([]matrix.HostTrace(nil), h.machine.traces...)
	return func(ctx context.Context, kept bool) matrix.Hygiene {
		found := h.leave(ctx, v, err, kept)
		found.Suspect, found.MoreSuspect = first(suspect)
		for i := range found.Suspect {
			found.Suspect[i].HostChange = short(found.Suspect[i].HostChange)
		}
		return found
	}
}

func unobserved(why string) func(context.Context, bool) matrix.Hygiene {
	return func(context.Context, bool) matrix.Hygiene { return matrix.Hygiene{NotObserved: why} }
}

func (m *machine) take(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another cell that looks at the host: %w", context.Cause(ctx))
	}
}

func (m *machine) give() { <-m.turn }

// begin notes a visit, what each of those who are there shares, and which
// traces are still to be seen. A look that failed leaves all as it was known.
func (m *machine) begin(cell matrix.CellID, seen Fingerprint, failed error) *visit {
	v := &visit{cell: cell, before: seen}
	// A machine that was not seen when the first visit began is known from when
	// it was; a boot makes all of it new.
	if len(m.visits) == 0 || failed == nil && m.before.boot != seen.boot {
		m.before = seen
	}
	if failed == nil {
		m.traces = slices.DeleteFunc(m.traces, func(t matrix.HostTrace) bool { return !seen.holds(t.HostChange) })
	}
	for _, other := range m.visits {
		v.share(other.cell)
		other.share(cell)
	}
	m.visits = append(m.visits, v)
	return v
}

func (v *visit) share(cell matrix.CellID) {
	if !slices.Contains(v.shared, cell) {
		v.shared = append(v.shared, cell)
	}
}

// leave looks again, puts back what can be, and notes what stays.
func (h *Host) leave(ctx context.Context, v *visit, failed error, kept bool) matrix.Hygiene {
	m := h.machine
	if err := m.take(ctx); err != nil {
		return matrix.Hygiene{NotObserved: err.Error()}
	}
	defer m.give()
	if !kept {
		m.visits = slices.DeleteFunc(m.visits, func(other *visit) bool { return other == v })
	}
	others := h.others(ctx)
	found := matrix.Hygiene{Shared: v.shared, OtherRuns: v.others || others != ""}
	if failed != nil {
		found.NotObserved = failed.Error()
		return found
	}
	after, err := Look(ctx, h.exec)
	switch {
	case err != nil:
		found.NotObserved = err.Error()
		return found
	case after.boot != v.before.boot:
		found.NotObserved = "the host was booted anew while the cell ran"
		return found
	}
	found.Unseen = unseenBy(v.before, after)
	changes := Diff(v.before, after)
	if why := cmp.Or(m.occupied(v, kept), others); why != "" {
		for i := range changes {
			changes[i].Left = why
		}
	} else {
		after = h.undo(ctx, changes, after)
	}
	m.trace(v.cell, changes, after)
	found.Changes, found.MoreChanges = first(changes)
	for i := range found.Changes {
		found.Changes[i] = short(found.Changes[i])
	}
	return found
}

// trace notes of a cell's changes those that the machine did not have before
// the visits, and that no cell which ended earlier left.
func (m *machine) trace(cell matrix.CellID, changes []matrix.HostChange, now Fingerprint) {
	for _, c := range Diff(m.before, now) {
		same := func(other matrix.HostChange) bool { return other.Kind == c.Kind && other.What == c.What }
		if slices.ContainsFunc(changes, same) &&
			!slices.ContainsFunc(m.traces, func(t matrix.HostTrace) bool { return same(t.HostChange) && t.After == c.After }) {
			m.traces = append(m.traces, matrix.HostTrace{Cell: cell, HostChange: c})
		}
	}
}

// occupied is why a host is left as it is: whoever has nodes there may need it
// so.
func (m *machine) occupied(v *visit, kept bool) string {
	var others []string
	for _, other := range m.visits {
		if other != v {
			others = append(others, string(other.cell))
		}
	}
	switch {
	case kept:
		return "nodes of the cell are still there"
	case len(others) > 0:
		return "nodes of " + strings.Join(others, ", ") + " were still there"
	}
	return ""
}

// others is why a host is left as it is for the sake of other runs. Where that
// cannot be told, there may be some.
func (h *Host) others(ctx context.Context) string {
	switch alone, err := h.alone(ctx); {
	case err != nil:
		return err.Error()
	case !alone:
		return "nodes of other runs were still there"
	}
	return ""
}

// undo sets sysctls back to what they were before the first of the visits, of
// which this is the last, and says of its changes what became of each. It
// returns what the machine has then.
func (h *Host) undo(ctx context.Context, changes []matrix.HostChange, after Fingerprint) (now Fingerprint) {
	before := h.machine.before
	problems := map[string]error{}
	wrote := false
	for _, c := range Diff(before, after) {
		if c.Kind == Sysctl {
			_, err := h.exec.SetSysctl(ctx, c.What, c.Before)
			problems[c.What], wrote = err, wrote || err == nil
		}
	}
	now = after
	var blind error
	if wrote {
		var seen Fingerprint
		if seen, blind = Look(ctx, h.exec); blind == nil {
			now = seen
		}
	}
	for i := range changes {
		c := &changes[i]
		is, was := now.has[c.Kind][c.What], before.has[c.Kind][c.What]
		problem, tried := problems[c.What]
		var denied *provisioner.HostWriteError
		switch {
		case c.Kind != Sysctl:
			c.Left = whyLeft[c.Kind]
		case !tried:
			c.Left = "it is what it was before the first of the cells that ran together"
		// Some follow from others: what was refused may be right by now.
		case blind == nil && is == was:
			c.Undone = true
		case errors.As(problem, &denied):
			c.Left = "the matrix does not allow changes of the host"
		case problem != nil:
			c.Left = problem.Error()
		case blind != nil:
			c.Left = "it was set back, and not seen again: " + blind.Error()
		default:
			c.Left = fmt.Sprintf("it was set back to %q, and is %q", was, is)
		}
	}
	return now
}

// whyLeft is, by kind, why a change is told and not put back.
var whyLeft = map[string]string{
	Module:    "a module that others began to use cannot be told from one that is unused",
	AppArmor:  "a process that a profile confines would run without it",
	Nftables:  "nothing shows whose rules they are",
	Iptables:  "nothing shows whose rules they are",
	Interface: "nothing shows whose interface it is",
}

// A result holds no more than this of what differs.
const (
	most        = 20
	longestText = 200
)

func first[T any](all []T) (some []T, more int) {
	if len(all) <= most {
		return all, 0
	}
	return all[:most:most], len(all) - most
}

// short bounds the texts of a change.
func short(c matrix.HostChange) matrix.HostChange {
	for _, text := range []*string{&c.What, &c.Before, &c.After, &c.Left} {
		if r := []rune(*text); len(r) > longestText {
			*text = string(r[:longestText]) + "..."
		}
	}
	return c
}
