package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

func TestLives(t *testing.T) {
	started, err := startedAt(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(started); age < -time.Minute || age > time.Hour {
		t.Errorf("this process started %s ago", age)
	}
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		pid  int
		made time.Time
		want bool
	}{
		{"this process", os.Getpid(), time.Now(), true},
		{"a process that ended", ended.ProcessState.Pid(), time.Now(), false},
		{"its ID, used again", os.Getpid(), started.Add(-time.Hour), false},
		{"no process", -1, time.Now(), false},
	} {
		if got := lives(tc.pid, tc.made); got != tc.want {
			t.Errorf("%s: lives %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestMounted(t *testing.T) {
	if !mounted("/proc") {
		t.Error("/proc is not mounted")
	}
	if dir := t.TempDir(); mounted(dir) {
		t.Errorf("%s is mounted", dir)
	}
}

// TestDisksThatAreOld: they are shown, and removed where that is asked for.
func TestDisksThatAreOld(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	old := filepath.Join(cache, "lxcmatrix", "qemu", "disks", "old")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	used := time.Now().AddDate(0, 0, -40)
	if err := os.Chtimes(old, time.Time{}, used); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{toRemove, removed} {
		c := &collector{program: &program{}, yes: state == removed}
		if err := c.disks(); err != nil {
			t.Fatal(err)
		}
		want := []leftover{{Host: "qemu", What: "root disk", Name: old, Why: "unused since " + used.UTC().Format(time.DateOnly), State: state}}
		if !slices.Equal(c.items, want) {
			t.Errorf("found %+v, want %+v", c.items, want)
		}
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("it is still there")
	}
}

// TestMachinesThatWereLeft: one whose run lives is left alone, and what has the
// recorded ID but started at another time is no machine.
func TestMachinesThatWereLeft(t *testing.T) {
	state := t.TempDir()
	t.Setenv("LXCMATRIX_STATE", state)
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	orphan, other := sleeper(t), sleeper(t)
	record := func(path string, pid int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := pidfile.Write(path, pid); err != nil {
			t.Fatal(err)
		}
	}
	forged := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	machines := filepath.Join(state, "qemu")
	record(filepath.Join(machines, "lives", "owner.pid"), os.Getpid())
	record(filepath.Join(machines, "lives", "qemu.pid"), other.Process.Pid)
	record(filepath.Join(machines, "runs", "qemu.pid"), orphan.Process.Pid)
	forged(filepath.Join(machines, "runs", "owner.pid"), fmt.Sprintf("%d 1\n", ended.ProcessState.Pid()))
	record(filepath.Join(machines, "ended", "qemu.pid"), other.Process.Pid)
	forged(filepath.Join(machines, "ended", "owner.pid"), fmt.Sprintf("%d 1\n", os.Getpid()))
	forged(filepath.Join(machines, "ended", "qemu.pid"), fmt.Sprintf("%d 1\n", other.Process.Pid))

	collect := func(yes bool) []leftover {
		t.Helper()
		c := &collector{program: &program{}, yes: yes}
		if err := c.machines(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.items
	}
	at := func(name string) string { return filepath.Join(machines, name) }
	want := []leftover{
		{Host: "qemu", What: "machine", Name: at("ended"), Why: "its run did not end; QEMU has", State: toRemove},
		{Host: "qemu", What: "machine", Name: at("runs"), Why: fmt.Sprintf("its run did not end; QEMU runs as process %d", orphan.Process.Pid), State: toRemove},
	}
	if got := collect(false); !slices.Equal(got, want) {
		t.Fatalf("shown are %+v, want %+v", got, want)
	}
	for i := range want {
		want[i].State = removed
	}
	if got := collect(true); !slices.Equal(got, want) {
		t.Fatalf("removed are %+v, want %+v", got, want)
	}
	if err := orphan.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the machine whose run is gone: %v", err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that is nobody's machine was ended: %v", err)
	}
	if left, err := os.ReadDir(machines); err != nil || len(left) != 1 || left[0].Name() != "lives" {
		t.Errorf("left are %v, %v", left, err)
	}
	if got := collect(true); len(got) != 0 {
		t.Errorf("removed again: %+v", got)
	}
}

// TestInstancesThatAreLeft: only what is known to be of a run from here that is
// no more is taken.
func TestInstancesThatAreLeft(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "kept"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "kept", "run.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	gone, lives := strconv.Itoa(ended.ProcessState.Pid()), strconv.Itoa(os.Getpid())
	c := &collector{program: &program{}, root: root}
	for _, tc := range []struct{ driver, kind, run, pid, state, why string }{
		{"local", "node", "kept", gone, toRemove, "left of cell a/b by run kept, whose process " + gone + " is gone"},
		{"local", "node", "elsewhere", gone, toRemove, "left of cell a/b by run elsewhere, whose process " + gone + " is gone"},
		{"local", "node", "kept", lives, leftAlone, "process " + lives + " lives"},
		{"local", "", "kept", gone, leftAlone, "it has no owner: it is not lxcmatrix'"},
		{"local", "node", "kept", "x", leftAlone, "it has no owner: it is not lxcmatrix'"},
		{"embedded", "node", "kept", lives, toRemove, "left of cell a/b by run kept, whose process " + lives + " is gone"},
		{"remote", "node", "kept", gone, toRemove, "left of cell a/b by run kept, whose process " + gone + " is gone"},
		{"remote", "node", "kept", lives, leftAlone, "process " + lives + " lives"},
		{"remote", "node", "elsewhere", gone, leftAlone, `no run "elsewhere" is kept under ` + root + ": clean up where it was started, or name its folder with --runs"},
		{"remote", "prepare", "", gone, leftAlone, `no run "" is kept under ` + root + ": clean up where it was started, or name its folder with --runs"},
	} {
		got := c.left(matrix.HostRef{Name: "h", Driver: tc.driver}, incus.Owned{Name: "n", Created: time.Now(),
			Owner: map[string]string{"kind": tc.kind, "run": tc.run, "pid": tc.pid, "cell": "a/b"}})
		want := leftover{Host: "h", What: "node", Name: "n", Why: tc.why, State: tc.state}
		if tc.kind == "prepare" {
			want.What = "image in the making"
		}
		if got != want {
			t.Errorf("%+v: got %+v, want %+v", tc, got, want)
		}
	}
}

// TestRemoteHosts: each server is looked at once.
func TestRemoteHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "matrix.yaml")
	content := `apiVersion: lxcmatrix.dev/v1
hosts:
  - {name: embedded, driver: embedded}
  - {name: a, driver: remote, remote: lab}
  - {name: b, driver: remote, remote: lab, ssh: root@lab}
  - {name: c, driver: remote, remote: attic}
distros: [kubeadm@1.34]
os: [debian/13]
`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := remoteHosts(file, []string{"attic", "other"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, ref := range got {
		names = append(names, ref.Name+" "+ref.Remote.Name+" "+ref.Remote.SSH)
	}
	if want := []string{"b lab root@lab", "c attic ", "other other "}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// sleeper is a process that stands for a machine.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
