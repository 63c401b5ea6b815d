package kubeadm

import "github.com/lxcmatrix/lxcmatrix/provisioner"

// Units are the kubelet's, as kubeadm's packages have it but for the binary's
// path and the order after containerd.
func Units() []provisioner.Unit {
	return []provisioner.Unit{{Name: "kubelet.service", Enable: true, Content: `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target containerd.service

[Service]
ExecStart=/usr/local/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`}}
}

// RuntimeUnit is containerd's, for a release that brings its own: as the
// project has it, but for modprobe, since nothing loads in a container.
func RuntimeUnit() provisioner.Unit {
	return provisioner.Unit{Name: "containerd.service", Enable: true, Content: `[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target dbus.service

[Service]
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
`}
}

// Files are kubeadm's drop-in for kubelet and the folders that static pods
// mount.
func Files() []provisioner.File {
	return []provisioner.File{{Path: "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", Content: `# As kubeadm's packages have it.
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`}}
}
