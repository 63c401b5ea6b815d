package config

import (
	"fmt"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// check finds values that contradict each other, which the types' tags cannot
// say. It runs on what was written, with the defaults filled in.
func (m *Matrix) check(p *problems) {
	at := m.positions.of
	b := m.Budget
	if b.Disk < leastDisk {
		p.add(at("budget.disk"), "budget.disk: %s is too little, want at least %s", b.Disk, Size(leastDisk))
	}
	largest := m.largest()
	needs := b.Node.Memory * Size(largest.Nodes())
	switch {
	case b.Node.Memory < leastNodeMemory:
		if _, written := m.positions["budget.node.memory"]; written {
			p.add(at("budget.node.memory"), "budget.node.memory: %s is too little for a node, want at least %s", b.Node.Memory, Size(leastNodeMemory))
			break
		}
		p.add(at("budget.memory"), "budget.memory: %s leaves %s to each node of topology %s, want at least %s", b.Memory, b.Node.Memory, largest, Size(leastNodeMemory))
	case needs > b.Memory:
		p.add(at("budget.memory"), "budget.memory: %s, but a cell of topology %s needs %s (nodes of %s), so it could never run", b.Memory, largest, needs, b.Node.Memory)
	}
	if b.Node.CPUs > b.CPUs {
		p.add(at("budget.node.cpus"), "budget.node.cpus: %d, but the budget has only %d", b.Node.CPUs, b.CPUs)
	}

	if s := m.Timeouts.Stability; s < leastStability {
		p.add(at("timeouts.stability"), "timeouts.stability: %s is too short, want at least %s: a crash loop waits 10, 20 and 40 s between two crashes", s, leastStability)
	}

	if m.Sources.Mirror != "" && !slices.Contains(m.Sources.Artifacts, ArtifactMirror) {
		p.add(at("sources.mirror"), "sources.mirror: it is never asked, as sources.artifacts does not list mirror")
	}
}

// unique reports values that an axis has twice, and says whether none has.
func (m *Matrix) unique(p *problems) bool {
	before := len(p.list)
	twice(p, m, "hosts", m.Hosts, func(h Host) string { return h.Name })
	twice(p, m, "distros", m.Distros, func(d Distro) string { return d.Name + "@" + d.Version })
	twice(p, m, "os", m.OS, func(o OS) string { return o.Name })
	twice(p, m, "topologies", m.Topologies, Topology.String)
	return len(p.list) == before
}

// twice passes over values that could not be read and so have no name.
func twice[T comparable](p *problems, m *Matrix, axis string, values []T, name func(T) string) {
	var zero T
	first := map[string]int{}
	for i, v := range values {
		if v == zero {
			continue
		}
		if j, there := first[name(v)]; there {
			p.add(m.positions.of(fmt.Sprintf("%s[%d]", axis, i)), "%s[%d]: %q is there twice, first as %s[%d]", axis, i, name(v), axis, j)
			continue
		}
		first[name(v)] = i
	}
}

// phase is the phase that an Expect names.
func (e Expect) phase() matrix.Phase { return matrix.Phase(e.Phase) }
