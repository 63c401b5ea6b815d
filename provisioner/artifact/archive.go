package artifact

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// The names that the contents of an archive of container images are listed
// under: docker save's, and that of an OCI layout.
const (
	dockerManifest = "manifest.json"
	ociIndex       = "index.json"
)

// archivedImages lists the images in an archive, sorted by name: a
// docker-archive, an OCI layout or both in one, in a tarball that may be packed
// with gzip or zstd. An archive without a list of images is an error.
func archivedImages(ctx context.Context, path string) (_ []Image, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("list the images in %s: %w", path, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	plain, end, err := Unpacked(contextReader{ctx, f})
	if err != nil {
		return nil, err
	}
	defer end()
	var listed []Image
	found := false
	in := tar.NewReader(plain)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		var read func([]byte) ([]Image, error)
		switch strings.TrimPrefix(h.Name, "./") {
		case dockerManifest:
			read = dockerImages
		case ociIndex:
			read = ociImages
		default:
			continue
		}
		content, err := io.ReadAll(io.LimitReader(in, 8<<20))
		if err != nil {
			return nil, err
		}
		images, err := read(content)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", h.Name, err)
		}
		listed, found = append(listed, images...), true
	}
	if !found {
		return nil, fmt.Errorf("it holds neither %s nor %s", dockerManifest, ociIndex)
	}
	slices.SortFunc(listed, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(listed, func(a, b Image) bool { return a.Name == b.Name }), nil
}

// mostUnpacked is more than any archive of images, or any root filesystem, has.
const mostUnpacked = 64 << 30

// bounded reads up to a number of bytes, and fails where there are more.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("it unpacks to more than %d GiB", mostUnpacked>>30)
	}
	return n, err
}

// Unpacked reads what is packed with gzip, xz or zstd, told by its first bytes,
// and anything else as it is; of what unpacks to more than any image has, it
// reads no more. end is called when that is read.
func Unpacked(r io.Reader) (plain io.Reader, end func(), err error) {
	plain, end, err = unpacked(r)
	return &bounded{plain, mostUnpacked}, end, err
}

func unpacked(r io.Reader) (plain io.Reader, end func(), err error) {
	b := bufio.NewReaderSize(r, 1<<20)
	magic, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		x, err := xz.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return x, func() {}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return b, func() {}, nil
}

func dockerImages(content []byte) (images []Image, err error) {
	var manifest []struct{ RepoTags []string }
	if err := json.Unmarshal(content, &manifest); err != nil {
		return nil, err
	}
	for _, m := range manifest {
		for _, name := range m.RepoTags {
			images = append(images, Image{Name: name})
		}
	}
	return images, nil
}

// ociImages are those that have a whole name. docker writes one as containerd
// does, under a key of containerd's.
func ociImages(content []byte) (images []Image, err error) {
	var index struct {
		Manifests []struct {
			Digest      string            `json:"digest"`
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, err
	}
	for _, m := range index.Manifests {
		for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
			if name := m.Annotations[key]; strings.Contains(name, "/") {
				images = append(images, Image{Name: name, Digest: m.Digest})
				break
			}
		}
	}
	return images, nil
}
