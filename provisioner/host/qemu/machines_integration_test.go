//go:build integration

package qemu_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
)

// crashVariable makes this test's program a run that dies while its machine
// boots: its value is the state folder.
const crashVariable = "LXCMATRIX_TEST_CRASH"

func TestMain(m *testing.M) {
	if state := os.Getenv(crashVariable); state != "" {
		crash(state)
	}
	os.Exit(m.Run())
}

// steps tells what takes long, and how long it took.
type steps struct{ t *testing.T }

func (s steps) Step(format string, args ...any) func(error) {
	began := time.Now()
	return func(err error) {
		s.t.Logf("%s: %s (%v)", fmt.Sprintf(format, args...), time.Since(began).Round(100*time.Millisecond), err)
	}
}

func (s steps) Note(format string, args ...any) { s.t.Logf(format, args...) }

// system keeps disks where runs have theirs: making one takes minutes.
func system(state string) (qemu.System, error) {
	cache, err := artifact.DefaultCacheDir()
	return qemu.System{CacheDir: cache, StateDir: state}, err
}

func spec(cgroup string) (qemu.Spec, error) {
	return qemu.NewSpec(matrix.HostRef{Name: "test", Cgroup: cgroup, QEMU: matrix.QEMURef{OS: "debian/12", Kernel: "debian/6.1", MemoryBytes: 2 << 30, DiskBytes: 2 << 30}})
}

// stateDir is short: paths of sockets below it must fit 107 bytes.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // the paths of its sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestMachines boots the same disk twice at once, with cgroup v1 and v2, under
// whatever accelerator works here.
func TestMachines(t *testing.T) {
	s, err := system(stateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	s.Progress = steps{t}
	specs, machines := map[string]qemu.Spec{}, map[string]*qemu.Machine{}
	for _, cgroup := range []string{"v1", "v2"} {
		if specs[cgroup], err = spec(cgroup); err != nil {
			t.Fatal(err)
		}
	}
	disk, err := s.MakeDisk(t.Context(), specs["v1"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		for _, m := range machines {
			if err := m.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		}
		left, err := os.ReadDir(filepath.Join(s.StateDir, "qemu"))
		if err != nil || len(left) > 0 {
			t.Errorf("machines leave %v, %v", left, err)
		}
	})
	var wait sync.WaitGroup
	var mu sync.Mutex
	for cgroup, spec := range specs {
		wait.Go(func() {
			m, err := s.Boot(t.Context(), disk, spec, qemu.BootOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			machines[cgroup] = m
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	m := machines["v1"]
	t.Logf("booted under %s: %s", m.Accel, m.AccelReason)

	t.Run("each is what was asked for", func(t *testing.T) {
		g := NewWithT(t)
		for cgroup, want := range map[string]string{"v1": "tmpfs", "v2": "cgroup2fs"} {
			out, err := machines[cgroup].Run(t.Context(), shell("uname -r; stat -fc %T /sys/fs/cgroup; cat /sys/module/apparmor/parameters/enabled; systemctl --failed --no-legend; ls -d /sys/module/br_netfilter /sys/module/vxlan /sys/module/overlay; stat -c %a "+qemu.PoolDir))
			g.Expect(err).NotTo(HaveOccurred())
			lines := strings.Split(strings.TrimSpace(out.Stdout), "\n")
			g.Expect(lines).To(HaveLen(7), out.Stdout)
			g.Expect(lines[0]).To(HavePrefix("6.1."))
			g.Expect(lines[1]).To(Equal(want))
			g.Expect(lines[2]).To(Equal("Y"), "AppArmor")
			g.Expect(lines[6]).To(Equal("711"))
		}
		g.Expect(m.Accel).To(BeElementOf(qemu.AccelKVM, qemu.AccelTCG))
		g.Expect(m.AccelReason).NotTo(BeEmpty())
		g.Expect(m.ConsoleTail(5)).To(HaveLen(5))
		g.Expect(qemu.Leftovers(s.StateDir)).To(BeEmpty(), "their owner lives")
	})
	t.Run("commands", func(t *testing.T) { commands(t, m) })
	t.Run("Incus answers to its client alone", func(t *testing.T) { api(t, m.API(), machines["v2"].API()) })
	t.Run("nothing listens beyond loopback", func(t *testing.T) {
		g := NewWithT(t)
		for _, address := range listening(t, filepath.Join(s.StateDir, "qemu")) {
			g.Expect(address).To(HavePrefix("127.0.0.1:"))
		}
	})
	t.Run("a machine reaches nothing beyond itself", func(t *testing.T) {
		g := NewWithT(t)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		g.Expect(err).NotTo(HaveOccurred())
		defer func() { _ = listener.Close() }()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		_, err = m.Run(t.Context(), shell("timeout 3 bash -c 'exec 3<>/dev/tcp/10.0.2.2/"+port+"'"))
		var failed *provisioner.HostCommandError
		g.Expect(errors.As(err, &failed)).To(BeTrue(), "this machine's loopback was reached: %v", err)
		t.Logf("said: %v", err)
	})
	t.Run("a disk while it runs", func(t *testing.T) { attach(t, m) })
	t.Run("a connection that breaks is made again", func(t *testing.T) {
		g := NewWithT(t)
		conn, err := m.Dial(t.Context(), "tcp", "127.0.0.1:22")
		g.Expect(err).NotTo(HaveOccurred())
		greeting := make([]byte, 4)
		_, err = io.ReadFull(conn, greeting)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(greeting)).To(Equal("SSH-"))
		g.Expect(conn.Close()).To(Succeed())
		_, err = m.Dial(t.Context(), "tcp", "127.0.0.1:1")
		g.Expect(err).To(HaveOccurred(), "nothing listens there")
		_, err = m.Run(t.Context(), shell("kill $PPID"))
		g.Expect(err).To(HaveOccurred())
		out, err := m.Run(t.Context(), shell("echo again"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(out.Stdout).To(Equal("again\n"))
	})
	t.Run("a kernel without a root panics", func(t *testing.T) {
		g := NewWithT(t)
		rootless := disk
		rootless.Initrd = ""
		console := filepath.Join(t.TempDir(), "console")
		_, err := s.Boot(t.Context(), rootless, specs["v1"], qemu.BootOptions{Console: console, Patience: 10 * time.Minute})
		var failed *qemu.BootError
		g.Expect(errors.As(err, &failed)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring("Kernel panic - not syncing: VFS: Unable to mount root fs")))
		g.Expect(failed.Lines).To(HaveLen(15))
		kept, err := os.ReadFile(console)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(kept)).To(ContainSubstring("Linux version"))
	})
	t.Run("a boot has a deadline", func(t *testing.T) {
		g := NewWithT(t)
		_, err := s.Boot(t.Context(), disk, specs["v1"], qemu.BootOptions{Patience: time.Second})
		g.Expect(err).To(MatchError(ContainSubstring("within 1s")))
	})
	t.Run("QEMU that is killed is seen", func(t *testing.T) {
		g := NewWithT(t)
		v2 := machines["v2"]
		g.Expect(v2.Err()).NotTo(HaveOccurred())
		running := make(chan error, 1)
		go func() {
			_, err := v2.Run(context.WithoutCancel(t.Context()), shell("sleep 1000"))
			running <- err
		}()
		kill(t, v2)
		select {
		case <-v2.Done():
		case <-time.After(time.Minute):
			t.Fatal("Done is not closed a minute after QEMU was killed")
		}
		g.Expect(v2.Err()).To(MatchError(ContainSubstring("killed")))
		g.Expect(<-running).To(MatchError(ContainSubstring("QEMU ended")), "a command that runs ends with the machine")
		_, err := v2.Run(t.Context(), shell("true"))
		g.Expect(err).To(MatchError(ContainSubstring("QEMU ended")))
	})
}

func shell(script string) provisioner.Command {
	return provisioner.Command{Args: []string{"sh", "-c", script}}
}

func commands(t *testing.T, m *qemu.Machine) {
	g := NewWithT(t)
	const much = 3 << 20
	out, err := m.Run(t.Context(), provisioner.Command{Env: map[string]string{"SAID": "it's"}, Stdin: strings.NewReader(strings.Repeat("i", much)),
		Args: []string{"sh", "-c", `cat; printf %s "$SAID$1" >&2; exit 7`, "sh", " so"}})
	var failed *provisioner.HostCommandError
	g.Expect(errors.As(err, &failed)).To(BeTrue(), "%v", err)
	g.Expect(out.ExitCode).To(Equal(7))
	g.Expect(out.Stderr).To(Equal("it's so"))
	g.Expect(len(out.Stdout)).To(Equal(much)) //nolint:ginkgolinter // HaveLen would print all of it
	g.Expect(strings.Trim(out.Stdout, "i")).To(BeEmpty())

	// What nobody reads to its end does not keep a command.
	endless, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	out, err = m.Run(t.Context(), provisioner.Command{Args: []string{"echo", "done"}, Stdin: endless})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out.Stdout).To(Equal("done\n"))

	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	time.AfterFunc(500*time.Millisecond, func() { cancel(stopped) })
	_, err = m.Run(ctx, shell("sleep 4321; true"))
	g.Expect(err).To(MatchError(stopped))
	g.Eventually(func() error {
		_, err := m.Run(t.Context(), shell("! pgrep -f '[s]leep 4321'"))
		return err
	}).WithTimeout(time.Minute).Should(Succeed(), "a command ends with its context")

	var wait sync.WaitGroup
	for n := range 20 {
		wait.Go(func() {
			out, err := m.Run(t.Context(), provisioner.Command{Args: []string{"echo", fmt.Sprint(n)}})
			if err != nil || out.Stdout != fmt.Sprintln(n) {
				t.Errorf("one of 20 commands at once: %q, %v", out.Stdout, err)
			}
		})
	}
	wait.Wait()
}

// api asks Incus as its client, as the other machine's client, as nobody, and
// believing in the other machine's certificate.
func api(t *testing.T, own, other qemu.API) {
	g := NewWithT(t)
	ask := func(trust string, client *qemu.Certificate) (string, error) {
		roots := x509.NewCertPool()
		g.Expect(roots.AppendCertsFromPEM([]byte(trust))).To(BeTrue())
		config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
		if client != nil {
			pair, err := tls.X509KeyPair([]byte(client.Cert), []byte(client.Key))
			g.Expect(err).NotTo(HaveOccurred())
			config.Certificates = []tls.Certificate{pair}
		}
		transport := &http.Transport{TLSClientConfig: config}
		defer transport.CloseIdleConnections()
		answer, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Get("https://" + own.Address + "/1.0")
		if err != nil {
			return "", err
		}
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		return string(text), err
	}
	g.Expect(ask(own.ServerCert, &own.Client)).To(And(ContainSubstring(`"auth":"trusted"`), ContainSubstring(`"server_version":"6.`)))
	g.Expect(ask(own.ServerCert, nil)).To(ContainSubstring(`"auth":"untrusted"`))
	g.Expect(ask(own.ServerCert, &other.Client)).To(ContainSubstring(`"auth":"untrusted"`))
	_, err := ask(other.ServerCert, &own.Client)
	g.Expect(err).To(MatchError(ContainSubstring("x509")))
}

func attach(t *testing.T, m *qemu.Machine) {
	g := NewWithT(t)
	content := bytes.Repeat([]byte("what the host wrote "), 1<<16)
	content = content[:len(content)/512*512]
	path := filepath.Join(t.TempDir(), "disk, with a comma")
	g.Expect(os.WriteFile(path, content, 0o600)).To(Succeed())
	g.Expect(m.AttachDisk(t.Context(), path, "test-disk")).To(Succeed())
	out, err := m.Run(t.Context(), shell("cat /dev/disk/by-id/virtio-test-disk"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(sha256.Sum256([]byte(out.Stdout))).To(Equal(sha256.Sum256(content)), "%d bytes of %d", len(out.Stdout), len(content))
	_, err = m.Run(t.Context(), shell("echo changed > /dev/disk/by-id/virtio-test-disk"))
	g.Expect(err).To(HaveOccurred(), "it is read-only")
	g.Expect(m.AttachDisk(t.Context(), path, "test-disk")).NotTo(Succeed(), "a serial is there once")
	g.Expect(m.AttachDisk(t.Context(), path, "a serial, too odd")).NotTo(Succeed())
	g.Expect(m.AttachDisk(t.Context(), path+"-none", "none")).NotTo(Succeed())
	g.Expect(m.AttachDisk(t.Context(), path, "second")).To(Succeed(), "one file may be two disks")
}

// kill ends a machine's QEMU as anybody might.
func kill(t *testing.T, m *qemu.Machine) {
	t.Helper()
	p, err := pidfile.Read(filepath.Join(filepath.Dir(m.Console), "qemu.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// listening are the local addresses of TCP sockets that QEMUs listen on.
func listening(t *testing.T, machines string) (addresses []string) {
	t.Helper()
	sockets := map[string]bool{}
	records, err := filepath.Glob(filepath.Join(machines, "*", "qemu.pid"))
	if err != nil || len(records) == 0 {
		t.Fatalf("no machine is recorded: %v", err)
	}
	for _, r := range records {
		p, err := pidfile.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if target, err := os.Readlink(l); err == nil {
				sockets[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
			}
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			// State 0A is LISTEN; field 10 is the inode (proc_net(5)).
			if len(f) > 9 && f[3] == "0A" && sockets[f[9]] {
				address, port, _ := strings.Cut(f[1], ":")
				if address == "0100007F" {
					address = "127.0.0.1"
				}
				addresses = append(addresses, address+":"+port)
			}
		}
	}
	if len(addresses) < 2*len(records) {
		t.Fatalf("QEMUs listen on %v only", addresses)
	}
	return addresses
}

// crash boots a machine and dies, as soon as QEMU runs.
func crash(state string) {
	s, err := system(state)
	if err == nil {
		var sp qemu.Spec
		if sp, err = spec("v1"); err == nil {
			var disk qemu.Disk
			if disk, err = s.MakeDisk(context.Background(), sp); err == nil {
				go func() { _, _ = s.Boot(context.Background(), disk, sp, qemu.BootOptions{}) }()
				for {
					if found, _ := filepath.Glob(filepath.Join(state, "qemu", "*", "qemu.pid")); len(found) == 1 {
						fmt.Println(found[0])
						_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
					}
					time.Sleep(time.Millisecond)
				}
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestCrashedRun: QEMU ends with the process that booted it, however that
// ends; what is left is found and removed.
func TestCrashedRun(t *testing.T) {
	g := NewWithT(t)
	state := stateDir(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashVariable+"="+state)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	g.Expect(err).To(MatchError(ContainSubstring("killed")), said.String())
	p, err := pidfile.Read(strings.TrimSpace(string(out)))
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(p.Alive).WithTimeout(time.Minute).Should(BeFalse(), "QEMU outlives its run")
	left, err := qemu.Leftovers(state)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(Equal([]qemu.Leftover{{Dir: filepath.Dir(strings.TrimSpace(string(out))), Owner: cmd.ProcessState.Pid()}}))
	g.Expect(left[0].Remove(t.Context())).To(Succeed())
	g.Expect(qemu.Leftovers(state)).To(BeEmpty())
}
