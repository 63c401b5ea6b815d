package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

func (p *program) artifacts() *cobra.Command {
	cmd := &cobra.Command{
		Use: "artifacts", Short: "Get, check and list the releases in the cache", Args: verbs, RunE: help,
		Long: `Artifacts are the verified files of Kubernetes releases: binaries, and the
control plane's container images. A run gets what it needs by itself; these
verbs do it beforehand, or from one kind of source alone.`,
		Example: `  lxcmatrix artifacts pull kubeadm@1.34
  lxcmatrix artifacts build
  lxcmatrix artifacts verify
  lxcmatrix artifacts list`,
	}
	cmd.AddCommand(
		p.fetch("pull", "Get releases from a mirror or upstream", []string{artifact.SourceMirror, artifact.SourceUpstream}, (*artifact.Store).Pull),
		p.fetch("build", "Build releases from Go modules", []string{artifact.SourceBuild}, (*artifact.Store).Build),
		p.verifyArtifacts(), p.listArtifacts())
	return cmd
}

// fetch is a verb that gets releases in one way.
func (p *program) fetch(name, short string, sources []string, get func(s *artifact.Store, ctx context.Context, wanted artifact.Request, force bool) (artifact.Release, error)) *cobra.Command {
	var file, mirror string
	var force bool
	cmd := &cobra.Command{
		Use: name + " [DISTRO@VERSION...]", Short: short, Args: args(cobra.ArbitraryArgs),
		Long: short + `. Without arguments, those of the matrix. A minor version means
the newest release that these sources have. What is in the cache already is
checked and kept, unless --force replaces it.`,
		Example: fmt.Sprintf("  lxcmatrix artifacts %[1]s\n  lxcmatrix artifacts %[1]s kubeadm@1.34\n  lxcmatrix artifacts %[1]s kubeadm@1.34.4 --force", name),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			wanted, fallback, err := releases(file, args)
			if err != nil {
				return err
			}
			if mirror == "" {
				mirror = fallback
			}
			store, err := p.artifactStore(sources, mirror)
			if err != nil {
				return err
			}
			var got []artifact.Release
			for _, r := range wanted {
				if r.Version, _, err = store.Resolve(ctx, r); err != nil {
					return err
				}
				release, err := get(store, ctx, r, force)
				if err != nil {
					return err
				}
				got = append(got, release)
			}
			var rows [][]string
			for _, r := range got {
				for _, f := range r.Files {
					rows = append(rows, []string{r.Distro + " " + r.Version, f.Name, bytesOf(f.Size), f.SHA256, f.Source})
				}
			}
			return columns(p.Out, []string{"RELEASE", "FILE", "SIZE", "SHA-256", "SOURCE"}, rows)
		},
	}
	f := cmd.Flags()
	matrixFlag(f, &file)
	f.BoolVar(&force, "force", false, "replace what the cache has")
	completeMatrix(cmd)
	if name == "pull" {
		mirrorFlag(f, &mirror)
	}
	return cmd
}

// releases are those that args name, else those of a matrix; mirror is the
// matrix'.
func releases(file string, args []string) (wanted []artifact.Request, mirror string, err error) {
	for _, arg := range args {
		name, version, ok := strings.Cut(arg, "@")
		if !ok || name == "" || version == "" {
			return nil, "", usage("release %q: want DISTRO@VERSION, as kubeadm@1.34", arg)
		}
		wanted = append(wanted, artifact.Request{Distro: name, Version: version})
	}
	if len(args) > 0 && file == "" {
		return wanted, "", nil
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, "", fmt.Errorf("find the matrix: %w", err)
	}
	m, err := config.Find(file, cwd)
	if err != nil {
		return nil, "", usage("%w", err)
	}
	if len(args) == 0 {
		for _, d := range m.Distros {
			wanted = append(wanted, artifact.Request{Distro: d.Name, Version: d.Version})
		}
	}
	return wanted, m.Sources.Mirror, nil
}

func (p *program) artifactStore(sources []string, mirror string) (*artifact.Store, error) {
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	store, err := artifact.New(cache, artifact.Options{Sources: sources, Mirror: mirror, Progress: progress.New(p.Err, time.Now)})
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
			store, err := p.artifactStore(nil, "")
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
			store, err := p.artifactStore(nil, "")
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
