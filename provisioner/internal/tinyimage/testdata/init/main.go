// Command init is all that a test's container holds: as process 1 it waits
// until it is told to end, and it is the few commands that tests run.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		boot()
		return
	}
	switch filepath.Base(os.Args[0]) {
	case "socat": // STDIO TCP:ADDRESS
		if err := relay(strings.TrimPrefix(os.Args[2], "TCP:")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case "systemctl":
		if os.Args[1] == "is-system-running" {
			fmt.Println("running")
		}
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
	case "answer": // ADDRESS: says what each of its callers said, and goodbye
		answer(os.Args[2])
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

// relay is what socat does: both ways at once, until the other side has ended.
func relay(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func answer(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			line, _ := bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, line+"goodbye\n")
			_ = conn.Close()
		}()
	}
}

// deaf is a file that makes process 1 stay.
const deaf = "/tmp/deaf"

// mountCgroups mounts what shows the host's cgroup mode, as systemd does.
func mountCgroups() {
	what := "cgroup2"
	list, _ := os.ReadFile("/proc/cgroups")
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); fields[0] == "memory" && fields[1] != "0" {
			what = "tmpfs"
		}
	}
	if err := syscall.Mount(what, "/sys/fs/cgroup", what, 0, ""); err != nil {
		fmt.Println("mount cgroups:", err)
	}
}

// halt is SIGRTMIN+3, which LXC sends instead of SIGPWR to a process 1 that
// seems to be systemd.
const halt = syscall.Signal(37)

// boot is process 1: it reaps what is orphaned and ends on LXC's signals.
func boot() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGPWR, halt, syscall.SIGCHLD)
	mountCgroups()
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
