package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	containers "github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// releaseURL is where Kubernetes' own binaries lie.
const releaseURL = "https://dl.k8s.io/release"

// distroKubeadm is the one distribution whose release layout is known here.
const distroKubeadm = "kubeadm"

// binaryURL is where a binary of Kubernetes lies, and where its checksum.
func (s *Store) binaryURL(version, name string) (address, sums string) {
	address = fmt.Sprintf("%s/v%s/bin/linux/%s/%s", releaseURL, version, s.arch, name)
	return address, address + ".sha256"
}

// remote finds mirror or upstream.
func (s *Store) remote(source, distro string) (*remote, error) {
	r, ok := s.remotes[source]
	if !ok {
		return nil, fmt.Errorf("no %s is configured", source)
	}
	if distro != distroKubeadm {
		return nil, fmt.Errorf("the layout of %s releases is not known", distro)
	}
	return r, nil
}

// pull gets a release from mirror or upstream, and builds our own images for
// it.
func (s *Store) pull(ctx context.Context, source string, wanted Request, work string) (entry, error) {
	distro, version := wanted.Distro, wanted.Version
	from, err := s.remote(source, distro)
	if err != nil {
		return entry{}, err
	}
	r, _ := s.recipe(distro, version)
	if r.Distro == "" {
		return entry{}, fmt.Errorf("no recipe for %s", distro)
	}
	release := Release{Distro: distro, Version: version, Arch: s.arch, Provenance: ProvenanceRelease, Source: source, Runtime: r.Runtime}
	if release.Files, err = s.pullBinaries(ctx, from, r, version, work); err != nil {
		return entry{}, err
	}
	names := r.imageNames(false)
	if r.Version != version {
		if names, err = s.askKubeadm(ctx, release, version); err != nil {
			return entry{}, err
		}
	}
	g, err := findGo(ctx)
	if err != nil {
		return entry{}, fmt.Errorf("build our own images: %w", err)
	}
	own := r.only(true)
	images, err := s.buildImages(ctx, g, own, work, false)
	if err != nil {
		return entry{}, err
	}
	fingerprint, err := own.fingerprint(s.modules, g.version, s.arch)
	if err != nil {
		return entry{}, err
	}
	for _, n := range names {
		if images[n], err = s.pullImage(ctx, from, n); err != nil {
			return entry{}, err
		}
	}
	archive, err := s.archive(ctx, images, work, source)
	if err != nil {
		return entry{}, err
	}
	release.Files = append(release.Files, archive)
	return entry{Release: release, Fingerprint: fingerprint, Go: g.version}, nil
}

// pullBinaries downloads Kubernetes' binaries of a version, and those that its
// recipe has from elsewhere.
func (s *Store) pullBinaries(ctx context.Context, from *remote, r recipe, version, work string) ([]File, error) {
	fetch := func(address, sums string) (target string, err error) {
		name := path.Base(address)
		done := s.progress.Step("download %s for %s %s from %s", name, r.Distro, version, from.name)
		defer func() { done(err) }()
		target = filepath.Join(work, name)
		return target, from.download(ctx, address, sums, target)
	}
	var files []File
	keep := func(name, file string) error {
		b, err := s.cache.adopt(ctx, file, 0o755)
		if err == nil {
			files = append(files, File{Name: name, Kind: KindBinary, SHA256: b.SHA256, Size: b.Size, Source: from.name})
		}
		return err
	}
	for _, name := range r.kubernetes() {
		file, err := fetch(s.binaryURL(version, name))
		if err == nil {
			err = keep(name, file)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, d := range r.Downloads {
		d = d.on(s.arch)
		file, err := fetch(d.URL, d.Checksums)
		if err != nil {
			return nil, err
		}
		names, members := sortedPairs(d.Files)
		unpacked := []string{file}
		if d.archive() {
			if unpacked, err = unpack(ctx, file, members, work); err != nil {
				return nil, err
			}
		}
		for i, name := range names {
			if err := keep(name, unpacked[i]); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// unpack takes members out of a .tar.gz and says where in dir each lies now.
func unpack(ctx context.Context, archive string, members []string, dir string) ([]string, error) {
	in, err := os.Open(archive)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer func() { _ = in.Close() }()
	failed := func(err error) ([]string, error) {
		return nil, fmt.Errorf("unpack %s: %w", filepath.Base(archive), err)
	}
	unzipped, err := gzip.NewReader(contextReader{ctx, in})
	if err != nil {
		return failed(err)
	}
	files := make([]string, len(members))
	for reader := tar.NewReader(unzipped); slices.Contains(files, ""); {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return failed(fmt.Errorf("no %s in it", members[slices.Index(files, "")]))
		}
		if err != nil {
			return failed(err)
		}
		i := slices.Index(members, path.Clean(h.Name))
		if i < 0 || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > largestFile {
			return failed(fmt.Errorf("%s has %d bytes, more than any file of a release", h.Name, h.Size))
		}
		files[i] = filepath.Join(dir, fmt.Sprintf("%s.%d", filepath.Base(archive), i))
		out, err := os.Create(files[i])
		if err != nil {
			return failed(err)
		}
		_, err = io.CopyN(out, reader, h.Size)
		if err = errors.Join(err, out.Close()); err != nil {
			return failed(err)
		}
	}
	return files, nil
}

// pullImage finds an image for this platform; its layers are fetched, and
// checked against their digests, when it is written out.
func (s *Store) pullImage(ctx context.Context, from *remote, n string) (v1.Image, error) {
	tag, err := name.NewTag(n)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", n, err)
	}
	image, err := containers.Image(tag, containers.WithContext(ctx), containers.WithTransport(from.transport),
		containers.WithPlatform(v1.Platform{OS: "linux", Architecture: s.arch}))
	if err != nil {
		return nil, fmt.Errorf("find image %s: %w", n, err)
	}
	return image, nil
}

// askKubeadm asks the release's own kubeadm which images it wants: the one
// authority for a version that no recipe names.
func (s *Store) askKubeadm(ctx context.Context, release Release, version string) ([]string, error) {
	kubeadm, ok := s.located(release).File("kubeadm")
	if !ok {
		return nil, errors.New("ask kubeadm for its images: the release has no kubeadm")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubeadm.Path, "config", "images", "list", "--kubernetes-version", "v"+version)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	stopAsOne(cmd)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ask kubeadm %s for its images: %w: %s", version, err, tail(said.String(), 500))
	}
	names := strings.Fields(string(out))
	if len(names) == 0 {
		return nil, fmt.Errorf("ask kubeadm %s for its images: it named none", version)
	}
	slices.Sort(names)
	return names, nil
}

// Resolve turns a version as a matrix declares it, a minor ("1.34") or exact
// ("1.34.4"), into the exact one and the inputs that cells are made of. A minor
// becomes what the first of the sources has that answers: a mirror's or
// upstream's newest, or what is built. Inputs have a digest where the bytes
// exist somewhere already. Where no source has the version, the error is a
// *provisioner.UnavailableError.
func (s *Store) Resolve(ctx context.Context, wanted Request) (exact string, inputs []matrix.Input, err error) {
	distro, version := wanted.Distro, strings.TrimPrefix(wanted.Version, "v")
	unavailable := &provisioner.UnavailableError{What: distro + " " + version}
	exact = version
	if strings.Count(version, ".") == 1 {
		if exact, err = s.newest(ctx, distro, version, unavailable); err != nil {
			return "", nil, err
		}
	} else if _, err := semver.StrictNewVersion(version); err != nil {
		return "", nil, fmt.Errorf("resolve %s %s: %w", distro, version, err)
	}
	unavailable.Tried = nil
	for _, source := range s.sources {
		inputs, err := s.inputs(ctx, source, distro, exact)
		if err == nil {
			return exact, inputs, nil
		}
		if ctx.Err() != nil {
			return "", nil, fmt.Errorf("resolve %s %s: %w", distro, version, context.Cause(ctx))
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
	}
	return "", nil, unavailable
}

// newest is the version of a minor that the first source has that answers.
// The cache comes last: what it has is what once was newest.
func (s *Store) newest(ctx context.Context, distro, minor string, unavailable *provisioner.UnavailableError) (string, error) {
	order := slices.DeleteFunc(slices.Clone(s.sources), func(x string) bool { return x == SourceCache })
	if len(order) < len(s.sources) {
		order = append(order, SourceCache)
	}
	for _, source := range order {
		version, err := s.newestFrom(ctx, source, distro, minor)
		if err == nil {
			return version, nil
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("resolve %s %s: %w", distro, minor, context.Cause(ctx))
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
	}
	return "", unavailable
}

func (s *Store) newestFrom(ctx context.Context, source, distro, minor string) (string, error) {
	switch source {
	case SourceCache:
		releases, err := s.List()
		if err != nil {
			return "", err
		}
		var versions []string
		for _, r := range releases {
			if r.Distro == distro && slices.Contains(s.sources, r.Source) {
				versions = append(versions, r.Version)
			}
		}
		return newestOf(versions, minor)
	case SourceBuild:
		r, found := s.recipe(distro, minor)
		if !found || r.Minor != minor {
			return "", fmt.Errorf("no recipe to build %s %s", distro, minor)
		}
		return r.Version, nil
	}
	from, err := s.remote(source, distro)
	if err != nil {
		return "", err
	}
	text, err := from.text(ctx, releaseURL+"/stable-"+minor+".txt")
	if err != nil {
		if from.newest == nil {
			return "", err
		}
		return newestOf(from.newest(minor), minor)
	}
	return newestOf([]string{strings.TrimPrefix(text, "v")}, minor)
}

// newestOf is the newest final version of a minor.
func newestOf(versions []string, minor string) (string, error) {
	var newest *semver.Version
	for _, text := range versions {
		v, err := semver.StrictNewVersion(text)
		if err != nil || v.Prerelease() != "" || fmt.Sprintf("%d.%d", v.Major(), v.Minor()) != minor {
			continue
		}
		if newest == nil || v.GreaterThan(newest) {
			newest = v
		}
	}
	if newest == nil {
		return "", fmt.Errorf("has no version of %s", minor)
	}
	return newest.String(), nil
}

// inputs says what a source would give of a release.
func (s *Store) inputs(ctx context.Context, source, distro, version string) ([]matrix.Input, error) {
	input := func(name, digest, source, provenance string) matrix.Input {
		return matrix.Input{Kind: "artifact", Name: distro + "/" + name, Version: version, Digest: digest, Source: source, Provenance: provenance}
	}
	r, found := s.recipe(distro, version)
	var inputs []matrix.Input
	switch source {
	case SourceCache:
		release, err := s.cached(ctx, Request{Distro: distro, Version: version}, s.sources)
		if err != nil {
			return nil, err
		}
		for _, f := range release.Files {
			inputs = append(inputs, input(f.Name, f.SHA256, SourceCache, release.Provenance))
		}
	case SourceBuild:
		if !found || r.Version != version {
			return nil, fmt.Errorf("no recipe to build %s %s", distro, version)
		}
		if _, err := findGo(ctx); err != nil {
			return nil, err
		}
		for _, name := range append(slices.Clone(r.Binaries), ImagesName) {
			inputs = append(inputs, input(name, "", SourceBuild, ProvenanceBuilt))
		}
	default:
		from, err := s.remote(source, distro)
		if err != nil {
			return nil, err
		}
		add := func(address, sums string) error {
			sum, err := from.checksum(ctx, address, sums)
			inputs = append(inputs, input(path.Base(address), sum, source, ProvenanceRelease))
			return err
		}
		for _, name := range r.kubernetes() {
			if err := add(s.binaryURL(version, name)); err != nil {
				return nil, err
			}
		}
		for _, d := range r.Downloads {
			d = d.on(s.arch)
			if err := add(d.URL, d.Checksums); err != nil {
				return nil, err
			}
		}
		inputs = append(inputs, input(ImagesName, "", source, ProvenanceRelease))
	}
	return inputs, nil
}
