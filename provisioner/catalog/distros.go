package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/kubeadm"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// distribution is what is wired to a distribution's name.
type distribution struct {
	// install is how a release is installed in a cell.
	install func(r artifact.Release, c matrix.Cell, t matrix.Timeouts) provisioner.Distro
	// content is what a release puts into a cell's prepared image.
	content func(r artifact.Release, c matrix.Cell) image.Content
	// cannot says why a cell cannot be installed on any host; empty where it
	// can.
	cannot func(c matrix.Cell) string
	// kubeconfig is where a server keeps the administrator's.
	kubeconfig string
}

// distributions are those that can be installed, by name.
func distributions() map[string]distribution {
	return map[string]distribution{
		"kubeadm": {
			install: func(r artifact.Release, c matrix.Cell, t matrix.Timeouts) provisioner.Distro {
				return &kubeadm.Distro{Version: r.Version, PauseImage: r.Image("registry.k8s.io/pause"), Servers: c.Topology.Servers, Timeout: t.Install.Std()}
			},
			content:    kubeadmContent,
			cannot:     evenServers,
			kubeconfig: kubeadm.AdminConf,
		},
		"k3s":  k3sDistribution(),
		"rke2": rke2Distribution(),
	}
}

// evenServers says why a cell whose servers are etcd's members cannot have as
// many of them.
func evenServers(c matrix.Cell) string {
	n := c.Topology.Servers
	if n%2 == 1 {
		return ""
	}
	return fmt.Sprintf("%d servers survive the loss of no more of them than %d do, as most of etcd's members must agree; write %d or %d servers", n, n-1, n-1, n+1)
}

// known finds a distribution by name; one that is not there is a
// *provisioner.UnavailableError.
func known(name, version string) (distribution, error) {
	all := distributions()
	d, ok := all[name]
	if !ok {
		return d, &provisioner.UnavailableError{What: name + " " + version,
			Tried: []string{"it cannot be installed; what can be is " + strings.Join(slices.Sorted(maps.Keys(all)), ", ")}}
	}
	return d, nil
}

// Distro installs a release in a cell.
func Distro(r artifact.Release, c matrix.Cell, t matrix.Timeouts) provisioner.Distro {
	return distributions()[c.Distro.Name].install(r, c, t)
}

// Content is what a release puts into a cell's prepared image.
func Content(r artifact.Release, c matrix.Cell) image.Content {
	return distributions()[c.Distro.Name].content(r, c)
}

// Kubeconfig is where a distribution's servers keep the administrator's; empty
// where the distribution is not known.
func Kubeconfig(distro string) string { return distributions()[distro].kubeconfig }

func kubeadmContent(r artifact.Release, _ matrix.Cell) image.Content {
	content := image.Content{Name: r.Distro, Version: r.Version, Files: kubeadm.Files(), Units: kubeadm.Units(), Runtime: r.OwnRuntime()}
	if content.Runtime {
		content.Units = append(content.Units, kubeadm.RuntimeUnit())
	}
	for _, f := range r.Files {
		blob := image.Blob{Name: f.Name, Path: f.Path, SHA256: f.SHA256}
		if f.Kind == artifact.KindImages {
			content.Archives = append(content.Archives, blob)
		} else {
			content.Binaries = append(content.Binaries, blob)
		}
	}
	return content
}
