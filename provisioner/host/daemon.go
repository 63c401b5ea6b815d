package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// daemon is an incusd of the harness's own.
type daemon struct {
	// Dir is its INCUS_DIR.
	Dir string
	Log string
	// PIDFile records its process.
	PIDFile string
}

// incusdPaths are where Debian's packages keep the daemon.
var incusdPaths = [...]string{"/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd", "/usr/bin/incusd"}

func (d daemon) socket() string { return filepath.Join(d.Dir, "unix.socket") }

// arguments are the daemon's: no other has the same ones.
func (d daemon) arguments() []string { return []string{"--logfile", d.Log + ".daemon"} }

// start starts the daemon, or takes over one that a crashed run left, and
// waits until it answers.
func (d daemon) start(ctx context.Context) (*incus.Server, error) {
	if err := d.find(); err != nil {
		return nil, fmt.Errorf("start an Incus daemon: %w", err)
	}
	if pid, alive := d.running(); alive {
		watching, stop := context.WithCancel(ctx)
		defer stop()
		died := make(chan error, 1)
		go func() {
			if d.gone(watching) {
				died <- nil
			}
		}()
		server, err := d.await(ctx, died)
		if err == nil {
			return server, nil
		}
		if _, alive := d.running(); alive {
			return nil, fmt.Errorf("take over the Incus daemon with process ID %d: %w", pid, err)
		}
		// It was just dying.
	}
	path := ""
	for _, p := range incusdPaths {
		if _, err := os.Stat(p); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		return nil, fmt.Errorf("start an Incus daemon: incusd is not installed; lxcmatrix doctor --fix installs it")
	}
	if err := os.MkdirAll(d.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("start an Incus daemon: %w", err)
	}
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start an Incus daemon: %w", err)
	}
	defer func() { _ = log.Close() }()
	// Not bound to ctx: Ctrl-C must leave time to remove the instances. A
	// session of its own keeps the terminal's signals away from it.
	cmd := exec.Command(path, d.arguments()...) //nolint:noctx // it outlives ctx, as said above
	cmd.Env = append(os.Environ(), "INCUS_DIR="+d.Dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start an Incus daemon: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := pidfile.Write(d.PIDFile, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("start an Incus daemon: %w", err)
	}
	return d.await(ctx, exited)
}

// await waits until the daemon answers, up to a minute, or until it ended.
func (d daemon) await(ctx context.Context, exited <-chan error) (*incus.Server, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-exited:
			cancel(fmt.Errorf("it ended: %w", errOr(err, "exit code 0")))
		case <-ctx.Done():
		}
	}()
	server, err := backoff.Retry(ctx, func() (*incus.Server, error) {
		try, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		return incus.Connect(try, d.socket())
	}, backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxElapsedTime(time.Minute))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("wait for the Incus daemon: %w; its log ends: %s", err, d.logTail())
	}
	return server, nil
}

func (d daemon) logTail() string {
	data, err := os.ReadFile(d.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 5 {
		lines = lines[len(lines)-5:]
	}
	return strings.Join(lines, " | ")
}

// How long each way to stop the daemon may take.
const (
	politePatience = 15 * time.Second
	killPatience   = 5 * time.Second
)

// stop ends the daemon with its instances, mounts and bridge. One that does
// not answer is killed; one that was killed, by this or by anybody, left all
// of them behind, and is started once more to take them down.
func (d daemon) stop(ctx context.Context) error {
	if err := d.find(); err != nil {
		return fmt.Errorf("stop the Incus daemon: %w", err)
	}
	pid, alive := d.running()
	switch {
	case alive:
		if err := d.shutdown(ctx); err == nil {
			return d.forget()
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill the Incus daemon with process ID %d: %w", pid, err)
		}
		killed, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
		defer cancel()
		if !d.gone(killed) {
			return fmt.Errorf("stop the Incus daemon: process %d is still there after it was killed", pid)
		}
	case pid == 0:
		// There never was one, or it was stopped.
		return d.forget()
	}
	server, err := d.start(ctx)
	if err != nil {
		return fmt.Errorf("start the Incus daemon once more, to take down what it left: %w", err)
	}
	server.Disconnect()
	if err := d.shutdown(ctx); err != nil {
		return fmt.Errorf("take down what a killed Incus daemon left: %w", err)
	}
	return d.forget()
}

// shutdown kills the instances and lets the daemon end. The daemon would give
// each of them half a minute to end by itself.
func (d daemon) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, politePatience)
	defer cancel()
	server, err := incus.Connect(ctx, d.socket())
	if err != nil {
		return err
	}
	defer server.Disconnect()
	if err := server.Settle(ctx); err != nil {
		return err
	}
	owned, err := server.Owned(ctx)
	if err != nil {
		return err
	}
	for _, o := range owned {
		if o.Running {
			if err := server.Instance(o.Name, "").Kill(ctx); err != nil {
				return err
			}
		}
	}
	// The answer's end is the daemon's own, so an error here says nothing;
	// what counts is that the process is gone.
	_ = server.Shutdown(ctx)
	if !d.gone(ctx) {
		return fmt.Errorf("the Incus daemon did not end within %s", politePatience)
	}
	return nil
}

// restart asks the daemon to end, as systemd does for Incus' own unit, and starts
// another: instances run on. They are told by their process IDs.
func (d daemon) restart(ctx context.Context) (was, is int, err error) {
	fail := func(err error) (int, int, error) { return was, is, fmt.Errorf("restart the Incus daemon: %w", err) }
	was, alive := d.running()
	if !alive {
		return fail(errors.New("it does not run"))
	}
	if err := syscall.Kill(was, syscall.SIGTERM); err != nil {
		return fail(err)
	}
	if !d.gone(ctx) {
		return fail(fmt.Errorf("process %d was asked to end and is still there: %w", was, context.Cause(ctx)))
	}
	server, err := d.start(ctx)
	if err != nil {
		return fail(err)
	}
	server.Disconnect()
	is, _ = d.running()
	return was, is, nil
}

func (d daemon) forget() error { return pidfile.Forget(d.PIDFile) }

// gone waits until the daemon's process is no more.
func (d daemon) gone(ctx context.Context) bool {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if _, alive := d.running(); alive {
			return struct{}{}, fmt.Errorf("still running")
		}
		return struct{}{}, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(50*time.Millisecond)))
	return err == nil
}

// find records a daemon that runs and that nobody recorded: who had just started
// it was killed before that.
func (d daemon) find() error {
	if _, alive := d.running(); alive {
		return nil
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range commands {
		// What is gone by now, or has none, is no daemon.
		command, _ := os.ReadFile(path)
		args := strings.Split(strings.TrimSuffix(string(command), "\x00"), "\x00")
		if len(args) == 0 || !slices.Equal(args[1:], d.arguments()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		if err := pidfile.Write(d.PIDFile, pid); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// It just ended.
	}
	return nil
}

// Daemon is the process ID of the daemon of the embedded host in a state folder,
// 0 where none runs.
func Daemon(stateDir string) (int, error) {
	_, d := embeddedParts(stateDir)
	if err := d.find(); err != nil {
		return 0, fmt.Errorf("look for the Incus daemon of %s: %w", stateDir, err)
	}
	if pid, alive := d.running(); alive {
		return pid, nil
	}
	return 0, nil
}

// running finds the daemon by its record. pid is 0 where there is none.
func (d daemon) running() (pid int, alive bool) {
	p, err := pidfile.Read(d.PIDFile)
	if err != nil {
		return 0, false
	}
	return p.PID, p.Alive()
}

func errOr(err error, otherwise string) error {
	if err != nil {
		return err
	}
	return errors.New(otherwise)
}
