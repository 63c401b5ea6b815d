// Package provisioner holds the contracts between the engine and what makes
// clusters real: hosts, nodes, distributions and checks. It implements
// nothing; its subpackages do, and they know each other only through here.
package provisioner

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Host is an Incus server that nodes are created on.
type Host interface {
	// Facts observes the host. The result is cached by the caller, not here.
	Facts(ctx context.Context) (matrix.HostFacts, error)
	// CreateNode creates and starts an instance. Its owner keys are written
	// with the creation itself, so that a crash leaves nothing unowned. An
	// error that the node's own configuration causes is a *NodeError.
	CreateNode(ctx context.Context, spec NodeSpec) (Node, error)
	// Dial reaches a TCP port of a node.
	Dial(ctx context.Context, node string, port int) (net.Conn, error)
	// Network says what nodes need to know of the host's network.
	Network() Network
	// Exec is the way to the host's own system; nil where there is none, which
	// makes what needs it blocked, by name.
	Exec() HostExec
	// Close releases the host: a host that the harness started is stopped.
	Close(ctx context.Context) error
}

// HostExec is how the harness reads and changes a host's own system, outside
// its nodes.
type HostExec interface {
	// Run runs a command on the host to its end. One that ran and failed is a
	// *HostCommandError; anything else is the world's fault. Under emulation a
	// command costs a second: one script that prints much beats many commands.
	Run(ctx context.Context, cmd Command) (Output, error)
	// Sysctl reads one sysctl, its fields separated by one space.
	Sysctl(ctx context.Context, key string) (string, error)
	// SetSysctl writes one sysctl and returns the value that was there before.
	// Where the matrix does not allow it, it is a *HostWriteError.
	SetSysctl(ctx context.Context, key, value string) (before string, err error)
}

// Network is a host's bridge as its nodes see it.
type Network struct {
	// Gateway is the bridge's own IPv4 address, which also answers DNS.
	Gateway string
	// Subnet is the bridge's IPv4 subnet in CIDR form.
	Subnet string
}

// NodeSpec says what a node is created from.
type NodeSpec struct {
	// Name is the instance's and the node's name, unique on the host.
	Name string
	// Image is the fingerprint or alias of an image on the host.
	Image string
	// Address is the node's pinned IPv4 address on the bridge; empty lets the
	// host choose one that stays.
	Address string
	// Owner keys are stored as user.lxcmatrix.KEY from the first moment.
	Owner map[string]string
	// Limits every node has.
	Limits matrix.NodeLimits
	// Incus holds configuration and devices from the fixes.
	Incus IncusConfig
}

// Node is an Incus instance that is, or is to be, a Kubernetes node.
type Node interface {
	// Name is the instance's name.
	Name() string
	// Address is the node's IPv4 address on the bridge; it stays over
	// restarts.
	Address() string
	// Exec runs a command to its end with complete output. A command that ran
	// and failed is a *CommandError; anything else is the world's fault.
	Exec(ctx context.Context, cmd Command) (Output, error)
	// Push writes a file, with its folders.
	Push(ctx context.Context, file File) error
	// Pull reads a file, or the one that a link leads to; fs.ErrNotExist if it is
	// not there.
	Pull(ctx context.Context, path string) ([]byte, error)
	// Lifecycle starts and ends the node.
	Lifecycle
}

// Lifecycle is how a node is restarted and removed.
type Lifecycle interface {
	// Restart asks the node's init to restart, and does not force it: a node
	// that does not end in time is a *NodeError.
	Restart(ctx context.Context) error
	// ForceRestart kills the node and starts it again.
	ForceRestart(ctx context.Context) error
	// Stop asks the node's init to end, as Restart does, and leaves it stopped.
	Stop(ctx context.Context) error
	// Start starts a node that is stopped.
	Start(ctx context.Context) error
	// Console is what the node printed while it booted, and Incus' own log.
	Console(ctx context.Context) (string, error)
	// Delete removes the node, running or not. Deleting twice is no error.
	Delete(ctx context.Context) error
}

// Command is a command to run in a node.
type Command struct {
	Args  []string
	Env   map[string]string
	Stdin io.Reader
}

// Output is what a command left.
type Output struct {
	Stdout, Stderr string
	ExitCode       int
}

// File is a file in a node.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
	// Mode is the permission bits; 0 means 0644.
	Mode uint32 `json:"mode,omitempty"`
}

// Desired is the state that the fixes of a cell want of one node, merged; a
// distribution translates its Kubelet, KubeProxy and Containerd parts into its own
// formats.
type Desired struct {
	Incus IncusConfig
	Host  HostState
	Node  NodeState
	// Kubelet holds fields of KubeletConfiguration v1beta1.
	Kubelet map[string]any
	// KubeProxy holds fields of KubeProxyConfiguration v1alpha1.
	KubeProxy map[string]any
	// Containerd settings; see ContainerdSettings.
	Containerd ContainerdSettings
	// NodeIP, if set, is what kubelet is told to be its address.
	NodeIP string
	// IgnorePreflightErrors lists kubeadm's preflight checks to ignore.
	IgnorePreflightErrors []string
	// Verify lists how each applied fix is verified.
	Verify []Verification
	// Repairs are paths of files in which fixes tell what they mended later on.
	Repairs []string
}

// IncusConfig is an instance's configuration.
type IncusConfig struct {
	Config map[string]string
	// RawLXC lines, in order, become raw.lxc.
	RawLXC  []string
	Devices map[string]map[string]string
}

// HostState is what fixes want of the host itself.
type HostState struct {
	Sysctls map[string]string
	// Fixes are the IDs of those that want something of the host.
	Fixes []string
}

// NodeState is what fixes want inside a node.
type NodeState struct {
	Files []File
	Units []Unit
	// Sysctls are network-namespaced ones, written to /etc/sysctl.d.
	Sysctls map[string]string
	// Restart names units that read Files only when they start; those that run
	// are restarted once the files are written.
	Restart []string
	// Disable names units that are stopped, and that no boot starts.
	Disable []string
}

// Unit is a systemd unit of the harness's in a node.
type Unit struct {
	Name    string `json:"name"`
	Content string `json:"content"`
	// Enable makes it start at every boot, and starts it at once.
	Enable bool `json:"enable,omitempty"`
}

// ContainerdSettings are the settings that fixes may ask of containerd,
// whatever version of its configuration file is in use.
type ContainerdSettings struct {
	// CRI holds keys of the CRI runtime plugin, as restrict_oom_score_adj.
	CRI map[string]any
	// Runc holds keys of the runc runtime's options, as SystemdCgroup.
	Runc map[string]any
	// Snapshotter, if set, keeps the images' layers: overlayfs, native.
	Snapshotter string
}

// Verification is how one fix is shown to be in effect, on a node: what a fix
// wants of the host shows there too.
type Verification struct {
	Fix string
	// Command is a shell command; its standard output, trimmed, must match
	// Want, an anchored regular expression.
	Command string
	Want    string
	// After is the earliest phase at which it can hold: fix, install.
	After matrix.Phase
}

// Repair is what a fix mended by itself, when the node was left to it: one line
// of JSON in a file of Desired.Repairs.
type Repair struct {
	Time time.Time `json:"time"`
	// Repaired names what was mended; empty where something was only found.
	Repaired string `json:"repaired"`
	// Saw is what was wrong.
	Saw string `json:"saw"`
}

// Cluster is what a check looks at.
type Cluster struct {
	Cell  matrix.Cell
	Host  Host
	Nodes []Node
	// Kubeconfig is the administrator's, with the API server's address as the
	// node knows it. It is a secret: never written to a run's folder.
	Kubeconfig []byte
	// Sysctls are those that fixes set, on the nodes or on their host, by key.
	Sysctls []string
}

// Distro installs a Kubernetes distribution on prepared nodes.
type Distro interface {
	// Configure writes the distribution's configuration from what the fixes
	// want; nothing is started.
	Configure(ctx context.Context, node Node, want Desired) error
	// Init starts the first server and returns the administrator's kubeconfig.
	Init(ctx context.Context, node Node, want Desired) (kubeconfig []byte, err error)
	// Join adds a node with a role to the cluster of the members, the first of
	// which is the first server. Servers join one at a time, before the agents,
	// which may join at once.
	Join(ctx context.Context, members []Node, node Node, role matrix.Role, want Desired) error
	// Connect does, once every node has joined, what needs to know all of them:
	// their pods reach each other then. A cluster of one node is not connected.
	Connect(ctx context.Context, nodes []Node) error
	// Services are the systemd units that are Kubernetes on a node with a role, and
	// its container runtime.
	Services(role matrix.Role) []string
	// LogCommands names the logs to collect from a node: file name to shell
	// command.
	LogCommands() map[string]string
}

// Reduced is a Distro that may leave parts of its distribution out.
type Reduced interface {
	// LeftOut says what is left out and why, a line for each.
	LeftOut() []string
}

// Prepared is a Distro that can tell, without a node, what it writes on one.
type Prepared interface {
	// Prepare says what makes a node ready to take its place in a cluster.
	Prepare(p Place, want Desired) (Preparation, error)
}

// Place is a node's in its cluster.
type Place struct {
	Name, Address string
	// Containerd is what its --version prints on the node.
	Containerd string
	Role       matrix.Role
	// Invitation is nil for the first server.
	Invitation *Invitation
}

// Invitation is what a node joins a cluster with. All but Server are secrets, or
// lead to one: they go into files that only root reads, and nowhere else.
type Invitation struct {
	// Server is the first server's address.
	Server string
	Token  string
	// CAHash is the digest of the cluster's CA, and CertificateKey decrypts the
	// control plane's certificates; a distribution whose token does not do it all
	// wants them. The key is empty for an agent.
	CAHash, CertificateKey string
}

// Preparation is what is there before a distribution starts on a node.
type Preparation struct {
	Files []File
	// Restart names units that read Files only when they start.
	Restart []string
	// Start is the command that then makes the node a part of its cluster.
	Start []string
	// Notes are sentences on what else the cell had, and on where an invitation
	// is had from.
	Notes []string
}

// Check is one health assertion. Run polls until it is healthy or ctx ends
// and always returns what it last saw: Unhealthy when ctx ended while the
// cluster was wrong, Undecided when it could not look at all.
type Check interface {
	Name() string
	Run(ctx context.Context, cluster *Cluster) []matrix.Evidence
}

// Progress tells the user what happens during anything over two seconds.
type Progress interface {
	// Step announces work; the returned function ends it.
	Step(format string, args ...any) (done func(error))
	// Note prints one line.
	Note(format string, args ...any)
}

// Clock is the time that waits are measured against.
type Clock interface {
	Now() time.Time
	// Sleep waits for d or until ctx ends, whichever is first.
	Sleep(ctx context.Context, d time.Duration) error
}
