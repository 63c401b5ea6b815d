package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v4"
)

// recipe is one releases/NAME.yaml: what a release is made of, and what it is
// built from where it cannot be had.
type recipe struct {
	Distro string `yaml:"distro"`
	Minor  string `yaml:"minor"`
	// Version is what a build makes, and nothing else.
	Version string         `yaml:"version"`
	Modules []moduleRecipe `yaml:"modules"`
	Bases   []baseRecipe   `yaml:"bases"`
	// Binaries are the commands that are files of the release.
	Binaries []string      `yaml:"binaries"`
	Images   []imageRecipe `yaml:"images"`
	// Runtime is what the release's nodes run it with.
	Runtime Runtime `yaml:"runtime"`
}

// moduleRecipe is a nested Go module and the commands to build from it.
type moduleRecipe struct {
	// Name is the folder under modules.
	Name string   `yaml:"name"`
	Tags []string `yaml:"tags"`
	// Set holds string variables that the linker sets, by import path and
	// name.
	Set map[string]string `yaml:"set"`
	// Commands maps a command's name to its main package.
	Commands map[string]string `yaml:"commands"`
}

// baseRecipe is a Debian layer under images that need programs of an OS.
type baseRecipe struct {
	Name     string   `yaml:"name"`
	Suite    string   `yaml:"suite"`
	Packages []string `yaml:"packages"`
}

// imageRecipe is a container image.
type imageRecipe struct {
	Name string `yaml:"name"`
	// Base is the name of a base; empty is an empty image.
	Base string `yaml:"base"`
	// Own images are this project's: no release has them.
	Own bool `yaml:"own"`
	// Files maps a path in the image to the command that is put there.
	Files      map[string]string `yaml:"files"`
	Entrypoint []string          `yaml:"entrypoint"`
	Command    []string          `yaml:"command"`
}

// loadRecipes reads and checks every recipe, and names every problem at once.
func loadRecipes(modules fs.FS) ([]recipe, error) {
	names, err := fs.Glob(modules, "releases/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list release recipes: %w", err)
	}
	var recipes []recipe
	var problems []error
	for _, name := range names {
		content, err := fs.ReadFile(modules, name)
		if err != nil {
			return nil, fmt.Errorf("read release recipe %s: %w", name, err)
		}
		decoder := yaml.NewDecoder(bytes.NewReader(content))
		decoder.KnownFields(true)
		var r recipe
		if err := decoder.Decode(&r); err != nil {
			problems = append(problems, fmt.Errorf("release recipe %s: %w", name, err))
			continue
		}
		for _, p := range r.problems(modules) {
			problems = append(problems, fmt.Errorf("release recipe %s: %s", name, p))
		}
		recipes = append(recipes, r)
	}
	return recipes, errors.Join(problems...)
}

func (r recipe) problems(modules fs.FS) (found []string) {
	bad := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if v, err := semver.StrictNewVersion(r.Version); err != nil {
		bad("version %q: %v", r.Version, err)
	} else if want := fmt.Sprintf("%d.%d", v.Major(), v.Minor()); r.Minor != want {
		bad("minor %q does not fit version %s", r.Minor, r.Version)
	}
	if r.Distro == "" {
		bad("distro is empty")
	}
	commands := map[string]bool{}
	for _, m := range r.Modules {
		if _, err := fs.Stat(modules, path.Join(m.Name, "go.mod.in")); err != nil {
			bad("module %s: %v", m.Name, err)
		}
		outputs := map[string]bool{}
		for c, pkg := range m.Commands {
			if commands[c] {
				bad("command %s is built by two modules", c)
			}
			if outputs[commandName(pkg)] {
				bad("module %s: two packages build a file %s", m.Name, commandName(pkg))
			}
			commands[c], outputs[commandName(pkg)] = true, true
		}
	}
	for _, b := range r.Binaries {
		if !commands[b] {
			bad("binary %s is built by no module", b)
		}
	}
	for _, runtime := range []string{r.Runtime.Containerd, r.Runtime.Runc} {
		if runtime != RuntimeOS && !slices.Contains(r.Binaries, runtime) {
			bad("runtime %q is neither %q nor one of the binaries", runtime, RuntimeOS)
		}
	}
	for _, i := range r.Images {
		if i.Base != "" && !slices.ContainsFunc(r.Bases, func(b baseRecipe) bool { return b.Name == i.Base }) {
			bad("image %s: no base %q", i.Name, i.Base)
		}
		for p, c := range i.Files {
			if !commands[c] {
				bad("image %s: %s is built by no module", i.Name, c)
			}
			if !path.IsAbs(p) || path.Clean(p) != p {
				bad("image %s: path %q is not absolute and clean", i.Name, p)
			}
		}
		if len(i.Files) == 0 || len(i.Entrypoint) == 0 {
			bad("image %s needs files and an entrypoint", i.Name)
		}
	}
	return found
}

// imageNames lists the images, sorted; own says whether ours are among them.
func (r recipe) imageNames(own bool) []string {
	var names []string
	for _, i := range r.Images {
		if own || !i.Own {
			names = append(names, i.Name)
		}
	}
	sort.Strings(names)
	return names
}

// only keeps the part of the recipe that our own images need.
func (r recipe) only(own bool) recipe {
	part := r
	part.Images, part.Modules, part.Bases = nil, nil, nil
	commands, bases := map[string]bool{}, map[string]bool{}
	for _, i := range r.Images {
		if i.Own != own {
			continue
		}
		part.Images = append(part.Images, i)
		bases[i.Base] = true
		for _, c := range i.Files {
			commands[c] = true
		}
	}
	if own {
		part.Binaries = nil
	}
	for _, c := range part.Binaries {
		commands[c] = true
	}
	for _, m := range r.Modules {
		for c := range m.Commands {
			if commands[c] {
				part.Modules = append(part.Modules, m)
				break
			}
		}
	}
	for _, b := range r.Bases {
		if bases[b.Name] {
			part.Bases = append(part.Bases, b)
		}
	}
	return part
}

// fingerprint is a hash over everything that decides what a build of the
// recipe makes: the recipe itself, its modules' content, the Go version, the
// platform and the way in which this program builds.
func (r recipe) fingerprint(modules fs.FS, goVersion, arch string) (string, error) {
	h := sha256.New()
	text, err := yaml.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode recipe of %s %s: %w", r.Distro, r.Version, err)
	}
	fmt.Fprintf(h, "builder %s\ngo %s\narch %s\nflags %s\n%s\n", builderVersion, goVersion, arch, strings.Join(buildFlags, " "), text)
	for _, m := range r.Modules {
		files, err := moduleFiles(modules, m.Name)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			fmt.Fprintf(h, "%s %s %x\n", m.Name, f.name, sha256.Sum256(f.content))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// moduleFile is a file of a nested module under the name it has when built.
type moduleFile struct {
	name    string
	content []byte
}

// moduleFiles lists a nested module's files, tests left out and the suffix
// ".in" taken off.
func moduleFiles(modules fs.FS, name string) ([]moduleFile, error) {
	var files []moduleFile
	err := fs.WalkDir(modules, name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(p, "_test.go") {
			return err
		}
		f, err := modules.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		content, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		files = append(files, moduleFile{strings.TrimSuffix(strings.TrimPrefix(p, name+"/"), ".in"), content})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read embedded module %s: %w", name, err)
	}
	return files, nil
}
