package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

// OS says how a node OS' image is made.
type OS struct {
	// Name is the OS as a matrix names it: debian/13.
	Name string
	// Server is the image's alias on the image server; empty if it has none.
	Server string
	Family Family
	// Mmdebstrap makes the image where no server has it; nil if nothing does.
	Mmdebstrap *Mmdebstrap
	// Runtime is the OS's own containerd and runc, else the family's.
	Runtime Packaged
}

// Family is what OSes of one descent have in common.
type Family struct {
	Name string `yaml:"name"`
	// Install is a shell script that installs the packages that are its
	// arguments, in an instance that has booted and has a network.
	Install string `yaml:"install"`
	// Packages that a Kubernetes node needs.
	Packages []string `yaml:"packages"`
	// Runtime are containerd and runc, Plugins the CNI's.
	Runtime Packaged `yaml:"runtime"`
	Plugins Packaged `yaml:"plugins"`
	// Base is put into images that were made for machines, when they are
	// imported.
	Base Base `yaml:"base"`
}

// Packaged is what an OS packages of something that releases may bring
// themselves. Exactly one of both fields is set.
type Packaged struct {
	Packages []string `yaml:"packages"`
	// None says why there is nothing that a release could use.
	None string `yaml:"none"`
}

// Brings says what a release has in it, so that nodes need none of their OS.
type Brings struct {
	// Runtime are containerd and runc, Plugins the CNI's.
	Runtime, Plugins bool
}

// Base is how an image of a machine becomes one of a container: what it lacks,
// and what has no place there. Paths are absolute.
type Base struct {
	Remove []string `yaml:"remove"`

	Files []provisioner.File `yaml:"files"`
	// Links maps the paths of symbolic links to where they lead.
	Links map[string]string `yaml:"links"`
}

// Mmdebstrap says how mmdebstrap makes an image.
type Mmdebstrap struct {
	Suite     string   `yaml:"suite"`
	Variant   string   `yaml:"variant"`
	Packages  []string `yaml:"packages"`
	Customize []string `yaml:"customize"`
}

// Root is what mmdebstrap is told.
func (m Mmdebstrap) Root() debian.Root {
	return debian.Root{Suite: m.Suite, Variant: m.Variant, Packages: m.Packages, Customize: m.Customize}
}

// packages are those that are installed where a release brings the rest.
func (o OS) packages(brings Brings) []string {
	var all []string
	if !brings.Runtime {
		all = append(all, o.Runtime.Packages...)
	}
	if !brings.Plugins {
		all = append(all, o.Family.Plugins.Packages...)
	}
	return append(all, o.Family.Packages...)
}

// lacks is a *provisioner.UnavailableError where a release would need something
// of the OS that it does not have.
func (o OS) lacks(release string, brings Brings) error {
	unavailable := func(what, why string) error {
		return &provisioner.UnavailableError{What: fmt.Sprintf("%s for %s on %s", what, release, o.Name),
			Tried: []string{why + "; take a release that brings its own"}}
	}
	switch {
	case !brings.Runtime && o.Runtime.None != "":
		return unavailable("a container runtime", o.Runtime.None)
	case !brings.Plugins && o.Family.Plugins.None != "":
		return unavailable("CNI plugins", o.Family.Plugins.None)
	}
	return nil
}

// LoadOS reads every OS at the root of files, and the families in the folder
// families.
func LoadOS(files fs.FS) ([]OS, error) {
	families := map[string]Family{}
	err := decodeAll(files, "families/*.yaml", func(f Family) error {
		if f.Name == "" || f.Install == "" || len(f.Packages) == 0 || f.Runtime.isSet() != nil || f.Plugins.isSet() != nil {
			return errors.New("it wants a name, a way to install, packages, and a runtime and plugins, or why there are none")
		}
		if _, there := families[f.Name]; there {
			return fmt.Errorf("%s is there twice", f.Name)
		}
		families[f.Name] = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []OS
	type file struct {
		Name       string      `yaml:"name"`
		Server     string      `yaml:"server"`
		Family     string      `yaml:"family"`
		Mmdebstrap *Mmdebstrap `yaml:"mmdebstrap"`
		Runtime    *Packaged   `yaml:"runtime"`
	}
	err = decodeAll(files, "*.yaml", func(f file) error {
		family, known := families[f.Family]
		switch {
		case f.Name == "" || !known:
			return errors.New("it wants a name, and a family that is there")
		case slices.ContainsFunc(all, func(other OS) bool { return other.Name == f.Name }):
			return fmt.Errorf("%s is there twice", f.Name)
		}
		runtime := cmp.Or(f.Runtime, &family.Runtime)
		all = append(all, OS{Name: f.Name, Server: f.Server, Family: family, Mmdebstrap: f.Mmdebstrap, Runtime: *runtime})
		return runtime.isSet()
	})
	return all, err
}

// isSet is an error where it says neither what there is nor why not.
func (p Packaged) isSet() error {
	if (len(p.Packages) > 0) == (p.None != "") {
		return errors.New("its runtime wants packages, or why there are none")
	}
	return nil
}

// decodeAll decodes the files that match a pattern, in the order of their
// names, and hands each on.
func decodeAll[T any](files fs.FS, pattern string, accept func(T) error) error {
	names, err := fs.Glob(files, pattern)
	if err != nil {
		return fmt.Errorf("list node OSes: %w", err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return fmt.Errorf("read node OS: %w", err)
		}
		var v T
		if err := yaml.Load(data, &v, yaml.WithKnownFields()); err != nil {
			return fmt.Errorf("read node OS %s: %w", path.Base(name), err)
		}
		if err := accept(v); err != nil {
			return fmt.Errorf("read node OS %s: %w", path.Base(name), err)
		}
	}
	return nil
}
