package host

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/pidfile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
)

// shown is what a Debian 12 host with joint cgroup v1 controllers prints.
const shown = `kernel=6.1.0-40-cloud-amd64
machine=x86_64
cgroup=1021994
v1=#subsys_name	hierarchy	num_cgroups	enabled
v1=cpu	3	40	1
v1=cpuacct	3	40	1
v1=memory	9	60	1
v2=
bounding=000001fffeffffff
apparmor=Y
selinux=N
cpus=2
flags=fpu cx8 cmov mmx fxsr sse sse2 syscall lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm
MemTotal=4096
MemAvailable=1024
sysctl=kernel.panic 0
sysctl=kernel.printk 4	4	1	7
`

func TestParseObservation(t *testing.T) {
	g := NewWithT(t)
	f, err := parseObservation(shown)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Capabilities).To(And(HaveLen(40), Not(ContainElement("CAP_SYS_RESOURCE"))))
	f.Capabilities = nil
	g.Expect(f).To(Equal(matrix.HostFacts{Kernel: "6.1.0-40-cloud-amd64", Cgroup: "v1", Controllers: []string{"cpu", "cpuacct", "memory"},
		AppArmor: new(true), SELinux: new(false), CPUs: 2, CPULevel: "x86-64-v2", MemoryBytes: 4 << 20, MemoryFreeBytes: new(int64(1 << 20)),
		Sysctls: map[string]string{"kernel.panic": "0", "kernel.printk": "4 4 1 7"}}))

	f, err = parseObservation(strings.NewReplacer("cgroup=1021994", "cgroup=63677270", "v2=", "v2=cpuset cpu io memory hugetlb pids",
		"apparmor=Y", "apparmor=", "MemAvailable=1024", "").Replace(shown))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f).To(And(HaveField("Cgroup", "v2"), HaveField("Controllers", Equal([]string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"})),
		HaveField("AppArmor", BeNil()), HaveField("MemoryFreeBytes", BeNil())), "what does not show is not observed")

	f, err = parseObservation(strings.Replace(shown, "cgroup=1021994", "cgroup=", 1))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f).To(And(HaveField("Cgroup", ""), HaveField("Controllers", BeNil())), "v1 is not what is left where nothing shows")
	for _, broken := range []string{"", "bounding=", "cpus=", "MemTotal="} {
		line := regexp.MustCompile("(?m)^" + broken + ".*$")
		if _, err := parseObservation(line.ReplaceAllString(shown, "")); err == nil {
			t.Errorf("without %q nothing is missing", broken)
		}
	}
}

// TestObserveThisMachine: the script runs, and shows what Go sees.
func TestObserveThisMachine(t *testing.T) {
	g := NewWithT(t)
	f, err := observe(t.Context(), thisMachine{}.Run)
	g.Expect(err).NotTo(HaveOccurred())
	var u unix.Utsname
	g.Expect(unix.Uname(&u)).To(Succeed())
	g.Expect(f.Kernel).To(Equal(unix.ByteSliceToString(u.Release[:])))
	g.Expect(f.CPUs).To(Equal(runtime.NumCPU()))
	g.Expect(f.Cgroup).To(BeElementOf("v1", "v2"))
	g.Expect(f.Controllers).NotTo(BeEmpty())
	g.Expect(f.CPULevel).NotTo(BeEmpty())
	g.Expect(f.MemoryBytes).To(BeNumerically(">", *f.MemoryFreeBytes))
	panics, err := system{machine: thisMachine{}}.Sysctl(t.Context(), "kernel.panic")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.Sysctls).To(HaveKeyWithValue("kernel.panic", panics))

	_, err = observe(t.Context(), func(context.Context, provisioner.Command) (provisioner.Output, error) {
		return provisioner.Output{}, errors.New("no way")
	})
	g.Expect(err).To(MatchError(ContainSubstring("no way")))
}

func TestCPULevel(t *testing.T) {
	const v2 = "fpu cx8 cmov mmx fxsr sse sse2 syscall lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm "
	const v3 = v2 + "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave "
	for name, c := range map[string]struct{ machine, flags, want string }{
		"nothing shows":         {"x86_64", "", ""},
		"first":                 {"x86_64", "fpu cx8 cmov mmx fxsr sse sse2 syscall lm", "x86-64-v1"},
		"second":                {"x86_64", v2, "x86-64-v2"},
		"third":                 {"x86_64", v3, "x86-64-v3"},
		"third but for one":     {"x86_64", strings.Replace(v3, "movbe ", "", 1), "x86-64-v2"},
		"fourth":                {"x86_64", v3 + "avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v4"},
		"fourth without second": {"x86_64", strings.Replace(v3, "cx16 ", "", 1) + "avx512f avx512bw avx512cd avx512dq avx512vl", "x86-64-v1"},
		"another machine":       {"aarch64", "fp asimd", "aarch64"},
	} {
		t.Run(name, func(t *testing.T) {
			NewWithT(t).Expect(cpuLevel(c.machine, strings.Fields(c.flags))).To(Equal(c.want))
		})
	}
}

func TestBoundingSet(t *testing.T) {
	for name, c := range map[string]struct {
		hex  string
		want []string
	}{
		"none":                {"0000000000000000", []string{}},
		"first and last":      {"0000010000000001", []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}},
		"one of a new kernel": {"0000020000000000", []string{"CAP_41"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := boundingSet(c.hex)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(c.want))
		})
	}
	_, err := boundingSet("all")
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("invalid syntax")))
}

func TestV1Controllers(t *testing.T) {
	for name, c := range map[string]struct {
		list  []string
		names []string
		split bool
	}{
		"split":         {[]string{"#subsys_name\thierarchy\tnum_cgroups\tenabled", "cpu\t3\t40\t1", "cpuacct\t2\t40\t1", "memory\t9\t60\t1"}, []string{"cpu", "cpuacct", "memory"}, true},
		"joined":        {[]string{"memory\t9\t60\t1", "cpu\t2\t40\t1", "cpuacct\t2\t40\t1"}, []string{"cpu", "cpuacct", "memory"}, false},
		"not enabled":   {[]string{"cpu\t3\t40\t1", "cpuacct\t2\t40\t0"}, []string{"cpu"}, false},
		"not mounted":   {[]string{"cpu\t3\t40\t1", "cpuacct\t0\t40\t1"}, []string{"cpu"}, false},
		"none":          {nil, nil, false},
		"a broken line": {[]string{"cpu 3", "pids\t4\t1\t1"}, []string{"pids"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			names, split := v1Controllers(c.list)
			g.Expect(names).To(Equal(c.names))
			g.Expect(split).To(Equal(c.split))
		})
	}
}

// TestSystem reads and writes the sysctls of a machine whose files are a
// test's own.
func TestSystem(t *testing.T) {
	g := NewWithT(t)
	files := map[string]string{"/proc/sys/kernel/panic": "0\n", "/proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n"}
	m := fakeMachine(func(cmd provisioner.Command) (provisioner.Output, error) {
		// What the scripts name is found in the test's folder.
		dir := t.TempDir()
		for i, arg := range cmd.Args {
			if text, ok := files[arg]; ok {
				cmd.Args[i] = filepath.Join(dir, "file")
				g.Expect(os.WriteFile(cmd.Args[i], []byte(text), 0o600)).To(Succeed())
				defer func() {
					text, err := os.ReadFile(cmd.Args[i])
					g.Expect(err).NotTo(HaveOccurred())
					files[arg] = string(text)
				}()
			}
		}
		return thisMachine{}.Run(t.Context(), cmd)
	})
	allowed, denied := system{machine: m, writes: true}, system{machine: m}
	value, err := denied.Sysctl(t.Context(), "net.ipv4.tcp_rmem")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(value).To(Equal("4096 131072 6291456"))
	_, err = denied.Sysctl(t.Context(), "no.such.key")
	g.Expect(err).To(MatchError(ContainSubstring("read host sysctl no.such.key")))

	before, err := denied.SetSysctl(t.Context(), "kernel.panic", "0")
	g.Expect(err).NotTo(HaveOccurred(), "it has that value")
	g.Expect(before).To(Equal("0"))
	_, err = denied.SetSysctl(t.Context(), "kernel.panic", "10")
	var notAllowed *provisioner.HostWriteError
	g.Expect(errors.As(err, &notAllowed)).To(BeTrue(), "%v", err)
	g.Expect(files).To(HaveKeyWithValue("/proc/sys/kernel/panic", "0\n"))

	before, err = allowed.SetSysctl(t.Context(), "kernel.panic", "10")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(before).To(Equal("0"))
	g.Expect(files).To(HaveKeyWithValue("/proc/sys/kernel/panic", "10\n"))
	_, err = allowed.SetSysctl(t.Context(), "no.such.key", "1")
	g.Expect(err).To(MatchError(ContainSubstring("write host sysctl no.such.key=1")))
}

// TestDialHasDeadlines: what a machine is reached through may have none.
func TestDialHasDeadlines(t *testing.T) {
	g := NewWithT(t)
	theirs := make(chan net.Conn, 1)
	h := &Host{taken: map[string]netip.Addr{"n": netip.MustParseAddr("10.0.0.2")}, machine: reached(func(address string) net.Conn {
		if address != "10.0.0.2:6443" {
			t.Errorf("dials %s", address)
		}
		near, far := net.Pipe()
		theirs <- far
		return timeless{near}
	})}
	conn, err := h.Dial(t.Context(), "n", 6443)
	g.Expect(err).NotTo(HaveOccurred())
	far := <-theirs
	g.Expect(conn.SetReadDeadline(time.Now().Add(time.Millisecond))).To(Succeed())
	_, err = conn.Read(make([]byte, 1))
	g.Expect(err).To(MatchError(os.ErrDeadlineExceeded))
	g.Expect(conn.SetReadDeadline(time.Time{})).To(Succeed())

	// It carries both ways, and ends with either side.
	go func() { _, _ = io.Copy(far, far) }()
	_, err = io.WriteString(conn, "hello")
	g.Expect(err).NotTo(HaveOccurred())
	answer := make([]byte, 5)
	_, err = io.ReadFull(conn, answer)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(answer)).To(Equal("hello"))
	g.Expect(far.Close()).To(Succeed())
	_, err = conn.Read(answer)
	g.Expect(err).To(MatchError(io.EOF))

	conn, err = h.Dial(t.Context(), "n", 6443)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(conn.Close()).To(Succeed())
	_, err = (<-theirs).Read(answer)
	g.Expect(err).To(MatchError(io.EOF))
}

// reached is a machine that connections can be made from.
type reached func(address string) net.Conn

func (reached) Run(context.Context, provisioner.Command) (provisioner.Output, error) {
	return provisioner.Output{}, errors.New("nothing runs here")
}

func (r reached) Dial(_ context.Context, _, address string) (net.Conn, error) { return r(address), nil }

// timeless is a connection without deadlines, as SSH's.
type timeless struct{ net.Conn }

func (timeless) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (timeless) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (timeless) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// fakeMachine answers the commands of a host.
type fakeMachine func(provisioner.Command) (provisioner.Output, error)

func (m fakeMachine) Run(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	return m(cmd)
}

func (m fakeMachine) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nothing listens here")
}

// TestRunning: the daemon is what is recorded, for as long as that lives.
func TestRunning(t *testing.T) {
	g := NewWithT(t)
	d := daemon{PIDFile: filepath.Join(t.TempDir(), "pid")}
	pid, alive := d.running()
	g.Expect(pid).To(BeZero())
	g.Expect(alive).To(BeFalse())
	g.Expect(pidfile.Write(d.PIDFile, os.Getpid())).To(Succeed())
	pid, alive = d.running()
	g.Expect(pid).To(Equal(os.Getpid()))
	g.Expect(alive).To(BeTrue())
	g.Expect(d.forget()).To(Succeed())
	g.Expect(d.stop(t.Context())).To(Succeed(), "there is none")
}

func TestBridgeName(t *testing.T) {
	g := NewWithT(t)
	seen := map[string]bool{}
	for _, dir := range []string{"/", "/var/lib/lxcmatrix", "/var/lib/lxcmatrix2", strings.Repeat("/long", 100)} {
		name := BridgeName(dir)
		g.Expect(len(name)).To(BeNumerically("<=", 15))
		g.Expect(seen).NotTo(HaveKey(name))
		seen[name] = true
	}
	g.Expect(BridgeName("/var/lib/lxcmatrix/")).To(Equal(BridgeName("/var/lib/lxcmatrix")))
}

func TestChooseSubnet(t *testing.T) {
	g := NewWithT(t)
	alone, err := chooseSubnet("lxcm1", nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(alone).To(MatchRegexp(`^10\.187\.\d+\.1/24$`))
	again, err := chooseSubnet("lxcm1", []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fe80::/64")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again).To(Equal(alone))

	// Every one is found before none is left.
	var used []netip.Prefix
	for {
		next, err := chooseSubnet("lxcm1", used)
		if err != nil {
			break
		}
		p := netip.MustParsePrefix(next)
		for _, u := range used {
			g.Expect(u.Overlaps(p)).To(BeFalse())
		}
		used = append(used, p.Masked())
	}
	g.Expect(used).To(HaveLen(190))
	_, err = chooseSubnet("lxcm1", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	g.Expect(err).To(MatchError(ContainSubstring("10.187.60.0/24")))
	// One address in it is enough to leave it.
	first := netip.MustParsePrefix(alone)
	other, err := chooseSubnet("lxcm1", []netip.Prefix{netip.PrefixFrom(first.Addr().Next(), 32)})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(other).NotTo(Equal(alone))

	free, err := freeSubnet("lxcm1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(netip.ParsePrefix(free)).To(HaveField("Bits()", 24))
}

// tools puts commands of the test's own before those of the machine; each
// notes how it was called.
func tools(t *testing.T, scripts map[string]string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for name, script := range scripts {
		text := "#!/bin/sh\necho \"$(basename \"$0\") $*\" >> " + log + "\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

// TestHalfMadePool: a file that was never formatted to its end is not mounted,
// neither now nor the next time.
func TestHalfMadePool(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	p := loopPool{File: filepath.Join(dir, "pool.img"), Mount: filepath.Join(dir, "pool"), Bytes: 1 << 20}
	for range 2 {
		calls := tools(t, map[string]string{"mkfs.ext4": "echo no space left; exit 1", "mount": "exit 0"})
		g.Expect(p.mount(t.Context())).To(MatchError(ContainSubstring("no space left")))
		g.Expect(calls()).To(HaveEach(HavePrefix("mkfs.ext4")))
		g.Expect(p.File).NotTo(BeAnExistingFile())
	}
	calls := tools(t, map[string]string{"mkfs.ext4": "", "mount": ""})
	g.Expect(p.mount(t.Context())).To(Succeed())
	g.Expect(calls()).To(HaveExactElements(HaveSuffix("pool.img.part"), HaveSuffix(p.File+" "+p.Mount)))
	info, err := os.Stat(p.File)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Size()).To(BeEquivalentTo(1 << 20))
	// One that is there is not made again.
	calls = tools(t, map[string]string{"mkfs.ext4": "exit 1", "mount": "echo bad superblock; exit 32"})
	g.Expect(p.mount(t.Context())).To(MatchError(And(ContainSubstring(p.File), ContainSubstring("bad superblock"))))
	g.Expect(calls()).To(HaveLen(1))
	g.Expect(p.unmount(t.Context())).To(Succeed(), "it is not mounted")
}

func TestErrorsSayTheRemedy(t *testing.T) {
	g := NewWithT(t)
	g.Expect((&InUseError{StateDir: "/x"}).Error()).To(And(ContainSubstring("/x"), ContainSubstring("LXCMATRIX_STATE")))
}

func TestStateDir(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("LXCMATRIX_STATE", "")
	g.Expect(StateDir()).To(Equal(DefaultStateDir))
	t.Setenv("LXCMATRIX_STATE", "/run/other")
	g.Expect(StateDir()).To(Equal("/run/other"))
}

// TestWhatIsNoMachineOfOurs: such a host never ends by itself, has no folder,
// and gets no disks.
func TestWhatIsNoMachineOfOurs(t *testing.T) {
	g := NewWithT(t)
	h := &Host{}
	g.Expect(h.Done()).To(BeNil())
	g.Expect(h.Err()).To(Succeed())
	g.Expect(h.Folder()).To(BeEmpty())
	_, shown, err := h.Show(t.Context(), "/etc/hostname", "x")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(shown).To(BeFalse())
}

// TestMachineThatCannotBe is told before anything is made.
func TestMachineThatCannotBe(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	_, err := OpenQEMU(t.Context(), matrix.HostRef{Name: "k", Driver: "qemu", Cgroup: "v3", QEMU: matrix.QEMURef{OS: "debian/9"}},
		QEMUOptions{CacheDir: dir, StateDir: dir, Console: filepath.Join(dir, "console.log")})
	var wrong *qemu.SpecError
	g.Expect(errors.As(err, &wrong)).To(BeTrue(), "%v", err)
	g.Expect(err).To(MatchError(And(ContainSubstring("host k"), ContainSubstring("v3"), ContainSubstring("debian/9"))))
	g.Expect(os.ReadDir(dir)).To(BeEmpty())
}
