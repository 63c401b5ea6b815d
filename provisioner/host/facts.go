package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// sysctls are the host's values that fixes decide on.
var sysctls = [...]string{
	"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
	"kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
	"fs.inotify.max_user_instances", "fs.inotify.max_user_watches", "net.netfilter.nf_conntrack_max",
}

func observe() (matrix.HostFacts, error) {
	var f matrix.HostFacts
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return f, fmt.Errorf("observe the kernel: %w", err)
	}
	f.Kernel = unix.ByteSliceToString(u.Release[:])
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return f, fmt.Errorf("observe the cgroup mode: %w", err)
	}
	// A hybrid host (cgroup2 beside v1 controllers) gives its containers v1.
	f.Cgroup = "v1"
	if int64(st.Type) == int64(unix.CGROUP2_SUPER_MAGIC) {
		f.Cgroup = "v2"
	}
	var err error
	if f.Controllers, f.CgroupCPUSplit, err = controllers(f.Cgroup); err != nil {
		return f, err
	}
	if f.Capabilities, err = boundingSet("/proc/self/status"); err != nil {
		return f, err
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("observe AppArmor: %w", err)
	}
	f.AppArmor = strings.TrimSpace(string(enabled)) == "Y"
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		f.SELinux = true
	}
	f.CPUs = runtime.NumCPU()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return f, fmt.Errorf("observe the memory: %w", err)
	}
	f.MemoryBytes = int64(info.Totalram) * int64(info.Unit)
	f.Sysctls = map[string]string{}
	for _, key := range sysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")))
		if err == nil {
			f.Sysctls[key] = strings.TrimSpace(string(value))
		}
	}
	return f, nil
}

// controllers lists the enabled cgroup controllers and says whether cpu and
// cpuacct are v1 hierarchies of their own.
func controllers(mode string) (names []string, split bool, err error) {
	if mode == "v2" {
		list, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return nil, false, fmt.Errorf("observe the cgroup controllers: %w", err)
		}
		return strings.Fields(string(list)), false, nil
	}
	list, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return nil, false, fmt.Errorf("observe the cgroup controllers: %w", err)
	}
	names, split = v1Controllers(string(list))
	return names, split, nil
}

// v1Controllers reads /proc/cgroups: name, hierarchy, number of cgroups,
// enabled. One without a hierarchy is not mounted anywhere.
func v1Controllers(list string) (names []string, split bool) {
	hierarchy := map[string]string{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 4 && !strings.HasPrefix(fields[0], "#") && fields[1] != "0" && fields[3] == "1" {
			hierarchy[fields[0]] = fields[1]
			names = append(names, fields[0])
		}
	}
	slices.Sort(names)
	cpu, cpuacct := hierarchy["cpu"], hierarchy["cpuacct"]
	return names, cpu != "" && cpuacct != "" && cpu != cpuacct
}

// capabilityNames are the kernel's, by number (capability.h).
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

func boundingSet(status string) ([]string, error) {
	data, err := os.ReadFile(status)
	if err != nil {
		return nil, fmt.Errorf("observe the capabilities: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		hex, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("observe the capabilities: %w", err)
		}
		names := []string{}
		for ; set != 0; set &= set - 1 {
			n := bits.TrailingZeros64(set)
			if n < len(capabilityNames) {
				names = append(names, capabilityNames[n])
			} else {
				names = append(names, fmt.Sprintf("CAP_%d", n))
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("observe the capabilities: %s has no CapBnd line", status)
}
