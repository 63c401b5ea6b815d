package artifact

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// streamLayer is an uncompressed layer that is written anew each time it is
// read, so that neither memory nor disk holds a copy. Compressing it would
// cost more than it saves: it travels no further than into a node.
type streamLayer struct {
	write func(io.Writer) error
	hash  v1.Hash
	size  int64
}

// newStreamLayer hashes what write writes; write must be deterministic.
func newStreamLayer(write func(io.Writer) error) (*streamLayer, error) {
	h := sha256.New()
	count := &countingWriter{to: h}
	if err := write(count); err != nil {
		return nil, err
	}
	return &streamLayer{write, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, count.n}, nil
}

func (l *streamLayer) Digest() (v1.Hash, error)            { return l.hash, nil }
func (l *streamLayer) DiffID() (v1.Hash, error)            { return l.hash, nil }
func (l *streamLayer) Size() (int64, error)                { return l.size, nil }
func (l *streamLayer) MediaType() (types.MediaType, error) { return types.DockerUncompressedLayer, nil }
func (l *streamLayer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(l.write(w)) }()
	return r, nil
}
func (l *streamLayer) Compressed() (io.ReadCloser, error) { return l.Uncompressed() }

type countingWriter struct {
	to io.Writer
	n  int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}

// fileLayer is a tarball on disk as a layer.
func fileLayer(p string) (*streamLayer, error) {
	return newStreamLayer(func(w io.Writer) error { return copyFile(w, p) })
}

func copyFile(w io.Writer, p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

// skeletonLayer is what an image without a base needs beside its program:
// users by name, a place for temporary files.
func skeletonLayer() (*streamLayer, error) {
	return newStreamLayer(func(w io.Writer) error {
		t := tar.NewWriter(w)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
			{Typeflag: tar.TypeDir, Name: "root/", Mode: 0o700},
			{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		} {
			h.ModTime = epoch
			if err := t.WriteHeader(&h); err != nil {
				return err
			}
		}
		for _, f := range []struct{ name, content string }{
			{"etc/group", "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n"},
			{"etc/nsswitch.conf", "hosts: files dns\n"},
			{"etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin\n"},
		} {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content)), ModTime: epoch}); err != nil {
				return err
			}
			if _, err := io.WriteString(t, f.content); err != nil {
				return err
			}
		}
		return t.Close()
	})
}

// programsLayer puts programs, by their path in the image, into a layer.
func programsLayer(programs map[string]string) (*streamLayer, error) {
	return newStreamLayer(func(w io.Writer) error {
		t := tar.NewWriter(w)
		targets, sources := sortedPairs(programs)
		made := map[string]bool{}
		for i, target := range targets {
			for _, dir := range parents(target) {
				if made[dir] {
					continue
				}
				made[dir] = true
				if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch}); err != nil {
					return err
				}
			}
			info, err := os.Stat(sources[i])
			if err != nil {
				return err
			}
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: target[1:], Mode: 0o755, Size: info.Size(), ModTime: epoch}); err != nil {
				return err
			}
			if err := copyFile(t, sources[i]); err != nil {
				return err
			}
		}
		return t.Close()
	})
}

// parents lists the folders above an absolute path, outermost first, without
// the leading slash.
func parents(p string) (dirs []string) {
	for d := path.Dir(p); d != "/"; d = path.Dir(d) {
		dirs = append([]string{d[1:]}, dirs...)
	}
	return dirs
}

// assemble makes an image of a recipe from built commands and a base layer.
func assemble(r imageRecipe, bottom v1.Layer, commands func(string) string, arch string) (v1.Image, error) {
	programs := map[string]string{}
	for target, command := range r.Files {
		programs[target] = commands(command)
	}
	top, err := programsLayer(programs)
	if err != nil {
		return nil, fmt.Errorf("assemble image %s: %w", r.Name, err)
	}
	image, err := mutate.AppendLayers(empty.Image, bottom, top)
	if err != nil {
		return nil, fmt.Errorf("assemble image %s: %w", r.Name, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble image %s: %w", r.Name, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: r.Entrypoint,
		Cmd:        r.Command,
		WorkingDir: "/",
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels:     map[string]string{"dev.lxcmatrix.provenance": "built"},
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, fmt.Errorf("assemble image %s: %w", r.Name, err)
	}
	return image, nil
}

// writeArchive writes images into one docker-archive, layers that they share
// once. The order is fixed, which the library's own writer's is not.
func writeArchive(w io.Writer, images map[string]v1.Image) error {
	references := map[name.Reference]v1.Image{}
	for n, image := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			return fmt.Errorf("image name %q: %w", n, err)
		}
		references[tag] = image
	}
	manifest, err := tarball.ComputeManifest(references)
	if err != nil {
		return fmt.Errorf("compute manifest of image archive: %w", err)
	}
	sort.Slice(manifest, func(i, j int) bool { return manifest[i].RepoTags[0] < manifest[j].RepoTags[0] })
	t := tar.NewWriter(w)
	written := map[string]bool{}
	put := func(name string, size int64, open func() (io.ReadCloser, error)) error {
		if written[name] {
			return nil
		}
		written[name] = true
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: epoch}); err != nil {
			return err
		}
		content, err := open()
		if err != nil {
			return err
		}
		_, err = io.Copy(t, content)
		return errors.Join(err, content.Close())
	}
	text, err := jsonBytes(manifest)
	if err != nil {
		return err
	}
	if err := put("manifest.json", int64(len(text)), inMemory(text)); err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	for _, m := range manifest {
		image := images[m.RepoTags[0]]
		if err := putImage(put, m, image); err != nil {
			return fmt.Errorf("write image %s: %w", m.RepoTags[0], err)
		}
	}
	return t.Close()
}

func inMemory(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

func putImage(put func(string, int64, func() (io.ReadCloser, error)) error, m tarball.Descriptor, image v1.Image) error {
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	if err := put(m.Config, int64(len(config)), inMemory(config)); err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		size, err := l.Size()
		if err != nil {
			return err
		}
		if err := put(m.Layers[i], size, l.Compressed); err != nil {
			return fmt.Errorf("layer %s: %w", m.Layers[i], err)
		}
	}
	return nil
}
