package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

var (
	joinCommand = regexp.MustCompile(`--token (\S+) --discovery-token-ca-cert-hash (sha256:[0-9a-f]{64})`)
	uploadedKey = regexp.MustCompile(`(?m)^([0-9a-f]{64})$`)
)

// invite has the first server make what a node with a role joins with.
func invite(ctx context.Context, first provisioner.Node, role matrix.Role) (*provisioner.Invitation, error) {
	out, err := first.Exec(ctx, provisioner.Command{Args: []string{"kubeadm", "token", "create", "--ttl", "15m", "--print-join-command"}})
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	printed := joinCommand.FindStringSubmatch(out.Stdout)
	if printed == nil {
		return nil, &provisioner.NodeError{Node: first.Name(), Action: "make a join token on",
			Err: errors.New("kubeadm printed no join command with a token and the CA's hash")}
	}
	invited := &provisioner.Invitation{Server: first.Address(), Token: printed[1], CAHash: printed[2]}
	if role == matrix.RoleAgent {
		return invited, nil
	}
	// They are kept in the cluster for two hours, so they are put there anew for
	// each server.
	out, err = first.Exec(ctx, provisioner.Command{Args: []string{"kubeadm", "init", "phase", "upload-certs", "--upload-certs", "--config", configPath}})
	if err != nil {
		return nil, fmt.Errorf("upload the control plane's certificates: %w", err)
	}
	key := uploadedKey.FindStringSubmatch(out.Stdout)
	if key == nil {
		return nil, &provisioner.NodeError{Node: first.Name(), Action: "upload the control plane's certificates of",
			Err: errors.New("kubeadm printed no certificate key")}
	}
	invited.CertificateKey = key[1]
	return invited, nil
}
