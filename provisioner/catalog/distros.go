package catalog

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/flannel"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/kubeadm"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// distribution is what is wired to a distribution's name.
type distribution struct {
	// install is how a release is installed in a cell.
	install func(r artifact.Release, c matrix.Cell, t matrix.Timeouts) provisioner.Distro
	// content is what a release puts into a cell's prepared image, but for what
	// it brings.
	content func(r artifact.Release, c matrix.Cell) image.Content
	// brings says what cells of some variants need of no OS, by the release's
	// Runtime.
	brings func(r artifact.Release, variants []string) image.Brings
	// cannot says why a cell cannot be installed on any host, and what to write
	// instead; empty where it can.
	cannot func(c matrix.Cell) string
	// addons are releases of other projects that cells of some variants need
	// beside the distribution's own; nil where none do.
	addons func(variants []string) []artifact.Request
	// kubeconfig is where a server keeps the administrator's.
	kubeconfig string
}

// distributions are those that can be installed, by name.
func distributions() map[string]distribution {
	return map[string]distribution{
		"kubeadm": {
			install: func(r artifact.Release, c matrix.Cell, t matrix.Timeouts) provisioner.Distro {
				return &kubeadm.Distro{Version: r.Version, PauseImage: r.Image("registry.k8s.io/pause"), Flannel: kubeadm.Flannel(c.Variants), Servers: c.Topology.Servers, Timeout: t.Install.Std()}
			},
			content: kubeadmContent,
			brings: func(r artifact.Release, _ []string) image.Brings {
				return image.Brings{Runtime: r.OwnRuntime(), Plugins: r.OwnPlugins()}
			},
			cannot: func(c matrix.Cell) string {
				return cmp.Or(evenServers(c), unknownVariants(c, kubeadm.Variants()))
			},
			addons: func(variants []string) []artifact.Request {
				if kubeadm.Flannel(variants) == nil {
					return nil
				}
				return []artifact.Request{{Distro: "flannel", Version: flannel.Version}}
			},
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

// unknownVariants says which of a cell's variants neither its distribution nor
// the fixes know, and which of the distribution's exclude each other.
func unknownVariants(c matrix.Cell, alternatives []string) string {
	known := append(slices.Clone(alternatives), fix.Variants()...)
	chosen := ""
	for _, v := range c.Variants {
		switch {
		case !slices.Contains(known, v):
			return fmt.Sprintf("%s has no variant %q%s; it has %s", c.Distro.Name, v, selector.DidYouMean(v, known), strings.Join(known, ", "))
		case !slices.Contains(alternatives, v):
		case chosen != "":
			return fmt.Sprintf("the variants %s and %s exclude each other; write one of them", chosen, v)
		default:
			chosen = v
		}
	}
	return ""
}

// Cannot says why a cell cannot be installed on any host, and what to write
// instead; empty where it can, and where its distribution is not known.
func Cannot(c matrix.Cell) string {
	d, err := known(c.Distro.Name, c.Distro.Version)
	if err != nil {
		return ""
	}
	return d.cannot(c)
}

// addons are the releases that cells of a distribution and variants need beside
// the distribution's own.
func addons(distro string, variants []string) []artifact.Request {
	if of := distributions()[distro].addons; of != nil {
		return of(variants)
	}
	return nil
}

// Release gets a cell's release with its add-ons, whose files carry their names
// before their own. It is built if any of it is.
func Release(ctx context.Context, store *artifact.Store, c matrix.Cell) (artifact.Release, error) {
	release, err := store.Ensure(ctx, artifact.Request{Distro: c.Distro.Name, Version: c.Distro.Version, Parts: store.Parts(c.Distro.Name, c.Variants)})
	if err != nil {
		return artifact.Release{}, err
	}
	for _, a := range addons(c.Distro.Name, c.Variants) {
		addon, err := store.Ensure(ctx, a)
		if err != nil {
			return artifact.Release{}, err
		}
		for _, f := range addon.Files {
			f.Name = addon.Distro + "-" + f.Name
			release.Files = append(release.Files, f)
		}
		if addon.Provenance == artifact.ProvenanceBuilt {
			release.Provenance = artifact.ProvenanceBuilt
		}
	}
	return release, nil
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
	d := distributions()[c.Distro.Name]
	content := d.content(r, c)
	content.Brings = d.brings(r, c.Variants)
	return content
}

// Kubeconfig is where a distribution's servers keep the administrator's; empty
// where the distribution is not known.
func Kubeconfig(distro string) string { return distributions()[distro].kubeconfig }

func kubeadmContent(r artifact.Release, c matrix.Cell) image.Content {
	content := image.Content{Name: r.Distro, Version: r.Version, Files: kubeadm.Files(), Units: kubeadm.Units()}
	if r.OwnRuntime() {
		content.Units = append(content.Units, kubeadm.RuntimeUnit())
	}
	if kubeadm.Flannel(c.Variants) != nil {
		content.Files, content.Units = append(content.Files, flannel.Files()...), append(content.Units, flannel.Units()...)
	}
	for _, f := range r.Files {
		blob := image.Blob{Name: f.Name, Path: f.Path, SHA256: f.SHA256}
		switch f.Kind {
		case artifact.KindImages:
			content.Archives = append(content.Archives, blob)
		case artifact.KindPlugin:
			content.Kept = append(content.Kept, image.Kept{Blob: blob, Target: path.Join(kubeadm.PluginFolder, f.Name), Program: true})
		default:
			content.Binaries = append(content.Binaries, blob)
		}
	}
	return content
}
