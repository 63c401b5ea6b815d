package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// LockName is the name of the lock file beside a matrix file.
const LockName = "artifacts.lock"

// lockAPIVersion is the version of lock files that this program reads.
const lockAPIVersion = "lxcmatrix.dev/lock/v1"

const lockHead = `# Written by lxcmatrix artifacts lock: the versions and the bytes that runs of the
# matrix beside it use. Keep it with the matrix, under version control.
`

// Lock holds a matrix to the versions and bytes of the day it was written. What
// it does not name is refused, as is what is other than it says; a nil Lock
// holds to nothing. What is built here has no bytes in it: its modules' go.sum
// hold that, and the lock its version.
type Lock struct {
	path string
	// grows: what it does not name is added.
	grows bool

	mu   sync.Mutex
	file lockFile
}

// lockFile is the file.
type lockFile struct {
	APIVersion string `yaml:"apiVersion"`
	// Versions are what minors and channels are: k3s@stable, 1.34.2+k3s1.
	Versions map[string]string `yaml:"versions"`
	// Files are by upstream's URL, whatever mirror they come from.
	Files map[string]blob `yaml:"files"`
}

// LockError is a version or a file that a lock has not, or has otherwise.
type LockError struct {
	// Lock is the lock's path.
	Lock string
	// What is a file's URL upstream, or a release.
	What string
	// Got is the SHA-256 that was found, Want the one that is locked; both empty
	// where the lock does not name it.
	Got, Want string
}

// Error names the file, both digests and the remedy.
func (e *LockError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("%s is not in %s; lxcmatrix artifacts lock adds it", e.What, e.Lock)
	}
	return fmt.Sprintf("%s is refused by %s: its SHA-256 is %s, locked is %s; lxcmatrix artifacts lock --update takes what there is now", e.What, e.Lock, e.Got, e.Want)
}

// ReadLock reads a lock file. One that is not there is fs.ErrNotExist.
func ReadLock(path string) (*Lock, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the lock: %w", err)
	}
	l := &Lock{path: path}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&l.file); err != nil {
		return nil, fmt.Errorf("read the lock %s: %w", path, err)
	}
	if l.file.APIVersion != lockAPIVersion {
		return nil, fmt.Errorf("read the lock %s: its apiVersion is %q, this program reads %q", path, l.file.APIVersion, lockAPIVersion)
	}
	for address, b := range l.file.Files {
		if !hexSHA256.MatchString(b.SHA256) {
			return nil, fmt.Errorf("read the lock %s: %s: %q is no SHA-256", path, address, b.SHA256)
		}
	}
	return l, nil
}

// Path is the lock's file.
func (l *Lock) Path() string { return l.path }

// FindLock reads the lock at path or, where that is empty, the one beside a
// matrix if there is one; else there is none, which is nil.
func FindLock(path, beside string) (*Lock, error) {
	if path != "" {
		return ReadLock(path)
	}
	if beside == "" {
		return nil, nil
	}
	l, err := ReadLock(beside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return l, err
}

// GrowLock opens a lock to add to it what it does not name; one that is not
// there, and with update every one, begins empty. Write writes it.
func GrowLock(path string, update bool) (*Lock, error) {
	l := &Lock{path: path}
	if !update {
		had, err := ReadLock(path)
		if err == nil {
			l = had
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	l.grows, l.file.APIVersion = true, lockAPIVersion
	if l.file.Versions == nil {
		l.file.Versions = map[string]string{}
	}
	if l.file.Files == nil {
		l.file.Files = map[string]blob{}
	}
	return l, nil
}

// Write writes the lock to its file in one step.
func (l *Lock) Write() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write the lock %s: %w", l.path, err)
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	text, err := yaml.Dump(l.file)
	if err != nil {
		return err
	}
	return replaceFile(l.path, append([]byte(lockHead), text...))
}

// replaceFile writes a file in one step.
func replaceFile(path string, content []byte) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	_, err = temporary.Write(content)
	if err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// Lock gets a release's files, so that a store's lock that grows names all of
// them, and says which version it is and how it is locked. One that is to be
// built is not got: its version is all that can be locked.
func (s *Store) Lock(ctx context.Context, wanted Request) (exact, how string, err error) {
	exact, inputs, err := s.Resolve(ctx, wanted)
	if err != nil {
		return "", "", err
	}
	wanted.Version = exact
	built := func(i matrix.Input) bool { return i.Provenance == ProvenanceBuilt }
	if !slices.ContainsFunc(inputs, func(i matrix.Input) bool { return !built(i) }) {
		return exact, "version: it is built", nil
	}
	_, err = s.Ensure(ctx, wanted)
	return exact, "digests", err
}

// version is what is locked of a minor or channel; empty where it may be looked
// for.
func (l *Lock) version(wanted string) (string, error) {
	if l == nil {
		return "", nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	version := l.file.Versions[wanted]
	if version == "" && !l.grows {
		return "", &LockError{Lock: l.path, What: wanted}
	}
	return version, nil
}

// has says whether any of the files is locked.
func (l *Lock) has(files []download) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range files {
		if _, there := l.file.Files[d.URL]; there {
			return true
		}
	}
	return false
}

// allows says whether a file with a SHA-256 is what is locked; a *LockError
// where it is not.
func (l *Lock) allows(address, sum string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	locked, there := l.file.Files[address]
	switch {
	case !there && l.grows, there && locked.SHA256 == sum:
		return nil
	case !there:
		return &LockError{Lock: l.path, What: address}
	}
	return &LockError{Lock: l.path, What: address, Got: sum, Want: locked.SHA256}
}

// addVersion and addFile add what a lock that grows does not name yet.
func (l *Lock) addVersion(wanted, version string) {
	if l != nil && l.grows {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.file.Versions[wanted] = version
	}
}

func (l *Lock) addFile(address string, b blob) {
	if l != nil && l.grows {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.file.Files[address] = b
	}
}
