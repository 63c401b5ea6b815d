package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

func (p *program) image() *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "List, prepare and remove node images", Args: verbs, RunE: help,
		Long: `A base image is an OS as its maker has it; a prepared image is a base with the
packages, the runtime and a release's files, made once and named by the hash of
all that went in. A run prepares what it needs by itself.`,
		Example: `  lxcmatrix image list
  lxcmatrix image prepare --only debian/13
  lxcmatrix image remove 'prepared/debian/12/**'`,
	}
	cmd.AddCommand(p.listImages(), p.prepareImages(), p.removeImages())
	return cmd
}

// shownImage is an image as scripts read it.
type shownImage struct {
	Name        string    `json:"name"`
	Fingerprint string    `json:"fingerprint"`
	Size        int64     `json:"size"`
	Created     time.Time `json:"created"`
	Description string    `json:"description"`
}

func (p *program) listImages() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the embedded host's images", Args: args(noArgs),
		Example: `  lxcmatrix image list
  lxcmatrix image list --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			images := []incus.Image{}
			if hasEmbedded(host.StateDir()) {
				err := p.withHost(cmd.Context(), embedded, 0, progress.New(p.Err, time.Now), func(h *host.Host) (err error) {
					images, err = h.Server.Images(cmd.Context())
					return err
				})
				if err != nil {
					return err
				}
			}
			shown, rows := []shownImage{}, [][]string{}
			slices.SortFunc(images, func(a, b incus.Image) int { return cmp.Compare(imageName(a), imageName(b)) })
			for _, i := range images {
				s := shownImage{imageName(i), i.Fingerprint, i.Size, i.Created.UTC(), i.Properties["description"]}
				shown = append(shown, s)
				rows = append(rows, []string{s.Name, s.Fingerprint[:12], bytesOf(s.Size), s.Created.Format(time.DateTime), s.Description})
			}
			if asJSON {
				return writeJSON(p.Out, shown)
			}
			return columns(p.Out, []string{"IMAGE", "FINGERPRINT", "SIZE", "MADE (UTC)", "DESCRIPTION"}, rows)
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
			shown := progress.New(p.Err, time.Now)
			s.Progress = shown
			planned, err := run.Plan(cmd.Context(), s.Request)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, ref := range hostsOf(planned.Plan) {
				err := p.withHost(cmd.Context(), ref, planned.Plan.Budget.DiskBytes, shown, func(h *host.Host) error {
					images := &image.Store{Server: h.Server, CacheDir: planned.CacheDir, Sources: planned.Plan.Sources.Images,
						OSes: planned.Knowledge.OSes, Progress: shown}
					for _, c := range distinct(planned.Plan, ref) {
						release, err := planned.Artifacts.Ensure(cmd.Context(), c.Distro.Name, c.Distro.Version)
						if err != nil {
							return err
						}
						made, err := images.Prepare(cmd.Context(), c.OS.Name, catalog.Content(release))
						if err != nil {
							return err
						}
						rows = append(rows, []string{ref.Name, c.OS.Name, c.Distro.Name + " " + c.Distro.Version, made.Fingerprint[:12], made.Source})
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			if err := columns(p.Out, []string{"HOST", "OS", "RELEASE", "FINGERPRINT", "BASE FROM"}, rows); err != nil {
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

// hostsOf lists the hosts that have cells to run.
func hostsOf(p matrix.Plan) []matrix.HostRef {
	var refs []matrix.HostRef
	for _, c := range p.Cells {
		if runnable(c) && !slices.Contains(refs, c.Host) {
			refs = append(refs, c.Host)
		}
	}
	return refs
}

// distinct keeps one cell for each prepared image of a host.
func distinct(p matrix.Plan, ref matrix.HostRef) []matrix.Cell {
	var cells []matrix.Cell
	for _, c := range p.Cells {
		same := func(other matrix.Cell) bool { return other.OS == c.OS && other.Distro == c.Distro }
		if runnable(c) && c.Host == ref && !slices.ContainsFunc(cells, same) {
			cells = append(cells, c)
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

func (p *program) removeImages() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "remove IMAGE...", Short: "Remove images of the embedded host", Args: args(cobra.ArbitraryArgs),
		Long: `Remove removes images by name, by a glob over names, or by the beginning of
their fingerprint. Nodes that were made from them stay.`,
		Example: `  lxcmatrix image remove 'prepared/debian/12/**'
  lxcmatrix image remove 3f2a9c1b7d04
  lxcmatrix image remove --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usage("image remove: name images, or say --all for every one")
			}
			if !hasEmbedded(host.StateDir()) {
				if all {
					return nil
				}
				return usage("no image is %q: the embedded host in %s has none", args, host.StateDir())
			}
			shown := progress.New(p.Err, time.Now)
			return p.withHost(cmd.Context(), embedded, 0, shown, func(h *host.Host) error {
				images, err := h.Server.Images(cmd.Context())
				if err != nil {
					return err
				}
				chosen := images
				if !all {
					if chosen, err = chooseImages(images, args); err != nil {
						return err
					}
				}
				for _, i := range chosen {
					if err := h.Server.DeleteImage(cmd.Context(), i.Fingerprint); err != nil {
						return err
					}
					if _, err := fmt.Fprintf(p.Out, "removed %s\n", imageName(i)); err != nil {
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
func chooseImages(images []incus.Image, args []string) ([]incus.Image, error) {
	var chosen []incus.Image
	for _, arg := range args {
		pattern, found := selector.NewPattern(arg), false
		for _, i := range images {
			// A shorter beginning could be a slip.
			if !pattern.Matches(imageName(i)) && (len(arg) < 6 || !strings.HasPrefix(i.Fingerprint, arg)) {
				continue
			}
			found = true
			if !slices.ContainsFunc(chosen, func(c incus.Image) bool { return c.Fingerprint == i.Fingerprint }) {
				chosen = append(chosen, i)
			}
		}
		if !found {
			var names []string
			for _, i := range images {
				names = append(names, imageName(i))
			}
			return nil, usage("no image is %q%s", arg, indented("; there are:", names))
		}
	}
	return chosen, nil
}
