package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Prepared is an image that is kept here: one that is ready for nodes, or one
// that the user imported for an OS.
type Prepared struct {
	// Name is what it is called here and on every server:
	// prepared/OS/DISTRO-VERSION/HASH or imported/OS.
	Name string `json:"name"`
	// Fingerprint is the file's SHA-256 in hex, and what every Incus server
	// calls the image.
	Fingerprint string `json:"fingerprint"`
	// Size of the file in bytes.
	Size int64  `json:"size"`
	OS   string `json:"os"`
	// Base and Source are the base image's fingerprint and where it came from.
	Base        string `json:"base"`
	Source      string `json:"source"`
	Description string `json:"description"`
	// Made is when; Used, when it was last asked for.
	Made time.Time `json:"made"`
	Used time.Time `json:"-"`
	// Path is the file: a squashfs of metadata and root filesystem, which any
	// Incus server imports.
	Path string `json:"-"`
}

// Files are the prepared images that a machine keeps. An image's description
// is written after its file, and makes it whole.
//
//	NAME.squashfs   the image
//	NAME.json       its description, a Prepared; its time is that of the last use
type Files struct{ Dir string }

// FilesDir is where prepared images are kept in a cache.
func FilesDir(cacheDir string) string { return filepath.Join(cacheDir, "images") }

// What is kept of prepared images: one that nobody asked for in keepFor goes,
// and of the others those that were asked for last, as long as they fit.
const (
	keepFor   = 30 * 24 * time.Hour
	keepBytes = 20 << 30
)

// DamagedError is a prepared image whose file is not what was made.
type DamagedError struct {
	Path, Want, Got string
}

// Error names the file and both digests.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("image %s is damaged: its SHA-256 is %s, and was %s when it was made", e.Path, e.Got, e.Want)
}

// importedPrefix begins the names of images that the user imported.
const importedPrefix = "imported/"

// imported describes the image that the user imported for an OS; fs.ErrNotExist
// where there is none.
func (f Files) imported(o OS) (Prepared, error) {
	return f.read(f.file(importedPrefix+o.Name, descriptionSuffix))
}

// useImported is imported with the file verified. A damaged one cannot be made
// anew, only imported again.
func (f Files) useImported(o OS) (Prepared, error) {
	p, err := f.use(importedPrefix + o.Name)
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return Prepared{}, unavailable(o, err.Error())
	}
	return p, err
}

// file is the path that belongs to a name, with a suffix.
func (f Files) file(name, suffix string) string {
	return filepath.Join(f.Dir, strings.ReplaceAll(strings.TrimPrefix(name, "prepared/"), "/", "_")+suffix)
}

const (
	imageSuffix       = ".squashfs"
	descriptionSuffix = ".json"
)

// use finds an image by name, verifies its file and notes that it was asked
// for. One that is not there is fs.ErrNotExist, a *DamagedError is another.
func (f Files) use(name string) (Prepared, error) {
	p, err := f.read(f.file(name, descriptionSuffix))
	if err != nil {
		return Prepared{}, err
	}
	sum, _, err := digest(p.Path)
	if err != nil {
		return Prepared{}, fmt.Errorf("verify prepared image %s: %w", name, err)
	}
	if sum != p.Fingerprint {
		return Prepared{}, &DamagedError{Path: p.Path, Want: p.Fingerprint, Got: sum}
	}
	now := time.Now()
	if err := os.Chtimes(f.file(name, descriptionSuffix), now, now); err != nil {
		return Prepared{}, fmt.Errorf("use prepared image %s: %w", name, err)
	}
	return p, nil
}

// read reads one image's description.
func (f Files) read(path string) (Prepared, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Prepared{}, fmt.Errorf("read a prepared image's description: %w", err)
	}
	var p Prepared
	if err := json.Unmarshal(text, &p); err != nil {
		return Prepared{}, fmt.Errorf("read %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Prepared{}, fmt.Errorf("read a prepared image's description: %w", err)
	}
	p.Used, p.Path = info.ModTime(), f.file(p.Name, imageSuffix)
	return p, nil
}

// List is every image, the one that was asked for last first.
func (f Files) List() ([]Prepared, error) {
	paths, err := filepath.Glob(filepath.Join(f.Dir, "*"+descriptionSuffix))
	if err != nil {
		return nil, fmt.Errorf("list prepared images: %w", err)
	}
	var all []Prepared
	for _, path := range paths {
		p, err := f.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Prepared) int { return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Name, b.Name)) })
	return all, nil
}

// Remove removes an image; one that is gone is no error. Who has its file open
// reads on.
func (f Files) Remove(p Prepared) error {
	for _, suffix := range []string{descriptionSuffix, imageSuffix} {
		if err := os.Remove(f.file(p.Name, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove prepared image %s: %w", p.Name, err)
		}
	}
	return nil
}

// add keeps an image that write writes as a tarball. tar2sqfs packs it with
// zstd, at the level that costs least: under emulation an image is unpacked
// and hashed so slowly that every byte counts, and natively a squashfs unpacks
// faster than the tarball itself.
func (f Files) add(ctx context.Context, p Prepared, write func(io.Writer) error) (_ Prepared, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep the image: %w", err)
		}
	}()
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return Prepared{}, err
	}
	p.Path = f.file(p.Name, imageSuffix)
	half := p.Path + ".part"
	defer func() { _ = os.Remove(half) }()
	if err := squash(ctx, half, write); err != nil {
		return Prepared{}, err
	}
	if p.Fingerprint, p.Size, err = digest(half); err != nil {
		return Prepared{}, err
	}
	p.Made = time.Now().UTC()
	p.Used = p.Made
	// One that is replaced must not keep its old description meanwhile.
	if err := f.Remove(p); err != nil {
		return Prepared{}, err
	}
	if err := os.Rename(half, p.Path); err != nil {
		return Prepared{}, err
	}
	return p, f.describe(p)
}

// describe writes an image's description.
func (f Files) describe(p Prepared) error {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	path := f.file(p.Name, descriptionSuffix)
	defer func() { _ = os.Remove(path + ".part") }()
	if err := os.WriteFile(path+".part", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

// squash packs a tarball into a squashfs.
func squash(ctx context.Context, target string, write func(io.Writer) error) error {
	cmd := exec.CommandContext(ctx, "tar2sqfs", "--quiet", "--force", "--compressor", "zstd", "--comp-extra", "level=1", target)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pack it with tar2sqfs, of Debian's package squashfs-tools-ng: %w", err)
	}
	writeErr := errors.Join(write(in), in.Close())
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("pack it: %w", context.Cause(ctx))
		}
		// One may have failed because of the other.
		return errors.Join(writeErr, fmt.Errorf("pack it with tar2sqfs: %w: %s", err, strings.TrimSpace(said.String())))
	}
	return writeErr
}

// prune removes what was not asked for in keepFor, and then what is more than
// keepBytes.
func (f Files) prune(now time.Time) error {
	all, err := f.List()
	if err != nil {
		return err
	}
	var errs []error
	var kept int64
	for _, p := range all {
		if strings.HasPrefix(p.Name, importedPrefix) {
			continue // only who brought it can bring it again
		}
		if now.Sub(p.Used) <= keepFor && kept+p.Size <= keepBytes {
			kept += p.Size
			continue
		}
		errs = append(errs, f.Remove(p))
	}
	return errors.Join(errs...)
}

// digest is a file's SHA-256, in hex, and its size.
func digest(path string) (string, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	size, err := io.Copy(h, file)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
