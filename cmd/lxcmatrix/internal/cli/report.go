package cli

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/matrix/shards"
)

func (p *program) report() *cobra.Command {
	var root, format, output, share string
	var hide []string
	var exitCode, strict, merge bool
	cmd := &cobra.Command{
		Use: "report [RUN]", Short: "Show a run that was kept", Args: args(func(cmd *cobra.Command, args []string) error {
			if merge {
				return cobra.MinimumNArgs(1)(cmd, args)
			}
			return cobra.MaximumNArgs(1)(cmd, args)
		}),
		Long: `Report shows a run: the latest one, or that of an ID or a folder. Verdicts are
judged anew from the evidence that was kept.

The html format is one page that needs nothing else, neither a server nor a
network: the grid by any axes, and of each cell all that was seen, its logs and
its past. Every run that ends writes it into its folder, as report.html.

Other formats are for programs: json (lxcmatrix schema report has its schema),
junit and csv; openmetrics, also for the folder of text files of Prometheus' node
exporter; annotations, which a GitHub workflow shows where a step prints them;
markdown, which fits a GitHub step's summary; and badge, an SVG image, or badges,
a folder of one for the run and one for each distribution on an OS.

With --merge the arguments are the folders of runs that are shards of one (run
--shard), or folders that such runs are in. They become one run under --runs, of
the whole plan: cells that no shard came to are unknown, and cells that no shard
has are told. It ends with that run's exit code. Shards of different plans are
refused, and so are shards that disagree on a cell.

With --share a copy of the run is made in a new folder, for others to read: its
report.html, and all that reports are made of. Names of hosts and users, addresses,
and the paths of this site are replaced in it, the same one always by the same word,
and secrets are removed once more. --hide names what nothing here knows, as a
project's name; look through the copy before it is given away.`,
		Example: `  lxcmatrix report
  lxcmatrix report --format markdown --output report.md
  lxcmatrix report --format html --output report.html
  lxcmatrix report runs/20261120T193324Z-k5x2ab --format junit
  lxcmatrix report --format markdown >>"$GITHUB_STEP_SUMMARY"
  lxcmatrix report --format openmetrics --output /var/lib/node_exporter/lxcmatrix.prom
  lxcmatrix report --format badges --output badges
  lxcmatrix report --exit-code --strict
  lxcmatrix report --share to-share --hide "project blue"
  lxcmatrix report --merge shards/* --format markdown --output report.md`,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(formats(), format):
				return usage("--format %q: want %s", format, strings.Join(formats(), ", "))
			case len(hide) > 0 && share == "":
				return usage("--hide is for what is shared: name a folder with --share")
			case share != "" && output != "":
				return usage("--share writes a whole run, and --output one report: ask for one of them; lxcmatrix report FOLDER shows what was shared")
			case format == formatBadges && output == "" && share == "":
				return usage("--format %s is several files: name a folder with --output", format)
			}
			var folder *runfolder.Folder
			var r matrix.Run
			var err error
			if merge {
				exitCode = true
				folder, r, err = p.merged(root, args)
			} else {
				folder, r, err = readRun(root, first(args))
			}
			if err != nil {
				return err
			}
			switch {
			case share != "":
				return p.share(folder, r, share, hide)
			case output != "":
				err = writeReport(output, format, folder, r)
			case format == formatTable:
				err = p.table(r)
			default:
				err = renderers[format](p.Out, folder, r)
			}
			if err != nil || !exitCode {
				return err
			}
			return exitOf(r, strict)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 && !merge {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return runIDs(root), cobra.ShellCompDirectiveDefault
		},
	}
	f := cmd.Flags()
	f.BoolVar(&merge, "merge", false, "join the shards of one run, and show that run")
	f.StringVar(&format, "format", formatTable, "one of "+strings.Join(formats(), ", "))
	f.StringVarP(&output, "output", "o", "", "write the report to a `file` instead; badges to a folder")
	f.StringVar(&share, "share", "", "make a copy of the run in a new `folder`, without what tells this site from others")
	f.StringArrayVar(&hide, "hide", nil, "also replace a `word` in what is shared; may be repeated")
	f.BoolVar(&exitCode, "exit-code", false, "end with the run's own exit code instead of 0")
	strictFlag(f, &strict)
	rootFlag(f, &root)
	complete(cmd, "format", words(formats()...))
	return cmd
}

// readRun opens and reads a run that was kept.
func readRun(root, name string) (*runfolder.Folder, matrix.Run, error) {
	folder, err := openRun(root, name)
	if err != nil {
		return nil, matrix.Run{}, err
	}
	r, err := folder.Read()
	return folder, r, err
}

// merged joins the shards in folders into a run under root, which is remembered
// and has its HTML report like any other.
func (p *program) merged(root string, dirs []string) (*runfolder.Folder, matrix.Run, error) {
	parts, err := runfolder.Shards(dirs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, matrix.Run{}, usage("--merge: %w; name the folders of runs, or folders that runs are in", err)
	}
	if err != nil {
		return nil, matrix.Run{}, err
	}
	folder, err := runfolder.Merge(root, parts)
	var refused *shards.Error
	if errors.As(err, &refused) {
		return nil, matrix.Run{}, usage("%w", err)
	}
	if err != nil {
		return nil, matrix.Run{}, err
	}
	r, err := folder.Read()
	if err != nil {
		return nil, matrix.Run{}, err
	}
	if err := keep(folder, r); err != nil {
		return nil, matrix.Run{}, err
	}
	p.say("%d shards are joined in %s", len(parts), folder.Dir())
	return folder, r, nil
}

// first is the first of args, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
