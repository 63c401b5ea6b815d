package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// cgroups is what is mounted at /sys/fs/cgroup.
type cgroups struct {
	// mode is v1 or v2; empty where neither is mounted.
	mode        string
	controllers []string
	// split: cpu and cpuacct are hierarchies of their own (v1).
	split bool
}

func (m Machine) cgroups() cgroups {
	mounts, _ := m.read("/proc/self/mounts")
	var c cgroups
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		point, fstype, options := f[1], f[2], strings.Split(f[3], ",")
		switch {
		case fstype == "cgroup2" && point == "/sys/fs/cgroup":
			text, _ := m.read("/sys/fs/cgroup/cgroup.controllers")
			return cgroups{mode: "v2", controllers: strings.Fields(text)}
		case fstype == "cgroup" && strings.HasPrefix(point, "/sys/fs/cgroup/"):
			c.mode = "v1"
			for _, name := range v1Controllers() {
				if slices.Contains(options, name) {
					c.controllers = append(c.controllers, name)
				}
			}
			if slices.Contains(options, "cpu") && !slices.Contains(options, "cpuacct") {
				c.split = true
			}
		}
	}
	slices.Sort(c.controllers)
	return c
}

func v1Controllers() []string {
	return []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event", "pids"}
}

// cgroup names what kubelet's system validation asks for (k8s.io/kubernetes
// 1.34 cm/container_manager_linux.go: cpu, cpuacct, cpuset and memory on v1)
// and what node limits need.
func (m Machine) cgroup(context.Context, Options) []Finding {
	c := m.cgroups()
	need := []string{"cpu", "cpuset", "memory", "pids"}
	switch c.mode {
	case "":
		return problem("cgroup", "mount cgroup v2 at /sys/fs/cgroup, or the v1 controllers under it", "no cgroup hierarchy is mounted at /sys/fs/cgroup")
	case "v1":
		need = append(need, "cpuacct", "devices", "freezer")
	}
	var missing []string
	for _, name := range need {
		if !slices.Contains(c.controllers, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return problem("cgroup", "enable them on the kernel's command line (cgroup_enable=memory) or mount their hierarchies",
			"cgroup %s without %s; there are: %s", c.mode, strings.Join(missing, ", "), strings.Join(c.controllers, ", "))
	}
	what := fmt.Sprintf("cgroup %s with %s", c.mode, strings.Join(c.controllers, ", "))
	if c.split {
		what += "; cpu and cpuacct are hierarchies of their own, which the fix cgroup1-split-cpu handles"
	}
	return ok("cgroup", "%s", what)
}

// filesystems looks for those that containerd and the pool need.
func (m Machine) filesystems(ctx context.Context, _ Options) []Finding {
	text, _ := m.read("/proc/filesystems")
	var findings []Finding
	for _, name := range []string{"overlay", "ext4"} {
		if slices.Contains(strings.Fields(text), name) {
			findings = append(findings, ok(name, "the kernel has %s", name)...)
			continue
		}
		findings = append(findings, m.absent(ctx, name, name, "the kernel has no "+name))
	}
	return findings
}

// modules looks for what shows in /proc/sys when it is there, built in or
// loaded.
func (m Machine) modules(ctx context.Context, _ Options) []Finding {
	var findings []Finding
	for _, f := range []struct{ id, path, why string }{
		{"br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables", "Services would not reach pods on the same node's bridge"},
		{"nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max", "kube-proxy needs connection tracking"},
	} {
		if m.exists(f.path) {
			findings = append(findings, ok(f.id, "the kernel has %s", f.id)...)
			continue
		}
		findings = append(findings, m.absent(ctx, f.id, f.id, fmt.Sprintf("%s is not loaded (%s is missing): %s", f.id, f.path, f.why)))
	}
	return findings
}

// absent is the finding for a module that is not in use, fixable where it can
// be loaded.
func (m Machine) absent(ctx context.Context, id, module, what string) Finding {
	f := Finding{ID: id, Severity: Problem, What: what}
	modprobe, found := m.look("modprobe")
	if found {
		if _, err := m.Runner.Run(ctx, Command{Args: []string{modprobe, "-n", module}}); err == nil {
			f.Fixable, f.repair.module = true, module
			f.Remedy = "modprobe " + module
			return f
		}
	}
	f.Remedy = fmt.Sprintf("use a kernel that has %s; there is no loadable module of that name here", module)
	return f
}

// links makes each kind of link that nodes need, in a network namespace of
// its own that ends with the command. It is the only probe that is right for
// built-in drivers and for modules that load by themselves.
func (m Machine) links(ctx context.Context, _ Options) []Finding {
	ip, hasIP := m.look("ip")
	unshare, hasUnshare := m.look("unshare")
	if !hasIP || !hasUnshare || m.UID != 0 {
		return warning("links", "examine again as root with iproute2 installed", "bridge, veth and vxlan could not be tried")
	}
	var findings []Finding
	for _, l := range []struct {
		kind     string
		args     []string
		severity Severity
	}{
		{"bridge", nil, Problem},
		{"veth", nil, Problem},
		// Only flannel needs it.
		{"vxlan", []string{"id", "1", "dstport", "0"}, Warning},
	} {
		args := append([]string{unshare, "--net", ip, "link", "add", "lxcmprobe", "type", l.kind}, l.args...)
		_, err := m.Runner.Run(ctx, Command{Args: args})
		var failed *RunError
		switch {
		case err == nil:
			findings = append(findings, ok(l.kind, "the kernel makes %s links", l.kind)...)
		case errors.As(err, &failed):
			findings = append(findings, Finding{ID: l.kind, Severity: l.severity,
				What:   fmt.Sprintf("the kernel makes no %s links: %v", l.kind, err),
				Remedy: "use a kernel that has " + l.kind})
		default:
			findings = append(findings, warning(l.kind, "", "could not tell: %v", err)...)
		}
	}
	return findings
}

func (m Machine) devices(ctx context.Context, opts Options) []Finding {
	var findings []Finding
	if m.exists("/dev/loop-control") {
		findings = append(findings, ok("loop", "loop devices are there")...)
	} else if opts.HostDriver == "embedded" {
		findings = append(findings, m.absent(ctx, "loop", "loop", "no loop devices: the embedded host's pool is a file mounted through one"))
	}
	if m.exists("/dev/kmsg") {
		return append(findings, ok("kmsg", "/dev/kmsg is there")...)
	}
	return append(findings, warning("kmsg", "run outside a container, or give it /dev/kmsg", "no /dev/kmsg: the fix kmsg-device has nothing to give to nodes")...)
}

// capabilityNames are the capabilities by bit, from linux/capability.h.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
		"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
		"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
		"CAP_CHECKPOINT_RESTORE",
	}
}

func (m Machine) capabilities(context.Context, Options) []Finding {
	status, _ := m.read("/proc/self/status")
	for line := range strings.Lines(status) {
		value, found := strings.CutPrefix(line, "CapBnd:")
		if !found {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			break
		}
		last := len(capabilityNames()) - 1
		if text, found := m.read("/proc/sys/kernel/cap_last_cap"); found {
			if n, err := strconv.Atoi(text); err == nil {
				last = min(last, n)
			}
		}
		var missing []string
		for bit, name := range capabilityNames()[:last+1] {
			if set&(1<<bit) == 0 {
				missing = append(missing, name)
			}
		}
		if len(missing) == 0 {
			return ok("capabilities", "the bounding set is full")
		}
		for _, name := range missing {
			if slices.Contains([]string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID"}, name) {
				return problem("capabilities", "run on a machine or in a container that has it", "the bounding set lacks %s: Incus cannot start nodes", strings.Join(missing, ", "))
			}
		}
		what := "the bounding set lacks " + strings.Join(missing, ", ")
		if slices.Contains(missing, "CAP_SYS_RESOURCE") {
			what += "; the fix restrict-oom-score-adj handles CAP_SYS_RESOURCE"
		}
		return warning("capabilities", "", "%s; results name what the host lacks", what)
	}
	return warning("capabilities", "", "the bounding set could not be read from /proc/self/status")
}

func (m Machine) apparmorOn() bool {
	text, _ := m.read("/sys/module/apparmor/parameters/enabled")
	return text == "Y"
}

func (m Machine) apparmor(context.Context, Options) []Finding {
	if m.apparmorOn() {
		return ok("apparmor", "AppArmor is on")
	}
	return ok("apparmor", "AppArmor is off; what it would forbid is not tried here")
}

// wantedSysctls are those of the fix host-sysctls. Kubelet sets the first six
// itself, on the host, where it may (k8s.io/kubernetes 1.34
// cm/container_manager_linux.go setupKernelTunables); the others bound how
// many pods a machine holds, so more is as good.
func wantedSysctls() []struct {
	key     string
	value   int64
	atLeast bool
} {
	return []struct {
		key     string
		value   int64
		atLeast bool
	}{
		{"vm.overcommit_memory", 1, false},
		{"vm.panic_on_oom", 0, false},
		{"kernel.panic", 10, false},
		{"kernel.panic_on_oops", 1, false},
		{"kernel.keys.root_maxkeys", 1000000, false},
		{"kernel.keys.root_maxbytes", 25000000, false},
		{"fs.inotify.max_user_instances", 8192, true},
		{"fs.inotify.max_user_watches", 524288, true},
	}
}

// sysctls are never changed here: a run leases them and restores what was
// there, and two of them make the machine reboot on an oops. Where nodes are on
// other machines, this one's do not matter.
func (m Machine) sysctls(_ context.Context, opts Options) []Finding {
	if !opts.nodesHere() {
		return nil
	}
	var differ []string
	for _, w := range wantedSysctls() {
		text, found := m.read("/proc/sys/" + strings.ReplaceAll(w.key, ".", "/"))
		value, err := strconv.ParseInt(text, 10, 64)
		if found && err == nil && (value == w.value || w.atLeast && value > w.value) {
			continue
		}
		if !found {
			text = "unreadable"
		}
		differ = append(differ, fmt.Sprintf("%s=%s (nodes want %d)", w.key, text, w.value))
	}
	switch {
	case len(differ) == 0:
		return ok("sysctls", "all host sysctls are as nodes want them")
	case opts.HostDriver == "embedded":
		return ok("sysctls", "%s; a run sets them through the fix host-sysctls and restores them", strings.Join(differ, ", "))
	}
	return warning("sysctls", "set them in /etc/sysctl.d, or let runs set and restore them with hostWrites: allow; kernel.panic and kernel.panic_on_oops make the machine reboot on an oops",
		"%s", strings.Join(differ, ", "))
}
