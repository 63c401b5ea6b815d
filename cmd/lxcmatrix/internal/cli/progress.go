package cli

import (
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// What a run prints on standard output.
const (
	// outputText is the table at the end; what happens before is told on
	// standard error.
	outputText = "text"
	// outputJSON are the events as they happen, and nothing else.
	outputJSON = "json"
)

func outputFlag(f *pflag.FlagSet, output *string) {
	f.StringVar(output, "output", outputText, "what standard output gets: the table at the end (text), or each event as it happens, one a line (json); `text` or json")
}

// progress is what tells how a run goes.
func (p *program) progress(output string) (*progress.Teller, error) {
	switch output {
	case outputText:
		return progress.NewGroups(redacted{p.Err}, time.Now, progress.ServiceOf(os.Getenv)), nil
	case outputJSON:
		return progress.NewJSON(p.Out, time.Now, redact.String), nil
	}
	return nil, usage("--output %q: want text or json", output)
}
