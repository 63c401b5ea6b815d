package cell

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// bootPoll is how often a booting node is asked whether it is up; each try is
// an exec of some 20 ms.
const bootPoll = 50 * time.Millisecond

// boot waits until systemd has brought the node up. A node that came up with
// failed units is unhealthy, and says which.
func (x *run) boot(ctx context.Context, node provisioner.Node) (matrix.Evidence, error) {
	e := matrix.Evidence{Check: "boot", Node: node.Name(), Want: "running"}
	started := x.Clock.Now()
	for {
		out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c",
			`systemctl is-system-running --wait 2>&1; systemctl --failed --plain --no-legend 2>/dev/null`}})
		var failed *provisioner.CommandError
		if err != nil && !errors.As(err, &failed) {
			return e, fmt.Errorf("wait for node %s to boot: %w", node.Name(), err)
		}
		state, units, _ := strings.Cut(strings.TrimSpace(out.Stdout), "\n")
		e.Took = matrix.Duration(x.Clock.Now().Sub(started))
		switch state {
		case "running":
			e.Outcome, e.Saw = matrix.Healthy, "systemd is running"
			return e, nil
		case "degraded":
			e.Outcome, e.Saw = matrix.Unhealthy, "systemd is degraded, failed units: "+strings.Join(strings.Fields(units), " ")
			return e, nil
		}
		if err := x.Clock.Sleep(ctx, bootPoll); err != nil {
			return e, &provisioner.NodeError{Node: node.Name(), Action: "boot", Err: fmt.Errorf("systemd is %q: %w", state, err)}
		}
	}
}

// observation prints one fact a line.
const observation = `echo kernel=$(uname -r)
echo cgroup=$(stat -fc %T /sys/fs/cgroup)
. /etc/os-release; echo id=$ID; echo version=$VERSION_ID
echo systemd=$(systemctl --version | head -n 1)
echo containerd=$(containerd --version 2>/dev/null)
echo runc=$(runc --version 2>/dev/null | head -n 1)
echo kubernetes=$(kubelet --version 2>/dev/null)
echo boot=$(cat /proc/sys/kernel/random/boot_id)`

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+~-]*|\d+`)

// observe reads a node's facts; boots are the boot IDs seen before.
func observe(ctx context.Context, node provisioner.Node, boots []string) (matrix.NodeFacts, error) {
	f := matrix.NodeFacts{Node: node.Name()}
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", observation}})
	if err != nil {
		return f, fmt.Errorf("observe node %s: %w", node.Name(), err)
	}
	seen := map[string]string{}
	for line := range strings.Lines(out.Stdout) {
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
	f.Systemd = versionNumber.FindString(seen["systemd"])
	f.Containerd = versionNumber.FindString(seen["containerd"])
	f.Runc = versionNumber.FindString(seen["runc"])
	f.Kubernetes = strings.TrimPrefix(versionNumber.FindString(seen["kubernetes"]), "v")
	if seen["boot"] == "" {
		return f, fmt.Errorf("observe node %s: it shows no boot ID", node.Name())
	}
	f.BootIDs = append(append([]string(nil), boots...), seen["boot"])
	return f, nil
}

// logs reads a node's logs, all at once, and its console.
func (x *run) logs(ctx context.Context, node provisioner.Node, errs *[]error) map[string][]byte {
	logs := map[string][]byte{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for name, command := range x.Distro.LogCommands() {
		wait.Go(func() {
			out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", command + " 2>&1"}})
			var failed *provisioner.CommandError
			mu.Lock()
			defer mu.Unlock()
			if err != nil && !errors.As(err, &failed) {
				*errs = append(*errs, fmt.Errorf("collect %s: %w", name, err))
				return
			}
			logs[name] = []byte(out.Stdout)
		})
	}
	wait.Wait()
	console, err := node.Console(ctx)
	if err != nil {
		*errs = append(*errs, err)
	}
	logs["console.log"] = []byte(console)
	return logs
}
