package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"gotest.tools/v3/golden"
)

// TestHelp holds the help of every verb to its golden file, and every verb to
// having an example.
func TestHelp(t *testing.T) {
	t.Setenv("LXCMATRIX_MIRROR", "")
	known := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())
		topic := !cmd.Runnable() && !cmd.HasSubCommands()
		name := filepath.Join("help", strings.Join(path, "-")+".golden")
		known[golden.Path(name)] = true
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			if cmd.Example == "" && !topic {
				t.Error("no example")
			}
			args := append(path[1:], "--help")
			if topic {
				args = append([]string{"help"}, path[1:]...)
			}
			out, code := runMain(t, args...)
			if code != 0 {
				t.Errorf("exit code %d", code)
			}
			golden.Assert(t, out, name)
		})
		for _, below := range cmd.Commands() {
			walk(below)
		}
	}
	walk(newProgram(Program{Version: "test"}).root())
	files, err := filepath.Glob(golden.Path("help/*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f] {
			t.Errorf("%s is the help of no verb", f)
		}
	}
}

// runMain runs the command line and returns what it printed.
func runMain(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = (Program{Streams: Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr}, Version: "test"}).Main(args)
	if stderr.Len() > 0 {
		t.Errorf("standard error: %s", &stderr)
	}
	return stdout.String(), code
}
