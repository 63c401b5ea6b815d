// Package incus speaks to an Incus server for the rest of the project and is
// the only one, with the image package, that knows its client.
//
// Every call takes a context. Instances are created with their owner's
// user.lxcmatrix.* keys, in a project of the harness's own, so that a crash at
// any point leaves something that garbage collection can find.
package incus

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"
)

// ProjectName is the Incus project that everything of the harness lives in.
const ProjectName = "lxcmatrix"

// OwnerPrefix begins the configuration keys that say who owns an instance.
const OwnerPrefix = "user.lxcmatrix."

// Server is a connection to one Incus server, in the harness's project. It is
// safe for concurrent use.
type Server struct {
	conn *client.ProtocolIncus
	// project is the harness's but where LookInto says another.
	project string
	pool    string
	network string
	// member is the cluster member in use; empty where there is no choice.
	member string
}

// with is the client in the harness's project, bound to ctx. WithContext
// changes its receiver, so it is only ever called on the copy that UseProject
// makes.
func (s *Server) with(ctx context.Context) client.InstanceServer {
	return s.global(ctx).UseProject(s.project)
}

// LookInto makes the instances of another project be the server's from then on:
// to look at what somebody else made. A project that is not there is an error.
func (s *Server) LookInto(ctx context.Context, project string) error {
	if _, _, err := s.global(ctx).GetProject(project); err != nil {
		return fmt.Errorf("look into the Incus project %s: %w", project, err)
	}
	s.project = project
	return nil
}

func (s *Server) global(ctx context.Context) client.InstanceServer {
	return s.conn.UseProject(api.ProjectDefaultName).(*client.ProtocolIncus).WithContext(ctx)
}

// at is the client that speaks to the member in use.
func (s *Server) at(c client.InstanceServer) client.InstanceServer {
	if s.member == "" {
		return c
	}
	return c.UseTarget(s.member)
}

// UseMember creates instances on a member of the server's cluster, and asks it
// about its machine, from then on.
func (s *Server) UseMember(name string) { s.member = name }

// Members are the names of the cluster's members that are online; none where
// the server is not part of a cluster.
func (s *Server) Members(ctx context.Context) ([]string, error) {
	c := s.global(ctx)
	info, _, err := c.GetServer()
	if err != nil {
		return nil, fmt.Errorf("ask the Incus server for its cluster: %w", err)
	}
	if !info.Environment.ServerClustered {
		return nil, nil
	}
	members, err := c.GetClusterMembers()
	if err != nil {
		return nil, fmt.Errorf("list the members of the Incus cluster: %w", err)
	}
	var online []string
	for _, m := range members {
		if m.Status == "Online" {
			online = append(online, m.ServerName)
		}
	}
	slices.Sort(online)
	return online, nil
}

// Storage is where a server keeps instances, and Bridge how they are
// connected.
type Storage struct {
	// Pool is the storage pool's name.
	Pool string
	// Driver is the pool's driver; used only where the pool is created.
	Driver string
	// Source is the pool's folder or device; used only where it is created.
	Source string
}

// Bridge is a managed bridge of the server's.
type Bridge struct {
	// Name is the network's and the interface's name, 15 bytes at most.
	Name string
	// Address is the bridge's IPv4 address in CIDR form; used only where the
	// bridge is created.
	Address string
}

// Prepare makes sure that the harness's project, the pool and the bridge are
// there, and uses them from then on. What is there already is left as it is.
func (s *Server) Prepare(ctx context.Context, storage Storage, bridge Bridge) error {
	c := s.global(ctx)
	if _, _, err := c.GetStoragePool(storage.Pool); err != nil {
		if !isNotFound(err) {
			return fmt.Errorf("look up storage pool %s: %w", storage.Pool, err)
		}
		config := api.ConfigMap{}
		if storage.Source != "" {
			config["source"] = storage.Source
		}
		err := c.CreateStoragePool(api.StoragePoolsPost{Name: storage.Pool, Driver: storage.Driver,
			StoragePoolPut: api.StoragePoolPut{Config: config, Description: "lxcmatrix"}})
		if err != nil {
			return fmt.Errorf("create storage pool %s: %w", storage.Pool, err)
		}
	}
	if _, _, err := c.GetNetwork(bridge.Name); err != nil {
		if !isNotFound(err) {
			return fmt.Errorf("look up network %s: %w", bridge.Name, err)
		}
		// No IPv6: an RA's link-local DNS server would end in the nodes'
		// resolv.conf, where kubelet and k3s reject it.
		err := c.CreateNetwork(api.NetworksPost{Name: bridge.Name, Type: "bridge",
			NetworkPut: api.NetworkPut{Description: "lxcmatrix", Config: api.ConfigMap{
				"ipv4.address": bridge.Address, "ipv4.nat": "true", "ipv6.address": "none",
			}}})
		if err != nil {
			return fmt.Errorf("create network %s with address %s: %w", bridge.Name, bridge.Address, err)
		}
	}
	return s.use(ctx, storage.Pool, bridge.Name)
}

// use makes sure that the harness's project is there, and uses a pool and a
// bridge from then on.
func (s *Server) use(ctx context.Context, pool, bridge string) error {
	c := s.global(ctx)
	if _, _, err := c.GetProject(ProjectName); err != nil {
		if !isNotFound(err) {
			return fmt.Errorf("look up project %s: %w", ProjectName, err)
		}
		err := c.CreateProject(api.ProjectsPost{Name: ProjectName, ProjectPut: api.ProjectPut{
			Description: "owned by lxcmatrix",
			Config: api.ConfigMap{
				"features.images": "true", "features.profiles": "true",
				"features.storage.volumes": "true", "features.networks": "false",
			}}})
		if err != nil {
			return fmt.Errorf("create project %s: %w", ProjectName, err)
		}
	}
	s.pool, s.network = pool, bridge
	return nil
}

// Use names a pool and a bridge that are there already, and makes sure that
// the harness's project is. Empty names choose those of the server's default
// profile, or else its first usable ones.
func (s *Server) Use(ctx context.Context, pool, bridge string) error {
	c := s.global(ctx)
	profile, _, err := c.GetProfile(api.ProjectDefaultName)
	if err != nil {
		return fmt.Errorf("look up the default profile: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(profile.Devices)) {
		device := profile.Devices[name]
		switch {
		case device["type"] == "disk" && device["path"] == "/" && pool == "":
			pool = device["pool"]
		case device["type"] == "nic" && bridge == "":
			bridge = device["network"]
		}
	}
	if pool == "" {
		pools, err := c.GetStoragePoolNames()
		if err != nil {
			return fmt.Errorf("list storage pools: %w", err)
		}
		if len(pools) == 0 {
			return fmt.Errorf("the Incus server has no storage pool; create one with: incus storage create default dir")
		}
		pool = pools[0]
	}
	if bridge == "" {
		networks, err := c.GetNetworks()
		if err != nil {
			return fmt.Errorf("list networks: %w", err)
		}
		for _, n := range networks {
			if n.Managed && n.Type == "bridge" {
				bridge = n.Name
				break
			}
		}
		if bridge == "" {
			return fmt.Errorf("the Incus server has no managed bridge; create one with: incus network create incusbr0")
		}
	}
	if _, _, err := c.GetStoragePool(pool); err != nil {
		return fmt.Errorf("look up storage pool %s: %w", pool, err)
	}
	if _, _, err := c.GetNetwork(bridge); err != nil {
		return fmt.Errorf("look up network %s: %w", bridge, err)
	}
	return s.use(ctx, pool, bridge)
}

// NetworkAddress is the bridge's IPv4 address in CIDR form.
func (s *Server) NetworkAddress(ctx context.Context) (string, error) {
	n, _, err := s.global(ctx).GetNetwork(s.network)
	if err != nil {
		return "", fmt.Errorf("look up network %s: %w", s.network, err)
	}
	return n.Config["ipv4.address"], nil
}

// MoveNetwork gives the bridge another IPv4 address, in CIDR form.
func (s *Server) MoveNetwork(ctx context.Context, address string) error {
	c := s.global(ctx)
	n, etag, err := c.GetNetwork(s.network)
	if err == nil {
		put := n.Writable()
		if put.Config == nil {
			put.Config = api.ConfigMap{}
		}
		put.Config["ipv4.address"] = address
		err = c.UpdateNetwork(s.network, put, etag)
	}
	if err != nil {
		return fmt.Errorf("move network %s to %s: %w", s.network, address, err)
	}
	return nil
}

// Facts are what the server says of itself and of the machine that it runs on.
type Facts struct {
	Incus string
	LXC   string
	// Storage is the driver of the pool in use.
	Storage string
	// Kernel is the machine's `uname -r`, Architecture its `uname -m`.
	Kernel, Architecture string
}

// Facts asks the server, or the member in use, for what it says of itself.
func (s *Server) Facts(ctx context.Context) (Facts, error) {
	info, _, err := s.at(s.global(ctx)).GetServer()
	if err != nil {
		return Facts{}, fmt.Errorf("ask the Incus server for its versions: %w", err)
	}
	e := info.Environment
	f := Facts{Incus: e.ServerVersion, Kernel: e.KernelVersion, Architecture: e.KernelArchitecture}
	// The drivers and their versions are joined by " | " in the same order.
	drivers := strings.Split(e.Driver, " | ")
	versions := strings.Split(e.DriverVersion, " | ")
	for i, d := range drivers {
		if d == "lxc" && i < len(versions) {
			f.LXC = versions[i]
		}
	}
	if s.pool != "" {
		pool, _, err := s.global(ctx).GetStoragePool(s.pool)
		if err != nil {
			return Facts{}, fmt.Errorf("look up storage pool %s: %w", s.pool, err)
		}
		f.Storage = pool.Driver
	}
	return f, nil
}

// Resources are a machine's.
type Resources struct {
	CPUs int
	// CPUFlags are those of one CPU, as /proc/cpuinfo names them; nil where the
	// server does not say.
	CPUFlags []string
	// MemoryBytes is all of it, FreeBytes what is not in use.
	MemoryBytes, FreeBytes int64
}

// Resources asks the server, or the member in use, for its machine's.
func (s *Server) Resources(ctx context.Context) (Resources, error) {
	all, err := s.at(s.global(ctx)).GetServerResources()
	if err != nil {
		return Resources{}, fmt.Errorf("ask the Incus server for its machine's resources: %w", err)
	}
	r := Resources{CPUs: int(all.CPU.Total), MemoryBytes: int64(all.Memory.Total), FreeBytes: int64(all.Memory.Total - all.Memory.Used)}
	for _, socket := range all.CPU.Sockets {
		for _, core := range socket.Cores {
			r.CPUFlags = core.Flags
		}
	}
	return r, nil
}

// Free is how much the pool in use can still take, in bytes; nil where it does
// not say.
func (s *Server) Free(ctx context.Context) (*int64, error) {
	resources, err := s.at(s.global(ctx)).GetStoragePoolResources(s.pool)
	if err != nil {
		return nil, fmt.Errorf("ask how much is free in storage pool %s: %w", s.pool, err)
	}
	space := resources.Space
	if space.Total == 0 || space.Used > space.Total {
		return nil, nil
	}
	return new(int64(space.Total - space.Used)), nil
}

// Settle waits until nothing is being done in the harness's project: an
// instance that is just being started can neither be stopped nor deleted, and
// shows as stopped.
func (s *Server) Settle(ctx context.Context) error {
	return s.settle(ctx, func(api.Operation) bool { return true })
}

// settle waits until none of some operations is being done.
func (s *Server) settle(ctx context.Context, concerns func(api.Operation) bool) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		operations, err := s.with(ctx).GetOperations()
		if err != nil {
			return struct{}{}, backoff.Permanent(err)
		}
		for _, o := range operations {
			// Commands that run in an instance are websockets, and end with it.
			if o.Class == "task" && !o.StatusCode.IsFinal() && concerns(o) {
				return struct{}{}, fmt.Errorf("operation %s (%s) is still %s", o.ID, o.Description, o.Status)
			}
		}
		return struct{}{}, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(50*time.Millisecond)))
	if err != nil {
		return fmt.Errorf("wait for the Incus server's operations: %w", err)
	}
	return nil
}

// Shutdown stops every instance and the daemon, and returns when it has
// ended its work.
func (s *Server) Shutdown(ctx context.Context) error {
	_, _, err := s.global(ctx).RawQuery(http.MethodPut, "/internal/shutdown?force=true", nil, "")
	if err != nil {
		return fmt.Errorf("shut the Incus daemon down: %w", err)
	}
	return nil
}

// EndAtOnce has the daemon, when it is asked to end, wait for no command that runs
// in an instance.
func (s *Server) EndAtOnce(ctx context.Context) error {
	c := s.global(ctx)
	server, etag, err := c.GetServer()
	if err == nil {
		put := server.Writable()
		if put.Config == nil {
			put.Config = api.ConfigMap{}
		}
		put.Config["core.shutdown_timeout"] = "0"
		err = c.UpdateServer(put, etag)
	}
	if err != nil {
		return fmt.Errorf("have the Incus daemon end at once: %w", err)
	}
	return nil
}

// Disconnect closes the connection's idle sockets.
func (s *Server) Disconnect() { s.conn.Disconnect() }

func isNotFound(err error) bool { return api.StatusErrorCheck(err, http.StatusNotFound) }
