// Package k3s installs k3s: one program that is Kubernetes, its runtime and,
// by default, SQLite for a datastore.
package k3s

import (
	"path"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
)

// Program is the path of k3s in a node.
const Program = "/usr/local/bin/k3s"

// CNIs are the networks of pods that it can have, its own first.
func CNIs() []string { return []string{"flannel", rancher.CNIBridge} }

// Product is k3s.
func Product() rancher.Product {
	return rancher.Product{
		Name:    "k3s",
		Units:   map[matrix.Role]string{matrix.RoleServer: "k3s.service", matrix.RoleAgent: "k3s-agent.service"},
		Port:    6443,
		Kubectl: path.Join(path.Dir(Program), "kubectl"),
		Plugins: "/var/lib/rancher/k3s/data/current/bin",
		Server:  server,
		Addons:  addons,
		Logs:    map[string]string{"kubelet.conf.txt": "tail -n +1 /var/lib/rancher/k3s/agent/etc/kubelet.conf.d/*", "containerd.toml": "cat /var/lib/rancher/k3s/agent/etc/containerd/config.toml"},
	}
}

// server: several servers need etcd, which the first one begins.
func server(o rancher.Options, first bool) map[string]any {
	config := map[string]any{}
	if first && (o.Servers > 1 || o.Datastore == rancher.DatastoreEtcd) {
		config["cluster-init"] = true
	}
	if o.CNI == rancher.CNIBridge {
		config["flannel-backend"] = "none"
	}
	return config
}

// addons are those of k3s' manifests folder, with the images that they name.
func addons(*semver.Version) []rancher.Addon {
	return []rancher.Addon{
		{Disable: []string{"coredns"}, Images: []string{"mirrored-coredns-coredns"}},
		{Disable: []string{"local-storage"}, Images: []string{"local-path-provisioner", "mirrored-library-busybox"}},
		{Disable: []string{"metrics-server"}, Images: []string{"mirrored-metrics-server"}},
		{Disable: []string{"servicelb"}, Images: []string{"klipper-lb"}},
		{Disable: []string{"traefik"}, Images: []string{"klipper-helm", "mirrored-library-traefik"}},
	}
}

// Units are those that its install script writes, started by nobody yet.
func Units() []provisioner.Unit {
	unit := func(name, role string) provisioner.Unit {
		return provisioner.Unit{Name: name + ".service", Content: `[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/` + name + `.service.env
KillMode=process
Delegate=yes
User=root
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=` + Program + ` ` + role + `
`}
	}
	return []provisioner.Unit{unit("k3s", "server"), unit("k3s-agent", "agent")}
}

// Files are the units' environment files, which hold nothing where nothing is
// set by environment.
func Files() []provisioner.File {
	return []provisioner.File{
		{Path: "/etc/systemd/system/k3s.service.env", Mode: 0o600},
		{Path: "/etc/systemd/system/k3s-agent.service.env", Mode: 0o600},
	}
}

// Links are the names that the program has beside its own.
func Links() map[string]string {
	links := map[string]string{}
	for _, name := range []string{"kubectl", "crictl", "ctr"} {
		links[path.Join(path.Dir(Program), name)] = path.Base(Program)
	}
	return links
}
