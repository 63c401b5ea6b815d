package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// oneText answers every request with a text.
type oneText string

func (s oneText) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(string(s))), Request: r}, nil
}

// FuzzChecksum: a text of checksums has the SHA-256 of a file, before its name
// or alone, or it is said that it has not.
func FuzzChecksum(f *testing.F) {
	sum := strings.Repeat("ab", 32)
	f.Add(sum)
	f.Add(sum + "  k3s\n" + strings.Repeat("cd", 32) + " *k3s-airgap-images-amd64.tar.zst\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := newRemote(SourceUpstream, oneText(text)).checksum(t.Context(), download{URL: "https://a.example/v1/k3s", Checksums: "https://a.example/v1/sums"})
		if err == nil && (!hexSHA256.MatchString(got) || !strings.Contains(text, got)) {
			t.Errorf("%q", got)
		}
	})
}

// FuzzChannel: a channel server's document names an exact version, or it is
// said what is wrong with it.
func FuzzChannel(f *testing.F) {
	f.Add(`{"type":"collection","data":[{"id":"stable","name":"stable","latest":"v1.34.2+k3s1"},{"id":"v1.34","name":"v1.34","latest":"v1.34.3+k3s1"}]}`, "stable")
	f.Add(`{"data":[{"id":"v1.34"},{"id":"v1.34"}]}`, "1.34")
	u := upstream{Distro: "k3s", Suffix: "k3s"}
	f.Fuzz(func(t *testing.T, text, wanted string) {
		version, err := channelLatest(text, wanted)
		if err != nil {
			return
		}
		v, err := u.exact(strings.TrimPrefix(version, "v"))
		if err == nil && !strings.Contains(v.String(), "+k3s") {
			t.Errorf("%q is %s", version, v)
		}
	})
}

// FuzzLock: a lock file is refused, or holds what it names to a SHA-256.
func FuzzLock(f *testing.F) {
	f.Add([]byte("apiVersion: " + lockAPIVersion + "\nversions: {k3s@stable: 1.34.2+k3s1}\nfiles:\n  https://a.example/k3s: {sha256: " + strings.Repeat("ab", 32) + ", size: 1}\n"))
	path := filepath.Join(f.TempDir(), LockName)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := ReadLock(path)
		if err != nil {
			return
		}
		for address, b := range l.file.Files {
			if err := l.allows(address, b.SHA256); err != nil {
				t.Error(err)
			}
			if l.allows(address, "") == nil {
				t.Errorf("%s is not held to anything", address)
			}
		}
	})
}

func tarOf(f *testing.F, files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o755, Size: int64(len(files[i+1]))}); err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// FuzzArchivedImages: an archive, packed in any way, is refused or lists images
// in their order, each once.
func FuzzArchivedImages(f *testing.F) {
	f.Add(tarOf(f, "manifest.json", `[{"RepoTags":["rancher/mirrored-pause:3.6"]}]`))
	f.Add(tarOf(f, "./index.json", `{"manifests":[{"digest":"sha256:aa","annotations":{"org.opencontainers.image.ref.name":"docker.io/rancher/klipper-lb:v0.4.13"}}]}`))
	for _, magic := range []string{"\x1f\x8b\x08\x00", "\xfd7zXZ\x00\x00\x04", "\x28\xb5\x2f\xfd"} {
		f.Add([]byte(magic))
	}
	path := filepath.Join(f.TempDir(), "images.tar")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		images, err := archivedImages(t.Context(), path)
		if err != nil {
			return
		}
		for i := range images[min(1, len(images)):] {
			if images[i].Name >= images[i+1].Name {
				t.Errorf("%q before %q", images[i].Name, images[i+1].Name)
			}
		}
	})
}

// FuzzUnpack: members of an archive land beside each other in one folder, and
// nothing else is written, whatever the archive holds.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, "bin/containerd", "elf", "./bin/runc", "elf"))
	f.Add(tarOf(f, "../bin/runc", "elf", "bin/../bin/containerd", "elf", "/bin/runc", "elf"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		packed, into := filepath.Join(dir, "archive.tar.gz"), filepath.Join(dir, "into")
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(archive)
		err = errors.Join(err, z.Close(), os.WriteFile(packed, b.Bytes(), 0o600), os.Mkdir(into, 0o700))
		if err != nil {
			t.Fatal(err)
		}
		files, err := unpack(t.Context(), packed, "archive", []string{"bin/containerd", "bin/runc"}, into)
		for _, file := range files {
			if filepath.Dir(file) != into {
				t.Errorf("file %s", file)
			}
		}
		entries, readErr := os.ReadDir(dir)
		if readErr != nil || len(entries) != 2 || err == nil && len(files) != 2 {
			t.Errorf("%d files, %v (%v) (%v)", len(files), entries, err, readErr)
		}
	})
}

// FuzzNormalise: whatever a root filesystem's tarball holds, the layer that is
// made of it can be read, and nothing in it leads out of the root.
func FuzzNormalise(f *testing.F) {
	f.Add(tarOf(f, "./usr/sbin/iptables", "elf", "usr/share/doc/x", "text"))
	dir := f.TempDir()
	raw, layer := filepath.Join(dir, "raw.tar"), filepath.Join(dir, "layer.tar")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(raw, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if normalise(raw, layer) != nil {
			return
		}
		in, err := os.Open(layer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close() }()
		for r := tar.NewReader(in); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("the layer cannot be read: %v", err)
			}
			if !filepath.IsLocal(h.Name) || h.Typeflag == tar.TypeLink && !filepath.IsLocal(h.Linkname) {
				t.Errorf("entry %q, link to %q", h.Name, h.Linkname)
			}
		}
	})
}
