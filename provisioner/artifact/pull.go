package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	containers "github.com/google/go-containerregistry/pkg/v1/remote"
)

// remote finds mirror or upstream, and what is known of a distribution there.
func (s *Store) remote(source, distro string) (*remote, upstream, error) {
	r, ok := s.remotes[source]
	if !ok {
		return nil, upstream{}, fmt.Errorf("no %s is configured", source)
	}
	u, known := s.upstreams[distro]
	if !known {
		return nil, upstream{}, fmt.Errorf("where releases of %s lie is not known", distro)
	}
	return r, u, nil
}

// downloads are the files that a release is had from.
func (s *Store) downloads(u upstream, r recipe, wanted Request) []download {
	all := u.downloads(wanted, s.arch)
	for _, d := range r.Downloads {
		all = append(all, d.on(s.arch))
	}
	return all
}

// pull gets a release from mirror or upstream, and builds our own images for
// it.
func (s *Store) pull(ctx context.Context, source string, wanted Request, work string) (entry, error) {
	from, u, err := s.remote(source, wanted.Distro)
	if err != nil {
		return entry{}, err
	}
	r, _ := s.recipe(wanted.Distro, wanted.Version)
	e := entry{Release: Release{Distro: wanted.Distro, Version: wanted.Version, Parts: wanted.Parts, Arch: s.arch,
		Provenance: ProvenanceRelease, Source: source, Runtime: r.Runtime}}
	for _, d := range s.downloads(u, r, wanted) {
		if err := s.pullFile(ctx, from, wanted, d, work, &e); err != nil {
			return entry{}, err
		}
	}
	names, err := s.imageNames(ctx, u, r, e.Release)
	if err != nil {
		return entry{}, err
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
	if e.Fingerprint, err = own.fingerprint(s.modules, g.version, s.arch); err != nil {
		return entry{}, err
	}
	e.Go = g.version
	for _, n := range names {
		var o origin
		if images[n], o, err = s.pullImage(ctx, from, n); err != nil {
			return entry{}, err
		}
		e.Origins = append(e.Origins, o)
	}
	archive, err := s.archive(ctx, images, work, source)
	if err != nil {
		return entry{}, err
	}
	e.Files = append(e.Files, archive)
	return e, nil
}

// pullFile gets one file of a release, and takes what is wanted out of it.
func (s *Store) pullFile(ctx context.Context, from *remote, wanted Request, d download, work string, e *entry) error {
	got, err := s.fetch(ctx, from, wanted, d)
	if err != nil {
		return err
	}
	e.Origins = append(e.Origins, origin{d.URL, got})
	keep := func(name string, b blob) {
		kind := d.Kind
		if kind == KindBinary {
			kind = e.Runtime.kind(name)
		}
		e.Files = append(e.Files, File{Name: name, Kind: kind, SHA256: b.SHA256, Size: b.Size, Source: from.name})
	}
	if !d.Archive {
		keep(d.Names[0], got)
		if d.Kind == KindAirgap {
			// What an add-on needs and is not there could only come from the network.
			e.Files[len(e.Files)-1].Images, err = archivedImages(ctx, s.cache.path(got))
		}
		return err
	}
	unpacked, err := unpack(ctx, s.cache.path(got), d.name(), d.Members, work)
	if err != nil {
		return err
	}
	for i, name := range d.Names {
		b, err := s.cache.adopt(ctx, unpacked[i], 0o755)
		if err != nil {
			return err
		}
		keep(name, b)
	}
	return nil
}

// fetch has a file that lies elsewhere in the cache, whole and verified: from
// there, or downloaded. Processes that want the same file get it once.
func (s *Store) fetch(ctx context.Context, from *remote, wanted Request, d download) (got blob, err error) {
	sum, err := s.checksum(ctx, from, d)
	if err != nil {
		return blob{}, err
	}
	unlock, err := s.cache.lock(ctx, "files/"+sum)
	if err != nil {
		return blob{}, err
	}
	defer unlock()
	defer func() {
		if err == nil {
			s.lock.addFile(d.URL, got)
		}
	}()
	target := s.cache.path(blob{SHA256: sum})
	if have, err := hashFile(ctx, target); err == nil && have.SHA256 == sum {
		return have, nil
	}
	done := s.progress.Step("download %s for %s from %s", d.name(), wanted, from.name)
	defer func() { done(err) }()
	part := s.cache.part(sum)
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return blob{}, fmt.Errorf("download %s: %w", d.name(), err)
	}
	size, err := from.download(ctx, d.URL, sum, part)
	var wrong *ChecksumError
	if errors.As(err, &wrong) {
		wrong.Remedy = "as " + from.at(d.Checksums) + " says: get both anew"
	}
	if err != nil {
		return blob{}, err
	}
	defer func() { _ = os.Remove(part + partOriginSuffix) }()
	mode := fs.FileMode(0o644)
	if d.Kind == KindBinary {
		mode = 0o755
	}
	if err := s.cache.move(part, target, mode); err != nil {
		return blob{}, fmt.Errorf("put %s into the cache: %w", d.name(), err)
	}
	return blob{sum, size}, nil
}

// checksum is what the release says a file's SHA-256 is, if the lock has no other.
func (s *Store) checksum(ctx context.Context, from *remote, d download) (string, error) {
	sum, err := from.checksum(ctx, d)
	if err != nil {
		return "", err
	}
	return sum, s.lock.allows(d.URL, sum)
}

// unpack takes members out of a .tar.gz, called name, and says where in dir each
// lies now.
func unpack(ctx context.Context, archive, name string, members []string, dir string) ([]string, error) {
	in, err := os.Open(archive)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	defer func() { _ = in.Close() }()
	failed := func(err error) ([]string, error) {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
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
		files[i] = filepath.Join(dir, fmt.Sprintf("%s.%d", name, i))
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

// findImage finds what is behind an image's tag, and where.
func (s *Store) findImage(ctx context.Context, from *remote, n string) (tag name.Tag, found *containers.Descriptor, o origin, err error) {
	if tag, err = name.NewTag(n); err != nil {
		return tag, nil, o, fmt.Errorf("image name %q: %w", n, err)
	}
	found, err = containers.Get(tag, containers.WithContext(ctx), containers.WithTransport(from.transport),
		containers.WithPlatform(v1.Platform{OS: "linux", Architecture: s.arch}))
	if err != nil {
		return tag, nil, o, fmt.Errorf("find image %s: %w", n, err)
	}
	o = origin{manifestURL(tag.Context(), tag.TagStr()), blob{found.Digest.Hex, found.Size}}
	return tag, found, o, s.lock.allows(o.URL, o.SHA256)
}

// pullImage finds an image for this platform, and where from; its layers are
// fetched, and checked against their digests, when it is written out.
func (s *Store) pullImage(ctx context.Context, from *remote, n string) (v1.Image, origin, error) {
	_, found, o, err := s.findImage(ctx, from, n)
	if err != nil {
		return nil, o, err
	}
	image, err := found.Image()
	if err != nil {
		return nil, o, fmt.Errorf("find image %s: %w", n, err)
	}
	s.lock.addFile(o.URL, o.blob)
	return image, o, nil
}

// manifestURL is where a registry has the manifest of a tag or digest.
func manifestURL(repository name.Repository, reference string) string {
	return fmt.Sprintf("https://%s/v2/%s/manifests/%s", repository.RegistryStr(), repository.RepositoryStr(), reference)
}

// imageNames lists the images of a release that lie in registries: as its
// recipe says or, where that is another version's, as the release itself does.
func (s *Store) imageNames(ctx context.Context, u upstream, r recipe, release Release) ([]string, error) {
	if len(u.Images) == 0 || r.Version == release.Version {
		return r.imageNames(false), nil
	}
	return s.askImages(ctx, u, release)
}

// askImages asks a release's own command which images it wants.
func (s *Store) askImages(ctx context.Context, u upstream, release Release) ([]string, error) {
	name := u.Images[0]
	failed := func(err error) ([]string, error) {
		return nil, fmt.Errorf("ask %s %s for its images: %w", name, release.Version, err)
	}
	command, ok := s.located(release).File(name)
	if !ok {
		return failed(errors.New("the release has none"))
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var args []string
	for _, a := range u.Images[1:] {
		args = append(args, strings.ReplaceAll(a, "{version}", release.Version))
	}
	cmd := exec.CommandContext(ctx, command.Path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
	stopAsOne(cmd)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return failed(fmt.Errorf("%w: %s", err, tail(said.String(), 500)))
	}
	names := strings.Fields(string(out))
	if len(names) == 0 {
		return failed(errors.New("it named none"))
	}
	slices.Sort(names)
	return names, nil
}
