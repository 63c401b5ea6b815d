package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
)

// planOf is a matrix' plan, with the versions that something resolved.
func planOf(t *testing.T, m *config.Matrix) matrix.Plan {
	t.Helper()
	cells, err := m.Cells()
	if err != nil {
		t.Fatal(err)
	}
	p := matrix.Plan{Cells: cells, Budget: m.PlanBudget(), Timeouts: m.PlanTimeouts(), Sources: m.PlanSources()}
	for i := range p.Cells {
		d := &p.Cells[i].Distro
		switch {
		case d.Channel != "":
			*d = d.At("1.34.2+k3s1")
		case d.Version == "":
			*d = d.At(d.Minor + ".4")
		}
		p.Cells[i].ID = p.Cells[i].NewID()
	}
	return p
}

// Every cell that the built-in matrices have, and cells with everything that a matrix
// can say, come out of a matrix of their own as they were planned.
func TestOfCell(t *testing.T) {
	var all []*config.Matrix
	for _, name := range config.Builtins() {
		m, err := config.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	file := filepath.Join(t.TempDir(), "matrix.yaml")
	if err := os.WriteFile(file, []byte(`apiVersion: lxcmatrix.dev/v1
hosts:
  - {name: lab, driver: remote, url: "https://lab.example:8443", fingerprint: "`+strings.Repeat("a", 64)+`", clientCert: cert.pem, clientKey: key.pem, ssh: root@lab}
  - {name: own, driver: qemu, kernel: ./vmlinuz, initrd: initrd, modules: mods, cgroup: v1, hostWrites: allow}
distros: [{name: k3s, version: stable, optional: true}, kubeadm@1.34]
os: [debian/13, {servers: debian/12, agents: debian/13}]
topologies: ["1", "1+1"]
variants: [default, flannel]
restarts: [service]
expect:
  - {os: debian/13, phase: install, signature: oom-score-adj-pipe, issue: "https://example.org/1"}
timeouts: {install: 17m30s}
budget: {disk: 30GiB, cells: 2, node: {memory: 3GiB, processes: 5000, cpus: 1}}
sources: {artifacts: [mirror, cache], images: [mmdebstrap], mirror: ./mirror}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, m := range append(all, m) {
		p := planOf(t, m)
		for _, c := range p.Cells {
			c.With, c.Without, c.DefyGates = []string{"kmsg-console"}, []string{"swap"}, true
			c.Gate, c.Unavailable = &matrix.GateFinding{Gate: "g", Reason: "r"}, "no image"
			own, err := config.OfCell(p, c)
			if err != nil {
				t.Errorf("%s: %v", m.File, err)
				continue
			}
			if !reflect.DeepEqual(own.PlanBudget(), p.Budget) || own.PlanTimeouts() != p.Timeouts || !reflect.DeepEqual(own.PlanSources(), p.Sources) {
				t.Errorf("%s: cell %s has other limits, timeouts or sources", m.File, c.ID)
			}
			tried++
		}
	}
	if tried < 20 {
		t.Errorf("only %d cells were tried", tried)
	}
}

func TestOfCellOfAClusterMember(t *testing.T) {
	c := matrix.Cell{Host: matrix.HostRef{Name: "lab-m1", Driver: "remote", Remote: matrix.RemoteRef{Name: "lab", Member: "m1"}},
		Distro: matrix.Distro{Name: "kubeadm"}.At("1.34.4"), OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	builtin, err := config.Builtin("default")
	if err != nil {
		t.Fatal(err)
	}
	p := planOf(t, builtin)
	own, err := config.OfCell(p, c)
	if err != nil || own.Hosts[0].Name != "lab" || own.Hosts[0].Remote != "lab" {
		t.Errorf("it is %+v: %v", own, err)
	}
}

// A plan that no matrix file can say is refused, not approached.
func TestOfCellThatNoFileMakes(t *testing.T) {
	builtin, err := config.Builtin("default")
	if err != nil {
		t.Fatal(err)
	}
	p := planOf(t, builtin)
	c := p.Cells[0]
	c.Host.QEMU.CPUs = 3
	if _, err := config.OfCell(p, c); err == nil || !strings.Contains(err.Error(), string(c.ID)) {
		t.Errorf("an embedded host with a machine: %v", err)
	}
	p.Timeouts.Stability = matrix.Duration(time.Second)
	if _, err := config.OfCell(p, p.Cells[0]); err == nil {
		t.Error("a stability window of a second is taken")
	}
}
