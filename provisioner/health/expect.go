package health

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// expectations are what a distribution's clusters are made of.
type expectations struct {
	// staticPods are the pods named PREFIX-NODE in kube-system of each server.
	staticPods []string
	// perNode holds labels of pods that every node has one of in a system's
	// namespace.
	perNode []string
	// dns is the label of the DNS server's pods, dnsReplicas how many there are
	// at least, and dnsService the service in kube-system that leads to them.
	dns         string
	dnsReplicas int
	dnsService  string
	// components are those of the control plane that the API server asks, and
	// leaders the leases in kube-system of those of which one leads.
	components, leaders []string
	// serverTaints are those that servers may have.
	serverTaints []corev1.Taint
	// ownersTaints: taints that Kubernetes does not set by itself are the
	// owner's, and say nothing of a node.
	ownersTaints bool
	// pki is the folder of the cluster's certificates on a node, certificates
	// the pattern of their names, and ca the one that every node has.
	pki, certificates, ca string
	// proxyHealth is the port of kube-proxy's health server, on the node's
	// loopback alone where proxyLoopback is set.
	proxyHealth   int
	proxyLoopback bool
}

// clusterDNS is the label of the DNS server's pods in every distribution.
const clusterDNS = "k8s-app=kube-dns"

// expected knows the clusters of each distribution: kubernetes/cmd/kubeadm/app
// (constants and phases/addons); k3s' manifests and pkg/daemons/agent; RKE2's
// pkg/podtemplate and charts.
func expected(c matrix.Cell) (expectations, error) {
	switch c.Distro.Name {
	case "kubeadm":
		perNode := []string{"k8s-app=kube-proxy"}
		if slices.ContainsFunc(c.Variants, func(v string) bool { return strings.HasPrefix(v, "flannel") }) {
			perNode = append(perNode, "app=flannel")
		}
		return expectations{
			staticPods:   []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"},
			perNode:      perNode,
			dns:          clusterDNS,
			dnsReplicas:  2,
			dnsService:   "kube-dns",
			components:   []string{"scheduler", "controller-manager", "etcd-0"},
			leaders:      []string{"kube-controller-manager", "kube-scheduler"},
			serverTaints: []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}},
			pki:          "/etc/kubernetes/pki", certificates: "*.crt", ca: "ca.crt",
			proxyHealth: 10256,
		}, nil
	case "k3s":
		// All but its add-ons is one process.
		return inRancherFolders(expectations{dns: clusterDNS, dnsReplicas: 1, dnsService: "kube-dns"}, c.Distro.Name), nil
	case "rke2":
		e := expectations{
			staticPods: []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "cloud-controller-manager"},
			perNode:    []string{"component=kube-proxy"},
			dns:        clusterDNS, dnsReplicas: 1, dnsService: "rke2-coredns-rke2-coredns",
		}
		if !slices.Contains(c.Variants, "sqlite") {
			e.staticPods = append(e.staticPods, "etcd")
		}
		return inRancherFolders(e, c.Distro.Name), nil
	}
	return expectations{}, fmt.Errorf("it is not known what a healthy %s cluster is made of", c.Distro.Name)
}

// inRancherFolders: the certificates of authorities stay, and those of nodes
// are made anew at every start.
func inRancherFolders(e expectations, distro string) expectations {
	e.pki, e.certificates, e.ca = "/var/lib/rancher/"+distro, "*-ca.crt", "agent/server-ca.crt"
	e.proxyHealth, e.proxyLoopback = 10256, true
	return e
}
