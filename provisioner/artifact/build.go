package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// build makes a whole release from its recipe.
func (s *Store) build(ctx context.Context, wanted Request, work string, force bool) (entry, error) {
	r, found := s.recipe(wanted.Distro, wanted.Version)
	if !found || r.Version != wanted.Version {
		return entry{}, s.notBuilt(wanted)
	}
	g, err := findGo(ctx)
	if err != nil {
		return entry{}, err
	}
	fingerprint, err := r.fingerprint(s.modules, g.version, s.arch)
	if err != nil {
		return entry{}, err
	}
	images, err := s.buildImages(ctx, g, r, work, force)
	if err != nil {
		return entry{}, err
	}
	release := Release{Distro: wanted.Distro, Version: wanted.Version, Arch: s.arch, Provenance: ProvenanceBuilt, Source: SourceBuild, Runtime: r.Runtime}
	// The archive is written before the binaries are moved away from under it.
	archive, err := s.archive(ctx, images, work, SourceBuild)
	if err != nil {
		return entry{}, err
	}
	for _, name := range r.Binaries {
		b, err := s.cache.adopt(ctx, filepath.Join(work, "commands", name), 0o755)
		if err != nil {
			return entry{}, err
		}
		release.Files = append(release.Files, File{Name: name, Kind: r.Runtime.kind(name), SHA256: b.SHA256, Size: b.Size, Source: SourceBuild})
	}
	release.Files = append(release.Files, archive)
	return entry{Release: release, Fingerprint: fingerprint, Go: g.version}, nil
}

// buildImages builds the recipe's commands into work/commands and assembles
// its images, whose layers are read from work until they are written out.
func (s *Store) buildImages(ctx context.Context, g goCommand, r recipe, work string, force bool) (map[string]v1.Image, error) {
	commands := filepath.Join(work, "commands")
	if err := os.MkdirAll(commands, 0o755); err != nil {
		return nil, err
	}
	// Modules one after another, since a build uses every CPU by itself; bases
	// beside them, since they mostly wait.
	bottoms := map[string]v1.Layer{}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, m := range r.Modules {
			names, _ := sortedPairs(m.Commands)
			done := s.progress.Step("build %s from Go module %s", strings.Join(names, ", "), m.Name)
			err := g.build(ctx, s.modules, m, s.arch, work, commands)
			done(err)
			if err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		for _, b := range r.Bases {
			layer, err := s.base(ctx, b, force)
			if err != nil {
				return err
			}
			bottoms[b.Name] = layer
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	skeleton, err := skeletonLayer()
	if err != nil {
		return nil, err
	}
	bottoms[""] = skeleton
	images := map[string]v1.Image{}
	for _, i := range r.Images {
		image, err := assemble(i, bottoms[i.Base], func(c string) string { return filepath.Join(commands, c) }, s.arch)
		if err != nil {
			return nil, err
		}
		images[i.Name] = image
	}
	return images, nil
}

// archive writes images into one file in the cache.
func (s *Store) archive(ctx context.Context, images map[string]v1.Image, work, source string) (f File, err error) {
	done := s.progress.Step("write %d container images", len(images))
	defer func() { done(err) }()
	p := filepath.Join(work, ImagesName)
	out, err := os.Create(p)
	if err != nil {
		return File{}, fmt.Errorf("write image archive: %w", err)
	}
	err = writeArchive(contextWriter{ctx, out}, images)
	if err = errors.Join(err, out.Close()); err != nil {
		return File{}, err
	}
	f = File{Name: ImagesName, Kind: KindImages, Source: source}
	for n, image := range images {
		digest, err := image.Digest()
		if err != nil {
			return File{}, fmt.Errorf("digest of image %s: %w", n, err)
		}
		f.Images = append(f.Images, Image{Name: n, Digest: digest.String()})
	}
	sort.Slice(f.Images, func(i, j int) bool { return f.Images[i].Name < f.Images[j].Name })
	b, err := s.cache.adopt(ctx, p, 0o644)
	if err != nil {
		return File{}, err
	}
	f.SHA256, f.Size = b.SHA256, b.Size
	return f, nil
}

// base has a base's layer in the cache and verified. It is made once per
// recipe of it: its packages are as new as that.
func (s *Store) base(ctx context.Context, b baseRecipe, force bool) (v1.Layer, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %q", builderVersion, s.arch, b.Suite, b.Packages))
	key := fmt.Sprintf("bases/%s-%s", b.Name, hex.EncodeToString(sum[:6]))
	unlock, err := s.cache.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var have blob
	err = s.cache.load(key, &have)
	if err == nil && !force {
		err = s.cache.verify(ctx, "base "+b.Name, have, "make it anew with \"lxcmatrix artifacts build --force\"")
	}
	if force || errors.Is(err, fs.ErrNotExist) {
		have, err = s.makeBase(ctx, key, b)
	}
	if err != nil {
		return nil, err
	}
	return fileLayer(s.cache.path(have))
}

func (s *Store) makeBase(ctx context.Context, key string, b baseRecipe) (made blob, err error) {
	done := s.progress.Step("make base layer %s from Debian %s", b.Name, b.Suite)
	defer func() { done(err) }()
	work, remove, err := s.cache.workDir(key)
	if err != nil {
		return blob{}, err
	}
	defer remove()
	p := filepath.Join(work, "layer.tar")
	if err := buildBase(ctx, b, work, p); err != nil {
		return blob{}, err
	}
	if made, err = s.cache.adopt(ctx, p, 0o644); err != nil {
		return blob{}, err
	}
	return made, s.cache.store(key, made)
}
