// Command init is all that a test's container holds: as process 1 it waits
// until it is told to end, and it is the few commands that tests run.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		boot()
		return
	}
	switch os.Args[1] {
	case "emit": // BYTES CODE: that much on both outputs, then the exit code
		n, _ := strconv.Atoi(os.Args[2])
		code, _ := strconv.Atoi(os.Args[3])
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("o"), n))
		_, _ = os.Stderr.Write(bytes.Repeat([]byte("e"), n))
		os.Exit(code)
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "boot":
		id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		_, _ = os.Stdout.Write(id)
	case "sleep": // FILE: writes its process ID there and stays
		_ = os.WriteFile(os.Args[2], []byte(strconv.Itoa(os.Getpid())), 0o600)
		time.Sleep(time.Hour)
	case "deafen": // process 1 no longer ends when told
		_ = os.WriteFile(deaf, nil, 0o600)
	case "alive": // PID
		pid, _ := strconv.Atoi(os.Args[2])
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.Exit(1)
		}
	}
}

// deaf is a file that makes process 1 stay.
const deaf = "/tmp/deaf"

// halt is SIGRTMIN+3, which LXC sends instead of SIGPWR to a process 1 that
// seems to be systemd.
const halt = syscall.Signal(37)

// boot is process 1: it reaps what is orphaned and ends on LXC's signals.
func boot() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGPWR, halt, syscall.SIGCHLD)
	fmt.Println("the test's init has started")
	for s := range signals {
		if s != syscall.SIGCHLD {
			if _, err := os.Stat(deaf); err == nil {
				continue
			}
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
