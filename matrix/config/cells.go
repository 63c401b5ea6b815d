package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// Cells expands the axes, removes what exclude says, adds what include says
// and attaches what expect says. The order is that of the file: distros, then
// OSes, topologies, hosts and variants, as in a cell's ID, and the included
// ones last. An OS of the agents' own makes no cell where there are no agents.
// Nothing is resolved: a cell has its distro's version only where the matrix
// names an exact one. The error is an *Error: a rule that matches nothing, and
// two cells with one ID, are problems.
func (m *Matrix) Cells() ([]matrix.Cell, error) {
	p := &problems{file: m.File}
	cells := m.expand(p)
	return cells, p.err()
}

func (m *Matrix) expand(p *problems) []matrix.Cell {
	size := 1
	for _, n := range []int{len(m.Hosts), len(m.Distros), len(m.OS), len(m.Topologies), max(1, len(m.Variants))} {
		if size *= n; size > mostCells {
			p.add(m.positions.of(""), "the axes make more than %d cells", mostCells)
			return nil
		}
	}
	if size == 0 {
		return nil // an empty axis, which is a problem of its own
	}
	for i, o := range m.OS {
		agents := func(t Topology) bool { return t.Agents > 0 }
		if o.Agents != "" && !slices.ContainsFunc(m.Topologies, agents) && len(m.Include) == 0 {
			p.add(m.positions.of(fmt.Sprintf("os[%d]", i)), "os[%d]: the agents have an OS of their own, and no topology has agents; add one, as \"1+1\"", i)
		}
	}
	product := m.combine(axesOf(m))
	cells := m.exclude(p, product)
	cells = m.include(p, cells)
	for i := range cells {
		for _, r := range m.Restarts {
			cells[i].Restarts = append(cells[i].Restarts, matrix.Restart(r))
		}
		for _, s := range m.Services {
			cells[i].Services = append(cells[i].Services, matrix.Service(s))
		}
	}
	m.expect(p, cells)
	m.setOptional(cells)
	m.checkIDs(p, cells)
	return cells
}

// axes are values to combine.
type axes struct {
	distros    []matrix.Distro
	oses       []matrix.OS
	topologies []matrix.Topology
	hosts      []matrix.HostRef
	variants   []Variant
}

func axesOf(m *Matrix) axes {
	var a axes
	for _, d := range m.Distros {
		a.distros = append(a.distros, newDistro(d.Name, d.Version))
	}
	for _, o := range m.OS {
		a.oses = append(a.oses, o.os())
	}
	for _, t := range m.Topologies {
		a.topologies = append(a.topologies, matrix.Topology(t))
	}
	for _, h := range m.Hosts {
		a.hosts = append(a.hosts, h.Ref())
	}
	if a.variants = m.Variants; a.variants == nil {
		a.variants = []Variant{matrix.NoVariant}
	}
	return a
}

// Ref is the host as cells hold it.
func (h Host) Ref() matrix.HostRef {
	return matrix.HostRef{Name: h.Name, Driver: h.Driver, Cgroup: h.Cgroup, HostWrites: h.HostWrites,
		QEMU: matrix.QEMURef{OS: h.OS, Kernel: h.Kernel, Initrd: h.Initrd, Modules: h.Modules, Incus: h.Incus,
			CPUs: h.CPUs, MemoryBytes: int64(h.Memory), DiskBytes: int64(h.Disk), Accel: h.Accel},
		Remote: matrix.RemoteRef{URL: h.URL, Name: h.Remote, Fingerprint: h.Fingerprint,
			ClientCert: h.ClientCert, ClientKey: h.ClientKey, Pool: h.Pool, Network: h.Network, SSH: h.SSH}}
}

// newDistro keeps an exact version, and leaves a minor and a channel to be
// resolved.
func newDistro(name, version string) matrix.Distro {
	if isChannel(version) {
		return matrix.Distro{Name: name, Channel: version}
	}
	d := matrix.Distro{Name: name}.At(strings.TrimPrefix(version, "v"))
	if d.Version == d.Minor {
		d.Version = ""
	}
	return d
}

// isChannel tells a channel from a version.
func isChannel(version string) bool { return matches(`^[a-z][a-z-]+$`, version) }

// size is how many combinations there are at most.
func (a axes) size() int {
	return len(a.distros) * len(a.oses) * len(a.topologies) * len(a.hosts) * len(a.variants)
}

func (m *Matrix) combine(a axes) []matrix.Cell {
	cells := make([]matrix.Cell, 0, a.size())
	for _, d := range a.distros {
		for _, o := range a.oses {
			for _, t := range a.topologies {
				if o.Agents != "" && t.Agents == 0 {
					continue
				}
				for _, h := range a.hosts {
					for _, v := range a.variants {
						c := matrix.Cell{Distro: d, OS: o, Topology: t, Host: h, Variants: v.names()}
						c.ID = c.NewID()
						cells = append(cells, c)
					}
				}
			}
		}
	}
	return cells
}

// selector is the rule's fields as one condition.
func (s Selector) selector() selector.Selector {
	return selector.Selector{}.And(selector.Distro, s.Distro).And(selector.OS, s.OS).
		And(selector.Topology, s.Topology).And(selector.Host, s.Host).And(selector.Variant, s.Variant)
}

func (m *Matrix) exclude(p *problems, cells []matrix.Cell) []matrix.Cell {
	if len(m.Exclude) == 0 {
		return cells
	}
	drop := make([]bool, len(cells))
	for i, rule := range m.Exclude {
		path := fmt.Sprintf("exclude[%d]", i)
		if rule == (Selector{}) {
			p.add(m.positions.of(path), "%s: it has no field, so it would remove every cell", path)
			continue
		}
		matched, s := false, rule.selector()
		for j, c := range cells {
			if s.Matches(c) {
				matched, drop[j] = true, true
			}
		}
		if !matched {
			p.add(m.positions.of(path), "%s: %s matches no combination of the axes", path, s)
		}
	}
	var kept []matrix.Cell
	for j, c := range cells {
		if !drop[j] {
			kept = append(kept, c)
		}
	}
	if len(kept) == 0 && len(m.Include) == 0 {
		p.add(m.positions.of("exclude"), "exclude removes every cell")
	}
	return kept
}

func (m *Matrix) include(p *problems, cells []matrix.Cell) []matrix.Cell {
	if len(m.Include) == 0 {
		return cells
	}
	seen := make(map[key]bool, len(cells))
	for _, c := range cells {
		seen[keyOf(c)] = true
	}
	for i, rule := range m.Include {
		path := fmt.Sprintf("include[%d]", i)
		if rule.Selector == (Selector{}) {
			p.add(m.positions.of(path), "%s: it has no field, so it says nothing to add", path)
			continue
		}
		before := len(p.list)
		a := m.included(p, rule.Selector, path)
		if len(p.list) > before {
			continue
		}
		if len(cells)+a.size() > mostCells {
			p.add(m.positions.of(path), "%s: with it there are more than %d cells", path, mostCells)
			return cells
		}
		added := false
		for _, c := range m.combine(a) {
			if k := keyOf(c); !seen[k] {
				seen[k], added = true, true
				c.Optional = rule.Optional
				cells = append(cells, c)
			}
		}
		if !added {
			p.add(m.positions.of(path), "%s: %s adds nothing that is not there already", path, rule.selector())
		}
	}
	return cells
}

// key tells declared combinations apart, where an ID shows only minors.
type key struct{ distro, version, os, topology, host, variant string }

func keyOf(c matrix.Cell) key {
	return key{c.Distro.Name, c.Distro.Wanted(), c.OS.Written(), c.Topology.String(), c.Host.Name, c.Variant()}
}

// included are the values that one rule of include names.
func (m *Matrix) included(p *problems, rule Selector, path string) axes {
	a := axesOf(m)
	nothing := func(key, value, remedy string) {
		p.add(m.positions.of(join(path, key)), "%s.%s: %q matches nothing on its axis%s", path, key, value, remedy)
	}
	if rule.Distro != "" {
		pattern := selector.NewPattern(rule.Distro)
		a.distros = filter(a.distros, pattern.MatchesDistro)
		if len(a.distros) == 0 {
			var d Distro
			if d.fromScalar(rule.Distro); pattern.IsGlob() || !d.valid() {
				nothing("distro", rule.Distro, "; to add one that is not there write NAME@VERSION, as kubeadm@1.34")
			} else {
				a.distros = []matrix.Distro{newDistro(d.Name, d.Version)}
			}
		}
	}
	if rule.OS != "" {
		pattern := selector.NewPattern(rule.OS)
		a.oses = filter(a.oses, pattern.MatchesOS)
		if len(a.oses) == 0 {
			if pattern.IsGlob() || !matches(OS{}.scalarPattern(), rule.OS) {
				nothing("os", rule.OS, "; to add one that is not there write FAMILY/RELEASE, as debian/13")
			} else {
				var o OS
				o.fromScalar(rule.OS)
				a.oses = []matrix.OS{o.os()}
			}
		}
	}
	if rule.Topology != "" {
		pattern := selector.NewPattern(rule.Topology)
		a.topologies = filter(a.topologies, func(t matrix.Topology) bool { return pattern.Matches(t.String()) })
		if len(a.topologies) == 0 {
			if t, err := matrix.ParseTopology(rule.Topology); err != nil {
				nothing("topology", rule.Topology, "; to add one that is not there write SERVERS or SERVERS+AGENTS, as 1+1")
			} else {
				a.topologies = []matrix.Topology{t}
			}
		}
	}
	if rule.Host != "" {
		pattern := selector.NewPattern(rule.Host)
		a.hosts = filter(a.hosts, func(h matrix.HostRef) bool { return pattern.Matches(h.Name) })
		if len(a.hosts) == 0 {
			names := make([]string, len(m.Hosts))
			for i, h := range m.Hosts {
				names[i] = h.Name
			}
			nothing("host", rule.Host, "; hosts are "+strings.Join(names, ", "))
		}
	}
	if rule.Variant != "" {
		pattern := selector.NewPattern(rule.Variant)
		a.variants = filter(a.variants, func(v Variant) bool { return pattern.MatchesVariant(matrix.Cell{Variants: v.names()}) })
		if len(a.variants) == 0 {
			var v Variant
			if err := v.UnmarshalText([]byte(rule.Variant)); pattern.IsGlob() || err != nil {
				nothing("variant", rule.Variant, "; to add one that is not there write its name, as flannel")
			} else {
				a.variants = []Variant{v}
			}
		}
	}
	return a
}

func filter[T any](values []T, keep func(T) bool) []T {
	var kept []T
	for _, v := range values {
		if keep(v) {
			kept = append(kept, v)
		}
	}
	return kept
}

func (m *Matrix) expect(p *problems, cells []matrix.Cell) {
	first := map[int]int{}
	for i, rule := range m.Expect {
		path := fmt.Sprintf("expect[%d]", i)
		matched, twice, s := false, false, rule.selector()
		for j := range cells {
			if !s.Matches(cells[j]) {
				continue
			}
			matched = true
			if other, taken := first[j]; taken {
				if !twice {
					p.add(m.positions.of(path), "%s: cell %s has an expectation already, from expect[%d]", path, cells[j].ID, other)
				}
				twice = true
				continue
			}
			first[j] = i
			if !slices.Contains(cells[j].ProvingPhases(), rule.phase()) {
				p.add(m.positions.of(path), "%s: cell %s has no phase %s; add the restart that it belongs to, to restarts", path, cells[j].ID, rule.phase())
			}
			cells[j].Expect = &matrix.Expectation{Phase: rule.phase(), Signature: rule.Signature, Issue: rule.Issue}
		}
		if !matched {
			p.add(m.positions.of(path), "%s: %s matches no cell", path, s)
		}
	}
}

// setOptional makes cells optional whose host, distro or OS is; others stay what
// their rule says.
func (m *Matrix) setOptional(cells []matrix.Cell) {
	hosts, distros, oses := map[string]bool{}, map[matrix.Distro]bool{}, map[string]bool{}
	for _, h := range m.Hosts {
		hosts[h.Name] = h.Optional
	}
	for _, d := range m.Distros {
		distros[newDistro(d.Name, d.Version)] = d.Optional
	}
	for _, o := range m.OS {
		oses[o.os().Written()] = o.Optional
	}
	for i, c := range cells {
		cells[i].Optional = c.Optional || hosts[c.Host.Name] || distros[c.Distro] || oses[c.OS.Written()]
	}
}

func (m *Matrix) checkIDs(p *problems, cells []matrix.Cell) {
	first := make(map[matrix.CellID]matrix.Cell, len(cells))
	reported := map[string]bool{}
	for _, c := range cells {
		other, twice := first[c.ID]
		if !twice {
			first[c.ID] = c
			continue
		}
		why := fmt.Sprintf("%s and %s", written(other.Distro), written(c.Distro))
		if other.Distro == c.Distro {
			why = fmt.Sprintf("%s and %s", other.OS.Written(), c.OS.Written())
		}
		if !reported[why] {
			reported[why] = true
			p.add(m.positions.of("distros"), "two cells have the ID %s: %s cannot be told apart by it", c.ID, why)
		}
	}
}

// written is a distro as a matrix file writes it.
func written(d matrix.Distro) string { return d.Name + "@" + d.Wanted() }
