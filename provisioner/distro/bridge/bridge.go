// Package bridge is a pod network made of the CNI plugins bridge and portmap
// and of routes between the nodes. It needs no image and no daemon, so that any
// distribution can have it.
package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// ConflistPath is where a node's CNI configuration is.
const ConflistPath = "/etc/cni/net.d/10-lxcmatrix.conflist"

// Network is a cluster's.
type Network struct {
	// Pods is the CIDR of the cluster's pods, of which the controller-manager
	// gives every node a /24: 10.244.0.0/16.
	Pods string
	// Kubectl is how a server asks the API: a program and its arguments.
	Kubectl string
}

// First writes the CNI configuration of the first server. Its pods have the
// first of the /24s, which is also what the controller-manager gives the first
// node, so that the network is there before kubelet asks for it.
func (n Network) First(ctx context.Context, node provisioner.Node) error {
	return write(ctx, node, netip.MustParsePrefix(n.Pods).Addr().String()+"/24")
}

// Join writes the CNI configuration of a joined node, for the pods that the
// cluster gave it; first is the first server.
func (n Network) Join(ctx context.Context, first, node provisioner.Node) error {
	own, err := n.podCIDR(ctx, first, node)
	if err != nil {
		return err
	}
	return write(ctx, node, own)
}

// podCIDR asks the first server which pods a node has; the controller-manager
// says so a moment after the node is there.
func (n Network) podCIDR(ctx context.Context, first, node provisioner.Node) (string, error) {
	out, err := first.Exec(ctx, provisioner.Command{Args: []string{"sh", "-ec",
		`n=0; until ` + n.Kubectl + ` get node "$1" -o jsonpath='{.spec.podCIDR}' | grep /; do n=$((n+1)); [ $n -lt 60 ]; sleep 0.5; done`,
		"podCIDR", node.Name()}})
	if err != nil {
		return "", fmt.Errorf("read the pod CIDR of node %s: %w", node.Name(), err)
	}
	return strings.TrimSpace(out.Stdout), nil
}

// Connect gives every node the routes to the others' pods; the first node is
// the first server.
func (n Network) Connect(ctx context.Context, nodes []provisioner.Node) error {
	pods := make([]string, len(nodes))
	for i, node := range nodes {
		var err error
		if pods[i], err = n.podCIDR(ctx, nodes[0], node); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, on := range nodes {
		var routes []Route
		for j, by := range nodes {
			if i != j {
				routes = append(routes, Route{Pods: pods[j], By: by.Address()})
			}
		}
		group.Go(func() error { return Lay(ctx, on, routes) })
	}
	return group.Wait()
}

// Route sends a node's traffic to pods by the node that has them.
type Route struct {
	// Pods is a CIDR, By the other node's address.
	Pods, By string
}

// Lay gives a node's eth0 its routes to pods, in place of those it had, by the
// configuration of what manages eth0 there: systemd-networkd or NetworkManager.
// So they are there again after a restart.
func Lay(ctx context.Context, on provisioner.Node, routes []Route) error {
	args := []string{"sh", "-ec", lay, "routes"}
	for _, r := range routes {
		args = append(args, r.Pods, r.By)
	}
	if _, err := on.Exec(ctx, provisioner.Command{Args: args}); err != nil {
		return fmt.Errorf("route to the pods of other nodes on node %s: %w", on.Name(), err)
	}
	return nil
}

// lay takes pairs of a CIDR and a gateway.
const lay = `if systemctl --quiet is-active systemd-networkd.service; then
	mkdir -p /etc/systemd/network/eth0.network.d
	while [ $# -gt 0 ]; do printf '[Route]\nDestination=%s\nGateway=%s\n' "$1" "$2"; shift 2; done >/etc/systemd/network/eth0.network.d/pods.conf
	networkctl reload
elif systemctl --quiet is-active NetworkManager.service; then
	routes=; while [ $# -gt 0 ]; do routes="$routes${routes:+, }$1 $2"; shift 2; done
	nmcli connection modify "$(nmcli --get-values GENERAL.CONNECTION device show eth0)" ipv4.routes "$routes"
	nmcli device reapply eth0
else
	echo 'eth0 is managed neither by systemd-networkd nor by NetworkManager' >&2
	exit 1
fi`

// write writes the CNI configuration of a node whose pods have a CIDR.
func write(ctx context.Context, node provisioner.Node, cidr string) error {
	if err := node.Push(ctx, provisioner.File{Path: ConflistPath, Content: Conflist(cidr, `"ipMasq": true`)}); err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	return nil
}

// Conflist is the CNI configuration of a bridge for pods of a subnet, with
// hostPorts; settings are more of the bridge plugin's, as JSON fields.
func Conflist(subnet, settings string) string {
	return `{
  "cniVersion": "0.4.0",
  "name": "lxcmatrix",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, ` + settings + `, "hairpinMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + subnet + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`
}
