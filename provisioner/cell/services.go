package cell

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// does is what a step does.
type does = func(*run, context.Context, *matrix.PhaseResult) error

// surrounded starts a cell's services after its nodes. What befalls a service is
// not the cluster's doing, whatever it runs in.
func surrounded(create does) does {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		if err := create(x, ctx, result); err != nil || len(x.cell.Services) == 0 {
			return err
		}
		if x.Services == nil {
			return errors.New("start the services around the cluster: nothing here can run services")
		}
		around, evidence, err := x.Services.Start(ctx, x.cell, serviceName(x.names[0]), x.nodes)
		x.around = around
		result.Evidence = append(result.Evidence, evidence...)
		if err != nil {
			return errors.New("start the services around the cluster: " + err.Error())
		}
		return nil
	}
}

// serviceName is a name for services, made of the first server's: the hash that
// is in it makes it the cell's own.
func serviceName(server string) string {
	parts := strings.Split(server, "-")
	return "svc-" + parts[len(parts)-2]
}

// steady is a look at a cluster, and what its services say of it then.
func steady(look does) does {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		err := look(x, ctx, result)
		if x.around == nil || err != nil || !healthy(result.Evidence) {
			return err
		}
		result.Evidence = append(result.Evidence, x.around.Steady(ctx, x.cluster)...)
		return nil
	}
}

// watching is a restart that services watch.
func watching(restart does) does {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		if x.around != nil {
			if err := x.around.Watch(ctx, x.cluster); err != nil {
				return errors.New("watch the restart through the services around the cluster: " + err.Error())
			}
		}
		return restart(x, ctx, result)
	}
}

// seen is a look at a cluster after a restart, and what its services saw of it.
func seen(look does, fell bool) does {
	return func(x *run, ctx context.Context, result *matrix.PhaseResult) error {
		err := look(x, ctx, result)
		if x.around == nil || err != nil || !healthy(result.Evidence) {
			return err
		}
		evidence, traffic := x.around.Seen(ctx, x.cluster, fell)
		result.Evidence, result.Traffic = append(result.Evidence, evidence...), traffic
		return nil
	}
}

func healthy(all []matrix.Evidence) bool {
	return !slices.ContainsFunc(all, func(e matrix.Evidence) bool { return e.Outcome != matrix.Healthy })
}
