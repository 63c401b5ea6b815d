package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
)

func (p *program) artifacts() *cobra.Command {
	cmd := &cobra.Command{
		Use: "artifacts", Short: "Get, check, lock and list the releases in the cache", Args: verbs, RunE: help,
		Long: `Artifacts are the verified files of Kubernetes releases: binaries, bundles, and
container images. A run gets what it needs by itself; these verbs do it
beforehand, or from one kind of source alone, lay it out as a mirror for
machines without a network, and hold later runs to the same bytes.`,
		Example: `  lxcmatrix artifacts pull kubeadm@1.34
  lxcmatrix artifacts pull k3s@stable rke2@1.34 --to /srv/mirror
  lxcmatrix artifacts build
  lxcmatrix artifacts lock
  lxcmatrix artifacts verify
  lxcmatrix artifacts list`,
	}
	cmd.AddCommand(p.pullArtifacts(), p.buildArtifacts(), p.lockArtifacts(), p.verifyArtifacts(), p.listArtifacts())
	return cmd
}

// wanted holds the flags that say which releases are meant, and how.
type wanted struct {
	file, mirror, lock string
	parts              []string
}

func (w *wanted) flags(cmd *cobra.Command) {
	matrixFlag(cmd.Flags(), &w.file)
	lockFlag(cmd.Flags(), &w.lock)
	completeMatrix(cmd)
}

// matrix is the one that is meant; nil where args say all.
func (w *wanted) matrix(args []string) (*config.Matrix, error) {
	if len(args) > 0 && w.file == "" {
		return nil, nil
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the matrix: %w", err)
	}
	m, err := config.Find(w.file, cwd)
	if err != nil {
		return nil, usage("%w", err)
	}
	if w.mirror == "" {
		w.mirror = m.Sources.Mirror
	}
	return m, nil
}

// open opens the store for the sources, and names the releases that are meant:
// those of args, else those of the matrix' cells.
func (p *program) open(w wanted, args, sources []string) (*artifact.Store, []artifact.Request, error) {
	m, err := w.matrix(args)
	if err != nil {
		return nil, nil, err
	}
	beside := ""
	if m != nil {
		beside = m.Beside(artifact.LockName)
	}
	lock, err := artifact.FindLock(w.lock, beside)
	if err != nil {
		return nil, nil, usage("%w", err)
	}
	store, err := p.artifactStore(artifact.Options{Sources: sources, Mirror: w.mirror, Lock: lock})
	if err != nil {
		return nil, nil, err
	}
	releases, err := w.releases(store, m, args)
	return store, releases, err
}

func (w *wanted) releases(store *artifact.Store, m *config.Matrix, args []string) (all []artifact.Request, err error) {
	for _, arg := range args {
		name, version, ok := strings.Cut(arg, "@")
		if !ok || name == "" || version == "" {
			return nil, usage("release %q: want DISTRO@VERSION, as kubeadm@1.34", arg)
		}
		all = append(all, artifact.Request{Distro: name, Version: version, Parts: w.parts})
	}
	if len(args) > 0 {
		return all, nil
	}
	cells, err := m.Cells()
	if err != nil {
		return nil, usage("%w", err)
	}
	for _, c := range cells {
		r := artifact.Request{Distro: c.Distro.Name, Version: c.Distro.Wanted(), Parts: store.Parts(c.Distro.Name, c.Variants)}
		if !slices.ContainsFunc(all, func(a artifact.Request) bool { return a.String() == r.String() }) {
			all = append(all, r)
		}
	}
	return all, nil
}

func (p *program) pullArtifacts() *cobra.Command {
	var w wanted
	var to string
	var force bool
	cmd := &cobra.Command{
		Use: "pull [DISTRO@VERSION...]", Short: "Get releases from a mirror or upstream, or make a mirror of them", Args: args(cobra.ArbitraryArgs),
		Long: `Get releases from a mirror or upstream. Without arguments, those of the matrix.
A minor version means the newest release that these sources have, a channel of
k3s or rke2 what its channel server says. What is in the cache already is checked
and kept, unless --force replaces it. A download that broke off is gone on with.

With --to, everything that the releases are had from is also laid out in a
folder, as HOST/PATH of the URLs upstream: files, their checksums, container
images, and a document that names the newest version of what is there. Such a
folder, or a web server over it, is a mirror: --mirror takes it on a machine that
reaches nothing else. What lies there already is kept.`,
		Example: `  lxcmatrix artifacts pull
  lxcmatrix artifacts pull kubeadm@1.34.4 --force
  lxcmatrix artifacts pull k3s@stable rke2@v1.34 --to /srv/mirror
  lxcmatrix artifacts pull rke2@1.34 --part cilium --to /srv/mirror
  lxcmatrix run --mirror /srv/mirror`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to != "" && force {
				return usage("--force is about the cache: what --to lays out is verified each time")
			}
			store, releases, err := p.open(w, args, []string{artifact.SourceMirror, artifact.SourceUpstream})
			if err != nil {
				return err
			}
			if to == "" {
				return p.get(cmd.Context(), store, releases, func(ctx context.Context, r artifact.Request) (artifact.Release, error) {
					return store.Pull(ctx, r, force)
				})
			}
			var rows [][]string
			for _, r := range releases {
				laid, err := store.Lay(cmd.Context(), r, to)
				if err != nil {
					return err
				}
				for _, l := range laid {
					rows = append(rows, []string{l.Release.String(), l.Path, bytesOf(l.Size), l.SHA256})
				}
			}
			return columns(p.Out, []string{"RELEASE", "FILE", "SIZE", "SHA-256"}, rows)
		},
	}
	w.flags(cmd)
	f := cmd.Flags()
	mirrorFlag(f, &w.mirror)
	f.BoolVar(&force, "force", false, "replace what the cache has")
	f.StringVar(&to, "to", "", "lay all of it out in a `folder` as a mirror")
	f.StringArrayVar(&w.parts, "part", nil, "with DISTRO@VERSION: an optional `part` of it, as a CNI of rke2, or none; default: the distribution's own default; may be repeated")
	return cmd
}

func (p *program) buildArtifacts() *cobra.Command {
	var w wanted
	var force bool
	cmd := &cobra.Command{
		Use: "build [DISTRO@VERSION...]", Short: "Build releases from Go modules", Args: args(cobra.ArbitraryArgs),
		Long: `Build releases from Go modules with pinned versions. Without arguments, those of
the matrix. A minor version means the one that is built. What is in the cache
already is checked and kept, unless --force replaces it.`,
		Example: `  lxcmatrix artifacts build
  lxcmatrix artifacts build kubeadm@1.34
  lxcmatrix artifacts build kubeadm@1.34.4 --force`,
		RunE: func(cmd *cobra.Command, args []string) error {
			store, releases, err := p.open(w, args, []string{artifact.SourceBuild})
			if err != nil {
				return err
			}
			return p.get(cmd.Context(), store, releases, func(ctx context.Context, r artifact.Request) (artifact.Release, error) {
				return store.Build(ctx, r, force)
			})
		},
	}
	w.flags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "replace what the cache has")
	return cmd
}

// get gets releases in one way, and prints what is in them.
func (p *program) get(ctx context.Context, store *artifact.Store, releases []artifact.Request, get func(context.Context, artifact.Request) (artifact.Release, error)) error {
	var rows [][]string
	for _, r := range releases {
		var err error
		if r.Version, _, err = store.Resolve(ctx, r); err != nil {
			return err
		}
		release, err := get(ctx, r)
		if err != nil {
			return err
		}
		for _, f := range release.Files {
			rows = append(rows, []string{release.Distro + " " + release.Version, f.Name, bytesOf(f.Size), f.SHA256, f.Source})
		}
	}
	return columns(p.Out, []string{"RELEASE", "FILE", "SIZE", "SHA-256", "SOURCE"}, rows)
}

func (p *program) lockArtifacts() *cobra.Command {
	var w wanted
	var update bool
	cmd := &cobra.Command{
		Use: "lock", Short: "Hold later runs of a matrix to today's versions and bytes", Args: args(noArgs),
		Long: `Lock gets every release of the matrix and writes ` + artifact.LockName + ` beside it: what each
minor and channel is, and the SHA-256 and size of every file and container image
that comes from upstream, by upstream's URL. While that file is there, plan and run
use these versions; a file that is other, or that it does not name, is refused by
name, and the cells that need it are blocked. Without --update what is locked
stays, and what is new in the matrix is added. What is built here is locked by its
version alone: its modules' checksums are part of this program.`,
		Example: `  lxcmatrix artifacts lock
  lxcmatrix artifacts lock --update
  lxcmatrix artifacts lock -f distros --lock distros.lock`,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := w.matrix(args)
			if err != nil {
				return err
			}
			if w.lock == "" {
				w.lock = m.Beside(artifact.LockName)
			}
			if w.lock == "" {
				return usage("%s is in no folder that a lock could lie in; say where with --lock", m.File)
			}
			lock, err := artifact.GrowLock(w.lock, update)
			if err != nil {
				return usage("%w", err)
			}
			store, err := p.artifactStore(artifact.Options{Sources: m.PlanSources().Artifacts, Mirror: w.mirror, Lock: lock})
			if err != nil {
				return err
			}
			releases, err := w.releases(store, m, nil)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range releases {
				exact, how, err := store.Lock(cmd.Context(), r)
				if err != nil {
					return err
				}
				rows = append(rows, []string{strings.TrimSpace(r.Distro + "@" + r.Version + " " + strings.Join(r.Parts, " ")), exact, how})
			}
			if err := lock.Write(); err != nil {
				return err
			}
			return columns(p.Out, []string{"RELEASE", "LOCKED", "BY"}, rows)
		},
	}
	w.flags(cmd)
	mirrorFlag(cmd.Flags(), &w.mirror)
	cmd.Flags().BoolVar(&update, "update", false, "lock what there is now in place of what is locked")
	return cmd
}

func (p *program) artifactStore(o artifact.Options) (*artifact.Store, error) {
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	o.Progress = p.lines()
	store, err := artifact.New(cache, o)
	if err != nil {
		return nil, usage("%w", err)
	}
	return store, nil
}

func (p *program) verifyArtifacts() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Check every file in the cache against its SHA-256", Args: args(noArgs),
		Example: `  lxcmatrix artifacts verify`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := p.artifactStore(artifact.Options{})
			if err != nil {
				return err
			}
			all, err := store.List()
			if err != nil {
				return err
			}
			if err := store.Verify(cmd.Context()); err != nil {
				return fmt.Errorf("%w; get the release again with lxcmatrix artifacts pull --force, or build --force", err)
			}
			files := 0
			for _, r := range all {
				files += len(r.Files)
			}
			_, err = fmt.Fprintf(p.Out, "%d files of %d releases are as recorded\n", files, len(all))
			return err
		},
	}
}

func (p *program) listArtifacts() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the releases in the cache", Args: args(noArgs),
		Example: `  lxcmatrix artifacts list
  lxcmatrix artifacts list --json | jq -r '.[].files[].path'`,
		RunE: func(*cobra.Command, []string) error {
			store, err := p.artifactStore(artifact.Options{})
			if err != nil {
				return err
			}
			all, err := store.List()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(p.Out, append([]artifact.Release{}, all...))
			}
			var rows [][]string
			for _, r := range all {
				var size int64
				for _, f := range r.Files {
					size += f.Size
				}
				rows = append(rows, []string{r.Distro, r.Version, r.Arch, r.Provenance, r.Source, fmt.Sprint(len(r.Files)), bytesOf(size)})
			}
			return columns(p.Out, []string{"DISTRO", "VERSION", "ARCH", "PROVENANCE", "SOURCE", "FILES", "SIZE"}, rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
