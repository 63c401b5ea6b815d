package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// session is what the checks of one phase share: connections, and lists that
// are fetched once for all of them, so that looking often costs the API
// server little.
type session struct {
	cluster *provisioner.Cluster
	api     *client
	expect  expectations
	// systemOnly: pods of other namespaces than the system's are not looked at.
	systemOnly bool
	nodeList   view[[]corev1.Node]
	podList    view[[]corev1.Pod]
	starts     map[string]*view[nodeStart]
	states     map[string]*view[nodeState]
}

// newSession connects to nothing yet.
func newSession(cluster *provisioner.Cluster) (*session, error) {
	expect, err := expected(cluster.Cell)
	if err != nil {
		return nil, err
	}
	api, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	return sessionOf(cluster, api, expect), nil
}

func sessionOf(cluster *provisioner.Cluster, api *client, expect expectations) *session {
	s := &session{cluster: cluster, api: api, expect: expect, starts: map[string]*view[nodeStart]{}, states: map[string]*view[nodeState]{}}
	for _, n := range cluster.Nodes {
		s.starts[n.Name()], s.states[n.Name()] = &view[nodeStart]{}, &view[nodeState]{}
	}
	return s
}

func (s *session) close() { s.api.close() }

// server says whether the cluster's i-th node is a server: servers come first.
func (s *session) server(i int) bool { return i < s.cluster.Cell.Topology.Servers }

// nodes lists the API's nodes, as of at most pollInterval ago.
func (s *session) nodes(ctx context.Context) (map[string]corev1.Node, error) {
	list, err := s.nodeList.get(ctx, pollInterval/2, func(ctx context.Context) ([]corev1.Node, error) {
		l, err := s.api.core.Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		return l.Items, nil
	})
	byName := make(map[string]corev1.Node, len(list))
	for _, n := range list {
		byName[n.Name] = n
	}
	return byName, err
}

// pods lists the pods of every namespace, as of at most pollInterval ago.
func (s *session) pods(ctx context.Context) ([]corev1.Pod, error) {
	return s.podList.get(ctx, pollInterval/2, func(ctx context.Context) ([]corev1.Pod, error) {
		l, err := s.api.core.Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		if s.systemOnly {
			l.Items = slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return !slices.Contains(systemNamespaces[:], p.Namespace) })
		}
		slices.SortFunc(l.Items, func(a, b corev1.Pod) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
		return l.Items, nil
	})
}

// nodeStart is which start of a node this is.
type nodeStart struct {
	// bootID is /proc/sys/kernel/random/boot_id, which LXC makes anew at every
	// start of a container.
	bootID string
	// at is when its init started, by the node's clock, to the second.
	at time.Time
}

// startScript prints a nodeStart. The uptime that a container sees may be its
// host's, so its init is asked.
const startScript = `cat /proc/sys/kernel/random/boot_id && ` +
	`at=$(TZ=UTC systemctl show --property=UserspaceTimestamp --value) && test -n "$at" && date --date="$at" +%s`

// startAge is how old the answer may be when a node was last asked: it takes
// several processes, and a node that starts again by itself is seen soon enough.
const startAge = 10 * time.Second

// start asks a node when it was started.
func (s *session) start(ctx context.Context, node provisioner.Node) (nodeStart, error) {
	v, ok := s.starts[node.Name()]
	if !ok {
		return readStart(ctx, node)
	}
	return v.get(ctx, startAge, func(ctx context.Context) (nodeStart, error) { return readStart(ctx, node) })
}

func readStart(ctx context.Context, node provisioner.Node) (nodeStart, error) {
	out, err := run(ctx, node, "sh", "-c", startScript)
	if err != nil {
		return nodeStart{}, fmt.Errorf("read when node %s started: %w", node.Name(), err)
	}
	fields := strings.Fields(out)
	if len(fields) != 2 {
		return nodeStart{}, fmt.Errorf("read when node %s started: it printed %q", node.Name(), out)
	}
	seconds, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return nodeStart{}, fmt.Errorf("read when node %s started: %w", node.Name(), err)
	}
	return nodeStart{bootID: fields[0], at: time.Unix(seconds, 0)}, nil
}

// view is a value that is fetched again once it is too old. Whoever asks
// meanwhile waits for the same answer.
type view[T any] struct {
	turn  sync.Mutex
	at    time.Time
	value T
	err   error
}

func (v *view[T]) get(ctx context.Context, maxAge time.Duration, fetch func(context.Context) (T, error)) (T, error) {
	v.turn.Lock()
	defer v.turn.Unlock()
	if v.err != nil {
		maxAge = min(maxAge, pollInterval/2)
	}
	if v.at.IsZero() || time.Since(v.at) > maxAge {
		v.value, v.err = fetch(ctx)
		v.at = time.Now()
	}
	return v.value, v.err
}

// hasLabel says whether a pod has a label given as KEY=VALUE.
func hasLabel(pod *corev1.Pod, label string) bool {
	key, value, _ := strings.Cut(label, "=")
	return pod.Labels[key] == value
}
