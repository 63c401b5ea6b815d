// Package rke2 installs RKE2: k3s' engine with a control plane of static pods
// and add-ons that are charts.
package rke2

import (
	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
)

// DefaultCNI is the network of pods that it has unless it is told another.
const DefaultCNI = "canal"

// CNIs are the networks of pods that it can have, of which all but the bridge
// come as a part of a release.
func CNIs() []string { return []string{DefaultCNI, "flannel", "cilium", "calico", rancher.CNIBridge} }

// Product is RKE2. Its units come with its bundle.
func Product() rancher.Product {
	return rancher.Product{
		Name:    "rke2",
		Units:   map[matrix.Role]string{matrix.RoleServer: "rke2-server.service", matrix.RoleAgent: "rke2-agent.service"},
		Port:    9345,
		Kubectl: "/var/lib/rancher/rke2/bin/kubectl",
		Server:  server,
		Addons:  addons,
		Logs: map[string]string{
			"kubelet.log":      "cat /var/lib/rancher/rke2/agent/logs/kubelet.log",
			"kubelet.conf.txt": "tail -n +1 /var/lib/rancher/rke2/agent/etc/kubelet.conf.d/*",
			"containerd.toml":  "cat /var/lib/rancher/rke2/agent/etc/containerd/config.toml",
		},
	}
}

// server: etcd is the default, and SQLite what it falls back to without.
func server(o rancher.Options, _ bool) map[string]any {
	config := map[string]any{}
	if o.Datastore == rancher.DatastoreSQLite {
		config["disable-etcd"] = true
	}
	switch o.CNI {
	case "":
	case rancher.CNIBridge:
		config["cni"] = "none"
	default:
		config["cni"] = o.CNI
	}
	return config
}

// addons are the charts that it installs unasked, but for that of the CNI, with
// the images of scripts/build-images. A job of klipper-helm's installs each.
func addons(version *semver.Version) []rancher.Addon {
	const helm = "klipper-helm"
	all := []rancher.Addon{
		{Disable: []string{"rke2-coredns"}, Images: []string{helm, "hardened-coredns", "hardened-cluster-autoscaler"}},
		{Disable: []string{"rke2-metrics-server"}, Images: []string{helm, "hardened-k8s-metrics-server"}},
		{Disable: []string{"rke2-snapshot-controller", "rke2-snapshot-controller-crd"},
			Images: []string{helm, "mirrored-sig-storage-snapshot-controller|hardened-snapshot-controller"}},
		{Disable: []string{"rke2-runtimeclasses"}, Images: []string{helm}},
		// From 1.36.4 on: docs/adrs/010-security-responder.md of RKE2.
		{Disable: []string{"rke2-security-responder"}, Reaches: "reports the cluster to its maker's server three times a day"},
	}
	if version.Minor() < 36 {
		return append(all, rancher.Addon{Disable: []string{"rke2-ingress-nginx"},
			Images: []string{helm, "nginx-ingress-controller", "mirrored-ingress-nginx-kube-webhook-certgen|kube-webhook-certgen"}})
	}
	return append(all, rancher.Addon{Disable: []string{"rke2-traefik", "rke2-traefik-crd"},
		Images: []string{helm, "hardened-traefik|mirrored-library-traefik"}})
}
