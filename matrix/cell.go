// Package matrix holds the pure types of lxcmatrix: cells, plans, results and
// verdicts, and Judge, the one function that turns evidence into a verdict.
// It imports nothing of this project and touches neither files nor network.
package matrix

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// CellID is a cell's stable, readable name, made of declared names only:
// distro-minor/os/topology/host[/variant...], as in
// "kubeadm-1.34/debian-13/1/embedded".
type CellID string

// FileName is the ID as one file or folder name. Slashes become underscores;
// anything else outside letters, digits and ".+-" is percent-encoded, so that
// two IDs never share a name and none leads out of its folder.
func (id CellID) FileName() string {
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case c == '/':
			b.WriteByte('_')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '+', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Cell is one combination of the axes.
type Cell struct {
	ID       CellID   `json:"id"`
	Host     HostRef  `json:"host"`
	Distro   Distro   `json:"distro"`
	OS       OS       `json:"os"`
	Topology Topology `json:"topology"`
	// Variants name further axes' values, in the order the ID shows them.
	Variants []string `json:"variants,omitempty"`
	// Restarts are those that the matrix asks for beside the graceful and the
	// forced one.
	Restarts []Restart `json:"restarts,omitempty"`
	// Services stand around the cluster; each is there once.
	Services []Service `json:"services,omitempty"`
	// Soak is how many restarts in a row come after all others.
	Soak int `json:"soak,omitempty"`
	// Optional: blocked is still counted, but does not fail the run.
	Optional bool `json:"optional,omitempty"`
	// Expect, if set, is the failure that the matrix expects of this cell.
	Expect *Expectation `json:"expect,omitempty"`
	// With lists harmful and optional fixes that are applied on purpose, Without
	// fixes that are left out on purpose, by ID.
	With    []string `json:"with,omitempty"`
	Without []string `json:"without,omitempty"`
	// Gate, if set, rules the cell out.
	Gate *GateFinding `json:"gate,omitempty"`
	// DefyGates: run it even so where that can show whether the gate holds.
	DefyGates bool `json:"defyGates,omitempty"`
	// Unavailable, if set, says what cannot be had for the cell (an image, a
	// release, a restart of a host's daemon): it is blocked.
	Unavailable string `json:"unavailable,omitempty"`
}

// HostRef is a host as the matrix declares it. It is comparable: cells of one
// host have equal ones.
type HostRef struct {
	Name string `json:"name"`
	// Driver is embedded, local, qemu or remote.
	Driver string `json:"driver"`
	// Cgroup is the declared cgroup mode, v1 or v2; empty means whatever the
	// host has.
	Cgroup string `json:"cgroup,omitempty"`
	// HostWrites is allow where host sysctls of a host that the harness did
	// not make may be changed.
	HostWrites string `json:"hostWrites,omitempty"`
	// QEMU describes the machine of a qemu host.
	QEMU QEMURef `json:"qemu,omitzero"`
	// Remote says where the Incus server of a remote host is.
	Remote RemoteRef `json:"remote,omitzero"`
}

// Contradiction says what was observed on the host and is not what the matrix
// says of it, with both values; empty where nothing is. What was not observed
// contradicts nothing.
func (h HostRef) Contradiction(observed HostFacts) string {
	if h.Cgroup != "" && observed.Cgroup != "" && observed.Cgroup != h.Cgroup {
		return fmt.Sprintf("host %s has cgroup %s, the matrix says %s", h.Name, observed.Cgroup, h.Cgroup)
	}
	// A package's name or a path promises no version.
	family, version, _ := strings.Cut(h.QEMU.Kernel, "/")
	if family == "debian" && observed.Kernel != "" && observed.Kernel != version && !strings.HasPrefix(observed.Kernel, version+".") {
		return fmt.Sprintf("host %s runs kernel %s, the matrix says %s", h.Name, observed.Kernel, h.QEMU.Kernel)
	}
	return ""
}

// QEMURef is the virtual machine of a qemu host. What is empty or zero is the
// driver's choice.
type QEMURef struct {
	// OS is the machine's own system: debian/12, debian/13.
	OS string `json:"os,omitempty"`
	// Kernel is FAMILY/MINOR (debian/6.1), a Debian package's name, or the path
	// of a kernel of the user's own, which Initrd and Modules (a folder that
	// holds lib/modules) then go with.
	Kernel  string `json:"kernel,omitempty"`
	Initrd  string `json:"initrd,omitempty"`
	Modules string `json:"modules,omitempty"`
	// Incus is the Debian suite that the machine's Incus comes from, as
	// trixie-backports.
	Incus string `json:"incus,omitempty"`
	CPUs  int    `json:"cpus,omitempty"`
	// MemoryBytes and DiskBytes are the machine's.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	DiskBytes   int64 `json:"diskBytes,omitempty"`
	// Accel is auto, kvm or tcg; empty is auto.
	Accel string `json:"accel,omitempty"`
}

// The size of a qemu host's machine where the matrix does not say it: room for
// one node with the default limits, and for the Incus server beside it.
const (
	DefaultQEMUCPUs        = 2
	DefaultQEMUMemoryBytes = 6 << 30
)

// DefaultQEMUDiskBytes is the size of a qemu host's disk where the matrix does
// not say it; it takes only the room that is used.
const DefaultQEMUDiskBytes = 24 << 30

// QEMUSystem is a system that a qemu host's machine can have of its own.
type QEMUSystem struct {
	// OS is its name, as debian/12.
	OS string
	// Kernel is the one that comes with it.
	Kernel string
	// Incus lists the suites whose Incus fits it, the default first.
	Incus []string
}

// QEMUSystems lists the systems that machines can have.
func QEMUSystems() []QEMUSystem {
	return []QEMUSystem{
		{OS: "debian/12", Kernel: "debian/6.1", Incus: []string{"bookworm-backports"}},
		{OS: "debian/13", Kernel: "debian/6.12", Incus: []string{"trixie", "trixie-backports"}},
	}
}

// System is the machine's own; ok is false where there is none of its name.
func (q QEMURef) System() (s QEMUSystem, ok bool) {
	for _, s := range QEMUSystems() {
		if s.OS == q.OS {
			return s, true
		}
	}
	return QEMUSystem{}, false
}

// WithDefaults is the machine of a host in a cgroup mode, with everything that
// the matrix left out filled in: debian/12 for v1, whose systemd still boots
// with it unasked, else debian/13; the kernel and the Incus of that system; and
// a size.
func (q QEMURef) WithDefaults(cgroup string) QEMURef {
	if q.OS == "" && cgroup == "v1" {
		q.OS = "debian/12"
	}
	q.OS = cmp.Or(q.OS, "debian/13")
	if own, ok := q.System(); ok {
		q.Kernel, q.Incus = cmp.Or(q.Kernel, own.Kernel), cmp.Or(q.Incus, own.Incus[0])
	}
	q.CPUs, q.MemoryBytes = q.Size()
	q.DiskBytes, q.Accel = cmp.Or(q.DiskBytes, DefaultQEMUDiskBytes), cmp.Or(q.Accel, "auto")
	return q
}

// Size is the CPUs and the memory that the machine has.
func (q QEMURef) Size() (cpus int, memoryBytes int64) {
	return cmp.Or(q.CPUs, DefaultQEMUCPUs), cmp.Or(q.MemoryBytes, DefaultQEMUMemoryBytes)
}

// QEMUTranslationBytes is how much memory QEMU fills, at the most, with the code
// that it translates for CPUs that it emulates.
const QEMUTranslationBytes = 2 << 30

// MayEmulate says whether QEMU may have to emulate the machine's CPUs: for an
// accelerator that is chosen, that shows when the machine boots.
func (q QEMURef) MayEmulate() bool { return q.Accel != "kvm" }

// Overhead is the memory that QEMU may take beside the machine's own.
func (q QEMURef) Overhead() int64 {
	if q.MayEmulate() {
		return QEMUTranslationBytes
	}
	return 0
}

// RemoteRef is the Incus server of a remote host. Exactly one of URL and Name
// is set.
type RemoteRef struct {
	// URL is https://ADDRESS:PORT.
	URL string `json:"url,omitempty"`
	// Name is a remote of the user's own Incus client configuration.
	Name string `json:"name,omitempty"`
	// Fingerprint is the SHA-256 of the server's certificate, in hex, which a
	// URL needs; a named remote has its certificate in the configuration.
	Fingerprint string `json:"fingerprint,omitempty"`
	// ClientCert and ClientKey are paths of the PEM files that this client
	// shows; empty means those of the user's Incus client configuration.
	ClientCert string `json:"clientCert,omitempty"`
	ClientKey  string `json:"clientKey,omitempty"`
	// Pool and Network name what nodes use; empty chooses.
	Pool    string `json:"pool,omitempty"`
	Network string `json:"network,omitempty"`
	// SSH is USER@ADDRESS[:PORT], the way to the host's own system; empty
	// means that there is none.
	SSH string `json:"ssh,omitempty"`
	// Member is the cluster member that this host is; the plan sets it.
	Member string `json:"member,omitempty"`
}

// Distro is a Kubernetes distribution at a version.
type Distro struct {
	// Name is kubeadm, k3s or rke2.
	Name string `json:"name"`
	// Channel is the one that the matrix asks for, as stable; empty where it asks
	// for a version.
	Channel string `json:"channel,omitempty"`
	// Version is what the plan resolved, exact and without a leading v:
	// "1.34.4", "1.34.2+k3s1". Empty until resolved.
	Version string `json:"version"`
	// Minor is "1.34"; of a channel it is empty until that is resolved.
	Minor string `json:"minor"`
}

// String is the distro as the cell's ID shows it: name and minor, or the
// channel as long as nobody knows its minor.
func (d Distro) String() string { return d.Name + "-" + cmp.Or(d.Minor, d.Channel) }

// Wanted is the version as the matrix asks for it: a channel, an exact version
// or a minor. Once resolved, what was a minor is exact.
func (d Distro) Wanted() string { return cmp.Or(d.Channel, d.Version, d.Minor) }

// At is the distro at an exact version.
func (d Distro) At(version string) Distro {
	d.Version, d.Minor = version, MinorOf(version)
	return d
}

// MinorOf is the minor of a version: "1.34" of "1.34.2+k3s1" and of itself.
func MinorOf(version string) string {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return major + "." + minor
}

// OS is the operating system of a cell's nodes, named as Incus images are:
// "debian/13".
type OS struct {
	// Name is the servers', and the agents' too unless Agents says another.
	Name string `json:"name"`
	// Agents is the agents' where it is another one.
	Agents string `json:"agents,omitempty"`
}

// Written is the OS as a matrix's rules and selectors write it: "debian/13",
// or "debian/12+debian/13" where the agents' is another than the servers'.
func (o OS) Written() string {
	if o.Agents == "" {
		return o.Name
	}
	return o.Name + "+" + o.Agents
}

// String is the OS as the cell's ID shows it.
func (o OS) String() string { return strings.ReplaceAll(o.Written(), "/", "-") }

// Family is the part of the name before the slash: "debian".
func (o OS) Family() string { f, _, _ := strings.Cut(o.Name, "/"); return f }

// Release is the part of the name after the slash: "13".
func (o OS) Release() string { _, r, _ := strings.Cut(o.Name, "/"); return r }

// Is says whether ID and VERSION_ID of an /etc/os-release are those of the OS.
// Some call themselves otherwise than their images are called; a release that
// is named by its major version ("10") may report a minor one ("10.1").
func (o OS) Is(id, version string) bool {
	family, release := o.Family(), strings.TrimSuffix(o.Release(), "-Stream")
	switch family {
	case "rockylinux":
		family = "rocky"
	case "oracle":
		family = "ol"
	}
	return id == family && (version == release || strings.HasPrefix(version, release+"."))
}

// Topology counts a cluster's nodes by role.
type Topology struct {
	Servers int `json:"servers"`
	Agents  int `json:"agents"`
}

// ParseTopology reads "1", "3" or "1+2": servers, then agents. It reads only
// what String writes, so that one topology has one spelling and one cell ID.
func ParseTopology(s string) (Topology, error) {
	servers, agents, plus := strings.Cut(s, "+")
	var t Topology
	var err error
	if t.Servers, err = strconv.Atoi(servers); err != nil || t.Servers < 1 || t.Servers > 9 {
		return Topology{}, fmt.Errorf("topology %q: want SERVERS or SERVERS+AGENTS, with 1 to 9 servers", s)
	}
	if plus {
		if t.Agents, err = strconv.Atoi(agents); err != nil || t.Agents < 1 || t.Agents > 50 {
			return Topology{}, fmt.Errorf("topology %q: want SERVERS or SERVERS+AGENTS, with 1 to 50 agents", s)
		}
	}
	if t.String() != s {
		return Topology{}, fmt.Errorf("topology %q: write it as %q", s, t)
	}
	return t, nil
}

// String is the topology as written in a matrix: "1", "1+2".
func (t Topology) String() string {
	if t.Agents == 0 {
		return strconv.Itoa(t.Servers)
	}
	return fmt.Sprintf("%d+%d", t.Servers, t.Agents)
}

// Nodes is the number of nodes.
func (t Topology) Nodes() int { return t.Servers + t.Agents }

// Role is what a node is in its cluster.
type Role string

// The roles.
const (
	RoleServer Role = "server"
	RoleAgent  Role = "agent"
)

// Role is that of a cell's node by its index: servers come first.
func (t Topology) Role(index int) Role {
	if index < t.Servers {
		return RoleServer
	}
	return RoleAgent
}

// OSOf is the OS of the nodes with a role, alone.
func (c Cell) OSOf(role Role) OS {
	if role == RoleAgent && c.OS.Agents != "" {
		return OS{Name: c.OS.Agents}
	}
	return OS{Name: c.OS.Name}
}

// As is the cell as its nodes with a role are: of their OS alone.
func (c Cell) As(role Role) Cell {
	c.OS = c.OSOf(role)
	return c
}

// ByOS is the cell once for each OS that its nodes have: what is decided by
// the OS is decided for each.
func (c Cell) ByOS() []Cell {
	if c.OS.Agents == "" || c.Topology.Agents == 0 {
		return []Cell{c.As(RoleServer)}
	}
	return []Cell{c.As(RoleServer), c.As(RoleAgent)}
}

// NewID makes the ID from the cell's declared names.
func (c Cell) NewID() CellID {
	parts := append([]string{c.Distro.String(), c.OS.String(), c.Topology.String(), c.Host.Name}, c.Variants...)
	return CellID(strings.Join(parts, "/"))
}

// NoVariant is how a matrix's rules and selectors write a cell without
// variants.
const NoVariant = "default"

// Variant is the cell's variants as its ID shows them, or NoVariant.
func (c Cell) Variant() string {
	if len(c.Variants) == 0 {
		return NoVariant
	}
	return strings.Join(c.Variants, "/")
}

// Expectation is a failure that the matrix expects, so that anything else
// still reads as fail.
type Expectation struct {
	Phase Phase `json:"phase"`
	// Signature is the ID of the signature that must be among the diagnoses.
	Signature string `json:"signature"`
	// Issue is a link to where the failure is tracked.
	Issue string `json:"issue"`
}

// Defied says that the cell runs although a gate rules it out, to show whether
// the gate still holds.
func (c Cell) Defied() bool { return c.DefyGates && c.Gate != nil && c.Gate.Probe != nil }

// Runs says that the cell is to run: its inputs can be had, and no gate rules
// it out that is not defied.
func (c Cell) Runs() bool { return c.Unavailable == "" && (c.Gate == nil || c.Defied()) }

// GateFinding says which gate rules a cell out, and by which facts.
type GateFinding struct {
	Gate   string `json:"gate"`
	Reason string `json:"reason"`
	// Source is a link to where that is known from.
	Source string `json:"source"`
	// Rule is the gate's condition, and Facts those that it looked at.
	Rule  string `json:"rule,omitempty"`
	Facts []Fact `json:"facts,omitempty"`
	// Probe says how a cell fails that runs all the same; nil where running it
	// could not show whether the gate still holds.
	Probe *Probe `json:"probe,omitempty"`
}

// Fact is something known about a cell, by the name that conditions use.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// From is declared (by the matrix, or by what was planned), observed, or
	// fixes: it follows from those that are to be applied.
	From string `json:"from"`
}

// Probe is how a gate shows in a cell that it rules out and that runs anyway.
type Probe struct {
	// Phase is the one that fails.
	Phase Phase `json:"phase" yaml:"phase"`
	// Signature is the ID of the signature that is among the diagnoses then.
	Signature string `json:"signature" yaml:"signature"`
}
