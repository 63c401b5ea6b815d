package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// DefaultStateDir is where the embedded host keeps its daemon's state, pool
// and images, unless LXCMATRIX_STATE names another folder. It is short: the
// paths of Unix sockets below it must fit into 107 bytes.
const DefaultStateDir = "/var/lib/lxcmatrix"

// StateDir is the folder of the embedded host's state.
func StateDir() string {
	if dir := os.Getenv("LXCMATRIX_STATE"); dir != "" {
		return dir
	}
	return DefaultStateDir
}

// EmbeddedOptions says how an embedded host is opened.
type EmbeddedOptions struct {
	// StateDir keeps the daemon's state between runs.
	StateDir string
	// PoolBytes is the size of the pool's loop file, when it is made.
	PoolBytes int64
}

// InUseError is an embedded host that another live run has open.
type InUseError struct {
	StateDir string
}

// Error names the state folder and the remedy.
func (e *InUseError) Error() string {
	return fmt.Sprintf("open the embedded host in %s: another run has it open; wait for its end, or give this run a state folder of its own with LXCMATRIX_STATE", e.StateDir)
}

// OpenEmbedded starts an Incus daemon of the harness's own: private state, own
// bridge and subnet, no listener but its Unix socket, instances on an ext4
// loop file so that a node cannot fill the machine. A daemon that a crashed
// run left is taken over. Close stops it.
func OpenEmbedded(ctx context.Context, opts EmbeddedOptions) (_ *Host, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("open the embedded host: starting an Incus daemon needs root")
	}
	// The bridge's dnsmasq gives its rights up, and reads the nodes' addresses
	// below this folder all the same: where it cannot, nodes get other ones.
	if err := errors.Join(os.MkdirAll(opts.StateDir, 0o711), os.Chmod(opts.StateDir, 0o711)); err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	lock := flock.New(filepath.Join(opts.StateDir, "lock"))
	if err := waitForLock(ctx, lock); err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	undo := []func(context.Context) error{func(context.Context) error { return lock.Unlock() }}
	closeAll := func(ctx context.Context) error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i](ctx))
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			err = errors.Join(err, closeAll(cleanup))
		}
	}()

	pool, d := embeddedParts(opts.StateDir)
	pool.Bytes = opts.PoolBytes
	undo = append(undo, pool.unmount)
	if err := pool.mount(ctx); err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	undo = append(undo, func(ctx context.Context) error {
		return whileThawing(ctx, thisMachine{}, freezerRoot, "*", func() error { return d.stop(ctx) })
	})
	server, err := d.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	undo = append(undo, func(context.Context) error {
		server.Disconnect()
		return nil
	})
	bridge := BridgeName(opts.StateDir)
	subnet, err := freeSubnet(bridge)
	if err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	err = server.Prepare(ctx, incus.Storage{Pool: "nodes", Driver: "dir", Source: filepath.Join(pool.Mount, "nodes")},
		incus.Bridge{Name: bridge, Address: subnet})
	if err != nil {
		return nil, fmt.Errorf("open the embedded host: %w", err)
	}
	// Another daemon may have taken the subnet while this one was down.
	if address, err := server.NetworkAddress(ctx); err == nil && taken(bridge, address) {
		if err := server.MoveNetwork(ctx, subnet); err != nil {
			return nil, fmt.Errorf("open the embedded host: %w", err)
		}
	}
	h, err := newHost(ctx, server, thisMachine{}, true, closeAll)
	if err != nil {
		return nil, err
	}
	h.daemon = &d
	return h, nil
}

// lockPatience is how long a lock is waited for that may be about to go: a child
// that a killed process was just starting has it until it is executed, and gc
// while it looks for what was left.
const lockPatience = 2 * time.Second

// waitForLock locks an embedded host's state; an *InUseError where another run has
// it.
func waitForLock(ctx context.Context, lock *flock.Flock) error {
	within, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	locked, err := lock.TryLockContext(within, lockPatience/20)
	switch {
	case locked:
		return nil
	case ctx.Err() == nil && within.Err() != nil:
		return &InUseError{StateDir: filepath.Dir(lock.Path())}
	}
	return fmt.Errorf("lock %s: %w", lock.Path(), err)
}

// embeddedParts are where an embedded host keeps its pool and its daemon.
func embeddedParts(stateDir string) (loopPool, daemon) {
	return loopPool{File: filepath.Join(stateDir, "pool.img"), Mount: filepath.Join(stateDir, "pool")},
		daemon{Dir: filepath.Join(stateDir, "incus"), Log: filepath.Join(stateDir, "incusd.log"), PIDFile: filepath.Join(stateDir, "incusd.pid")}
}

// BridgeName is the name of the bridge of the embedded host in a state folder: an
// interface's name is 15 bytes at most, and every state folder has its own.
func BridgeName(stateDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(stateDir)))
	return "lxcm" + hex.EncodeToString(sum[:4])
}

// freeSubnet chooses a /24 that no interface of this machine uses. A bridge
// that is there already keeps the one it has.
func freeSubnet(bridge string) (string, error) {
	used, err := usedSubnets(bridge)
	if err != nil {
		return "", err
	}
	return chooseSubnet(bridge, used)
}

// taken says whether an interface other than the bridge uses an address's
// subnet.
func taken(bridge, address string) bool {
	own, err := netip.ParsePrefix(address)
	if err != nil {
		return false
	}
	used, err := usedSubnets(bridge)
	return err == nil && slices.ContainsFunc(used, own.Masked().Overlaps)
}

// usedSubnets are the IPv4 and IPv6 subnets of all interfaces but the bridge.
func usedSubnets(bridge string) ([]netip.Prefix, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list this machine's interfaces: %w", err)
	}
	var used []netip.Prefix
	for _, i := range interfaces {
		if i.Name == bridge {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				used = append(used, p.Masked())
			}
		}
	}
	return used, nil
}

// chooseSubnet begins at a place of the bridge's own: the bridge of a host
// that is closed shows on no interface, and comes back with its old subnet.
func chooseSubnet(bridge string, used []netip.Prefix) (string, error) {
	const first, count = 60, 190
	start := int(sha256.Sum256([]byte(bridge))[0])
	for n := range count {
		third := byte(first + (start+n)%count)
		candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 187, third, 1}), 24)
		if !slices.ContainsFunc(used, candidate.Masked().Overlaps) {
			return candidate.String(), nil
		}
	}
	return "", fmt.Errorf("choose a subnet: this machine uses all of 10.187.60.0/24 to 10.187.249.0/24")
}
