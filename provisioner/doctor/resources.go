package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

func gib(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

func (m Machine) disk(_ context.Context, opts Options) []Finding {
	if opts.CacheDir == "" {
		return nil
	}
	dir := filepath.Clean(opts.CacheDir)
	for !m.exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := m.Free(m.path(dir))
	if err != nil {
		return warning("disk", "", "the space free for %s could not be told: %v", opts.CacheDir, err)
	}
	const remedy = "free some, or put the cache elsewhere with XDG_CACHE_HOME"
	// The pool's file is sparse: a pool that could grow past the disk is a
	// warning, one that cannot hold a prepared image and a node is a problem.
	const onePrepared = 6 << 30
	least := opts.CacheBytes + min(opts.PoolBytes, onePrepared)
	switch all := opts.CacheBytes + opts.PoolBytes; {
	case free < least:
		return problem("disk", remedy, "%s free for %s, at least %s are needed", gib(free), opts.CacheDir, gib(least))
	case free < all:
		return warning("disk", remedy, "%s free for %s, cache and a full pool take %s", gib(free), opts.CacheDir, gib(all))
	}
	return ok("disk", "%s free for %s", gib(free), opts.CacheDir)
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
	if opts.HostDriver == "embedded" {
		return ok("quotas", "the pool's driver is dir, where per-node disk quotas do not work; the pool is a file of %s, so nodes cannot fill the machine", gib(opts.PoolBytes))
	}
	return warning("quotas", "use a pool on zfs, btrfs, lvm or a filesystem of its own",
		"on a pool of driver dir without project quotas, per-node disk quotas do not work: a node can fill the machine")
}
