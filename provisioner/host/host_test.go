package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func TestBoundingSet(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		want   []string
		err    string
	}{
		"none":                {"CapEff:\t000001ffffffffff\nCapBnd:\t0000000000000000\n", []string{}, ""},
		"first and last":      {"CapBnd:\t0000010000000001\n", []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}, ""},
		"one of a new kernel": {"CapBnd:\t0000020000000000\n", []string{"CAP_41"}, ""},
		"no such line":        {"Name:\tinit\n", nil, "no CapBnd line"},
		"not a number":        {"CapBnd:\tall\n", nil, "invalid syntax"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			path := filepath.Join(t.TempDir(), "status")
			g.Expect(os.WriteFile(path, []byte(c.status), 0o600)).To(Succeed())
			got, err := boundingSet(path)
			if c.err != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.err)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(c.want))
		})
	}
	g := NewWithT(t)
	_, err := boundingSet(filepath.Join(t.TempDir(), "none"))
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	full, err := boundingSet("/proc/self/status")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(full).NotTo(BeNil(), "observed, whatever there is")
	// A capability without CAP_SYS_RESOURCE, as some containers have it.
	path := filepath.Join(t.TempDir(), "status")
	g.Expect(os.WriteFile(path, []byte("CapBnd:\t000001fffeffffff\n"), 0o600)).To(Succeed())
	lacking, err := boundingSet(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(lacking).To(And(HaveLen(40), Not(ContainElement("CAP_SYS_RESOURCE"))))
}

func TestV1Controllers(t *testing.T) {
	const header = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
	for name, c := range map[string]struct {
		list  string
		names []string
		split bool
	}{
		"split":         {"cpu\t3\t40\t1\ncpuacct\t2\t40\t1\nmemory\t9\t60\t1\n", []string{"cpu", "cpuacct", "memory"}, true},
		"joined":        {"memory\t9\t60\t1\ncpu\t2\t40\t1\ncpuacct\t2\t40\t1\n", []string{"cpu", "cpuacct", "memory"}, false},
		"not enabled":   {"cpu\t3\t40\t1\ncpuacct\t2\t40\t0\n", []string{"cpu"}, false},
		"not mounted":   {"cpu\t3\t40\t1\ncpuacct\t0\t40\t1\n", []string{"cpu"}, false},
		"none":          {"", nil, false},
		"a broken line": {"cpu 3\npids\t4\t1\t1\n", []string{"pids"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			names, split := v1Controllers(header + c.list)
			g.Expect(names).To(Equal(c.names))
			g.Expect(split).To(Equal(c.split))
		})
	}
}

func TestParseStartTime(t *testing.T) {
	stat := func(name, state string) string {
		fields := []string{"42", "(" + name + ")", state}
		for n := 4; n <= 52; n++ {
			fields = append(fields, fmt.Sprint("f", n))
		}
		return strings.Join(fields, " ") + "\n"
	}
	for _, name := range []string{"incusd", "a b", ") S 1 (", "((", "x) Z 1 2 3", ""} {
		g := NewWithT(t)
		got, err := parseStartTime(stat(name, "S"))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(got).To(Equal("f22"), name)
		_, err = parseStartTime(stat(name, "Z"))
		g.Expect(err).To(MatchError(fs.ErrNotExist), "a zombie is gone")
	}
	for _, broken := range []string{"", "42", "42 (x", "42 (x) S 1 2 3", ")"} {
		if _, err := parseStartTime(broken); err == nil {
			t.Errorf("%q has a start time", broken)
		}
	}
}

// TestRunning: what is recorded is the daemon only while the same process
// lives.
func TestRunning(t *testing.T) {
	g := NewWithT(t)
	d := daemon{PIDFile: filepath.Join(t.TempDir(), "pid")}
	pid, alive := d.running()
	g.Expect(pid).To(BeZero())
	g.Expect(alive).To(BeFalse())
	mine, err := startTime(os.Getpid())
	g.Expect(err).NotTo(HaveOccurred())
	for record, want := range map[string]bool{
		fmt.Sprintf("%d %s\n", os.Getpid(), mine):  true,
		fmt.Sprintf("%d 1%s\n", os.Getpid(), mine): false, // the ID was given to another
		fmt.Sprintf("%d\n", os.Getpid()):           false,
		"x " + mine:                                false,
		"":                                         false,
		fmt.Sprintf("%d %s\n", 1<<30, mine):        false,
	} {
		g.Expect(os.WriteFile(d.PIDFile, []byte(record), 0o600)).To(Succeed())
		_, alive := d.running()
		g.Expect(alive).To(Equal(want), record)
	}
	g.Expect(d.forget()).To(Succeed())
	g.Expect(d.forget()).To(Succeed())
	g.Expect(d.stop(t.Context())).To(Succeed(), "there is none")
}

func TestBridgeName(t *testing.T) {
	g := NewWithT(t)
	seen := map[string]bool{}
	for _, dir := range []string{"/", "/var/lib/lxcmatrix", "/var/lib/lxcmatrix2", strings.Repeat("/long", 100)} {
		name := bridgeName(dir)
		g.Expect(len(name)).To(BeNumerically("<=", 15))
		g.Expect(seen).NotTo(HaveKey(name))
		seen[name] = true
	}
	g.Expect(bridgeName("/var/lib/lxcmatrix/")).To(Equal(bridgeName("/var/lib/lxcmatrix")))
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

func TestRemoveNothing(t *testing.T) {
	g := NewWithT(t)
	g.Expect(RemoveEmbedded(t.Context(), filepath.Join(t.TempDir(), "none"))).To(Succeed())
	dir := t.TempDir()
	kept := filepath.Join(dir, "host-sysctls.json")
	g.Expect(os.WriteFile(kept, nil, 0o600)).To(Succeed())
	g.Expect(RemoveEmbedded(t.Context(), dir)).To(Succeed())
	g.Expect(kept).To(BeAnExistingFile())
}
