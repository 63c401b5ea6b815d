package image

import (
	"fmt"
	"io/fs"
	"slices"

	"go.yaml.in/yaml/v4"
)

// OS says how a node OS' image is made.
type OS struct {
	// Name is the OS as a matrix names it: debian/13.
	Name string `yaml:"name"`
	// Server is the image's alias on the image server.
	Server string `yaml:"server"`
	// Family says how packages are installed: debian.
	Family string `yaml:"family"`
	// Mmdebstrap makes the image where no server has it; nil if nothing does.
	Mmdebstrap *Mmdebstrap `yaml:"mmdebstrap"`
	// Packages that a Kubernetes node needs.
	Packages []string `yaml:"packages"`
	// Runtime are the packages of the OS's own containerd and runc.
	Runtime []string `yaml:"runtime"`
}

// packages are those that are installed for a content.
func (o OS) packages(c Content) []string {
	if c.Runtime {
		return o.Packages
	}
	return append(slices.Clone(o.Runtime), o.Packages...)
}

// Mmdebstrap says how mmdebstrap makes an image.
type Mmdebstrap struct {
	Suite     string   `yaml:"suite"`
	Variant   string   `yaml:"variant"`
	Packages  []string `yaml:"packages"`
	Customize []string `yaml:"customize"`
}

// LoadOS reads every OS below a folder.
func LoadOS(files fs.FS) ([]OS, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list node OSes: %w", err)
	}
	var all []OS
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read node OS %s: %w", name, err)
		}
		var o OS
		if err := yaml.Load(data, &o, yaml.WithKnownFields()); err != nil {
			return nil, fmt.Errorf("read node OS %s: %w", name, err)
		}
		if o.Name == "" || len(o.Packages) == 0 || len(o.Runtime) == 0 {
			return nil, fmt.Errorf("read node OS %s: it wants a name, packages and a runtime", name)
		}
		if slices.ContainsFunc(all, func(other OS) bool { return other.Name == o.Name }) {
			return nil, fmt.Errorf("read node OS %s: %s is there twice", name, o.Name)
		}
		all = append(all, o)
	}
	return all, nil
}
