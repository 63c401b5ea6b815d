// Package artifact gets the files of Kubernetes releases: from its cache, a
// mirror, upstream, or a build from Go modules. Every file has a SHA-256 that
// is checked before every use.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/sync/errgroup"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// The sources, as a plan's sources.artifacts names them.
const (
	SourceCache    = "cache"
	SourceMirror   = "mirror"
	SourceUpstream = "upstream"
	SourceBuild    = "build"
)

// The provenances.
const (
	// ProvenanceRelease files are upstream's own.
	ProvenanceRelease = "release"
	// ProvenanceBuilt files were compiled here.
	ProvenanceBuilt = "built"
)

// The kinds of files.
const (
	// KindBinary is an executable.
	KindBinary = "binary"
	// KindPlugin is an executable that container runtimes look for among the
	// CNI plugins.
	KindPlugin = "plugin"
	// KindImages is a docker-archive of container images, as
	// `ctr -n k8s.io images import` reads it. The harness loads it.
	KindImages = "images"
	// KindAirgap is an archive of container images that the distribution loads
	// itself, from its images folder, in the compression that its name says.
	KindAirgap = "airgap"
	// KindBundle is a .tar.gz that is unpacked over a node's /usr/local.
	KindBundle = "bundle"
)

// ImagesName is the name of the one file that holds a release's images.
const ImagesName = "images.tar"

// Options of a Store.
type Options struct {
	// Sources in the order in which they are tried; empty means cache, mirror,
	// upstream, build.
	Sources []string
	// Mirror is a folder's path, or a file://, http:// or https:// URL, under which
	// upstream's files lie as HOST/PATH, percent-decoded, a registry's as
	// HOST/v2/PATH; empty leaves the mirror out. Its files are held to the checksums
	// that it has itself: a mirror is trusted, http:// with everybody on the way.
	Mirror string
	// Lock holds everything to its versions and bytes; nil is none.
	Lock *Lock
	// Progress may be nil.
	Progress provisioner.Progress
}

// Request says which release is wanted, and how much of it.
type Request struct {
	// Distro is the distribution: kubeadm, k3s, rke2.
	Distro string
	// Version is with or without a leading v: exact, "1.34.2+k3s1", for a
	// release's files. To be resolved it may also be a minor, "1.34", or a channel
	// of the distribution's, "stable".
	Version string
	// Parts names those of the release's optional parts that are wanted: of rke2
	// the CNI whose images come with it. Empty means the distribution's default,
	// canal, and PartNone alone none; where it has no parts it must be empty.
	Parts []string
}

// PartNone stands for no part of a release that has some.
const PartNone = "none"

// String is the release as errors and progress name it.
func (r Request) String() string {
	return strings.TrimSpace(r.Distro + " " + r.Version + " " + strings.Join(r.Parts, " "))
}

// Release is a release's verified files. What is in one:
//
//	kubeadm  KindBinary kubeadm, kubelet, kubectl and, where the release brings
//	         its own runtime, containerd, containerd-shim-runc-v2, ctr, runc;
//	         KindPlugin bridge, host-local, loopback, portmap in that case;
//	         KindImages images.tar: the control plane's images and the probe's
//	k3s      KindBinary k3s; KindAirgap k3s-airgap-images-ARCH.tar.zst;
//	         KindImages images.tar: the probe's
//	rke2     KindBundle rke2.linux-ARCH.tar.gz; KindAirgap
//	         rke2-images-core.linux-ARCH.tar.zst and, for each of Parts,
//	         rke2-images-PART.linux-ARCH.tar.zst; KindImages images.tar: the probe's
type Release struct {
	// Distro is the distribution: kubeadm, k3s, rke2.
	Distro string `json:"distro"`
	// Version is exact, without a leading v.
	Version string `json:"version"`
	// Parts are the optional parts that it was got with, sorted; a default is
	// named too.
	Parts []string `json:"parts,omitempty"`
	// Arch is the GOARCH that the files are for.
	Arch string `json:"arch"`
	// Provenance is release or built. The probe image, which is always ours,
	// does not count.
	Provenance string `json:"provenance"`
	// Source is where the files were first had from: mirror, upstream, build.
	Source  string  `json:"source"`
	Files   []File  `json:"files"`
	Runtime Runtime `json:"runtime"`
}

// Runtime says which containerd and runc a release is run with: "os" is the
// package of the node's OS, "bundled" one that is inside the distribution,
// anything else the name of one of the release's files. Both are of one side.
type Runtime struct {
	Containerd string `json:"containerd" yaml:"containerd"`
	Runc       string `json:"runc" yaml:"runc"`
	// Plugins are those of the release's files that are CNI plugins; without any
	// they are packages of the node's OS, or bundled as the rest is.
	Plugins []string `json:"plugins,omitempty" yaml:"plugins,omitempty"`
}

// kind is that of one of the release's binaries.
func (r Runtime) kind(binary string) string {
	if slices.Contains(r.Plugins, binary) {
		return KindPlugin
	}
	return KindBinary
}

// OwnRuntime says whether the release brings its containerd and runc.
func (r Release) OwnRuntime() bool { return r.Runtime.Containerd != RuntimeOS }

// The Runtimes that are no file of the release.
const (
	// RuntimeOS is the one that comes with the node's OS.
	RuntimeOS = "os"
	// RuntimeBundled is the one that k3s and rke2 unpack themselves.
	RuntimeBundled = "bundled"
)

// OwnPlugins says whether the release has CNI plugins in it.
func (r Release) OwnPlugins() bool {
	return r.Runtime.Containerd == RuntimeBundled || len(r.Runtime.Plugins) > 0
}

// Runtime is, before it is had, what a release will be run with.
func (s *Store) Runtime(distro, version string) Runtime {
	r, _ := s.recipe(distro, version)
	return r.Runtime
}

// Images are, before a release is had, the names of its images as far as they
// are known by its minor, tags included.
func (s *Store) Images(distro, version string) []Image {
	r, _ := s.recipe(distro, version)
	var images []Image
	for _, name := range r.imageNames(true) {
		images = append(images, Image{Name: name})
	}
	return images
}

// File finds a file by name.
func (r Release) File(name string) (File, bool) {
	for _, f := range r.Files {
		if f.Name == name {
			return f, true
		}
	}
	return File{}, false
}

// Image finds a container image by its name without a tag, and gives it with
// the release's: registry.k8s.io/pause:3.10.1. It is empty where there is none.
func (r Release) Image(repository string) string {
	for _, f := range r.Files {
		for _, i := range f.Images {
			if strings.HasPrefix(i.Name, repository+":") {
				return i.Name
			}
		}
	}
	return ""
}

// File is a file of a release, in the cache.
type File struct {
	// Name is what the file is called on a node: kubelet, images.tar,
	// k3s-airgap-images-amd64.tar.zst.
	Name string `json:"name"`
	// Kind is KindBinary, KindPlugin, KindImages, KindAirgap or KindBundle.
	Kind string `json:"kind"`
	// Path is where it lies in the cache, under its digest. It is read only.
	Path string `json:"path,omitempty"`
	// SHA256 is in hex, Size in bytes.
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	// Source is where it was first had from.
	Source string `json:"source"`
	// Images are the images in a KindImages or KindAirgap file, by name, sorted.
	Images []Image `json:"images,omitempty"`
}

func (f File) blob() blob { return blob{f.SHA256, f.Size} }

// Image is a container image in an archive.
type Image struct {
	// Name with its tag: registry.k8s.io/pause:3.10.1.
	Name string `json:"name"`
	// Digest is that of the image's manifest as upstream's registry has it, or
	// as it was assembled.
	Digest string `json:"digest"`
}

// Store gets releases and keeps them. It is safe for concurrent use, by
// several processes too.
type Store struct {
	cache    cache
	sources  []string
	progress provisioner.Progress
	lock     *Lock
	arch     string
	modules  fs.FS
	knowledge
	remotes map[string]*remote

	mu       sync.Mutex
	versions map[string]resolved
}

// DefaultCacheDir is $LXCMATRIX_CACHE, or lxcmatrix in the user's cache folder.
func DefaultCacheDir() (string, error) {
	if dir := os.Getenv("LXCMATRIX_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder (set LXCMATRIX_CACHE): %w", err)
	}
	return filepath.Join(dir, "lxcmatrix"), nil
}

// New opens a store in cacheDir, which is made when it is needed. Its files
// lie under cacheDir/artifacts.
func New(cacheDir string, opts Options) (*Store, error) {
	return newStore(cacheDir, opts, fixtures.Modules())
}

func newStore(cacheDir string, opts Options, modules fs.FS) (*Store, error) {
	if cacheDir == "" {
		return nil, errors.New("open the artifact store: no cache folder given")
	}
	root, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, fmt.Errorf("open the artifact store: %w", err)
	}
	known, err := loadKnowledge(modules)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cache:     cache{filepath.Join(root, "artifacts")},
		sources:   opts.Sources,
		progress:  opts.Progress,
		lock:      opts.Lock,
		arch:      runtime.GOARCH,
		modules:   modules,
		knowledge: known,
		versions:  map[string]resolved{},
	}
	if len(s.sources) == 0 {
		s.sources = []string{SourceCache, SourceMirror, SourceUpstream, SourceBuild}
	}
	for _, source := range s.sources {
		if !slices.Contains([]string{SourceCache, SourceMirror, SourceUpstream, SourceBuild}, source) {
			return nil, fmt.Errorf("open the artifact store: unknown source %q", source)
		}
	}
	if s.progress == nil {
		s.progress = silent{}
	}
	if s.remotes, err = newRemotes(opts.Mirror, newNetwork()); err != nil {
		return nil, err
	}
	return s, nil
}

// silent shows no progress.
type silent struct{}

func (silent) Step(string, ...any) func(error) { return func(error) {} }
func (silent) Note(string, ...any)             {}

// Ensure has the release's files in the cache, verified, from the first
// source that can give all of them, so that a release is never of two minds.
// Where none can, the error is a *provisioner.UnavailableError. A file that is
// not what it should be, in the cache or from outside, is a *ChecksumError, and
// no other source is tried. The cache counts what it has from one of the other
// sources, in their order.
func (s *Store) Ensure(ctx context.Context, wanted Request) (Release, error) {
	return s.ensure(ctx, wanted, s.sources, false)
}

// Pull is Ensure from mirror and upstream alone. With force, what the cache
// has is replaced.
func (s *Store) Pull(ctx context.Context, wanted Request, force bool) (Release, error) {
	return s.ensure(ctx, wanted, []string{SourceCache, SourceMirror, SourceUpstream}, force)
}

// Build is Ensure by a build alone. With force, what the cache has is
// replaced, base layers included.
func (s *Store) Build(ctx context.Context, wanted Request, force bool) (Release, error) {
	return s.ensure(ctx, wanted, []string{SourceCache, SourceBuild}, force)
}

func (s *Store) ensure(ctx context.Context, wanted Request, sources []string, force bool) (Release, error) {
	wanted, err := s.normal(wanted)
	if err == nil {
		_, err = s.upstreams[wanted.Distro].exact(wanted.Version)
	}
	if err != nil {
		return Release{}, fmt.Errorf("get %s: %w", wanted, err)
	}
	if wanted.Distro == "" || strings.ContainsAny(wanted.Distro, "/\\.") {
		return Release{}, fmt.Errorf("get %q %s: not a distribution's name", wanted.Distro, wanted.Version)
	}
	if !force && sources[0] == SourceCache {
		// What is there needs no lock.
		if release, err := s.cached(ctx, wanted, sources); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return release, err
		}
	}
	key := s.releaseKey(wanted)
	unlock, err := s.cache.lock(ctx, key)
	if err != nil {
		return Release{}, err
	}
	defer unlock()
	unavailable := &provisioner.UnavailableError{What: wanted.String()}
	for _, source := range sources {
		release, err := s.from(ctx, source, wanted, sources, force)
		if err == nil {
			return release, nil
		}
		var checksum *ChecksumError
		if errors.As(err, &checksum) {
			return Release{}, err
		}
		if ctx.Err() != nil {
			return Release{}, fmt.Errorf("get %s: %w", wanted, context.Cause(ctx))
		}
		unavailable.Tried = append(unavailable.Tried, source+": "+err.Error())
		if source != SourceCache {
			s.progress.Note("%s: %s has it not: %v", wanted, source, err)
		}
	}
	return Release{}, unavailable
}

// errNotCached is what the cache answers for what it does not have.
var errNotCached = fmt.Errorf("not in the cache: %w", fs.ErrNotExist)

// from gets a release from one source; its lock must be held.
func (s *Store) from(ctx context.Context, source string, wanted Request, sources []string, force bool) (Release, error) {
	if source == SourceCache {
		if force {
			return Release{}, errors.New("passed over")
		}
		// Another process may have made it while this one waited for the lock.
		return s.cached(ctx, wanted, sources)
	}
	key := s.releaseKey(wanted)
	work, remove, err := s.cache.workDir(key)
	if err != nil {
		return Release{}, err
	}
	defer remove()
	var e entry
	if source == SourceBuild {
		if err := s.mayBuild(wanted); err != nil {
			return Release{}, err
		}
		e, err = s.build(ctx, wanted, work, force)
	} else {
		e, err = s.pull(ctx, source, wanted, work)
	}
	if err != nil {
		return Release{}, err
	}
	if err := s.cache.store(key+"/"+source, e); err != nil {
		return Release{}, err
	}
	return s.located(e.Release), nil
}

// entry is a release in the cache's index.
type entry struct {
	Release
	// Fingerprint is of everything that was built; Go is the toolchain's
	// version that did.
	Fingerprint string `json:"fingerprint"`
	Go          string `json:"go"`
	// Origins are what it was downloaded from.
	Origins []origin `json:"origins,omitempty"`
}

// origin is a file, or an image's manifest, as it was downloaded.
type origin struct {
	// URL is upstream's.
	URL string `json:"url"`
	blob
}

func (s *Store) releaseKey(wanted Request) string {
	platform := strings.Join(append([]string{"linux-" + s.arch}, wanted.Parts...), "+")
	return fmt.Sprintf("releases/%s/%s/%s", wanted.Distro, wanted.Version, platform)
}

// cached finds a release in the cache and verifies all its files. Only what
// came from one of sources counts, and what was built only as long as a build
// would make the same.
func (s *Store) cached(ctx context.Context, wanted Request, sources []string) (Release, error) {
	if !slices.Contains(sources, SourceCache) {
		return Release{}, errNotCached
	}
	var refused error
	for _, source := range sources {
		var e entry
		err := s.cache.load(s.releaseKey(wanted)+"/"+source, &e)
		if source == SourceCache || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Release{}, err
		}
		if !s.current(ctx, e) {
			continue
		}
		if refused = s.locked(wanted, e); refused != nil {
			continue
		}
		err = s.verify(ctx, e.Release)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Release{}, err
		}
		return s.located(e.Release), nil
	}
	if refused != nil {
		return Release{}, fmt.Errorf("%w: %w", errNotCached, refused)
	}
	return Release{}, errNotCached
}

// locked says whether a release in the cache is what the lock holds it to.
func (s *Store) locked(wanted Request, e entry) error {
	if s.lock == nil {
		return nil
	}
	if e.Source == SourceBuild {
		return s.mayBuild(wanted)
	}
	if len(e.Origins) == 0 {
		return errors.New("it is not known what it was downloaded from")
	}
	for _, o := range e.Origins {
		if err := s.lock.allows(o.URL, o.SHA256); err != nil {
			return err
		}
	}
	for _, o := range e.Origins {
		s.lock.addFile(o.URL, o.blob)
	}
	return nil
}

// mayBuild says whether a release may be built: what is locked as upstream's
// files may not.
func (s *Store) mayBuild(wanted Request) error {
	r, _ := s.recipe(wanted.Distro, wanted.Version)
	if s.lock.has(s.downloads(s.upstreams[wanted.Distro], r, wanted)) {
		return fmt.Errorf("%s holds %s to upstream's files", s.lock.path, wanted)
	}
	return nil
}

// current says whether what was built of an entry is what a build would make
// now. Without a Go toolchain, the one that made it will do.
func (s *Store) current(ctx context.Context, e entry) bool {
	version := e.Go
	if g, err := findGo(ctx); err == nil {
		version = g.version
	}
	want, err := s.builtPart(e.Distro, e.Version, e.Source).fingerprint(s.modules, version, s.arch)
	return err == nil && want == e.Fingerprint
}

// builtPart is what of a release is built when the rest comes from source.
func (s *Store) builtPart(distro, version, source string) recipe {
	r, _ := s.recipe(distro, version)
	if source == SourceBuild {
		return r
	}
	return r.only(true)
}

// recipe finds the recipe for a version. Where none is of its minor, it is that
// of the next older minor, else the oldest: what files a release has, what it
// is run with, and our own images, are as they were. A distribution that nobody
// builds has the recipe of what is ours.
func (s *Store) recipe(distro, version string) (r recipe, found bool) {
	own := s.own
	own.Distro, own.Runtime = distro, s.upstreams[distro].Runtime
	asked, err := semver.NewVersion(version)
	if err != nil {
		return own, false
	}
	for _, candidate := range s.recipes {
		if candidate.Distro != distro {
			continue
		}
		of := semver.MustParse(candidate.Version)
		if of.Major() == asked.Major() && of.Minor() == asked.Minor() {
			return candidate, true
		}
		if r.Distro == "" || of.LessThan(asked) {
			r = candidate
		}
	}
	if r.Distro == "" {
		return own, false
	}
	return r, false
}

// located fills in where the files lie, which the index leaves out so that a
// cache may be moved.
func (s *Store) located(r Release) Release {
	r.Files = slices.Clone(r.Files)
	for i := range r.Files {
		r.Files[i].Path = s.cache.path(r.Files[i].blob())
	}
	return r
}

// verify hashes every file of a release, as many at a time as there are CPUs.
func (s *Store) verify(ctx context.Context, r Release) error {
	verb := "pull"
	if r.Source == SourceBuild {
		verb = "build"
	}
	remedy := fmt.Sprintf("make it anew with \"lxcmatrix artifacts %s --force %s-%s\"", verb, r.Distro, r.Version)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, f := range r.Files {
		group.Go(func() error {
			return s.cache.verify(ctx, fmt.Sprintf("%s of %s %s", f.Name, r.Distro, r.Version), f.blob(), remedy)
		})
	}
	return group.Wait()
}

// List names the releases in the cache, without checking their files.
func (s *Store) List() ([]Release, error) {
	keys, err := s.cache.keys("releases")
	if err != nil {
		return nil, err
	}
	var releases []Release
	for _, key := range keys {
		var e entry
		if err := s.cache.load(key, &e); err != nil {
			return nil, err
		}
		releases = append(releases, s.located(e.Release))
	}
	return releases, nil
}

// Verify checks every file of every release in the cache. It names all that
// are wrong: each is a *ChecksumError, or fs.ErrNotExist.
func (s *Store) Verify(ctx context.Context) error {
	releases, err := s.List()
	if err != nil {
		return err
	}
	var problems []error
	for _, r := range releases {
		done := s.progress.Step("verify %s %s from %s", r.Distro, r.Version, r.Source)
		var wrong []error
		for _, f := range r.Files {
			alone := r
			alone.Files = []File{f}
			if err := s.verify(ctx, alone); err != nil {
				wrong = append(wrong, err)
			}
		}
		err := errors.Join(wrong...)
		done(err)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// Prune removes what no release in the cache has any longer, such as files of
// an earlier build, and says how many bytes that was. It is an error while
// something is being made.
func (s *Store) Prune() (freed int64, err error) {
	if freed, err = s.cache.prune(s.indexed); err != nil {
		return freed, fmt.Errorf("prune the artifact cache: %w", err)
	}
	return freed, nil
}

// indexed is the digests of all content that the index names.
func (s *Store) indexed() (map[string]bool, error) {
	keys, err := s.cache.keys("")
	if err != nil {
		return nil, err
	}
	digests := map[string]bool{}
	for _, key := range keys {
		// A base is a blob, a release has files.
		var named struct {
			blob
			Files []blob `json:"files"`
		}
		if err := s.cache.load(key, &named); err != nil {
			return nil, err
		}
		for _, b := range append(named.Files, named.blob) {
			digests[b.SHA256] = true
		}
	}
	return digests, nil
}
