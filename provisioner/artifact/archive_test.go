package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	. "github.com/onsi/gomega"
	"github.com/ulikunitz/xz"
)

func TestArchivedImages(t *testing.T) {
	const docker = `[{"Config":"c.json","RepoTags":["rancher/mirrored-pause:3.6"],"Layers":[]},{"RepoTags":["docker.io/rancher/klipper-lb:v0.4.13"]},{"RepoTags":null}]`
	const oci = `{"manifests":[
		{"digest":"sha256:aa","annotations":{"io.containerd.image.name":"docker.io/rancher/mirrored-pause:3.6","org.opencontainers.image.ref.name":"3.6"}},
		{"digest":"sha256:bb","annotations":{"org.opencontainers.image.ref.name":"docker.io/rancher/klipper-lb:v0.4.13"}},
		{"digest":"sha256:cc"}]}`
	plain := func(w io.Writer) io.WriteCloser { return nopCloser{w} }
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	xzip := func(w io.Writer) io.WriteCloser {
		x, err := xz.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	zst := func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithWindowSize(32<<20))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	for name, tc := range map[string]struct {
		files map[string]string
		pack  func(io.Writer) io.WriteCloser
		want  []string
		err   string
	}{
		"docker":              {map[string]string{"c.json": "{}", "manifest.json": docker}, plain, []string{"docker.io/rancher/klipper-lb:v0.4.13", "rancher/mirrored-pause:3.6"}, ""},
		"docker, gzip":        {map[string]string{"./manifest.json": docker}, gz, []string{"docker.io/rancher/klipper-lb:v0.4.13", "rancher/mirrored-pause:3.6"}, ""},
		"docker, xz":          {map[string]string{"manifest.json": docker}, xzip, []string{"docker.io/rancher/klipper-lb:v0.4.13", "rancher/mirrored-pause:3.6"}, ""},
		"OCI, zstd":           {map[string]string{"index.json": oci, "oci-layout": "{}"}, zst, []string{"docker.io/rancher/klipper-lb:v0.4.13", "docker.io/rancher/mirrored-pause:3.6"}, ""},
		"both":                {map[string]string{"index.json": `{"manifests":[]}`, "manifest.json": docker}, zst, []string{"docker.io/rancher/klipper-lb:v0.4.13", "rancher/mirrored-pause:3.6"}, ""},
		"no list":             {map[string]string{"x": "y"}, zst, nil, "neither manifest.json nor index.json"},
		"a list that is none": {map[string]string{"manifest.json": "{"}, plain, nil, "read manifest.json"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			var b bytes.Buffer
			packed := tc.pack(&b)
			w := tar.NewWriter(packed)
			for name, content := range tc.files {
				g.Expect(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})).To(Succeed())
				_, err := io.WriteString(w, content)
				g.Expect(err).NotTo(HaveOccurred())
			}
			g.Expect(w.Close()).To(Succeed())
			g.Expect(packed.Close()).To(Succeed())
			path := filepath.Join(t.TempDir(), "images")
			g.Expect(os.WriteFile(path, b.Bytes(), 0o600)).To(Succeed())
			images, err := archivedImages(t.Context(), path)
			if tc.err != "" {
				g.Expect(err).To(MatchError(ContainSubstring(tc.err)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			var names []string
			for _, i := range images {
				names = append(names, i.Name)
			}
			g.Expect(names).To(Equal(tc.want))
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := archivedImages(ended, os.Args[0])
	if err == nil {
		t.Error("a listing that was given up on succeeded")
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestBounded: what unpacks to more than was allowed is an error, not an end.
func TestBounded(t *testing.T) {
	g := NewWithT(t)
	data, err := io.ReadAll(&bounded{bytes.NewReader(make([]byte, 10)), 10})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(data).To(HaveLen(10))
	_, err = io.ReadAll(&bounded{bytes.NewReader(make([]byte, 11)), 10})
	g.Expect(err).To(MatchError(ContainSubstring("it unpacks to more than")))
}
