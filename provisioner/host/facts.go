package host

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// sysctls are the host's values that fixes decide on.
var sysctls = [...]string{
	"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
	"kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
	"fs.inotify.max_user_instances", "fs.inotify.max_user_watches", "net.netfilter.nf_conntrack_max",
}

// observation prints what a system shows of itself, each line as KEY=VALUE; a
// key comes again where there are several values, and is missing where there
// is none. It is one script because each command costs a second under
// emulation. Its arguments are the sysctls to read.
const observation = `echo kernel=$(uname -r)
echo machine=$(uname -m)
echo cgroup=$(stat -f -c %t /sys/fs/cgroup)
sed 's/^/v1=/' /proc/cgroups
echo v2=$(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null)
grep '^CapBnd:' /proc/self/status | sed 's/^CapBnd:[[:space:]]*/bounding=/'
apparmor=$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)
echo apparmor=${apparmor:-N}
grep -qw selinuxfs /proc/filesystems && echo selinux=Y || echo selinux=N
echo cpus=$(nproc)
grep -m 1 '^flags' /proc/cpuinfo | sed 's/^flags[[:space:]]*:[[:space:]]*/flags=/'
sed -n 's/^\(MemTotal\|MemAvailable\):[[:space:]]*\([0-9]*\) kB$/\1=\2/p' /proc/meminfo
for key in "$@"; do
  file=/proc/sys/$(echo "$key" | tr . /)
  [ -r "$file" ] && echo "sysctl=$key $(cat "$file")"
done
:`

// What /sys/fs/cgroup is, by the magic numbers of linux/magic.h in hex.
const (
	cgroup2Magic = "63677270"
	tmpfsMagic   = "1021994"
)

// observe reads the facts of the system that a command runs on.
func observe(ctx context.Context, run func(context.Context, provisioner.Command) (provisioner.Output, error)) (matrix.HostFacts, error) {
	out, err := run(ctx, provisioner.Command{Args: append([]string{"sh", "-c", observation, "observe"}, sysctls[:]...)})
	if err != nil {
		return matrix.HostFacts{}, fmt.Errorf("observe the system: %w", err)
	}
	f, err := parseObservation(out.Stdout)
	if err != nil {
		return f, fmt.Errorf("observe the system: %w", err)
	}
	return f, nil
}

// parseObservation reads what observation printed.
func parseObservation(printed string) (matrix.HostFacts, error) {
	seen := map[string][]string{}
	for line := range strings.Lines(printed) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && value != "" {
			seen[key] = append(seen[key], value)
		}
	}
	one := func(key string) string {
		if len(seen[key]) == 0 {
			return ""
		}
		return seen[key][0]
	}
	var f matrix.HostFacts
	f.Kernel = one("kernel")
	switch one("cgroup") {
	case cgroup2Magic:
		f.Cgroup, f.Controllers = "v2", strings.Fields(one("v2"))
	case tmpfsMagic:
		// A hybrid host (cgroup2 beside v1 controllers) gives its containers v1.
		f.Cgroup = "v1"
		f.Controllers, f.CgroupCPUSplit = v1Controllers(seen["v1"])
	}
	var err error
	if f.Capabilities, err = boundingSet(one("bounding")); err != nil {
		return f, err
	}
	f.AppArmor, f.SELinux = flag(one("apparmor")), flag(one("selinux"))
	if f.CPUs, err = strconv.Atoi(one("cpus")); err != nil {
		return f, fmt.Errorf("the number of CPUs: %w", err)
	}
	if f.CPUs < 1 {
		return f, fmt.Errorf("the number of CPUs: %d", f.CPUs)
	}
	f.CPULevel = cpuLevel(one("machine"), strings.Fields(one("flags")))
	total, err := kibibytes(one("MemTotal"))
	if err != nil {
		return f, fmt.Errorf("the memory: %w", err)
	}
	f.MemoryBytes = total
	if free, err := kibibytes(one("MemAvailable")); err == nil {
		f.MemoryFreeBytes = &free
	}
	f.Sysctls = map[string]string{}
	for _, line := range seen["sysctl"] {
		if key, value, ok := strings.Cut(line, " "); ok {
			f.Sysctls[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return f, nil
}

// flag is what Y or N say; anything else was not observed.
func flag(word string) *bool {
	switch word {
	case "Y":
		return new(true)
	case "N":
		return new(false)
	}
	return nil
}

func kibibytes(digits string) (int64, error) {
	// As many bits as leave the bytes positive.
	n, err := strconv.ParseUint(digits, 10, 53)
	if err == nil && n == 0 {
		err = errors.New("there is none")
	}
	return int64(n) << 10, err
}

// v1Controllers reads the lines of /proc/cgroups: name, hierarchy, number of
// cgroups, enabled. One without a hierarchy is not mounted anywhere. split
// says that cpu and cpuacct are hierarchies of their own.
func v1Controllers(lines []string) (names []string, split bool) {
	hierarchy := map[string]string{}
	for _, line := range lines {
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

// cpuLevels are the flags, as /proc/cpuinfo names them, that each level adds to
// those before it (psABI of x86-64, micro-architecture levels).
var cpuLevels = [...]struct{ name, flags string }{
	{"x86-64-v1", "lm cmov cx8 fpu fxsr mmx syscall sse sse2"},
	{"x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"},
	{"x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"},
	{"x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"},
}

// cpuLevel is the highest level that the flags make up; another architecture
// has none but itself.
func cpuLevel(machine string, flags []string) (level string) {
	if machine != "x86_64" {
		return machine
	}
	for _, l := range cpuLevels {
		for _, flag := range strings.Fields(l.flags) {
			if !slices.Contains(flags, flag) {
				return level
			}
		}
		level = l.name
	}
	return level
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

// boundingSet reads the hexadecimal CapBnd of /proc/PID/status.
func boundingSet(hex string) ([]string, error) {
	set, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return nil, fmt.Errorf("the capabilities: %w", err)
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
