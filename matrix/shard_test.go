package matrix_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func shardedPlan() matrix.Plan {
	p := matrix.Plan{APIVersion: matrix.PlanAPIVersion, Matrix: "kernels", Timeouts: matrix.Timeouts{Install: matrix.Duration(time.Minute)}}
	for _, host := range []string{"one", "two"} {
		c := matrix.Cell{Host: matrix.HostRef{Name: host, Driver: "qemu"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
			OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
		c.ID = c.NewID()
		p.Cells = append(p.Cells, c)
	}
	return p
}

// Shards that several machines planned have one digest, whatever each of them
// can have; any other difference parts them.
func TestDigest(t *testing.T) {
	whole := shardedPlan().Digest()
	for name, c := range map[string]struct {
		change func(p *matrix.Plan)
		same   bool
	}{
		"made later":                     {func(p *matrix.Plan) { p.Created = time.Unix(1, 0) }, true},
		"other inputs":                   {func(p *matrix.Plan) { p.Inputs = []matrix.Input{{Kind: "image", Name: "debian/13"}} }, true},
		"a bigger budget":                {func(p *matrix.Plan) { p.Budget.CPUs = 64 }, true},
		"a cell that cannot be had here": {func(p *matrix.Plan) { p.Cells[0].Unavailable = "no image" }, true},
		"a shard": {func(p *matrix.Plan) {
			p.Shard = &matrix.Shard{Part: "1/2", Cells: p.Cells}
			p.Cells = p.Cells[:1]
		}, true},
		"another matrix":           {func(p *matrix.Plan) { p.Matrix = "default" }, false},
		"another version":          {func(p *matrix.Plan) { p.Cells[1].Distro.Version = "1.34.5" }, false},
		"a fix left out":           {func(p *matrix.Plan) { p.Cells[0].Without = []string{"swap"} }, false},
		"a cell less":              {func(p *matrix.Plan) { p.Cells = p.Cells[:1] }, false},
		"another order":            {func(p *matrix.Plan) { slices.Reverse(p.Cells) }, false},
		"another timeout":          {func(p *matrix.Plan) { p.Timeouts.Install++ }, false},
		"smaller nodes":            {func(p *matrix.Plan) { p.Budget.Node.MemoryBytes = 1 }, false},
		"a gate that rules it out": {func(p *matrix.Plan) { p.Cells[0].Gate = &matrix.GateFinding{Gate: "incus-kernel"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := shardedPlan()
			c.change(&p)
			if got := p.Digest(); (got == whole) != c.same {
				t.Errorf("the digest is %s, the plan's %s", got, whole)
			}
		})
	}
}

func TestCheckShard(t *testing.T) {
	p := shardedPlan()
	p.Shard = &matrix.Shard{Part: "host=two", Plan: p.Digest(), Cells: slices.Clone(p.Cells)}
	p.Cells = p.Cells[1:]
	if err := p.CheckShard(); err != nil {
		t.Fatal(err)
	}
	if w := p.Whole(); len(w.Cells) != 2 || w.Shard != nil || w.CheckShard() != nil {
		t.Errorf("the whole is %+v", w)
	}
	if got, want := p.Extent(), "1 of 2 cells, shard host=two"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	p.Shard.Cells[0].Distro.Version = "1.34.5"
	if p.CheckShard() == nil {
		t.Error("another whole passes for the plan's")
	}
	p.Shard.Plan = p.Digest()
	p.Cells[0].ID = "kubeadm-1.34/debian-13/1/three"
	if p.CheckShard() == nil {
		t.Error("a cell of no plan passes for the shard's")
	}
}
