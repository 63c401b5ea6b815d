package diff_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/diff"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

func renderers() map[string]func(io.Writer, history.Diff) error {
	return map[string]func(io.Writer, history.Diff) error{"text": diff.Text, "markdown": diff.Markdown, "json": diff.JSON}
}

// differences are between two runs: one cell regressed, one was fixed, one comes
// and one goes, and names and reasons mean to break out.
func differences() history.Diff {
	cell := func(release string, failing bool) matrix.Result {
		c := samples.Cell(release)
		if failing {
			a := samples.OOM(c)
			a.Nodes[0].Runc = "1.3.5\x1b[31m|<b>"
			return samples.Result(c, a)
		}
		return samples.Result(c, samples.Passing(c))
	}
	before := samples.Run(cell("11", false), cell("12", true), cell("13", false))
	before.ID = "20261119T193324Z-aaaaaa"
	comes := samples.Cell("14")
	comes.Unavailable = "image cannot be had: `404` <script> @everyone"
	return history.Compare(history.Of(before), history.Of(samples.Run(cell("11", true), cell("12", false), samples.Result(comes))))
}

func TestGolden(t *testing.T) {
	same := samples.Run(samples.ForVerdict(matrix.Pass))
	for name, render := range renderers() {
		for what, d := range map[string]history.Diff{"differs": differences(), "same": history.Compare(history.Of(same), history.Of(same))} {
			var b bytes.Buffer
			if err := render(&b, d); err != nil {
				t.Fatal(err)
			}
			golden.Assert(t, b.String(), what+"."+name+".golden")
			if strings.ContainsAny(b.String(), "\x1b") {
				t.Errorf("%s lets a control character through", name)
			}
		}
	}
}

// Two real runs of one machine that differ in one input: the difference names it,
// and nothing else.
func TestRecorded(t *testing.T) {
	whole, without := samples.Recorded(t, samples.RecordedAllFixes), samples.Recorded(t, samples.RecordedWithoutOne)
	d := history.Compare(history.Of(whole), history.Of(without))
	if len(d.Inputs) != 1 || d.Inputs[0].String() != "fix restrict-oom-score-adj applied -> left-out" || !d.Worse() {
		t.Errorf("the runs differ in %v; worse: %v", d.Inputs, d.Worse())
	}
	for name, render := range renderers() {
		var b bytes.Buffer
		if err := render(&b, d); err != nil {
			t.Fatal(err)
		}
		golden.Assert(t, b.String(), "recorded."+name+".golden")
	}
}

type brokenWriter struct{}

var errBroken = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorsAreTold(t *testing.T) {
	for name, render := range renderers() {
		if err := render(brokenWriter{}, differences()); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "20261119T193324Z-aaaaaa") {
			t.Errorf("%s says %v", name, err)
		}
	}
}
