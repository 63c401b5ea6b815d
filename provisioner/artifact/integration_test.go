//go:build integration

package artifact

import (
	"archive/tar"
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
	"testing"
	"time"
)

// logged shows progress in the test's log.
type logged struct{ t *testing.T }

func (p logged) Step(format string, args ...any) func(error) {
	start := time.Now()
	return func(err error) {
		p.t.Logf("%s: %s, %v", fmt.Sprintf(format, args...), time.Since(start).Round(time.Millisecond), err)
	}
}

func (p logged) Note(format string, args ...any) { p.t.Logf(format, args...) }

// TestRelease makes releases for real, in the user's own cache, and looks at
// what came out: those that LXCMATRIX_TEST_RELEASES names, since a build takes
// minutes.
func TestRelease(t *testing.T) {
	names := strings.Fields(os.Getenv("LXCMATRIX_TEST_RELEASES"))
	if len(names) == 0 {
		names = []string{"kubeadm@1.34"}
	}
	dir, err := DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(dir, Options{Sources: []string{SourceCache, SourceBuild}, Progress: logged{t}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			distro, minor, _ := strings.Cut(name, "@")
			r, found := s.recipe(distro, minor)
			if !found {
				t.Fatal("there is no recipe")
			}
			checkRelease(t, s, r)
		})
	}
}

func checkRelease(t *testing.T, s *Store, r recipe) {
	release, err := s.Ensure(t.Context(), Request{Distro: r.Distro, Version: r.Version})
	if err != nil {
		t.Fatal(err)
	}
	if release.Provenance != ProvenanceBuilt {
		t.Errorf("provenance is %q", release.Provenance)
	}
	file := func(name string) File {
		f, ok := release.File(name)
		if !ok {
			t.Fatalf("the release has no %s", name)
		}
		return f
	}
	says := func(name, want string, args ...string) {
		out, err := exec.CommandContext(t.Context(), file(name).Path, args...).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s says %q, %v; want %q", name, out, err, want)
		}
	}
	says("kubelet", "v"+r.Version, "--version")
	says("kubectl", "v"+r.Version, "version", "--client")
	says("kubeadm", "v"+r.Version, "version", "-o", "short")
	if release.OwnRuntime() {
		// As every tool reads it: github.com/containerd/containerd/v2 v2.4.2.
		says("containerd", " v2.", "--version")
		// kubeadm's static pods ask for a seccomp profile.
		says("runc", "libseccomp: ", "--version")
	}
	// kubeadm itself is the authority on what it will ask for.
	want, err := s.askImages(t.Context(), s.upstreams[r.Distro], release)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.imageNames(false); !slices.Equal(got, want) {
		t.Errorf("the recipe's images are %q, kubeadm wants %q", got, want)
	}
	if got := tagsIn(t, file(ImagesName).Path); !slices.Equal(got, r.imageNames(true)) {
		t.Errorf("the archive holds %q", got)
	}
	refusesFlippedByte(t, s, release)
}

// tagsIn lists the images of a docker-archive, sorted.
func tagsIn(t *testing.T, archive string) (tags []string) {
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	reader := tar.NewReader(f)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("the archive has no manifest.json")
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var manifest []struct{ RepoTags []string }
		if err := json.NewDecoder(reader).Decode(&manifest); err != nil {
			t.Fatal(err)
		}
		for _, m := range manifest {
			tags = append(tags, m.RepoTags...)
		}
		slices.Sort(tags)
		return tags
	}
}

// refusesFlippedByte damages a copy of the cache, never the cache itself.
func refusesFlippedByte(t *testing.T, s *Store, release Release) {
	damaged, err := New(t.TempDir(), Options{Sources: s.sources})
	if err != nil {
		t.Fatal(err)
	}
	key := s.releaseKey(Request{Distro: release.Distro, Version: release.Version}) + "/" + release.Source
	var e entry
	if err := s.cache.load(key, &e); err != nil {
		t.Fatal(err)
	}
	if err := damaged.cache.store(key, e); err != nil {
		t.Fatal(err)
	}
	for _, f := range release.Files {
		content, err := os.ReadFile(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name == "kubelet" {
			content[len(content)/2] ^= 1
		}
		target := damaged.cache.path(f.blob())
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, content, fs.FileMode(0o644)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = damaged.Ensure(t.Context(), Request{Distro: release.Distro, Version: release.Version})
	var refused *ChecksumError
	if !errors.As(err, &refused) || !strings.HasPrefix(refused.Name, "kubelet of") {
		t.Errorf("a flipped byte in kubelet gives %v", err)
	}
}
