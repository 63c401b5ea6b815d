// Package lease lends changes of a host's sysctls to cells. Cells that want
// the same share them, cells that want something else wait, and when the last
// one leaves the host gets back what it had.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Reader is what a host may offer besides provisioner.HostExec. Where it does,
// what was there is kept before the first change is made; where it does not, a
// crash right after a change can lose that one value.
type Reader interface {
	// Sysctl reads one sysctl.
	Sysctl(ctx context.Context, key string) (string, error)
}

// Manager keeps the leases of one host. It is safe for concurrent use.
type Manager struct {
	host provisioner.HostExec
	path string

	mu sync.Mutex
	// wanted is what the cells of now share; holders counts them. A manager
	// without holders has nothing changed.
	wanted  map[string]string
	holders int
	// before holds what was there, of the keys that were changed. It is empty
	// where the host is satisfied as it is.
	before map[string]string
	// busy says that the host is being changed, without the lock held.
	busy bool
	// changed is closed, and made anew, whenever the state above changes.
	changed chan struct{}
}

// New manages the sysctls of a host. What a host had before it is changed is
// kept in the file at path while it is changed, for Restore after a crash.
func New(host provisioner.HostExec, path string) *Manager {
	return &Manager{host: host, path: path, changed: make(chan struct{})}
}

// Release ends a lease; calling it again does nothing. The last one to leave
// restores the host: an error names what could not be restored, and the file
// stays for Restore.
type Release func(ctx context.Context) error

// Acquire waits until the host can have the values that are wanted, sets them,
// and returns the lease. satisfied says that the host had all of them before
// anything was done, so that nothing was written. It waits as long as other
// cells hold other values, until ctx ends.
func (m *Manager) Acquire(ctx context.Context, want map[string]string) (release Release, satisfied bool, err error) {
	if len(want) == 0 {
		return func(context.Context) error { return nil }, true, nil
	}
	m.mu.Lock()
	for m.busy || m.holders > 0 && !maps.Equal(m.wanted, want) {
		changed := m.changed
		held := strings.Join(slices.Sorted(maps.Keys(m.wanted)), ", ")
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("wait for the host's sysctls (others hold %s): %w", held, ctx.Err())
		case <-changed:
		}
		m.mu.Lock()
	}
	if m.holders == 0 {
		m.busy = true
		m.mu.Unlock()
		before, err := m.change(ctx, want)
		m.mu.Lock()
		m.busy = false
		if err != nil {
			m.notify()
			m.mu.Unlock()
			return nil, false, err
		}
		m.wanted, m.before = maps.Clone(want), before
	}
	m.holders++
	satisfied = len(m.before) == 0
	m.notify()
	m.mu.Unlock()

	var once sync.Once
	return func(ctx context.Context) error {
		var err error
		once.Do(func() { err = m.leave(ctx) })
		return err
	}, satisfied, nil
}

// notify wakes all who wait; the lock is held.
func (m *Manager) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// change sets what differs and returns what was there before. Where one key
// fails, those set before it are put back.
func (m *Manager) change(ctx context.Context, want map[string]string) (map[string]string, error) {
	// What a process that ended early left changed is what the host really had.
	before, err := read(m.path)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (map[string]string, error) {
		// The host must get back what it had even if ctx is what ended.
		return nil, errors.Join(err, m.restore(context.WithoutCancel(ctx), before))
	}
	keys := slices.Sorted(maps.Keys(want))
	if reader, ok := m.host.(Reader); ok {
		changes := false
		for _, key := range keys {
			had, err := reader.Sysctl(ctx, key)
			if err != nil {
				return fail(fmt.Errorf("read host sysctl %s: %w", key, err))
			}
			if _, known := before[key]; !known && !same(had, want[key]) {
				before[key], changes = had, true
			}
		}
		if changes {
			if err := write(m.path, before); err != nil {
				return nil, err
			}
		}
	}
	for _, key := range keys {
		had, err := m.host.SetSysctl(ctx, key, want[key])
		if err != nil {
			return fail(fmt.Errorf("set host sysctl %s to %s: %w", key, want[key], err))
		}
		if _, known := before[key]; known || same(had, want[key]) {
			continue
		}
		before[key] = had
		if err := write(m.path, before); err != nil {
			return fail(err)
		}
	}
	return before, nil
}

func (m *Manager) leave(ctx context.Context) error {
	m.mu.Lock()
	m.holders--
	if m.holders > 0 {
		m.mu.Unlock()
		return nil
	}
	m.busy = true
	before := m.before
	m.mu.Unlock()
	err := m.restore(ctx, before)
	m.mu.Lock()
	m.busy = false
	m.wanted, m.before = nil, nil
	m.notify()
	m.mu.Unlock()
	return err
}

func (m *Manager) restore(ctx context.Context, before map[string]string) error {
	if len(before) == 0 {
		return nil
	}
	return putBack(ctx, m.host, m.path, before)
}

// Restore gives a host back what it had before a process that ended without
// doing so changed it, as the file at path says. Without such a file there is
// nothing to do. It returns the keys that were restored.
func Restore(ctx context.Context, host provisioner.HostExec, path string) ([]string, error) {
	before, err := read(path)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	if err := putBack(ctx, host, path, before); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(before)), nil
}

// read is what the file at path says; nothing where there is none.
func read(path string) (map[string]string, error) {
	before := map[string]string{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the host's sysctls were: %w", err)
	}
	if err := json.Unmarshal(data, &before); err != nil {
		return nil, fmt.Errorf("read what the host's sysctls were from %s: %w", path, err)
	}
	return before, nil
}

// putBack sets every key that it can, and removes the file once all are set.
func putBack(ctx context.Context, host provisioner.HostExec, path string, before map[string]string) error {
	var problems []error
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, err := host.SetSysctl(ctx, key, before[key]); err != nil {
			problems = append(problems, fmt.Errorf("restore host sysctl %s to %s: %w", key, before[key], err))
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what the host's sysctls were: %w", err)
	}
	return nil
}

// same compares values as the kernel prints them, with tabs between numbers.
func same(a, b string) bool {
	return slices.Equal(strings.Fields(a), strings.Fields(b))
}

// write replaces the file, so that a crash leaves either the old or the new.
func write(path string, before map[string]string) error {
	data, err := json.MarshalIndent(before, "", "  ")
	if err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("keep what the host's sysctls were: %w", err)
	}
	return nil
}
