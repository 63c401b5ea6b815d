package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

func (p *program) image() *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "List, prepare, import and remove node images", Args: verbs, RunE: help,
		Long: `A base image is an OS as its maker has it; a prepared image is a base with the
packages, the runtime and a release's files, made once on the embedded host and
named by the hash of all that went in. It is kept in the cache as one file, and
every host of a run gets that. A run prepares what it needs by itself; of what
is in the cache, prepared images that no run asked for in 30 days go, and beyond
20 GiB those that were asked for longest ago. A base image that was imported
stays until it is removed.`,
		Example: `  lxcmatrix image list
  lxcmatrix image prepare --only debian/13
  lxcmatrix image import rhel/10 rhel-10.1-x86_64-kvm.qcow2
  lxcmatrix image remove 'prepared/debian/12/**'`,
	}
	cmd.AddCommand(p.listImages(), p.prepareImages(), p.importImage(), p.removeImages())
	return cmd
}

// shownImage is an image as scripts read it.
type shownImage struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	Size        int64     `json:"size"`
	Created     time.Time `json:"created"`
	Description string    `json:"description"`
	// In lists cache, embedded or both.
	In []string `json:"in"`

	// file is what the cache has.
	file *image.Prepared
}

// shownImages lists the images of the cache and of the embedded host, which h
// is, or nil.
func shownImages(ctx context.Context, files image.Files, h *host.Host) ([]*shownImage, error) {
	all := []*shownImage{}
	prepared, err := files.List()
	if err != nil {
		return nil, err
	}
	for _, p := range prepared {
		all = append(all, &shownImage{Name: p.Name, Fingerprint: p.Fingerprint, Size: p.Size, Created: p.Made, Description: p.Description,
			In: []string{"cache"}, file: &p})
	}
	if h == nil {
		return all, nil
	}
	there, err := h.Server.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range there {
		at := slices.IndexFunc(all, func(s *shownImage) bool { return s.Fingerprint == i.Fingerprint })
		if at >= 0 {
			all[at].In = append(all[at].In, "embedded")
			continue
		}
		all = append(all, &shownImage{Name: imageName(i), Fingerprint: i.Fingerprint, Size: i.Size, Created: i.Created.UTC(),
			Description: i.Properties["description"], In: []string{"embedded"}})
	}
	slices.SortFunc(all, func(a, b *shownImage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return all, nil
}

// withImages lists the images and works on them, with the embedded host open
// if it ever was.
func (p *program) withImages(ctx context.Context, do func(images []*shownImage, files image.Files, h *host.Host) error) error {
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		return err
	}
	files := image.Files{Dir: image.FilesDir(cache)}
	with := func(h *host.Host) error {
		images, err := shownImages(ctx, files, h)
		if err != nil {
			return err
		}
		return do(images, files, h)
	}
	if !hasEmbedded(host.StateDir()) {
		return with(nil)
	}
	return p.withHost(ctx, embedded, 0, p.lines(), with)
}

func (p *program) listImages() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the images of the cache and of the embedded host", Args: args(noArgs),
		Example: `  lxcmatrix image list
  lxcmatrix image list --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.withImages(cmd.Context(), func(images []*shownImage, _ image.Files, _ *host.Host) error {
				if asJSON {
					return writeJSON(p.Out, images)
				}
				var rows [][]string
				for _, i := range images {
					rows = append(rows, []string{i.Name, i.Fingerprint[:12], bytesOf(i.Size), i.Created.Format(time.DateTime), strings.Join(i.In, ", "), i.Description})
				}
				return columns(p.Out, []string{"IMAGE", "FINGERPRINT", "SIZE", "MADE (UTC)", "IN", "DESCRIPTION"}, rows)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// imageName is an image's alias; one without is half-made.
func imageName(i incus.Image) string {
	if i.Alias == "" {
		return "(half-made)/" + i.Fingerprint[:12]
	}
	return i.Alias
}

func (p *program) prepareImages() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use: "prepare", Short: "Make the prepared images of a matrix, and run nothing", Args: args(noArgs),
		Example: `  lxcmatrix image prepare
  lxcmatrix image prepare -f smoke
  lxcmatrix image prepare --only debian/12`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			shown := p.lines()
			s.Progress = shown
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			images := catalog.Images(host.StateDir(), planned.CacheDir, planned.Plan, planned.Knowledge, shown)
			var rows [][]string
			for _, c := range distinct(planned.Plan) {
				release, err := catalog.Release(cmd.Context(), planned.Artifacts, c)
				if err != nil {
					return err
				}
				made, err := images.Prepare(cmd.Context(), c.OS.Name, catalog.Content(release, c))
				if err != nil {
					return err
				}
				rows = append(rows, []string{c.OS.Name, strings.Join(append([]string{c.Distro.Name, c.Distro.Version}, c.Variants...), " "), made.Fingerprint[:12], bytesOf(made.Size), made.Source})
			}
			if err := columns(p.Out, []string{"OS", "RELEASE", "FINGERPRINT", "SIZE", "BASE FROM"}, rows); err != nil {
				return err
			}
			return unavailable(planned.Plan)
		},
	}
	s.flags(cmd.Flags())
	completeSelection(cmd)
	return cmd
}

// runnable cells are neither gated nor without their inputs.
func runnable(c matrix.Cell) bool { return c.Gate == nil && c.Unavailable == "" }

// distinct keeps one cell of one OS for each prepared image.
func distinct(p matrix.Plan) []matrix.Cell {
	var cells []matrix.Cell
	for _, planned := range p.Cells {
		for _, c := range planned.ByOS() {
			same := func(other matrix.Cell) bool {
				return other.OS == c.OS && other.Distro == c.Distro && other.Variant() == c.Variant()
			}
			if runnable(c) && !slices.ContainsFunc(cells, same) {
				cells = append(cells, c)
			}
		}
	}
	return cells
}

// unavailable is an error where a cell that is not optional cannot be had.
func unavailable(p matrix.Plan) error {
	var missing []string
	for _, c := range p.Cells {
		if c.Unavailable != "" && !c.Optional {
			missing = append(missing, fmt.Sprintf("%s: %s", c.ID, c.Unavailable))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("cells without an image%s", indented(":", missing))
}

func (p *program) importImage() *cobra.Command {
	return &cobra.Command{
		Use: "import OS FILE [METADATA]", Short: "Bring an image of a node OS, as no server has RHEL's", Args: args(cobra.RangeArgs(2, 3)),
		Long: `Import keeps FILE in the cache as the image of a node OS. Nodes of that OS are
made from it then, whatever other sources there are, until it is imported again
or removed: lxcmatrix image remove imported/OS. OS is one that a matrix may name.

FILE is a root filesystem, as a tarball (plain or packed with gzip, xz or zstd)
or as a squashfs, or a machine's disk as a qcow2, of which the root filesystem is
taken: that needs qemu-img, and a kernel that can mount it. Of a disk whose
filesystem cannot be mounted here (LVM is not looked into), make a tarball:

  virt-tar-out -a rhel-10.1-x86_64-kvm.qcow2 / rhel-10.tar

What is made for a machine is adapted: eth0 gets its address by DHCP, and
/etc/fstab, the machine's name and its identity are dropped. With METADATA, an
Incus image's metadata tarball or its metadata.yaml, FILE is a container's
already and stays as it is.

It is refused if it has no systemd, is for other processors, is not what OS says
by its os-release, or has entries that lead out of it. Packages that nodes need
are installed when an image is prepared, so the system's repositories must be
within reach of the embedded host's nodes: register RHEL, or install the
packages, before it is imported. A licence that it needs is yours to have.`,
		Example: `  lxcmatrix image import rhel/10 rhel-10.1-x86_64-kvm.qcow2
  lxcmatrix image import rhel/10 rhel-10.tar.zst
  lxcmatrix image import almalinux/10 rootfs.squashfs incus.tar.xz`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			knowledge, err := catalog.LoadKnowledge(cmd.Context())
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var names []string
			for _, o := range knowledge.OSes {
				names = append(names, o.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			knowledge, err := catalog.LoadKnowledge(cmd.Context())
			if err != nil {
				return err
			}
			cache, err := artifact.DefaultCacheDir()
			if err != nil {
				return err
			}
			metadata := ""
			if len(args) > 2 {
				metadata = args[2]
			}
			store := image.Store{CacheDir: cache, OSes: knowledge.OSes, Progress: p.lines()}
			taken, err := store.Take(cmd.Context(), args[0], args[1], metadata)
			var refused *image.RefusedError
			if errors.As(err, &refused) || errors.Is(err, fs.ErrNotExist) {
				return usage("%w", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.Out, "%s is %s now, %s\n", taken.Name, taken.Fingerprint[:12], bytesOf(taken.Size))
			return err
		},
	}
}

func (p *program) removeImages() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "remove IMAGE...", Short: "Remove images from the cache and from the embedded host", Args: args(cobra.ArbitraryArgs),
		Long: `Remove removes images by name, by a glob over names, or by the beginning of
their fingerprint, wherever they are. Nodes that were made from them stay.`,
		Example: `  lxcmatrix image remove 'prepared/debian/12/**'
  lxcmatrix image remove 3f2a9c1b7d04
  lxcmatrix image remove --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usage("image remove: name images, or say --all for every one")
			}
			return p.withImages(cmd.Context(), func(images []*shownImage, files image.Files, h *host.Host) error {
				chosen := images
				if !all {
					var err error
					if chosen, err = chooseImages(images, args); err != nil {
						return err
					}
				}
				for _, i := range chosen {
					if i.file != nil {
						if err := files.Remove(*i.file); err != nil {
							return err
						}
					}
					if slices.Contains(i.In, "embedded") {
						if err := h.Server.DeleteImage(cmd.Context(), i.Fingerprint); err != nil {
							return err
						}
					}
					if _, err := fmt.Fprintf(p.Out, "removed %s\n", i.Name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every image")
	return cmd
}

// chooseImages finds the images that args name; one that names none is an
// error, and then nothing is chosen.
func chooseImages(images []*shownImage, args []string) ([]*shownImage, error) {
	var chosen []*shownImage
	for _, arg := range args {
		pattern, found := selector.NewPattern(arg), false
		for _, i := range images {
			// A shorter beginning could be a slip.
			if !pattern.Matches(i.Name) && (len(arg) < 6 || !strings.HasPrefix(i.Fingerprint, arg)) {
				continue
			}
			found = true
			if !slices.Contains(chosen, i) {
				chosen = append(chosen, i)
			}
		}
		if !found {
			var names []string
			for _, i := range images {
				names = append(names, i.Name)
			}
			return nil, usage("no image is %q%s", arg, indented("; there are:", names))
		}
	}
	return chosen, nil
}
