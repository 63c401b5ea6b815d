package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// FuzzRepack: whatever a root filesystem's tarball holds, no entry of the image
// that is made of it leads out of the root, nor goes through a link.
func FuzzRepack(f *testing.F) {
	for _, links := range []bool{false, true} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
			{Typeflag: tar.TypeReg, Name: "usr/lib/os-release", Mode: 0o644, Size: 4},
			{Typeflag: tar.TypeLink, Name: "usr/lib/same", Linkname: "usr/lib/os-release"},
		} {
			if links && h.Typeflag == tar.TypeDir {
				h = tar.Header{Typeflag: tar.TypeSymlink, Name: "usr", Linkname: "/etc"}
			}
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, rootfs []byte) {
		var image bytes.Buffer
		said := about{said: map[string]any{}, files: map[string][]byte{}}
		if err := repack(bytes.NewReader(rootfs), &image, "debian/13", said.describing("debian/13", SourceImported), Base{}); err != nil {
			var no *unfitError
			if errors.As(err, &no) && no.why == "" {
				t.Error("it is refused without a reason")
			}
		}
		// Of what was refused, too, nothing may have been written that leads out.
		links := map[string]bool{}
		for r := tar.NewReader(&image); ; {
			h, err := r.Next()
			if err != nil {
				return
			}
			name := strings.TrimSuffix(h.Name, "/")
			if name == "metadata.yaml" {
				continue
			}
			if path.Clean(name) != name || !strings.HasPrefix(name+"/", "rootfs/") {
				t.Errorf("entry %q", h.Name)
			}
			if h.Typeflag == tar.TypeLink && (path.Clean(h.Linkname) != h.Linkname || !strings.HasPrefix(h.Linkname, "rootfs/")) {
				t.Errorf("entry %q is a link to %q", h.Name, h.Linkname)
			}
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				if links[dir] {
					t.Errorf("entry %q goes through the link %s", h.Name, dir)
				}
			}
			links[name] = h.Typeflag == tar.TypeSymlink
		}
	})
}

// FuzzMetadata: an image's metadata is refused, or says something and names
// only files that lie in the image.
func FuzzMetadata(f *testing.F) {
	f.Add(true, []byte("architecture: x86_64\ncreation_date: 1\nproperties: {os: Debian}\n"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"metadata.yaml": "architecture: x86_64\n", "templates/hostname.tpl": "{{ container.name }}\n"} {
		if err := writeFile(w, name, []byte(text), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(false, b.Bytes())
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text bool, content []byte) {
		file := filepath.Join(dir, "metadata.tar")
		if text {
			file = filepath.Join(dir, "metadata.yaml")
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := readMetadata(file)
		if err != nil {
			return
		}
		if len(a.said) == 0 {
			t.Error("it says nothing")
		}
		for name := range a.files {
			if !filepath.IsLocal(name) {
				t.Errorf("file %q", name)
			}
		}
		if err := a.describing("debian/13", SourceImported).write(tar.NewWriter(io.Discard)); err != nil {
			t.Error(err)
		}
	})
}

// FuzzImageServer: whatever an image server answers, an image is found or it is
// said why not.
func FuzzImageServer(f *testing.F) {
	f.Add([]byte(`{"format":"index:1.0","index":{"images":{"datatype":"image-downloads","path":"streams/v1/images.json","format":"products:1.0","products":["debian:13:amd64:default"]}}}`),
		[]byte(`{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{"debian:13:amd64:default":{"aliases":"debian/13","arch":"amd64","os":"Debian","release":"13","versions":{"20261120_05:24":{"items":{"incus.tar.xz":{"combined_squashfs_sha256":"aa","ftype":"incus.tar.xz","path":"a","sha256":"bb","size":1},"root.squashfs":{"ftype":"squashfs","path":"b","sha256":"cc","size":2}}}}}}}`))
	var index, images atomic.Pointer[[]byte]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := images.Load()
		if strings.HasSuffix(r.URL.Path, "index.json") {
			answer = index.Load()
		}
		_, _ = w.Write(*answer)
	}))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		index.Store(&a)
		images.Store(&b)
		found, err := (&imageServer{url: server.URL}).find(t.Context(), "debian/13")
		if err == nil && found.image.Fingerprint == "" {
			t.Errorf("an image without a fingerprint: %+v", found.image)
		}
	})
}
