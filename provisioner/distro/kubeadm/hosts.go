package kubeadm

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// apiName is the API's own where there are several servers. Every node's
// /etc/hosts has it once for each of them: who dials it tries one address after
// the other, so that the API is reached as long as one server runs, and nothing
// stands in between that could fail by itself.
//
// A server's own address comes first in its file. Pods on the host's network
// have the file as it was when they started, and on a server that joined early
// it lacks later ones; its own is always there.
const apiName = "api.lxcmatrix.internal"

// introduce tells a node that is about to join of the servers, and the members
// of a server.
func introduce(ctx context.Context, members []provisioner.Node, node provisioner.Node, role matrix.Role) error {
	if role == matrix.RoleAgent {
		return addHosts(ctx, node, members...)
	}
	if err := addHosts(ctx, node, append([]provisioner.Node{node}, members...)...); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		group.Go(func() error { return addHosts(ctx, m, node) })
	}
	return group.Wait()
}

// addHosts adds servers to a node's /etc/hosts that are not there yet.
func addHosts(ctx context.Context, node provisioner.Node, servers ...provisioner.Node) error {
	args := []string{"sh", "-ec", `for line; do grep -qxF "$line" /etc/hosts || echo "$line" >>/etc/hosts; done`, "hosts"}
	for _, s := range servers {
		args = append(args, s.Address()+" "+apiName)
	}
	if _, err := node.Exec(ctx, provisioner.Command{Args: args}); err != nil {
		return fmt.Errorf("name the API's servers in /etc/hosts: %w", err)
	}
	return nil
}
