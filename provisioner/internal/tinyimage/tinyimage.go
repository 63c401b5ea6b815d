// Package tinyimage gives tests an image for real containers that is made in a
// second: it holds nothing but the program in testdata/init, which is
// process 1, socat, what answers for systemd, and the few commands that tests
// run.
package tinyimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

const program = "github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage/testdata/init"

// Import puts the image on a server under an alias, with commands of this
// machine and the libraries that they need.
func Import(t *testing.T, server *incus.Server, alias string, commands ...string) incus.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "init")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tiny image's init: %v\n%s", err, out)
	}
	init, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"sbin/init": init, "bin/socat": init, "bin/systemctl": init, "etc/os-release": []byte("ID=tiny\nVERSION_ID=1\n")}
	for _, command := range commands {
		for _, path := range needed(t, command) {
			if files[strings.TrimPrefix(path, "/")], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, err := tarball(files, "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := tarball(map[string][]byte{"metadata.yaml": []byte("architecture: x86_64\ncreation_date: 1\n")})
	if err != nil {
		t.Fatal(err)
	}
	image, err := server.ImportImage(t.Context(), alias, metadata, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// needed are the paths of a command and of the libraries that the loader says
// it needs, below no symbolic link.
func needed(t *testing.T, command string) []string {
	t.Helper()
	path, err := exec.LookPath(command)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
	if err != nil {
		t.Fatalf("list the libraries of %s: %v", path, err)
	}
	return append(regexp.MustCompile(`/\S+`).FindAllString(string(out), -1), "/bin/"+filepath.Base(path))
}

func tarball(files map[string][]byte, dirs ...string) (io.Reader, error) {
	var b bytes.Buffer
	var errs []error
	w := tar.NewWriter(&b)
	for _, dir := range dirs {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
	}
	for name, content := range files {
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	return &b, errors.Join(append(errs, w.Close())...)
}
