package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// listed are the resources that are listed to see whether a cluster is well.
const listed = "nodes,pods,services,endpointslices.discovery.k8s.io,leases.coordination.k8s.io"

// start is which start of a node is waited for.
type start struct {
	bootID string
	// at is when the node was there again; zero before any restart. Times in
	// the API are whole seconds.
	at time.Time
}

// settled is a cluster of one node that is well, as the API shows it.
type settled struct {
	probePod, probeService string
}

// look reads a list of what listed names. The error says what is not well yet:
// the same facts that the harness's checks wait for.
func look(list []byte, node string, s start) (settled, error) {
	var in struct{ Items []json.RawMessage }
	if err := json.Unmarshal(list, &in); err != nil {
		return settled{}, fmt.Errorf("read the list of %s: %w", listed, err)
	}
	var found settled
	nodes, proxies := 0, 0
	// Who serves a service: its pods, and its endpoints, which after a restart
	// are for a while those of before.
	var dns, dnsEndpoints, probes, probeEndpoints []string
	static := map[string]bool{"etcd-" + node: true, "kube-apiserver-" + node: true, "kube-controller-manager-" + node: true, "kube-scheduler-" + node: true}
	renewed := s.at.IsZero()
	for _, item := range in.Items {
		var kind metav1.TypeMeta
		if err := json.Unmarshal(item, &kind); err != nil {
			return settled{}, fmt.Errorf("read the list of %s: %w", listed, err)
		}
		var err error
		switch kind.Kind {
		case "Node":
			nodes++
			err = each(item, func(n corev1.Node) error { return nodeWell(n, node, s) })
		case "Pod":
			err = each(item, func(p corev1.Pod) error {
				delete(static, p.Name)
				switch {
				case p.Labels["k8s-app"] == "kube-proxy":
					proxies++
				case p.Labels["k8s-app"] == "kube-dns":
					dns = append(dns, p.Status.PodIP)
				case p.Namespace == probeNamespace:
					found.probePod = p.Name
					probes = append(probes, p.Status.PodIP)
				}
				return podWell(p, s)
			})
		case "Service":
			err = each(item, func(v corev1.Service) error {
				if v.Namespace == probeNamespace {
					found.probeService = v.Spec.ClusterIP
				}
				return nil
			})
		case "EndpointSlice":
			err = each(item, func(e discoveryv1.EndpointSlice) error {
				switch e.Namespace + "/" + e.Labels[discoveryv1.LabelServiceName] {
				case metav1.NamespaceSystem + "/kube-dns":
					dnsEndpoints = append(dnsEndpoints, ready(e)...)
				case probeNamespace + "/probe":
					probeEndpoints = append(probeEndpoints, ready(e)...)
				}
				return nil
			})
		case "Lease":
			err = each(item, func(l coordinationv1.Lease) error {
				if l.Namespace == corev1.NamespaceNodeLease && l.Name == node && l.Spec.RenewTime != nil && l.Spec.RenewTime.After(s.at) {
					renewed = true
				}
				return nil
			})
		}
		if err != nil {
			return settled{}, err
		}
	}
	switch {
	case nodes != 1:
		return settled{}, fmt.Errorf("%d nodes, want one", nodes)
	case len(static) > 0 || proxies != 1 || len(dns) != 2:
		return settled{}, fmt.Errorf("%d static pods are missing, and there are %d of kube-proxy and %d of DNS", len(static), proxies, len(dns))
	case found.probePod == "" || found.probeService == "":
		return settled{}, fmt.Errorf("no probe yet")
	case !same(dns, dnsEndpoints) || !same(probes, probeEndpoints):
		return settled{}, fmt.Errorf("the endpoints of DNS are %v and of the probe %v, their pods %v and %v", dnsEndpoints, probeEndpoints, dns, probes)
	case !renewed:
		return settled{}, fmt.Errorf("lease of node %s is not renewed since its start", node)
	}
	return found, nil
}

// ready are the addresses that a slice leads to.
func ready(e discoveryv1.EndpointSlice) (addresses []string) {
	for _, one := range e.Endpoints {
		if one.Conditions.Ready == nil || *one.Conditions.Ready {
			addresses = append(addresses, one.Addresses...)
		}
	}
	return addresses
}

func same(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// each decodes one object for see.
func each[T any](item []byte, see func(T) error) error {
	var object T
	if err := json.Unmarshal(item, &object); err != nil {
		return fmt.Errorf("read a %T: %w", object, err)
	}
	return see(object)
}

// nodeWell: Ready, of this start, and no taint but a server's own.
func nodeWell(n corev1.Node, name string, s start) error {
	if n.Name != name {
		return fmt.Errorf("node %s is not the cluster's", n.Name)
	}
	if n.Status.NodeInfo.BootID != s.bootID {
		return fmt.Errorf("node %s has boot ID %s, want %s", n.Name, n.Status.NodeInfo.BootID, s.bootID)
	}
	for _, t := range n.Spec.Taints {
		if t.Key != "node-role.kubernetes.io/control-plane" {
			return fmt.Errorf("node %s has the taint %s", n.Name, t.ToString())
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not Ready", n.Name)
}

// podWell: Ready, with containers of this start.
func podWell(p corev1.Pod, s start) error {
	if p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) != len(p.Spec.Containers) {
		return fmt.Errorf("pod %s is not whole", p.Name)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil || c.State.Running.StartedAt.Time.Before(s.at.Truncate(time.Second)) {
			return fmt.Errorf("pod %s: container %s does not run since the node's start", p.Name, c.Name)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s is not Ready", p.Name)
}

// probeNamespace is the probe workload's.
const probeNamespace = "lxcmatrix-probe"

// workload is the probe workload for one node, as one file for kubectl.
func workload(perCluster, perNode []byte, node string) string {
	return string(perCluster) + "\n---\n" + strings.ReplaceAll(string(perNode), "[NODE]", "["+node+"]")
}
