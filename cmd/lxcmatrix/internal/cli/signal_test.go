package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// A verb ends by itself after the first signal, and is not waited for after
// the second.
func TestSignals(t *testing.T) {
	for _, tc := range []struct {
		name    string
		signals []os.Signal
		stuck   bool
		want    int
		says    string
	}{
		{"SIGINT", []os.Signal{os.Interrupt}, false, matrix.ExitInterrupt, "interrupted by SIGINT"},
		{"SIGTERM", []os.Signal{syscall.SIGTERM}, false, matrix.ExitTerminated, "interrupted by SIGTERM"},
		{"SIGHUP", []os.Signal{syscall.SIGHUP}, false, matrix.ExitInterrupt, "interrupted by SIGHUP"},
		{"SIGINT twice", []os.Signal{os.Interrupt, os.Interrupt}, true, matrix.ExitInterrupt, "lxcmatrix gc --yes"},
		{"SIGTERM, then SIGINT", []os.Signal{syscall.SIGTERM, os.Interrupt}, true, matrix.ExitTerminated, "lxcmatrix gc --yes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, w := io.Pipe()
			said := make(chan string, 1)
			go func() {
				text, _ := io.ReadAll(r)
				said <- string(text)
			}()
			p := newProgram(Program{Streams: Streams{In: strings.NewReader(""), Out: io.Discard, Err: w}, Version: "test"})
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			verb := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
				<-cmd.Context().Done()
				if tc.stuck {
					<-release
				}
				return context.Cause(cmd.Context())
			}}
			verb.SetArgs([]string{})
			signals := make(chan os.Signal, len(tc.signals))
			for _, s := range tc.signals {
				signals <- s
			}
			if code := p.execute(verb, signals); code != tc.want {
				t.Errorf("exit code %d, want %d", code, tc.want)
			}
			_ = w.Close()
			if text := <-said; !strings.Contains(text, tc.says) {
				t.Errorf("said %q, want %q in it", text, tc.says)
			}
		})
	}
}
