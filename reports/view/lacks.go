package view

import (
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Capabilities is the ordinary bounding set of a host: every capability that
// capability.h knows since Linux 5.9.
func Capabilities() []string {
	return strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
		CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
		CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
		CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
		CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
		CAP_CHECKPOINT_RESTORE`)
}

// controllers are the cgroup controllers that kubeadm's system verification
// looks for, required and optional, by cgroup mode.
func controllers(cgroup string) []string {
	if cgroup == "v1" {
		return []string{"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "hugetlb", "blkio"}
	}
	return []string{"cpu", "cpuset", "memory", "pids", "hugetlb", "io"}
}

// lacks names what a host lacks, from what was observed of it; what was not
// observed is said to be so, never taken for there.
func lacks(h matrix.HostFacts) []string {
	var out []string
	switch {
	case h.AppArmor == nil:
		out = append(out, "(AppArmor not observed)")
	case !*h.AppArmor:
		out = append(out, "AppArmor")
	}
	if h.Capabilities == nil {
		out = append(out, "(capabilities not observed)")
	} else {
		for _, c := range Capabilities() {
			if !slices.Contains(h.Capabilities, c) {
				out = append(out, c)
			}
		}
	}
	if h.Controllers == nil {
		out = append(out, "(cgroup controllers not observed)")
	} else {
		for _, c := range controllers(h.Cgroup) {
			if !slices.Contains(h.Controllers, c) {
				out = append(out, "cgroup controller "+c)
			}
		}
	}
	return out
}
