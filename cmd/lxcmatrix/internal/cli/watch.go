package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
	"github.com/lxcmatrix/lxcmatrix/reports/live"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// How the way of a run is shown.
const (
	showAuto  = "auto"
	showLive  = "live"
	showLines = "lines"
)

func showFlag(f *pflag.FlagSet, show *string) {
	f.StringVar(show, "show", showAuto, "how the run's way is shown: `live` on the whole terminal, lines, or auto, which is live on a terminal")
}

// live says whether a run is shown on the whole terminal.
func (p *program) live(show, output string) (bool, error) {
	terminal := isTerminal(p.In) && isTerminal(p.Out) && os.Getenv("TERM") != "dumb"
	switch {
	case show != showAuto && show != showLive && show != showLines:
		return false, usage("--show %q: want auto, live or lines", show)
	case show == showLive && output == outputJSON:
		return false, usage("--show live and --output json do not go together: both want standard output")
	case show == showLive && !terminal:
		return false, usage("--show live needs a terminal as standard input and output; --show lines needs none")
	}
	return show == showLive || show == showAuto && output == outputText && terminal && progress.ServiceOf(os.Getenv) == progress.NoService, nil
}

func (p *program) watch() *cobra.Command {
	var root, show, output string
	cmd := &cobra.Command{
		Use: "watch [RUN]", Short: "Look on while a run goes on, from another terminal", Args: args(cobra.MaximumNArgs(1)),
		Long: `Watch shows a run as it goes on: on a terminal its cells and their phases, with
the hosts, what is in use of the budget, what was said last, and the last line
of the selected cell's own logs; else in lines, or as JSON. RUN is a run's ID or
its folder; without one it is the latest.

Watch ends with the run, prints its table, and has the run's exit code. To leave
it ends nothing. It reads what the run keeps, and needs no rights on its hosts.`,
		Example: `  lxcmatrix watch
  lxcmatrix watch 20261120T193324Z-k5x2ab
  lxcmatrix watch --output json | jq -r .text`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			shown, err := p.live(show, output)
			if err != nil {
				return err
			}
			folder, err := openRun(root, name)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			f := &following{events: make(chan runfolder.Event), done: make(chan struct{})}
			go f.follow(ctx, folder)
			left := false
			if shown {
				left, err = p.show(ctx, folder, root, f.events, nil)
			} else {
				left, err = p.print(ctx, folder, output, f.events)
			}
			cancel()
			<-f.done
			if err := errors.Join(err, f.err); err != nil || left {
				return err
			}
			return p.over(folder, output)
		},
	}
	f := cmd.Flags()
	showFlag(f, &show)
	outputFlag(f, &output)
	rootFlag(f, &root)
	complete(cmd, "show", words(showAuto, showLive, showLines))
	complete(cmd, "output", words(outputText, outputJSON))
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return runIDs(root), cobra.ShellCompDirectiveDefault
	}
	return cmd
}

// following are the events of a run that is followed.
type following struct {
	events chan runfolder.Event
	// done is closed when there are no more, and err is set by then.
	done chan struct{}
	err  error
}

func (f *following) follow(ctx context.Context, folder *runfolder.Folder) {
	defer close(f.done)
	defer close(f.events)
	for e, err := range folder.Follow(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				f.err = err
			}
			return
		}
		select {
		case f.events <- e:
		case <-ctx.Done():
			return
		}
	}
}

// show shows a run on the whole terminal; see live.Show.
func (p *program) show(ctx context.Context, folder *runfolder.Folder, root string, events <-chan runfolder.Event, interrupt func()) (left bool, err error) {
	return live.Show(ctx, live.Options{In: p.In, Out: p.Out, Environ: os.Environ(), Plan: folder.Plan(), Colour: colour(p.Out), Interrupt: interrupt, Said: folder.Said,
		Expected: engine.Expected(folder.Plan(), runfolder.ReadHistory(root))}, events)
}

// print prints a run's events as they come, with the time since the run began.
func (p *program) print(ctx context.Context, folder *runfolder.Folder, output string, events <-chan runfolder.Event) (left bool, err error) {
	run, err := folder.Read()
	if err != nil {
		return false, err
	}
	began := func() time.Time { return run.Started }
	teller := progress.NewLines(p.Out, began)
	switch output {
	case outputText:
	case outputJSON:
		teller = progress.NewJSON(p.Out, began, redact.String)
	default:
		return false, usage("--output %q: want text or json", output)
	}
	for e := range events {
		teller.Event(e)
	}
	return ctx.Err() != nil, nil
}

// over tells how a run ended that was looked at to its end.
func (p *program) over(folder *runfolder.Folder, output string) error {
	run, err := folder.Read()
	if err != nil {
		return err
	}
	if output == outputText {
		if err := p.table(run); err != nil {
			return err
		}
	}
	if run.Ended.IsZero() {
		return fmt.Errorf("run %s was ended before it was over, and no process goes on with it: what it came to is all there is", run.ID)
	}
	return exitOf(run, false)
}
