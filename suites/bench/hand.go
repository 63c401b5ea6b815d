package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
)

const (
	// handTimeout bounds one cell by hand.
	handTimeout = 12 * time.Minute
	// cleanTimeout bounds the removal of what was made by hand.
	cleanTimeout = 60 * time.Second
)

// Hand does the cell by hand.
type Hand struct {
	// StateDir is the embedded host's, CacheDir the artifacts'. The harness
	// uses the same, so nobody else may have the host open.
	StateDir, CacheDir string
	// Folder is for a kubeconfig and for kubectl's and incus' own caches.
	Folder string
	Log    io.Writer
}

// Run does the cell of the example again, by hand, and returns how long each
// phase took. It neither verifies nor collects anything, and waits for the
// same facts as the harness does.
func (h Hand) Run(ctx context.Context, e Example) (_ Times, err error) {
	ctx, cancel := context.WithTimeout(ctx, handTimeout)
	defer cancel()
	fail := func(err error) (Times, error) { return nil, fmt.Errorf("do the cell by hand: %w", err) }
	knowledge, err := catalog.LoadKnowledge(ctx)
	if err != nil {
		return fail(err)
	}
	opened, err := catalog.OpenHost(ctx, e.Cell.Host, h.StateDir, e.Plan.Budget.DiskBytes)
	if err != nil {
		return fail(err)
	}
	// Whatever is made is removed also when ctx ended.
	clean, cancelClean := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelClean()
	defer func() {
		closing, cancel := context.WithTimeout(clean, cleanTimeout)
		defer cancel()
		err = errors.Join(err, opened.Close(closing))
	}()
	s, err := h.sitDown(ctx, knowledge, opened, e)
	if err != nil {
		return fail(err)
	}
	defer func() {
		removing, cancel := context.WithTimeout(clean, cleanTimeout)
		defer cancel()
		_, removeErr := s.incus(removing, nil, "delete", "--force", s.name)
		if err != nil {
			// It may not have been made at all.
			removeErr = nil
		}
		err = errors.Join(err, removeErr, s.release(removing))
	}()
	times, err := s.cell(ctx)
	if err != nil {
		return fail(err)
	}
	return times, nil
}

// seat is everything at hand before the clock starts: the image, the
// configuration, the files and the commands.
type seat struct {
	Hand
	name, address  string
	image, kubectl string
	config         []byte
	files          []byte
	commands       [][]string
	workload       string
	host           *host.Host
	sysctls        map[string]string
	lease          *lease.Manager
	release        func(context.Context) error
	start          start
}

// sitDown prepares all that a person has ready who does this often.
func (h Hand) sitDown(ctx context.Context, knowledge *catalog.Knowledge, opened *host.Host, e Example) (*seat, error) {
	release, fingerprint, err := h.prepared(ctx, knowledge, opened, e)
	if err != nil {
		return nil, err
	}
	s := &seat{Hand: h, name: "by-hand-" + strconv.FormatInt(time.Now().UnixMilli(), 36), image: fingerprint, host: opened,
		lease: lease.New(opened.Exec(), catalog.LeaseFile), release: func(context.Context) error { return nil }}
	kubectl, ok := release.File("kubectl")
	if !ok {
		return nil, fmt.Errorf("%s %s has no kubectl", release.Distro, release.Version)
	}
	if s.kubectl, err = s.executable(kubectl); err != nil {
		return nil, err
	}
	if s.address, err = opened.Reserve(ctx, s.name); err != nil {
		return nil, err
	}
	r, err := writeDown(ctx, knowledge, catalog.Distro(release, e.Cell, e.Plan.Timeouts), e, s.name, s.address, opened.Network())
	if err != nil {
		return nil, err
	}
	s.commands, s.sysctls = r.commands, r.want.Host.Sysctls
	if s.files, err = r.archive(); err != nil {
		return nil, err
	}
	pool, bridge, err := s.places(ctx)
	if err != nil {
		return nil, err
	}
	if s.config, err = yaml.Marshal(r.instance(e.Plan.Budget.Node, s.address, pool, bridge, owner(e))); err != nil {
		return nil, fmt.Errorf("write the instance's configuration: %w", err)
	}
	perCluster, err := fs.ReadFile(fixtures.Manifests(), "workload.yaml")
	if err != nil {
		return nil, fmt.Errorf("read the probe workload: %w", err)
	}
	perNode, err := fs.ReadFile(fixtures.Manifests(), "workload-node.yaml")
	if err != nil {
		return nil, fmt.Errorf("read the probe workload: %w", err)
	}
	s.workload = workload(perCluster, perNode, s.name)
	return s, nil
}

// owner is what an instance says of who made it.
func owner(e Example) map[string]string {
	return map[string]string{"kind": "node", "run": "benchmark", "cell": string(e.Cell.ID), "node": "0",
		"pid": strconv.Itoa(os.Getpid()), "created": time.Now().UTC().Format(time.RFC3339)}
}

// prepared has the release and the prepared image of the example's cell on the
// host, and gives the image's fingerprint. It must have been made before: by
// lxcmatrix run.
func (h Hand) prepared(ctx context.Context, knowledge *catalog.Knowledge, opened *host.Host, e Example) (release artifact.Release, fingerprint string, err error) {
	store, err := artifact.New(h.CacheDir, artifact.Options{Sources: e.Plan.Sources.Artifacts, Mirror: e.Plan.Sources.Mirror})
	if err != nil {
		return release, "", err
	}
	if release, err = store.Ensure(ctx, artifact.Request{Distro: e.Cell.Distro.Name, Version: e.Cell.Distro.Version}); err != nil {
		return release, "", err
	}
	began := time.Now()
	images := &image.Store{Workshop: image.On(opened.Server), CacheDir: h.CacheDir, Sources: e.Plan.Sources.Images, OSes: knowledge.OSes}
	prepared, err := images.Prepare(ctx, e.Cell.OS.Name, catalog.Content(release, e.Cell))
	if err != nil {
		return release, "", err
	}
	if !prepared.Made.Before(began) {
		return release, "", fmt.Errorf("image %s is not what lxcmatrix run made: it was built from another source than this benchmark; make build builds it", prepared.Name)
	}
	return release, prepared.Fingerprint, images.Import(ctx, opened.Server, prepared)
}

// executable is a release's binary under its own name; the cache names files
// by their digest and need not let them run.
func (s *seat) executable(f artifact.File) (string, error) {
	path := filepath.Join(s.Folder, f.Name)
	content, err := os.ReadFile(f.Path)
	if err == nil {
		err = os.WriteFile(path, content, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("copy %s of the release: %w", f.Name, err)
	}
	return path, nil
}

// places are the daemon's pool and bridge.
func (s *seat) places(ctx context.Context) (pool, bridge string, err error) {
	type named struct {
		Name    string
		Managed bool
		Type    string
	}
	list := func(what string) ([]named, error) {
		out, err := s.incus(ctx, nil, what, "list", "--format", "json")
		var all []named
		if err == nil {
			err = json.Unmarshal([]byte(out), &all)
		}
		if err != nil {
			return nil, fmt.Errorf("list the daemon's %ss: %w", what, err)
		}
		return all, nil
	}
	pools, err := list("storage")
	if err != nil {
		return "", "", err
	}
	networks, err := list("network")
	if err != nil {
		return "", "", err
	}
	for _, n := range networks {
		if n.Managed && n.Type == "bridge" {
			bridge = n.Name
		}
	}
	if len(pools) != 1 || bridge == "" {
		return "", "", fmt.Errorf("the daemon has %d pools and the bridge %q, want one of each", len(pools), bridge)
	}
	return pools[0].Name, bridge, nil
}
