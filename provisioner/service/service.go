// Package service puts services around clusters, a load balancer and a registry,
// and tells what they and their clients see of them.
package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Services are a cluster's.
type Services struct {
	// engines are closed with the services.
	engines []containers.Engine
	running []service
}

// service is one of them.
type service interface {
	// steady looks until all is well, or ctx ends.
	steady(ctx context.Context, cluster *provisioner.Cluster) []matrix.Evidence
	watch(ctx context.Context, cluster *provisioner.Cluster) error
	// seen is steady with what was seen since watch.
	seen(ctx context.Context, cluster *provisioner.Cluster, fell bool) ([]matrix.Evidence, []matrix.Traffic)
	remove(ctx context.Context) error
}

// Open opens the engine that a backend stands for.
type Open func(ctx context.Context, backend string) (containers.Engine, error)

// Start starts a cell's services around nodes that are there, by names that begin
// with name. What was started is returned with an error, too.
func Start(ctx context.Context, open Open, wanted []matrix.Service, name string, servers int, nodes []provisioner.Node) (*Services, []matrix.Evidence, error) {
	s := &Services{}
	var evidence []matrix.Evidence
	for _, w := range wanted {
		began := time.Now()
		engine, err := open(ctx, w.Backend())
		if err != nil {
			return s, evidence, fmt.Errorf("start %s: %w", w.Name(), err)
		}
		s.engines = append(s.engines, engine)
		var started service
		var at containers.Container
		switch w.Name() {
		case matrix.ServiceHAProxy:
			var b *balancer
			if b, err = startBalancer(ctx, engine, name+"-haproxy", servers, nodes); err == nil {
				started, at = b, b.proxy
			}
		case matrix.ServiceRegistry:
			var r *registry
			if r, err = startRegistry(ctx, engine, name+"-registry"); err == nil {
				started, at = r, r.registry
			}
		default:
			err = errors.New("there is no such service")
		}
		if err != nil {
			return s, evidence, fmt.Errorf("start %s: %w", w.Name(), err)
		}
		s.running = append(s.running, started)
		took := time.Since(began)
		evidence = append(evidence, matrix.Evidence{Check: w.Name(), Outcome: matrix.Healthy, Took: matrix.Duration(took),
			Saw: fmt.Sprintf("started in %s as %s at %s", engine.Name(), at.Name(), at.Address())})
	}
	return s, evidence, nil
}

// Steady looks until everything is well as the services see it, or ctx ends.
func (s *Services) Steady(ctx context.Context, cluster *provisioner.Cluster) (all []matrix.Evidence) {
	for _, one := range s.running {
		all = append(all, one.steady(ctx, cluster)...)
	}
	return all
}

// Watch begins to watch a cluster that is about to be restarted.
func (s *Services) Watch(ctx context.Context, cluster *provisioner.Cluster) error {
	for _, one := range s.running {
		if err := one.watch(ctx, cluster); err != nil {
			return err
		}
	}
	return nil
}

// Seen is Steady with what was seen since Watch; fell: every node was to be seen
// gone meanwhile.
func (s *Services) Seen(ctx context.Context, cluster *provisioner.Cluster, fell bool) (all []matrix.Evidence, traffic []matrix.Traffic) {
	for _, one := range s.running {
		evidence, clients := one.seen(ctx, cluster, fell)
		all, traffic = append(all, evidence...), append(traffic, clients...)
	}
	return all, traffic
}

// Remove ends the services.
func (s *Services) Remove(ctx context.Context) error {
	var errs []error
	for _, one := range s.running {
		errs = append(errs, one.remove(ctx))
	}
	for _, e := range s.engines {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// took is evidence with how long it took to see.
func took(began time.Time, all ...matrix.Evidence) []matrix.Evidence {
	for i := range all {
		all[i].Took = matrix.Duration(time.Since(began))
	}
	return all
}
