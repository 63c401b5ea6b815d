package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestHealthyMachineHasOnlyOK(t *testing.T) {
	m, _ := machine(t, nil)
	findings := m.Examine(t.Context(), Options{Purpose: Test, CacheDir: "/var/cache/x", StateDir: "/var/lib/x", PoolBytes: 20 << 30})
	for _, f := range findings {
		if f.Severity != OK {
			t.Errorf("%s", f)
		}
	}
	if len(findings) < 20 {
		t.Errorf("only %d findings: an unexamined machine would look healthy too", len(findings))
	}
}

func TestExamineFindsWhatIsWrong(t *testing.T) {
	const dockerRules = "table ip filter {\n\tchain DOCKER-USER {\n\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
	// Incus' own table accepts; Docker's drops all the same.
	const dockerAndIncus = dockerRules + "table inet incus {\n\tchain fwd.lxcm0 {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip version 4 oifname \"lxcm0\" accept\n\t\tip version 4 iifname \"lxcm0\" accept\n\t}\n}\n"
	const dockerAllows = "table ip filter {\n\tchain DOCKER-USER {\n\t\tiifname \"lxcm0\" counter packets 0 bytes 0 accept\n\t\toifname \"lxcm0\" counter packets 0 bytes 0 accept\n\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
	bookworm := "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"
	debian12 := "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
	for name, c := range map[string]struct {
		changes  map[string]string
		answers  map[string]answer
		opts     Options
		mutate   func(*Machine)
		id       string
		severity Severity
		what     string
		remedy   string
		fixable  bool
	}{
		"not root": {mutate: func(m *Machine) { m.UID = 1000 }, id: "root", severity: Problem, what: "user 1000"},
		"other OS": {changes: map[string]string{"/etc/os-release": "ID=fedora\nPRETTY_NAME=Fedora\nVERSION_ID=44\n"}, id: "os", severity: Warning, what: "Fedora"},
		"other OS is not set up": {changes: map[string]string{"/etc/os-release": "ID=fedora\n", "/usr/sbin/nft": "-"},
			id: "packages", severity: Problem, what: "missing: nftables", remedy: "install what provides them"},
		"missing packages": {changes: map[string]string{"/usr/sbin/nft": "-", "/usr/sbin/mmdebstrap": "-"},
			id: "packages", severity: Problem, what: "nftables (NAT", remedy: "apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 nftables mmdebstrap", fixable: true},
		"make only for tests":     {changes: map[string]string{"/usr/sbin/make": "-"}, id: "packages", severity: OK, what: "all 17"},
		"make for tests":          {changes: map[string]string{"/usr/sbin/make": "-"}, opts: Options{Purpose: Test}, id: "packages", severity: Problem, what: "make (the Makefile)", fixable: true},
		"no QEMU":                 {changes: map[string]string{"/usr/sbin/qemu-img": "-"}, id: "packages", severity: OK, what: "all 17"},
		"no QEMU for a qemu host": {changes: map[string]string{"/usr/sbin/qemu-img": "-"}, opts: Options{HostDriver: "qemu"}, id: "packages", severity: Problem, what: "qemu-utils (their disks)", fixable: true},
		"no QEMU for tests":       {changes: map[string]string{"/usr/sbin/qemu-system-x86_64": "-"}, opts: Options{Purpose: Test}, id: "packages", severity: Problem, what: "qemu-system-x86", remedy: "qemu-system-x86", fixable: true},
		"apparmor's parser where it is on": {changes: map[string]string{"/usr/sbin/apparmor_parser": "-"},
			id: "packages", severity: Problem, what: "apparmor", fixable: true},
		"no apparmor's parser where it is off": {changes: map[string]string{"/usr/sbin/apparmor_parser": "-", "/sys/module/apparmor/parameters/enabled": "N"},
			id: "packages", severity: OK, what: "all 16"},
		"backports on 12": {changes: map[string]string{"/etc/os-release": bookworm, "/etc/apt/sources.list.d/debian.sources": debian12, "/usr/libexec/incus/incusd": "-"},
			id: "packages", severity: Problem, remedy: "add bookworm-backports to apt's sources", fixable: true},
		"no go":           {changes: map[string]string{"/usr/local/go/bin/go": "-"}, id: "go", severity: Problem, what: "no Go toolchain"},
		"old go":          {answers: map[string]answer{"/usr/local/go/bin/go version": {output: "go version go1.19.8 linux/amd64"}}, id: "go", severity: Problem, what: "too old"},
		"strange go":      {answers: map[string]answer{"/usr/local/go/bin/go version": {output: "go version devel"}}, id: "go", severity: Warning, what: "devel"},
		"cgroup v1 split": {changes: map[string]string{"/proc/self/mounts": mountsV1Split}, id: "cgroup", severity: OK, what: "cgroup1-split-cpu"},
		"cgroup v1 joined": {changes: map[string]string{"/proc/self/mounts": mountsV1Joined}, id: "cgroup", severity: OK,
			what: "cgroup v1 with cpu, cpuacct, cpuset, devices, freezer, memory, pids"},
		"no memory controller": {changes: map[string]string{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu pids"}, id: "cgroup", severity: Problem, what: "without memory"},
		"no cgroups":           {changes: map[string]string{"/proc/self/mounts": "proc /proc proc rw 0 0\n"}, id: "cgroup", severity: Problem, what: "no cgroup hierarchy"},
		"loadable module": {changes: map[string]string{"/proc/sys/net/bridge/bridge-nf-call-iptables": "-"},
			answers: map[string]answer{"/usr/sbin/modprobe -n br_netfilter": {}}, id: "br_netfilter", severity: Problem, remedy: "modprobe br_netfilter", fixable: true},
		"no such module": {changes: map[string]string{"/proc/sys/net/bridge/bridge-nf-call-iptables": "-"},
			answers: map[string]answer{"/usr/sbin/modprobe -n": {exit: 1}}, id: "br_netfilter", severity: Problem, remedy: "use a kernel"},
		"no modprobe":   {changes: map[string]string{"/proc/filesystems": "\text4\n", "/usr/sbin/modprobe": "-"}, id: "overlay", severity: Problem, remedy: "use a kernel"},
		"no veth":       {answers: map[string]answer{"/usr/sbin/unshare --net /usr/sbin/ip link add lxcmprobe type veth": {exit: 2, output: "Error: Unknown device type."}}, id: "veth", severity: Problem, what: "Unknown device type"},
		"no vxlan":      {answers: map[string]answer{"/usr/sbin/unshare --net /usr/sbin/ip link add lxcmprobe type vxlan": {exit: 2}}, id: "vxlan", severity: Warning, what: "no vxlan"},
		"veth unknown":  {answers: map[string]answer{"/usr/sbin/unshare --net /usr/sbin/ip link add lxcmprobe type veth": {err: errors.New("fork failed")}}, id: "veth", severity: Warning, what: "could not tell"},
		"no loop":       {changes: map[string]string{"/dev/loop-control": "-"}, answers: map[string]answer{"/usr/sbin/modprobe -n loop": {}}, id: "loop", severity: Problem, fixable: true},
		"no kmsg":       {changes: map[string]string{"/dev/kmsg": "-"}, id: "kmsg", severity: Warning, what: "no /dev/kmsg"},
		"sys_resource":  {changes: map[string]string{"/proc/self/status": "CapBnd:\t000001fffeffffff\n"}, id: "capabilities", severity: Warning, what: "lacks CAP_SYS_RESOURCE; the fix restrict-oom-score-adj"},
		"sys_admin":     {changes: map[string]string{"/proc/self/status": "CapBnd:\t000001ffffdfffff\n"}, id: "capabilities", severity: Problem, what: "lacks CAP_SYS_ADMIN"},
		"no status":     {changes: map[string]string{"/proc/self/status": "-"}, id: "capabilities", severity: Warning, what: "could not be read"},
		"apparmor off":  {changes: map[string]string{"/sys/module/apparmor/parameters/enabled": "-"}, id: "apparmor", severity: OK, what: "off"},
		"sysctls":       {changes: map[string]string{"/proc/sys/kernel/panic": "0"}, id: "sysctls", severity: OK, what: "kernel.panic=0 (nodes want 10); a run sets them"},
		"sysctls local": {changes: map[string]string{"/proc/sys/kernel/panic": "0"}, opts: Options{HostDriver: "local"}, id: "sysctls", severity: Warning, what: "kernel.panic=0", remedy: "hostWrites: allow"},
		"disk for a pool": {opts: Options{CacheDir: "/var/cache/x", StateDir: "/var/lib/x", PoolBytes: 40 << 30}, mutate: func(m *Machine) { m.Free = func(string) (int64, error) { return 20 << 30, nil } },
			id: "disk", severity: Warning, what: "20.0 GiB free for /var/cache/x and /var/lib/x, which can grow to 48.0 GiB"},
		"disk for nothing": {opts: Options{CacheDir: "/var/cache/x", StateDir: "/var/lib/x", PoolBytes: 40 << 30}, mutate: func(m *Machine) { m.Free = func(string) (int64, error) { return 13 << 30, nil } },
			id: "disk", severity: Problem, what: "at least 14.0 GiB"},
		"disk unknown": {opts: Options{CacheDir: "/var/cache/x"}, mutate: func(m *Machine) { m.Free = func(string) (int64, error) { return 0, errors.New("no statfs") } },
			id: "disk", severity: Warning, what: "no statfs"},
		"little memory": {opts: Options{MemoryBytes: 16 << 30}, id: "memory", severity: Problem, what: "11.4 GiB of 15.3 GiB"},
		"no meminfo":    {changes: map[string]string{"/proc/meminfo": "-"}, id: "memory", severity: Warning},
		"no lxcfs":      {changes: map[string]string{"/proc/self/mounts": mountsV1Joined}, id: "lxcfs", severity: OK, what: "nodes see the machine's memory"},
		"one CPU":       {mutate: func(m *Machine) { m.CPUs = 1 }, id: "cpus", severity: Warning},
		"quotas":        {opts: Options{HostDriver: "local"}, id: "quotas", severity: Warning, what: "do not work"},
		"docker, embedded host": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: dockerRules}},
			id: "firewall", severity: Problem, remedy: "iptables -I DOCKER-USER -i lxcm+ -j ACCEPT", fixable: true},
		"docker, embedded hosts allowed": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: strings.ReplaceAll(dockerAllows, "lxcm0", "lxcm*")}},
			id: "firewall", severity: OK, what: "lets lxcm+ through"},
		"docker beside Incus' own rules": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: dockerAndIncus}}, opts: Options{Bridge: "lxcm0"},
			id: "firewall", severity: Problem, fixable: true},
		"docker, no bridge known": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: dockerRules}}, opts: Options{HostDriver: "local"},
			id: "firewall", severity: Problem, what: "table ip filter chain FORWARD", remedy: "iptables -I DOCKER-USER -i BRIDGE"},
		"docker, bridge known": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: dockerRules}}, opts: Options{Bridge: "lxcm0"},
			id: "firewall", severity: Problem, remedy: "iptables -I DOCKER-USER -i lxcm0 -j ACCEPT", fixable: true},
		"docker, bridge allowed": {answers: map[string]answer{"/usr/sbin/nft list ruleset": {output: dockerAllows}}, opts: Options{Bridge: "lxcm0"},
			id: "firewall", severity: OK, what: "lets lxcm0 through"},
		"docker with legacy iptables": {changes: map[string]string{"/usr/sbin/iptables-legacy": program},
			answers: map[string]answer{"/usr/sbin/iptables-legacy -S": {output: "-P INPUT ACCEPT\n-P FORWARD DROP\n"}}, id: "firewall", severity: Problem, what: "iptables-legacy FORWARD", fixable: true},
		"no nf_tables":       {answers: map[string]answer{"/usr/sbin/nft list ruleset": {exit: 1, output: "Operation not supported"}}, id: "firewall", severity: Problem, what: "Operation not supported"},
		"no forwarding":      {changes: map[string]string{"/proc/sys/net/ipv4/ip_forward": "0"}, id: "ip_forward", severity: OK, what: "Incus turns it on"},
		"no DNS server":      {changes: map[string]string{"/etc/resolv.conf": "search x\n"}, id: "dns", severity: Warning},
		"port 53 taken":      {changes: map[string]string{"/proc/net/udp": "   1: 00000000:0035 00000000:0000 07\n"}, id: "dns-port", severity: Warning, remedy: "bind-interfaces"},
		"system's Incus":     {changes: map[string]string{"/var/lib/incus/unix.socket": ""}, id: "incus", severity: OK, what: "left alone"},
		"local needs Incus":  {opts: Options{HostDriver: "local"}, id: "incus", severity: Problem, remedy: "systemctl start incus"},
		"local has an Incus": {changes: map[string]string{"/var/lib/incus/unix.socket": ""}, opts: Options{HostDriver: "local"}, id: "incus", severity: OK, what: "project lxcmatrix"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := machine(t, c.changes)
			for line, a := range c.answers {
				r.answers[line] = a
			}
			if c.mutate != nil {
				c.mutate(&m)
			}
			f, found := find(m.Examine(t.Context(), c.opts), c.id)
			if !found {
				t.Fatalf("no finding %s", c.id)
			}
			if f.Severity != c.severity || !strings.Contains(f.What, c.what) || !strings.Contains(f.Remedy, c.remedy) || f.Fixable != c.fixable {
				t.Errorf("%s\nfixable %v, want %s %q (remedy %q), fixable %v", f, f.Fixable, c.severity, c.what, c.remedy, c.fixable)
			}
		})
	}
}

// TestNodesElsewhere: where the nodes of a matrix are on other machines, what
// nodes want of their own is not asked of this one.
func TestNodesElsewhere(t *testing.T) {
	for driver, asked := range map[string]bool{"embedded": true, "local": true, "qemu": false, "remote": false} {
		m, _ := machine(t, map[string]string{"/proc/sys/kernel/panic": "0"})
		findings := m.Examine(t.Context(), Options{HostDriver: driver})
		for _, id := range []string{"sysctls", "quotas", "alone"} {
			if f, found := find(findings, id); found != asked {
				t.Errorf("%s: asked about %s is %t, want %t: %s", driver, id, found, asked, f)
			}
		}
		// Images are made here all the same.
		if _, found := find(findings, "cgroup"); !found {
			t.Errorf("%s: cgroups were not looked at", driver)
		}
	}
}

func TestExamineChangesNothing(t *testing.T) {
	m, r := machine(t, map[string]string{"/usr/sbin/nft": "-", "/proc/sys/net/bridge/bridge-nf-call-iptables": "-"})
	m.Examine(t.Context(), Options{Purpose: Test})
	for _, line := range r.ran {
		switch {
		case strings.Contains(line, "go version"), strings.Contains(line, "modprobe -n "), strings.Contains(line, "unshare --net "), strings.HasSuffix(line, "nft list ruleset"):
		default:
			t.Errorf("examining ran %q", line)
		}
	}
}

func TestExecRunner(t *testing.T) {
	var streamed strings.Builder
	out, err := execRunner{}.Run(t.Context(), Command{Args: []string{"/bin/sh", "-c", "echo $X; pwd; echo bad >&2; exit 7"}, Env: []string{"X=y"}, Stream: &streamed})
	var failed *RunError
	if !errors.As(err, &failed) || failed.ExitCode != 7 {
		t.Fatalf("got %v", err)
	}
	if want := "y\n/\nbad\n"; out != want || streamed.String() != want {
		t.Errorf("got %q and streamed %q, want %q", out, streamed.String(), want)
	}
	if want := "exit code 7: y | / | bad"; !strings.Contains(err.Error(), want) {
		t.Errorf("%q lacks %q", err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (execRunner{}).Run(ctx, Command{Args: []string{"/bin/true"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled command: %v", err)
	}
	if _, err := (execRunner{}).Run(t.Context(), Command{Args: []string{"/nonexistent"}}); err == nil || errors.As(err, &failed) {
		t.Errorf("a command that is not there: %v", err)
	}
}
