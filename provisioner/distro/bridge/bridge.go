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
// the first server. Routes live in eth0's .network drop-ins, so they are there
// again after a restart.
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
		group.Go(func() error {
			for j, by := range nodes {
				if i == j {
					continue
				}
				if err := on.Push(ctx, route(pods[j], by)); err != nil {
					return fmt.Errorf("route to the pods of node %s: %w", by.Name(), err)
				}
			}
			if _, err := on.Exec(ctx, provisioner.Command{Args: []string{"networkctl", "reload"}}); err != nil {
				return fmt.Errorf("route to the pods of other nodes: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

// route sends a node's traffic to pods by the node that has them.
func route(pods string, by provisioner.Node) provisioner.File {
	return provisioner.File{Path: "/etc/systemd/network/eth0.network.d/pods-" + by.Name() + ".conf",
		Content: fmt.Sprintf("[Route]\nDestination=%s\nGateway=%s\n", pods, by.Address())}
}

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
