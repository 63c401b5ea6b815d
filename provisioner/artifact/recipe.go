package artifact

import (
	"bytes"
	"cmp"
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
	// Addon is a release that is used beside a distribution's: what is ours is in
	// that one.
	Addon bool `yaml:"addon,omitempty"`
	// Version is what a build makes, and nothing else.
	Version string         `yaml:"version"`
	Modules []moduleRecipe `yaml:"modules"`
	Bases   []baseRecipe   `yaml:"bases"`
	// Binaries are the commands that are files of the release.
	Binaries []string `yaml:"binaries"`
	// Downloads are where the binaries lie that upstream's release has not.
	Downloads []downloadRecipe `yaml:"downloads,omitempty"`
	Images    []imageRecipe    `yaml:"images"`
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
	// Cgo modules hold C. It is linked statically, with the libraries of the
	// machine that builds: they are as new as its OS.
	Cgo bool `yaml:"cgo,omitempty"`
}

// downloadRecipe is a file of another project's release with binaries in it.
type downloadRecipe struct {
	// URL is where it lies, Checksums a text in which its SHA-256 stands before
	// its name. {arch} stands for the GOARCH, in Files too.
	URL       string `yaml:"url"`
	Checksums string `yaml:"checksums"`
	// Files maps binaries to their paths in a .tar.gz or .tgz; what is none is
	// itself the one binary, under the name that it has in the URL.
	Files map[string]string `yaml:"files"`
}

// archive says whether the file is a .tar.gz of binaries.
func (d downloadRecipe) archive() bool {
	return strings.HasSuffix(d.URL, ".tar.gz") || strings.HasSuffix(d.URL, ".tgz")
}

// on is the download for a platform.
func (d downloadRecipe) on(arch string) download {
	platform := func(s string) string { return strings.ReplaceAll(s, "{arch}", arch) }
	on := download{URL: platform(d.URL), Checksums: platform(d.Checksums), Archive: d.archive(), Kind: KindBinary}
	names, members := sortedPairs(d.Files)
	for i, name := range names {
		on.Names, on.Members = append(on.Names, name), append(on.Members, platform(members[i]))
	}
	return on
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

// knowledge is what is known of releases: where they lie, and what they are
// built from.
type knowledge struct {
	// upstreams by distribution.
	upstreams map[string]upstream
	// recipes in the order of their versions, each with what is ours.
	recipes []recipe
	// own is what is ours in a release that nothing else is built of.
	own recipe
}

// loadKnowledge reads and checks all of it, and names every problem at once.
func loadKnowledge(modules fs.FS) (knowledge, error) {
	k := knowledge{upstreams: map[string]upstream{}}
	var problems []error
	read := func(name string, into any, check func() []string) {
		content, err := fs.ReadFile(modules, name)
		if err == nil {
			decoder := yaml.NewDecoder(bytes.NewReader(content))
			decoder.KnownFields(true)
			err = decoder.Decode(into)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("recipe %s: %w", name, err))
			return
		}
		for _, p := range check() {
			problems = append(problems, fmt.Errorf("recipe %s: %s", name, p))
		}
	}
	read("own.yaml", &k.own, func() []string { return k.own.buildProblems(modules) })
	for _, name := range glob(modules, "upstreams/*.yaml") {
		var u upstream
		read(name, &u, func() []string { return u.problems() })
		k.upstreams[u.Distro] = u
	}
	for _, name := range glob(modules, "releases/*.yaml") {
		var r recipe
		read(name, &r, func() []string {
			// Last, as each is built.
			if !r.Addon {
				r.Modules, r.Images = append(r.Modules, k.own.Modules...), append(r.Images, k.own.Images...)
			}
			return r.problems(modules)
		})
		for _, b := range r.Binaries {
			if u, known := k.upstreams[r.Distro]; known && !u.has(b) && !slices.ContainsFunc(r.Downloads, func(d downloadRecipe) bool { _, has := d.Files[b]; return has }) {
				problems = append(problems, fmt.Errorf("recipe %s: binary %s is neither among upstream's files nor in a download", name, b))
			}
		}
		k.recipes = append(k.recipes, r)
	}
	if err := errors.Join(problems...); err != nil {
		return knowledge{}, err
	}
	slices.SortFunc(k.recipes, func(a, b recipe) int {
		return cmp.Or(strings.Compare(a.Distro, b.Distro), semver.MustParse(a.Version).Compare(semver.MustParse(b.Version)))
	})
	return k, nil
}

func glob(modules fs.FS, pattern string) []string {
	names, err := fs.Glob(modules, pattern)
	if err != nil {
		panic(err) // the patterns above are well formed
	}
	return names
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
	commands := r.commands()
	for _, b := range r.Binaries {
		if !commands[b] {
			bad("binary %s is built by no module", b)
		}
	}
	found = append(found, r.Runtime.problems(r.Binaries)...)
	for _, d := range r.Downloads {
		if len(d.Files) == 0 || d.Checksums == "" {
			bad("download %s needs files and checksums", d.URL)
		}
		for name, p := range d.Files {
			if !slices.Contains(r.Binaries, name) {
				bad("download %s: %s is none of the binaries", d.URL, name)
			}
			if !d.archive() && p != path.Base(d.URL) {
				bad("download %s is no .tar.gz, and has no %s in it", d.URL, p)
			}
		}
	}
	return append(found, r.buildProblems(modules)...)
}

// problems finds what is wrong with a runtime; binaries are the release's.
func (r Runtime) problems(binaries []string) (found []string) {
	side := func(runtime string) string {
		if runtime == RuntimeOS || runtime == RuntimeBundled {
			return runtime
		}
		if !slices.Contains(binaries, runtime) {
			found = append(found, fmt.Sprintf("runtime %q is neither %q nor %q nor one of the binaries", runtime, RuntimeOS, RuntimeBundled))
		}
		return "release"
	}
	for _, p := range r.Plugins {
		if !slices.Contains(binaries, p) {
			found = append(found, fmt.Sprintf("plugin %q is none of the binaries", p))
		}
	}
	if side(r.Containerd) != side(r.Runc) {
		found = append(found, "containerd and runc come from two sides: the OS's containerd brings the OS's runc")
	}
	return found
}

// commands are what the recipe's modules build.
func (r recipe) commands() map[string]bool {
	commands := map[string]bool{}
	for _, m := range r.Modules {
		for c := range m.Commands {
			commands[c] = true
		}
	}
	return commands
}

// buildProblems finds what is wrong with what is to be built.
func (r recipe) buildProblems(modules fs.FS) (found []string) {
	bad := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
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
