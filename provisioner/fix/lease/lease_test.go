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

// readingHost is a fake host that can also be read.
type readingHost struct{ *fakeHost }

func (h readingHost) Sysctl(_ context.Context, key string) (string, error) {
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

func TestACrashLosesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sysctls.json")
	host := readingHost{&fakeHost{sysctls: fresh()}}
	host.onWrite = func(key string) {
		if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), key) {
			t.Errorf("%s is written before what it was is kept: %s, %v", key, data, err)
		}
	}
	if _, _, err := lease.New(host, file).Acquire(t.Context(), wanted()); err != nil {
		t.Fatal(err)
	}
	// The process ended here. The next one finds the host as that one wants it.
	host.onWrite = nil
	release, satisfied, err := lease.New(host, file).Acquire(t.Context(), wanted())
	if err != nil || satisfied {
		t.Fatal("changed by a process that crashed is not satisfied:", satisfied, err)
	}
	if err := release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had before the crash", host.now())
	}

	if _, _, err := lease.New(host, file).Acquire(t.Context(), wanted()); err != nil {
		t.Fatal(err)
	}
	keys, err := lease.Restore(t.Context(), host, file)
	if err != nil || !slices.Equal(keys, []string{"kernel.panic", "vm.overcommit_memory"}) {
		t.Errorf("restored %v, %v", keys, err)
	}
	if !maps.Equal(host.now(), fresh()) {
		t.Errorf("host has %v, want what it had before the crash", host.now())
	}
	if keys, err := lease.Restore(t.Context(), host, file); err != nil || len(keys) > 0 {
		t.Errorf("restored twice: %v, %v", keys, err)
	}
}
