package samples

import (
	"archive/tar"
	"embed"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// Real runs, as they were kept, without their logs.
const (
	// RecordedDistros is of the built-in matrix distros, on a machine with Linux
	// 6.18 and cgroup v1 that reached no upstream, and a virtual one with Linux
	// 6.12 and cgroup v2.
	RecordedDistros = "distros"
	// RecordedAllFixes and RecordedWithoutOne are of one cell, on one machine, with
	// all its fixes and without restrict-oom-score-adj.
	RecordedAllFixes   = "all-fixes"
	RecordedWithoutOne = "without-restrict-oom-score-adj"
)

//go:embed testdata
var recorded embed.FS

// Recorded is a real run, by its name above.
func Recorded(t *testing.T, name string) matrix.Run {
	t.Helper()
	dir, err := unpack(t.TempDir(), "testdata/"+name+".tar.zst")
	if err != nil {
		t.Fatalf("unpack run %s: %v", name, err)
	}
	folder, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	run, err := folder.Read()
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// unpack unpacks an archive of one folder and returns that.
func unpack(into, archive string) (dir string, err error) {
	file, err := recorded.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	z, err := zstd.NewReader(file)
	if err != nil {
		return "", err
	}
	defer z.Close()
	root, err := os.OpenRoot(into)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return dir, nil
		}
		if err != nil {
			return "", err
		}
		name := filepath.FromSlash(h.Name)
		if h.Typeflag == tar.TypeDir {
			if dir == "" {
				dir = filepath.Join(into, name)
			}
			err = root.MkdirAll(name, 0o700)
		} else {
			var content []byte
			if content, err = io.ReadAll(files); err == nil {
				err = root.WriteFile(name, content, 0o600)
			}
		}
		if err != nil {
			return "", err
		}
	}
}
