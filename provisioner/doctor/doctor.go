// Package doctor finds what a machine lacks to run cells, says the remedy,
// and applies the remedies that are safe to apply: packages by apt, kernel
// modules, and forwarding rules where Docker cuts bridges off.
//
// Examining changes nothing. Nothing is changed before it was said.
package doctor

import (
	"context"
	"fmt"
)

// Severity is how much a finding matters.
type Severity string

// The severities. A problem keeps cells from running; a warning may; ok is
// said so that the reader knows it was looked at.
const (
	OK      Severity = "ok"
	Warning Severity = "warning"
	Problem Severity = "problem"
)

// Purpose is what the machine is to be used for.
type Purpose string

// The purposes. Test needs all that Matrix needs, and what building with the
// race detector needs.
const (
	Matrix Purpose = "matrix"
	Test   Purpose = "test"
)

// Options say what the machine is examined for. The zero value means a run of
// the default matrix on an embedded host.
type Options struct {
	// Purpose defaults to Matrix.
	Purpose Purpose
	// HostDriver is embedded (the default), local, qemu or remote.
	HostDriver string
	// CacheDir is where artifacts and builds are kept, StateDir where the
	// embedded host keeps its pool's file. They need not exist yet; an empty one
	// is left unexamined.
	CacheDir, StateDir string
	// CacheBytes is how much the cache is expected to take besides the pool; 0
	// means 8 GiB.
	CacheBytes int64
	// PoolBytes is the size of the embedded host's storage pool.
	PoolBytes int64
	// MemoryBytes is what one node may use; 0 means 2 GiB.
	MemoryBytes int64
	// Bridge is the name of the nodes' bridge, as iptables matches it (a + at
	// the end stands for any rest); empty means every embedded host's. On a
	// local host, forwarding can be allowed only where it is given.
	Bridge string
}

// nodesHere says whether nodes share this machine's kernel: those of a qemu or
// a remote host do not.
func (o Options) nodesHere() bool { return o.HostDriver == "embedded" || o.HostDriver == "local" }

// Finding is one thing that was looked at.
type Finding struct {
	// ID is stable: "packages", "disk", "cgroup".
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// What was seen.
	What string `json:"what"`
	// Remedy is what the operator can do; empty where nothing is to be done.
	Remedy string `json:"remedy,omitempty"`
	// Fixable findings are mended by Fix.
	Fixable bool `json:"fixable"`

	repair repair
}

// String is the finding in one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s: %s", f.Severity, f.ID, f.What)
	if f.Remedy != "" {
		s += " (remedy: " + f.Remedy + ")"
	}
	return s
}

// repair is what Fix does about a finding.
type repair struct {
	// packages to install.
	packages []string
	// backports: the packages need the release's backports, and no source of
	// this machine has them.
	backports bool
	// module to load.
	module string
	// commands to run as they are.
	commands [][]string
}

// Problems are the findings that keep cells from running.
func Problems(findings []Finding) []Finding {
	var out []Finding
	for _, f := range findings {
		if f.Severity == Problem {
			out = append(out, f)
		}
	}
	return out
}

// Examine looks at this machine. It changes nothing, and what it could not
// look at is a warning that says so.
func Examine(ctx context.Context, opts Options) []Finding {
	return This().Examine(ctx, opts)
}

// Examine looks at the machine; see the function of that name.
func (m Machine) Examine(ctx context.Context, opts Options) []Finding {
	if opts.Purpose == "" {
		opts.Purpose = Matrix
	}
	if opts.HostDriver == "" {
		opts.HostDriver = "embedded"
	}
	const gib = 1 << 30
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 8 * gib
	}
	if opts.Bridge == "" && opts.HostDriver == "embedded" {
		opts.Bridge = embeddedBridges
	}
	if opts.MemoryBytes == 0 {
		opts.MemoryBytes = 2 * gib
	}
	probes := []func(context.Context, Options) []Finding{
		m.root, m.os, m.packages, m.toolchain,
		m.cgroup, m.filesystems, m.modules, m.links, m.firewall, m.devices,
		m.capabilities, m.apparmor, m.sysctls,
		m.disk, m.memory, m.processors, m.quotas,
		m.forwarding, m.dns, m.incus,
		m.alone,
	}
	var findings []Finding
	for _, probe := range probes {
		findings = append(findings, probe(ctx, opts)...)
	}
	return findings
}

func ok(id, format string, args ...any) []Finding {
	return []Finding{{ID: id, Severity: OK, What: fmt.Sprintf(format, args...)}}
}

func warning(id, remedy, format string, args ...any) []Finding {
	return []Finding{{ID: id, Severity: Warning, What: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func problem(id, remedy, format string, args ...any) []Finding {
	return []Finding{{ID: id, Severity: Problem, What: fmt.Sprintf(format, args...), Remedy: remedy}}
}
