package json_test

import (
	"bytes"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/json"
)

func TestGolden(t *testing.T) {
	for name, run := range map[string]matrix.Run{
		"pass.golden":       samples.Run(samples.ForVerdict(matrix.Pass)),
		"everything.golden": samples.Everything(),
		"empty.golden":      samples.Run(),
		"ablated.golden":    samples.Ablated(true),
		"cut-short.golden":  samples.Ablated(false),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := json.Render(&got, run); err != nil {
				t.Fatal(err)
			}
			golden.Assert(t, got.String(), name)
		})
	}
}
