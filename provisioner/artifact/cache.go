package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// cache is the folder in which everything is kept: content under its SHA-256,
// and an index of what the content is. An index entry is written last and at
// once, so what it names is complete.
//
//	sha256/HEX                    content
//	index/KEY.json                what it is
//	locks/KEY.lock                who is making it
//	tmp/KEY-*                     what is being made
//	parts/HEX                     what is being downloaded, to be gone on with
type cache struct{ root string }

// blob is content in the cache.
type blob struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

func (c cache) path(b blob) string { return filepath.Join(c.root, "sha256", b.SHA256) }

// part is where content lies while it is downloaded.
func (c cache) part(sum string) string { return filepath.Join(c.root, "parts", sum) }

// flat makes a file name of a key.
func flat(key string) string { return strings.ReplaceAll(key, "/", "_") }

// lock waits until this process alone may make key, and removes what another
// that was killed left behind. While it is held, nothing is pruned.
func (c cache) lock(ctx context.Context, key string) (unlock func(), err error) {
	dir := filepath.Join(c.root, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s in the cache: %w", key, err)
	}
	whole := flock.New(filepath.Join(dir, wholeLock))
	if _, err := whole.TryRLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock %s in the cache: %w", key, err)
	}
	l := flock.New(filepath.Join(dir, flat(key)+".lock"))
	if _, err := l.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		_ = whole.Unlock()
		return nil, fmt.Errorf("lock %s in the cache: %w", key, err)
	}
	stale, _ := filepath.Glob(filepath.Join(c.root, "tmp", flat(key)+"-*"))
	for _, dir := range stale {
		_ = os.RemoveAll(dir)
	}
	return func() {
		_ = l.Unlock()
		_ = whole.Unlock()
	}, nil
}

// wholeLock is held shared by whoever makes something, and alone by prune.
const wholeLock = "all.lock"

// prune removes content that wanted does not name, and everything half-made. It
// gives up where something is being made, and nothing is while it asks wanted.
func (c cache) prune(wanted func() (map[string]bool, error)) (freed int64, err error) {
	if _, err := os.Stat(c.root); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	dir := filepath.Join(c.root, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	whole := flock.New(filepath.Join(dir, wholeLock))
	alone, err := whole.TryLock()
	if err != nil {
		return 0, err
	}
	if !alone {
		return 0, errors.New("something is being made in it")
	}
	defer func() { _ = whole.Unlock() }()
	keep, err := wanted()
	if err != nil {
		return 0, err
	}
	var problems []error
	contents, err := os.ReadDir(filepath.Join(c.root, "sha256"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, d := range contents {
		if keep[d.Name()] {
			continue
		}
		info, err := d.Info()
		if err == nil {
			err = os.Remove(filepath.Join(c.root, "sha256", d.Name()))
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		freed += info.Size()
	}
	problems = append(problems, os.RemoveAll(filepath.Join(c.root, "tmp")), os.RemoveAll(filepath.Join(c.root, "parts")))
	return freed, errors.Join(problems...)
}

// workDir makes a folder for making key in, on the cache's own file system.
// The lock of key must be held.
func (c cache) workDir(key string) (dir string, remove func(), err error) {
	parent := filepath.Join(c.root, "tmp")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, fmt.Errorf("make a work folder in the cache: %w", err)
	}
	dir, err = os.MkdirTemp(parent, flat(key)+"-*")
	if err != nil {
		return "", nil, fmt.Errorf("make a work folder in the cache: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// adopt moves a finished file into the cache, on disk before it has its name.
func (c cache) adopt(ctx context.Context, from string, mode fs.FileMode) (blob, error) {
	b, err := hashFile(ctx, from)
	if err != nil {
		return blob{}, fmt.Errorf("put %s into the cache: %w", filepath.Base(from), err)
	}
	if err := c.move(from, c.path(b), mode); err != nil {
		return blob{}, fmt.Errorf("put %s into the cache: %w", filepath.Base(from), err)
	}
	return b, nil
}

func (c cache) move(from, to string, mode fs.FileMode) error {
	if err := os.Chmod(from, mode); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// verify hashes content and compares it with what the index says. A file that
// is not there is fs.ErrNotExist; one that differs is a *ChecksumError.
func (c cache) verify(ctx context.Context, what string, want blob, remedy string) error {
	p := c.path(want)
	got, err := hashFile(ctx, p)
	if err != nil {
		return fmt.Errorf("verify %s: %w", what, err)
	}
	if got != want {
		return &ChecksumError{Name: what, Path: p, Got: got.SHA256, Want: want.SHA256, GotSize: got.Size, WantSize: want.Size, Remedy: remedy}
	}
	return nil
}

// load reads an index entry; fs.ErrNotExist where there is none.
func (c cache) load(key string, into any) error {
	content, err := os.ReadFile(filepath.Join(c.root, "index", key+".json"))
	if err != nil {
		return fmt.Errorf("read %s from the cache's index: %w", key, err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("read %s from the cache's index: %w", key, err)
	}
	return nil
}

// store writes an index entry atomically.
func (c cache) store(key string, entry any) error {
	content, err := jsonBytes(entry)
	if err != nil {
		return fmt.Errorf("write %s to the cache's index: %w", key, err)
	}
	target := filepath.Join(c.root, "index", key+".json")
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write %s to the cache's index: %w", key, err)
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s to the cache's index: %w", key, err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = c.move(f.Name(), target, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s to the cache's index: %w", key, err)
	}
	return nil
}

// keys lists the index entries under prefix, sorted.
func (c cache) keys(prefix string) ([]string, error) {
	top := filepath.Join(c.root, "index")
	var keys []string
	err := filepath.WalkDir(filepath.Join(top, prefix), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		keys = append(keys, filepath.ToSlash(strings.TrimSuffix(rel, ".json")))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the cache's index: %w", err)
	}
	return keys, nil
}

// hashFile is the SHA-256 and size of a file.
func hashFile(ctx context.Context, p string) (blob, error) {
	f, err := os.Open(p)
	if err != nil {
		return blob{}, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.CopyBuffer(h, contextReader{ctx, f}, make([]byte, 1<<20))
	if err != nil {
		return blob{}, err
	}
	return blob{hex.EncodeToString(h.Sum(nil)), n}, nil
}

// contextReader ends reading when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func jsonBytes(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// contextWriter ends writing when the context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.w.Write(p)
}
