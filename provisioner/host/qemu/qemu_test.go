package qemu

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
)

func TestNewSpec(t *testing.T) {
	for name, c := range map[string]struct {
		ref  matrix.HostRef
		want Spec
	}{
		"nothing said": {matrix.HostRef{},
			Spec{OS: "debian/13", Kernel: "debian/6.12", Cgroup: "v2", Incus: "trixie", CPUs: 2, MemoryBytes: 6 << 30, DiskBytes: 24 << 30, Accel: "auto"}},
		"v1": {matrix.HostRef{Cgroup: "v1"},
			Spec{OS: "debian/12", Kernel: "debian/6.1", Cgroup: "v1", Incus: "bookworm-backports", CPUs: 2, MemoryBytes: 6 << 30, DiskBytes: 24 << 30, Accel: "auto"}},
		"all said": {matrix.HostRef{Cgroup: "v1", QEMU: matrix.QEMURef{OS: "debian/13", Kernel: "linux-image-6.12.9-cloud-amd64", Incus: "trixie-backports", CPUs: 3, MemoryBytes: 2 << 30, DiskBytes: 4 << 30, Accel: "tcg"}},
			Spec{OS: "debian/13", Kernel: "linux-image-6.12.9-cloud-amd64", Cgroup: "v1", Incus: "trixie-backports", CPUs: 3, MemoryBytes: 2 << 30, DiskBytes: 4 << 30, Accel: "tcg"}},
		"a kernel of one's own": {matrix.HostRef{QEMU: matrix.QEMURef{Kernel: "/boot/k", Initrd: "/boot/i", Modules: "/srv/m", CPUs: 1}},
			Spec{OS: "debian/13", Kernel: "/boot/k", Initrd: "/boot/i", Modules: "/srv/m", Cgroup: "v2", Incus: "trixie", CPUs: 1, MemoryBytes: 6 << 30, DiskBytes: 24 << 30, Accel: "auto"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := NewSpec(c.ref)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(c.want))
		})
	}
}

func TestSpecsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		ref  matrix.HostRef
		want []string
	}{
		"everything": {matrix.HostRef{Name: "h", Cgroup: "v3", QEMU: matrix.QEMURef{OS: "debian/11", Kernel: "Linux!", CPUs: -1, MemoryBytes: 1, DiskBytes: 1, Accel: "hvf"}},
			[]string{"host h", `"v3"`, "debian/12, debian/13", `"Linux!"`, "cpus is -1", "1024 MiB", "2048 MiB", `"hvf"`}},
		"another release's Incus": {matrix.HostRef{QEMU: matrix.QEMURef{OS: "debian/12", Incus: "trixie"}}, []string{"bookworm-backports"}},
		"no version":              {matrix.HostRef{QEMU: matrix.QEMURef{Kernel: "debian/new"}}, []string{"debian/VERSION"}},
		"an option for a name":    {matrix.HostRef{QEMU: matrix.QEMURef{Kernel: "-oDir::Etc=x"}}, []string{"package's name"}},
		"a list for a name":       {matrix.HostRef{QEMU: matrix.QEMURef{Kernel: "linux-image,sl"}}, []string{"package's name"}},
		"an initrd too many":      {matrix.HostRef{QEMU: matrix.QEMURef{Initrd: "/boot/i"}}, []string{"has its own"}},
		"a path from nowhere":     {matrix.HostRef{QEMU: matrix.QEMURef{Kernel: "/boot/k", Modules: "m"}}, []string{"absolute"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := NewSpec(c.ref)
			var wrong *SpecError
			g.Expect(errors.As(err, &wrong)).To(BeTrue(), "%v", err)
			for _, w := range c.want {
				g.Expect(err).To(MatchError(ContainSubstring(w)))
			}
		})
	}
}

// packages are indexes as archives have them, in the order of no version.
var packages = map[string]string{
	"bookworm": `Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.27-1

Package: linux-image-6.1.0-50-cloud-amd64
Source: linux-signed-amd64
Version: 6.1.176-1
Description: a kernel
 Package: linux-image-6.1.0-99-cloud-amd64

Package: linux-image-6.1.0-47-cloud-amd64
Version: 6.1.170-3

Package: linux-image-cloud-amd64
Version: 6.1.176-1

Package: linux-image-6.1.0-60-amd64
Version: 6.1.190-1
`,
	"bookworm-backports": `Package: linux-image-6.12.9+deb12-cloud-amd64
Version: 6.12.9-1~bpo12+1

Package: linux-image-6.12.12+deb12-cloud-amd64
Version: 6.12.12-1~bpo12+1
`,
	"trixie": `Package: linux-image-6.12.107+deb13-cloud-amd64
Version: 6.12.107-1
`,
	"trixie-backports": `Package: linux-image-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1~bpo13+1

Package: linux-image-7.10.1+deb13-cloud-amd64
Version: 7.10.1-1~bpo13+1

Package: linux-image-6.16+deb13-cloud-amd64
Version: 6.16-1~bpo13+1
`,
	"bullseye": `Package: linux-image-5.10.0-32-cloud-amd64
Version: 5.10.223-1
`,
}

func TestResolveKernel(t *testing.T) {
	index := map[string][]debian.Package{}
	for suite, text := range packages {
		all, err := debian.ParseIndex(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		index[suite] = all
	}
	for _, c := range []struct{ own, want, name, suite string }{
		{"bookworm", "debian/6.1", "linux-image-6.1.0-50-cloud-amd64", "bookworm"},
		{"bookworm", "debian/5.10", "linux-image-5.10.0-32-cloud-amd64", "bullseye"},
		{"bookworm", "debian/6.12", "linux-image-6.12.12+deb12-cloud-amd64", "bookworm-backports"},
		{"trixie", "debian/6.12", "linux-image-6.12.107+deb13-cloud-amd64", "trixie"},
		{"trixie", "debian/6.12.9", "linux-image-6.12.9+deb12-cloud-amd64", "bookworm-backports"},
		{"trixie", "debian/7", "linux-image-7.10.1+deb13-cloud-amd64", "trixie-backports"},
		{"trixie", "debian/7.2", "linux-image-7.2.12+deb13-cloud-amd64", "trixie-backports"},
		{"trixie", "debian/6.16", "linux-image-6.16+deb13-cloud-amd64", "trixie-backports"},
		{"trixie", "linux-image-6.1.0-60-amd64", "linux-image-6.1.0-60-amd64", "bookworm"},
	} {
		got, err := resolveKernel(c.want, kernelSuites(c.own), index)
		if err != nil || got.Name != c.name || got.Suite != c.suite || got.Version == "" {
			t.Errorf("%s on %s: got %+v, %v", c.want, c.own, got, err)
		}
	}
	for want, says := range map[string]string{
		"debian/6.2":             "they have 5.10, 6.1, 6.12, 6.16+deb13, 7.2, 7.10",
		"debian/6.1.8":           "none of the suites",
		"linux-image-none-amd64": "bullseye",
	} {
		_, err := resolveKernel(want, kernelSuites("bookworm"), index)
		var unavailable *provisioner.UnavailableError
		if !errors.As(err, &unavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q in it", want, err, says)
		}
	}
}

func TestArguments(t *testing.T) {
	spec := func(cgroup, os string) Spec {
		s, err := NewSpec(matrix.HostRef{Cgroup: cgroup, QEMU: matrix.QEMURef{OS: os, CPUs: 2}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, l := range map[string]launch{
		"v1-tcg":    {spec: spec("v1", ""), accel: AccelTCG, tscKHz: 2596097, kernel: "/c/vmlinuz", initrd: "/c/initrd.img"},
		"v2-kvm":    {spec: spec("v2", ""), accel: AccelKVM, tscKHz: 2596097, kernel: "/c/vmlinuz"},
		"v1-forced": {spec: spec("v1", "debian/13"), accel: AccelTCG, kernel: "/c/vmlinuz", initrd: "/c/initrd.img"},
	} {
		t.Run(name, func(t *testing.T) {
			l.dir, l.console, l.machineID, l.root = "/run/a,b", "/logs/a,b", "0123456789abcdef", "format=qcow2,file="+escape("/run/a,b/root.qcow2")
			golden.Assert(t, strings.Join(l.arguments(), "\n")+"\n", name+".golden")
		})
	}
}

// TestMeasureTSC: two measurements agree, better than the kernel asks for when
// it refines one.
func TestMeasureTSC(t *testing.T) {
	g := NewWithT(t)
	one, err := measureTSC(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	if one == 0 {
		t.Log("this machine's kernel does not trust the counter")
		return
	}
	two, err := measureTSC(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(two).To(BeNumerically("~", one, one/2000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = measureTSC(ctx)
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestConsole(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "console")
	add := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		g.Expect(err).NotTo(HaveOccurred())
		_, err = io.WriteString(f, text)
		g.Expect(errors.Join(err, f.Close())).To(Succeed())
	}
	c := console{path: path}
	_, err := c.lines()
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	add("one\r\n\x1b[0;1;31mtwo\x1b[0m\r\n\r\nlxcmatrix: the ma")
	lines, err := c.lines()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lines).To(Equal([]string{"one", "two"}))
	add("chine is ready\nlast")
	lines, err = c.lines()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lines).To(Equal([]string{readyLine}))
	g.Expect(string(c.rest)).To(Equal("last"))
	g.Expect(tail(path, 2)).To(Equal([]string{readyLine, "last"}))
	g.Expect(tail(path, 9)).To(HaveLen(4))
	add(strings.Repeat("much\n", 100_000))
	g.Expect(tail(path, 3)).To(Equal([]string{"much", "much", "much"}))
}

// TestReadyLineIsTheGuests: what is waited for is what the machine prints.
func TestReadyLineIsTheGuests(t *testing.T) {
	unit, err := guest.ReadFile("guest/etc/systemd/system/lxcmatrix-ready.service")
	if err != nil || !strings.Contains(string(unit), `"`+readyLine+`"`) {
		t.Errorf("lxcmatrix-ready.service does not print %q: %v\n%s", readyLine, err, unit)
	}
}

func TestFatalLines(t *testing.T) {
	for line, want := range map[string]bool{
		"[    3.4] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)": true,
		"[   12.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100":        true,
		"You are in emergency mode. After logging in, type \"journalctl -xb\"":                     true,
		"ALERT!  /dev/vda does not exist.  Dropping to a shell!":                                   true,
		"(initramfs) ": true,
		"[    0.1] Command line: console=ttyS0 panic=-1":        false,
		"[FAILED] Failed to start incus.service - Main daemon.": false,
	} {
		if got := fatal.MatchString(line); got != want {
			t.Errorf("%q: fatal is %t", line, got)
		}
	}
}

func TestForwards(t *testing.T) {
	const usernet = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[ESTABLISHED]   21       127.0.0.1 35771       10.0.2.15    22     0     0\r\n" +
		"  TCP[HOST_FORWARD]  14       127.0.0.1 41445       10.0.2.15  8443     0     0\r\n" +
		"  TCP[HOST_FORWARD]  13       127.0.0.1 35771       10.0.2.15    22     0     0\r\n"
	g := NewWithT(t)
	ports, err := parseForwards(usernet)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(ports).To(Equal(map[int]int{22: 35771, 8443: 41445}))
	for _, broken := range []string{"", "unknown command: 'info usernet'", strings.Replace(usernet, "8443", "9443", 1), strings.ReplaceAll(usernet, "127.0.0.1", "0.0.0.0")} {
		_, err := parseForwards(broken)
		g.Expect(err).To(HaveOccurred(), broken)
	}
}

func TestCommandLine(t *testing.T) {
	g := NewWithT(t)
	line := commandLine(provisioner.Command{Args: []string{"printf", "%s|%s|%s|%s", "it's", "$HOME `x` \\", "", "a\nb"}, Env: map[string]string{"B": "2", "A": "it's 1"}})
	g.Expect(line).To(HavePrefix(`echo $$ >&2; exec env 'A=it'\''s 1' 'B=2' 'printf'`))
	var stdout bytes.Buffer
	var stderr leaderFirst
	cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	g.Expect(stderr.pid()).To(BeEmpty())
	g.Expect(cmd.Run()).To(Succeed())
	g.Expect(stdout.String()).To(Equal("it's|$HOME `x` \\||a\nb"))
	g.Expect(stderr.pid()).To(Equal(fmt.Sprint(cmd.Process.Pid)))
	g.Expect(stderr.text()).To(BeEmpty())
}

func TestSeed(t *testing.T) {
	g := NewWithT(t)
	keys, err := newSecrets()
	g.Expect(err).NotTo(HaveOccurred())
	path := filepath.Join(t.TempDir(), "seed")
	g.Expect(keys.writeSeed(path)).To(Succeed())
	info, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(Equal(fs.FileMode(0o600)))
	g.Expect(info.Size()%512).To(BeZero(), "a disk has whole sectors")
	files := func(path string) map[string]string {
		text, err := os.ReadFile(path)
		g.Expect(err).NotTo(HaveOccurred())
		all := map[string]string{}
		r := tar.NewReader(bytes.NewReader(text))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return all
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(h.Mode).To(Equal(int64(0o600)))
			content, err := io.ReadAll(r)
			g.Expect(err).NotTo(HaveOccurred())
			all[h.Name] = string(content)
		}
	}
	first := files(path)
	g.Expect(first).To(HaveKeyWithValue("incus/server.crt", keys.server.Cert))
	g.Expect(first).To(HaveKeyWithValue("client.crt", keys.client.Cert))
	for _, content := range first {
		g.Expect(content).NotTo(ContainSubstring(keys.client.Key), "the client's key stays here")
	}
	keys.client = Certificate{}
	other := filepath.Join(t.TempDir(), "seed")
	g.Expect(keys.writeSeed(other)).To(Succeed())
	g.Expect(files(other)).NotTo(HaveKey("client.crt"))
	g.Expect(keys.writeSeed(other)).NotTo(Succeed(), "a seed is never written over another")
}

func TestRecipeKey(t *testing.T) {
	g := NewWithT(t)
	key := func(ref matrix.HostRef) string {
		s, err := NewSpec(ref)
		g.Expect(err).NotTo(HaveOccurred())
		r, err := newRecipe(s)
		g.Expect(err).NotTo(HaveOccurred())
		k, err := r.key()
		g.Expect(err).NotTo(HaveOccurred())
		return k
	}
	own := t.TempDir()
	kernel := filepath.Join(own, "kernel")
	g.Expect(os.WriteFile(kernel, []byte("one"), 0o600)).To(Succeed())
	base := matrix.HostRef{QEMU: matrix.QEMURef{OS: "debian/12"}}
	v1 := base
	v1.Cgroup, v1.QEMU.CPUs, v1.QEMU.MemoryBytes, v1.QEMU.Accel = "v1", 1, 2<<30, "tcg"
	g.Expect(key(v1)).To(Equal(key(base)), "one disk for both cgroup modes")
	other := base
	other.QEMU.Kernel = "debian/5.10"
	mine := base
	mine.QEMU.Kernel, mine.QEMU.Modules = kernel, own
	seen := map[string]string{}
	for name, k := range map[string]string{"base": key(base), "other": key(other), "thirteen": key(matrix.HostRef{}), "mine": key(mine)} {
		g.Expect(seen).NotTo(HaveKey(k), name)
		seen[k] = name
	}
	before := key(mine)
	g.Expect(os.WriteFile(kernel, []byte("another"), 0o600)).To(Succeed())
	g.Expect(key(mine)).NotTo(Equal(before), "a kernel that was replaced is another one")
	g.Expect(os.Remove(kernel)).To(Succeed())
	s, err := NewSpec(mine)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = newRecipe(s)
	g.Expect(err).To(MatchError(fs.ErrNotExist))
}

func TestJudgeProbe(t *testing.T) {
	linux := []string{"[    0.0] Linux version 6.1.0", "[    1.0] Kernel panic - not syncing: VFS"}
	for name, c := range map[string]struct {
		ended         bool
		console, said []string
		works         bool
		reason        string
	}{
		"booted":           {true, linux, nil, true, "boots this kernel"},
		"QEMU gave up":     {true, nil, []string{"a", "failed to set MSR"}, false, "failed to set MSR"},
		"QEMU just ended":  {true, nil, nil, false, "printed nothing"},
		"silence":          {false, nil, nil, false, "nothing within 15s"},
		"hung while awake": {false, linux[:1], nil, false, "Linux version 6.1.0"},
		"only firmware":    {false, []string{"Probing EDD"}, nil, false, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(c.ended, probePatience, c.console, c.said)
			if got.Works != c.works || !strings.Contains(got.Reason, c.reason) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// fakeQEMU puts a script before QEMU.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestProbeEndsAHangingKVM: what hangs is killed, said, and leaves nothing.
func TestProbeEndsAHangingKVM(t *testing.T) {
	for name, c := range map[string]struct {
		script   string
		patience time.Duration
		reason   string
	}{
		"hangs":   {"exec sleep 1000", 300 * time.Millisecond, "nothing within"},
		"refuses": {"echo 'failed to initialize kvm' >&2; exit 1", time.Hour, "failed to initialize kvm"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			fakeQEMU(t, c.script)
			s := System{StateDir: t.TempDir(), CacheDir: t.TempDir()}
			f, err := s.probe(t.Context(), Spec{CPUs: 1}, "/none", c.patience)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(f.Works).To(BeFalse())
			g.Expect(f.Reason).To(ContainSubstring(c.reason))
			left, err := os.ReadDir(machines(s.StateDir))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(left).To(BeEmpty())
		})
	}
	t.Run("given up", func(t *testing.T) {
		g := NewWithT(t)
		fakeQEMU(t, "exec sleep 1000")
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("stopped")
		cancel(stopped)
		_, err := System{StateDir: t.TempDir()}.probe(ctx, Spec{CPUs: 1}, "/none", time.Hour)
		g.Expect(err).To(MatchError(stopped))
	})
}

func TestRecall(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join(t.TempDir(), "accel", "key.json")
	var probes atomic.Int32
	ask := func(again bool, answer finding, fail error) (finding, error) {
		return recall(t.Context(), path, again, func() (finding, error) {
			probes.Add(1)
			return answer, fail
		})
	}
	broken := errors.New("broken")
	_, err := ask(false, finding{}, broken)
	g.Expect(err).To(MatchError(broken))
	// Many at once are one probe.
	var wait sync.WaitGroup
	probes.Store(0)
	for range 4 {
		wait.Go(func() {
			f, err := ask(false, finding{Reason: "it hung"}, nil)
			if err != nil || f.Works || !strings.HasPrefix(f.Reason, "it hung") {
				t.Errorf("got %+v, %v", f, err)
			}
		})
	}
	wait.Wait()
	g.Expect(probes.Load()).To(Equal(int32(1)))
	f, err := ask(false, finding{Works: true}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Works).To(BeFalse(), "what was seen is remembered")
	g.Expect(f.Reason).To(MatchRegexp(`^it hung, as seen on \d{4}-\d\d-\d\d$`))
	f, err = ask(true, finding{Works: true, Reason: "it boots"}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Works).To(BeTrue(), "who asks for KVM has it tried again")
	probes.Store(0)
	f, err = ask(true, finding{}, broken)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Works).To(BeTrue())
	g.Expect(probes.Load()).To(BeZero(), "what works is not tried again")
	g.Expect(os.WriteFile(path, []byte("{"), 0o600)).To(Succeed())
	f, err = ask(false, finding{Reason: "anew"}, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Reason).To(Equal("anew"), "what cannot be read is not believed")
}

func TestAccelerator(t *testing.T) {
	g := NewWithT(t)
	accel, reason, err := System{}.accelerator(t.Context(), Spec{Accel: AccelTCG}, "/none")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(accel).To(Equal(AccelTCG))
	g.Expect(reason).NotTo(BeEmpty())
	g.Expect((&AccelError{Accel: AccelKVM, Reason: "it hung"}).Error()).To(And(ContainSubstring("it hung"), ContainSubstring("accel: auto")))
}

// TestLeftovers: what a live process owns is nobody's to take; of the rest,
// what still runs is ended, and never another process.
func TestLeftovers(t *testing.T) {
	g := NewWithT(t)
	state := t.TempDir()
	none, err := Leftovers(state)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(none).To(BeEmpty())

	sleeper := func() (*exec.Cmd, pidfile.Process) {
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		g.Expect(cmd.Start()).To(Succeed())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		p, err := pidfile.Of(cmd.Process.Pid)
		g.Expect(err).NotTo(HaveOccurred())
		return cmd, p
	}
	qemu, _ := sleeper()
	other, stranger := sleeper()
	owner, _ := sleeper()
	folder := func(name string, records map[string]int) string {
		dir := filepath.Join(machines(state), name)
		g.Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
		for file, pid := range records {
			g.Expect(pidfile.Write(filepath.Join(dir, file), pid)).To(Succeed())
		}
		return dir
	}
	folder("mine", map[string]int{ownerFile: os.Getpid(), pidFile: other.Process.Pid})
	folder(unfinished+"beginning", nil)
	running := folder("running", map[string]int{ownerFile: owner.Process.Pid, pidFile: qemu.Process.Pid})
	recycled := folder("recycled", map[string]int{ownerFile: owner.Process.Pid})
	g.Expect(os.WriteFile(filepath.Join(recycled, pidFile), fmt.Appendf(nil, "%d 1%s\n", stranger.PID, stranger.Started), 0o600)).To(Succeed())
	old := folder(unfinished+"old", nil)
	g.Expect(os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour))).To(Succeed())

	left := func() map[string]int {
		all, err := Leftovers(state)
		g.Expect(err).NotTo(HaveOccurred())
		pids := map[string]int{}
		for _, l := range all {
			pids[l.Dir] = l.PID
		}
		return pids
	}
	g.Expect(left()).To(Equal(map[string]int{old: 0}), "the owner lives")
	g.Expect(owner.Process.Kill()).To(Succeed())
	_ = owner.Wait()
	g.Expect(left()).To(Equal(map[string]int{running: qemu.Process.Pid, recycled: 0, old: 0}))

	reaped := make(chan error, 1)
	go func() { reaped <- qemu.Wait() }()
	all, err := Leftovers(state)
	g.Expect(err).NotTo(HaveOccurred())
	for _, l := range all {
		g.Expect(l.Remove(t.Context())).To(Succeed())
		g.Expect(l.Remove(t.Context())).To(Succeed(), "removing twice is no error")
	}
	g.Expect(<-reaped).To(MatchError(ContainSubstring("killed")))
	g.Expect(stranger.Alive()).To(BeTrue(), "the ID was another's by then")
	g.Expect(left()).To(BeEmpty())
	g.Expect(filepath.Join(machines(state), "mine")).To(BeADirectory())
}

func TestBootError(t *testing.T) {
	g := NewWithT(t)
	cause := errors.New("Kernel panic - not syncing: VFS")
	err := error(&BootError{Reason: "it did not become ready", Err: cause, Lines: []string{"one", "two"}, Console: "/logs/console"})
	g.Expect(err).To(MatchError(cause))
	golden.Assert(t, err.Error()+"\n", "boot-error.golden")
}
