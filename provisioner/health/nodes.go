package health

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// eachNode looks at every node of the cluster, as the API and the node itself
// show it. before is nil or holds what was there before a restart: then a node
// whose kubelet has not reported since is not looked at further.
func eachNode(before *Snapshot, s *session, one func(ctx context.Context, i int, node provisioner.Node, api corev1.Node) (finding, error)) look {
	return func(ctx context.Context) ([]finding, error) {
		listed, err := s.nodes(ctx)
		if err != nil {
			return nil, err
		}
		var findings []finding
		for i, n := range s.cluster.Nodes {
			api, ok := listed[n.Name()]
			if !ok {
				findings = append(findings, finding{node: n.Name(), saw: "the API does not have this node", want: "a node of this name"})
				continue
			}
			stale, err := s.staleNode(ctx, before, n, api)
			if err != nil {
				return nil, err
			}
			if stale != "" {
				findings = append(findings, finding{node: n.Name(), saw: stale, want: "a report of this start's kubelet"})
				continue
			}
			f, err := one(ctx, i, n, api)
			if err != nil {
				return nil, err
			}
			f.node = n.Name()
			findings = append(findings, f)
		}
		return findings, nil
	}
}

// staleNode says why what the API tells of a node is from before the restart;
// empty if it is not, or if there was none.
func (s *session) staleNode(ctx context.Context, before *Snapshot, node provisioner.Node, api corev1.Node) (string, error) {
	if before == nil {
		return "", nil
	}
	was, err := before.of(node.Name())
	if err != nil {
		return "", err
	}
	now, err := s.start(ctx, node)
	if err != nil {
		return "", err
	}
	switch reported := api.Status.NodeInfo.BootID; {
	case now.bootID == was.BootID:
		return "boot ID " + now.bootID + " is that of before the restart", nil
	case reported != now.bootID:
		return fmt.Sprintf("the API still shows the start with boot ID %s; this is %s", reported, now.bootID), nil
	}
	return "", nil
}

// nodesReady: every node of the topology is there under its instance's name
// and Ready, and no other.
func nodesReady(before *Snapshot) check {
	return check{name: "nodes-ready", every: pollInterval, begin: func(s *session) look {
		each := eachNode(before, s, func(_ context.Context, _ int, _ provisioner.Node, api corev1.Node) (finding, error) {
			return readiness(api), nil
		})
		return func(ctx context.Context) ([]finding, error) {
			findings, err := each(ctx)
			if err != nil {
				return nil, err
			}
			listed, err := s.nodes(ctx)
			if err != nil {
				return nil, err
			}
			var extra []string
			for name := range listed {
				if !slices.ContainsFunc(s.cluster.Nodes, func(n provisioner.Node) bool { return n.Name() == name }) {
					extra = append(extra, name)
				}
			}
			slices.Sort(extra)
			if want := s.cluster.Cell.Topology.Nodes(); len(extra) > 0 || len(s.cluster.Nodes) != want {
				findings = append(findings, finding{
					saw:  fmt.Sprintf("%d nodes were made; the API has %d others: %s", len(s.cluster.Nodes), len(extra), strings.Join(extra, ", ")),
					want: fmt.Sprintf("the topology's %d nodes and no other", want),
				})
			}
			return findings, nil
		}
	}}
}

// readiness is a node's condition Ready.
func readiness(api corev1.Node) finding {
	f := finding{want: "Ready", saw: "no Ready condition yet"}
	for _, c := range api.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if f.ok = c.Status == corev1.ConditionTrue; f.ok {
			f.saw = "Ready"
		} else {
			f.saw = fmt.Sprintf("Ready is %s: %s: %s", c.Status, c.Reason, shorten(c.Message))
		}
	}
	return f
}

// nodesReturned: of the nodes named, each is Ready by a report of this start's
// kubelet, and a server's control plane runs again.
func nodesReturned(before Snapshot, names []string) check {
	return check{name: "returned", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			listed, err := s.nodes(ctx)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for i, n := range s.cluster.Nodes {
				if !slices.Contains(names, n.Name()) {
					continue
				}
				f := finding{node: n.Name(), want: "Ready since its restart, and a server's control plane with it"}
				if f.saw, err = s.notReturned(ctx, before, i, listed); err != nil {
					return nil, err
				}
				if f.ok = f.saw == ""; f.ok {
					f.saw = "Ready"
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// notReturned says why the cluster's i-th node is not back; empty if it is.
func (s *session) notReturned(ctx context.Context, before Snapshot, i int, listed map[string]corev1.Node) (string, error) {
	node := s.cluster.Nodes[i]
	api, ok := listed[node.Name()]
	if !ok {
		return "the API does not have this node", nil
	}
	if stale, err := s.staleNode(ctx, &before, node, api); err != nil || stale != "" {
		return stale, err
	}
	if f := readiness(api); !f.ok {
		return f.saw, nil
	}
	if !s.server(i) {
		return "", nil
	}
	pods, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	for _, prefix := range s.expect.staticPods {
		name := prefix + "-" + node.Name()
		k := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Namespace == metav1.NamespaceSystem && p.Name == name })
		if k < 0 {
			return "no pod " + name, nil
		}
		if problem, err := s.podProblem(ctx, &before, &pods[k]); err != nil || problem != "" {
			return name + ": " + problem, err
		}
	}
	return "", nil
}

// taints: no taint but those that the distribution gives its servers, and no node
// is cordoned.
func taints(before *Snapshot) check {
	return check{name: "taints", every: pollInterval, begin: func(s *session) look {
		return eachNode(before, s, func(_ context.Context, i int, _ provisioner.Node, api corev1.Node) (finding, error) {
			var wrong, right []string
			for _, t := range api.Spec.Taints {
				allowed := s.server(i) && slices.ContainsFunc(s.expect.serverTaints, func(a corev1.Taint) bool {
					return a.Key == t.Key && a.Effect == t.Effect && a.Value == t.Value
				})
				if allowed || s.expect.ownersTaints && !setByKubernetes(t) {
					right = append(right, t.ToString())
				} else {
					wrong = append(wrong, t.ToString())
				}
			}
			if api.Spec.Unschedulable {
				// The taint of it is a controller's, and may take its time.
				wrong = append(wrong, "the node is cordoned")
			}
			if len(wrong) > 0 {
				return finding{saw: strings.Join(wrong, ", "), want: "no taint but a server's own"}, nil
			}
			saw := "no taints"
			if len(right) > 0 {
				saw = "only " + strings.Join(right, ", ")
			}
			return finding{ok: true, saw: saw}, nil
		})
	}}
}

// setByKubernetes says whether a taint tells of a node that is not well.
func setByKubernetes(t corev1.Taint) bool {
	domain, _, _ := strings.Cut(t.Key, "/")
	return domain == "node.kubernetes.io" || domain == "node.cloudprovider.kubernetes.io"
}

// nodeFacts: what kubelet reports of its node is what the cell says.
func nodeFacts(before *Snapshot) check {
	return check{name: "node-facts", every: pollInterval, begin: func(s *session) look {
		kernel := ""
		releases := map[string]osRelease{}
		return eachNode(before, s, func(ctx context.Context, i int, node provisioner.Node, api corev1.Node) (finding, error) {
			if kernel == "" {
				facts, err := s.cluster.Host.Facts(ctx)
				if err != nil {
					return finding{}, &blindError{fmt.Errorf("read the host's facts: %w", err)}
				}
				kernel = facts.Kernel
			}
			release, ok := releases[node.Name()]
			if !ok {
				content, err := run(ctx, node, "cat", "/etc/os-release")
				if err != nil {
					return finding{}, fmt.Errorf("read /etc/os-release of node %s: %w", node.Name(), err)
				}
				release = parseOSRelease(content)
				releases[node.Name()] = release
			}
			info := api.Status.NodeInfo
			address := ""
			for _, a := range api.Status.Addresses {
				if a.Type == corev1.NodeInternalIP && address == "" {
					address = a.Address
				}
			}
			cell := s.cluster.Cell
			os := cell.OSOf(cell.Topology.Role(i))
			f := same([]compared{
				{"kubelet", info.KubeletVersion, "v" + cell.Distro.Version},
				{"kernel", info.KernelVersion, kernel},
				{"operating system", info.OSImage, release.pretty},
				{"operating system ID", release.id, os.Family()},
				{"operating system version", release.version, os.Release()},
				{"internal IP", address, node.Address()},
			})
			if runtime, version, _ := strings.Cut(info.ContainerRuntimeVersion, "://"); runtime != "containerd" || version == "" {
				f.differs(fmt.Sprintf("container runtime %q", info.ContainerRuntimeVersion), `"containerd://" and a version`)
			}
			if f.ok {
				f.saw = fmt.Sprintf("kubelet %s, kernel %s, %s, %s, %s",
					info.KubeletVersion, info.KernelVersion, info.OSImage, info.ContainerRuntimeVersion, address)
			}
			return f, nil
		})
	}}
}

// compared is a fact, and what it should be.
type compared struct{ what, is, should string }

// same finds the facts that are not what they should be.
func same(facts []compared) finding {
	f := finding{ok: true}
	var all []string
	for _, c := range facts {
		all = append(all, c.what+" "+c.is)
		if c.is != c.should {
			f.differs(fmt.Sprintf("%s %q", c.what, c.is), fmt.Sprintf("%q", c.should))
		}
	}
	if f.ok {
		f.saw = strings.Join(all, ", ")
	}
	return f
}

// differs adds something that is not as it should be.
func (f *finding) differs(saw, want string) {
	if !f.ok {
		saw, want = f.saw+", "+saw, f.want+", "+want
	}
	f.ok, f.saw, f.want = false, saw, want
}

// osRelease is what is needed of os-release(5).
type osRelease struct{ id, version, pretty string }

func parseOSRelease(content string) osRelease {
	var r osRelease
	for line := range strings.Lines(content) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			r.id = value
		case "VERSION_ID":
			r.version = value
		case "PRETTY_NAME":
			r.pretty = value
		}
	}
	return r
}

// proxyHealth: kube-proxy's own health server says that its rules are up to
// date.
func proxyHealth() check {
	return check{name: "kube-proxy-healthz", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				f := finding{node: n.Name(), want: "200 OK"}
				ask := s.getPlain
				if s.expect.proxyLoopback {
					ask = getLoopback
				}
				answer, err := ask(ctx, n, s.expect.proxyHealth, "/healthz")
				switch {
				case err != nil && isBlind(err):
					return nil, err
				case err != nil:
					f.saw = err.Error()
				default:
					f.saw, f.ok = answer.status, answer.good()
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// answer is one to an HTTP request: its status, as "200 OK", and some of its body.
type answer struct{ status, body string }

func (a answer) good() bool { return strings.HasPrefix(a.status, "200 ") }

// getPlain asks a node's port over plain HTTP.
func (s *session) getPlain(ctx context.Context, node provisioner.Node, port int, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	conn, err := dial(ctx, s.cluster.Host, node.Name(), port)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return answer{}, fmt.Errorf("get %s on port %d: %w", path, port, err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, node.Address()); err != nil {
		return answer{}, fmt.Errorf("get %s on port %d: %w", path, port, err)
	}
	got, err := readAnswer(conn)
	if err != nil {
		return answer{}, fmt.Errorf("get %s on port %d: %w", path, port, err)
	}
	return got, nil
}

// getLoopback is getPlain for a port that only the node itself reaches, through
// its bash.
func getLoopback(ctx context.Context, node provisioner.Node, port int, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	out, err := run(ctx, node, "bash", "-c",
		`exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3 && cat <&3`, "get", strconv.Itoa(port), path)
	if err != nil {
		return answer{}, fmt.Errorf("get %s on port %d: %w", path, port, err)
	}
	got, err := readAnswer(strings.NewReader(out))
	if err != nil {
		return answer{}, fmt.Errorf("get %s on port %d: %w", path, port, err)
	}
	return got, nil
}

// leaseRenewed: each node's kubelet has renewed its lease since the restart.
func leaseRenewed(before Snapshot) check {
	return check{name: "lease-renewed", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				was, err := before.of(n.Name())
				if err != nil {
					return nil, err
				}
				start, err := s.start(ctx, n)
				if err != nil {
					return nil, err
				}
				renewed, err := s.leaseTime(ctx, n.Name())
				if err != nil {
					return nil, err
				}
				f := finding{node: n.Name(), want: "renewed after the node started"}
				// The start is known to the second, and the last second of
				// before must not count.
				since := renewed.Sub(start.at)
				switch {
				case start.bootID == was.BootID:
					f.saw = "the node was not restarted"
				case !renewed.After(was.LeaseRenewed):
					f.saw = "not renewed since before the restart"
				case since <= time.Second:
					f.saw = fmt.Sprintf("last renewed %s before the node started", -since.Round(time.Millisecond))
				default:
					f.ok, f.saw = true, fmt.Sprintf("renewed %s after the node started", since.Round(time.Millisecond))
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// bootID: each node has another boot ID than before the restart, and its
// kubelet reports it.
func bootID(before Snapshot) check {
	return check{name: "boot-id", every: pollInterval, begin: func(s *session) look {
		return eachNode(&before, s, func(_ context.Context, _ int, node provisioner.Node, api corev1.Node) (finding, error) {
			return finding{ok: true, saw: fmt.Sprintf("%s, before the restart %s",
				api.Status.NodeInfo.BootID, before.Nodes[node.Name()].BootID)}, nil
		})
	}}
}

// kmsgScript prints what /dev/kmsg is, then whether systemd was told to make a
// link to /dev/null in its place, as a fix does, and how many users the node's own
// user namespace has.
const kmsgScript = `if [ -L /dev/kmsg ]; then echo "a link to $(readlink /dev/kmsg)"
elif [ -e /dev/kmsg ]; then stat -c 'a %F %t:%T' /dev/kmsg
else echo nothing; fi
if grep -qshE '^L[+]? +/dev/kmsg .*/dev/null$' /etc/tmpfiles.d/*.conf; then echo wanted; else echo -; fi
awk '{ n += $3 } END { print n }' /proc/self/uid_map`

const (
	kernelDevice = "a character special file 1:b"
	nullLink     = "a link to /dev/null"
	// everyUser is how many users there are outside of every user namespace.
	everyUser = "4294967295"
)

// kernelMessages: /dev/kmsg is the kernel's own, from which kubelet hears what was
// killed for want of memory, or what fixes put in its place. In a user namespace
// kubelet does without.
func kernelMessages() check {
	return check{name: "kmsg", every: execInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				out, err := run(ctx, n, "sh", "-c", kmsgScript)
				if err != nil {
					return nil, fmt.Errorf("read what /dev/kmsg of node %s is: %w", n.Name(), err)
				}
				said := strings.Split(strings.TrimSpace(out), "\n")
				if len(said) != 3 {
					return nil, fmt.Errorf("read what /dev/kmsg of node %s is: it printed %q", n.Name(), shorten(out))
				}
				findings = append(findings, finding{node: n.Name(), saw: "/dev/kmsg is " + said[0], want: kernelDevice,
					ok: said[0] == kernelDevice || said[0] == nullLink && said[1] == "wanted" || said[0] == "nothing" && said[2] != everyUser})
			}
			return findings, nil
		}
	}}
}

// readAnswer reads an HTTP response.
func readAnswer(r io.Reader) (answer, error) {
	response, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	return answer{response.Status, string(body)}, err
}
