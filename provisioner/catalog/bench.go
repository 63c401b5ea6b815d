package catalog

import (
	"context"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
)

// Bench is one host that several runs use, one after the other: it is opened
// for the first of them, and its images stay on it. It knows one host only.
type Bench struct {
	ground  *Ground
	station *station
}

// NewBench is a bench whose host is not open yet; the options are those of the
// first run.
func NewBench(o Options) *Bench { return &Bench{ground: NewGround(o)} }

// For is the bench as the ground of one run. A run ends before the next begins.
func (b *Bench) For(o Options) engine.Ground {
	ground := *b.ground
	ground.Options = o
	return &place{b, &ground}
}

// Close closes the host, and says whether there was one open.
func (b *Bench) Close(ctx context.Context) (open bool, err error) {
	if b.station == nil {
		return false, nil
	}
	return true, b.station.leave(ctx)
}

// place is a bench during one run.
type place struct {
	bench  *Bench
	ground *Ground
}

// Open opens the bench's host, or finds it open.
func (p *place) Open(ctx context.Context, ref matrix.HostRef) (engine.Host, error) {
	if p.bench.station == nil {
		s, err := p.ground.station(ctx, ref)
		if err != nil {
			return nil, err
		}
		p.bench.station = s
	}
	return &lent{openHost{Ground: p.ground, station: p.bench.station}}, nil
}

// lent is an open host that outlives the run.
type lent struct{ openHost }

var (
	_ engine.Mortal = (*lent)(nil)
	_ engine.Lent   = (*lent)(nil)
)

// Close leaves the host open.
func (*lent) Close(context.Context) error { return nil }

// StaysOpen is true: it is the bench that closes it.
func (*lent) StaysOpen() bool { return true }
