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
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/doctor"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// Streams are the program's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Program is the command line's program.
type Program struct {
	Streams
	Version string
	// Ground, if set, takes the place of the hosts that runs have their cells on;
	// see run.Options.
	Ground func(catalog.Options) engine.Ground
}

// program is what every verb needs.
type program struct {
	Program
	// args are the command line's, without the program's name.
	args []string
	// machine is what the doctor examines.
	machine doctor.Machine
	// signalled is the signal that ended the program early, or "".
	signalled atomic.Value
}

// exitError is an exit code whose reason has been told already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code: 0 all as expected, 1 a
// deviation, 2 usage or configuration, 3 the harness failed or could not tell,
// 130 and 143 interrupted. The first SIGINT, SIGTERM or SIGHUP lets the verb clean
// up, a second one does not wait for that.
func (p Program) Main(args []string) int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// A run that was detached, and what nohup started, outlives its terminal.
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	// A terminal or a reader that went away must not end a run that has nodes
	// to remove: caught, SIGPIPE is an error of the write and nothing more.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	of := newProgram(p)
	of.args = args
	root := of.root()
	root.SetArgs(args)
	return of.execute(root, signals)
}

func newProgram(of Program) *program {
	p := &program{Program: of, machine: doctor.This()}
	p.signalled.Store("")
	return p
}

// execute returns when the verb has ended or the second signal came, whichever
// is first.
func (p *program) execute(root *cobra.Command, signals <-chan os.Signal) int {
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	for {
		select {
		case err := <-ended:
			return p.exitCode(err)
		case s := <-signals:
			name := map[os.Signal]string{os.Interrupt: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"}[s]
			if p.signalled.CompareAndSwap("", name) {
				p.say("interrupted by %s: cleaning up; a second signal ends at once", name)
				cancel(fmt.Errorf("interrupted by %s", name))
				continue
			}
			p.say("ended at once by a second signal; what was left is removed by: lxcmatrix gc --yes")
			return p.interruptCode()
		}
	}
}

// say writes one line to standard error. A terminal that is gone stops nothing.
func (p *program) say(format string, args ...any) {
	_, _ = fmt.Fprintf(redacted{p.Err}, "lxcmatrix: "+format+"\n", args...)
}

// lines tells on standard error what happens.
func (p *program) lines() *progress.Teller { return progress.NewLines(redacted{p.Err}, time.Now) }

// redacted removes secrets from each text that is written as a whole, as an event
// or an error is: what is told on the way may quote what nodes and servers said.
type redacted struct{ io.Writer }

// Write writes what is left of a text, and never all of a secret.
func (r redacted) Write(text []byte) (int, error) {
	if _, err := r.Writer.Write(redact.Text(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}

func (p *program) interruptCode() int {
	if p.signalled.Load() == "SIGTERM" {
		return matrix.ExitTerminated
	}
	return matrix.ExitInterrupt
}

// exitCode tells an error, unless its reason has been told, and says how the
// program ends.
func (p *program) exitCode(err error) int {
	var code exitError
	var usage *run.UsageError
	var problems *config.Error
	switch {
	case err == nil:
		return matrix.ExitExpected
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &problems):
		// One problem a line, each with its place, as editors read them.
		_, _ = fmt.Fprintln(redacted{p.Err}, problems)
		return matrix.ExitUsage
	}
	p.say("%v", err)
	switch {
	case p.signalled.Load() != "":
		return p.interruptCode()
	case errors.As(err, &usage), errors.Is(err, errUsage):
		return matrix.ExitUsage
	}
	return matrix.ExitHarness
}

// errUsage marks errors of the command line itself.
var errUsage = errors.New("see lxcmatrix --help")

// usage is an error that the user can mend by asking for something else.
func usage(format string, args ...any) error {
	return &run.UsageError{Err: fmt.Errorf(format, args...)}
}

// args holds a verb to its arguments; what is wrong with them is usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage("%s: %w; want: %s", cmd.CommandPath(), err, cmd.UseLine())
		}
		return nil
	}
}

// noArgs are the arguments of a verb that has none.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	return nil
}

// verbs is the argument check of a command that has only verbs below it.
func verbs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %q?)", near[0])
	}
	return usage("%s has no verb %q%s; see %s --help", cmd.CommandPath(), args[0], hint, cmd.CommandPath())
}

// help is what a command does that has only verbs below it.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// The groups that verbs are listed in.
const (
	groupRun     = "run"
	groupLook    = "look"
	groupMachine = "machine"
)

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
		Args: verbs, RunE: help,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%s: %w; %w", cmd.CommandPath(), err, errUsage)
	})
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupLook, Title: "Look closer:"},
		&cobra.Group{ID: groupMachine, Title: "This machine:"},
	)
	for group, commands := range map[string][]*cobra.Command{
		groupRun:     {p.run(), p.resume(), p.watch(), p.plan(), p.report(), p.schema()},
		groupLook:    {p.history(), p.flakes(), p.diff(), p.reproduce(), p.logs(), p.shell(), p.why(), p.fixes(), p.ablate(), p.minimize(), p.check(), p.export()},
		groupMachine: {p.doctor(), p.artifacts(), p.image(), p.gc()},
		"":           {p.versionVerb()},
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(topics()...)
	return root
}

// colour says whether to colour what is written to w: a terminal, and nobody
// said no.
func colour(w io.Writer) bool {
	_, no := os.LookupEnv("NO_COLOR")
	return !no && isTerminal(w)
}

// isTerminal says whether a stream of the program is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
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
