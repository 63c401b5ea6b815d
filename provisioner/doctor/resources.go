package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func gib(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// onePrepared is what a prepared image and a node made from it take.
const onePrepared = 6 << 30

// disk adds up what is needed on each filesystem. The pool's file is sparse: a
// pool that could grow past the disk is a warning, one that cannot hold a
// prepared image and a node is a problem.
func (m Machine) disk(_ context.Context, opts Options) []Finding {
	type need struct {
		dirs       []string
		least, all int64
	}
	needs := map[string]need{}
	var order []string
	add := func(dir string, least, all int64) {
		if dir == "" {
			return
		}
		on := m.filesystem(dir)
		n, seen := needs[on]
		if !seen {
			order = append(order, on)
		}
		needs[on] = need{append(n.dirs, dir), n.least + least, n.all + all}
	}
	add(opts.CacheDir, opts.CacheBytes, opts.CacheBytes)
	if opts.HostDriver == "embedded" {
		add(opts.StateDir, min(opts.PoolBytes, onePrepared), opts.PoolBytes)
	}
	var findings []Finding
	for _, on := range order {
		n := needs[on]
		dirs := strings.Join(n.dirs, " and ")
		const remedy = "free some, or keep the cache elsewhere with XDG_CACHE_HOME"
		free, err := m.Free(m.path(m.existing(n.dirs[0])))
		switch {
		case err != nil:
			findings = append(findings, warning("disk", "", "the space free for %s could not be told: %v", dirs, err)...)
		case free < n.least:
			findings = append(findings, problem("disk", remedy, "%s free for %s, at least %s are needed", gib(free), dirs, gib(n.least))...)
		case free < n.all:
			findings = append(findings, warning("disk", remedy, "%s free for %s, which can grow to %s", gib(free), dirs, gib(n.all))...)
		default:
			findings = append(findings, ok("disk", "%s free for %s, which can grow to %s", gib(free), dirs, gib(n.all))...)
		}
	}
	return findings
}

// existing is the folder itself or the nearest above it that is there.
func (m Machine) existing(dir string) string {
	dir = filepath.Clean(dir)
	for !m.exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// filesystem tells folders on different filesystems apart.
func (m Machine) filesystem(dir string) string {
	dir = m.existing(dir)
	info, err := os.Stat(m.path(dir))
	if err != nil {
		return dir
	}
	if stat, is := info.Sys().(*syscall.Stat_t); is {
		return fmt.Sprint(stat.Dev)
	}
	return dir
}

func (m Machine) memory(_ context.Context, opts Options) []Finding {
	text, _ := m.read("/proc/meminfo")
	kib := func(key string) (int64, bool) {
		for line := range strings.Lines(text) {
			if value, found := strings.CutPrefix(line, key+":"); found {
				n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
				return n * 1024, err == nil
			}
		}
		return 0, false
	}
	available, found := kib("MemAvailable")
	total, foundTotal := kib("MemTotal")
	if !found || !foundTotal {
		return warning("memory", "", "/proc/meminfo does not tell the memory")
	}
	if available < opts.MemoryBytes {
		return problem("memory", "end what uses it, or lower budget.node.memory", "%s of %s available, one node may use %s", gib(available), gib(total), gib(opts.MemoryBytes))
	}
	findings := ok("memory", "%s of %s available", gib(available), gib(total))
	if mounts, _ := m.read("/proc/self/mounts"); !strings.Contains(mounts, " fuse.lxcfs ") {
		findings = append(findings, ok("lxcfs", "lxcfs does not run: nodes see the machine's memory, not their limit")...)
	}
	return findings
}

func (m Machine) processors(context.Context, Options) []Finding {
	// kubeadm's preflight check NumCPU asks for 2.
	if m.CPUs < 2 {
		return warning("cpus", "use a machine with 2 or more", "%d CPU; kubeadm asks for 2", m.CPUs)
	}
	return ok("cpus", "%d CPUs", m.CPUs)
}

func (m Machine) quotas(_ context.Context, opts Options) []Finding {
	switch {
	case !opts.nodesHere():
		return nil
	case opts.HostDriver == "embedded":
		return ok("quotas", "the pool's driver is dir, where per-node disk quotas do not work; the pool is a file of %s, so nodes cannot fill the machine", gib(opts.PoolBytes))
	}
	return warning("quotas", "use a pool on zfs, btrfs, lvm or a filesystem of its own",
		"on a pool of driver dir without project quotas, per-node disk quotas do not work: a node can fill the machine")
}
