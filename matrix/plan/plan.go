// Package plan turns a matrix into the plan of a run: the cells, each with its
// exact version and what rules it out, and the inputs that they are made of.
package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// Resolver finds what can be had. An error that wraps one with a method
// Unavailable() bool that returns true says that it cannot be had: the cells
// that need it are planned and will be blocked. Any other error ends the
// planning. Each question is asked once.
type Resolver interface {
	// Distro resolves what the matrix wants of a distribution, for cells of the
	// variants given, to an exact version and the artifacts of it. Where these
	// cannot be had, the version may be known all the same.
	Distro(ctx context.Context, distro matrix.Distro, variants []string) (exact string, inputs []matrix.Input, err error)
	// Image resolves what the nodes of an OS that run a distro, in the variants
	// given, are made from.
	Image(ctx context.Context, os string, distro matrix.Distro, variants []string) ([]matrix.Input, error)
	// Members are the members of a remote server's cluster that are online, each
	// a host of its own; none where it is no cluster.
	Members(ctx context.Context, server matrix.RemoteRef) ([]string, error)
}

// Gates decide by a cell's declared facts whether it is impossible. No finding
// means that it is not, or that nobody can tell before the host was observed.
type Gates interface {
	Decide(cell matrix.Cell) (*matrix.GateFinding, error)
}

// Options narrow a plan.
type Options struct {
	// Only and Skip are selector expressions.
	Only, Skip []string
	// With lists harmful and optional fixes to apply to every cell, Without
	// fixes to leave out of every cell, by ID.
	With, Without []string
	// DefyGates has cells run that a gate rules out, where that can show whether
	// the gate still holds.
	DefyGates bool
	// Part narrows the plan to one of its shards; the zero value is the whole.
	Part Part
	// Soak is how many restarts in a row every cell has after all others.
	Soak int
	// Now is when the plan is made; the zero value is the present.
	Now time.Time
}

// Make makes the plan of a matrix. Its cells are in the matrix's order. The
// error is a *config.Error or *selector.Error where the user asked for
// something that does not fit the matrix.
func Make(ctx context.Context, m *config.Matrix, resolver Resolver, gates Gates, options Options) (matrix.Plan, error) {
	all, err := m.Cells()
	if err != nil {
		return matrix.Plan{}, err
	}
	r := resolving{resolver: resolver, versions: map[distro]*answer{}, images: map[image]*answer{}, seen: map[inputKey]matrix.Input{}}
	if err := r.channels(ctx, all); err != nil {
		return matrix.Plan{}, fmt.Errorf("plan %s: %w", m.File, err)
	}
	if all, err = divide(ctx, all, resolver); err != nil {
		return matrix.Plan{}, fmt.Errorf("plan %s: %w", m.File, err)
	}
	cells, err := selector.Select(all, options.Only, options.Skip)
	if err != nil {
		return matrix.Plan{}, err
	}
	with, without := set(options.With), set(options.Without)

	for i := range cells {
		if err := ctx.Err(); err != nil {
			return matrix.Plan{}, fmt.Errorf("plan %s: %w", m.File, err)
		}
		c := &cells[i]
		c.With, c.Without, c.DefyGates, c.Soak = with, without, options.DefyGates, options.Soak
		release, err := r.distro(ctx, c)
		if err != nil {
			return matrix.Plan{}, err
		}
		c.Unavailable = cmp.Or(c.Unavailable, c.Undoable())
		if c.Gate, err = gates.Decide(*c); err != nil {
			return matrix.Plan{}, fmt.Errorf("decide the gates of cell %s: %w", c.ID, err)
		}
		if !c.Runs() || !options.Part.Has(*c) {
			continue
		}
		needed := []*answer{release}
		for _, one := range c.ByOS() {
			base, err := r.image(ctx, one)
			if err != nil {
				return matrix.Plan{}, err
			}
			c.Unavailable = cmp.Or(c.Unavailable, base.unavailable)
			needed = append(needed, base)
		}
		if c.Unavailable != "" {
			continue
		}
		if err := r.use(needed...); err != nil {
			return matrix.Plan{}, fmt.Errorf("plan cell %s: %w", c.ID, err)
		}
	}
	now := options.Now
	if now.IsZero() {
		now = time.Now()
	}
	return shard(matrix.Plan{APIVersion: matrix.PlanAPIVersion, Created: now.UTC(), Matrix: m.File, Cells: cells, Inputs: r.inputs,
		Budget: m.PlanBudget(), Timeouts: m.PlanTimeouts(), Sources: m.PlanSources()}, options.Part)
}

// set is the IDs in order, each once.
func set(ids []string) []string { return slices.Compact(slices.Sorted(slices.Values(ids))) }

// membersPatience bounds the question for a server's members: one that does not
// answer blocks its cells only.
const membersPatience = 20 * time.Second

// divide puts a cell of each member in the place of one on a cluster: host lab
// becomes lab-MEMBER. Where the server cannot be asked, its cells are planned
// as they are, and are blocked.
func divide(ctx context.Context, cells []matrix.Cell, resolver Resolver) ([]matrix.Cell, error) {
	type cluster struct {
		members []string
		err     error
	}
	asked := map[matrix.RemoteRef]cluster{}
	ids := map[matrix.CellID]matrix.Distro{}
	var divided []matrix.Cell
	add := func(c matrix.Cell) error {
		if other, twice := ids[c.ID]; twice {
			if other != c.Distro {
				return fmt.Errorf("two cells have the ID %s: %s@%s and %s@%s are both %s; leave one out", c.ID, other.Name, other.Wanted(), c.Distro.Name, c.Distro.Wanted(), c.Distro)
			}
			return fmt.Errorf("two cells have the ID %s: a host has the name of another's cluster member", c.ID)
		}
		ids[c.ID] = c.Distro
		divided = append(divided, c)
		return nil
	}
	for _, c := range cells {
		server := c.Host.Remote
		if c.Host.Driver != "remote" {
			if err := add(c); err != nil {
				return nil, err
			}
			continue
		}
		of, known := asked[server]
		if !known {
			within, cancel := context.WithTimeout(ctx, membersPatience)
			of.members, of.err = resolver.Members(within, server)
			cancel()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if of.err == nil && len(of.members) > 1 && server.SSH != "" {
				of.err = fmt.Errorf("ssh is the way to one machine, and the server is a cluster of %s: leave it out", strings.Join(of.members, ", "))
			}
			asked[server] = of
		}
		if of.err != nil {
			c.Unavailable = fmt.Sprintf("host %s: %v", c.Host.Name, of.err)
		}
		if of.err != nil || len(of.members) == 0 {
			if err := add(c); err != nil {
				return nil, err
			}
			continue
		}
		for _, member := range of.members {
			one := c
			one.Host.Name, one.Host.Remote.Member = c.Host.Name+"-"+member, member
			one.ID = one.NewID()
			if err := add(one); err != nil {
				return nil, err
			}
		}
	}
	return divided, nil
}

// resolving asks each question once.
type resolving struct {
	resolver Resolver
	versions map[distro]*answer
	images   map[image]*answer
	inputs   []matrix.Input
	seen     map[inputKey]matrix.Input
}

// distro is a question for a distribution's release.
type distro struct{ name, wanted, variants string }

// image is a question for an image.
type image struct {
	os       string
	distro   matrix.Distro
	variants string
}

// answer is what a question got; unavailable says why it got nothing.
type answer struct {
	version     string
	inputs      []matrix.Input
	unavailable string
	// used: a cell that will run needs it, so its inputs are in the plan.
	used bool
}

// channels resolves the cells' channels, whose minors are part of their IDs and
// so must be known before anything else goes by these. The cell of one that
// cannot be resolved keeps the channel in its ID.
func (r *resolving) channels(ctx context.Context, cells []matrix.Cell) error {
	for i := range cells {
		if cells[i].Distro.Channel == "" {
			continue
		}
		if _, err := r.distro(ctx, &cells[i]); err != nil {
			return err
		}
		cells[i].ID = cells[i].NewID()
	}
	return nil
}

// distro resolves the cell's version.
func (r *resolving) distro(ctx context.Context, c *matrix.Cell) (*answer, error) {
	wanted := c.Distro.Wanted()
	asked := distro{c.Distro.Name, wanted, strings.Join(c.Variants, "/")}
	a, known := r.versions[asked]
	if !known {
		a = &answer{}
		var err error
		a.version, a.inputs, err = r.resolver.Distro(ctx, c.Distro, c.Variants)
		if a.unavailable, err = unavailable(err); err != nil {
			return nil, fmt.Errorf("resolve %s %s: %w", c.Distro.Name, wanted, err)
		}
		if (a.unavailable == "" || a.version != "") && c.Distro.Channel == "" && a.version != wanted && !strings.HasPrefix(a.version, wanted+".") {
			return nil, fmt.Errorf("resolve %s %s: got version %q, which is another", c.Distro.Name, wanted, a.version)
		}
		r.versions[asked] = a
	}
	if a.version != "" {
		c.Distro = c.Distro.At(a.version)
	}
	c.Unavailable = cmp.Or(a.unavailable, c.Unavailable)
	return a, nil
}

// image resolves what nodes of the cell's OS are made from.
func (r *resolving) image(ctx context.Context, c matrix.Cell) (*answer, error) {
	asked := image{c.OS.Name, c.Distro, strings.Join(c.Variants, "/")}
	a, known := r.images[asked]
	if !known {
		a = &answer{}
		var err error
		a.inputs, err = r.resolver.Image(ctx, c.OS.Name, c.Distro, c.Variants)
		if a.unavailable, err = unavailable(err); err != nil {
			return nil, fmt.Errorf("resolve the image %s for %s %s: %w", c.OS.Name, c.Distro.Name, c.Distro.Version, err)
		}
		r.images[asked] = a
	}
	return a, nil
}

// unavailable is why something cannot be had, if that is what err says; any
// other error is returned.
func unavailable(err error) (why string, other error) {
	var u interface {
		error
		Unavailable() bool
	}
	if errors.As(err, &u) && u.Unavailable() {
		return err.Error(), nil
	}
	return "", err
}

// inputKey is what an input is, whatever bytes it has.
type inputKey struct{ kind, name, version string }

// use takes answers' inputs into the plan. The same input with other bytes
// would make the plan mean two things; the same bytes from two sources do not.
func (r *resolving) use(answers ...*answer) error {
	for _, a := range answers {
		if a.used {
			continue
		}
		a.used = true
		for _, in := range a.inputs {
			k := inputKey{in.Kind, in.Name, in.Version}
			before, there := r.seen[k]
			switch {
			case !there:
				r.seen[k] = in
				r.inputs = append(r.inputs, in)
			case before.Digest == "":
				r.seen[k], r.inputs[slices.Index(r.inputs, before)] = in, in
			case in.Digest != "" && before.Digest != in.Digest:
				return fmt.Errorf("%s %s is resolved to %s from %s, and to %s from %s", in.Kind,
					strings.TrimSpace(in.Name+" "+in.Version), orNone(before.Digest), before.Source, orNone(in.Digest), in.Source)
			}
		}
	}
	return nil
}

func orNone(digest string) string {
	if digest == "" {
		return "nothing yet"
	}
	return digest
}
