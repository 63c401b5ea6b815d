package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

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

	for i, d := range m.Distros {
		if d.Name == "kubeadm" && isChannel(d.Version) {
			p.add(at(fmt.Sprintf("distros[%d].version", i)), "distros[%d].version: kubeadm has no channel %q; want a version such as 1.34 or 1.34.4", i, d.Version)
		}
	}

	for i, s := range m.Services {
		path, service := fmt.Sprintf("services[%d]", i), matrix.Service(s)
		if slices.ContainsFunc(m.Services[:i], func(o Service) bool { return o != s && matrix.Service(o).Name() == service.Name() }) {
			p.add(at(path), "%s: %s is there twice, with different backends", path, service.Name())
		}
		elsewhere := slices.IndexFunc(m.Hosts, func(h Host) bool { return h.Driver == driverQEMU || h.Driver == driverRemote })
		if service.Backend() == matrix.BackendDocker && elsewhere >= 0 {
			p.add(at(path), "%s: this machine's Docker does not reach the nodes of host %s; write %s, or %s@%s", path, m.Hosts[elsewhere].Name, service.Name(), service.Name(), matrix.BackendIncus)
		}
	}

	for i, h := range m.Hosts {
		m.checkHost(p, fmt.Sprintf("hosts[%d]", i), h)
	}

	if s := m.Timeouts.Stability; s < leastStability {
		p.add(at("timeouts.stability"), "timeouts.stability: %s is too short, want at least %s: a crash loop waits 10, 20 and 40 s between two crashes", s, leastStability)
	}

	if m.Sources.Mirror != "" && !slices.Contains(m.Sources.Artifacts, ArtifactMirror) {
		p.add(at("sources.mirror"), "sources.mirror: it is never asked, as sources.artifacts does not list mirror")
	}
}

// checkOS reports an OS that names too little or too much, and says whether
// none does. It looks at values that could be read.
func (m *Matrix) checkOS(p *problems) bool {
	before := len(p.list)
	for i, o := range m.OS {
		path := fmt.Sprintf("os[%d]", i)
		at := m.positions.of(path)
		switch {
		case o.Name != "" && (o.Servers != "" || o.Agents != ""):
			p.add(at, "%s: name is the OS of every node; write name, or servers and agents", path)
		case o.Name == "" && (o.Servers == "" || o.Agents == ""):
			p.add(at, "%s: want name, or servers and agents", path)
		case o.Servers != "" && o.Servers == o.Agents:
			p.add(at, "%s: servers and agents have the same OS; write it as name: %s", path, o.Servers)
		}
	}
	return len(p.list) == before
}

// The drivers that have fields of their own.
const (
	driverQEMU   = "qemu"
	driverRemote = "remote"
)

// checkHost finds fields of a host that do not go with its driver or with each
// other.
func (m *Matrix) checkHost(p *problems, path string, h Host) {
	bad := func(key, format string, args ...any) {
		p.add(m.positions.of(join(path, key)), "%s: "+format, append([]any{join(path, key)}, args...)...)
	}
	foreign := func(driver string, fields any) {
		v := reflect.ValueOf(fields)
		for _, f := range fieldsOf(v.Type()) {
			if _, written := m.positions[join(path, f.name)]; written || !v.FieldByIndex(f.index).IsZero() {
				bad(f.name, "only a host with driver %s has it, and the driver here is %s; remove it, or write driver: %s", driver, h.Driver, driver)
			}
		}
	}
	switch h.Driver {
	case driverQEMU:
		foreign(driverRemote, h.RemoteHost)
		m.checkQEMU(bad, h)
	case driverRemote:
		foreign(driverQEMU, h.QEMUHost)
		checkRemote(bad, h.RemoteHost)
	case "embedded", "local":
		foreign(driverQEMU, h.QEMUHost)
		foreign(driverRemote, h.RemoteHost)
	}
}

func (m *Matrix) checkQEMU(bad func(key, format string, args ...any), h Host) {
	for key, path := range map[string]string{"initrd": h.Initrd, "modules": h.Modules} {
		if path != "" && !isPath(h.Kernel) {
			bad(key, "it goes with a kernel of one's own only; remove it, or write the kernel's path")
		}
	}
	if own, ok := h.Ref().QEMU.System(); ok && !slices.Contains(own.Incus, h.Incus) {
		bad("incus", "the packages of %s do not fit %s; want %s, or another os", h.Incus, h.OS, strings.Join(own.Incus, " or "))
	}
	overhead := Size(h.Ref().QEMU.Overhead())
	switch {
	case h.Memory < leastMachine:
		bad("memory", "%s is too little for a machine with an Incus server, want at least %s", h.Memory, Size(leastMachine))
	case h.Memory > m.Budget.Memory:
		bad("memory", "%s, but the budget has only %s, so the machine could never be booted", h.Memory, m.Budget.Memory)
	case h.Memory+overhead > m.Budget.Memory:
		bad("memory", "%s and %s for QEMU to emulate CPUs, but the budget has only %s, so the machine could never be booted; with accel: kvm it takes no more than its own",
			h.Memory, overhead, m.Budget.Memory)
	}
	if h.CPUs > m.Budget.CPUs {
		bad("cpus", "%d, but the budget has only %d, so the machine could never be booted", h.CPUs, m.Budget.CPUs)
	}
	if h.Disk < leastMachineDisk {
		bad("disk", "%s is too little, want at least %s", h.Disk, Size(leastMachineDisk))
	}
}

// isPath tells a path from another way to name something: a kernel of one's own
// from a packaged one, a folder from a URL.
func isPath(kernel string) bool {
	return strings.HasPrefix(kernel, "/") || strings.HasPrefix(kernel, ".")
}

func checkRemote(bad func(key, format string, args ...any), h RemoteHost) {
	switch {
	case h.URL == "" && h.Remote == "":
		bad("driver", "it needs the server: url and fingerprint, or remote, its name in the Incus client configuration")
	case h.URL != "" && h.Remote != "":
		bad("remote", "url names the server already; remove one of the two")
	case h.URL != "" && h.Fingerprint == "":
		bad("url", "it needs fingerprint, the SHA-256 of the server's certificate, as incus info shows it on the server")
	case h.Remote != "" && h.Fingerprint != "":
		bad("fingerprint", "the Incus client configuration has the certificate of remote %s; remove it", h.Remote)
	}
	if (h.ClientCert == "") != (h.ClientKey == "") {
		bad("clientCert", "clientCert and clientKey go together; write both, or neither for those of the Incus client configuration")
	}
}

// unique reports values that an axis has twice, and says whether none has.
func (m *Matrix) unique(p *problems) bool {
	before := len(p.list)
	twice(p, m, "hosts", m.Hosts, func(h Host) string { return h.Name })
	twice(p, m, "distros", m.Distros, func(d Distro) string { return d.Name + "@" + strings.TrimPrefix(d.Version, "v") })
	twice(p, m, "os", m.OS, func(o OS) string { return o.os().Written() })
	twice(p, m, "topologies", m.Topologies, Topology.String)
	twice(p, m, "variants", m.Variants, func(v Variant) string { return string(v) })
	return len(p.list) == before
}

// twice passes over values that could not be read and so have no name.
func twice[T comparable](p *problems, m *Matrix, axis string, values []T, name func(T) string) {
	var zero T
	first := map[string]int{}
	for i, v := range values {
		called := name(v)
		if v == zero || called == "" {
			continue
		}
		if j, there := first[called]; there {
			p.add(m.positions.of(fmt.Sprintf("%s[%d]", axis, i)), "%s[%d]: %q is there twice, first as %s[%d]", axis, i, called, axis, j)
			continue
		}
		first[called] = i
	}
}

// phase is the phase that an Expect names.
func (e Expect) phase() matrix.Phase { return matrix.Phase(e.Phase) }
