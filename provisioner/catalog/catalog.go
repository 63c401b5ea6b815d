// Package catalog wires names to what they stand for: drivers, distributions,
// fixes, gates, signatures, images and artifacts. It is the one place that
// knows them all, and it decides nothing.
package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/hygiene"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// Knowledge is everything declarative, loaded and checked.
type Knowledge struct {
	Fixes      *fix.Catalogue
	Gates      *fix.Gates
	Hosts      *fix.Hosts
	Signatures []*diagnose.Signature
	OSes       []image.OS
	// Digests are the SHA-256 in hex of the files that it was loaded from, by
	// kind and name.
	Digests map[string]string
}

// LoadKnowledge loads what is embedded, and the fixes of the folders given, with
// the gates and signatures in their folders of these names. What is wrong in any
// of it is told with its file and position, and nothing is loaded then.
func LoadKnowledge(ctx context.Context, fixFolders ...string) (*Knowledge, error) {
	fixes := []datafile.Source{{Name: "built-in", FS: fixtures.Fixes()}}
	gates := []datafile.Source{{Name: "built-in", FS: fixtures.Gates()}}
	signatures := []datafile.Source{{Name: "built-in", FS: fixtures.Signatures()}}
	for _, dir := range fixFolders {
		if err := holds(dir); err != nil {
			return nil, err
		}
		fixes = append(fixes, datafile.Source{Name: dir, FS: os.DirFS(dir)})
		for name, into := range map[string]*[]datafile.Source{"gates": &gates, "signatures": &signatures} {
			sub := filepath.Join(dir, name)
			if _, err := os.Stat(sub); err == nil {
				*into = append(*into, datafile.Source{Name: sub, FS: os.DirFS(sub)})
			}
		}
	}
	var k Knowledge
	var err error
	if k.Fixes, err = fix.Load(fixes...); err != nil {
		// What is wrong with signatures hangs on no fix.
		_, alsoBad := diagnose.Load(signatures...)
		return nil, errors.Join(err, alsoBad)
	}
	if k.Gates, err = fix.LoadGates(k.Fixes, gates...); err != nil {
		return nil, err
	}
	if k.Hosts, err = fix.LoadHosts(fix.Source{Name: "built-in", FS: fixtures.Hosts()}); err != nil {
		return nil, err
	}
	if k.Signatures, err = diagnose.Load(signatures...); err != nil {
		return nil, err
	}
	if err := errors.Join(k.linked(), diagnose.MatchesNone(ctx, k.Signatures, datafile.Source{Name: "built-in", FS: fixtures.Passing()})); err != nil {
		return nil, err
	}
	if k.OSes, err = image.LoadOS(fixtures.OS()); err != nil {
		return nil, err
	}
	k.Digests, err = digests(map[string][]datafile.Source{"fix": fixes, "gate": gates, "signature": signatures,
		"host": {{Name: "built-in", FS: fixtures.Hosts()}}, "os": {{Name: "built-in", FS: fixtures.OS()}}})
	return &k, err
}

// digests are the SHA-256 in hex of the files of folders, by kind and name.
func digests(sources map[string][]datafile.Source) (map[string]string, error) {
	all := map[string]string{}
	for kind, folders := range sources {
		for _, source := range folders {
			names, err := fs.Glob(source.FS, "*.yaml")
			if err != nil {
				return nil, fmt.Errorf("list the files of %s: %w", source.Name, err)
			}
			for _, name := range names {
				content, err := fs.ReadFile(source.FS, name)
				if err != nil {
					return nil, fmt.Errorf("read %s: %w", path.Join(source.Name, name), err)
				}
				all[kind+" "+path.Join(source.Name, name)] = fmt.Sprintf("%x", sha256.Sum256(content))
			}
		}
	}
	return all, nil
}

// holds is an error for a folder that has nothing to add, as one that was meant
// to be another.
func holds(dir string) error {
	for _, pattern := range []string{"*", "gates/*", "signatures/*"} {
		for _, ext := range []string{".yaml", ".yml"} {
			if found, err := fs.Glob(os.DirFS(dir), pattern+ext); err != nil || len(found) > 0 {
				return err
			}
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return nil // reading it will say that it is not there
	}
	return fmt.Errorf("read folder %s: it has no fix, and no gate or signature in its folders gates and signatures", dir)
}

// linked reports the signatures and fixes that fixes, gates and signatures name
// and that are not there.
func (k *Knowledge) linked() error {
	byID := map[string]*diagnose.Signature{}
	for _, s := range k.Signatures {
		byID[s.ID] = s
	}
	var problems []error
	for _, f := range k.Fixes.All() {
		for key, ids := range map[string][]string{"cures": f.Cures, "causes": f.Causes} {
			for i, id := range ids {
				if byID[id] == nil {
					problems = append(problems, f.Errorf(datafile.Path{key, i}, "%s: there is no signature %q", key, id))
				}
			}
		}
	}
	for _, g := range k.Gates.All() {
		if g.Probe != nil && byID[g.Probe.Signature] == nil {
			problems = append(problems, g.Errorf(datafile.Path{"probe", "signature"}, "probe: there is no signature %q", g.Probe.Signature))
		}
	}
	for _, s := range k.Signatures {
		for key, id := range map[string]string{"cure": s.Cure, "causedBy": s.CausedBy} {
			if id == "" {
				continue
			}
			if _, err := k.Fixes.Fix(id); err != nil {
				problems = append(problems, s.Errorf(datafile.Path{key}, "%s: %w", key, err))
			}
		}
	}
	return errors.Join(problems...)
}

// Rule asks every gate about a cell, by what it declares and by what was
// observed on its host and in a node; either is nil where nothing was. Where
// nodes are of two OSes, a gate that rules one out rules the cell out, and one
// that is undecided about one is so about the cell.
func (k *Knowledge) Rule(c matrix.Cell, host *matrix.HostFacts, node *matrix.NodeFacts) ([]fix.Ruling, error) {
	var all []fix.Ruling
	for _, one := range c.ByOS() {
		rulings, err := k.rule(one, host, node)
		if err != nil {
			return nil, err
		}
		if all == nil {
			all = rulings
		}
		for i, r := range rulings {
			if is := all[i].Answer; r.Answer == fix.RulesOut || r.Answer == fix.Undetermined && is != fix.RulesOut {
				all[i] = r
			}
		}
	}
	return all, nil
}

// rule asks every gate about a cell whose nodes are of one OS.
func (k *Knowledge) rule(c matrix.Cell, host *matrix.HostFacts, node *matrix.NodeFacts) ([]fix.Ruling, error) {
	declared, observed := fix.Declared(c).With(k.Hosts.Declared(c.Host)), fix.Observed(host, node)
	decisions, err := k.Fixes.Decide(declared.With(observed), choice(c))
	if err != nil {
		return nil, err
	}
	// A fix that is left out lifts its gate, so that the cell shows what the fix
	// is for; where gates are defied it is the gate that is to be shown.
	if c.DefyGates {
		decisions = slices.DeleteFunc(decisions, func(d fix.Decision) bool { return d.State == fix.LeftOut })
	}
	return k.Gates.Rule(declared, observed, decisions)
}

// Decisions are those about every fix of a cell, and the facts that they rest on:
// what the cell declares, and what was observed on its host and in a node; either
// is nil where nothing was.
func (k *Knowledge) Decisions(c matrix.Cell, host *matrix.HostFacts, node *matrix.NodeFacts) ([]fix.Decision, fix.Facts, error) {
	facts := fix.Declared(c).With(k.Hosts.Declared(c.Host), fix.Observed(host, node))
	decisions, err := k.Fixes.Decide(facts, choice(c))
	return decisions, facts, err
}

// Opposed finds fixes that a cell asks for beside others that apply to it, or
// may turn out to, and that they cannot be in effect with.
func (k *Knowledge) Opposed(c matrix.Cell) error {
	decisions, _, err := k.Decisions(c, nil, nil)
	if err != nil {
		return err
	}
	return fix.Opposed(decisions)
}

// uncured are the signatures of what the fixes cure that a cell leaves out.
func (k *Knowledge) uncured(c matrix.Cell) []*diagnose.Signature {
	var all []*diagnose.Signature
	for _, s := range k.Signatures {
		if slices.ContainsFunc(c.Without, func(id string) bool {
			f, err := k.Fixes.Fix(id)
			return err == nil && slices.Contains(f.Cures, s.ID)
		}) {
			all = append(all, s)
		}
	}
	return all
}

// choice is what a cell says of fixes.
func choice(c matrix.Cell) fix.Choice { return fix.Choice{With: c.With, Without: c.Without} }

// Gate decides on a cell by declared facts (host nil) or observed ones.
func (k *Knowledge) Gate(c matrix.Cell, host *matrix.HostFacts) (*matrix.GateFinding, error) {
	rulings, err := k.Rule(c, host, nil)
	if err != nil {
		return nil, err
	}
	return fix.Finding(rulings), nil
}

// Decide says about a cell's gate on declared facts, at plan time.
func (k *Knowledge) Decide(c matrix.Cell) (*matrix.GateFinding, error) { return k.Gate(c, nil) }

// HasSignature says whether a signature is known.
func (k *Knowledge) HasSignature(id string) bool {
	return slices.ContainsFunc(k.Signatures, func(s *diagnose.Signature) bool { return s.ID == id })
}

// Options of a Ground.
type Options struct {
	Knowledge *Knowledge
	Artifacts *artifact.Store
	Plan      matrix.Plan
	Folder    *runfolder.Folder
	RunID     string
	CacheDir  string
	StateDir  string
	// Hygiene is the run's: what cells of one host left may be on another's
	// machine.
	Hygiene *hygiene.Ledger
	Keep    cell.Keep
	// Hasten ends a cell's phase once it shows, and goes on to show, what a fix
	// that was left out claims to cure.
	Hasten bool
	// Stay, if set, takes the place of cells' restarts.
	Stay cell.Stay
	// Hear keeps in the run's folder what cells' nodes say last, for who looks on.
	Hear     bool
	Progress provisioner.Progress
	Clock    provisioner.Clock
}

// Ground opens real hosts.
type Ground struct {
	Options
	embedded *shared[*host.Host]
	images   *image.Store
	prepared *memory[image.Prepared]
}

var _ engine.Ground = (*Ground)(nil)

// NewGround is a ground on which nothing is open yet.
func NewGround(o Options) *Ground {
	embedded := openEmbedded(o.StateDir, o.Plan.Budget.DiskBytes)
	return &Ground{Options: o, embedded: embedded, images: images(embedded, o.CacheDir, o.Plan, o.Knowledge, o.Progress),
		prepared: &memory[image.Prepared]{}}
}

// Images makes and keeps prepared images as a run does, on the embedded host.
func Images(stateDir, cacheDir string, p matrix.Plan, k *Knowledge, progress provisioner.Progress) *image.Store {
	return images(openEmbedded(stateDir, p.Budget.DiskBytes), cacheDir, p, k, progress)
}

func openEmbedded(stateDir string, poolBytes int64) *shared[*host.Host] {
	return newShared(func(ctx context.Context) (*host.Host, error) {
		return host.OpenEmbedded(ctx, host.EmbeddedOptions{StateDir: stateDir, PoolBytes: poolBytes})
	})
}

func images(embedded *shared[*host.Host], cacheDir string, p matrix.Plan, k *Knowledge, progress provisioner.Progress) *image.Store {
	return &image.Store{Workshop: workshop(embedded, progress), CacheDir: cacheDir, Sources: p.Sources.Images, OSes: k.OSes, Progress: progress}
}

// Open opens a host by its driver and observes it.
func (g *Ground) Open(ctx context.Context, ref matrix.HostRef) (engine.Host, error) {
	o, err := g.station(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &openHost{Ground: g, station: o}, nil
}

// station opens a host for one run or several.
func (g *Ground) station(ctx context.Context, ref matrix.HostRef) (*station, error) {
	h, leave, err := g.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	facts, err := h.Facts(ctx)
	if err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("observe host %s: %w", ref.Name, err), leave(closing))
	}
	o := &station{host: h, leave: leave, facts: facts}
	if exec := h.Exec(); exec != nil {
		leases := lease.New(exec, leaseFile(ref, h))
		if g.Progress != nil {
			leases.Waits = func(by string) {
				g.Progress.Note("host %s: a cell that needs other sysctls of the machine waits: %s", ref.Name, by)
			}
		}
		o.lease, o.hygiene = hostLease{leases}, g.Hygiene.Host(ctx, exec, leases.Alone)
	} else {
		o.hygiene = g.Hygiene.Host(ctx, nil, nil)
	}
	return o, nil
}

// open opens a host; leave closes it, where nobody else needs it.
func (g *Ground) open(ctx context.Context, ref matrix.HostRef) (h *host.Host, leave func(context.Context) error, err error) {
	switch ref.Driver {
	case "embedded":
		return g.embedded.enter(ctx)
	case "qemu":
		console, err := g.Folder.Console(ref.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("open host %s: %w", ref.Name, err)
		}
		h, err := host.OpenQEMU(ctx, ref, host.QEMUOptions{CacheDir: g.CacheDir, StateDir: g.StateDir, Console: console, Progress: g.Progress})
		if err != nil {
			return nil, nil, err
		}
		if g.Keep != cell.KeepNever && g.Progress != nil {
			g.Progress.Note("nodes on host %s are not kept: its machine ends with the run; what it printed is kept in %s", ref.Name, console)
		}
		return h, h.Close, nil
	}
	if h, err = OpenHost(ctx, ref, g.StateDir, g.Plan.Budget.DiskBytes); err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}

// LeaseFile is where this machine's sysctls of before are kept while they are
// changed: one place for every run on it, whatever its state folder, that a
// boot empties as it resets the sysctls.
const LeaseFile = "/run/lxcmatrix/host-sysctls.json"

// leaseFile is the same for all hosts of this machine. A machine elsewhere has
// one for all runs from here; one of ours has its own, which is gone with it.
func leaseFile(ref matrix.HostRef, h *host.Host) string {
	switch ref.Driver {
	case "qemu":
		return filepath.Join(h.Folder(), "host-sysctls.json")
	case "remote":
		return RemoteLeaseFile(ref.Remote)
	}
	return LeaseFile
}

// RemoteLeaseFile is where this machine keeps a remote one's sysctls of before,
// while runs from here have them changed.
func RemoteLeaseFile(ref matrix.RemoteRef) string {
	sum := sha256.Sum256([]byte(ref.SSH))
	return fmt.Sprintf("/run/lxcmatrix/host-sysctls-%x.json", sum[:6])
}

// OpenHost opens a host that is there before a run and after it, by its driver.
func OpenHost(ctx context.Context, ref matrix.HostRef, stateDir string, poolBytes int64) (*host.Host, error) {
	switch ref.Driver {
	case "embedded":
		return host.OpenEmbedded(ctx, host.EmbeddedOptions{StateDir: stateDir, PoolBytes: poolBytes})
	case "local":
		if err := os.MkdirAll(stateDir, 0o711); err != nil {
			return nil, fmt.Errorf("open host %s: %w", ref.Name, err)
		}
		return host.OpenLocal(ctx, host.LocalOptions{AllowHostWrites: ref.HostWrites == "allow"})
	case "remote":
		return host.OpenRemote(ctx, ref.Remote, ref.HostWrites == "allow")
	}
	return nil, fmt.Errorf("open host %s: there is no driver %q", ref.Name, ref.Driver)
}

// openHost is an open host as one run sees it.
type openHost struct {
	*Ground
	*station
}

// station is an open host, whichever run is on it.
type station struct {
	host    *host.Host
	leave   func(context.Context) error
	lease   cell.HostLease
	hygiene *hygiene.Host
	// imported holds the images that are on the host, seen what a node saw of
	// it.
	imported memory[image.Prepared]
	seen     memory[matrix.HostFacts]

	mu    sync.Mutex
	facts matrix.HostFacts
}

var _ engine.Mortal = (*openHost)(nil)

// Facts is what was observed so far: when the host was opened and, where only
// nodes can look at it, when the first image was ready.
func (h *openHost) Facts() matrix.HostFacts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.facts
}

// Gate decides by the host's observed facts.
func (h *openHost) Gate(c matrix.Cell) (*matrix.GateFinding, error) {
	facts := h.Facts()
	return h.Knowledge.Gate(c, &facts)
}

// look completes the facts by what a node of an image sees, once.
func (h *openHost) look(ctx context.Context, image string, owner map[string]string) (matrix.HostFacts, error) {
	return h.seen.do(ctx, "", func() (matrix.HostFacts, error) {
		facts, err := h.host.FactsFrom(ctx, h.Facts(), image, owner)
		if err != nil {
			return facts, err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.facts = facts
		return facts, nil
	})
}

// Done is closed when the host has ended by itself, and Err says how.
func (h *openHost) Done() <-chan struct{} { return h.host.Done() }

// Err says how the host ended, once Done is closed.
func (h *openHost) Err() error { return h.host.Err() }

// Close stops or releases the host.
func (h *openHost) Close(ctx context.Context) error { return h.leave(ctx) }

// Ready gets the release and the prepared image of a cell.
func (h *openHost) Ready(ctx context.Context, c matrix.Cell) (engine.Runner, error) {
	distro, err := known(c.Distro.Name, c.Distro.Version)
	if err != nil {
		return nil, err
	}
	if why := distro.cannot(c); why != "" {
		return nil, &provisioner.UnavailableError{What: "cell " + string(c.ID), Tried: []string{why}}
	}
	release, err := Release(ctx, h.Artifacts, c)
	if err != nil {
		return nil, err
	}
	// A node is about the images, unpacked, and as much again of OS and
	// binaries; an image is made in a node of its own.
	need := int64(2 << 30)
	for _, f := range release.Files {
		need += f.Size
	}
	if err := h.host.Room(ctx, need*int64(c.Topology.Nodes())); err != nil {
		return nil, err
	}
	images := map[matrix.OS]string{}
	for _, one := range c.ByOS() {
		prepared, err := h.prepare(ctx, one, release)
		if err != nil {
			return nil, err
		}
		images[one.OS] = prepared.Fingerprint
	}
	owner := map[string]string{"kind": "node", "run": h.RunID, "pid": strconv.Itoa(os.Getpid()), "created": h.Clock.Now().UTC().Format(time.RFC3339)}
	facts, err := h.look(ctx, images[c.OSOf(matrix.RoleServer)], owner)
	if err != nil {
		return nil, err
	}
	t := h.Plan.Timeouts
	installer := distro.install(release, c, t)
	if reduced, ok := installer.(provisioner.Reduced); ok && h.Progress != nil {
		for _, line := range reduced.LeftOut() {
			h.Progress.Note("%s: %s", c.ID, line)
		}
	}
	keep := h.Keep
	if h.Done() != nil {
		// It ends with its machine, whatever is on it.
		keep = cell.KeepNever
	}
	r := &cell.Runner{
		Host: h.host, Facts: facts, Clock: h.Clock, Keep: keep, Stay: h.Stay,
		Distro: installer,
		Fixes:  Fixes{h.Knowledge.Fixes}, Health: checks{t}, Lease: h.lease, Hygiene: h.hygiene,
		KeepLog: func(node, name string, content []byte) error {
			_, err := h.Folder.WriteLog(c.ID, node, name, content)
			return err
		},
		Diagnose: func(ctx context.Context) ([]matrix.Diagnosis, error) {
			logs := filepath.Join(h.Folder.CellDir(c.ID), "logs")
			if _, err := os.Stat(logs); err != nil {
				return nil, nil
			}
			return diagnose.Diagnose(ctx, h.Knowledge.Signatures, fixtures.Passing(), os.DirFS(logs))
		},
		Limits: h.Plan.Budget.Node, Timeouts: t, Images: images, Provenance: release.Provenance,
		Owner: owner,
	}
	if len(c.Services) > 0 {
		around, err := h.services(c, owner)
		if err == nil {
			err = around.prepare(ctx, c.Services)
		}
		if err != nil {
			return nil, err
		}
		r.Services = around
	}
	if h.Hear {
		r.Hear = func(node, line string) {
			// Who looks on sees an older line then; the run has lost nothing.
			_ = h.Folder.Say(c.ID, node+": "+line)
		}
	}
	if h.Hasten {
		watch := diagnose.Watch{Signatures: h.Knowledge.uncured(c), Commands: installer.LogCommands(), Clock: h.Clock}
		r.Doomed = watch.Await
	}
	return r, nil
}

// prepare makes one image per OS, release and variant for all hosts, and brings it to
// this one, however many cells wait for it.
func (h *openHost) prepare(ctx context.Context, c matrix.Cell, release artifact.Release) (image.Prepared, error) {
	content := Content(release, c)
	key := strings.Join(append([]string{c.OS.Name, content.Name, content.Version, c.Variant()}, release.Parts...), " ")
	return h.imported.do(ctx, key, func() (image.Prepared, error) {
		p, err := h.prepared.do(ctx, key, func() (image.Prepared, error) { return h.images.Prepare(ctx, c.OS.Name, content) })
		if err != nil {
			return p, err
		}
		path, shown, err := h.host.Show(ctx, p.Path, "image-"+p.Fingerprint[:12])
		switch {
		case err != nil:
			return p, err
		case shown:
			return p, h.images.ImportFrom(ctx, h.host.Server, h.host.Exec(), path, p)
		}
		return p, h.images.Import(ctx, h.host.Server, p)
	})
}

// Fixes is the fix set as cells use it.
type Fixes struct{ Catalogue *fix.Catalogue }

var _ cell.Fixes = Fixes{}

// Decide says for each fix whether it applies.
func (f Fixes) Decide(c matrix.Cell, observed matrix.HostFacts, node *matrix.NodeFacts) ([]matrix.AppliedFix, error) {
	decisions, err := f.Catalogue.Decide(fix.FactsOf(c, &observed, node), choice(c))
	if err != nil {
		return nil, err
	}
	var records []matrix.AppliedFix
	for _, d := range decisions {
		records = append(records, d.Record())
	}
	return records, nil
}

// Desired merges the fixes that are in effect.
func (f Fixes) Desired(applied []matrix.AppliedFix, node cell.NodeContext) (provisioner.Desired, error) {
	var chosen []*fix.Fix
	for _, a := range applied {
		if a.State != string(fix.Applied) && a.State != string(fix.Satisfied) {
			continue
		}
		one, err := f.Catalogue.Fix(a.ID)
		if err != nil {
			return provisioner.Desired{}, err
		}
		chosen = append(chosen, one)
	}
	return fix.Merge(chosen, fix.Context{NodeName: node.Name, NodeAddress: node.Address,
		Gateway: node.Network.Gateway, Subnet: node.Network.Subnet, Kernel: node.Host.Kernel, Cgroup: node.Host.Cgroup})
}

// Apply brings a node into the state.
func (Fixes) Apply(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
	return fix.Apply(ctx, node, want)
}

// Verify shows for each fix whether it is in effect.
func (Fixes) Verify(ctx context.Context, node provisioner.Node, want provisioner.Desired, after matrix.Phase) []matrix.Evidence {
	return fix.Verify(ctx, node, want, after)
}

// checks is health's list of checks as cells use it.
type checks struct{ timeouts matrix.Timeouts }

func (h checks) Baseline(ctx context.Context, cluster *provisioner.Cluster) ([]matrix.Evidence, time.Duration) {
	return health.RunAll(ctx, cluster, health.Baseline(h.timeouts))
}

func (h checks) Mark(ctx context.Context, cluster *provisioner.Cluster) (cell.Mark, error) {
	return health.TakeSnapshot(ctx, cluster)
}

func (checks) Follow(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark, nodes []string) func() matrix.Recovery {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return func() matrix.Recovery { return matrix.Recovery{} }
	}
	return health.Follow(ctx, cluster, before, nodes)
}

func (h checks) Returned(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark, nodes []string) []matrix.Evidence {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return noSnapshot(mark)
	}
	evidence, _ := health.RunAll(ctx, cluster, health.Returned(before, nodes))
	return evidence
}

func noSnapshot(mark cell.Mark) []matrix.Evidence {
	return []matrix.Evidence{{Check: "snapshot", Saw: fmt.Sprintf("a %T, which is no snapshot", mark)}}
}

func (h checks) AfterServices(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark) ([]matrix.Evidence, time.Duration) {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return noSnapshot(mark), 0
	}
	return health.RunAll(ctx, cluster, health.AfterServices(before, h.timeouts))
}

func (checks) Away(ctx context.Context, cluster *provisioner.Cluster, nodes []string, away time.Duration) []matrix.Evidence {
	return health.Away(ctx, cluster, nodes, away)
}

func (checks) BeginRollout(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark) (cell.Mark, []matrix.Evidence) {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return mark, noSnapshot(mark)
	}
	return health.BeginRollout(ctx, cluster, before)
}

func (h checks) AfterAway(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark, nodes []string) ([]matrix.Evidence, time.Duration) {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return noSnapshot(mark), 0
	}
	return health.RunAll(ctx, cluster, health.AfterAway(before, nodes, h.timeouts))
}

func (h checks) AfterRestart(ctx context.Context, cluster *provisioner.Cluster, mark cell.Mark) ([]matrix.Evidence, time.Duration) {
	before, ok := mark.(health.Snapshot)
	if !ok {
		return noSnapshot(mark), 0
	}
	return health.RunAll(ctx, cluster, health.AfterRestart(before, h.timeouts))
}

type hostLease struct{ manager *lease.Manager }

func (l hostLease) Acquire(ctx context.Context, sysctls map[string]string) (func(context.Context) error, bool, error) {
	release, satisfied, err := l.manager.Acquire(ctx, sysctls)
	return release, satisfied, err
}

// Resolver pins versions and images at plan time.
type Resolver struct {
	Artifacts *artifact.Store
	Images    *image.Store
}

// Distro pins a distribution's version.
func (r Resolver) Distro(ctx context.Context, d matrix.Distro, variants []string) (string, []matrix.Input, error) {
	exact, inputs, err := r.Artifacts.Resolve(ctx, artifact.Request{Distro: d.Name, Version: d.Wanted(), Parts: r.Artifacts.Parts(d.Name, variants)})
	if err == nil {
		_, err = known(d.Name, exact)
	}
	if err != nil {
		return exact, inputs, err
	}
	for _, a := range addons(d.Name, variants) {
		_, more, err := r.Artifacts.Resolve(ctx, a)
		if err != nil {
			return "", nil, err
		}
		inputs = append(inputs, more...)
	}
	return exact, inputs, nil
}

// Members asks a remote server for its cluster's.
func (Resolver) Members(ctx context.Context, server matrix.RemoteRef) ([]string, error) {
	return host.Members(ctx, server)
}

// Image says where an OS' image comes from.
func (r Resolver) Image(ctx context.Context, name string, distro matrix.Distro, variants []string) ([]matrix.Input, error) {
	of, err := known(distro.Name, distro.Version)
	if err != nil {
		return nil, err
	}
	release := artifact.Release{Runtime: r.Artifacts.Runtime(distro.Name, distro.Version)}
	in, err := r.Images.Resolve(ctx, name, distro, of.brings(release, variants))
	if err != nil {
		return nil, err
	}
	return []matrix.Input{in}, nil
}
