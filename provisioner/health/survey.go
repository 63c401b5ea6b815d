package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Survey is what a look at a cluster found that somebody else made.
type Survey struct {
	// Server is the API server's address.
	Server string `json:"server"`
	// Distro is kubeadm, k3s or rke2; empty where that cannot be told.
	Distro string            `json:"distro,omitempty"`
	Nodes  []SurveyedNode    `json:"nodes"`
	Checks []matrix.Evidence `json:"checks"`
	// Skipped says what was not looked at: it is not known to be healthy.
	Skipped []Skipped `json:"notLookedAt"`
}

// SurveyedNode is one that the API lists.
type SurveyedNode struct {
	Name    string      `json:"name"`
	Role    matrix.Role `json:"role"`
	Kubelet string      `json:"kubelet"`
	// Instance is the Incus instance that it is said to be; empty where none was
	// named.
	Instance string `json:"instance,omitempty"`
}

// Skipped is a check, or a part of one, that did not look.
type Skipped struct {
	Check string `json:"check"`
	Node  string `json:"node,omitempty"`
	Why   string `json:"why"`
}

// Judge judges what was looked at: matrix.Pass, matrix.Fail, or matrix.Blocked
// where it could not be told.
func (s Survey) Judge() matrix.Judgement {
	return matrix.JudgePhase(matrix.PhaseResult{Phase: matrix.PhaseBaseline, Evidence: s.Checks})
}

// UnreachableError is an API server that gave no answer.
type UnreachableError struct {
	Server string
	Err    error
}

// Error names the server and the remedy.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the API server %s gave no answer: %v; see that the address is right and can be reached from here, and that the server runs", e.Server, e.Err)
}

// Unwrap is the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// RefusedError is an API server that does not let the kubeconfig's user look.
type RefusedError struct {
	Server string
	Err    error
}

// Error names the server and the remedy.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the API server %s does not let this user look: %v; take an administrator's kubeconfig, or one that may list nodes and pods", e.Server, e.Err)
}

// Unwrap is the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// UnknownNodeError is an instance that is said to be a node that the cluster
// does not have.
type UnknownNodeError struct {
	Node  string
	Known []string
}

// Error names the node, and those that there are.
func (e *UnknownNodeError) Error() string {
	return fmt.Sprintf("the cluster has no node %q; it has %s", e.Node, strings.Join(e.Known, ", "))
}

// SurveyOptions say what to look at.
type SurveyOptions struct {
	Config *rest.Config
	// Instances are the Incus instances of nodes, by the node's name in the API.
	Instances map[string]provisioner.Node
	// Wait is how long the cluster may take to become healthy, Stability how long
	// the system's pods are watched for restarts from then on.
	Wait, Stability time.Duration
}

// Look checks a cluster as a cell's baseline does, as far as that can be seen
// without changing anything: it creates nothing in the cluster and writes
// nothing on its nodes. Checks that need more are among those skipped. An error
// is one of the types above, ctx's, or a failure to make a client.
func Look(ctx context.Context, o SurveyOptions) (Survey, error) {
	ctx = quiet(ctx)
	survey := Survey{Server: o.Config.Host, Nodes: []SurveyedNode{}, Skipped: []Skipped{}}
	api, err := newClient(rest.CopyConfig(o.Config))
	if err != nil {
		return survey, err
	}
	defer api.close()
	within, cancel := context.WithTimeout(ctx, o.Wait)
	defer cancel()
	list, err := api.listNodes(within)
	var said *apierrors.StatusError
	switch {
	case ctx.Err() != nil:
		return survey, fmt.Errorf("look at the cluster %s: %w", survey.Server, context.Cause(ctx))
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return survey, &RefusedError{Server: survey.Server, Err: err}
	case errors.As(err, &said):
		survey.Checks = []matrix.Evidence{{Check: "nodes-ready", Outcome: matrix.Unhealthy, Saw: err.Error(), Want: "a list of nodes"}}
		survey.skip("every other check", "", "the API did not list its nodes")
		return survey, nil
	case err != nil:
		return survey, &UnreachableError{Server: survey.Server, Err: err}
	}

	servers := slices.IndexFunc(list, func(n corev1.Node) bool { return roleOf(n) == matrix.RoleAgent })
	if servers < 0 {
		servers = len(list)
	}
	all := &provisioner.Cluster{Cell: matrix.Cell{Topology: matrix.Topology{Servers: servers, Agents: len(list) - servers}}}
	seen := &provisioner.Cluster{}
	for _, n := range list {
		node := SurveyedNode{Name: n.Name, Role: roleOf(n), Kubelet: n.Status.NodeInfo.KubeletVersion}
		all.Nodes = append(all.Nodes, listed{name: n.Name})
		if instance, ok := o.Instances[n.Name]; ok {
			node.Instance = instance.Name()
			seen.Nodes = append(seen.Nodes, listed{Node: instance, name: n.Name})
		}
		survey.Nodes = append(survey.Nodes, node)
	}
	for name := range o.Instances {
		if !slices.ContainsFunc(list, func(n corev1.Node) bool { return n.Name == name }) {
			return survey, &UnknownNodeError{Node: name, Known: namesOf(list)}
		}
	}
	survey.Distro = api.distro(within, list)
	whole := sessionOf(all, api, expectations{})
	whole.systemOnly = true
	if whole.expect, err = survey.expectations(api.without(within, survey.Distro, list)); err != nil {
		return survey, err
	}
	survey.skipUnseen(whole.expect)
	checks := []provisioner.Check{apiEndpoint("livez"), apiEndpoint("readyz"), nodesReady(nil), taints(nil), systemPods(nil), restartStability(o.Stability)}
	running, stop := context.WithTimeout(ctx, o.Wait+o.Stability+windowMargin)
	defer stop()
	var inNodes []matrix.Evidence
	var both sync.WaitGroup
	if len(seen.Nodes) > 0 {
		both.Go(func() {
			looks := []provisioner.Check{instanceFacts(), kernelMessages()}
			if whole.expect.proxyHealth != 0 {
				looks = append(looks, proxyHealth())
			}
			within, cancel := context.WithTimeout(ctx, o.Wait)
			defer cancel()
			inNodes, _ = sessionOf(seen, api, whole.expect).runAll(within, looks)
		})
	}
	survey.Checks, _ = whole.runAll(running, checks)
	both.Wait()
	survey.Checks = append(survey.Checks, inNodes...)
	if ctx.Err() != nil {
		return survey, fmt.Errorf("look at the cluster %s: %w", survey.Server, context.Cause(ctx))
	}
	return survey, nil
}

func (s *Survey) skip(check, node, why string) {
	s.Skipped = append(s.Skipped, Skipped{Check: check, Node: node, Why: why})
}

// skipUnseen lists the checks of a baseline that cannot look here.
func (s *Survey) skipUnseen(expect expectations) {
	for _, n := range s.Nodes {
		if n.Instance != "" {
			continue
		}
		why := fmt.Sprintf("it needs the node's Incus instance: --node %s=INSTANCE", n.Name)
		s.skip(instanceFacts().name, n.Name, why)
		s.skip(kernelMessages().name, n.Name, why)
		if expect.proxyHealth != 0 {
			s.skip(proxyHealth().name, n.Name, why)
		}
	}
	probes := []provisioner.Check{workload(nil), daemonSet(nil), job(), rollout(nil, ""), execInPods(nil), logsOfPods(nil)}
	for _, c := range append(probes, network(nil)...) {
		s.skip(c.Name(), "", "it needs the probe workload, which is not created in a cluster of somebody else's")
	}
	for _, c := range append(afterwards(), controlPlane(), leases()) {
		s.skip(c.Name(), "", "it asks for more than nodes and pods, or for what came before, in a cluster of somebody else's")
	}
}

// without is what a cluster's owner chose to do without. Only what the cluster
// declares counts: a pod that is not there yet, or any more, is missing. What
// cannot be read declares nothing.
type without struct{ kubeProxy, etcdPods bool }

// without reads what a cluster of the distribution declares: kubeadm in its
// ConfigMap (ClusterConfiguration, kubeadm.k8s.io/v1beta4) and by a DaemonSet of
// kube-proxy, k3s and RKE2 in the annotation of their arguments and the label of
// members of etcd.
func (c *client) without(ctx context.Context, distro string, nodes []corev1.Node) (w without) {
	switch distro {
	case "kubeadm":
		if config, err := c.core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeadmConfig, metav1.GetOptions{}); err == nil {
			var declared struct {
				Etcd struct {
					External *struct{} `json:"external"`
				} `json:"etcd"`
			}
			w.etcdPods = yaml.Unmarshal([]byte(config.Data["ClusterConfiguration"]), &declared) == nil && declared.Etcd.External != nil
		}
		_, err := c.apps.DaemonSets(metav1.NamespaceSystem).Get(ctx, "kube-proxy", metav1.GetOptions{})
		w.kubeProxy = apierrors.IsNotFound(err)
	case "k3s", "rke2":
		w.etcdPods = !slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Labels["node-role.kubernetes.io/etcd"] == "true" })
		w.kubeProxy = slices.ContainsFunc(nodes, func(n corev1.Node) bool {
			var args []string
			if json.Unmarshal([]byte(n.Annotations[distro+".io/node-args"]), &args) != nil {
				return false
			}
			// A flag's value stands apart from it, and a flag may have none.
			at := slices.Index(args, "--disable-kube-proxy")
			return at >= 0 && (at+1 == len(args) || args[at+1] != "false")
		})
	}
	return w
}

// expectations are the distribution's, less what its owner does without, which is
// skipped.
func (s *Survey) expectations(w without) (expectations, error) {
	if s.Distro == "" {
		s.skip("system-pods", "", "of which pods this distribution's clusters are made is not known: only those that are there were looked at")
		s.skip(proxyHealth().name, "", "the cluster is not known to have a kube-proxy")
		return expectations{dns: clusterDNS, ownersTaints: true}, nil
	}
	e, err := expected(matrix.Cell{Distro: matrix.Distro{Name: s.Distro}})
	if err != nil {
		return e, err
	}
	e.dnsReplicas, e.ownersTaints, e.proxyLoopback = 1, true, true
	const etcd = "etcd"
	if w.etcdPods && slices.Contains(e.staticPods, etcd) {
		e.staticPods = slices.DeleteFunc(e.staticPods, func(name string) bool { return name == etcd })
		s.skip("system-pods", "", "the datastore: the cluster's own servers do not hold it")
	}
	if w.kubeProxy {
		e.perNode, e.proxyHealth = slices.DeleteFunc(e.perNode, func(label string) bool { return strings.HasSuffix(label, "=kube-proxy") }), 0
		s.skip(proxyHealth().name, "", "the cluster does without kube-proxy")
	}
	return e, nil
}

// listNodes lists the nodes, servers first, and tries until ctx ends or the
// server says that the user may not.
func (c *client) listNodes(ctx context.Context) ([]corev1.Node, error) {
	for {
		l, err := c.core.Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			slices.SortStableFunc(l.Items, func(a, b corev1.Node) int {
				// server sorts behind agent
				if by := strings.Compare(string(roleOf(b)), string(roleOf(a))); by != 0 {
					return by
				}
				return strings.Compare(a.Name, b.Name)
			})
			return l.Items, nil
		}
		if apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) {
			return nil, err
		}
		if pause(ctx, pollInterval); ctx.Err() != nil {
			return nil, err
		}
	}
}

// roleOf is a node's role as its labels tell it.
func roleOf(n corev1.Node) matrix.Role {
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if _, ok := n.Labels[label]; ok {
			return matrix.RoleServer
		}
	}
	return matrix.RoleAgent
}

func namesOf(nodes []corev1.Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// kubeadmConfig is the ConfigMap that kubeadm keeps of how it made a cluster.
const kubeadmConfig = "kubeadm-config"

// distro tells by what installed a cluster; empty where nothing shows it.
func (c *client) distro(ctx context.Context, nodes []corev1.Node) string {
	for _, n := range nodes {
		_, build, _ := strings.Cut(n.Status.NodeInfo.KubeletVersion, "+")
		for _, name := range []string{"k3s", "rke2"} {
			if strings.HasPrefix(build, name) {
				return name
			}
		}
	}
	if _, err := c.core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, kubeadmConfig, metav1.GetOptions{}); err == nil {
		return "kubeadm"
	}
	return ""
}

// listed is a node by its name in the API. Where its instance is known it is
// that one, and nothing but a name otherwise.
type listed struct {
	provisioner.Node
	name string
}

// Name is the one that the API knows.
func (l listed) Name() string { return l.name }

// instanceFacts: what kubelet reports of its node is what its instance shows.
func instanceFacts() check {
	return check{name: nodeFacts(nil).name, every: pollInterval, begin: func(s *session) look {
		return eachNode(nil, s, func(ctx context.Context, _ int, node provisioner.Node, api corev1.Node) (finding, error) {
			start, err := s.start(ctx, node)
			if err != nil {
				return finding{}, err
			}
			out, err := run(ctx, node, "sh", "-c", "uname -r && cat /etc/os-release")
			if err != nil {
				return finding{}, fmt.Errorf("read the kernel and the OS of node %s: %w", node.Name(), err)
			}
			kernel, release, _ := strings.Cut(out, "\n")
			info := api.Status.NodeInfo
			return same([]compared{
				{"boot ID", info.BootID, start.bootID},
				{"kernel", info.KernelVersion, kernel},
				{"operating system", info.OSImage, parseOSRelease(release).pretty},
			}), nil
		})
	}}
}
