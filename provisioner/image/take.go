package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
)

// RefusedError is a file that no image is made of.
type RefusedError struct {
	// File is what was brought, OS what it was to be.
	File, OS string
	Why      string
}

// Error says what was brought as what, and why it is not taken.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("import %s as %s: refused: %s", e.File, e.OS, e.Why)
}

// Take keeps what the user brings as the image of an OS, which cells are made
// from then: a root filesystem as a tarball, plain or packed with gzip, xz or
// zstd, or as a squashfs, or a machine's disk as a qcow2. Of what was brought
// before for the OS nothing is left; nothing is kept where it is a
// *RefusedError, and no file is changed.
//
// metadata, if not empty, is an Incus image's metadata tarball or its
// metadata.yaml, and says that the root filesystem was made for containers: it
// is kept as it is. Anything else gets what its family's Base says.
func (s *Store) Take(ctx context.Context, osName, file, metadata string) (p Prepared, err error) {
	o, err := s.OS(osName)
	if err != nil {
		return Prepared{}, &RefusedError{file, osName, err.Error()}
	}
	unlock, err := s.lock(ctx, importedPrefix+o.Name)
	if err != nil {
		return Prepared{}, err
	}
	defer unlock()
	work, err := os.MkdirTemp("", "lxcmatrix-import-")
	if err != nil {
		return Prepared{}, fmt.Errorf("import %s: %w", file, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	end := s.step("importing %s as image %s", file, o.Name)
	defer func() { end(err) }()
	about, err := readMetadata(metadata)
	if err != nil {
		return Prepared{}, fmt.Errorf("import %s as %s: %w", file, o.Name, err)
	}
	adapted := o.Family.Base
	if metadata != "" {
		adapted = Base{}
	}
	p = Prepared{Name: importedPrefix + o.Name, OS: o.Name, Source: SourceImported,
		Description: fmt.Sprintf("lxcmatrix: %s, imported from %s", o.Name, filepath.Base(file))}
	p, err = Files{Dir: FilesDir(s.CacheDir)}.add(ctx, p, func(w io.Writer) error {
		return read(ctx, file, work, func(rootfs io.Reader) error {
			return repack(rootfs, w, o.Name, about.describing(o.Name, SourceImported), adapted)
		})
	})
	var refused *unfitError
	if errors.As(err, &refused) {
		return Prepared{}, &RefusedError{file, o.Name, refused.why}
	}
	if err != nil {
		return Prepared{}, fmt.Errorf("import %s as %s: %w", file, o.Name, err)
	}
	return p, nil
}

// unfitError is something about a file that keeps it from becoming an image.
type unfitError struct{ why string }

func (e *unfitError) Error() string { return e.why }

func unfit(format string, args ...any) error { return &unfitError{fmt.Sprintf(format, args...)} }

// read hands out a file's root filesystem as a tarball.
func read(ctx context.Context, file, work string, do func(io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return unfit("it is too short for an image")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	switch string(magic) {
	case "QFI\xfb":
		return readDisk(ctx, file, work, do)
	case "hsqs":
		return output(ctx, do, "sqfs2tar", file)
	}
	plain, end, err := artifact.Unpacked(ending{ctx, f})
	if err != nil {
		return unfit("it cannot be unpacked: %v", err)
	}
	defer end()
	return do(plain)
}

// ending is a reader that ends with its context.
type ending struct {
	ctx context.Context
	io.Reader
}

func (r ending) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// about is the metadata half of an Incus image: its files, and what
// metadata.yaml says.
type about struct {
	said  map[string]any
	files map[string][]byte
}

// mostMetadata is far more than any image's metadata takes.
const mostMetadata = 1 << 20

// readMetadata reads a metadata tarball or a metadata.yaml; an empty path is
// metadata that says nothing.
func readMetadata(path string) (about, error) {
	a := about{said: map[string]any{}, files: map[string][]byte{}}
	if path == "" {
		return a, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer func() { _ = f.Close() }()
	plain, end, err := artifact.Unpacked(f)
	if err != nil {
		return a, fmt.Errorf("unpack %s: %w", path, err)
	}
	defer end()
	content, err := io.ReadAll(io.LimitReader(plain, mostMetadata))
	if err != nil {
		return a, fmt.Errorf("read %s: %w", path, err)
	}
	text := content
	if filepath.Ext(path) != ".yaml" {
		for archive := tar.NewReader(bytes.NewReader(content)); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return a, unfit("its metadata %s is no tarball of up to 1 MiB: %v", path, err)
			}
			name, err := inside(h.Name)
			if err != nil {
				return a, err
			}
			if h.Typeflag != tar.TypeReg {
				continue
			}
			if a.files[name], err = io.ReadAll(archive); err != nil {
				return a, unfit("its metadata %s is no whole tarball: %v", path, err)
			}
		}
		text = a.files["metadata.yaml"]
		delete(a.files, "metadata.yaml")
	}
	if err := yaml.Load(text, &a.said); err != nil || len(a.said) == 0 {
		return a, unfit("its metadata %s has no metadata.yaml that can be read", path)
	}
	return a, nil
}

// describing is the metadata of an OS' image that comes from a source.
func (a about) describing(osName, source string) about {
	properties, _ := a.said["properties"].(map[string]any)
	all := map[string]any{"description": osName + " for lxcmatrix"}
	maps.Copy(all, properties)
	all["os"], all["source"] = osName, source
	said := map[string]any{"creation_date": time.Now().Unix()}
	maps.Copy(said, a.said)
	said["architecture"], said["properties"] = here().incus, all
	return about{said, a.files}
}

// write writes the metadata into an image.
func (a about) write(w *tar.Writer) error {
	text, err := yaml.Dump(a.said)
	if err != nil {
		return err
	}
	if err := writeFile(w, "metadata.yaml", text, 0o644); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.files)) {
		if err := writeFile(w, name, a.files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(w *tar.Writer, name string, content []byte, mode int64) error {
	err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = w.Write(content)
	}
	return err
}

// platform is an architecture by its several names.
type platform struct {
	incus string
	// machine is ELF's name of it.
	machine elf.Machine
}

// here is the platform of this machine.
func here() platform {
	switch runtime.GOARCH {
	case "arm64":
		return platform{"aarch64", elf.EM_AARCH64}
	default:
		return platform{"x86_64", elf.EM_X86_64}
	}
}
