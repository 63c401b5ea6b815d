package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartTime(t *testing.T) {
	stat := func(name, state string) string {
		fields := []string{"42", "(" + name + ")", state}
		for n := 4; n <= 52; n++ {
			fields = append(fields, fmt.Sprint("f", n))
		}
		return strings.Join(fields, " ") + "\n"
	}
	for _, name := range []string{"incusd", "a b", ") S 1 (", "((", "x) Z 1 2 3", ""} {
		if got, err := startTime(stat(name, "S")); err != nil || got != "f22" {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
		if _, err := startTime(stat(name, "Z")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: a zombie is gone, got %v", name, err)
		}
	}
	for _, broken := range []string{"", "42", "42 (x", "42 (x) S 1 2 3", ")"} {
		if _, err := startTime(broken); err == nil {
			t.Errorf("%q has a start time", broken)
		}
	}
}

// TestRecord: what is recorded is alive only while the same process lives.
func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing recorded: %v", err)
	}
	if err := Write(path, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	mine, err := Read(path)
	if err != nil || mine.PID != os.Getpid() || !mine.Alive() {
		t.Fatalf("this process reads as %+v, %v", mine, err)
	}
	for record, readable := range map[string]bool{
		fmt.Sprintf("%d 1%s\n", mine.PID, mine.Started): true, // the ID was given to another
		fmt.Sprintf("%d %s\n", 1<<30, mine.Started):     true,
		fmt.Sprintf("%d\n", mine.PID):                   false,
		"-1 " + mine.Started:                            false,
		"x " + mine.Started:                             false,
		"":                                              false,
	} {
		if err := os.WriteFile(path, []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Read(path)
		if (err == nil) != readable || p.Alive() {
			t.Errorf("%q: got %+v, %v, alive %t", record, p, err, p.Alive())
		}
	}
	for range 2 {
		if err := Forget(path); err != nil {
			t.Error(err)
		}
	}
	if err := Write(path, 1<<30); err == nil {
		t.Error("a process that is not there was recorded")
	}
}
