// Package flannel is a pod network by flannel's daemon, which runs as a
// DaemonSet and finds the nodes and their pods in the cluster itself. Its own
// CNI plugin is not used: a unit in the prepared image writes a configuration of
// the bridge plugin from what the daemon says of its node, as that plugin would
// at every call.
package flannel

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
)

// Version is the daemon's, that of the release whose image the prepared image
// must hold.
const Version = "0.26.7"

// Settings are how the daemon is set up.
type Settings struct {
	// Backend is how packets get to other nodes: vxlan (UDP port 8472), or
	// host-gw, routes between nodes of one link.
	Backend string
	// NFTables has the daemon make its rules with nft instead of iptables.
	NFTables bool
}

// Network is a cluster's.
type Network struct {
	Settings
	// Pods is the CIDR of the cluster's pods: 10.244.0.0/16.
	Pods string
	// Kubectl is how a server asks the API: a program and its arguments.
	Kubectl []string
}

// Deploy has a server create the daemon's objects in the cluster.
func (n Network) Deploy(ctx context.Context, server provisioner.Node) error {
	text, err := n.objects()
	if err != nil {
		return fmt.Errorf("deploy flannel: %w", err)
	}
	args := append(append([]string{}, n.Kubectl...), "apply", "-f", "-")
	if _, err := server.Exec(ctx, provisioner.Command{Args: args, Stdin: strings.NewReader(text)}); err != nil {
		return fmt.Errorf("deploy flannel: %w", err)
	}
	return nil
}

// objects are all documents, the configuration last.
func (n Network) objects() (string, error) {
	manifest, err := fs.ReadFile(fixtures.Manifests(), "flannel.yaml")
	if err != nil {
		return "", err
	}
	settings, err := json.MarshalIndent(map[string]any{"Network": n.Pods, "EnableNFTables": n.NFTables,
		"Backend": map[string]any{"Type": n.Backend}}, "", "  ")
	if err != nil {
		return "", err
	}
	config, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "kube-flannel-cfg", "namespace": "kube-flannel"},
		"data":     map[string]string{"net-conf.json": string(settings)}}, "", "  ")
	if err != nil {
		return "", err
	}
	return string(manifest) + "---\n" + string(config) + "\n", nil
}

const (
	unitName   = "lxcmatrix-flannel"
	scriptPath = "/usr/local/libexec/lxcmatrix-flannel"
	// subnetFile is where the daemon says which pods the node has.
	subnetFile = "/run/flannel/subnet.env"
)

// Files is the script that writes a node's CNI configuration, for its prepared
// image. The daemon names the subnet by the bridge's address in it, the first
// one; the plugin wants the subnet's own.
func Files() []provisioner.File {
	conflist := bridge.Conflist("$first.$((last - 1))/$length", `"ipMasq": $masquerade, "mtu": $FLANNEL_MTU`)
	return []provisioner.File{{Path: scriptPath, Mode: 0o755, Content: `#!/bin/sh
set -eu
. ` + subnetFile + `
address=${FLANNEL_SUBNET%/*} length=${FLANNEL_SUBNET#*/}
first=${address%.*} last=${address##*.}
masquerade=true
[ "$FLANNEL_IPMASQ" = true ] && masquerade=false
mkdir -p ` + path.Dir(bridge.ConflistPath) + `
cat >` + bridge.ConflistPath + `.new <<EOF
` + conflist + `EOF
mv ` + bridge.ConflistPath + `.new ` + bridge.ConflistPath + `
`}}
}

// Units watch for what the daemon says, and run the script when it is there or
// becomes another, at every boot anew.
func Units() []provisioner.Unit {
	return []provisioner.Unit{
		{Name: unitName + ".path", Enable: true, Content: `[Unit]
Description=Watch for the subnet that flannel says this node has

[Path]
PathChanged=` + subnetFile + `

[Install]
WantedBy=multi-user.target
`},
		{Name: unitName + ".service", Content: `[Unit]
Description=Write the CNI configuration for the subnet that flannel says this node has

[Service]
Type=oneshot
ExecStart=` + scriptPath + `
`},
	}
}
