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
	// Instance is the container's own configuration.
	Instance provisioner.IncusConfig
	Node     Part
	// First is the command that then starts the first server.
	First []string
}

// Part is what is done on the host, or in a node.
type Part struct {
	// Name is host or node.
	Name    string
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

// Derive sorts what the fixes of a cell want, and what its distribution writes,
// by where it is done.
func Derive(c matrix.Cell, host matrix.HostFacts, want provisioner.Desired, p provisioner.Preparation) Steps {
	s := Steps{Cell: c.ID, Cgroup: host.Cgroup, Instance: want.Incus, First: p.First,
		Facts: fmt.Sprintf("%s %s on %s, host kernel %s, cgroup %s, Incus %s, LXC %s", c.Distro.Name, c.Distro.Version, c.OSOf(matrix.RoleServer).Name,
			host.Kernel, host.Cgroup, host.Incus, host.LXC)}
	s.Host = part("host", nil, want.Host.Sysctls)
	files := slices.Clone(want.Node.Files)
	for _, u := range want.Node.Units {
		files = append(files, provisioner.File{Path: path.Join("/etc/systemd/system", u.Name), Content: u.Content})
	}
	s.Node = part("node", append(files, p.Files...), want.Node.Sysctls)
	for _, u := range want.Node.Units {
		if u.Enable {
			s.Node.Enable = append(s.Node.Enable, u.Name)
		}
	}
	s.Node.Disable = want.Node.Disable
	s.Node.Restart = append(slices.Clone(want.Node.Restart), p.Restart...)
	return s
}

// part is one with a file of its sysctls among its own, and every mode said.
func part(name string, files []provisioner.File, sysctls map[string]string) Part {
	p := Part{Name: name, Files: files}
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
