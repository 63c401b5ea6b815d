// Package image makes the images that nodes are created from. A base image is
// an OS as its maker has it; a prepared image is a base with the packages, the
// runtime, the Kubernetes binaries and the container images that every cell of
// a distribution needs, made once on this machine and named by the hash of all
// that went in. It is kept as one file, which every host's Incus server
// imports as it is: its fingerprint is the same everywhere.
// No fix is ever part of one: a fix in an image could not be left out.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// The sources, as a plan's sources.images names them.
const (
	SourceServer     = "server"
	SourceMmdebstrap = "mmdebstrap"
)

// SourceImported is an image that the user imported. It is in no plan's list of
// sources: once it is there, it is what its OS is made from.
const SourceImported = "imported"

// recipeVersion is part of every prepared image's hash: a change of how it is
// made makes a new one.
const recipeVersion = "5"

// Store makes images and keeps the prepared ones as files of this machine, for
// every host that wants them.
type Store struct {
	// Workshop is called where an image has to be made, and only then.
	Workshop Workshop
	// CacheDir holds prepared images, locks and temporary files.
	CacheDir string
	// Sources are tried in this order.
	Sources  []string
	OSes     []OS
	Progress provisioner.Progress

	images imageServer
}

// Workshop opens the Incus server that images are made on; leave is called
// when that is done.
type Workshop func(ctx context.Context) (server *incus.Server, leave func(context.Context) error, err error)

// On is a workshop on a server that is open anyway.
func On(server *incus.Server) Workshop {
	return func(context.Context) (*incus.Server, func(context.Context) error, error) {
		return server, func(context.Context) error { return nil }, nil
	}
}

// Content is what a distribution wants inside a prepared image.
type Content struct {
	// Name and Version of the distribution, for the image's description.
	Name, Version string
	// Binaries are put into /usr/local/bin under their names.
	Binaries []Blob
	// Brings is what of the OS is not installed, since the release has it.
	Brings
	// Archives of container images are imported into containerd.
	Archives []Blob
	// Bundles are .tar.gz files that are unpacked over /usr/local.
	Bundles []Blob
	// Kept are put where they say, as they are.
	Kept []Kept
	// Links maps the paths of symbolic links to where they lead.
	Links map[string]string
	// Files and Units, of which some are enabled.
	Files []provisioner.File
	Units []provisioner.Unit
}

// Blob is a verified file of this machine.
type Blob struct {
	Name, Path, SHA256 string
}

// OS finds a node OS by name.
func (s *Store) OS(name string) (OS, error) {
	var names []string
	for _, o := range s.OSes {
		if o.Name == name {
			return o, nil
		}
		names = append(names, o.Name)
	}
	return OS{}, &provisioner.UnavailableError{What: "image " + name,
		Tried: []string{"no such node OS is known; known are " + strings.Join(names, ", ")}}
}

// sources are those of the store that could have an OS' image.
func (s *Store) sources(o OS) []string {
	var usable []string
	for _, source := range s.Sources {
		if source == SourceServer && o.Server != "" || source == SourceMmdebstrap && o.Mmdebstrap != nil {
			usable = append(usable, source)
		}
	}
	return usable
}

// unavailable is an OS' image that no source has, with each source's answer.
func unavailable(o OS, tried ...string) error {
	return &provisioner.UnavailableError{What: "image " + o.Name,
		Tried: append(tried, fmt.Sprintf("to bring one of your own: lxcmatrix image import %s FILE", o.Name))}
}

// Resolve says what the nodes of an OS would be made from, and makes nothing.
// What cannot be had is a *provisioner.UnavailableError: an OS that nobody
// knows, an image that no source has, or a runtime or plugins for a release that
// brings none and finds none in the OS. The image server is asked only where
// nothing else has the image.
func (s *Store) Resolve(ctx context.Context, name string, release matrix.Distro, brings Brings) (matrix.Input, error) {
	o, err := s.OS(name)
	if err != nil {
		return matrix.Input{}, err
	}
	in, err := s.source(ctx, o)
	lack := o.lacks(release.Name+" "+release.Version, brings)
	var image *provisioner.UnavailableError
	switch {
	case err == nil:
		return in, lack
	case lack == nil || !errors.As(err, &image):
		return in, err
	}
	return in, &provisioner.UnavailableError{What: image.What, Tried: append(image.Tried, lack.Error())}
}

// source says where an OS' image comes from.
func (s *Store) source(ctx context.Context, o OS) (matrix.Input, error) {
	in := matrix.Input{Kind: "image", Name: o.Name}
	files := Files{Dir: FilesDir(s.CacheDir)}
	imported, err := files.imported(o)
	switch {
	case err == nil:
		in.Source, in.Digest = SourceImported, imported.Fingerprint
		return in, nil
	case !errors.Is(err, fs.ErrNotExist):
		return in, err
	}
	usable := s.sources(o)
	in.Source = strings.Join(usable, ", else ")
	made, err := files.List()
	if err != nil {
		return in, err
	}
	isOf := func(p Prepared) bool { return p.OS == o.Name }
	switch {
	case len(usable) == 0:
		return in, unavailable(o, "none of the sources "+strings.Join(s.Sources, ", ")+" has it")
	case len(usable) > 1, usable[0] != SourceServer, slices.ContainsFunc(made, isOf):
		return in, nil
	}
	if _, err := s.images.find(ctx, o.Server); err != nil {
		if ctx.Err() != nil {
			return in, err
		}
		return in, unavailable(o, SourceServer+": "+err.Error())
	}
	return in, nil
}

// base makes sure that an OS' base image is on the server. One that the user
// imported comes before every source.
func (s *Store) base(ctx context.Context, server *incus.Server, o OS) (incus.Image, error) {
	imported, err := Files{Dir: FilesDir(s.CacheDir)}.useImported(o)
	switch {
	case err == nil:
		if err := s.Import(ctx, server, imported); err != nil {
			return incus.Image{}, err
		}
		image, _, err := server.Image(ctx, imported.Name)
		return image, err
	case !errors.Is(err, fs.ErrNotExist):
		return incus.Image{}, err
	}
	recipe, err := json.Marshal(o.Mmdebstrap)
	if err != nil {
		return incus.Image{}, fmt.Errorf("name the base image of %s: %w", o.Name, err)
	}
	alias := "base/" + o.Name + "/" + hash(recipe)[:12]
	unlock, err := s.lock(ctx, alias)
	if err != nil {
		return incus.Image{}, err
	}
	defer unlock()
	if image, found, err := server.Image(ctx, alias); err != nil || found {
		return image, err
	}
	var tried []string
	for _, source := range s.sources(o) {
		get := s.fromServer
		if source == SourceMmdebstrap {
			get = s.fromMmdebstrap
		}
		image, err := get(ctx, server, o, alias)
		if err == nil {
			return image, nil
		}
		if ctx.Err() != nil {
			return incus.Image{}, fmt.Errorf("get image %s: %w", o.Name, context.Cause(ctx))
		}
		tried = append(tried, source+": "+err.Error())
	}
	if len(tried) == 0 {
		tried = []string{"none of the sources " + strings.Join(s.Sources, ", ") + " can make it"}
	}
	return incus.Image{}, unavailable(o, tried...)
}

func (s *Store) fromServer(ctx context.Context, to *incus.Server, o OS, alias string) (incus.Image, error) {
	there, err := s.images.find(ctx, o.Server)
	if err != nil {
		return incus.Image{}, err
	}
	end := s.step("copying image %s from %s", o.Server, s.images.address())
	image, err := to.CopyImage(ctx, there.server, there.image, alias)
	end(err)
	return image, err
}

func (s *Store) fromMmdebstrap(ctx context.Context, to *incus.Server, o OS, alias string) (_ incus.Image, err error) {
	end := s.step("making image %s with mmdebstrap", o.Name)
	defer func() { end(err) }()
	work, err := os.MkdirTemp("", "lxcmatrix-image-")
	if err != nil {
		return incus.Image{}, fmt.Errorf("make image %s: %w", o.Name, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	rootfs := filepath.Join(work, "rootfs.tar")
	if err := debian.Bootstrap(ctx, o.Mmdebstrap.Root(), work, rootfs); err != nil {
		return incus.Image{}, err
	}
	f, err := os.Open(rootfs)
	if err != nil {
		return incus.Image{}, fmt.Errorf("make image %s: %w", o.Name, err)
	}
	defer func() { _ = f.Close() }()
	var metadata bytes.Buffer
	w := tar.NewWriter(&metadata)
	if err := errors.Join(about{}.describing(o.Name, SourceMmdebstrap).write(w), w.Close()); err != nil {
		return incus.Image{}, fmt.Errorf("make image %s: %w", o.Name, err)
	}
	return to.ImportImage(ctx, alias, &metadata, f, map[string]string{"os": o.Name, "source": SourceMmdebstrap})
}

// Prepare makes sure that the prepared image of an OS with a distribution's
// content is among this machine's files. A half-made one never gets its name,
// and one that was damaged since is made anew.
func (s *Store) Prepare(ctx context.Context, osName string, content Content) (Prepared, error) {
	fail := func(err error) (Prepared, error) {
		return Prepared{}, fmt.Errorf("prepare image %s with %s %s: %w", osName, content.Name, content.Version, err)
	}
	o, err := s.OS(osName)
	if err != nil {
		return Prepared{}, err
	}
	if err := o.lacks(content.Name+" "+content.Version, content.Brings); err != nil {
		return Prepared{}, err
	}
	files := Files{Dir: FilesDir(s.CacheDir)}
	imported, err := files.imported(o)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	key, err := preparedKey(o, imported.Fingerprint, content)
	if err != nil {
		return fail(err)
	}
	name := "prepared/" + o.Name + "/" + content.Name + "-" + content.Version + "/" + key[:16]
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	p, err := files.use(name)
	var damaged *DamagedError
	switch {
	case err == nil:
		return p, nil
	case errors.As(err, &damaged):
		s.note("%v; making it anew", err)
	case !errors.Is(err, fs.ErrNotExist):
		return fail(err)
	}
	server, leave, err := s.Workshop(ctx)
	if err != nil {
		return fail(err)
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
		defer cancel()
		if err := leave(leaving); err != nil {
			s.note("%v", err)
		}
	}()
	base, err := s.base(ctx, server, o)
	if err != nil {
		return fail(err)
	}
	p = Prepared{Name: name, OS: o.Name, Base: base.Fingerprint, Source: base.Properties["source"],
		Description: fmt.Sprintf("lxcmatrix: %s with %s %s", o.Name, content.Name, content.Version)}
	if p.Source == "" {
		p.Source = SourceServer
	}
	if p, err = s.make(ctx, server, o, content, p, files); err != nil {
		return fail(err)
	}
	if err := files.prune(time.Now()); err != nil {
		s.note("%v", err)
	}
	return p, nil
}

// leavePatience bounds the closing of a workshop.
const leavePatience = 40 * time.Second

// make prepares an instance and keeps what it is then as a file.
func (s *Store) make(ctx context.Context, server *incus.Server, o OS, content Content, p Prepared, files Files) (_ Prepared, err error) {
	end := s.step("preparing image %s with %s %s", o.Name, content.Name, content.Version)
	defer func() { end(err) }()
	name := "prepare-" + hash([]byte(p.Name))[:12]
	instance := server.Instance(name, "")
	remove := func() error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		published, found, err := server.Image(clean, name)
		if err == nil && found {
			err = server.DeleteImage(clean, published.Fingerprint)
		}
		return errors.Join(err, instance.Delete(clean))
	}
	// One that a crashed run left has the same name, and this run the lock.
	if err := remove(); err != nil {
		return Prepared{}, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	_, err = server.Create(ctx, provisioner.NodeSpec{Name: name, Image: p.Base,
		Owner:  map[string]string{"kind": "prepare", "pid": strconv.Itoa(os.Getpid())},
		Limits: matrix.NodeLimits{MemoryBytes: 4 << 30, Processes: 4096},
		Incus: provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true", "security.nesting": "true"},
			RawLXC: []string{"lxc.apparmor.profile=unconfined"}}})
	if err != nil {
		return Prepared{}, err
	}
	if err := install(ctx, instance, o.Family, o.packages(content.Brings)); err != nil {
		return Prepared{}, err
	}
	if err := fill(ctx, instance, content); err != nil {
		return Prepared{}, err
	}
	if _, err := instance.Exec(ctx, provisioner.Command{Args: []string{"sh", "-ec", seal}}); err != nil {
		return Prepared{}, err
	}
	if err := instance.Stop(ctx); err != nil {
		return Prepared{}, err
	}
	published, err := server.PublishInstance(ctx, name, name, map[string]string{"os": o.Name, "description": p.Description})
	if err != nil {
		return Prepared{}, err
	}
	return files.add(ctx, p, func(w io.Writer) error { return server.ExportImage(ctx, published.Fingerprint, w) })
}

// ready waits until packages can be installed. The boot must be over first: it
// empties /tmp, where apt verifies signatures.
const ready = `n=0; until systemctl is-system-running --wait 2>/dev/null | grep -qE 'running|degraded'; do n=$((n+1)); [ $n -lt 200 ] || { echo "systemd did not come up" >&2; exit 1; }; sleep 0.1; done
n=0; until ip -4 route show default | grep -q .; do n=$((n+1)); [ $n -lt 100 ] || { echo "no default route on eth0 after 20 s" >&2; exit 1; }; sleep 0.2; done
[ -e /etc/resolv.conf ] || printf 'nameserver %s\n' "$(ip -4 route show default | awk '{print $3; exit}')" > /etc/resolv.conf
`

// importImages imports an archive of container images into containerd.
const importImages = `systemctl daemon-reload; systemctl start containerd
ctr -n k8s.io images import "$1" >/dev/null; rm "$1"`

// discardLayers drops the layers as they came: unpacked, they are not needed
// twice. ctr images import has a flag for it that containerd 1.6 lacks and that
// only makes them garbage; a lease that is deleted in step collects it.
const discardLayers = `ctr -n k8s.io content ls | while read -r digest rest; do
	layers=$(echo "$rest" | grep -o 'containerd.io/gc.ref.content.l.[0-9]*=' || true)
	[ -z "$layers" ] || ctr -n k8s.io content label "$digest" $layers >/dev/null
done
ctr -n k8s.io leases create --id discard-layers >/dev/null
ctr -n k8s.io leases delete --sync discard-layers >/dev/null`

// seal leaves nothing in an image that is one node's own, nor what only people
// read: every node unpacks all of it.
const seal = `systemctl stop containerd 2>/dev/null || true
: > /etc/machine-id
rm -rf /var/log/journal/* /var/log/*.log /var/log/apt /etc/hostname /tmp/* /run/log/journal/* /var/lib/containerd/tmpmounts
rm -rf /var/lib/NetworkManager/* /var/cache/dnf
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/info/* /usr/share/locale/*/ /var/cache/debconf/*-old /var/cache/apt/*.bin
[ -L /etc/resolv.conf ] || rm -f /etc/resolv.conf`

func install(ctx context.Context, instance *incus.Instance, family Family, packages []string) error {
	args := append([]string{"sh", "-ec", ready + family.Install, "install"}, packages...)
	if _, err := instance.Exec(ctx, provisioner.Command{Args: args}); err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	return nil
}

func fill(ctx context.Context, instance *incus.Instance, content Content) error {
	for _, b := range content.Binaries {
		if err := pushBlob(ctx, instance, b, "/usr/local/bin/"+b.Name, 0o755); err != nil {
			return err
		}
	}
	if err := place(ctx, instance, content); err != nil {
		return err
	}
	for _, f := range content.Files {
		if err := instance.Push(ctx, f); err != nil {
			return err
		}
	}
	for _, u := range content.Units {
		if err := instance.Push(ctx, provisioner.File{Path: "/etc/systemd/system/" + u.Name, Content: u.Content}); err != nil {
			return err
		}
		if u.Enable {
			if _, err := instance.Exec(ctx, provisioner.Command{Args: []string{"systemctl", "enable", u.Name}}); err != nil {
				return err
			}
		}
	}
	for _, b := range content.Archives {
		target := "/var/tmp/" + b.Name
		if err := pushBlob(ctx, instance, b, target, 0o600); err != nil {
			return err
		}
		if _, err := instance.Exec(ctx, provisioner.Command{Args: []string{"sh", "-ec", importImages, "import", target}}); err != nil {
			return fmt.Errorf("import container images %s: %w", b.Name, err)
		}
	}
	if len(content.Archives) == 0 {
		return nil
	}
	if _, err := instance.Exec(ctx, provisioner.Command{Args: []string{"sh", "-ec", discardLayers}}); err != nil {
		return fmt.Errorf("drop the layers of container images: %w", err)
	}
	return nil
}

// preparedKey hashes everything that goes into a prepared image, so that it is
// known without asking any server. imported is the fingerprint of the image
// that the user imported for the OS, or empty.
func preparedKey(o OS, imported string, content Content) (string, error) {
	type blob struct{ Name, SHA256 string }
	blobs := func(from []Blob) (to []blob) {
		for _, b := range from {
			to = append(to, blob{b.Name, b.SHA256})
		}
		return to
	}
	data, err := json.Marshal(struct {
		Recipe, Server     string
		Imported           string
		Mmdebstrap         *Mmdebstrap
		Scripts            []string
		Packages           []string
		Binaries, Archives []blob
		Files              []provisioner.File
		Units              []provisioner.Unit
		Placed             *placed `json:",omitempty"`
	}{recipeVersion, o.Server, imported, o.Mmdebstrap, []string{ready + o.Family.Install, importImages, discardLayers, seal}, o.packages(content.Brings), blobs(content.Binaries), blobs(content.Archives), content.Files, content.Units, placedOf(content)})
	if err != nil {
		return "", fmt.Errorf("name the prepared image of %s: %w", o.Name, err)
	}
	return hash(data), nil
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// lock keeps other runs from making the same image at the same time.
func (s *Store) lock(ctx context.Context, alias string) (unlock func(), err error) {
	dir := filepath.Join(s.CacheDir, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock image %s: %w", alias, err)
	}
	lock := flock.New(filepath.Join(dir, "image-"+strings.ReplaceAll(alias, "/", "_")))
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock image %s: %w", alias, err)
	}
	return func() { _ = lock.Unlock() }, nil
}

func (s *Store) step(format string, args ...any) func(error) {
	if s.Progress == nil {
		return func(error) {}
	}
	return s.Progress.Step(format, args...)
}

func (s *Store) note(format string, args ...any) {
	if s.Progress != nil {
		s.Progress.Note(format, args...)
	}
}
