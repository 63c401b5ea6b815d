package markdown_test

import (
	"bytes"
	"strings"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
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
			if err := markdown.Render(&got, run); err != nil {
				t.Fatal(err)
			}
			golden.Assert(t, got.String(), name)
		})
	}
}

// A run of any size fits a GitHub step's summary, says what was cut, and keeps what
// matters most: the counts, the harness' own errors and the table.
func TestFitsAStepSummary(t *testing.T) {
	run := samples.Large(100)
	for i := range run.Results {
		r := &run.Results[i]
		a := samples.OOM(r.Cell)
		a.Phases[3].Evidence[1].Saw = strings.Repeat("it is not ready yet; ", 1000)
		*r = samples.Result(r.Cell, a)
	}
	run.HarnessErrors = []string{"delete node cp1: it is still there"}
	var out bytes.Buffer
	if err := markdown.Render(&out, run); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if out.Len() > 1<<20 || out.Len() < 1<<20-1<<15 {
		t.Errorf("it has %d bytes", out.Len())
	}
	for _, want := range []string{"**0 of 100 cells pass: ", "**Cut**: left out, since this is to fit a GitHub step's summary: ", " lines of not passed, ", " lines of observed",
		"`delete node cp1: it is still there`", "`lxcmatrix report 20261120T193324Z-k5x2ab --format html`"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if rows := strings.Count(text, "\n| kubeadm-1."); rows != 100 {
		t.Errorf("%d of 100 cells are in the table", rows)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "- reason: ") && !strings.HasSuffix(line, "`\n") {
			t.Errorf("a line is cut: %.80s", line)
		}
	}
}
