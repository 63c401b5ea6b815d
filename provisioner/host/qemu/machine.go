package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/crypto/ssh"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
)

// PoolDir is the folder inside a machine, on its data disk, that an Incus pool
// of the driver dir can have as its source.
const PoolDir = "/srv/incus/nodes"

// bootPatience is how long a machine may take until Incus answers. Quiet ones
// take half a minute under emulation; one of several on a busy machine takes
// much longer.
const bootPatience = 5 * time.Minute

// Machine is a running virtual machine. Its methods may be called by many at
// once.
type Machine struct {
	// Accel is kvm or tcg, AccelReason why.
	Accel, AccelReason string
	// Console is the file with all that the machine prints.
	Console string

	dir string
	// release gives the root disk back; nil for one that is just being made.
	release func() error
	api     API
	process *process
	monitor *monitor
	shell   *shell
}

// API is how a machine's Incus server is reached.
type API struct {
	// Address is 127.0.0.1:PORT, where it speaks HTTPS.
	Address string
	// ServerCert is the PEM of the only certificate that is this machine's.
	ServerCert string
	// Client is the certificate, with its key, that the server trusts.
	Client Certificate
}

// BootOptions are what may differ between two boots of one Spec.
type BootOptions struct {
	// Console is the file to keep what the machine prints in. Empty means one
	// that is gone with the machine.
	Console string
	// Patience is how long the boot may take; 0 means five minutes.
	Patience time.Duration
}

// BootError is a machine that did not become ready.
type BootError struct {
	// Reason is what happened: a panic, QEMU's end, the deadline.
	Reason string
	// Lines are the last that the machine, and QEMU itself, printed.
	Lines []string
	// Console is the file with all lines, if it was kept.
	Console string
	// Err is the cause, where there is one besides the reason.
	Err error
}

// Error holds the reason and the last lines.
func (e *BootError) Error() string {
	s := "boot a machine: " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if len(e.Lines) > 0 {
		s += "; its console ends:\n  " + strings.Join(e.Lines, "\n  ")
	} else {
		s += "; it printed nothing"
	}
	if e.Console != "" {
		s += "\n  (all of it is in " + e.Console + ")"
	}
	return s
}

// Unwrap is the cause.
func (e *BootError) Unwrap() error { return e.Err }

// Boot starts a machine and returns when its Incus answers over HTTPS and its
// SSH lets us in. A machine that does not get there is a *BootError and leaves
// nothing but its console. One that runs ends with Shutdown, or with this
// process, however that ends; it does not end with ctx.
func (s System) Boot(ctx context.Context, disk Disk, spec Spec, opts BootOptions) (_ *Machine, err error) {
	release, err := use(ctx, filepath.Dir(disk.Root))
	if err != nil {
		return nil, fmt.Errorf("boot a machine: use its root disk: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, release())
		}
	}()
	accel, reason, err := s.accelerator(ctx, spec, disk.Kernel)
	if err != nil {
		return nil, err
	}
	end := s.step("booting %s with %s under %s", spec.OS, kernelName(disk, spec), accel)
	defer func() { end(err) }()
	dir, err := s.newRunFolder()
	if err != nil {
		return nil, fmt.Errorf("boot a machine: %w", err)
	}
	overlay := filepath.Join(dir, rootFile)
	m := &Machine{Accel: accel, AccelReason: reason, Console: opts.Console, dir: dir, release: release}
	l := launch{spec: spec, kernel: disk.Kernel, initrd: disk.Initrd, root: "format=qcow2,cache=unsafe,file=" + escape(overlay), accel: accel}
	keys, err := newSecrets()
	if err == nil {
		err = run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.Root, overlay)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("boot a machine: %w", err), os.RemoveAll(dir))
	}
	if err := m.start(ctx, l, keys, opts, m.verify); err != nil {
		return nil, err
	}
	return m, nil
}

// finish boots a root disk that was just made, for the first time and to be
// written to, and shuts it down. What AppArmor and Incus do once is done then,
// and not at every boot.
func (s System) finish(ctx context.Context, disk Disk, spec Spec) error {
	accel, _, err := s.accelerator(ctx, spec, disk.Kernel)
	if err != nil {
		return err
	}
	dir, err := s.newRunFolder()
	if err != nil {
		return err
	}
	m := &Machine{dir: dir}
	l := launch{spec: spec, kernel: disk.Kernel, initrd: disk.Initrd, root: "format=raw,cache=unsafe,file=" + escape(disk.Root), accel: accel}
	keys, err := newSecrets()
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	// No certificate is trusted that outlives this boot.
	keys.client = Certificate{}
	err = m.start(ctx, l, keys, BootOptions{}, func(ctx context.Context) error {
		_, err := m.Run(ctx, provisioner.Command{Args: []string{"sh", "-ec", firstBootEnds}})
		if err != nil {
			return err
		}
		select {
		case <-m.Done():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait until it is off: %w", context.Cause(ctx))
		}
	})
	if err != nil {
		return err
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	return m.Shutdown(clean)
}

// firstBootEnds leaves nothing of the first boot that is one machine's own.
const firstBootEnds = `systemctl stop incus.service incus.socket lxcfs.service
rm -rf /var/lib/incus/server.crt /var/lib/incus/server.key /var/lib/systemd/random-seed /var/log/incus
umount /srv/incus
sync
systemctl --no-block poweroff`

// start starts QEMU, and returns when the machine said that it is ready and
// then does. Where it fails, nothing but the console is left.
func (m *Machine) start(ctx context.Context, l launch, keys secrets, opts BootOptions, then func(context.Context) error) (err error) {
	if opts.Patience == 0 {
		opts.Patience = bootPatience
	}
	if m.Console == "" {
		m.Console = filepath.Join(m.dir, consoleFile)
	}
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
			defer cancel()
			err = errors.Join(err, m.Shutdown(clean))
		}
	}()
	if err := m.prepare(ctx, l.spec, keys); err != nil {
		return fmt.Errorf("boot a machine: %w", err)
	}
	if l.tscKHz, err = measureTSC(ctx); err != nil {
		return fmt.Errorf("boot a machine: %w", err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	l.dir, l.console, l.machineID = m.dir, m.Console, hex.EncodeToString(id[:])
	if m.process, err = startQEMU(l.arguments()); err != nil {
		return fmt.Errorf("boot a machine: %w", err)
	}
	if err := m.process.record(filepath.Join(m.dir, pidFile)); err != nil {
		return fmt.Errorf("boot a machine: %w", err)
	}
	booting, cancel := context.WithTimeoutCause(ctx, opts.Patience, fmt.Errorf("it was not there within %s", opts.Patience))
	defer cancel()
	if err := m.connect(booting, keys); err != nil {
		return m.bootError("its ports were not to be had", err, opts)
	}
	if err := m.awaitReady(booting); err != nil {
		return m.bootError("it did not become ready", err, opts)
	}
	if err := then(booting); err != nil {
		return m.bootError("it became ready and did not answer", err, opts)
	}
	return nil
}

// kernelName is how a kernel is called before it runs.
func kernelName(disk Disk, spec Spec) string {
	if disk.Package != "" {
		return disk.Package
	}
	return spec.Kernel
}

// newRunFolder makes the machine's folder. It has its name only once it says
// whose it is, so that nobody takes it for one that was left.
func (s System) newRunFolder() (string, error) {
	top := machines(s.StateDir)
	if err := os.MkdirAll(top, 0o700); err != nil {
		return "", err
	}
	half, err := os.MkdirTemp(top, unfinished)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(top, strings.TrimPrefix(filepath.Base(half), unfinished))
	err = pidfile.Write(filepath.Join(half, ownerFile), os.Getpid())
	if err == nil {
		err = os.Rename(half, dir)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(half))
	}
	return dir, nil
}

// prepare makes the machine's own files.
func (m *Machine) prepare(ctx context.Context, spec Spec, keys secrets) error {
	if err := keys.writeSeed(filepath.Join(m.dir, seedFile)); err != nil {
		return err
	}
	if err := os.WriteFile(m.Console, nil, 0o600); err != nil {
		return err
	}
	content := filepath.Join(m.dir, "data")
	if err := os.MkdirAll(filepath.Join(content, filepath.Base(PoolDir)), 0o711); err != nil {
		return err
	}
	if err := mkfs(ctx, filepath.Join(m.dir, dataFile), "data", spec.DiskBytes, content); err != nil {
		return err
	}
	return os.RemoveAll(content)
}

// connect finds the ports that QEMU listens on.
func (m *Machine) connect(ctx context.Context, keys secrets) error {
	socket := filepath.Join(m.dir, qmpSocket)
	monitor, err := backoff.Retry(ctx, func() (*monitor, error) {
		if m.process.ended() {
			return nil, backoff.Permanent(errors.New("QEMU ended"))
		}
		return dialMonitor(ctx, socket)
	}, backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)), backoff.WithMaxElapsedTime(30*time.Second))
	if err != nil {
		return err
	}
	m.monitor = monitor
	ports, err := monitor.forwards(ctx)
	if err != nil {
		return err
	}
	local := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[port])) }
	m.api = API{Address: local(incusPort), ServerCert: keys.server.Cert, Client: keys.client}
	m.shell = newShell(local(sshPort), keys)
	return nil
}

// awaitReady reads the console until the machine says that it is ready.
func (m *Machine) awaitReady(ctx context.Context) error {
	c := console{path: m.Console}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		lines, err := c.lines()
		if err != nil {
			return err
		}
		for _, line := range append(lines, plain(string(c.rest))...) {
			if strings.Contains(line, readyLine) {
				return nil
			}
			if fatal.MatchString(line) {
				// What it prints next says more; then it ends by itself.
				select {
				case <-m.process.done:
				case <-time.After(2 * time.Second):
				}
				return errors.New(line)
			}
		}
		select {
		case <-tick.C:
		case <-m.process.done:
			return errors.New("QEMU ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// verify asks Incus and SSH, under the certificate and the key that they must
// have.
func (m *Machine) verify(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		_, err := m.shell.connect(ctx)
		done <- err
	}()
	return errors.Join(m.api.verify(ctx), <-done)
}

// verify asks the Incus server who we are.
func (a API) verify(ctx context.Context) error {
	pair, err := tls.X509KeyPair([]byte(a.Client.Cert), []byte(a.Client.Key))
	if err != nil {
		return fmt.Errorf("ask Incus: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(a.ServerCert))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+a.Address+"/1.0", nil)
	if err != nil {
		return fmt.Errorf("ask Incus: %w", err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("ask Incus: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("ask Incus: %w", err)
	}
	if answer.StatusCode != http.StatusOK || !bytes.Contains(text, []byte(`"auth":"trusted"`)) {
		return fmt.Errorf("ask Incus: it answers %s and does not trust our certificate", answer.Status)
	}
	return nil
}

func (m *Machine) bootError(reason string, err error, opts BootOptions) error {
	lines := tail(m.Console, 15)
	for _, l := range plain(m.process.output()) {
		lines = append(lines, "QEMU: "+l)
	}
	return &BootError{Reason: reason, Err: err, Lines: lines, Console: opts.Console}
}

// API is how the machine's Incus server is reached.
func (m *Machine) API() API { return m.api }

// ConsoleTail is the last n lines that the machine printed.
func (m *Machine) ConsoleTail(n int) []string { return tail(m.Console, n) }

// Folder holds what is the machine's alone on this one; it is gone with the
// machine.
func (m *Machine) Folder() string { return m.dir }

// Done is closed when QEMU has ended, whoever ended it.
func (m *Machine) Done() <-chan struct{} { return m.process.done }

// Err says how QEMU ended, once Done is closed; nil before.
func (m *Machine) Err() error {
	if !m.process.ended() {
		return nil
	}
	text := "QEMU ended"
	if m.process.err != nil {
		text += ": " + m.process.err.Error()
	}
	if said := plain(m.process.output()); len(said) > 0 {
		text += ": " + strings.Join(said, " | ")
	}
	return errors.New(text)
}

// Run runs a command on the machine's own system, as root and with the
// command's variables beside those that SSH sets. A command that ran and failed
// is a *provisioner.HostCommandError. When ctx ends, the command is killed.
func (m *Machine) Run(ctx context.Context, command provisioner.Command) (provisioner.Output, error) {
	out, err := m.shell.run(ctx, command)
	return out, m.because(ctx, err)
}

// Dial connects to an address as the machine sees it.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := m.shell.dial(ctx, network, address)
	if err != nil {
		return nil, m.because(ctx, err)
	}
	return conn, nil
}

// because adds to an error of the connection that the machine is no more. The
// connection breaks a moment before QEMU is reaped, which is waited for.
func (m *Machine) because(ctx context.Context, err error) error {
	var failed *provisioner.HostCommandError
	var refused *ssh.OpenChannelError
	if err == nil || errors.As(err, &failed) || errors.As(err, &refused) {
		return err
	}
	reaping, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case <-m.process.done:
	case <-reaping.Done():
		if !m.process.ended() {
			return err
		}
	}
	return fmt.Errorf("%w: %w", err, m.Err())
}

// serialName is what virtio-blk shows of a serial: 20 bytes.
var serialName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,19}$`)

// AttachDisk gives the running machine a file of this one as a read-only disk,
// and returns when it is there, as /dev/disk/by-id/virtio-SERIAL. A serial is
// up to 20 letters, digits and dashes, and the machine has it once. The file
// must not change from then on.
func (m *Machine) AttachDisk(ctx context.Context, path, serial string) error {
	fail := func(err error) error { return fmt.Errorf("attach %s to the machine as %s: %w", path, serial, err) }
	if !serialName.MatchString(serial) {
		return fail(errors.New("a serial is up to 20 letters, digits and dashes"))
	}
	_, err := m.monitor.do(ctx, "blockdev-add", map[string]any{"driver": "raw", "node-name": serial, "read-only": true,
		"file": map[string]any{"driver": "file", "filename": path, "read-only": true}})
	if err != nil {
		return fail(err)
	}
	_, err = m.monitor.do(ctx, "device_add", map[string]any{"driver": "virtio-blk-pci", "drive": serial, "id": serial, "serial": serial})
	if err != nil {
		_, undo := m.monitor.do(ctx, "blockdev-del", map[string]any{"node-name": serial})
		return fail(errors.Join(err, undo))
	}
	device := "/dev/disk/by-id/virtio-" + serial
	_, err = m.Run(ctx, provisioner.Command{Args: []string{"udevadm", "wait", "--timeout=60", device}})
	if err != nil {
		return fail(err)
	}
	return nil
}

// endPatience is how long a killed QEMU may take to be gone.
const endPatience = 10 * time.Second

// Shutdown ends the machine at once, with all that is on it, and removes its
// folder. Shutting down twice is no error.
func (m *Machine) Shutdown(ctx context.Context) error {
	if m.shell != nil {
		m.shell.close()
	}
	if m.monitor != nil {
		m.monitor.close()
	}
	if m.process != nil {
		if err := m.process.kill(ctx); err != nil {
			return fmt.Errorf("end a machine: %w", err)
		}
	}
	err := os.RemoveAll(m.dir)
	if m.release != nil {
		err = errors.Join(err, m.release())
	}
	if err != nil {
		return fmt.Errorf("end a machine: %w", err)
	}
	return nil
}

// process is a QEMU of this process.
type process struct {
	pid int
	os  *os.Process
	// done is closed when it has ended; err is to be read then.
	done chan struct{}
	err  error

	mu   sync.Mutex
	said bytes.Buffer
}

const program = "qemu-system-x86_64"

// startQEMU starts QEMU so that it ends with this process, killed or not, and
// not with a terminal's signals.
func startQEMU(args []string) (*process, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, missingQEMU(err)
	}
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread that started QEMU ends, so
		// that thread has to stay: this goroutine keeps it until QEMU is gone.
		runtime.LockOSThread()
		cmd := exec.Command(path, args...) //nolint:noctx // a machine outlives the context that it was booted with
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		cmd.Stdout, cmd.Stderr = p, p
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid, p.os = cmd.Process.Pid, cmd.Process
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return p, nil
}

// missingQEMU says what to do where QEMU is not installed.
func missingQEMU(err error) error { return fmt.Errorf("%w; lxcmatrix doctor --fix installs it", err) }

// output is what QEMU itself has printed until now.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// Write takes what QEMU prints.
func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(text)
}

// record writes down which process it is. One that has ended already needs no
// record; it is known to have ended then.
func (p *process) record(path string) error {
	err := pidfile.Write(path, p.pid)
	if errors.Is(err, fs.ErrNotExist) {
		// Whoever waited for it is about to say so.
		<-p.done
		return nil
	}
	return err
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends QEMU and waits until it is gone.
func (p *process) kill(ctx context.Context) error {
	if err := p.os.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill QEMU with process ID %d: %w", p.pid, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of QEMU with process ID %d: %w", p.pid, context.Cause(ctx))
	}
}
