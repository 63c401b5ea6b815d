package health

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Snapshot is what a cluster was before a restart, for AfterRestart to compare
// with. It holds no secret.
type Snapshot struct {
	// Nonce is what was left in the object and in each node's file.
	Nonce string
	// Object and System are the UIDs of the object that was left and of the
	// namespace kube-system, which is the cluster's own identity.
	Object, System string
	// Rolling is the revision whose rollout was begun since; empty where none was.
	Rolling string
	// Nodes by name.
	Nodes map[string]NodeSnapshot
}

// NodeSnapshot is what a node was before a restart.
type NodeSnapshot struct {
	BootID string
	// LeaseRenewed is when the node's kubelet had last renewed its lease.
	LeaseRenewed time.Time
	// Containers are the IDs of the containers in its pods that are to run on.
	Containers []string
	// PKI holds the SHA-256 of each of the cluster's certificates, by path.
	PKI map[string]string
	// Mounts are the node's own, by where: type, options and propagation.
	Mounts map[string]string
	// Sysctls are those that fixes and kubelet set, with the node's values.
	Sysctls map[string]string
}

// of is what a node was. That it is not known says nothing of the node.
func (s Snapshot) of(node string) (NodeSnapshot, error) {
	n, ok := s.Nodes[node]
	if !ok || n.BootID == "" {
		return NodeSnapshot{}, &blindError{fmt.Errorf("what node %s was before the restart is not known", node)}
	}
	return n, nil
}

const (
	survivorObject = "survivor"
	survivorKey    = "nonce"
	survivorFile   = probeFolder + "/survivor"
)

// newNonce is a random text that nothing else left.
func newNonce() string { return rand.Text() }

// TakeSnapshot leaves an object in the cluster and a file on each of its nodes
// that must survive a restart, and records what else must change or stay. It
// needs a cluster that passed Baseline, tries again until ctx ends, and
// returns the last failure then: a *provisioner.NodeError where the cluster
// did it.
func TakeSnapshot(ctx context.Context, cluster *provisioner.Cluster) (Snapshot, error) {
	ctx = quiet(ctx)
	s, err := newSession(cluster)
	if err != nil {
		return Snapshot{}, fmt.Errorf("take a snapshot of the cluster: %w", err)
	}
	defer s.close()
	var saw error
	for {
		snapshot, err := s.takeSnapshot(ctx)
		if err == nil {
			return snapshot, nil
		}
		// A try that the deadline cut short tells less than the one before it.
		if saw == nil || ctx.Err() == nil {
			saw = err
		}
		if ctx.Err() == nil {
			pause(ctx, pollInterval)
		}
		switch {
		case ctx.Err() == nil:
		case isBlind(saw) || provisioner.IsNodes(saw):
			return Snapshot{}, fmt.Errorf("take a snapshot of the cluster: %w", saw)
		default:
			return Snapshot{}, &provisioner.NodeError{Node: cluster.Nodes[0].Name(), Action: "take a snapshot of the cluster through", Err: saw}
		}
	}
}

func (s *session) takeSnapshot(ctx context.Context) (Snapshot, error) {
	snapshot := Snapshot{Nonce: newNonce(), Nodes: map[string]NodeSnapshot{}}
	object, err := s.leaveObject(ctx, snapshot.Nonce)
	if err != nil {
		return Snapshot{}, err
	}
	snapshot.Object = string(object.UID)
	system, err := s.api.core.Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return Snapshot{}, fmt.Errorf("get namespace %s: %w", metav1.NamespaceSystem, err)
	}
	snapshot.System = string(system.UID)
	probes, err := s.probePods(ctx, nil)
	if err != nil {
		return Snapshot{}, err
	}
	pods, err := s.pods(ctx)
	if err != nil {
		return Snapshot{}, err
	}
	claimant, err := s.claimant(ctx, nil)
	if err != nil {
		return Snapshot{}, fmt.Errorf("leave a file in a claimed volume: %w", err)
	}
	if _, err := s.api.exec(ctx, claimant, "/probe", "write", claimFile, snapshot.Nonce); err != nil {
		return Snapshot{}, fmt.Errorf("leave a file in a claimed volume: %w", err)
	}
	for i, node := range s.cluster.Nodes {
		if probes[i].problem != "" {
			return Snapshot{}, fmt.Errorf("leave a file on node %s: %s", node.Name(), probes[i].finding().saw)
		}
		if _, err := s.api.exec(ctx, probes[i].name, "/probe", "write", survivorFile, snapshot.Nonce); err != nil {
			return Snapshot{}, fmt.Errorf("leave a file on node %s: %w", node.Name(), err)
		}
		start, err := s.start(ctx, node)
		if err != nil {
			return Snapshot{}, err
		}
		n := NodeSnapshot{BootID: start.bootID}
		if n.LeaseRenewed, err = s.leaseTime(ctx, node.Name()); err != nil {
			return Snapshot{}, err
		}
		if n.PKI, err = s.pki(ctx, node); err != nil {
			return Snapshot{}, err
		}
		if n.Mounts, err = readMounts(ctx, node); err != nil {
			return Snapshot{}, err
		}
		if n.Sysctls, err = readSysctls(ctx, node, sysctlKeys(s.cluster)); err != nil {
			return Snapshot{}, err
		}
		for _, p := range pods {
			if p.Spec.NodeName != node.Name() || ofJob(&p) || hasLabel(&p, rolloutLabel) {
				continue // It ends by itself, or with the next look.
			}
			for _, c := range p.Status.ContainerStatuses {
				n.Containers = append(n.Containers, c.ContainerID)
			}
		}
		snapshot.Nodes[node.Name()] = n
	}
	return snapshot, nil
}

// leaveObject writes the nonce to the object that must survive.
func (s *session) leaveObject(ctx context.Context, nonce string) (*corev1.ConfigMap, error) {
	maps := s.api.core.ConfigMaps(probeNamespace)
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: survivorObject, Namespace: probeNamespace},
		Data:       map[string]string{survivorKey: nonce},
	}
	left, err := maps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		left, err = maps.Create(ctx, object, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("leave config map %s: %w", survivorObject, err)
	}
	return left, nil
}

// leaseTime is when a node's kubelet last renewed its lease.
func (s *session) leaseTime(ctx context.Context, node string) (time.Time, error) {
	lease, err := s.api.leases.Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("get lease of node %s: %w", node, err)
	}
	if lease.Spec.RenewTime == nil {
		return time.Time{}, fmt.Errorf("get lease of node %s: it was never renewed", node)
	}
	return lease.Spec.RenewTime.Time, nil
}

// pki sums up the cluster's certificates on a node.
func (s *session) pki(ctx context.Context, node provisioner.Node) (map[string]string, error) {
	// Deeper than this lie a runtime's files, of which there are very many.
	out, err := run(ctx, node, "find", s.expect.pki, "-maxdepth", "4", "-name", s.expect.certificates, "-type", "f", "-exec", "sha256sum", "{}", "+")
	if err != nil {
		return nil, fmt.Errorf("sum up the certificates of node %s: %w", node.Name(), err)
	}
	sums := map[string]string{}
	for line := range strings.Lines(out) {
		sum, file, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || len(sum) != 64 {
			return nil, fmt.Errorf("sum up the certificates of node %s: it printed %q", node.Name(), shorten(out))
		}
		sums[file] = sum
	}
	if _, ok := sums[path.Join(s.expect.pki, s.expect.ca)]; !ok {
		return nil, fmt.Errorf("sum up the certificates of node %s: no %s in %s", node.Name(), s.expect.ca, s.expect.pki)
	}
	return sums, nil
}

// samePKI: no certificate of the cluster changed, came or went.
func samePKI(before Snapshot) check {
	return check{name: "same-pki", every: execInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			var findings []finding
			for _, n := range s.cluster.Nodes {
				old, err := before.of(n.Name())
				if err != nil {
					return nil, err
				}
				now, err := s.pki(ctx, n)
				if err != nil {
					return nil, err
				}
				var differ []string
				was := old.PKI
				for file, sum := range now {
					switch {
					case was[file] == "":
						differ = append(differ, file+" is new")
					case was[file] != sum:
						differ = append(differ, file+" changed")
					}
				}
				for file := range was {
					if now[file] == "" {
						differ = append(differ, file+" is gone")
					}
				}
				slices.Sort(differ)
				f := finding{node: n.Name(), ok: len(differ) == 0, final: true, want: "the certificates of before the restart",
					saw: fmt.Sprintf("%d certificates, none changed", len(now))}
				if !f.ok {
					f.saw = strings.Join(differ, ", ")
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// objectSurvived: the object that was left is there, and it is the same
// cluster.
func objectSurvived(before Snapshot) check {
	return check{name: "object-survived", every: pollInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			if before.Nonce == "" {
				return nil, &blindError{errors.New("nothing was left before the restart")}
			}
			object, err := s.api.core.ConfigMaps(probeNamespace).Get(ctx, survivorObject, metav1.GetOptions{})
			if err != nil {
				return nil, fmt.Errorf("get config map %s: %w", survivorObject, err)
			}
			system, err := s.api.core.Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
			if err != nil {
				return nil, fmt.Errorf("get namespace %s: %w", metav1.NamespaceSystem, err)
			}
			f := finding{want: "the object of before the restart"}
			switch {
			case string(system.UID) != before.System:
				f.saw, f.final = fmt.Sprintf("another cluster: kube-system has UID %s, had %s", system.UID, before.System), true
			case string(object.UID) != before.Object || object.Data[survivorKey] != before.Nonce:
				f.saw, f.final = fmt.Sprintf("config map %s has UID %s and nonce %q, had %s and %q", survivorObject,
					object.UID, object.Data[survivorKey], before.Object, before.Nonce), true
			default:
				f.ok, f.saw = true, fmt.Sprintf("config map %s with nonce %s", survivorObject, before.Nonce)
			}
			return []finding{f}, nil
		}
	}}
}

// fileSurvived: the file that was left in each node's hostPath volume is
// there, as its pod reads it: one that is new since a restart of its node, if
// restarted is what was before it.
func fileSurvived(before Snapshot, restarted *Snapshot) check {
	return fromEachProbe("file-survived", restarted, func(ctx context.Context, s *session, from probePod, _ []probePod) (finding, error) {
		out, err := s.api.exec(ctx, from.name, "/probe", "read", survivorFile)
		if err != nil {
			return finding{want: before.Nonce}, err
		}
		return finding{ok: out.stdout == before.Nonce, saw: fmt.Sprintf("%s holds %q", survivorFile, shorten(out.stdout)), want: before.Nonce}, nil
	})
}
