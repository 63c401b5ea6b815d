package hygiene

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// fakeHost prints what look.sh would.
type fakeHost struct {
	mu      sync.Mutex
	boot    string
	sysctls map[string]string
	modules []string
	// refuse holds what is not written, and why; stubborn what is written and
	// does not change.
	refuse   map[string]error
	stubborn map[string]bool
	// broken is why no command runs.
	broken error
	looks  int
	// crowded: other processes have cells here; hidden is why that cannot be
	// told.
	crowded bool
	hidden  error
}

func (h *fakeHost) alone(context.Context) (bool, error) { return !h.crowded, h.hidden }

func newFakeHost() *fakeHost {
	return &fakeHost{boot: "b1", sysctls: map[string]string{"fs.file-max": "1000", "kernel.panic": "10"},
		refuse: map[string]error{}, stubborn: map[string]bool{}}
}

func (h *fakeHost) Run(ctx context.Context, _ provisioner.Command) (provisioner.Output, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	if err := errors.Join(ctx.Err(), h.broken); err != nil {
		return provisioner.Output{}, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "== boot\n%s\n== sysctl\n", h.boot)
	for _, key := range slices.Sorted(maps.Keys(h.sysctls)) {
		fmt.Fprintf(&b, "./%s:%s\n", strings.ReplaceAll(key, ".", "/"), h.sysctls[key])
	}
	fmt.Fprintf(&b, "== module\n%s\n== end\n", strings.Join(h.modules, "\n"))
	return provisioner.Output{Stdout: b.String()}, nil
}

func (h *fakeHost) Sysctl(_ context.Context, key string) (string, error) {
	if key != "kernel.random.boot_id" {
		return "", fmt.Errorf("%s was asked for", key)
	}
	return h.boot, h.broken
}

func (h *fakeHost) SetSysctl(_ context.Context, key, value string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.sysctls[key]
	if err := h.refuse[key]; err != nil {
		return before, err
	}
	if !h.stubborn[key] {
		h.sysctls[key] = value
	}
	return before, nil
}

// set changes the host as a cell's node would.
func (h *fakeHost) set(key, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sysctls[key] = value
}

func fileMax(c matrix.HostChange) matrix.HostChange {
	c.Kind, c.What, c.Change, c.Before, c.After = Sysctl, "fs.file-max", Changed, "1000", "9000"
	return c
}

func TestWhatACellChangedIsUndone(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	leave := host.Enter(t.Context(), "a")
	exec.set("fs.file-max", "9000")
	assert.DeepEqual(t, leave(t.Context(), false), matrix.Hygiene{Changes: []matrix.HostChange{fileMax(matrix.HostChange{Undone: true})}})
	assert.Equal(t, exec.sysctls["fs.file-max"], "1000")
	assert.Equal(t, exec.looks, 3, "before, after, and again after something was set back")
	assert.DeepEqual(t, host.Enter(t.Context(), "b")(t.Context(), false), matrix.Hygiene{})
	assert.Equal(t, exec.looks, 5, "nothing was set back")
}

func TestWhatStaysTaintsLaterCells(t *testing.T) {
	broke := errors.New("invalid argument")
	for name, c := range map[string]struct {
		prepare func(*fakeHost)
		want    matrix.HostChange
	}{
		"not allowed": {func(h *fakeHost) { h.refuse["fs.file-max"] = &provisioner.HostWriteError{What: "sysctl"} },
			fileMax(matrix.HostChange{Left: "the matrix does not allow changes of the host"})},
		"refused": {func(h *fakeHost) { h.refuse["fs.file-max"] = broke }, fileMax(matrix.HostChange{Left: "invalid argument"})},
		"no effect": {func(h *fakeHost) { h.stubborn["fs.file-max"] = true },
			fileMax(matrix.HostChange{Left: `it was set back to "1000", and is "9000"`})},
	} {
		t.Run(name, func(t *testing.T) {
			exec, ledger := newFakeHost(), &Ledger{}
			c.prepare(exec)
			host := ledger.Host(t.Context(), exec, exec.alone)
			leave := host.Enter(t.Context(), "a")
			exec.set("fs.file-max", "9000")
			assert.DeepEqual(t, leave(t.Context(), false), matrix.Hygiene{Changes: []matrix.HostChange{c.want}})

			// Another host that is the same machine, and a cell that adds to it.
			trace := matrix.HostTrace{Cell: "a", HostChange: fileMax(matrix.HostChange{})}
			leave = ledger.Host(t.Context(), exec, exec.alone).Enter(t.Context(), "b")
			exec.modules = []string{"br_netfilter"}
			assert.DeepEqual(t, leave(t.Context(), false), matrix.Hygiene{Suspect: []matrix.HostTrace{trace},
				Changes: []matrix.HostChange{{Kind: Module, What: "br_netfilter", Change: Added, Left: whyLeft[Module]}}})

			// Somebody put it right: only what still is so counts.
			exec.set("fs.file-max", "1000")
			assert.DeepEqual(t, host.Enter(t.Context(), "c")(t.Context(), false), matrix.Hygiene{Suspect: []matrix.HostTrace{
				{Cell: "b", HostChange: matrix.HostChange{Kind: Module, What: "br_netfilter", Change: Added}}}})

			// Another machine is another matter.
			other := newFakeHost()
			other.boot = "b2"
			assert.DeepEqual(t, ledger.Host(t.Context(), other, other.alone).Enter(t.Context(), "d")(t.Context(), false), matrix.Hygiene{})
		})
	}
}

func TestCellsThatOverlap(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	a := host.Enter(t.Context(), "a")
	exec.set("fs.file-max", "9000")
	b := host.Enter(t.Context(), "b")
	exec.set("kernel.panic", "20")
	// a is the first to leave: b may need it so.
	panics := matrix.HostChange{Kind: Sysctl, What: "kernel.panic", Change: Changed, Before: "10", After: "20"}
	stays := func(c matrix.HostChange) matrix.HostChange { c.Left = "nodes of b were still there"; return c }
	assert.DeepEqual(t, a(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"b"},
		Changes: []matrix.HostChange{stays(fileMax(matrix.HostChange{})), stays(panics)}})
	assert.Equal(t, exec.sysctls["fs.file-max"], "9000")
	// c begins on what a left, beside b; with b the last of what they changed
	// goes, also what a alone is charged with.
	c := host.Enter(t.Context(), "c")
	left := c(t.Context(), false)
	assert.DeepEqual(t, left, matrix.Hygiene{Shared: []matrix.CellID{"b"}, Suspect: []matrix.HostTrace{
		{Cell: "a", HostChange: fileMax(matrix.HostChange{})}, {Cell: "a", HostChange: panics}}})
	panics.Undone = true
	assert.DeepEqual(t, b(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"a", "c"}, Changes: []matrix.HostChange{panics}})
	assert.DeepEqual(t, exec.sysctls, newFakeHost().sysctls)
	assert.DeepEqual(t, host.Enter(t.Context(), "d")(t.Context(), false), matrix.Hygiene{})
}

// What b saw changed and was so before a, needs no undoing and taints nobody.
func TestAChangeBackIsNoTrace(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	a := host.Enter(t.Context(), "a")
	exec.set("fs.file-max", "9000")
	b := host.Enter(t.Context(), "b")
	exec.set("fs.file-max", "1000")
	assert.DeepEqual(t, a(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"b"}})
	assert.DeepEqual(t, b(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"a"}, Changes: []matrix.HostChange{
		{Kind: Sysctl, What: "fs.file-max", Change: Changed, Before: "9000", After: "1000", Left: "it is what it was before the first of the cells that ran together"}}})
	assert.DeepEqual(t, host.Enter(t.Context(), "c")(t.Context(), false), matrix.Hygiene{})
}

func TestKeptNodesAreStillThere(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	leave := host.Enter(t.Context(), "a")
	exec.set("fs.file-max", "9000")
	assert.DeepEqual(t, leave(t.Context(), true), matrix.Hygiene{Changes: []matrix.HostChange{
		fileMax(matrix.HostChange{Left: "nodes of the cell are still there"})}})
	later := host.Enter(t.Context(), "b")(t.Context(), false)
	assert.DeepEqual(t, later, matrix.Hygiene{Shared: []matrix.CellID{"a"}, Suspect: []matrix.HostTrace{{Cell: "a", HostChange: fileMax(matrix.HostChange{})}}})
	assert.Equal(t, exec.sysctls["fs.file-max"], "9000")
}

func TestOtherRuns(t *testing.T) {
	hidden := errors.New("no such lock")
	for name, c := range map[string]struct {
		enter, leave func(*fakeHost)
		want         matrix.HostChange
	}{
		"all the time": {func(h *fakeHost) { h.crowded = true }, func(*fakeHost) {}, fileMax(matrix.HostChange{Left: "nodes of other runs were still there"})},
		"at first":     {func(h *fakeHost) { h.crowded = true }, func(h *fakeHost) { h.crowded = false }, fileMax(matrix.HostChange{Undone: true})},
		"at last":      {func(*fakeHost) {}, func(h *fakeHost) { h.crowded = true }, fileMax(matrix.HostChange{Left: "nodes of other runs were still there"})},
		"perhaps":      {func(*fakeHost) {}, func(h *fakeHost) { h.hidden = hidden }, fileMax(matrix.HostChange{Left: hidden.Error()})},
	} {
		t.Run(name, func(t *testing.T) {
			exec, ledger := newFakeHost(), &Ledger{}
			c.enter(exec)
			leave := ledger.Host(t.Context(), exec, exec.alone).Enter(t.Context(), "a")
			exec.set("fs.file-max", "9000")
			c.leave(exec)
			assert.DeepEqual(t, leave(t.Context(), false), matrix.Hygiene{OtherRuns: true, Changes: []matrix.HostChange{c.want}})
		})
	}
}

func TestNotObserved(t *testing.T) {
	gone := errors.New("no route to host")
	for name, c := range map[string]struct {
		before, within func(*fakeHost)
		want           string
	}{
		"no answer at all": {before: func(h *fakeHost) { h.broken = gone }, want: gone.Error()},
		"gone later":       {within: func(h *fakeHost) { h.broken = gone }, want: "look at the host: no route to host"},
		"another boot":     {within: func(h *fakeHost) { h.boot = "b2" }, want: "the host was booted anew while the cell ran"},
	} {
		t.Run(name, func(t *testing.T) {
			exec, ledger := newFakeHost(), &Ledger{}
			if c.before != nil {
				c.before(exec)
			}
			leave := ledger.Host(t.Context(), exec, exec.alone).Enter(t.Context(), "a")
			if c.within != nil {
				c.within(exec)
			}
			assert.DeepEqual(t, leave(t.Context(), false), matrix.Hygiene{NotObserved: c.want})
		})
	}
	none := (&Ledger{}).Host(t.Context(), nil, nil).Enter(t.Context(), "a")(t.Context(), false)
	assert.DeepEqual(t, none, matrix.Hygiene{NotObserved: "the host offers no way to its own system"})
}

// A cell whose first look failed is charged with nothing; one that comes while
// it is there is compared with what it saw itself.
func TestTheFirstLookFails(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	exec.broken = errors.New("busy")
	a := host.Enter(t.Context(), "a")
	exec.broken = nil
	b := host.Enter(t.Context(), "b")
	exec.set("fs.file-max", "9000")
	assert.DeepEqual(t, a(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"b"}, NotObserved: "look at the host: busy"})
	assert.DeepEqual(t, b(t.Context(), false), matrix.Hygiene{Shared: []matrix.CellID{"a"}, Changes: []matrix.HostChange{fileMax(matrix.HostChange{Undone: true})}})
}

func TestLookingEndsWithItsContext(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	host := ledger.Host(t.Context(), exec, exec.alone)
	leave := host.Enter(t.Context(), "a")
	host.machine.turn <- struct{}{} // another cell looks, and does not end
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	found := leave(ctx, false)
	assert.Equal(t, found.NotObserved, "wait for another cell that looks at the host: context deadline exceeded")
}

func TestResultsAreBounded(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	for i := range 50 {
		exec.sysctls[fmt.Sprintf("vm.many%02d", i)] = "0"
	}
	host := ledger.Host(t.Context(), exec, exec.alone)
	leave := host.Enter(t.Context(), "a")
	for i := range 50 {
		exec.set(fmt.Sprintf("vm.many%02d", i), strings.Repeat("ä", 300))
		exec.refuse[fmt.Sprintf("vm.many%02d", i)] = errors.New(strings.Repeat("ö", 300))
	}
	found := leave(t.Context(), false)
	assert.Equal(t, len(found.Changes), 20)
	assert.Equal(t, found.MoreChanges, 30)
	c := found.Changes[0]
	assert.Equal(t, c.After, strings.Repeat("ä", 200)+"...")
	assert.Equal(t, c.Left, strings.Repeat("ö", 200)+"...")
	later := host.Enter(t.Context(), "b")(t.Context(), false)
	assert.Equal(t, len(later.Suspect), 20)
	assert.Equal(t, later.MoreSuspect, 30)
	assert.Equal(t, later.Suspect[0].After, strings.Repeat("ä", 200)+"...")
}

// Cells that come and go at random, each changing something of its own: when
// the last is gone, the host is what it was.
func TestManyCellsAtOnce(t *testing.T) {
	exec, ledger := newFakeHost(), &Ledger{}
	for i := range 16 {
		exec.sysctls[fmt.Sprintf("vm.many%02d", i)] = "0"
	}
	before := maps.Clone(exec.sysctls)
	host := ledger.Host(t.Context(), exec, exec.alone)
	var wait sync.WaitGroup
	for i := range 16 {
		wait.Go(func() {
			leave := host.Enter(t.Context(), matrix.CellID(fmt.Sprint(i)))
			exec.set(fmt.Sprintf("vm.many%02d", i), "1")
			found := leave(t.Context(), false)
			mine := func(c matrix.HostChange) bool {
				return c.What == fmt.Sprintf("vm.many%02d", i) && c.Before == "0" && c.After == "1"
			}
			if !slices.ContainsFunc(found.Changes, mine) {
				t.Errorf("cell %d: %+v", i, found)
			}
		})
	}
	wait.Wait()
	assert.DeepEqual(t, exec.sysctls, before)
}
