package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/service"
)

// services runs a cell's services beside its nodes, or in this machine's Docker.
type services struct {
	host   *host.Host
	rootFS containers.RootFS
	owner  map[string]string
	// here: the nodes' bridge is one of this machine, so that Docker's reaches it.
	here bool
}

var _ cell.Services = services{}

// services are those of a cell on the host; nodes have these owner keys.
func (h *openHost) services(c matrix.Cell, owner map[string]string) (services, error) {
	i := slices.IndexFunc(h.Knowledge.OSes, func(o image.OS) bool { return o.Name == containers.BaseOS && o.Mmdebstrap != nil })
	if i < 0 {
		return services{}, &provisioner.UnavailableError{What: "the root of services", Tried: []string{"nothing says how " + containers.BaseOS + " is made"}}
	}
	s := services{host: h.host, owner: maps.Clone(owner), here: c.Host.Driver == "embedded" || c.Host.Driver == "local",
		rootFS: containers.RootFS{Base: h.Knowledge.OSes[i].Mmdebstrap.Root(), CacheDir: h.CacheDir}}
	s.owner["kind"], s.owner["cell"] = "service", string(c.ID)
	return s, nil
}

// prepare makes sure of what takes long, before the cell's phases begin.
func (s services) prepare(ctx context.Context, wanted []matrix.Service) error {
	for _, w := range wanted {
		engine, err := s.open(ctx, w.Backend())
		if err == nil {
			err = errors.Join(engine.Prepare(ctx), engine.Close())
		}
		if err != nil {
			return fmt.Errorf("prepare service %s: %w", w, err)
		}
	}
	return nil
}

// Start starts a cell's services.
func (s services) Start(ctx context.Context, c matrix.Cell, name string, nodes []provisioner.Node) (cell.Around, []matrix.Evidence, error) {
	return service.Start(ctx, s.open, c.Services, name, c.Topology.Servers, nodes)
}

// open opens the engine that a backend stands for.
func (s services) open(ctx context.Context, backend string) (containers.Engine, error) {
	var none *containers.NoEngineError
	if backend == matrix.BackendDocker || backend == matrix.BackendAuto && s.here {
		docker, err := containers.OpenDocker(ctx, s.rootFS, s.owner)
		if err == nil {
			return docker, nil
		}
		if backend == matrix.BackendDocker || !errors.As(err, &none) {
			return nil, err
		}
	}
	return containers.OpenIncus(s.host, s.host.Server, s.rootFS, s.owner), nil
}
