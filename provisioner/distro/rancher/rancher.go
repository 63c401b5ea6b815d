// Package rancher is what k3s and RKE2 have in common: RKE2 is built around
// k3s' own engine, and both are one program per node, configured by files below
// /etc/rancher and /var/lib/rancher, that unpacks its runtime, loads images from
// archives and joins by a token. What differs is a Product's data.
package rancher

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
)

// Product is one of the two.
type Product struct {
	// Name is that of its program and its folders: k3s, rke2.
	Name string
	// Units are its services by the role of the node.
	Units map[matrix.Role]string
	// Port is where servers take in nodes that join.
	Port int
	// Kubectl is the path of the one that it brings.
	Kubectl string
	// Plugins is the folder of the CNI plugins that it brings; empty where it
	// brings none for other networks than its own.
	Plugins string
	// Server is what a server's configuration says of the options, on all
	// servers alike but for the first one's own part.
	Server func(o Options, first bool) map[string]any
	// Addons of a version.
	Addons func(version *semver.Version) []Addon
	// Logs are commands for LogCommands, beside those of both.
	Logs map[string]string
}

// CNIBridge is the CNI of package bridge.
const CNIBridge = "bridge"

// Options are what a cell chooses.
type Options struct {
	// CNI is CNIBridge or one of the product's own; empty is its default.
	CNI string
	// Datastore is etcd or sqlite; empty is the product's default.
	Datastore string
	// Servers is how many the cluster is to have.
	Servers int
}

// The datastores.
const (
	DatastoreEtcd   = "etcd"
	DatastoreSQLite = "sqlite"
)

// Pods is the CIDR of pods that both products have unless they are told
// another.
const Pods = "10.42.0.0/16"

// Config is where a product's configuration of a node is.
func (p Product) Config() string { return path.Join("/etc/rancher", p.Name, "config.yaml") }

// Kubeconfig is where a server keeps the administrator's.
func (p Product) Kubeconfig() string { return path.Join("/etc/rancher", p.Name, p.Name+".yaml") }

// Images is the folder whose archives of images the product loads.
func (p Product) Images() string { return path.Join(p.state(), "agent/images") }

func (p Product) state() string { return path.Join("/var/lib/rancher", p.Name) }

// Distro installs one version of a product. It keeps no state between nodes.
type Distro struct {
	Product
	Options
	// Version is exact.
	Version *semver.Version
	// Available are the names of the images that nodes have.
	Available []string
}

var (
	_ provisioner.Distro   = (*Distro)(nil)
	_ provisioner.Prepared = (*Distro)(nil)
	_ provisioner.Reduced  = (*Distro)(nil)
)

// Configure writes what servers and agents have in common: the node's own name
// and address, and what the fixes want of kubelet, kube-proxy and containerd.
func (d *Distro) Configure(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
	files, err := d.named(node.Name(), want)
	if err != nil {
		return fmt.Errorf("configure %s on node %s: %w", d.Name, node.Name(), err)
	}
	for _, f := range files {
		if err := node.Push(ctx, f); err != nil {
			return fmt.Errorf("configure %s: %w", d.Name, err)
		}
	}
	if d.CNI != CNIBridge {
		return nil
	}
	// containerd looks for plugins where nobody says another place.
	_, err = node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-ec",
		`for d in "$@"; do [ -n "$d" ] && mkdir -p /opt/cni && ln -sfn "$d" /opt/cni/bin && exit; done; ` +
			`for d in /usr/lib/cni /usr/libexec/cni; do [ -x $d/bridge ] && mkdir -p /opt/cni && ln -sfn $d /opt/cni/bin && exit; done; ` +
			`echo "no CNI plugin bridge in /usr/lib/cni or /usr/libexec/cni" >&2; exit 1`, "plugins", d.Plugins}})
	if err != nil {
		return fmt.Errorf("give %s its CNI plugins: %w", d.Name, err)
	}
	return nil
}

// Prepare is what servers and agents have in common, and the configuration of
// the node's role. A first server makes its token itself. The product brings its
// own containerd.
func (d *Distro) Prepare(p provisioner.Place, want provisioner.Desired) (provisioner.Preparation, error) {
	files, err := d.named(p.Name, want)
	if err != nil {
		return provisioner.Preparation{}, err
	}
	config := map[string]any{}
	if p.Role == matrix.RoleServer {
		config = d.server(p.Address, p.Invitation == nil)
	}
	if p.Invitation != nil {
		maps.Copy(config, d.joining(*p.Invitation))
	}
	file, err := d.configuration(config)
	if err != nil {
		return provisioner.Preparation{}, err
	}
	return provisioner.Preparation{Files: append(files, file), Start: []string{"systemctl", "enable", "--now", d.Units[p.Role]}, Notes: d.notes(p)}, nil
}

// notes are what somebody who installs a node by hand has to know.
func (d *Distro) notes(p provisioner.Place) (notes []string) {
	if p.Role == matrix.RoleServer {
		for _, line := range d.LeftOut() {
			notes = append(notes, line+".")
		}
	}
	if d.CNI == CNIBridge {
		notes = append(notes, "The network of pods, "+Pods+", is not written here: the cell had the bridge plugin on each node, and routes from node to node.")
	}
	if p.Invitation != nil {
		notes = append(notes, "On the first server, the token is in "+d.token()+".")
	}
	return notes
}

// named are the files that servers and agents have in common.
func (d *Distro) named(name string, want provisioner.Desired) ([]provisioner.File, error) {
	return d.settings(map[string]any{"node-name": name}, want)
}

// Settings are the files in which the product brings about what fixes want of
// kubelet, kube-proxy and containerd.
func (d *Distro) Settings(want provisioner.Desired) ([]provisioner.File, error) {
	return d.settings(map[string]any{}, want)
}

// settings adds to the configuration of a node, and to what lies beside it.
func (d *Distro) settings(config map[string]any, want provisioner.Desired) ([]provisioner.File, error) {
	if want.NodeIP != "" {
		config["node-ip"] = want.NodeIP
	}
	if s := want.Containerd.Snapshotter; s != "" {
		config["snapshotter"] = s
	}
	kubelet := maps.Clone(want.Kubelet)
	// The products look at the file themselves, and make one with a public
	// server where they do not like what they find.
	if file, ok := kubelet["resolvConf"]; ok {
		config["resolv-conf"] = file
		delete(kubelet, "resolvConf")
	}
	proxy, err := arguments("kube-proxy", want.KubeProxy, proxyFlags)
	if err != nil {
		return nil, err
	}
	if len(proxy) > 0 {
		config["kube-proxy-arg"] = proxy
	}
	var files []provisioner.File
	switch {
	case len(kubelet) == 0:
	case atLeast(d.Version, "1.32.1"):
		// From then on kubelet merges a folder of the product's: before, its flags
		// came after every file.
		text, err := kubeletDropIn(kubelet)
		if err != nil {
			return nil, err
		}
		files = append(files, provisioner.File{Path: path.Join(d.state(), "agent/etc/kubelet.conf.d/90-lxcmatrix.conf"), Content: text})
	default:
		args, err := arguments("kubelet", kubelet, kubeletFlags)
		if err != nil {
			return nil, err
		}
		config["kubelet-arg"] = args
	}
	containerd, err := containerdFiles(path.Join(d.state(), "agent/etc/containerd"), d.Version, want.Containerd)
	if err != nil {
		return nil, err
	}
	if files = append(files, containerd...); len(config) == 0 {
		return files, nil
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, err
	}
	return append(files, provisioner.File{
		Path: d.Config() + ".d/10-lxcmatrix.yaml", Content: string(text), Mode: 0o600}), nil
}

// network is that of pods where it is none of the product's own.
func (d *Distro) network() bridge.Network {
	return bridge.Network{Pods: Pods, Kubectl: d.Kubectl + " --kubeconfig " + d.Kubeconfig()}
}

// Init starts the first server with a token that is made here and known to the
// cluster's nodes alone. The unit says itself when the API is there.
func (d *Distro) Init(ctx context.Context, node provisioner.Node, _ provisioner.Desired) ([]byte, error) {
	config := d.server(node.Address(), true)
	config["token"] = strings.ToLower(rand.Text())
	if err := d.configure(ctx, node, config); err != nil {
		return nil, err
	}
	if d.CNI == CNIBridge {
		if err := d.network().First(ctx, node); err != nil {
			return nil, err
		}
	}
	if err := d.start(ctx, node, matrix.RoleServer); err != nil {
		return nil, err
	}
	kubeconfig, err := node.Pull(ctx, d.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	const loopback = "https://127.0.0.1:6443"
	if !bytes.Contains(kubeconfig, []byte(loopback)) {
		return nil, &provisioner.NodeError{Node: node.Name(), Action: "read the administrator's kubeconfig of",
			Err: fmt.Errorf("%s does not name the server %s", d.Kubeconfig(), loopback)}
	}
	return bytes.ReplaceAll(kubeconfig, []byte(loopback), []byte("https://"+node.Address()+":6443")), nil
}

// Join starts a server or an agent with the first server's token, which holds
// the digest of the cluster's CA.
func (d *Distro) Join(ctx context.Context, members []provisioner.Node, node provisioner.Node, role matrix.Role, _ provisioner.Desired) error {
	first := members[0]
	token, err := first.Pull(ctx, d.token())
	if err != nil {
		return fmt.Errorf("read the token of node %s: %w", first.Name(), err)
	}
	config := map[string]any{}
	if role == matrix.RoleServer {
		config = d.server(node.Address(), false)
	}
	maps.Copy(config, d.joining(provisioner.Invitation{Server: first.Address(), Token: strings.TrimSpace(string(token))}))
	if err := d.configure(ctx, node, config); err != nil {
		return err
	}
	if err := d.start(ctx, node, role); err != nil {
		return err
	}
	if d.CNI == CNIBridge {
		return d.network().Join(ctx, first, node)
	}
	return nil
}

// Connect gives nodes the routes to each other's pods where the product has no
// network of its own to do so.
func (d *Distro) Connect(ctx context.Context, nodes []provisioner.Node) error {
	if d.CNI == CNIBridge {
		return d.network().Connect(ctx, nodes)
	}
	return nil
}

// token is where the first server keeps what others join with.
func (d *Distro) token() string { return path.Join(d.state(), "server/node-token") }

// joining is what the configuration of a node has that joins.
func (d *Distro) joining(i provisioner.Invitation) map[string]any {
	return map[string]any{"server": fmt.Sprintf("https://%s:%d", i.Server, d.Port), "token": i.Token}
}

// server is the configuration of a server of an address, but for its token.
func (d *Distro) server(address string, first bool) map[string]any {
	config := map[string]any{"tls-san": []string{address}}
	maps.Copy(config, d.Server(d.Options, first))
	var disable []string
	for _, a := range d.Addons(d.Version) {
		if a.leftOut(d.Available) != "" {
			disable = append(disable, a.Disable...)
		}
	}
	if len(disable) > 0 {
		config["disable"] = disable
	}
	return config
}

// configure writes the configuration of a node's role, which holds the token.
func (d *Distro) configure(ctx context.Context, node provisioner.Node, config map[string]any) error {
	file, err := d.configuration(config)
	if err != nil {
		return fmt.Errorf("configure %s on node %s: %w", d.Name, node.Name(), err)
	}
	if err := node.Push(ctx, file); err != nil {
		return fmt.Errorf("configure %s: %w", d.Name, err)
	}
	return nil
}

// configuration is the file of a node's role.
func (d *Distro) configuration(config map[string]any) (provisioner.File, error) {
	text, err := yaml.Marshal(config)
	return provisioner.File{Path: d.Config(), Content: string(text), Mode: 0o600}, err
}

const (
	// quotedLines of a unit's log go into the error of a start that failed.
	quotedLines = "20"
	// quotePatience bounds the reading of them, after the deadline of the start
	// itself may have passed: a busy machine's journal takes its time.
	quotePatience = 30 * time.Second
)

// start enables and starts a role's unit and waits until it says that it is
// ready. That it does not is the node's doing, told with the end of its log.
func (d *Distro) start(ctx context.Context, node provisioner.Node, role matrix.Role) error {
	unit := d.Units[role]
	_, err := node.Exec(ctx, provisioner.Command{Args: []string{"systemctl", "enable", "--now", unit}})
	if err == nil {
		return nil
	}
	// A node that did not answer is none that failed.
	if !provisioner.IsNodes(err) && ctx.Err() == nil {
		return fmt.Errorf("start %s: %w", unit, err)
	}
	quoting, cancel := context.WithTimeout(context.WithoutCancel(ctx), quotePatience)
	defer cancel()
	out, quoteErr := node.Exec(quoting, provisioner.Command{Args: []string{"journalctl", "--no-pager", "-o", "cat", "-n", quotedLines, "-u", unit}})
	said := strings.TrimSpace(out.Stdout)
	switch {
	case quoteErr != nil && !provisioner.IsNodes(err) && !provisioner.IsNodes(quoteErr):
		return fmt.Errorf("start %s: %w", unit, errors.Join(err, quoteErr))
	case quoteErr != nil:
		err = fmt.Errorf("%w; what it logged could not be read: %v", err, quoteErr) //nolint:errorlint // that failure is not what happened
	case said != "":
		err = fmt.Errorf("%w; the last it logged is:\n%s", err, said)
	}
	return &provisioner.NodeError{Node: node.Name(), Action: "start " + unit + " on", Err: err}
}

// LeftOut are the add-ons that are disabled, as their images could only come
// from the network or they themselves would reach for it.
func (d *Distro) LeftOut() (lines []string) {
	for _, a := range d.Addons(d.Version) {
		if line := a.leftOut(d.Available); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Services is the one unit of the role, which runs all the rest.
func (d *Distro) Services(role matrix.Role) []string { return []string{d.Units[role]} }

// LogCommands are the logs of a node with either product.
func (d *Distro) LogCommands() map[string]string {
	units := strings.Join(slices.Sorted(maps.Values(d.Units)), " ")
	each := strings.ReplaceAll(" "+units, " ", " -u ")
	commands := map[string]string{
		d.Name + ".log":  "journalctl --no-pager -o short-iso-precise" + each,
		"containerd.log": "cat " + path.Join(d.state(), "agent/containerd/containerd.log"),
		"journal.log":    "journalctl --no-pager -o short-iso-precise | tail -n 20000",
		"units.txt":      "systemctl --no-pager list-units --failed; systemctl --no-pager status " + units,
		"config.txt":     "tail -n +1 " + d.Config() + " " + d.Config() + ".d/*",
		"objects.yaml":   d.network().Kubectl + " --request-timeout=5s get -A -o yaml nodes,pods,services,endpointslices,events,leases,deployments,daemonsets",
		"pods.log":       "tail -n 200 /var/log/pods/*/*/*.log",
	}
	maps.Copy(commands, d.Logs)
	return commands
}
