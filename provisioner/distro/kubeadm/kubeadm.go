// Package kubeadm installs Kubernetes with kubeadm on prepared nodes. It
// writes kubeadm's v1beta4 configuration, containerd's in the format of the
// version that is there, and a CNI made of the bridge plugin, which needs no
// image.
package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
)

const (
	podSubnet     = "10.244.0.0/16"
	serviceSubnet = "10.96.0.0/12"
	configPath    = "/etc/lxcmatrix/kubeadm.yaml"
)

// AdminConf is where a server keeps the administrator's kubeconfig.
const AdminConf = "/etc/kubernetes/admin.conf"

// Distro installs one version. It keeps no state between nodes.
type Distro struct {
	// Version is exact, without a leading v.
	Version string
	// PauseImage is the sandbox image that goes with the version:
	// registry.k8s.io/pause:3.10.1. Nodes have it, and pull nothing.
	PauseImage string
	// Timeout bounds the installation of one node; kubeadm's own patience is
	// cut to fit, so that its message and not our deadline ends a failure.
	Timeout time.Duration
}

var _ provisioner.Distro = (*Distro)(nil)

// Configure writes kubeadm's and containerd's configuration and restarts
// containerd.
func (d *Distro) Configure(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"containerd", "--version"}})
	if err != nil {
		return fmt.Errorf("configure kubeadm on node %s: %w", node.Name(), err)
	}
	containerd, err := containerdConfig(out.Stdout, d.PauseImage, want.Containerd)
	if err != nil {
		return fmt.Errorf("configure containerd on node %s: %w", node.Name(), err)
	}
	config, err := d.config(node, want, join{})
	if err != nil {
		return fmt.Errorf("configure kubeadm on node %s: %w", node.Name(), err)
	}
	for _, f := range []provisioner.File{
		{Path: "/etc/containerd/config.toml", Content: containerd},
		{Path: configPath, Content: config, Mode: 0o600},
	} {
		if err := node.Push(ctx, f); err != nil {
			return fmt.Errorf("configure kubeadm: %w", err)
		}
	}
	_, err = node.Exec(ctx, provisioner.Command{Args: []string{"systemctl", "restart", "containerd"}})
	if err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	return nil
}

// network is that of the clusters' pods.
func network() bridge.Network {
	return bridge.Network{Pods: podSubnet, Kubectl: "kubectl --kubeconfig " + AdminConf}
}

// Init runs kubeadm init.
func (d *Distro) Init(ctx context.Context, node provisioner.Node, want provisioner.Desired) ([]byte, error) {
	if err := network().First(ctx, node); err != nil {
		return nil, err
	}
	args := []string{"kubeadm", "init", "--config", configPath, "--skip-token-print"}
	if len(want.IgnorePreflightErrors) > 0 {
		args = append(args, "--ignore-preflight-errors="+strings.Join(want.IgnorePreflightErrors, ","))
	}
	if _, err := node.Exec(ctx, provisioner.Command{Args: args}); err != nil {
		return nil, fmt.Errorf("kubeadm init: %w", err)
	}
	kubeconfig, err := node.Pull(ctx, AdminConf)
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	return kubeconfig, nil
}

var joinCommand = regexp.MustCompile(`--token (\S+) --discovery-token-ca-cert-hash (sha256:[0-9a-f]{64})`)

// Join runs kubeadm join, writes the node's CNI configuration for the pod CIDR
// that the cluster gave it, and the routes to the other nodes' pods.
func (d *Distro) Join(ctx context.Context, members []provisioner.Node, node provisioner.Node, role matrix.Role, want provisioner.Desired) error {
	if role != matrix.RoleAgent {
		return fmt.Errorf("join node %s: kubeadm joins agents only", node.Name())
	}
	first := members[0]
	out, err := first.Exec(ctx, provisioner.Command{Args: []string{"kubeadm", "token", "create", "--ttl", "15m", "--print-join-command"}})
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	printed := joinCommand.FindStringSubmatch(out.Stdout)
	if printed == nil {
		return &provisioner.NodeError{Node: first.Name(), Action: "make a join token on",
			Err: errors.New("kubeadm printed no join command with a token and the CA's hash")}
	}
	config, err := d.config(node, want, join{server: first.Address(), token: printed[1], caHash: printed[2]})
	if err != nil {
		return fmt.Errorf("configure kubeadm join on node %s: %w", node.Name(), err)
	}
	if err := node.Push(ctx, provisioner.File{Path: configPath, Content: config, Mode: 0o600}); err != nil {
		return fmt.Errorf("configure kubeadm join: %w", err)
	}
	args := []string{"kubeadm", "join", "--config", configPath}
	if len(want.IgnorePreflightErrors) > 0 {
		args = append(args, "--ignore-preflight-errors="+strings.Join(want.IgnorePreflightErrors, ","))
	}
	if _, err := node.Exec(ctx, provisioner.Command{Args: args}); err != nil {
		return fmt.Errorf("kubeadm join: %w", err)
	}
	return network().Connect(ctx, members, node)
}

// LogCommands are the logs of a kubeadm node.
func (d *Distro) LogCommands() map[string]string {
	return map[string]string{
		"kubelet.log":    "journalctl --no-pager -o short-iso-precise -u kubelet",
		"containerd.log": "journalctl --no-pager -o short-iso-precise -u containerd",
		"journal.log":    "journalctl --no-pager -o short-iso-precise | tail -n 20000",
		"units.txt":      "systemctl --no-pager list-units --failed; systemctl --no-pager status kubelet containerd",
		"objects.yaml":   "kubectl --request-timeout=5s --kubeconfig " + AdminConf + " get -A -o yaml nodes,pods,services,endpointslices,events,leases,deployments,daemonsets",
		"pods.log":       "tail -n 200 /var/log/pods/*/*/*.log",
	}
}

type join struct{ server, token, caHash string }

// config is kubeadm's configuration of one node, all documents of it.
func (d *Distro) config(node provisioner.Node, want provisioner.Desired, j join) (string, error) {
	const api = "kubeadm.k8s.io/v1beta4"
	registration := map[string]any{
		"name":      node.Name(),
		"criSocket": "unix:///run/containerd/containerd.sock",
	}
	if want.NodeIP != "" {
		registration["kubeletExtraArgs"] = []map[string]string{{"name": "node-ip", "value": want.NodeIP}}
	}
	timeouts := map[string]any{
		"kubeletHealthCheck":               seconds(max(30*time.Second, d.Timeout/6)),
		"controlPlaneComponentHealthCheck": seconds(max(60*time.Second, d.Timeout/2)),
	}
	var documents []map[string]any
	if j.server == "" {
		documents = append(documents, map[string]any{
			"apiVersion": api, "kind": "InitConfiguration",
			"nodeRegistration": registration, "timeouts": timeouts,
			"localAPIEndpoint": map[string]any{"advertiseAddress": node.Address(), "bindPort": 6443},
		}, map[string]any{
			"apiVersion": api, "kind": "ClusterConfiguration",
			"kubernetesVersion": "v" + d.Version,
			"networking":        map[string]any{"podSubnet": podSubnet, "serviceSubnet": serviceSubnet},
		})
	} else {
		documents = append(documents, map[string]any{
			"apiVersion": api, "kind": "JoinConfiguration",
			"nodeRegistration": registration, "timeouts": timeouts,
			"discovery": map[string]any{"bootstrapToken": map[string]any{
				"apiServerEndpoint": j.server + ":6443", "token": j.token,
				"caCertHashes": []string{j.caHash}}},
		})
	}
	kubelet := map[string]any{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
	maps.Copy(kubelet, want.Kubelet)
	proxy := map[string]any{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
	maps.Copy(proxy, want.KubeProxy)
	if j.server == "" {
		documents = append(documents, kubelet, proxy)
	}
	var all strings.Builder
	var errs []error
	for _, doc := range documents {
		text, err := yaml.Marshal(doc)
		errs = append(errs, err)
		all.WriteString("---\n")
		all.Write(text)
	}
	return all.String(), errors.Join(errs...)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }
