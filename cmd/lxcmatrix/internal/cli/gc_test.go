package cli

import (
	"os"
	"os/exec"
	"testing"
	"time"
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

// A process ID that something else has by now is no daemon.
func TestDaemonOf(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]int{"": 0, "x y\n": 0, "1 2 3\n": 0, "999999999 5\n": 0} {
		if err := os.WriteFile(dir+"/incusd.pid", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := daemonOf(dir); got != want {
			t.Errorf("%q names process %d, want %d", content, got, want)
		}
	}
	if got := daemonOf(dir + "/none"); got != 0 {
		t.Errorf("no file names process %d", got)
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
