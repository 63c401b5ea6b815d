// Package export writes what makes a cell pass as things that people apply by
// themselves: an Incus profile, a container's configuration for LXC or Proxmox,
// a shell script, a cloud-config, Ansible playbooks. Every format is made from
// the same Steps.
package export

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// What the fixes are merged with in place of what only the node knows. The
// node's part fills it in where it is applied.
const (
	NodeName    = "LXCMATRIX_NODE_NAME"
	NodeAddress = "LXCMATRIX_NODE_ADDRESS"
	Gateway     = "LXCMATRIX_GATEWAY"
)

// Invitation is what stands for what a node joins with, which is told to its part
// where that is applied. The key is a server's alone.
func Invitation(role matrix.Role) *provisioner.Invitation {
	i := &provisioner.Invitation{Server: "LXCMATRIX_SERVER", Token: "LXCMATRIX_TOKEN", CAHash: "LXCMATRIX_CA_HASH"}
	if role == matrix.RoleServer {
		i.CertificateKey = "LXCMATRIX_CERTIFICATE_KEY"
	}
	return i
}

// sysctlFile is where systemd finds sysctls at every boot.
const sysctlFile = "/etc/sysctl.d/90-lxcmatrix.conf"

// Steps are what makes a cell pass, by where it is done.
type Steps struct {
	Cell matrix.CellID
	// Cgroup is the host's mode, v1 or v2.
	Cgroup string
	// Facts say in a line what the cell was seen on.
	Facts string
	Host  Part
	// Nodes are the ways in which the cell's nodes are set up, the first server's
	// first.
	Nodes []Node
}

// Node is what is done for every node that has the same place in the cluster.
type Node struct {
	Part
	// Instance is the container's own configuration.
	Instance provisioner.IncusConfig
	// Start is the command that then makes the node a part of its cluster.
	Start []string
	// Notes are sentences on what else the cell had.
	Notes []string
}

// Part is what is done on the host, or in a node.
type Part struct {
	// Name is host or node, or which of the nodes: first-server, server, agent.
	Name string
	// Where is what Name says, in words.
	Where   string
	Files   []provisioner.File
	Sysctls []Sysctl
	// Enable and Disable name units, Restart those that read Files only when
	// they start.
	Enable, Disable, Restart []string
}

// Sysctl is one of them.
type Sysctl struct{ Key, Value string }

// File is where the kernel has it.
func (s Sysctl) File() string { return "/proc/sys/" + strings.ReplaceAll(s.Key, ".", "/") }

// Derive begins the steps of a cell with what the fixes of all its nodes want of
// the host.
func Derive(c matrix.Cell, host matrix.HostFacts, wants ...provisioner.Desired) Steps {
	sysctls := map[string]string{}
	for _, want := range wants {
		maps.Copy(sysctls, want.Host.Sysctls)
	}
	return Steps{Cell: c.ID, Cgroup: host.Cgroup, Host: part("host", "on the host", nil, sysctls),
		Facts: fmt.Sprintf("%s %s on %s, host kernel %s, cgroup %s, Incus %s, LXC %s", c.Distro.Name, c.Distro.Version, onto(c),
			host.Kernel, host.Cgroup, host.Incus, host.LXC)}
}

// onto are the OSes of a cell's nodes.
func onto(c matrix.Cell) string {
	names := []string{c.OSOf(matrix.RoleServer).Name}
	if agents := c.OSOf(matrix.RoleAgent).Name; c.Topology.Agents > 0 && agents != names[0] {
		names = append(names, agents+" (agents)")
	}
	return strings.Join(names, " and ")
}

// Add adds what the fixes want of nodes, and what their distribution writes.
// name and where are the part's.
func (s *Steps) Add(name, where string, want provisioner.Desired, p provisioner.Preparation) {
	files := slices.Clone(want.Node.Files)
	for _, u := range want.Node.Units {
		files = append(files, provisioner.File{Path: path.Join("/etc/systemd/system", u.Name), Content: u.Content})
	}
	n := Node{Part: part(name, where, append(files, p.Files...), want.Node.Sysctls), Instance: want.Incus, Start: p.Start, Notes: p.Notes}
	for _, u := range want.Node.Units {
		if u.Enable {
			n.Enable = append(n.Enable, u.Name)
		}
	}
	n.Disable = want.Node.Disable
	n.Restart = append(slices.Clone(want.Node.Restart), p.Restart...)
	s.Nodes = append(s.Nodes, n)
}

// part is one with a file of its sysctls among its own, and every mode said.
func part(name, where string, files []provisioner.File, sysctls map[string]string) Part {
	p := Part{Name: name, Where: where, Files: files}
	var conf strings.Builder
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		p.Sysctls = append(p.Sysctls, Sysctl{key, sysctls[key]})
		fmt.Fprintf(&conf, "%s = %s\n", key, sysctls[key])
	}
	if len(sysctls) > 0 {
		p.Files = append(p.Files, provisioner.File{Path: sysctlFile, Content: conf.String()})
	}
	for i, f := range p.Files {
		if f.Mode == 0 {
			p.Files[i].Mode = 0o644
		}
		if f.Content != "" && !strings.HasSuffix(f.Content, "\n") {
			p.Files[i].Content += "\n"
		}
	}
	return p
}

// UntranslatableError is something that a format has no form for.
type UntranslatableError struct{ Format, What string }

// Error names the format and what it cannot say.
func (e *UntranslatableError) Error() string {
	return fmt.Sprintf("format %s has no form for %s", e.Format, e.What)
}

// format makes its files of steps.
type format struct {
	name, does string
	write      func(Steps) ([]provisioner.File, error)
}

func formats() []format {
	return []format{
		{"ansible", "playbooks for the host and the nodes, and what undoes them", ansible},
		{"cloud-init", "a cloud-config of the node's part", cloudInit},
		{"incus-profile", "the container's part as an Incus profile", incusProfile},
		{"lxc-conf", "the container's part as lines of an LXC configuration", lxcConf},
		{"proxmox", "the container's part as lines of a Proxmox container's configuration", proxmox},
		{"shell", "scripts for the host and the nodes, which undo as well", shell},
	}
}

// Formats names the formats, and says of each what it writes.
func Formats() (names, does []string) {
	for _, f := range formats() {
		names, does = append(names, f.name), append(does, f.does)
	}
	return names, does
}

// Write makes the files of a format; their paths are relative. A format that
// cannot say something fails with an *UntranslatableError.
func Write(name string, s Steps) ([]provisioner.File, error) {
	for _, f := range formats() {
		if f.name != name {
			continue
		}
		files, err := f.write(s)
		if err != nil {
			return nil, fmt.Errorf("export cell %s as %s: %w", s.Cell, name, err)
		}
		return files, nil
	}
	return nil, errors.New("there is no format " + name)
}
