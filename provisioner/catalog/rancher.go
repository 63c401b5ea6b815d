package catalog

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/k3s"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rke2"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

// k3sDistribution is k3s, whose units and links are written here.
func k3sDistribution() distribution {
	content := image.Content{Units: k3s.Units(), Files: k3s.Files(), Links: k3s.Links()}
	return ofRancher(k3s.Product(), k3s.CNIs(), content)
}

// rke2Distribution is RKE2, whose bundle has its units.
func rke2Distribution() distribution {
	return ofRancher(rke2.Product(), rke2.CNIs(), image.Content{})
}

// ofRancher wires a product that can have the CNIs. fixed is what its prepared
// images hold of every release.
func ofRancher(p rancher.Product, cnis []string, fixed image.Content) distribution {
	return distribution{
		install: func(r artifact.Release, c matrix.Cell, _ matrix.Timeouts) provisioner.Distro {
			o, _ := rancherOptions(c, cnis)
			distro := &rancher.Distro{Product: p, Options: o, Version: semver.MustParse(r.Version)}
			for _, f := range r.Files {
				for _, i := range f.Images {
					distro.Available = append(distro.Available, i.Name)
				}
			}
			return distro
		},
		content: func(r artifact.Release, _ matrix.Cell) image.Content {
			content := fixed
			content.Name, content.Version = r.Distro, r.Version
			for _, f := range r.Files {
				blob := image.Blob{Name: f.Name, Path: f.Path, SHA256: f.SHA256}
				switch f.Kind {
				case artifact.KindBundle:
					content.Bundles = append(content.Bundles, blob)
				case artifact.KindAirgap:
					content.Kept = append(content.Kept, image.Kept{Blob: blob, Target: path.Join(p.Images(), f.Name)})
				case artifact.KindImages:
					content.Kept = append(content.Kept, image.Kept{Blob: blob, Target: path.Join(p.Images(), "lxcmatrix-"+f.Name)})
				default:
					content.Binaries = append(content.Binaries, blob)
				}
			}
			return content
		},
		brings: func(r artifact.Release, variants []string) image.Brings {
			// RKE2's plugins come with the image of one of its networks.
			none := p.Plugins == "" && slices.Contains(variants, rancher.CNIBridge)
			return image.Brings{Runtime: r.OwnRuntime(), Plugins: r.OwnPlugins() && !none}
		},
		cannot: func(c matrix.Cell) string {
			_, why := rancherOptions(c, cnis)
			return why
		},
		kubeconfig: p.Kubeconfig(),
	}
}

// rancherOptions are what a cell's variants choose; why says why they cannot
// be, and is empty where they can.
func rancherOptions(c matrix.Cell, cnis []string) (o rancher.Options, why string) {
	o.Servers = c.Topology.Servers
	datastores := []string{rancher.DatastoreEtcd, rancher.DatastoreSQLite}
	choose := func(into *string, v string) {
		if *into != "" {
			why = fmt.Sprintf("%s: it has the variants %s and %s, of which one excludes the other", c.Distro.Name, *into, v)
		}
		*into = v
	}
	known := slices.Concat(cnis, datastores, fix.Variants())
	for _, v := range c.Variants {
		switch {
		case !slices.Contains(known, v):
			why = fmt.Sprintf("%s has no variant %q%s; it has %s", c.Distro.Name, v, selector.DidYouMean(v, known), strings.Join(known, ", "))
		case slices.Contains(cnis, v):
			choose(&o.CNI, v)
		case slices.Contains(datastores, v):
			choose(&o.Datastore, v)
		}
	}
	switch {
	case why != "":
	case o.Datastore == rancher.DatastoreSQLite && o.Servers > 1:
		why = fmt.Sprintf("%s: %d servers cannot share SQLite, which is a file on one of them", c.Distro.Name, o.Servers)
	default:
		why = evenServers(c)
	}
	return o, why
}
