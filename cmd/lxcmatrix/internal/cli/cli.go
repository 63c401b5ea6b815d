// Package cli is the command line, one file per verb. Results go to standard
// output, progress and errors to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
)

// Streams are the program's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// program is what every verb needs.
type program struct {
	Streams
	version string
	// signalled is the signal that ended the program early, or "".
	signalled atomic.Value
}

// exitError is an exit code whose reason has been told already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code: 0 all as expected, 1 a
// deviation, 2 usage or configuration, 3 the harness failed or could not tell,
// 130 and 143 interrupted.
func Main(args []string, streams Streams, version string) int {
	p := &program{Streams: streams, version: version}
	p.signalled.Store("")
	ctx, stop := p.untilSignal(context.Background())
	defer stop()
	root := p.root()
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	err := root.ExecuteContext(ctx)
	var code exitError
	var usage *run.UsageError
	switch {
	case err == nil:
		return matrix.ExitExpected
	case errors.As(err, &code):
		return int(code)
	}
	_, _ = fmt.Fprintf(streams.Err, "lxcmatrix: %v\n", err)
	switch {
	case p.signalled.Load() == "SIGINT":
		return matrix.ExitInterrupt
	case p.signalled.Load() == "SIGTERM":
		return matrix.ExitTerminated
	case errors.As(err, &usage), errors.Is(err, errUsage):
		return matrix.ExitUsage
	}
	return matrix.ExitHarness
}

// errUsage marks errors of the command line itself.
var errUsage = errors.New("see lxcmatrix --help")

// untilSignal ends the context at SIGINT or SIGTERM.
func (p *program) untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			name := "SIGINT"
			if s == syscall.SIGTERM {
				name = "SIGTERM"
			}
			p.signalled.Store(name)
			cancel(fmt.Errorf("interrupted by %s", name))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lxcmatrix",
		Short: "Does this Kubernetes distribution run inside LXC/Incus system containers?",
		Long: `lxcmatrix creates real Incus containers over a matrix of hosts, Kubernetes
distributions and node OSes, applies its fixes, installs Kubernetes, restarts
the nodes, checks health before and after, and prints what passed.

Exit codes: 0 all as expected, 1 a deviation, 2 usage or configuration,
3 the harness failed or cells were blocked, 130 and 143 interrupted.`,
		Example: `  lxcmatrix doctor --fix
  lxcmatrix run
  lxcmatrix run --only debian/13 --keep on-failure
  lxcmatrix report --format markdown`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%s: %w; %w", cmd.CommandPath(), err, errUsage)
	})
	root.AddCommand(p.run(), p.versionVerb())
	return root
}

// colour says whether to colour what is written to w: a terminal, and nobody
// said no.
func colour(w io.Writer) bool {
	f, ok := w.(*os.File)
	_, no := os.LookupEnv("NO_COLOR")
	return ok && !no && term.IsTerminal(int(f.Fd()))
}

// width is the terminal's, or 0.
func width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
			return columns
		}
	}
	return 0
}
