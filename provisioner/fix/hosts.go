package fix

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// V1Controllers are those that Debian's kernels have on cgroup v1, by the
	// first version that has these and no others.
	V1Controllers map[string][]string `yaml:"v1Controllers"`
}

// LoadHosts reads every .yaml file at the root of each source, and reports all
// problems at once.
func LoadHosts(sources ...Source) (*Hosts, error) {
	all := &Hosts{Systemd: map[string]string{}, Incus: map[string]string{}, LXC: map[string]string{}, V1Controllers: map[string][]string{}}
	var problems []error
	for _, source := range sources {
		problems = append(problems, datafile.Read(source, func(file *datafile.File, h *Hosts) (bad []error) {
			for into, from := range map[*map[string]string]map[string]string{&all.Systemd: h.Systemd, &all.Incus: h.Incus, &all.LXC: h.LXC} {
				for key, version := range from {
					if _, there := (*into)[key]; there {
						bad = append(bad, file.Errorf(nil, "%s is there twice", key))
					}
					if !numeric(version) {
						bad = append(bad, file.Errorf(nil, "%s: %q is no version of numbers alone", key, version))
					}
				}
				maps.Copy(*into, from)
			}
			for version := range h.V1Controllers {
				if !numeric(version) {
					bad = append(bad, file.Errorf(nil, "v1Controllers: %q is no version of numbers alone", version))
				}
			}
			maps.Copy(all.V1Controllers, h.V1Controllers)
			return bad
		})...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load hosts: %w", errors.Join(problems...))
	}
	return all, nil
}

func numeric(version string) bool {
	parts, _, err := parseVersion(version)
	return err == nil && strings.Count(version, ".") == len(parts)-1
}

// v1Controllers are those of a kernel on cgroup v1; nil where they are not
// known.
func (h *Hosts) v1Controllers(kernel string) (controllers []string) {
	family, version, _ := strings.Cut(kernel, "/")
	if family != "debian" || !numeric(version) {
		return nil
	}
	wanted, _, _ := parseVersion(version)
	var since []int
	for first, these := range h.V1Controllers {
		if from, _, _ := parseVersion(first); slices.Compare(from, wanted) <= 0 && slices.Compare(from, since) > 0 {
			since, controllers = from, these
		}
	}
	return controllers
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
	if these := h.v1Controllers(ref.QEMU.Kernel); ref.Cgroup == "v1" && these != nil {
		f["controllers"] = slices.Clone(these)
	}
	return f
}
