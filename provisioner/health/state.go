package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// stateScript prints what only the node itself shows of what goes wrong beside
// Kubernetes, in sections. Everything is in one script, since each process costs
// a slow host much. On cgroup v1 each controller has a hierarchy of its own.
const stateScript = `set -e
section() { echo "== $1"; }
section units
systemctl --failed --plain --no-legend --full
section processes
all=$(ps -e -o stat= -o pid= -o comm= -o args=)
printf '%s\n' "$all" | grep -F containerd-shim || true
section tasks
for folder in /run/containerd /run/k3s/containerd; do
  folder=$folder/io.containerd.runtime.v2.task/k8s.io
  if [ -d "$folder" ]; then echo known; ls "$folder"; fi
done
section cores
ls -d /core /core.* /var/lib/systemd/coredump/* 2>/dev/null || true
section figures
cd /sys/fs/cgroup
for figure in memory/memory.usage_in_bytes memory.current pids/pids.current pids.current cpuacct/cpuacct.usage cpu.stat; do
  if [ -r "$figure" ]; then sed "s|^|$figure |" "$figure"; fi
done
section killed
memory=.
if [ -d memory ]; then memory=./memory; fi
find $memory \( -name memory.events -o -name memory.oom_control \) -exec grep -sH '^oom_kill ' {} + 2>/dev/null || true
section end`

// nodeState is what a node showed of itself, by the sections of stateScript.
type nodeState map[string][]string

// readState asks a node for its state. What is not whole is no state, and says
// nothing of the cluster, which was healthy until now.
func readState(ctx context.Context, node provisioner.Node) (nodeState, error) {
	out, err := run(ctx, node, "sh", "-c", stateScript)
	if err != nil {
		return nil, &blindError{fmt.Errorf("read the state of node %s: %w", node.Name(), err)}
	}
	state, section := nodeState{}, ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "== "); ok {
			section = name
			state[section] = nil
		} else if line != "" {
			state[section] = append(state[section], line)
		}
	}
	if _, whole := state["end"]; !whole {
		return nil, &blindError{fmt.Errorf("read the state of node %s: it printed %q", node.Name(), shorten(out))}
	}
	return state, nil
}

// state is a node's state, as of at most a poll ago.
func (s *session) state(ctx context.Context, node provisioner.Node) (nodeState, error) {
	return s.states[node.Name()].get(ctx, pollInterval, func(ctx context.Context) (nodeState, error) { return readState(ctx, node) })
}

// ofNodes looks at the state of each node.
func ofNodes(name string, one func(ctx context.Context, s *session, node provisioner.Node, state nodeState) (finding, error)) check {
	return check{name: name, every: execInterval, late: true, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				state, err := s.state(ctx, n)
				if err != nil {
					return nil, err
				}
				f, err := one(ctx, s, n, state)
				if err != nil {
					return nil, err
				}
				f.node = n.Name()
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// ended is the finding of what does not go away by itself.
func ended(wrong []string, right string) finding {
	f := none(wrong, right)
	f.final = true
	return f
}

// none is the finding that a list of what must not be is empty.
func none(wrong []string, right string) finding {
	if len(wrong) == 0 {
		return finding{ok: true, saw: right}
	}
	return finding{saw: strings.Join(wrong, "; "), want: right}
}

// units: systemd has no unit that failed, as when the node booted. Scopes are the
// containers', whose ends crashes looks at.
func units() check {
	return ofNodes("units", func(_ context.Context, _ *session, _ provisioner.Node, state nodeState) (finding, error) {
		var failed []string
		for _, line := range state["units"] {
			if unit := strings.Fields(line)[0]; !strings.HasSuffix(unit, ".scope") {
				failed = append(failed, "failed unit "+unit)
			}
		}
		return ended(failed, "no unit failed"), nil
	})
}

// shims: no shim of containerd's for Kubernetes is left over: dead and not waited
// for, or without the task that it is for.
func shims() check {
	return ofNodes("shims", func(_ context.Context, _ *session, node provisioner.Node, state nodeState) (finding, error) {
		var left []string
		running := 0
		for _, line := range state["processes"] {
			f := strings.Fields(line)
			if len(f) < 3 || !strings.HasPrefix(f[2], "containerd-shim") {
				continue
			}
			if strings.HasPrefix(f[0], "Z") {
				left = append(left, fmt.Sprintf("process %s of %s is a zombie", f[1], f[2]))
				continue
			}
			if after(f, "-namespace") != "k8s.io" {
				continue
			}
			running++
			// The shim of a task that begins or ends is by itself for a moment: the next
			// look shows whether it stays.
			if id := after(f, "-id"); id != "" && !slices.Contains(state["tasks"], id) {
				left = append(left, fmt.Sprintf("process %s is the shim of %.12s, which containerd does not have", f[1], id))
			}
		}
		if running > 0 && len(state["tasks"]) == 0 {
			return finding{}, &blindError{fmt.Errorf("which tasks containerd has on node %s is not known", node.Name())}
		}
		return none(left, fmt.Sprintf("none of %d shims is left over", running)), nil
	})
}

// after is the word behind a flag; empty where it has none.
func after(words []string, flag string) string {
	if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// fatal are the signals with which a program ends that did what it must not, as
// the exit codes of containers.
var fatal = map[int32]string{132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 139: "SIGSEGV"}

// crashes: no program left a core, and the last end of no container was for a
// fault of its own or for want of memory.
func crashes() check {
	return ofNodes("crashes", func(ctx context.Context, s *session, node provisioner.Node, state nodeState) (finding, error) {
		var crashed []string
		for _, file := range state["cores"] {
			crashed = append(crashed, "core "+file)
		}
		pods, err := s.pods(ctx)
		if err != nil {
			return finding{}, err
		}
		here := 0
		for _, p := range pods {
			if p.Spec.NodeName != node.Name() {
				continue
			}
			here++
			for _, c := range p.Status.ContainerStatuses {
				last := c.LastTerminationState.Terminated
				if c.State.Terminated != nil {
					last = c.State.Terminated
				}
				switch {
				case last == nil:
				case last.Reason == "OOMKilled":
					crashed = append(crashed, fmt.Sprintf("container %s of pod %s was killed for want of memory", c.Name, p.Name))
				case fatal[last.ExitCode] != "":
					crashed = append(crashed, fmt.Sprintf("container %s of pod %s ended by %s", c.Name, p.Name, fatal[last.ExitCode]))
				}
			}
		}
		if here == 0 {
			crashed = append(crashed, "the API has no pods on the node")
		}
		return ended(crashed, "no core, and no container that crashed"), nil
	})
}

// resources: nothing was killed for want of memory since the node started, by the
// counts of its cgroups. What it uses by their figures is told, as far as they
// tell it.
func resources() check {
	return ofNodes("resources", func(_ context.Context, _ *session, node provisioner.Node, state nodeState) (finding, error) {
		if len(state["killed"]) == 0 {
			return finding{}, &blindError{fmt.Errorf("no cgroup of node %s counts what was killed for want of memory", node.Name())}
		}
		var killed []string
		for _, line := range state["killed"] {
			if cgroup, count, _ := strings.Cut(line, ":"); count != "oom_kill 0" {
				killed = append(killed, fmt.Sprintf("%s in cgroup %s", count, cgroup))
			}
		}
		uses := []string{"nothing killed for want of memory"}
		for _, line := range state["figures"] {
			f := strings.Fields(line)
			value, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				continue
			}
			switch strings.Join(f[:len(f)-1], " ") {
			case "memory/memory.usage_in_bytes", "memory.current":
				uses = append(uses, fmt.Sprintf("%d MiB of memory", value>>20))
			case "pids/pids.current", "pids.current":
				uses = append(uses, fmt.Sprintf("%d processes and threads", value))
			case "cpuacct/cpuacct.usage":
				uses = append(uses, fmt.Sprintf("%s of CPU time", time.Duration(value).Round(100*time.Millisecond)))
			case "cpu.stat usage_usec":
				uses = append(uses, fmt.Sprintf("%s of CPU time", (time.Duration(value)*time.Microsecond).Round(100*time.Millisecond)))
			}
		}
		return ended(killed, strings.Join(uses, ", ")), nil
	})
}
