// Package pidfile records processes that may outlive the one that started
// them, by process ID and start time: a recycled ID is never taken for them.
package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Process is one life of a process ID.
type Process struct {
	PID int
	// Started is when it started, in clock ticks since boot.
	Started string
}

// Of is the process that has an ID now; fs.ErrNotExist where none has, or one
// that ended and that nobody has reaped yet.
func Of(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	started, err := startTime(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return Process{PID: pid, Started: started}, nil
}

// Alive says whether the process still runs.
func (p Process) Alive() bool {
	now, err := Of(p.PID)
	return err == nil && now == p
}

// Write records a process that runs now.
func Write(path string, pid int) error {
	p, err := Of(pid)
	if err != nil {
		return fmt.Errorf("record a process in %s: %w", path, err)
	}
	// Written whole or not at all: who reads it may do so at any time.
	half := path + ".part"
	if err := os.WriteFile(half, fmt.Appendf(nil, "%d %s\n", p.PID, p.Started), 0o600); err != nil {
		return fmt.Errorf("record process %d: %w", pid, err)
	}
	if err := os.Rename(half, path); err != nil {
		return fmt.Errorf("record process %d: %w", pid, err)
	}
	return nil
}

// Read is the recorded process, which may have ended; fs.ErrNotExist where
// none is recorded.
func Read(path string) (Process, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Process{}, fmt.Errorf("read a recorded process: %w", err)
	}
	id, started, found := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, err := strconv.Atoi(id)
	if !found || err != nil || pid <= 0 {
		return Process{}, fmt.Errorf("read a recorded process: %s holds %q, not a process ID and a start time", path, text)
	}
	return Process{PID: pid, Started: started}, nil
}

// Forget removes a record; one that is not there is no error.
func Forget(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget a recorded process: %w", err)
	}
	return nil
}

// startTime reads field 22 of /proc/PID/stat (proc_pid_stat(5)).
func startTime(stat string) (string, error) {
	// The command's name, field 2, may hold spaces and parentheses itself.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || !strings.Contains(stat, ")") {
		return "", fmt.Errorf("read its start time: %q has too few fields", stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}
