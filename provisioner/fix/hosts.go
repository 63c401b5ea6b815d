package fix

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

// Hosts is what is known of qemu hosts before they are up, by what the matrix
// declares. Versions are as far as they are known: "6.0" stands for all that
// begin with it.
type Hosts struct {
	// Systemd by the machine's system, as debian/12.
	Systemd map[string]string `yaml:"systemd"`
	// Incus and LXC by the suite that the machine's Incus comes from.
	Incus map[string]string `yaml:"incus"`
	LXC   map[string]string `yaml:"lxc"`
}

// LoadHosts reads every .yaml file at the root of each source, and reports all
// problems at once.
func LoadHosts(sources ...Source) (*Hosts, error) {
	all := &Hosts{Systemd: map[string]string{}, Incus: map[string]string{}, LXC: map[string]string{}}
	var problems []error
	for _, source := range sources {
		problems = append(problems, datafile.Read(source, func(file *datafile.File, h *Hosts) (bad []error) {
			for into, from := range map[*map[string]string]map[string]string{&all.Systemd: h.Systemd, &all.Incus: h.Incus, &all.LXC: h.LXC} {
				for key, version := range from {
					if _, there := (*into)[key]; there {
						bad = append(bad, file.Errorf(nil, "%s is there twice", key))
					}
					if parts, _, err := parseVersion(version); err != nil || strings.Count(version, ".") != len(parts)-1 {
						bad = append(bad, file.Errorf(nil, "%s: %q is no version of numbers alone", key, version))
					}
				}
				maps.Copy(*into, from)
			}
			return bad
		})...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load hosts: %w", errors.Join(problems...))
	}
	return all, nil
}

// Declared are the facts of a host that follow from what the matrix declares.
func (h *Hosts) Declared(ref matrix.HostRef) Facts {
	f := Facts{}
	for name, version := range map[string]string{
		"host_systemd": h.Systemd[ref.QEMU.OS], "incus": h.Incus[ref.QEMU.Incus], "lxc": h.LXC[ref.QEMU.Incus],
	} {
		if version != "" {
			f[name] = someOf(version)
		}
	}
	return f
}
