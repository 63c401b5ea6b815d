package artifact

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// upstream is one upstreams/DISTRO.yaml: where a distribution's releases lie,
// how its newest versions are found, and which files a release has. In URLs and
// names {version}, {minor}, {arch}, {part} and {file} stand for what they say.
type upstream struct {
	Distro string `yaml:"distro"`
	// Suffix is what the build metadata of its versions is made of, before a
	// number: k3s, of 1.34.2+k3s1. Empty where versions have none.
	Suffix string `yaml:"suffix,omitempty"`
	// Folder is the URL that a release's files lie under.
	Folder string `yaml:"folder"`
	// Checksums is the file there that has a file's SHA-256.
	Checksums string `yaml:"checksums"`
	// Channels is the URL of the channel server's document; Newest is that of a
	// text that is a minor's newest version. It has one of them.
	Channels string `yaml:"channels,omitempty"`
	Newest   string `yaml:"newest,omitempty"`
	// Files are those of every release. One with {part} in its name is there for
	// each of Parts, of which the first is wanted where nobody says.
	Files []upstreamFile `yaml:"files"`
	Parts []string       `yaml:"parts,omitempty"`
	// Partless are names, such as variants, for whose sake no part is wanted.
	Partless []string `yaml:"partless,omitempty"`
	// Images is a command, of Files, that lists the images of a release; empty
	// where there are none that lie elsewhere.
	Images []string `yaml:"images,omitempty"`
	// Runtime is that of releases that no recipe says more of.
	Runtime Runtime `yaml:"runtime,omitempty"`
}

// upstreamFile is a file of a release.
type upstreamFile struct {
	// Name is what it is called on a node, and upstream too, unless Renamed says
	// otherwise for an architecture.
	Name    string            `yaml:"name"`
	Kind    string            `yaml:"kind"`
	Renamed map[string]string `yaml:"renamed,omitempty"`
}

// download is a file that a release's files come from, for one platform.
type download struct {
	// URL is upstream's, percent-encoded; Checksums is that of a text in which its
	// SHA-256 stands before its name.
	URL, Checksums string
	// Kind is that of the files in it.
	Kind string
	// Names are what comes from it: itself, or Members of an Archive.
	Names, Members []string
	Archive        bool
}

// name is the file's own.
func (d download) name() string { return path.Base(d.URL) }

const part = "{part}"

func (u upstream) problems() (found []string) {
	bad := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if u.Distro == "" || len(u.Files) == 0 || u.Checksums == "" {
		bad("it needs distro, files and checksums")
	}
	if !strings.Contains(u.Folder, "/v{version}") {
		bad("folder %q has no /v{version} in it", u.Folder)
	}
	if (u.Channels == "") == (u.Newest == "") {
		bad("it needs one of channels and newest")
	}
	var binaries []string
	parted := false
	for _, f := range u.Files {
		switch f.Kind {
		case KindBinary:
			binaries = append(binaries, f.Name)
		case KindAirgap, KindBundle:
		default:
			bad("file %s: %q is no kind of file that upstream has", f.Name, f.Kind)
		}
		parted = parted || strings.Contains(f.Name, part)
	}
	if parted != (len(u.Parts) > 0) {
		bad("parts and a file with %s in its name go together", part)
	}
	if u.Runtime.Containerd != "" {
		found = append(found, u.Runtime.problems(binaries)...)
	}
	if len(u.Images) > 0 && !slices.Contains(binaries, u.Images[0]) {
		bad("images: %s is none of the binaries", u.Images[0])
	}
	return found
}

// downloads are the files of a release. wanted is as normal made it.
func (u upstream) downloads(wanted Request, arch string) []download {
	folder := u.expand(u.Folder, wanted.Version, arch)
	var all []download
	for _, f := range u.Files {
		parts := []string{""}
		if strings.Contains(f.Name, part) {
			parts = slices.DeleteFunc(slices.Clone(wanted.Parts), func(p string) bool { return p == PartNone })
		}
		for _, p := range parts {
			name := strings.ReplaceAll(u.expand(f.Name, wanted.Version, arch), part, p)
			file := name
			if renamed, ok := f.Renamed[arch]; ok {
				file = renamed
			}
			sums := strings.ReplaceAll(u.expand(u.Checksums, wanted.Version, arch), "{file}", file)
			all = append(all, download{URL: folder + "/" + file, Checksums: folder + "/" + sums, Kind: f.Kind, Names: []string{name}})
		}
	}
	return all
}

// has says whether a file of that name is in every release.
func (u upstream) has(name string) bool {
	return slices.ContainsFunc(u.Files, func(f upstreamFile) bool { return f.Name == name })
}

// expand fills in what is known of every file. A version's + is written as
// upstream's URLs have it: where it is not encoded, some servers read a space.
func (u upstream) expand(text, version, arch string) string {
	return strings.NewReplacer("{version}", strings.ReplaceAll(version, "+", "%2B"), "{minor}", matrix.MinorOf(version), "{arch}", arch).Replace(text)
}

// folders is the URL that has a folder, named v and its version, for each
// release.
func (u upstream) folders() string {
	before, _, _ := strings.Cut(u.Folder, "v{version}")
	return strings.TrimSuffix(before, "/")
}

// exact reads an exact version of the distribution's.
func (u upstream) exact(version string) (*semver.Version, error) {
	v, err := semver.StrictNewVersion(version)
	if err != nil {
		return nil, fmt.Errorf("%q is no exact version: %w", version, err)
	}
	if u.Suffix == "" && v.Metadata() != "" || u.Suffix != "" && !regexp.MustCompile("^"+u.Suffix+"[0-9]+$").MatchString(v.Metadata()) {
		example := "1.34.2"
		if u.Suffix != "" {
			example += "+" + u.Suffix + "1"
		}
		return nil, fmt.Errorf("%q is no version of %s, which are written as %s", version, u.Distro, example)
	}
	return v, nil
}

// newer says whether a is newer than b. Semantic versioning gives build
// metadata no order; +k3s2 comes after +k3s1, and +rke2r10 after +rke2r9.
func newer(a, b *semver.Version) bool {
	if c := a.Compare(b); c != 0 {
		return c > 0
	}
	am, bm := a.Metadata(), b.Metadata()
	if len(am) != len(bm) {
		return len(am) > len(bm)
	}
	return am > bm
}
