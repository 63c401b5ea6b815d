// Package host makes Incus servers into hosts that cells run on: embedded (an
// Incus daemon of the harness's own), local (the system's), qemu (one in a
// virtual machine of ours) and remote (one elsewhere). All are the same Host;
// they differ in how they open and close, and in the way to the
// machine that they run on.
package host

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// Host is an Incus server and the way to the machine that it runs on.
type Host struct {
	// Server is the connection; image preparation needs it too.
	Server *incus.Server

	subnet  netip.Prefix
	gateway netip.Addr
	// machine is nil where there is no way to it.
	machine machine
	// writes says whether the machine's sysctls may be changed.
	writes bool
	close  func(context.Context) error
	// virtual is the machine, where it is one of ours.
	virtual *qemu.Machine
	// daemon is the host's own; nil where the harness did not start it.
	daemon *daemon

	mu sync.Mutex
	// taken holds the addresses given to nodes, by node.
	taken map[string]netip.Addr
}

var _ provisioner.Host = (*Host)(nil)

// newHost makes a host of a server whose pool and bridge are chosen, on a
// machine; writes lets fixes change the machine's sysctls.
func newHost(ctx context.Context, server *incus.Server, m machine, writes bool, closeHost func(context.Context) error) (*Host, error) {
	cidr, err := server.NetworkAddress(ctx)
	if err != nil {
		return nil, err
	}
	bridge, err := netip.ParsePrefix(cidr)
	if err != nil {
		return nil, fmt.Errorf("read the bridge's IPv4 address %q: %w; nodes need a bridge with an IPv4 subnet", cidr, err)
	}
	return &Host{Server: server, subnet: bridge.Masked(), gateway: bridge.Addr(), machine: m, writes: writes, close: closeHost,
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
	err := whileThawing(ctx, n.host.machine, freezerRoot, n.Name(), func() error { return n.Instance.Delete(ctx) })
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
	return whileThawing(ctx, n.host.machine, freezerRoot, n.Name(), func() error { return n.Instance.ForceRestart(ctx) })
}

// Stop asks the instance's init to end.
func (n *node) Stop(ctx context.Context) error {
	return whileThawing(ctx, n.host.machine, freezerRoot, n.Name(), func() error { return n.Instance.Stop(ctx) })
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

// Find finds a node that a run made earlier, once nothing is being done with it;
// there is false where there is none.
func (h *Host) Find(ctx context.Context, run, name string) (found provisioner.Node, there bool, err error) {
	if err := h.Server.Instance(name, "").Settle(ctx); err != nil {
		return nil, false, err
	}
	owned, err := h.Server.Owned(ctx)
	if err != nil {
		return nil, false, err
	}
	i := slices.IndexFunc(owned, func(o incus.Owned) bool { return o.Name == name && o.Owner["run"] == run })
	if i < 0 {
		return nil, false, nil
	}
	address := owned[i].Address
	if a, err := netip.ParseAddr(address); err == nil {
		h.mu.Lock()
		h.taken[name] = a
		h.mu.Unlock()
	}
	return &node{Instance: h.Server.Instance(name, address), host: h}, true, nil
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
	for a := range candidates(h.subnet, node) {
		if !used[a] {
			h.taken[node] = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in %s", h.subnet)
}

// firstOffset is where the addresses of nodes begin in a subnet.
const firstOffset = 100

// candidates are the addresses that a node of a name may have, each once. Names
// lead to different ones: Incus reads dnsmasq's file of leases to give back that
// of a deleted instance, and where dnsmasq writes the file at that moment, it finds
// none. The lease stays for its hour then, and nobody else is given the address,
// pinned or not.
func candidates(subnet netip.Prefix, node string) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		bytes := subnet.Masked().Addr().As4()
		base := binary.BigEndian.Uint32(bytes[:])
		// The last one is the subnet's broadcast.
		count := int64(1)<<(32-subnet.Bits()) - 1 - firstOffset
		if count <= 0 {
			return
		}
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(node))
		for i := range count {
			binary.BigEndian.PutUint32(bytes[:], base+firstOffset+uint32((int64(sum.Sum32())+i)%count))
			if !yield(netip.AddrFrom4(bytes)) {
				return
			}
		}
	}
}

// Dial connects to a node's TCP port: from the machine that the bridge is on
// or, where there is no way to it, through the Incus server.
func (h *Host) Dial(ctx context.Context, node string, port int) (net.Conn, error) {
	h.mu.Lock()
	a, ok := h.taken[node]
	h.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial node %s port %d: the host has no such node", node, port)
	}
	address := net.JoinHostPort(a.String(), strconv.Itoa(port))
	if h.machine == nil {
		return h.Server.Instance(node, a.String()).Dial(ctx, address)
	}
	conn, err := h.machine.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial node %s port %d: %w", node, port, err)
	}
	return withDeadlines(conn), nil
}

// withDeadlines is a connection as callers rely on it: what SSH forwards knows
// no deadlines.
func withDeadlines(conn net.Conn) net.Conn {
	if conn.SetDeadline(time.Time{}) == nil {
		return conn
	}
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.Copy(theirs, conn)
		_ = theirs.Close()
	}()
	go func() {
		_, _ = io.Copy(conn, theirs)
		_ = conn.Close()
	}()
	return ours
}

// Exec is the way to the machine's own system; nil where there is none.
func (h *Host) Exec() provisioner.HostExec {
	if h.machine == nil {
		return nil
	}
	return system{machine: h.machine, writes: h.writes}
}

// Facts observes the machine and the Incus server. Where there is no way to the
// machine, it is what the server says; FactsFrom adds what a node sees.
func (h *Host) Facts(ctx context.Context) (f matrix.HostFacts, err error) {
	if h.machine != nil {
		if f, err = observe(ctx, h.machine.Run); err != nil {
			return f, err
		}
	}
	said, err := h.Server.Facts(ctx)
	if err != nil {
		return f, err
	}
	f.Incus, f.LXC, f.Storage = said.Incus, said.LXC, said.Storage
	if f.DiskFreeBytes, err = h.Server.Free(ctx); err != nil {
		return f, err
	}
	if h.machine != nil {
		return f, nil
	}
	resources, err := h.Server.Resources(ctx)
	if err != nil {
		return f, err
	}
	f.Kernel, f.CPUs, f.CPULevel = said.Kernel, resources.CPUs, cpuLevel(said.Architecture, resources.CPUFlags)
	f.MemoryBytes, f.MemoryFreeBytes = resources.MemoryBytes, &resources.FreeBytes
	return f, nil
}

// FactsFrom completes what Facts observed without a way to the machine by what
// a node sees of it: a node of an image, owned as given, is created for that
// and removed again. It is privileged and keeps every capability, so that its
// kernel, cgroups, capabilities and sysctls are those of the host. Where Facts
// could look for itself, they are returned as they are.
func (h *Host) FactsFrom(ctx context.Context, facts matrix.HostFacts, image string, owner map[string]string) (_ matrix.HostFacts, err error) {
	if h.machine != nil {
		return facts, nil
	}
	fail := func(err error) (matrix.HostFacts, error) {
		return facts, fmt.Errorf("observe the host from a node: %w", err)
	}
	random := make([]byte, 4)
	_, _ = rand.Read(random)
	spec := provisioner.NodeSpec{Name: "observe-" + hex.EncodeToString(random), Image: image, Owner: owner,
		Incus: provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true"}, RawLXC: []string{"lxc.cap.drop="}}}
	node, err := h.CreateNode(ctx, spec)
	if node != nil {
		defer func() {
			removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removePatience)
			defer cancel()
			err = errors.Join(err, node.Delete(removing))
		}()
	}
	if err != nil {
		return fail(err)
	}
	// Its init mounts the cgroups.
	seen, err := backoff.Retry(ctx, func() (matrix.HostFacts, error) {
		seen, err := observe(ctx, node.Exec)
		if err == nil && seen.Cgroup == "" {
			err = errors.New("it shows no cgroups")
		}
		return seen, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(lookPatience))
	if err != nil {
		return fail(err)
	}
	facts.Kernel = seen.Kernel
	facts.Cgroup, facts.CgroupCPUSplit, facts.Controllers = seen.Cgroup, seen.CgroupCPUSplit, seen.Controllers
	facts.Capabilities, facts.AppArmor, facts.SELinux = seen.Capabilities, seen.AppArmor, seen.SELinux
	facts.Sysctls = seen.Sysctls
	return facts, nil
}

// How long a node that is there to look may take to boot that far, and to be
// removed.
const (
	lookPatience   = 30 * time.Second
	removePatience = 15 * time.Second
)

// Room makes sure that the nodes' pool has room; a
// *provisioner.NoSpaceError if not. A pool
// that does not say always has.
func (h *Host) Room(ctx context.Context, need int64) error {
	free, err := h.Server.Free(ctx)
	if err != nil {
		return err
	}
	if free != nil && *free < need {
		return &provisioner.NoSpaceError{Free: *free, Need: need}
	}
	return nil
}

// RestartDaemon ends the host's Incus daemon and starts another, of which the
// process IDs tell; nodes run on, and commands in them end. Nothing else may be
// done on the host meanwhile. Where the harness did not start the daemon it is a
// *provisioner.UnavailableError.
func (h *Host) RestartDaemon(ctx context.Context) (was, is int, err error) {
	if h.daemon == nil {
		return 0, 0, &provisioner.UnavailableError{What: "a restart of the Incus daemon", Tried: []string{"the harness did not start this host's"}}
	}
	// It would wait five minutes for commands that run.
	if err := errors.Join(h.Server.Settle(ctx), h.Server.EndAtOnce(ctx)); err != nil {
		return 0, 0, err
	}
	return h.daemon.restart(ctx)
}

// Close releases the host; an embedded one is stopped.
func (h *Host) Close(ctx context.Context) error { return h.close(ctx) }
