// Package host makes Incus servers into hosts that cells run on: embedded (an
// Incus daemon of the harness's own) and local (the system's). Both offer the
// same Host; they differ in how they open and close.
package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// Host is an Incus server on this machine.
type Host struct {
	// Server is the connection; image preparation needs it too.
	Server *incus.Server

	subnet  netip.Prefix
	gateway netip.Addr
	writes  bool
	// free is nil where nobody bounds the pool.
	free  func() (int64, error)
	close func(context.Context) error

	mu sync.Mutex
	// taken holds the addresses given to nodes, by node.
	taken map[string]netip.Addr
}

var _ provisioner.Host = (*Host)(nil)

func newHost(ctx context.Context, server *incus.Server, writes bool, closeHost func(context.Context) error) (*Host, error) {
	cidr, err := server.NetworkAddress(ctx)
	if err != nil {
		return nil, err
	}
	bridge, err := netip.ParsePrefix(cidr)
	if err != nil {
		return nil, fmt.Errorf("read the bridge's IPv4 address %q: %w; nodes need a bridge with an IPv4 subnet", cidr, err)
	}
	return &Host{Server: server, subnet: bridge.Masked(), gateway: bridge.Addr(), writes: writes, close: closeHost,
		taken: map[string]netip.Addr{}}, nil
}

// Network is the bridge as nodes see it.
func (h *Host) Network() provisioner.Network {
	return provisioner.Network{Gateway: h.gateway.String(), Subnet: h.subnet.String()}
}

// CreateNode creates and starts a node with a pinned address. A node that was
// created and did not start is returned with the error, so that its console
// can be read and it can be removed.
func (h *Host) CreateNode(ctx context.Context, spec provisioner.NodeSpec) (provisioner.Node, error) {
	if spec.Address == "" {
		address, err := h.reserve(ctx, spec.Name)
		if err != nil {
			return nil, fmt.Errorf("create node %s: %w", spec.Name, err)
		}
		spec.Address = address.String()
	}
	i, err := h.Server.Create(ctx, spec)
	if i == nil {
		return nil, err
	}
	return &node{Instance: i, host: h}, err
}

// node is an instance whose address is free again once it is deleted.
type node struct {
	*incus.Instance
	host *Host
}

// Delete removes the instance and frees its address.
func (n *node) Delete(ctx context.Context) error {
	err := whileThawing(ctx, freezerRoot, n.Name(), func() error { return n.Instance.Delete(ctx) })
	if err != nil {
		return err
	}
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	delete(n.host.taken, n.Name())
	return nil
}

// ForceRestart kills the instance and starts it again.
func (n *node) ForceRestart(ctx context.Context) error {
	return whileThawing(ctx, freezerRoot, n.Name(), func() error { return n.Instance.ForceRestart(ctx) })
}

// Reserve chooses an address for a node before it is created: its fixes may
// name it.
func (h *Host) Reserve(ctx context.Context, node string) (string, error) {
	a, err := h.reserve(ctx, node)
	if err != nil {
		return "", fmt.Errorf("reserve an address for node %s: %w", node, err)
	}
	return a.String(), nil
}

func (h *Host) reserve(ctx context.Context, node string) (netip.Addr, error) {
	owned, err := h.Server.Owned(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := h.taken[node]; ok {
		return a, nil
	}
	used := map[netip.Addr]bool{h.gateway: true}
	for _, a := range h.taken {
		used[a] = true
	}
	for _, o := range owned {
		if a, err := netip.ParseAddr(o.Address); err == nil {
			used[a] = true
		}
	}
	// The upper part of the subnet: DHCP hands out the lower addresses first
	// to whatever else is on a bridge that is not ours.
	free := h.subnet.Addr()
	for range 99 {
		free = free.Next()
	}
	for a := free.Next(); h.subnet.Contains(a.Next()); a = a.Next() {
		if !used[a] {
			h.taken[node] = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in %s", h.subnet)
}

// Dial connects to a node's TCP port; the bridge is on this machine.
func (h *Host) Dial(ctx context.Context, node string, port int) (net.Conn, error) {
	h.mu.Lock()
	a, ok := h.taken[node]
	h.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial node %s port %d: the host has no such node", node, port)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(port)))
}

// Exec is the way to this machine's own system.
func (h *Host) Exec() provisioner.HostExec { return thisMachine{writes: h.writes} }

// Facts observes this machine and the Incus server.
func (h *Host) Facts(ctx context.Context) (matrix.HostFacts, error) {
	f, err := observe()
	if err != nil {
		return f, err
	}
	v, err := h.Server.Versions(ctx)
	if err != nil {
		return f, err
	}
	f.Incus, f.LXC, f.Storage = v.Incus, v.LXC, v.Storage
	return f, nil
}

// NoSpaceError is a pool with too little room.
type NoSpaceError struct {
	Free, Need int64
}

// Error names both sizes and the remedy.
func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("the pool has %d MiB free and %d MiB are needed; raise budget.disk in the matrix, or make room with lxcmatrix gc --yes", e.Free>>20, e.Need>>20)
}

// Room makes sure that the pool has room; *NoSpaceError if not. A pool that
// the harness did not make always has.
func (h *Host) Room(need int64) error {
	if h.free == nil {
		return nil
	}
	free, err := h.free()
	if err != nil {
		return err
	}
	if free < need {
		return &NoSpaceError{Free: free, Need: need}
	}
	return nil
}

// Close releases the host; an embedded one is stopped.
func (h *Host) Close(ctx context.Context) error { return h.close(ctx) }
