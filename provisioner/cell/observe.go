package cell

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// bootPoll is how often a booting node is asked whether it is up; each try is
// an exec of some 20 ms.
const bootPoll = 50 * time.Millisecond

// bootState prints systemd's state on its first line and failed units below.
// systemd itself waits, but not for long: a unit that hangs must show as
// "starting" and not as a command that never ends. Its arguments are units that
// are not waited for: where all else has started they are the first line, behind
// the word awaiting.
const bootState = `state=$(timeout 2 systemctl is-system-running --wait 2>&1)
[ -n "$state" ] || state=$(systemctl is-system-running 2>&1)
awaited= others=
for unit in $(systemctl list-jobs --full --plain --no-legend 2>/dev/null | sed -n 's/^ *[0-9][0-9]*  *\([^ ]*\) .* running *$/\1/p'); do
  case " $* " in *" $unit "*) awaited="$awaited $unit" ;; *) others="$others $unit" ;; esac
done
[ "$state" != starting ] || [ -z "$awaited" ] || [ -n "$others" ] || state="awaiting$awaited"
echo "$state" | head -n 1; systemctl --failed --plain --no-legend 2>/dev/null`

// boot waits until systemd has brought the node up, but for the units that are
// named. A node that came up with failed units is unhealthy, and says which.
func (x *run) boot(ctx context.Context, node provisioner.Node, but ...string) (matrix.Evidence, error) {
	e := matrix.Evidence{Check: "boot", Node: node.Name(), Want: "running"}
	started := x.Clock.Now()
	last := ""
	// A node that answered and did not come up did it itself; one that never
	// answered may be the host's doing.
	late := func(err error) error {
		if last == "" {
			return fmt.Errorf("wait for node %s to boot: %w", node.Name(), err)
		}
		return &provisioner.NodeError{Node: node.Name(), Action: "boot", Err: fmt.Errorf("systemd is %q: %w", last, err)}
	}
	for {
		out, err := node.Exec(ctx, provisioner.Command{Args: append([]string{"sh", "-c", bootState, "boot"}, but...)})
		var failed *provisioner.CommandError
		if err != nil && !errors.As(err, &failed) {
			return e, late(err)
		}
		state, units, _ := strings.Cut(strings.TrimSpace(out.Stdout), "\n")
		e.Took = matrix.Duration(x.Clock.Now().Sub(started))
		state, awaited, _ := strings.Cut(state, "awaiting ")
		switch {
		case state == "running":
			e.Outcome, e.Saw = matrix.Healthy, "systemd is running"
			return e, nil
		case awaited != "" && units == "":
			e.Outcome, e.Saw = matrix.Healthy, "systemd has started all but "+awaited
			return e, nil
		case state == "degraded" || awaited != "":
			e.Outcome, e.Saw = matrix.Unhealthy, "systemd is degraded, failed units: "+strings.Join(strings.Fields(units), " ")
			return e, nil
		case state == "":
			state = "not answering"
		}
		last = state
		if err := x.Clock.Sleep(ctx, bootPoll); err != nil {
			return e, late(err)
		}
	}
}

// observation prints one fact a line. k3s and RKE2 bring a runtime of their own,
// which is there once they have started, and say what they are themselves.
const observation = `PATH=$PATH:/usr/local/bin:/var/lib/rancher/rke2/bin:/var/lib/rancher/k3s/data/current/bin
echo kernel=$(uname -r)
echo cgroup=$(stat -fc %T /sys/fs/cgroup)
. /etc/os-release; echo id=$ID; echo version=$VERSION_ID
echo systemd=$(systemctl --version | head -n 1)
echo networkManager=$(systemctl show --property LoadState --value NetworkManager.service)
echo firewalld=$(systemctl show --property LoadState --value firewalld.service)
echo selinux=$(cat /sys/fs/selinux/enforce 2>/dev/null || echo none)
readonly=
for key in vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes net.netfilter.nf_conntrack_max; do
  file=/proc/sys/$(echo $key | tr . /)
  [ ! -e $file ] || [ -w $file ] || readonly="$readonly $key"
done
echo readonly=$readonly
echo containerd=$(containerd --version 2>/dev/null)
echo runc=$(runc --version 2>/dev/null | head -n 1)
echo kubernetes=$(k3s --version 2>/dev/null || rke2 --version 2>/dev/null || kubelet --version 2>/dev/null)
echo boot=$(cat /proc/sys/kernel/random/boot_id)`

// A bare number may be part of a module's path, as in containerd/v2.
var (
	versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+~-]*`)
	systemdNumber = regexp.MustCompile(`\d+`)
)

// observe reads a node's facts and adds its boot ID to those seen before.
func (x *run) observe(ctx context.Context, i int, node provisioner.Node) error {
	f, boot, err := look(ctx, node)
	if err != nil {
		return err
	}
	f.BootIDs = append(slices.Clone(x.attempt.Nodes[i].BootIDs), boot)
	x.attempt.Nodes[i] = f
	return nil
}

// observeRuntime reads the facts again of a node that had no runtime when it
// booted, and has one since it was installed.
func (x *run) observeRuntime(ctx context.Context, i int, node provisioner.Node) error {
	if x.attempt.Nodes[i].Containerd != "" {
		return nil
	}
	f, _, err := look(ctx, node)
	if err != nil {
		return err
	}
	f.BootIDs = x.attempt.Nodes[i].BootIDs
	x.attempt.Nodes[i] = f
	return nil
}

// look reads a node's facts and its boot ID.
func look(ctx context.Context, node provisioner.Node) (f matrix.NodeFacts, boot string, err error) {
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", observation}})
	if err != nil {
		return f, "", fmt.Errorf("observe node %s: %w", node.Name(), err)
	}
	f, boot = nodeFacts(out.Stdout)
	if boot == "" {
		return f, "", fmt.Errorf("observe node %s: it shows no boot ID", node.Name())
	}
	f.Node = node.Name()
	return f, boot, nil
}

// nodeFacts reads what observation printed.
func nodeFacts(printed string) (f matrix.NodeFacts, boot string) {
	seen := map[string]string{}
	for line := range strings.Lines(printed) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		seen[key] = value
	}
	f.Kernel, f.OSID, f.OSVersion = seen["kernel"], seen["id"], seen["version"]
	switch seen["cgroup"] {
	case "cgroup2fs":
		f.Cgroup = "v2"
	case "tmpfs":
		f.Cgroup = "v1"
	}
	f.Systemd = systemdNumber.FindString(seen["systemd"])
	f.NetworkManager, f.Firewalld = isThere(seen["networkManager"]), isThere(seen["firewalld"])
	f.SELinux = map[string]string{"1": "enforcing", "0": "permissive", "none": "disabled"}[seen["selinux"]]
	if readonly, observed := seen["readonly"]; observed {
		f.ReadOnlySysctls = append([]string{}, strings.Fields(readonly)...)
	}
	f.Containerd = versionNumber.FindString(seen["containerd"])
	f.Runc = versionNumber.FindString(seen["runc"])
	f.Kubernetes = versionNumber.FindString(seen["kubernetes"])
	return f, seen["boot"]
}

// isThere reads a unit's LoadState: one that is masked is not used, and as good
// as not there. Anything unclear is not observed.
func isThere(loadState string) *bool {
	switch loadState {
	case "loaded":
		return new(true)
	case "not-found", "masked":
		return new(false)
	}
	return nil
}

// state prints what of a node's present state no log tells, a fact a line.
const state = `for unit in containerd kubelet k3s k3s-agent rke2-server rke2-agent; do
  [ "$(systemctl show --property LoadState --value "$unit")" = loaded ] || continue
  # kubeadm's kubelet ends and is started again until kubeadm configures it.
  [ "$unit" != kubelet ] || [ -e /var/lib/kubelet/config.yaml ] || { echo "unit kubelet has no configuration yet"; continue; }
  echo "unit $unit is $(systemctl show --property ActiveState --value "$unit") ($(systemctl show --property SubState --value "$unit")), restarted $(systemctl show --property NRestarts --value "$unit") times"
done
# An agent of RKE2 has a manifest as well, that of kube-proxy.
if ls /etc/kubernetes/manifests/*.yaml >/dev/null 2>&1 || ls /var/lib/rancher/rke2/agent/pod-manifests/kube-[acs]*.yaml >/dev/null 2>&1; then
  for process in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    echo "control plane: $(pgrep -f -c "^([^ ]*/)?$process ") processes of $process"
  done
fi
echo "device /dev/kmsg: $(stat --format %F /dev/kmsg 2>&1) $(readlink /dev/kmsg)"
for link in /sys/class/net/*; do echo "link ${link##*/}: mtu $(cat "$link/mtu")"; done
echo "filtered ports:"; iptables-save | grep -E -- '--dports? .* -j (DROP|REJECT)' | grep -v '^-A KUBE-'
df --output=target,pcent,ipcent / /var/lib/kubelet /var/lib/containerd`

// logs reads a node's logs, all at once, its present state and its console.
func (x *run) logs(ctx context.Context, node provisioner.Node) (map[string][]byte, error) {
	logs := map[string][]byte{}
	var errs []error
	var mu sync.Mutex
	var wait sync.WaitGroup
	commands := map[string]string{"state.txt": state}
	maps.Copy(commands, x.Distro.LogCommands())
	for name, command := range commands {
		wait.Go(func() {
			out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", "exec 2>&1\n" + command}})
			var failed *provisioner.CommandError
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !errors.As(err, &failed) {
				errs = append(errs, fmt.Errorf("collect %s of node %s: %w", name, node.Name(), err))
				// How it begins is better than nothing.
				if out.Stdout == "" {
					return
				}
			}
			logs[name] = []byte(out.Stdout)
		})
	}
	wait.Wait()
	console, err := node.Console(ctx)
	if err != nil {
		errs = append(errs, err)
	}
	logs["console.log"] = []byte(console)
	return logs, errors.Join(errs...)
}
