package table_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/olekukonko/tablewriter/pkg/twwidth"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
)

func render(t *testing.T, run matrix.Run, o table.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := table.RenderWith(&b, run, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	twoPass := samples.Run(samples.Result(samples.Cell("12"), samples.Passing(samples.Cell("12"))), samples.ForVerdict(matrix.Pass))
	for _, tc := range []struct {
		name string
		run  matrix.Run
		o    table.Options
	}{
		{"two-pass.golden", twoPass, table.Options{}},
		{"everything.golden", samples.Everything(), table.Options{}},
		{"narrow.golden", samples.Everything(), table.Options{Width: 80}},
		{"colour.golden", samples.Everything(), table.Options{Colour: true}},
		{"empty.golden", samples.Run(), table.Options{}},
		{"ablated.golden", samples.Ablated(true), table.Options{}},
		{"cut-short.golden", samples.Ablated(false), table.Options{Width: 80}},
	} {
		t.Run(tc.name, func(t *testing.T) { golden.Assert(t, string(render(t, tc.run, tc.o)), tc.name) })
	}
}

// Colour must add nothing but colour, and no line may be wider than asked or
// hold a control character that a log brought in.
func TestWidthColourAndControl(t *testing.T) {
	colours := regexp.MustCompile("\x1b\\[[0-9]+m")
	for _, width := range []int{80, 100, 120, 200} {
		plain := render(t, samples.Everything(), table.Options{Width: width})
		coloured := render(t, samples.Everything(), table.Options{Width: width, Colour: true})
		if !bytes.Contains(coloured, []byte("\x1b[31m")) {
			t.Errorf("width %d: no colour where it is asked for", width)
		}
		if got := colours.ReplaceAll(coloured, nil); !bytes.Equal(got, plain) {
			t.Errorf("width %d: without its colours the coloured table differs:\n%s\n---\n%s", width, got, plain)
		}
		for _, line := range strings.Split(string(plain), "\n") {
			if w := twwidth.Width(line); w > width {
				t.Errorf("width %d: a line has %d columns: %s", width, w, line)
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }); i >= 0 {
				t.Errorf("width %d: control character %q in %q", width, line[i], line)
			}
		}
	}
}
