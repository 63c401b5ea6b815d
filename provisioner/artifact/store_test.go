package artifact

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// steps records what a store did.
type steps struct {
	mu    sync.Mutex
	lines []string
}

func (s *steps) Step(format string, args ...any) func(error) {
	s.Note(format, args...)
	return func(error) {}
}

func (s *steps) Note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// count is how many lines begin with prefix.
func (s *steps) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func open(t *testing.T, dir string, modules fs.FS, opts Options) *Store {
	t.Helper()
	s, err := newStore(dir, opts, modules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBuildWithC: a module with C becomes a program that needs no library of
// the node's OS.
func TestBuildWithC(t *testing.T) {
	g := NewWithT(t)
	modules := helloModules()
	const name = "own.yaml"
	modules[name] = &fstest.MapFile{Data: []byte(strings.Replace(string(modules[name].Data), "- name: own\n", "- name: own\n  cgo: true\n", 1))}
	modules["own/main.go.in"] = &fstest.MapFile{Data: []byte("package main\n\n// static int answer(void) { return 42; }\nimport \"C\"\n\nfunc main() { println(C.answer()) }\n")}
	known, err := loadKnowledge(modules)
	g.Expect(err).NotTo(HaveOccurred())
	toolchain, err := findGo(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	out := t.TempDir()
	g.Expect(toolchain.build(t.Context(), modules, known.own.Modules[0], runtime.GOARCH, t.TempDir(), out)).To(Succeed())
	said, err := exec.CommandContext(t.Context(), filepath.Join(out, "own")).CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(said)).To(Equal("42\n"))
	program, err := elf.Open(filepath.Join(out, "own"))
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = program.Close() }()
	g.Expect(program.Progs).NotTo(ContainElement(HaveField("Type", elf.PT_INTERP)), "it asks for a dynamic linker")
}

var buildOnly = []string{SourceCache, SourceBuild}

func TestBuild(t *testing.T) {
	g := NewWithT(t)
	dir, seen := t.TempDir(), &steps{}
	s := open(t, dir, helloModules(), Options{Sources: buildOnly, Progress: seen})
	release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "v1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(release.Version).To(Equal("1.34.4"))
	g.Expect(release.Provenance).To(Equal(ProvenanceBuilt))
	g.Expect(release.Files).To(HaveLen(3))
	for _, name := range []string{"kubeadm", "kubelet"} {
		f, ok := release.File(name)
		g.Expect(ok).To(BeTrue())
		out, err := exec.CommandContext(t.Context(), f.Path).Output()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(out)).To(Equal(name + " v1.34.4\n"))
	}
	archive, _ := release.File(ImagesName)
	g.Expect(archive.Images).To(HaveLen(2))
	for _, i := range archive.Images {
		tag, err := name.NewTag(i.Name)
		g.Expect(err).NotTo(HaveOccurred())
		image, err := tarball.ImageFromPath(archive.Path, &tag)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(validate.Image(image)).To(Succeed())
		config, err := image.ConfigFile()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(config.Config.Entrypoint).To(HaveLen(1))
		g.Expect(config.Config.Env).To(ContainElement(HavePrefix("PATH=/usr/local/sbin:")))
		g.Expect(config.Created.Time).To(BeTemporally("==", epoch))
	}

	// The second time it is there, for another store and without a build.
	builds := seen.count("build ")
	again, err := open(t, dir, helloModules(), Options{Sources: buildOnly, Progress: seen}).Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again).To(Equal(release))
	g.Expect(seen.count("build ")).To(Equal(builds))
	list, err := s.List()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(list).To(Equal([]Release{release}))
	g.Expect(s.Verify(t.Context())).To(Succeed())

	// The bytes depend on nothing but what went in.
	elsewhere, err := open(t, t.TempDir(), helloModules(), Options{Sources: buildOnly}).Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	for i, f := range elsewhere.Files {
		g.Expect(f.SHA256).To(Equal(release.Files[i].SHA256), f.Name)
	}

	// Nothing half-made is left, and other content is built anew.
	left, err := os.ReadDir(filepath.Join(dir, "artifacts", "tmp"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
	changed := helloModules()
	changed["hello/main.go.in"].Data = []byte(strings.Replace(string(changed["hello/main.go.in"].Data), "kubeadm", "changed", 1))
	other, err := open(t, dir, changed, Options{Sources: buildOnly}).Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(other.Files[0].SHA256).NotTo(Equal(release.Files[0].SHA256))

	// What was built does not count where building is not allowed.
	_, err = open(t, dir, changed, Options{Sources: []string{SourceCache}}).Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	var unavailable *provisioner.UnavailableError
	g.Expect(errors.As(err, &unavailable)).To(BeTrue())
}

func TestDamageIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, helloModules(), Options{Sources: buildOnly})
	release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	if err != nil {
		t.Fatal(err)
	}
	f, _ := release.File("kubelet")
	whole, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 1
	for name, content := range map[string][]byte{"flipped byte": flipped, "short": whole[:len(whole)-1], "empty": nil, "longer": append(append([]byte(nil), whole...), 0)} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			g.Expect(os.WriteFile(f.Path, content, 0o755)).To(Succeed())
			_, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
			var refused *ChecksumError
			g.Expect(errors.As(err, &refused)).To(BeTrue(), "%v", err)
			g.Expect(refused.Name).To(Equal("kubelet of kubeadm 1.34.4"))
			g.Expect(refused.Want).To(Equal(f.SHA256))
			g.Expect(refused.GotSize).To(Equal(int64(len(content))))
			g.Expect(err.Error()).To(ContainSubstring("lxcmatrix artifacts build --force kubeadm-1.34.4"))
			g.Expect(errors.As(s.Verify(t.Context()), &refused)).To(BeTrue())
		})
	}
	t.Run("remedy", func(t *testing.T) {
		g := NewWithT(t)
		_, err := s.Build(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"}, true)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Verify(t.Context())).To(Succeed())
	})
	t.Run("missing is made anew", func(t *testing.T) {
		g := NewWithT(t)
		g.Expect(os.Remove(f.Path)).To(Succeed())
		g.Expect(errors.Is(s.Verify(t.Context()), fs.ErrNotExist)).To(BeTrue())
		_, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Verify(t.Context())).To(Succeed())
	})
}

func TestOneBuildForMany(t *testing.T) {
	g := NewWithT(t)
	dir, seen := t.TempDir(), &steps{}
	var group sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		s := open(t, dir, helloModules(), Options{Sources: buildOnly, Progress: seen})
		group.Go(func() { _, errs[i] = s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"}) })
	}
	group.Wait()
	g.Expect(errors.Join(errs...)).NotTo(HaveOccurred())
	g.Expect(seen.count("write ")).To(Equal(1))
}

func TestBuildFails(t *testing.T) {
	broken := helloModules()
	broken["hello/main.go.in"] = &fstest.MapFile{Data: []byte("package main\n\nfunc main() { missing() }\n")}
	unpinned := helloModules()
	unpinned["hello/main.go.in"] = &fstest.MapFile{Data: []byte("package main\n\nimport _ \"nowhere.test/x\"\n\nfunc main() {}\n")}
	for _, c := range []struct {
		name, distro, version, want string
		modules                     fs.FS
	}{
		{"broken source", "kubeadm", "1.34.4", "undefined: missing", broken},
		{"module not pinned", "kubeadm", "1.34.4", "nowhere.test/x", unpinned},
		{"other patch", "kubeadm", "1.34.5", "no recipe to build kubeadm 1.34.5; of kubeadm there is 1.34.4", helloModules()},
		{"other distro", "rke2", "1.34.4", "no recipe to build rke2 1.34.4; of rke2 there is none", helloModules()},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := NewWithT(t)
			s := open(t, t.TempDir(), c.modules, Options{Sources: buildOnly})
			_, err := s.Ensure(t.Context(), Request{Distro: c.distro, Version: c.version})
			var unavailable *provisioner.UnavailableError
			g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
			g.Expect(unavailable.Tried).To(HaveLen(2))
			g.Expect(unavailable.Tried[1]).To(ContainSubstring(c.want))
			g.Expect(s.List()).To(BeEmpty())
		})
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	s := open(t, dir, helloModules(), Options{Sources: buildOnly})
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	_, err := s.Ensure(ctx, Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(errors.Is(err, enough) || errors.Is(err, context.Canceled)).To(BeTrue(), "%v", err)
	g.Expect(s.List()).To(BeEmpty())
	left, _ := filepath.Glob(filepath.Join(dir, "artifacts", "tmp", "*"))
	g.Expect(left).To(BeEmpty())
}

func TestKilledBuildIsCleanedUp(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	s := open(t, dir, helloModules(), Options{Sources: buildOnly})
	stale := filepath.Join(dir, "artifacts", "tmp", flat(s.releaseKey(Request{Distro: "kubeadm", Version: "1.34.4"}))+"-12345")
	g.Expect(os.MkdirAll(stale, 0o755)).To(Succeed())
	_, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(stale).NotTo(BeADirectory())
}

func TestEnsureWantsExactNames(t *testing.T) {
	s := open(t, t.TempDir(), helloModules(), Options{Sources: buildOnly})
	for _, c := range [][2]string{{"kubeadm", "1.34"}, {"kubeadm", "latest"}, {"kubeadm", "../1.34.4"}, {"../kubeadm", "1.34.4"}, {"", "1.34.4"}} {
		_, err := s.Ensure(t.Context(), Request{Distro: c[0], Version: c[1]})
		var unavailable *provisioner.UnavailableError
		if err == nil || errors.As(err, &unavailable) {
			t.Errorf("%q gives %v", c, err)
		}
	}
}

func TestPrune(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	s := open(t, dir, helloModules(), Options{Sources: buildOnly})
	g.Expect(s.Prune()).To(BeZero())
	before, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	layer := filepath.Join(t.TempDir(), "layer.tar")
	g.Expect(os.WriteFile(layer, []byte("layer"), 0o644)).To(Succeed())
	base, err := s.cache.adopt(t.Context(), layer, 0o644)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(s.cache.store("bases/base", base)).To(Succeed())
	g.Expect(s.Prune()).To(BeZero())
	g.Expect(s.cache.path(base)).To(BeAnExistingFile())

	changed := helloModules()
	changed["hello/main.go.in"].Data = append([]byte("// "+strings.Repeat("x", 99)+"\n"), []byte(strings.Replace(string(changed["hello/main.go.in"].Data), "kubeadm", "changed", 1))...)
	s = open(t, dir, changed, Options{Sources: buildOnly})
	after, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})
	g.Expect(err).NotTo(HaveOccurred())
	old, _ := before.File("kubeadm")
	oldArchive, _ := before.File(ImagesName)
	g.Expect(s.Prune()).To(Equal(old.Size + oldArchive.Size))
	g.Expect(old.Path).NotTo(BeAnExistingFile())
	g.Expect(s.Verify(t.Context())).To(Succeed())
	g.Expect(s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.4"})).To(Equal(after))

	unlock, err := s.cache.lock(t.Context(), "something")
	g.Expect(err).NotTo(HaveOccurred())
	_, err = s.Prune()
	g.Expect(err).To(MatchError(ContainSubstring("something is being made")))
	unlock()
	g.Expect(s.Prune()).To(BeZero())
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
		want string
	}{
		{"unknown source", Options{Sources: []string{"torrent"}}, `unknown source "torrent"`},
		{"mirror by another protocol", Options{Mirror: "ftp://mirror.test"}, "neither a folder's path nor file:///PATH, http://HOST or https://HOST"},
		{"mirror on another's disk", Options{Mirror: "file://elsewhere/mirror"}, "neither a folder's path nor file:///PATH"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(t.TempDir(), c.opts)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(c.want)))
		})
	}
}

func TestDefaultCacheDir(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("LXCMATRIX_CACHE", "/somewhere/else")
	g.Expect(DefaultCacheDir()).To(Equal("/somewhere/else"))
	t.Setenv("LXCMATRIX_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/xdg")
	g.Expect(DefaultCacheDir()).To(Equal("/xdg/lxcmatrix"))
}
