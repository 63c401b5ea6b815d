//go:build integration

package hygiene_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/hygiene"
)

// namespaced is this machine with network and mount namespaces of its own, so
// that nothing outside sees what the test changes. The thread that made them
// keeps them.
type namespaced struct{ do chan func() }

func newNamespaced(t *testing.T) namespaced {
	t.Helper()
	n := namespaced{make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		ready <- err
		for do := range n.do {
			do()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.do) })
	return n
}

// within does something in the namespaces.
func (n namespaced) within(do func() error) (err error) {
	done := make(chan struct{})
	n.do <- func() { err = do(); close(done) }
	<-done
	return err
}

func (n namespaced) Run(ctx context.Context, c provisioner.Command) (out provisioner.Output, err error) {
	var stdout bytes.Buffer
	err = n.within(func() error {
		cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
		cmd.Env = os.Environ()
		for k, v := range c.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		cmd.Stdout, cmd.Stdin = &stdout, c.Stdin
		return cmd.Run()
	})
	return provisioner.Output{Stdout: stdout.String()}, err
}

// path is of the network namespace of the thread that asks.
func path(key string) string { return filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")) }

func (n namespaced) Sysctl(_ context.Context, key string) (value string, err error) {
	err = n.within(func() error {
		data, err := os.ReadFile(path(key))
		value = strings.TrimSpace(string(data))
		return err
	})
	return value, err
}

func (n namespaced) SetSysctl(ctx context.Context, key, value string) (string, error) {
	before, err := n.Sysctl(ctx, key)
	if err != nil {
		return "", err
	}
	// What the rest of the machine does meanwhile is none of the test's.
	if !strings.HasPrefix(key, "net.") {
		return before, &provisioner.HostWriteError{What: "sysctl " + key}
	}
	return before, n.within(func() error { return os.WriteFile(path(key), []byte(value), 0) })
}

// The changes of one cell on a real kernel: a sysctl is seen and put back, a
// table of rules and an interface are seen and told, and the next cell knows.
func TestChangesOfARealHost(t *testing.T) {
	ctx, machine := t.Context(), newNamespaced(t)
	sh := func(script string) {
		t.Helper()
		if _, err := machine.Run(ctx, provisioner.Command{Args: []string{"sh", "-c", script}}); err != nil {
			t.Fatal(err)
		}
	}
	const key = "net.ipv4.ip_default_ttl"
	host := (&hygiene.Ledger{}).Host(ctx, machine, func(context.Context) (bool, error) { return true, nil })
	leave := host.Enter(ctx, "first")
	had, err := machine.SetSysctl(ctx, key, "33")
	assert.NilError(t, err)
	sh("nft add table inet left_behind && nft add chain inet left_behind input '{ type filter hook input priority 0; }' && " +
		"nft add rule inet left_behind input tcp dport 9 counter drop && ip link add cni0 type bridge")
	found := leave(ctx, false)
	assert.Equal(t, found.NotObserved, "")
	assert.Equal(t, len(found.Unseen), 0, "%v", found.Unseen)
	ours := ofTheNamespace(found.Changes)
	var told []string
	for _, c := range ours {
		told = append(told, strings.TrimSpace(c.Kind+" "+c.What+" "+c.Change+" "+c.Before+" "+c.After))
		assert.Equal(t, c.Undone, c.Kind == hygiene.Sysctl, "%+v", c)
		assert.Equal(t, c.Undone, c.Left == "", "%+v", c)
	}
	assert.DeepEqual(t, told, []string{
		"sysctl net.ipv4.ip_default_ttl changed " + had + " 33",
		"nftables table inet left_behind added",
		"nftables table inet left_behind chain input added",
		"nftables table inet left_behind chain input: tcp dport 9 counter drop added",
		"nftables table inet left_behind chain input: type filter hook input priority 0; policy accept; added",
		"interface cni0 added",
	})
	now, err := machine.Sysctl(ctx, key)
	assert.NilError(t, err)
	assert.Equal(t, now, had)
	sh("nft list table inet left_behind")

	next := host.Enter(ctx, "second")(ctx, false)
	assert.Equal(t, next.NotObserved, "")
	assert.Assert(t, slices.ContainsFunc(next.Suspect, func(s matrix.HostTrace) bool {
		return s.Cell == "first" && s.What == "table inet left_behind"
	}), "%+v", next)

	sh("nft delete table inet left_behind && ip link delete cni0")
	clean := host.Enter(ctx, "third")(ctx, false)
	assert.Equal(t, len(clean.Suspect), 0, "%+v", clean)
}

// ofTheNamespace leaves out what the rest of the machine did meanwhile: only
// the network is the test's own.
func ofTheNamespace(changes []matrix.HostChange) []matrix.HostChange {
	return slices.DeleteFunc(slices.Clone(changes), func(c matrix.HostChange) bool {
		return c.Kind == hygiene.Module || c.Kind == hygiene.AppArmor || c.Kind == hygiene.Sysctl && !strings.HasPrefix(c.What, "net.")
	})
}
