package samples

import (
	"bytes"
	"io"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Goldens holds a format to its golden files of the same four runs as any other
// format: one that passed, one with every verdict, an empty one, and one that was
// cut short.
func Goldens(t *testing.T, render func(io.Writer, matrix.Run) error) {
	t.Helper()
	for name, run := range map[string]matrix.Run{
		"pass.golden":       Run(ForVerdict(matrix.Pass)),
		"everything.golden": Everything(),
		"empty.golden":      Run(),
		"cut-short.golden":  Ablated(false),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := render(&got, run); err != nil {
				t.Fatal(err)
			}
			golden.Assert(t, got.String(), name)
		})
	}
}
