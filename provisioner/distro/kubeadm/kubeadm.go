// Package kubeadm installs Kubernetes with kubeadm on prepared nodes. It
// writes kubeadm's v1beta4 configuration, containerd's in the format of the
// version that is there, and sets up the pods' network: that of the bridge
// plugin, which needs no image, or flannel.
package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/flannel"
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
	// Flannel is the pods' network; nil for one of routes and the bridge plugin.
	Flannel *flannel.Settings
	// Servers is how many the cluster has. With more than one, the API has a name
	// of its own; see hosts.go.
	Servers int
	// Timeout bounds the installation of one node; kubeadm's own patience is
	// cut to fit, so that its message and not our deadline ends a failure.
	Timeout time.Duration
}

var (
	_ provisioner.Distro   = (*Distro)(nil)
	_ provisioner.Prepared = (*Distro)(nil)
)

// Configure writes kubeadm's and containerd's configuration and restarts
// containerd.
func (d *Distro) Configure(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"containerd", "--version"}})
	if err != nil {
		return fmt.Errorf("configure kubeadm on node %s: %w", node.Name(), err)
	}
	p, err := d.Prepare(provisioner.Place{Name: node.Name(), Address: node.Address(), Containerd: out.Stdout, Role: matrix.RoleServer}, want)
	if err != nil {
		return fmt.Errorf("configure kubeadm on node %s: %w", node.Name(), err)
	}
	for _, f := range p.Files {
		if err := node.Push(ctx, f); err != nil {
			return fmt.Errorf("configure kubeadm: %w", err)
		}
	}
	_, err = node.Exec(ctx, provisioner.Command{Args: append([]string{"systemctl", "restart"}, p.Restart...)})
	if err != nil {
		return fmt.Errorf("configure containerd: %w", err)
	}
	return nil
}

// Prepare is kubeadm's configuration and containerd's.
func (d *Distro) Prepare(p provisioner.Place, want provisioner.Desired) (provisioner.Preparation, error) {
	containerd, err := containerdConfig(p.Containerd, d.PauseImage, want.Containerd)
	if err != nil {
		return provisioner.Preparation{}, err
	}
	config, err := d.config(p.Name, p.Address, want, p.Invitation)
	if err != nil {
		return provisioner.Preparation{}, err
	}
	verb := "init"
	if p.Invitation != nil {
		verb = "join"
	}
	return provisioner.Preparation{
		Files: []provisioner.File{
			{Path: "/etc/containerd/config.toml", Content: containerd},
			{Path: configPath, Content: config, Mode: 0o600},
		},
		Restart: []string{"containerd"},
		Start:   command(want, verb).Args,
		Notes:   d.notes(p.Invitation),
	}, nil
}

// notes are what somebody who installs a node by hand has to know.
func (d *Distro) notes(invited *provisioner.Invitation) []string {
	network := "the bridge plugin on each node, and routes from node to node"
	if d.Flannel != nil {
		network = "flannel " + flannel.Version
	}
	notes := []string{"The network of pods, " + podSubnet + ", is not written here: the cell had " + network + "."}
	if d.Servers > 1 {
		notes = append(notes, "On every node, /etc/hosts has to name each server "+apiName+", a server itself first.")
	}
	if invited != nil {
		notes = append(notes, "On the first server, kubeadm token create --print-join-command prints a token and the digest of the CA.")
	}
	if invited != nil && invited.CertificateKey != "" {
		notes = append(notes, "On the first server, kubeadm init phase upload-certs --upload-certs --config "+configPath+" prints the key of the certificates.")
	}
	return notes
}

// kubectl is how a server asks the API.
func kubectl() []string { return []string{"kubectl", "--kubeconfig", AdminConf} }

// routed is the pods' network of no variant.
func routed() bridge.Network {
	return bridge.Network{Pods: podSubnet, Kubectl: strings.Join(kubectl(), " ")}
}

// Init runs kubeadm init.
func (d *Distro) Init(ctx context.Context, node provisioner.Node, want provisioner.Desired) ([]byte, error) {
	if d.Flannel == nil {
		if err := routed().First(ctx, node); err != nil {
			return nil, err
		}
	}
	if d.Servers > 1 {
		if err := addHosts(ctx, node, node); err != nil {
			return nil, err
		}
	}
	if _, err := node.Exec(ctx, command(want, "init", "--skip-token-print")); err != nil {
		return nil, fmt.Errorf("kubeadm init: %w", err)
	}
	if d.Flannel != nil {
		of := flannel.Network{Settings: *d.Flannel, Pods: podSubnet, Kubectl: kubectl()}
		if err := of.Deploy(ctx, node); err != nil {
			return nil, err
		}
	}
	kubeconfig, err := node.Pull(ctx, AdminConf)
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	return kubeconfig, nil
}

// command is kubeadm init or join with the node's configuration.
func command(want provisioner.Desired, verb string, flags ...string) provisioner.Command {
	args := append([]string{"kubeadm", verb, "--config", configPath}, flags...)
	if len(want.IgnorePreflightErrors) > 0 {
		args = append(args, "--ignore-preflight-errors="+strings.Join(want.IgnorePreflightErrors, ","))
	}
	return provisioner.Command{Args: args}
}

// Join runs kubeadm join and writes the node's CNI configuration for the pods
// that the cluster gave it. A server learns the others' names for the API
// first, and they its own.
func (d *Distro) Join(ctx context.Context, members []provisioner.Node, node provisioner.Node, role matrix.Role, want provisioner.Desired) error {
	invited, err := invite(ctx, members[0], role)
	if err != nil {
		return err
	}
	config, err := d.config(node.Name(), node.Address(), want, invited)
	if err != nil {
		return fmt.Errorf("configure kubeadm join on node %s: %w", node.Name(), err)
	}
	if err := node.Push(ctx, provisioner.File{Path: configPath, Content: config, Mode: 0o600}); err != nil {
		return fmt.Errorf("configure kubeadm join: %w", err)
	}
	if d.Servers > 1 {
		if err := introduce(ctx, members, node, role); err != nil {
			return err
		}
	}
	if _, err := node.Exec(ctx, command(want, "join")); err != nil {
		return fmt.Errorf("kubeadm join: %w", err)
	}
	if d.Flannel != nil {
		return nil
	}
	return routed().Join(ctx, members[0], node)
}

// Connect routes the nodes' pods, unless flannel does.
func (d *Distro) Connect(ctx context.Context, nodes []provisioner.Node) error {
	if d.Flannel != nil {
		return nil
	}
	return routed().Connect(ctx, nodes)
}

// Services are kubelet and containerd, whatever the role.
func (d *Distro) Services(matrix.Role) []string {
	return []string{"containerd.service", "kubelet.service"}
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

// config is kubeadm's configuration of one node, all documents of it.
func (d *Distro) config(name, address string, want provisioner.Desired, invited *provisioner.Invitation) (string, error) {
	const api = "kubeadm.k8s.io/v1beta4"
	registration := map[string]any{
		"name":      name,
		"criSocket": "unix:///run/containerd/containerd.sock",
	}
	if want.NodeIP != "" {
		registration["kubeletExtraArgs"] = []map[string]string{{"name": "node-ip", "value": want.NodeIP}}
	}
	timeouts := map[string]any{
		"kubeletHealthCheck":               seconds(max(30*time.Second, d.Timeout/6)),
		"controlPlaneComponentHealthCheck": seconds(max(60*time.Second, d.Timeout/2)),
		// The first call makes kubeadm's own admin: a slow machine's API server,
		// which has just become healthy, took more than a minute for it.
		"kubernetesAPICall": seconds(max(60*time.Second, d.Timeout/2)),
	}
	var documents []map[string]any
	if invited == nil {
		documents = append(documents, map[string]any{
			"apiVersion": api, "kind": "InitConfiguration",
			"nodeRegistration": registration, "timeouts": timeouts,
			"localAPIEndpoint": map[string]any{"advertiseAddress": address, "bindPort": 6443},
		})
		cluster := map[string]any{
			"apiVersion": api, "kind": "ClusterConfiguration",
			"kubernetesVersion": "v" + d.Version,
			"networking":        map[string]any{"podSubnet": podSubnet, "serviceSubnet": serviceSubnet},
		}
		if d.Servers > 1 {
			cluster["controlPlaneEndpoint"] = apiName + ":6443"
		}
		documents = append(documents, cluster)
	} else {
		joining := map[string]any{
			"apiVersion": api, "kind": "JoinConfiguration",
			"nodeRegistration": registration, "timeouts": timeouts,
			"discovery": map[string]any{"bootstrapToken": map[string]any{
				"apiServerEndpoint": invited.Server + ":6443", "token": invited.Token,
				"caCertHashes": []string{invited.CAHash}}},
		}
		if invited.CertificateKey != "" {
			joining["controlPlane"] = map[string]any{"certificateKey": invited.CertificateKey,
				"localAPIEndpoint": map[string]any{"advertiseAddress": address, "bindPort": 6443}}
		}
		documents = append(documents, joining)
	}
	if invited == nil {
		documents = append(documents, kubeletDocument(want), proxyDocument(want))
	}
	return yamlDocuments(documents)
}

func kubeletDocument(want provisioner.Desired) map[string]any {
	kubelet := map[string]any{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
	maps.Copy(kubelet, want.Kubelet)
	return kubelet
}

func proxyDocument(want provisioner.Desired) map[string]any {
	proxy := map[string]any{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
	maps.Copy(proxy, want.KubeProxy)
	return proxy
}

// Settings are the files, as far as it writes them, in which kubeadm brings about
// what fixes want of kubelet, kube-proxy and containerd, said as its --version
// prints it.
func Settings(want provisioner.Desired, said string) ([]provisioner.File, error) {
	var documents []map[string]any
	if len(want.Kubelet) > 0 {
		documents = append(documents, kubeletDocument(want))
	}
	if len(want.KubeProxy) > 0 {
		documents = append(documents, proxyDocument(want))
	}
	var files []provisioner.File
	if len(documents) > 0 {
		text, err := yamlDocuments(documents)
		if err != nil {
			return nil, err
		}
		files = append(files, provisioner.File{Path: configPath, Content: text})
	}
	if c := want.Containerd; len(c.CRI) > 0 || len(c.Runc) > 0 || c.Snapshotter != "" {
		text, err := containerdConfig(said, "registry.k8s.io/pause", c)
		if err != nil {
			return nil, err
		}
		files = append(files, provisioner.File{Path: "/etc/containerd/config.toml", Content: text})
	}
	return files, nil
}

// yamlDocuments are the documents of one file.
func yamlDocuments(documents []map[string]any) (string, error) {
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
