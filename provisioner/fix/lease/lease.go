// Package lease lends changes of a machine's sysctls to cells. Cells that want
// the same share them, cells that want something else wait, and when the last
// one leaves the machine gets back what it had. That holds for the cells of all
// processes that name the same file: the sysctls are the machine's, and so is
// the file. A process that is killed keeps no share, and what it leaves changed
// is never taken for what the machine had.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is what a lease needs of a host's own system: provisioner.HostExec is
// one.
type Host interface {
	// Sysctl reads one sysctl. What was there is kept before the first change.
	Sysctl(ctx context.Context, key string) (string, error)
	// SetSysctl writes one and returns the value that was there before.
	SetSysctl(ctx context.Context, key, value string) (before string, err error)
}

// Manager keeps the leases that one process has of a machine. It is safe for
// concurrent use, and so are several of the same machine.
type Manager struct {
	// Waits, if set, is told who is in the way when an Acquire has to wait: at
	// first, and whenever that is somebody else. It is set before the first one.
	Waits func(by string)

	host Host
	path string

	// turn is taken by who reads or changes what is below; it is given back
	// soon, so that nobody waits for other processes while having it.
	turn chan struct{}
	// holders counts the cells of this process that share what is wanted.
	holders int
	wanted  map[string]string
	// share is this process's lock of the users' file; nil without holders.
	share *lock
	// before holds what was there, of the keys that are changed. It is empty
	// where the machine is satisfied as it is.
	before map[string]string
	// changed is closed, and made anew, whenever holders becomes or leaves 0.
	changed chan struct{}
}

// New manages the sysctls of a machine through a host on it. What the machine
// had is kept in the file at path while it is changed; all processes that
// change the same machine name the same file. Others are made beside it, and
// its folder, for this user alone, where there is none. It must not outlive a
// boot of the machine, as the changes do not: /run is where it belongs.
func New(host Host, path string) *Manager {
	return &Manager{host: host, path: path, turn: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Release ends a lease; calling it again does nothing. The last one to leave,
// of all processes, restores the machine: an error names what could not be
// restored, and the file stays for Restore or the next lease.
type Release func(ctx context.Context) error

// Acquire waits until the machine can have the values that are wanted, sets
// them, and returns the lease. satisfied says that the machine had all of them
// before any lease changed it. It waits as long as other cells, of this or of
// another process, hold other values, until ctx ends. Wanting nothing is a
// lease as well: what runs without a host's values must not run beside those
// who set them.
func (m *Manager) Acquire(ctx context.Context, want map[string]string) (release Release, satisfied bool, err error) {
	by := ""
	for {
		held, err := m.attempt(ctx, want, &satisfied)
		if err != nil {
			return nil, false, err
		}
		if held == nil {
			break
		}
		if m.Waits != nil && held.by != by {
			m.Waits(held.by)
		}
		by = held.by
		if err := held.wait(ctx); err != nil {
			return nil, false, fmt.Errorf("wait for the host's sysctls (%s): %w", held.by, err)
		}
	}
	var once sync.Once
	return func(ctx context.Context) error {
		var err error
		once.Do(func() { err = m.leave(ctx) })
		return err
	}, satisfied, nil
}

// obstacle is why a lease cannot be had yet.
type obstacle struct {
	by string
	// gone is closed when it may be worth another attempt. Where others is set
	// it may be worth one anyway: other processes do not tell.
	gone   <-chan struct{}
	others bool
}

func (o *obstacle) wait(ctx context.Context) error {
	if o.others {
		return pause(ctx, o.gone)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-o.gone:
		return nil
	}
}

// attempt takes a lease if that is possible now.
func (m *Manager) attempt(ctx context.Context, want map[string]string, satisfied *bool) (*obstacle, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the host's sysctls: %w", ctx.Err())
	}
	if m.holders == 0 {
		by, err := m.enter(ctx, want)
		if err != nil {
			return nil, err
		}
		if by != "" {
			return &obstacle{by: by, gone: m.changed, others: true}, nil
		}
		m.notify()
	} else if !maps.EqualFunc(m.wanted, want, same) {
		return &obstacle{by: "others hold " + names(m.wanted), gone: m.changed}, nil
	}
	m.holders++
	*satisfied = len(m.before) == 0
	return nil, nil
}

// notify wakes all of this process who wait.
func (m *Manager) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// enter takes this process's share, if the machine has what is wanted or
// nobody else has one; else it says who is in the way.
func (m *Manager) enter(ctx context.Context, want map[string]string) (by string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("share the host's sysctls: %w", err) }
	change, err := open(m.path + changeSuffix)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, change.close()) }()
	if free, err := change.try(unix.LOCK_EX); err != nil {
		return fail(err)
	} else if !free {
		return "another process changes them", nil
	}
	users, err := open(m.path + usersSuffix)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if m.share == nil {
			err = errors.Join(err, users.close())
		}
	}()
	alone, err := users.try(unix.LOCK_EX)
	if err != nil {
		return fail(err)
	}
	var before map[string]string
	if alone {
		if before, err = m.begin(ctx, users, want); err != nil {
			return "", err
		}
	}
	// Nobody else takes the lock between the two, for that takes the other.
	if shared, err := users.try(unix.LOCK_SH); err != nil || !shared {
		if alone {
			err = errors.Join(err, m.restore(context.WithoutCancel(ctx), before))
		}
		if err != nil {
			return fail(err)
		}
		return "another process changes them", nil
	}
	if !alone {
		held, err := read(m.path + usersSuffix)
		if err != nil {
			return fail(err)
		}
		if !maps.EqualFunc(held, want, same) {
			return "other processes hold " + names(held), nil
		}
		if before, err = read(m.path); err != nil {
			return "", err
		}
	}
	m.share, m.wanted, m.before = users, maps.Clone(want), before
	return "", nil
}

// begin changes the machine for its first user, and tells the next what it has.
func (m *Manager) begin(ctx context.Context, users *lock, want map[string]string) (map[string]string, error) {
	data, err := json.Marshal(want)
	if err == nil {
		err = users.write(data)
	}
	if err != nil {
		return nil, fmt.Errorf("tell which host sysctls are wanted: %w", err)
	}
	return m.change(ctx, want)
}

// change sets what differs and returns what was there before. Where one key
// fails, those set before it are put back.
func (m *Manager) change(ctx context.Context, want map[string]string) (map[string]string, error) {
	// What a process that ended early left changed is what the machine had.
	before, err := read(m.path)
	if err != nil {
		return nil, err
	}
	if err := m.putBackUnwanted(ctx, before, want); err != nil {
		return nil, err
	}
	fail := func(err error) (map[string]string, error) {
		// The machine must get back what it had even if ctx is what ended.
		return nil, errors.Join(err, m.restore(context.WithoutCancel(ctx), before))
	}
	keys := slices.Sorted(maps.Keys(want))
	changes := false
	for _, key := range keys {
		had, err := m.host.Sysctl(ctx, key)
		if err != nil {
			return fail(fmt.Errorf("read host sysctl %s: %w", key, err))
		}
		if _, known := before[key]; !known && !same(had, want[key]) {
			before[key], changes = had, true
		}
	}
	if changes {
		if err := keep(m.path, before); err != nil {
			return fail(err)
		}
	}
	for _, key := range keys {
		if _, err := m.host.SetSysctl(ctx, key, want[key]); err != nil {
			return fail(fmt.Errorf("set host sysctl %s to %s: %w", key, want[key], err))
		}
	}
	return before, nil
}

// putBackUnwanted puts back what was left changed and is not wanted so now, and
// forgets it.
func (m *Manager) putBackUnwanted(ctx context.Context, before, want map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if value, ok := want[key]; ok && !same(value, before[key]) {
			continue
		}
		if _, err := m.host.SetSysctl(ctx, key, before[key]); err != nil {
			return fmt.Errorf("restore host sysctl %s to %s: %w", key, before[key], err)
		}
		delete(before, key)
		if err := keep(m.path, before); err != nil {
			return err
		}
	}
	return nil
}

// leave ends one lease. Whoever has the turn gives it back soon, so that is
// waited for even if ctx has ended: the lease must not stay.
func (m *Manager) leave(ctx context.Context) error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.holders--
	if m.holders > 0 {
		return nil
	}
	share, before := m.share, m.before
	m.share, m.wanted, m.before = nil, nil, nil
	m.notify()
	change, err := waitFor(ctx, m.path+changeSuffix)
	if err != nil {
		return errors.Join(fmt.Errorf("restore the host's sysctls: %w", err), share.close())
	}
	alone, err := share.try(unix.LOCK_EX)
	if alone {
		err = m.restore(ctx, before)
	}
	return errors.Join(err, share.close(), change.close())
}

// Alone says whether no other process has a lease of the machine now; the one
// who asks has one.
func (m *Manager) Alone(ctx context.Context) (alone bool, err error) {
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("see who shares the host's sysctls: %w", err)
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	if m.share == nil {
		return fail(errors.New("this process has no lease"))
	}
	change, err := waitFor(ctx, m.path+changeSuffix)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, change.close()) }()
	if alone, err = m.share.try(unix.LOCK_EX); err != nil {
		return fail(err)
	}
	// The attempt gave up what this process had; nobody else takes it between
	// the two, for that takes the other lock.
	if shared, err := m.share.try(unix.LOCK_SH); err != nil || !shared {
		return fail(errors.Join(errors.New("the share of this process is lost"), err))
	}
	return alone, nil
}

func (m *Manager) restore(ctx context.Context, before map[string]string) error {
	if len(before) == 0 {
		return nil
	}
	return putBack(ctx, m.host, m.path, before)
}

// Left names the keys that a process that ended left changed, as the file at
// path says: none while a process that lives has a lease.
func Left(ctx context.Context, path string) ([]string, error) {
	var keys []string
	err := unshared(ctx, path, func(before map[string]string) error {
		keys = slices.Sorted(maps.Keys(before))
		return nil
	})
	return keys, err
}

// Restore gives a machine back what it had before a process that ended without
// doing so changed it, as the file at path says. Without such a file, and while
// a process that lives has a lease, there is nothing to do. It returns the keys
// that were restored.
func Restore(ctx context.Context, host Host, path string) ([]string, error) {
	var keys []string
	err := unshared(ctx, path, func(before map[string]string) error {
		if err := putBack(ctx, host, path, before); err != nil {
			return err
		}
		keys = slices.Sorted(maps.Keys(before))
		return nil
	})
	return keys, err
}

// unshared does something with what the machine had, if it is changed and no
// process has a share. None can take one meanwhile.
func unshared(ctx context.Context, path string, do func(before map[string]string) error) (err error) {
	// Where nothing was ever changed no files are made.
	if before, err := read(path); err != nil || len(before) == 0 {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("see who shares the host's sysctls: %w", err) }
	change, err := waitFor(ctx, path+changeSuffix)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, change.close()) }()
	users, err := open(path + usersSuffix)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, users.close()) }()
	if alone, err := users.try(unix.LOCK_EX); err != nil {
		return fail(err)
	} else if !alone {
		return nil
	}
	before, err := read(path)
	if err != nil || len(before) == 0 {
		return err
	}
	return do(before)
}

// read is the values that the file at path has; none where there is no file.
func read(path string) (map[string]string, error) {
	values := map[string]string{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return values, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the host's sysctls: %w", err)
	}
	if err := json.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("read the host's sysctls from %s: %w", path, err)
	}
	return values, nil
}

// putBack sets every key that it can, and removes the file once all are set.
func putBack(ctx context.Context, host Host, path string, before map[string]string) error {
	var problems []error
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, err := host.SetSysctl(ctx, key, before[key]); err != nil {
			problems = append(problems, fmt.Errorf("restore host sysctl %s to %s: %w", key, before[key], err))
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	return keep(path, nil)
}

// same compares values as the kernel prints them, with tabs between numbers.
func same(a, b string) bool {
	return slices.Equal(strings.Fields(a), strings.Fields(b))
}

func names(values map[string]string) string {
	return strings.Join(slices.Sorted(maps.Keys(values)), ", ")
}

// keep replaces the file, so that a crash leaves either the old or the new, and
// removes it where there is nothing to keep.
func keep(path string, before map[string]string) error {
	if len(before) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what the host's sysctls were: %w", err)
		}
		return nil
	}
	data, err := json.MarshalIndent(before, "", "  ")
	if err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	return nil
}
