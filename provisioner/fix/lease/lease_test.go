package lease_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
)

// fakeHost is a host whose sysctls are a map. refuse fails writes of a key.
type fakeHost struct {
	mu      sync.Mutex
	sysctls map[string]string
	refuse  string
	writes  []string
	// onWrite, if set, is called before a value changes.
	onWrite func(key string)
}

func (h *fakeHost) SetSysctl(_ context.Context, key, value string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, ok := h.sysctls[key]
	if !ok {
		return "", errors.New("no such sysctl")
	}
	if before == value {
		return before, nil
	}
	if key == h.refuse {
		return before, errors.New("read-only")
	}
	if h.onWrite != nil {
		h.onWrite(key)
	}
	h.sysctls[key] = value
	h.writes = append(h.writes, key+"="+value)
	return before, nil
}

func (h *fakeHost) now() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.sysctls)
}

func (h *fakeHost) Sysctl(_ context.Context, key string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sysctls[key], nil
}

func fresh() map[string]string {
	return map[string]string{"kernel.panic": "0", "vm.overcommit_memory": "0"}
}

func wanted() map[string]string {
	return map[string]string{"kernel.panic": "10", "vm.overcommit_memory": "1"}
}

func TestTheLastToLeaveRestores(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "state", "sysctls.json")
	m := lease.New(host, file)
	first, satisfied, err := m.Acquire(t.Context(), wanted())
	if err != nil || satisfied {
		t.Fatal(satisfied, err)
	}
	second, satisfied, err := m.Acquire(t.Context(), wanted())
	if err != nil || satisfied {
		t.Fatal("the second holder did not change the host, but the host was not satisfied:", satisfied, err)
	}
	if !maps.Equal(host.now(), wanted()) || len(host.writes) != 2 {
		t.Errorf("host has %v after %v", host.now(), host.writes)
	}
	for range 2 { // releasing twice counts once
		if err := first(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(host.now(), wanted()) {
		t.Errorf("restored although one holder is left: %v", host.now())
	}
	if err := second(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestASatisfiedHostIsNotWritten(t *testing.T) {
	host, file := &fakeHost{sysctls: wanted()}, filepath.Join(t.TempDir(), "sysctls.json")
	release, satisfied, err := lease.New(host, file).Acquire(t.Context(), wanted())
	if err != nil || !satisfied {
		t.Fatal(satisfied, err)
	}
	if err := release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(host.writes) > 0 {
		t.Errorf("written: %v", host.writes)
	}
}

func TestDifferentWantsNeverOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &fakeHost{sysctls: fresh()}
		m := lease.New(host, filepath.Join(t.TempDir(), "sysctls.json"))
		var wg sync.WaitGroup
		for i := range 24 {
			want := map[string]string{"kernel.panic": []string{"10", "20", "30"}[i%3]}
			wg.Go(func() {
				release, _, err := m.Acquire(t.Context(), want)
				if err != nil {
					t.Error(err)
					return
				}
				for range 5 {
					if got := host.now()["kernel.panic"]; got != want["kernel.panic"] {
						t.Errorf("a cell that wants %v saw %s", want, got)
					}
					time.Sleep(time.Second) // fake time
				}
				if err := release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if !maps.Equal(host.now(), fresh()) {
			t.Errorf("host has %v, want what it had", host.now())
		}
	})
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lease.New(&fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json"))
		release, _, err := m.Acquire(t.Context(), wanted())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err = m.Acquire(ctx, map[string]string{"kernel.panic": "20"})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "vm.overcommit_memory") {
			t.Errorf("error %v", err)
		}
		if err := release(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The one who gave up holds nothing.
		if _, _, err := m.Acquire(t.Context(), map[string]string{"kernel.panic": "20"}); err != nil {
			t.Error(err)
		}
	})
}

// Two managers of one file are as two processes.
func TestAlone(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json")
	m, other := lease.New(host, file), lease.New(host, file)
	if alone, err := m.Alone(t.Context()); err == nil || alone {
		t.Errorf("without a lease: %v, %v", alone, err)
	}
	acquire := func(m *lease.Manager) lease.Release {
		release, _, err := m.Acquire(t.Context(), wanted())
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	is := func(m *lease.Manager, want bool) {
		t.Helper()
		if alone, err := m.Alone(t.Context()); err != nil || alone != want {
			t.Errorf("alone %v, %v, want %v", alone, err, want)
		}
	}
	mine, too := acquire(m), acquire(m)
	is(m, true)
	theirs := acquire(other)
	is(m, false)
	is(other, false)
	for _, release := range []lease.Release{mine, too} {
		if err := release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// Having asked cost nobody the lease.
	if !maps.Equal(host.now(), wanted()) {
		t.Errorf("restored although another holds it: %v", host.now())
	}
	is(other, true)
	if err := theirs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
}

// Who waits is told who is in the way, and once only.
func TestWaits(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json")
	m, other := lease.New(host, file), lease.New(host, file)
	told := make(chan string, 100)
	m.Waits = func(by string) { told <- by }
	theirs, _, err := other.Acquire(t.Context(), wanted())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		release, _, err := m.Acquire(t.Context(), nil)
		if err == nil {
			err = release(t.Context())
		}
		got <- err
	}()
	if by := <-told; !strings.HasPrefix(by, "other processes hold ") {
		t.Errorf("told %q", by)
	}
	if err := errors.Join(theirs(t.Context()), <-got); err != nil {
		t.Fatal(err)
	}
	for range len(told) {
		if by := <-told; by != "another process changes them" {
			t.Errorf("told again: %q", by)
		}
	}
	if mine, _, err := m.Acquire(t.Context(), nil); err != nil || len(told) > 0 {
		t.Errorf("%v, and told %d times although nobody is there", err, len(told))
	} else if err := mine(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAFailedChangeIsPutBack(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh(), refuse: "vm.overcommit_memory"}, filepath.Join(t.TempDir(), "sysctls.json")
	m := lease.New(host, file)
	_, _, err := m.Acquire(t.Context(), wanted())
	if err == nil || !strings.Contains(err.Error(), "set host sysctl vm.overcommit_memory to 1: read-only") {
		t.Errorf("error %v", err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
	host.refuse = ""
	if _, _, err := m.Acquire(t.Context(), wanted()); err != nil {
		t.Errorf("a failed lease still holds: %v", err)
	}
}

func TestWhatWasThereIsKeptFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sysctls.json")
	host := &fakeHost{sysctls: fresh()}
	host.onWrite = func(key string) {
		if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), key) {
			t.Errorf("%s is written before what it was is kept: %s, %v", key, data, err)
		}
	}
	release, _, err := lease.New(host, file).Acquire(t.Context(), wanted())
	if err != nil {
		t.Fatal(err)
	}
	if err := release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
}

// Two hosts of one process may be on the same machine.
func TestTwoManagersShareAMachine(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json")
	one, _, err := lease.New(host, file).Acquire(t.Context(), wanted())
	if err != nil {
		t.Fatal(err)
	}
	other, satisfied, err := lease.New(host, file).Acquire(t.Context(), wanted())
	if err != nil || satisfied {
		t.Fatal(satisfied, err)
	}
	if err := one(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), wanted()) {
		t.Errorf("restored although one holder is left: %v", host.now())
	}
	if err := other(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
}

// What could not be restored is left for Restore, or the next lease.
func TestAFailedRestoreIsLeft(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json")
	m := lease.New(host, file)
	release, _, err := m.Acquire(t.Context(), wanted())
	if err != nil {
		t.Fatal(err)
	}
	host.refuse = "kernel.panic"
	if err := release(t.Context()); err == nil || !strings.Contains(err.Error(), "restore host sysctl kernel.panic to 0: read-only") {
		t.Errorf("error %v", err)
	}
	if keys, err := lease.Left(t.Context(), file); err != nil || !slices.Contains(keys, "kernel.panic") {
		t.Errorf("left %v, %v", keys, err)
	}
	if _, err := lease.Restore(t.Context(), host, file); err == nil {
		t.Error("restored what is read-only")
	}
	host.refuse = ""
	again, satisfied, err := m.Acquire(t.Context(), wanted())
	if err != nil || satisfied {
		t.Fatal(satisfied, err)
	}
	if err := again(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had", host.now())
	}
	if keys, err := lease.Left(t.Context(), file); err != nil || len(keys) > 0 {
		t.Errorf("left %v, %v", keys, err)
	}
}

// Who only looks makes no files.
func TestNothingLeftOfNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "sysctls.json")
	left, err := lease.Left(t.Context(), file)
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if restored, err := lease.Restore(t.Context(), &fakeHost{sysctls: fresh()}, file); err != nil || len(restored) > 0 {
		t.Errorf("restored %v, %v", restored, err)
	}
	if _, err := os.Stat(filepath.Dir(file)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
}

// TestWantingNothingIsALease: what runs without a host's values does not run
// beside those who set them.
func TestWantingNothingIsALease(t *testing.T) {
	host, file := &fakeHost{sysctls: fresh()}, filepath.Join(t.TempDir(), "sysctls.json")
	m := lease.New(host, file)
	release, satisfied, err := m.Acquire(t.Context(), nil)
	if err != nil || !satisfied {
		t.Fatalf("satisfied %v, %v; want a lease that changes nothing", satisfied, err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := m.Acquire(soon, wanted()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside one who wants nothing: %v, want to wait until the deadline", err)
	}
	if err := release(t.Context()); err != nil {
		t.Fatal(err)
	}
	release, _, err = m.Acquire(t.Context(), wanted())
	if err != nil {
		t.Fatal(err)
	}
	if err := release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := host.now(); !maps.Equal(got, fresh()) {
		t.Errorf("%v is left, want %v", got, fresh())
	}
}
