package hygiene

import "regexp"

// passedOver lists the sysctls, as paths below /proc/sys, that a look at a host
// leaves out: what changes by itself says nothing about a cell, and a key is
// nobody's to know. The patterns are those of find -path, where * matches
// slashes too; but is looked at all the same.
var passedOver = []struct {
	pattern string
	but     []string
	why     string
}{
	{pattern: "fs/binfmt_misc", why: "a file system of its own, which a look would mount"},
	{pattern: "vm/stat_refresh", why: "reading it makes every CPU work"},
	{pattern: "net/core/netdev_rss_key", why: "a key"},
	{pattern: "net/ipv4/tcp_fastopen_key", why: "a key"},
	{pattern: "net/ipv4/fib_multipath_hash_seed", why: "a key"},
	{pattern: "kernel/random", why: "new at each reading, or the kernel's own measure"},
	{pattern: "kernel/ns_last_pid", why: "a counter"},
	{pattern: "kernel/pty/nr", why: "a counter"},
	{pattern: "kernel/hung_task_detect_count", why: "a counter"},
	{pattern: "kernel/hung_task_warnings", why: "counts down with each warning"},
	{pattern: "kernel/perf_event_max_sample_rate", why: "the kernel lowers it by itself"},
	{pattern: "kernel/sched_domain", why: "holds what the scheduler measured"},
	{pattern: "fs/dentry-state", why: "counters"},
	{pattern: "fs/inode-*", why: "counters"},
	{pattern: "fs/file-nr", why: "a counter"},
	{pattern: "fs/aio-nr", why: "a counter"},
	{pattern: "fs/quota", why: "counters"},
	{pattern: "net/netfilter/nf_conntrack_count", why: "a counter"},
	{pattern: "net/ipv4/tcp_available_*", why: "follows from the modules"},
	{pattern: "net/mptcp/available_*", why: "follows from the modules"},
	{pattern: "net/*/conf/*", but: []string{"net/*/conf/all", "net/*/conf/all/*", "net/*/conf/default", "net/*/conf/default/*"},
		why: "an interface's own, which comes and goes with it"},
	{pattern: "net/*/neigh/*", but: []string{"net/*/neigh/default", "net/*/neigh/default/*"},
		why: "an interface's own, which comes and goes with it"},
}

// findArguments are the sysctls that find prunes, for the script.
func findArguments() []string {
	var args []string
	for _, p := range passedOver {
		if len(args) > 0 {
			args = append(args, "-o")
		}
		args = append(args, "-path", "./"+p.pattern)
		for _, but := range p.but {
			args = append(args, "!", "-path", "./"+but)
		}
	}
	return args
}

// incusOwn lists what Incus makes for its bridges and for nodes: it comes and
// goes with those of every cell and of every other run.
var incusOwn = []struct {
	kind string
	name *regexp.Regexp
	why  string
}{
	{Interface, regexp.MustCompile(`^veth`), "the host's end of a node's interface"},
	{Interface, regexp.MustCompile(`^lxcm[0-9a-f]{8}$`), "the bridge of an embedded host, perhaps of another run's"},
	{AppArmor, regexp.MustCompile(`^:?incus[-_]`), "the profile of an instance or of a helper of the daemon's, or one within an instance's namespace"},
	{Nftables, regexp.MustCompile(`^table \S+ incus( |$)`), "the table that Incus writes for its bridges"},
	{Iptables, regexp.MustCompile(`--comment "generated for Incus `), "a rule that Incus writes for its bridges"},
}

// isIncusOwn says whether something of a kind is Incus' own.
func isIncusOwn(kind, name string) bool {
	for _, own := range incusOwn {
		if own.kind == kind && own.name.MatchString(name) {
			return true
		}
	}
	return false
}
