package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// serve is a mirror on a local TLS server.
func serve(t *testing.T, handler http.Handler) *remote {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	return mirrorAt(t, server)
}

func mirrorAt(t *testing.T, server *httptest.Server) *remote {
	t.Helper()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := serverMirror(base, &guard{next: server.Client().Transport, stall: time.Minute})
	r.limits.tries = 3
	return r
}

func TestSilentHostIsAskedOnce(t *testing.T) {
	g := NewWithT(t)
	var dials atomic.Int32
	network := &guard{stall: time.Minute}
	network.next = &http.Transport{DialTLSContext: func(_ context.Context, _, address string) (net.Conn, error) {
		dials.Add(1)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no route to " + address)}
	}}
	s := open(t, t.TempDir(), helloModules(), Options{Sources: []string{SourceCache, SourceMirror, SourceUpstream}})
	s.remotes[SourceUpstream] = newRemote(SourceUpstream, network)
	for range 2 {
		_, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
		var unavailable *provisioner.UnavailableError
		g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
		g.Expect(unavailable.What).To(Equal("kubeadm 1.34.4"))
		g.Expect(unavailable.Tried).To(HaveExactElements(HavePrefix("cache: not in the cache"), Equal("mirror: no mirror is configured"),
			And(HavePrefix("upstream: "), ContainSubstring("dl.k8s.io does not answer"))))
	}
	_, _, err := s.Resolve(t.Context(), Request{Distro: "kubeadm", Version: "1.34"})
	g.Expect(err).To(MatchError(ContainSubstring("dl.k8s.io does not answer")))
	g.Expect(dials.Load()).To(Equal(int32(1)))
}

// lay lays out a release as upstream does, under dir: binaries with their
// checksums, and a registry's manifests and blobs.
func lay(t *testing.T, dir, version string, images map[string]v1.Image) {
	t.Helper()
	put := func(p string, content []byte) {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must := func(content []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	for name, content := range map[string]string{
		"kubelet": "kubelet of upstream",
		"kubeadm": "#!/bin/sh\n[ \"$*\" = \"config images list --kubernetes-version v" + version + "\" ] && echo registry.k8s.io/hello:v" + version + "\n",
	} {
		p := "dl.k8s.io/release/v" + version + "/bin/linux/" + runtime.GOARCH + "/" + name
		sum := sha256.Sum256([]byte(content))
		put(p, []byte(content))
		put(p+".sha256", []byte(hex.EncodeToString(sum[:])))
	}
	for tag, image := range images {
		// What upstream tags is an index over platforms.
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
		repository := "registry.k8s.io/v2/hello/"
		manifest := must(image.RawManifest())
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		put(repository+"manifests/"+tag, must(index.RawManifest()))
		put(repository+"manifests/"+digest.String(), manifest)
		config, err := image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		put(repository+"blobs/"+config.String(), must(image.RawConfigFile()))
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			digest, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			r, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			put(repository+"blobs/"+digest.String(), must(io.ReadAll(r)))
		}
	}
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestPullFromMirrors(t *testing.T) {
	image := randomImage(t)
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	lay(t, dir, "1.34.4", map[string]v1.Image{"v1.34.4": image})
	lay(t, dir, "1.34.9", map[string]v1.Image{"v1.34.9": image})
	lay(t, dir, "1.35.0", map[string]v1.Image{"v1.35.0": image})
	// As a recipe says, another patch of its minor, and a minor without one.
	for _, version := range []string{"1.34.4", "1.34.9", "1.35.0"} {
		for _, kind := range []string{"file", "https"} {
			t.Run(kind+" "+version, func(t *testing.T) {
				g := NewWithT(t)
				opts := Options{Sources: []string{SourceCache, SourceMirror, SourceBuild}, Mirror: "file://" + dir}
				cacheDir := t.TempDir()
				s := open(t, cacheDir, helloModules(), opts)
				if kind == "https" {
					r := serve(t, http.FileServer(http.Dir(dir)))
					r.name = SourceMirror
					s.remotes[SourceMirror] = r
				}
				release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: version})
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(release.Provenance).To(Equal(ProvenanceRelease))
				g.Expect(release.Source).To(Equal(SourceMirror))
				kubelet, _ := release.File("kubelet")
				g.Expect(os.ReadFile(kubelet.Path)).To(BeEquivalentTo("kubelet of upstream"))
				archive, _ := release.File(ImagesName)
				g.Expect(archive.Images).To(HaveLen(2))
				g.Expect(archive.Images[0].Name).To(Equal("lxcmatrix.dev/own:v1"))
				g.Expect(archive.Images[1]).To(Equal(Image{Name: "registry.k8s.io/hello:v" + version, Digest: digest.String()}))

				// Once had, the mirror is not needed.
				offline := open(t, cacheDir, helloModules(), Options{Sources: opts.Sources, Mirror: "file:///nonexistent"})
				g.Expect(offline.Ensure(t.Context(), Request{Distro: "kubeadm", Version: version})).To(Equal(release))
			})
		}
	}
}

// withRuntime is helloModules with a runtime that lies elsewhere than
// Kubernetes: an archive and a bare binary.
func withRuntime() fstest.MapFS {
	modules := helloModules()
	const recipe = "releases/kubeadm-1.34.yaml"
	modules[recipe] = &fstest.MapFile{Data: []byte(strings.NewReplacer(
		"binaries: [kubeadm, kubelet]", "binaries: [kubeadm, kubelet, containerd, runc, bridge]",
		"runtime: {containerd: os, runc: os}", `runtime: {containerd: containerd, runc: runc, plugins: [bridge]}
downloads:
- {url: "https://github.com/c/c-1-{arch}.tar.gz", checksums: "https://github.com/c/c-1-{arch}.tar.gz.sha256sum", files: {containerd: bin/containerd}}
- {url: "https://github.com/r/runc.{arch}", checksums: "https://github.com/r/runc.sha256sum", files: {runc: "runc.{arch}"}}
- {url: "https://github.com/p/p-{arch}.tgz", checksums: "https://github.com/p/p-{arch}.tgz.sha256", files: {bridge: bridge}}`,
		"  commands: {kubeadm: hello.test/hello, kubelet: hello.test/hello/other/v2}", "  commands: {kubeadm: hello.test/hello, kubelet: hello.test/hello/other/v2}\n- name: runtime\n  commands: {containerd: runtime.test/containerd, runc: runtime.test/runc, bridge: runtime.test/bridge}",
	).Replace(string(modules[recipe].Data)))}
	modules["runtime/go.mod.in"] = &fstest.MapFile{Data: []byte("module runtime.test\n")}
	return modules
}

// zipped is a .tar.gz of files.
func zipped(t *testing.T, members map[string]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	w := tar.NewWriter(zip)
	for name, content := range members {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))})
		if err == nil {
			_, err = io.WriteString(w, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// layRuntime lays out withRuntime's downloads as upstream does, under dir.
func layRuntime(t *testing.T, dir string, members map[string]string) {
	t.Helper()
	archive, plugins := zipped(t, members), zipped(t, map[string]string{"./bridge": "bridge of upstream", "./dhcp": "not asked for"})
	name, tgz := "c-1-"+runtime.GOARCH+".tar.gz", "p-"+runtime.GOARCH+".tgz"
	const runc = "runc of upstream"
	for p, content := range map[string]string{
		"github.com/c/" + name:                string(archive),
		"github.com/c/" + name + ".sha256sum": fmt.Sprintf("%x  %s\n", sha256.Sum256(archive), name),
		"github.com/p/" + tgz:                 string(plugins),
		"github.com/p/" + tgz + ".sha256":     fmt.Sprintf("%x  %s\n", sha256.Sum256(plugins), tgz),
		"github.com/r/runc." + runtime.GOARCH: runc,
		"github.com/r/runc.sha256sum":         fmt.Sprintf("%064d *runc.other\n%x *runc.%s\n", 0, sha256.Sum256([]byte(runc)), runtime.GOARCH),
	} {
		p = filepath.Join(dir, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPullRuntime: a release that brings its runtime has it from the same
// source as the rest, or is not had.
func TestPullRuntime(t *testing.T) {
	image := randomImage(t)
	whole := map[string]string{"bin/ctr": "not asked for", "./bin/containerd": "containerd of upstream"}
	for name, c := range map[string]struct {
		members map[string]string
		damage  string // a file that is overwritten
		want    string
	}{
		"whole":               {members: whole},
		"not in the archive":  {members: map[string]string{"bin/ctr": "alone"}, want: "no bin/containerd in it"},
		"a damaged archive":   {members: whole, damage: "github.com/c/c-1-" + runtime.GOARCH + ".tar.gz", want: "c-1-" + runtime.GOARCH + ".tar.gz"},
		"no checksum of runc": {members: whole, damage: "github.com/r/runc.sha256sum", want: "has no SHA-256 of runc"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			dir := t.TempDir()
			lay(t, dir, "1.34.4", map[string]v1.Image{"v1.34.4": image})
			layRuntime(t, dir, c.members)
			if c.damage != "" {
				g.Expect(overwrite(filepath.Join(dir, c.damage))).To(Succeed())
			}
			s := open(t, t.TempDir(), withRuntime(), Options{Sources: []string{SourceMirror}, Mirror: "file://" + dir})
			release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
			if c.want != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.want)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(release.OwnRuntime()).To(BeTrue())
			g.Expect(release.OwnPlugins()).To(BeTrue())
			for name, kind := range map[string]string{"containerd": KindBinary, "runc": KindBinary, "kubelet": KindBinary, "bridge": KindPlugin} {
				f, found := release.File(name)
				g.Expect(found).To(BeTrue(), name)
				g.Expect(f.Kind).To(Equal(kind))
				g.Expect(os.ReadFile(f.Path)).To(BeEquivalentTo(name + " of upstream"))
			}
			_, inputs, err := s.Resolve(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(inputs).To(ContainElements(HaveField("Name", "kubeadm/kubelet"),
				And(HaveField("Name", "kubeadm/c-1-"+runtime.GOARCH+".tar.gz"), HaveField("Digest", HaveLen(64))),
				And(HaveField("Name", "kubeadm/runc."+runtime.GOARCH), HaveField("Digest", HaveLen(64)))))
		})
	}
}

func TestDamagedMirror(t *testing.T) {
	image := randomImage(t)
	for _, c := range []struct {
		name, glob string
		damage     func(string) error
		want       string
		refused    bool
	}{
		{"wrong binary", "dl.k8s.io/release/v*/bin/linux/*/kubelet", overwrite, "kubelet", true},
		{"no kubeadm", "dl.k8s.io/release/v*/bin/linux/*/kubeadm", os.Remove, "kubeadm: 404", false},
		{"wrong layer", "registry.k8s.io/v2/hello/blobs/*", overwrite, "sha256", false},
		{"no layer", "registry.k8s.io/v2/hello/blobs/*", os.Remove, "404", false},
		{"manifest is a page", "registry.k8s.io/v2/hello/manifests/*", overwrite, "manifest", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			dir := t.TempDir()
			lay(t, dir, "1.34.4", map[string]v1.Image{"v1.34.4": image})
			damaged, err := filepath.Glob(filepath.Join(dir, c.glob))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(damaged).NotTo(BeEmpty())
			for _, p := range damaged {
				g.Expect(c.damage(p)).To(Succeed())
			}
			s := open(t, t.TempDir(), helloModules(), Options{Mirror: "file://" + dir})
			delete(s.remotes, SourceUpstream)
			_, err = s.Pull(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"}, false)
			g.Expect(err).To(MatchError(ContainSubstring(c.want)))
			var refused *ChecksumError
			g.Expect(errors.As(err, &refused)).To(Equal(c.refused))
			g.Expect(s.List()).To(BeEmpty())
		})
	}
}

func overwrite(p string) error { return os.WriteFile(p, []byte("something else"), 0o644) }

func TestResolve(t *testing.T) {
	mirror := t.TempDir()
	for _, version := range []string{"1.34.4", "1.34.10", "1.34.9", "1.35.0"} {
		lay(t, mirror, version, nil)
	}
	if err := os.MkdirAll(filepath.Join(mirror, "dl.k8s.io/release/v1.34.11-rc.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/dl.k8s.io/release/stable-1.34.txt":
			_, _ = io.WriteString(w, "v1.34.12\n")
		case strings.HasSuffix(r.URL.Path, ".sha256"):
			_, _ = io.WriteString(w, strings.Repeat("a", 64))
		case strings.Contains(r.URL.Path, "/bin/linux/"):
			_, _ = io.WriteString(w, "a binary")
		default:
			http.NotFound(w, r)
		}
	}))
	for _, c := range []struct {
		name, version string
		sources       []string
		exact, source string // exact empty: it cannot be had
	}{
		{"mirror's newest, by number", "1.34", []string{SourceMirror, SourceUpstream, SourceBuild}, "1.34.10", SourceMirror},
		{"upstream's newest", "1.34", []string{SourceCache, SourceUpstream, SourceBuild}, "1.34.12", SourceUpstream},
		{"what is built", "1.34", []string{SourceCache, SourceBuild}, "1.34.4", SourceBuild},
		{"exact, from where it is", "1.34.4", []string{SourceMirror, SourceUpstream, SourceBuild}, "1.34.4", SourceMirror},
		{"exact, with a v", "v1.34.4", []string{SourceBuild}, "1.34.4", SourceBuild},
		{"exact, not in the mirror", "1.34.7", []string{SourceMirror, SourceUpstream}, "1.34.7", SourceUpstream},
		{"minor that nobody has", "1.20", []string{SourceCache, SourceMirror, SourceUpstream, SourceBuild}, "", ""},
		{"patch that is not built", "1.34.7", []string{SourceCache, SourceBuild}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			s := open(t, t.TempDir(), helloModules(), Options{Sources: c.sources, Mirror: "file://" + mirror})
			s.remotes[SourceUpstream] = upstream
			exact, inputs, err := s.Resolve(t.Context(), Request{Distro: "kubeadm", Version: c.version})
			if c.exact == "" {
				var unavailable *provisioner.UnavailableError
				g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
				g.Expect(unavailable.Tried).To(HaveLen(len(c.sources)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(exact).To(Equal(c.exact))
			g.Expect(inputs).To(HaveLen(3))
			for _, i := range inputs {
				g.Expect(i.Kind).To(Equal("artifact"))
				g.Expect(i.Version).To(Equal(c.exact))
				g.Expect(i.Source).To(Equal(c.source))
				if c.source != SourceBuild && i.Name != "kubeadm/images.tar" {
					g.Expect(i.Digest).To(HaveLen(64))
				}
			}
		})
	}
	t.Run("cached", func(t *testing.T) {
		g := NewWithT(t)
		s := open(t, t.TempDir(), helloModules(), Options{Sources: buildOnly})
		release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
		g.Expect(err).NotTo(HaveOccurred())
		exact, inputs, err := s.Resolve(t.Context(), Request{Distro: "kubeadm", Version: "1.34"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(exact).To(Equal("1.34.4"))
		g.Expect(inputs[0]).To(Equal(matrix.Input{Kind: "artifact", Name: "kubeadm/kubeadm", Version: "1.34.4",
			Digest: release.Files[0].SHA256, Source: SourceCache, Provenance: ProvenanceBuilt}))
	})
	t.Run("not a version", func(t *testing.T) {
		g := NewWithT(t)
		s := open(t, t.TempDir(), helloModules(), Options{})
		_, _, err := s.Resolve(t.Context(), Request{Distro: "kubeadm", Version: "latest"})
		g.Expect(err).To(MatchError(ContainSubstring("resolve kubeadm latest")))
		g.Expect(errors.Is(err, fs.ErrNotExist)).To(BeFalse())
	})
}
