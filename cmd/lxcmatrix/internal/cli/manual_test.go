package cli

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"gotest.tools/v3/golden"
)

// TestHelpIsInManuals holds docs/man and docs/completion to the commands that there are.
// `make docs` writes them anew.
func TestHelpIsInManuals(t *testing.T) {
	t.Setenv("LXCMATRIX_MIRROR", "")
	root := newProgram(Program{Version: "test"}).root()
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	// golden looks below testdata.
	docs := filepath.Join("..", "..", "..", "..", "..", "docs")
	known := map[string]bool{}
	file := func(t *testing.T, folder, name string, write func(io.Writer) error) {
		path := filepath.Join(docs, folder, name)
		known[golden.Path(path)] = true
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		golden.Assert(t, b.String(), path)
	}
	header := doc.GenManHeader{Section: "1", Source: "lxcmatrix", Manual: "lxcmatrix"}
	// A page says what the program does, not when it was written.
	header.Date = new(time.Time)
	*header.Date = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Hidden {
			return
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		t.Run(name, func(t *testing.T) {
			cmd.DisableAutoGenTag = true
			own := header
			own.Title = strings.ToUpper(name)
			file(t, "man", name+".1", func(w io.Writer) error { return doc.GenMan(cmd, &own, w) })
		})
		for _, below := range cmd.Commands() {
			walk(below)
		}
	}
	walk(root)
	for name, write := range map[string]func(io.Writer) error{
		"lxcmatrix.bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"_lxcmatrix":     root.GenZshCompletion,
		"lxcmatrix.fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	} {
		t.Run(name, func(t *testing.T) { file(t, "completion", name, write) })
	}
	for _, folder := range []string{"man", "completion"} {
		files, err := filepath.Glob(golden.Path(filepath.Join(docs, folder, "*")))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if !known[f] {
				t.Errorf("%s is of nothing that there is; remove it", f)
			}
		}
	}
}
