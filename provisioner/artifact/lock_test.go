package artifact

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// TestLock: tomorrow's run has yesterday's version and bytes, or says by name
// what is other.
func TestLock(t *testing.T) {
	g := NewWithT(t)
	dir, cacheDir := t.TempDir(), t.TempDir()
	path := filepath.Join(t.TempDir(), LockName)
	layRancher(t, dir, "k3s", "1.34.2+k3s1")
	store := func(cacheDir string, lock *Lock) *Store {
		return open(t, cacheDir, rancherModules(t), Options{Sources: []string{SourceCache, SourceMirror, SourceBuild}, Mirror: dir, Lock: lock})
	}
	stable := Request{Distro: "k3s", Version: "stable"}
	grow := func(update bool) {
		t.Helper()
		lock, err := GrowLock(path, update)
		g.Expect(err).NotTo(HaveOccurred())
		exact, how, err := store(cacheDir, lock).Lock(t.Context(), stable)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(how).To(Equal("digests"))
		g.Expect(exact).To(HavePrefix("1.34."))
		// What is built is locked by its version.
		exact, how, err = store(cacheDir, lock).Lock(t.Context(), Request{Distro: "kubeadm", Version: "1.34"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(exact + " " + how).To(Equal("1.34.4 version: it is built"))
		g.Expect(lock.Write()).To(Succeed())
	}
	read := func() *Lock {
		t.Helper()
		lock, err := ReadLock(path)
		g.Expect(err).NotTo(HaveOccurred())
		return lock
	}
	resolve := func(s *Store, wanted Request) string {
		t.Helper()
		exact, _, err := s.Resolve(t.Context(), wanted)
		g.Expect(err).NotTo(HaveOccurred())
		return exact
	}
	grow(false)
	const folder = "https://github.com/k3s-io/k3s/releases/download/v1.34.2%2Bk3s1/"
	binary := rancherFiles("k3s")[0]
	g.Expect(read().file.Versions).To(Equal(map[string]string{"k3s@stable": "1.34.2+k3s1", "kubeadm@1.34": "1.34.4"}))
	g.Expect(read().file.Files).To(And(HaveLen(2), HaveKeyWithValue(folder+binary,
		blob{sumOf("k3s 1.34.2+k3s1 " + binary), int64(len("k3s 1.34.2+k3s1 " + binary))})))
	first, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(first)).To(HavePrefix("# Written by lxcmatrix artifacts lock"))

	// A newer release changes neither a run nor a lock that only grows.
	layRancher(t, dir, "k3s", "1.34.9+k3s1")
	g.Expect(resolve(store(cacheDir, nil), stable)).To(Equal("1.34.9+k3s1"))
	g.Expect(resolve(store(t.TempDir(), read()), stable)).To(Equal("1.34.2+k3s1"))
	grow(false)
	g.Expect(os.ReadFile(path)).To(Equal(first))

	// What the lock does not name is not had.
	for wanted, want := range map[string]string{
		"latest":      "k3s@latest is not in " + path + "; lxcmatrix artifacts lock adds it",
		"1.34.9+k3s1": strings.Replace(folder, "1.34.2", "1.34.9", 1) + binary + " is not in " + path,
	} {
		_, _, err := store(t.TempDir(), read()).Resolve(t.Context(), Request{Distro: "k3s", Version: wanted})
		var unavailable *provisioner.UnavailableError
		g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring(want)))
	}

	// Other bytes under the same name are refused, at plan time and from then on,
	// and so is a cache that has them; the locked ones in a cache will do.
	old := "k3s 1.34.2+k3s1 " + binary
	release := filepath.Join(dir, k3sReleases, "v1.34.2+k3s1")
	sums, err := os.ReadFile(filepath.Join(release, "sha256sum-"+runtime.GOARCH+".txt"))
	g.Expect(err).NotTo(HaveOccurred())
	write(t, filepath.Join(release, "sha256sum-"+runtime.GOARCH+".txt"), strings.Replace(string(sums), sumOf(old), sumOf("exchanged"), 1))
	write(t, filepath.Join(release, binary), "exchanged")
	other := t.TempDir()
	_, err = store(other, nil).Ensure(t.Context(), Request{Distro: "k3s", Version: "1.34.2+k3s1"})
	g.Expect(err).NotTo(HaveOccurred())
	refused := ContainSubstring(folder + binary + " is refused by " + path + ": its SHA-256 is " + sumOf("exchanged") + ", locked is " + sumOf(old))
	for _, cache := range []string{other, t.TempDir()} {
		_, _, err = store(cache, read()).Resolve(t.Context(), stable)
		g.Expect(err).To(MatchError(refused))
		_, err = store(cache, read()).Ensure(t.Context(), Request{Distro: "k3s", Version: "1.34.2+k3s1"})
		g.Expect(err).To(MatchError(refused))
		var unavailable *provisioner.UnavailableError
		g.Expect(errors.As(err, &unavailable)).To(BeTrue())
	}
	g.Expect(store(cacheDir, read()).Ensure(t.Context(), Request{Distro: "k3s", Version: "1.34.2+k3s1"})).To(HaveField("Version", "1.34.2+k3s1"))

	// Anew, it is what there is now, and nothing else.
	grow(true)
	g.Expect(read().file.Versions).To(HaveKeyWithValue("k3s@stable", "1.34.9+k3s1"))
	g.Expect(read().file.Files).To(And(HaveLen(2), HaveKey(strings.Replace(folder, "1.34.2", "1.34.9", 1)+binary)))
}

// TestLockedImages: an image's manifest is locked as a file is, and what is
// locked as upstream's is not built instead.
func TestLockedImages(t *testing.T) {
	g := NewWithT(t)
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), LockName)
	lay(t, dir, "1.34.4", map[string]v1.Image{"v1.34.4": randomImage(t)})
	store := func(sources []string, lock *Lock) *Store {
		return open(t, t.TempDir(), helloModules(), Options{Sources: sources, Mirror: dir, Lock: lock})
	}
	both := []string{SourceMirror, SourceBuild}
	lock, err := GrowLock(path, false)
	g.Expect(err).NotTo(HaveOccurred())
	_, how, err := store(both, lock).Lock(t.Context(), Request{Distro: "kubeadm", Version: "1.34"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(how).To(Equal("digests"))
	g.Expect(lock.Write()).To(Succeed())
	lock, err = ReadLock(path)
	g.Expect(err).NotTo(HaveOccurred())
	const image = "https://registry.k8s.io/v2/hello/manifests/v1.34.4"
	g.Expect(lock.file.Files).To(And(HaveLen(3), HaveKey(image)))

	lay(t, dir, "1.34.4", map[string]v1.Image{"v1.34.4": randomImage(t)})
	_, err = store(both, lock).Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).To(MatchError(And(ContainSubstring(image+" is refused by "+path), ContainSubstring("holds kubeadm 1.34.4 to upstream's files"))))
	_, _, err = store(buildOnly, lock).Resolve(t.Context(), Request{Distro: "kubeadm", Version: "1.34"})
	g.Expect(err).To(MatchError(ContainSubstring("holds kubeadm 1.34.4 to upstream's files")))
}

func TestReadLockRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, LockName)
	for text, want := range map[string]string{
		"":                                    "EOF",
		"apiVersion: lxcmatrix.dev/lock/v2\n": `its apiVersion is "lxcmatrix.dev/lock/v2", this program reads "lxcmatrix.dev/lock/v1"`,
		"apiVersion: lxcmatrix.dev/lock/v1\nfile: {}\n":                                 "file not found in type",
		"apiVersion: lxcmatrix.dev/lock/v1\nfiles: {x: {sha256: abc, size: 1}}\n":       `x: "abc" is no SHA-256`,
		"apiVersion: lxcmatrix.dev/lock/v1\nversions: [k3s@stable]\n":                   "cannot construct",
		"{\"apiVersion\": \"lxcmatrix.dev/lock/v1\", \"files\": {\"x\": {\"sha256\": 7": "yaml",
	} {
		write(t, path, text)
		if _, err := ReadLock(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if _, err := GrowLock(path, false); err == nil {
			t.Errorf("%q: a lock that cannot be read is grown", text)
		}
	}
	g := NewWithT(t)
	_, err := FindLock(filepath.Join(dir, "none"), path)
	g.Expect(err).To(MatchError(fs.ErrNotExist), "one that is named must be there")
	g.Expect(FindLock("", filepath.Join(dir, "none"))).To(BeNil())
	g.Expect(FindLock("", "")).To(BeNil())
}
