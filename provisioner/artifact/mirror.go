package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Laid is a file that Lay laid out.
type Laid struct {
	// Release is the one that it is of.
	Release Request
	// Path is where it lies.
	Path string
	// SHA256 is in hex, Size in bytes.
	SHA256 string
	Size   int64
}

// Lay lays all that a release is had from out under dir, as a mirror has it: the
// files that mirror or upstream has, their checksums, its images, and documents
// that name the newest of the versions that lie there. Everything is verified
// and goes through the cache, so that what is there is had no second time; what
// lies there already, and is right, stays. Where no source has all of it, the
// error is a *provisioner.UnavailableError.
func (s *Store) Lay(ctx context.Context, wanted Request, dir string) ([]Laid, error) {
	wanted, err := s.normal(wanted)
	if err != nil {
		return nil, fmt.Errorf("lay out %s: %w", wanted, err)
	}
	asked := wanted.Version
	if wanted.Version, err = s.exact(ctx, wanted); err != nil {
		return nil, err
	}
	unavailable := &provisioner.UnavailableError{What: wanted.String()}
	for _, source := range []string{SourceMirror, SourceUpstream} {
		if !slices.Contains(s.sources, source) {
			continue
		}
		laid, err := s.layFrom(ctx, source, asked, wanted, dir)
		if err == nil {
			return laid, nil
		}
		var checksum *ChecksumError
		if errors.As(err, &checksum) || ctx.Err() != nil {
			return nil, fmt.Errorf("lay out %s: %w", wanted, cmp.Or(context.Cause(ctx), err))
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
	}
	return nil, unavailable
}

func (s *Store) layFrom(ctx context.Context, source, asked string, wanted Request, dir string) ([]Laid, error) {
	from, u, err := s.remote(source, wanted.Distro)
	if err != nil {
		return nil, err
	}
	r, _ := s.recipe(wanted.Distro, wanted.Version)
	key := "laid/" + s.releaseKey(wanted)
	unlock, err := s.cache.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	work, remove, err := s.cache.workDir(key)
	if err != nil {
		return nil, err
	}
	defer remove()
	out := &layout{dir: dir, of: wanted}
	e := entry{Release: Release{Distro: wanted.Distro, Version: wanted.Version}}
	for _, d := range s.downloads(u, r, wanted) {
		// What lies there need not be had again.
		if err := s.cache.seed(ctx, out.path(d.URL)); err != nil {
			return nil, err
		}
		if err := s.pullFile(ctx, from, wanted, d, work, &e); err != nil {
			return nil, err
		}
		sums, err := from.text(ctx, d.Checksums)
		if err != nil {
			return nil, err
		}
		got := e.Origins[len(e.Origins)-1].blob
		if err := errors.Join(out.file(ctx, d.URL, s.cache.path(got), got), out.text(d.Checksums, sums+"\n")); err != nil {
			return nil, err
		}
	}
	names, err := s.imageNames(ctx, u, r, e.Release)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if err := s.layImage(ctx, from, n, out); err != nil {
			return nil, err
		}
	}
	return out.laid, out.newest(u, asked, wanted.Version)
}

// seed takes a file that lies elsewhere on this machine into the cache under
// its SHA-256, whatever it is, where it can be linked.
func (c cache) seed(ctx context.Context, path string) error {
	had, err := hashFile(ctx, path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("read %s: %w", path, err)
	}
	target := c.path(had)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	_ = os.Link(path, target) // A copy would be no cheaper than having it again.
	return nil
}

// layImage lays an image out as registries have it: what is behind its tag, its
// manifest for this platform, its configuration and its layers.
func (s *Store) layImage(ctx context.Context, from *remote, n string, out *layout) (err error) {
	done := s.progress.Step("lay out image %s from %s", n, from.name)
	defer func() { done(err) }()
	tag, found, o, err := s.findImage(ctx, from, n)
	if err != nil {
		return err
	}
	image, err := found.Image()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	s.lock.addFile(o.URL, o.blob)
	raw, err := image.RawManifest()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	configName, err := image.ConfigName()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	blobURL := func(h v1.Hash) string {
		return fmt.Sprintf("https://%s/v2/%s/blobs/%s", tag.RegistryStr(), tag.RepositoryStr(), h)
	}
	err = errors.Join(out.text(o.URL, string(found.Manifest)), out.text(manifestURL(tag.Context(), found.Digest.String()), string(found.Manifest)),
		out.text(manifestURL(tag.Context(), digest.String()), string(raw)), out.text(blobURL(configName), string(config)))
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("find image %s: %w", n, err)
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return fmt.Errorf("find image %s: %w", n, err)
		}
		if err := out.stream(ctx, blobURL(h), h.Hex, l.Compressed); err != nil {
			return fmt.Errorf("lay out image %s: layer %s: %w", n, h, err)
		}
	}
	return nil
}

// layout is a mirror that is being laid out.
type layout struct {
	dir  string
	of   Request
	laid []Laid
}

// path is where it has an upstream URL's file.
func (l *layout) path(address string) string {
	return filepath.Join(l.dir, filepath.FromSlash(mirrored(address)))
}

// add notes what lies there now.
func (l *layout) add(path string, b blob) {
	l.laid = append(l.laid, Laid{Release: l.of, Path: path, SHA256: b.SHA256, Size: b.Size})
}

// file lays out a file of this machine: a link to it where that can be, which
// takes no room, else a copy.
func (l *layout) file(ctx context.Context, address, from string, b blob) error {
	path := l.path(address)
	err := l.put(ctx, path, b.SHA256, func(temporary string) error {
		if os.Link(from, temporary) == nil {
			return nil
		}
		out, err := os.Create(temporary)
		if err != nil {
			return err
		}
		return errors.Join(copyFile(out, from), out.Sync(), out.Close())
	})
	l.add(path, b)
	return err
}

// stream lays out what open reads, if its SHA-256 is sum.
func (l *layout) stream(ctx context.Context, address, sum string, open func() (io.ReadCloser, error)) error {
	path := l.path(address)
	err := l.put(ctx, path, sum, func(temporary string) error {
		in, err := open()
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		out, err := os.Create(temporary)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, contextReader{ctx, in})
		return errors.Join(err, out.Sync(), out.Close())
	})
	if err != nil {
		return err
	}
	got, err := hashFile(ctx, path)
	l.add(path, got)
	return err
}

// put makes path from what write writes, unless it is there with the SHA-256 sum.
func (l *layout) put(ctx context.Context, path, sum string, write func(temporary string) error) error {
	if had, err := hashFile(ctx, path); err == nil && had.SHA256 == sum {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("lay out %s: %w", path, err)
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	defer func() { _ = os.Remove(temporary) }()
	_ = os.Remove(temporary) // Of one that was killed.
	err := write(temporary)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return fmt.Errorf("lay out %s: %w", path, err)
	}
	return nil
}

// text lays out a small file.
func (l *layout) text(address, content string) error {
	path := l.path(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("lay out %s: %w", path, err)
	}
	if err := replaceFile(path, []byte(content)); err != nil {
		return fmt.Errorf("lay out %s: %w", path, err)
	}
	return nil
}

// newest lays out the document that names a distribution's newest versions, of
// those that lie in the mirror: where nothing can be listed, as on a server,
// nothing else could tell. A channel is in it if it was asked for.
func (l *layout) newest(u upstream, asked, version string) error {
	present, err := folderMirror(l.dir).list(u.folders())
	if err != nil {
		return fmt.Errorf("list %s: %w", l.path(u.folders()), err)
	}
	minors := map[string]*semver.Version{}
	for _, text := range present {
		if v, err := u.exact(text); err == nil && v.Prerelease() == "" {
			if m := matrix.MinorOf(text); minors[m] == nil || newer(v, minors[m]) {
				minors[m] = v
			}
		}
	}
	if u.Newest != "" {
		for m, v := range minors {
			if err := l.text(strings.ReplaceAll(u.Newest, "{minor}", m), "v"+v.String()+"\n"); err != nil {
				return err
			}
		}
		return nil
	}
	latest := map[string]string{}
	var before channelDocument
	if text, err := os.ReadFile(l.path(u.Channels)); err == nil && json.Unmarshal(text, &before) == nil {
		for _, c := range before.Data {
			if slices.Contains(present, strings.TrimPrefix(c.Latest, "v")) {
				latest[cmp.Or(c.Name, c.ID)] = c.Latest
			}
		}
	}
	for m, v := range minors {
		latest["v"+m] = "v" + v.String()
	}
	if !isMinor(asked) {
		latest[asked] = "v" + version
	}
	document := channelDocument{Type: "collection"}
	for _, name := range slices.Sorted(maps.Keys(latest)) {
		document.Data = append(document.Data, channel{ID: name, Name: name, Latest: latest[name]})
	}
	text, err := jsonBytes(document)
	if err != nil {
		return err
	}
	return l.text(u.Channels, string(text))
}
