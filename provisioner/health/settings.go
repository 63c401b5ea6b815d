package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// notOurs are folders below which pods, their runtimes and CNIs mount, or systemd
// does for each start of a service or a login. Below debugfs the host's kernel
// mounts tracefs whenever somebody looks there.
var notOurs = [...]string{
	"/var/lib/kubelet/", "/var/lib/containerd/", "/run/containerd/", "/var/lib/rancher/", "/run/k3s/", "/run/netns/",
	"/run/calico/", "/run/cilium/", "/run/credentials/", "/run/systemd/", "/run/user/", "/sys/kernel/debug/",
}

// readMounts reads what the node's init has mounted, by where: the type, whether it can
// be written, run and trusted, and how mounts propagate. Of several at one place it
// is the one that shows. What is not the node's own is left out, and so is what is
// mounted when somebody looks at it.
func readMounts(ctx context.Context, node provisioner.Node) (map[string]string, error) {
	out, err := run(ctx, node, "cat", "/proc/1/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts of node %s: %w", node.Name(), err)
	}
	mounts := map[string]string{}
	for line := range strings.Lines(out) {
		// proc_pid_mountinfo(5): ID, parent, device, root, target, options, tags of
		// propagation up to a dash; then type, source and the superblock's options.
		of, fs, ok := strings.Cut(strings.TrimSpace(line), " - ")
		mount, super := strings.Fields(of), strings.Fields(fs)
		if !ok || len(mount) < 6 || len(super) < 3 {
			return nil, fmt.Errorf("read the mounts of node %s: it printed %q", node.Name(), shorten(line))
		}
		target := mount[4]
		below := func(folder string) bool { return strings.HasPrefix(target, folder) }
		if slices.ContainsFunc(notOurs[:], below) || super[0] == "autofs" || super[0] == "binfmt_misc" {
			continue
		}
		options := strings.Split(mount[5], ",")
		shown := []string{"rw"}
		if slices.Contains(options, "ro") || slices.Contains(strings.Split(super[2], ","), "ro") {
			shown[0] = "ro"
		}
		for _, option := range []string{"nosuid", "nodev", "noexec"} {
			if slices.Contains(options, option) {
				shown = append(shown, option)
			}
		}
		var propagation []string
		for _, tag := range mount[6:] {
			switch name, _, _ := strings.Cut(tag, ":"); name {
			case "shared", "unbindable":
				propagation = append(propagation, name)
			case "master":
				propagation = append(propagation, "slave")
			}
		}
		if propagation == nil {
			propagation = []string{"private"}
		}
		mounts[target] = fmt.Sprintf("%s %s %s", super[0], strings.Join(shown, ","), strings.Join(propagation, ","))
	}
	if _, ok := mounts["/"]; !ok {
		return nil, fmt.Errorf("read the mounts of node %s: no root is mounted", node.Name())
	}
	return mounts, nil
}

// kubeletSysctls are those that kubelet sets where they differ from what it wants
// (setupKernelTunables in pkg/kubelet/cm/container_manager_linux.go).
var kubeletSysctls = [...]string{
	"vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
}

// sysctlsScript prints the value of each sysctl that it is given the name of.
const sysctlsScript = `for key; do
  file=/proc/sys/$(echo "$key" | tr . /)
  if [ -r "$file" ]; then echo "$key" $(cat "$file"); fi
done`

// readSysctls reads sysctls as the node has them; those that it has not are left out.
func readSysctls(ctx context.Context, node provisioner.Node, keys []string) (map[string]string, error) {
	out, err := run(ctx, node, append([]string{"sh", "-ec", sysctlsScript, "sysctls"}, keys...)...)
	if err != nil {
		return nil, fmt.Errorf("read the sysctls of node %s: %w", node.Name(), err)
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[key] = value
		}
	}
	return values, nil
}

// sysctlKeys are those that fixes and kubelet set.
func sysctlKeys(cluster *provisioner.Cluster) []string {
	return slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(cluster.Sysctls), kubeletSysctls[:]...))))
}

// sameMounts: each node's own mounts are those of before, at the same places, with
// the same types, options and propagation.
func sameMounts(before Snapshot) check {
	return unchanged("mounts", before, func(n NodeSnapshot) map[string]string { return n.Mounts },
		func(ctx context.Context, _ *session, node provisioner.Node) (map[string]string, error) {
			return readMounts(ctx, node)
		})
}

// sameSysctls: what fixes and kubelet set of each node's sysctls has the values of
// before.
func sameSysctls(before Snapshot) check {
	return unchanged("sysctls", before, func(n NodeSnapshot) map[string]string { return n.Sysctls },
		func(ctx context.Context, _ *session, node provisioner.Node) (map[string]string, error) {
			return readSysctls(ctx, node, slices.Sorted(maps.Keys(before.Nodes[node.Name()].Sysctls)))
		})
}

// unchanged: something of each node is as it was before the restart. It may take
// its time to become so.
func unchanged(name string, before Snapshot, of func(NodeSnapshot) map[string]string,
	read func(ctx context.Context, s *session, node provisioner.Node) (map[string]string, error)) check {
	return check{name: name, every: execInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				old, err := before.of(n.Name())
				if err != nil {
					return nil, err
				}
				was := of(old)
				if len(was) == 0 {
					return nil, &blindError{fmt.Errorf("which %s node %s had before the restart is not known", name, n.Name())}
				}
				now, err := read(ctx, s, n)
				if err != nil {
					return nil, err
				}
				f := none(differences(was, now), fmt.Sprintf("the %d %s of before the restart", len(was), name))
				f.node = n.Name()
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// differences are what came, went or changed, in order.
func differences(was, now map[string]string) (differ []string) {
	for key, value := range now {
		if old, known := was[key]; !known {
			differ = append(differ, fmt.Sprintf("%s is new: %s", key, value))
		} else if old != value {
			differ = append(differ, fmt.Sprintf("%s is %s, was %s", key, value, old))
		}
	}
	for key, old := range was {
		if _, there := now[key]; !there {
			differ = append(differ, fmt.Sprintf("%s is gone, was %s", key, old))
		}
	}
	slices.Sort(differ)
	return differ
}
