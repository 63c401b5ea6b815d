package annotations_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/annotations"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

func TestGolden(t *testing.T) { samples.Goldens(t, annotations.Render) }

// Names and logs can neither end a command, begin another, nor add a property.
func TestHostileNamesStayInTheirPlace(t *testing.T) {
	for _, hostile := range []string{"x%0A::error::owned", "x\n::set-output name=a::b", "x\r\n::stop-commands::t", "x::y", "a,file=passwd,line=1", "100%", "\u2028::debug::x"} {
		c := samples.Cell("13")
		c.ID, c.Unavailable = matrix.CellID(hostile), hostile
		var out bytes.Buffer
		if err := annotations.Render(&out, samples.Run(samples.Result(c))); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 2 {
			t.Fatalf("%q makes %d lines: %q", hostile, len(lines), lines)
		}
		head, rest, _ := strings.Cut(strings.TrimPrefix(lines[0], "::error "), "::")
		if strings.ContainsAny(head, ",:") || strings.Contains(rest, "%0A") || !strings.HasPrefix(lines[0], "::error title=") {
			t.Errorf("%q gets out: %s", hostile, lines[0])
		}
	}
}

// What GitHub would not show is counted, and no failure is pushed out by a cell that
// is merely blocked.
func TestMoreThanGitHubShows(t *testing.T) {
	var results []matrix.Result
	for i := range 14 {
		r := samples.ForVerdict(matrix.Blocked)
		if i == 13 {
			r = samples.ForVerdict(matrix.Fail)
		}
		r.Cell.Host.Name = fmt.Sprint("host", i)
		r.Cell.ID = r.Cell.NewID()
		results = append(results, samples.Result(r.Cell, r.Attempts...))
	}
	var out bytes.Buffer
	if err := annotations.Render(&out, samples.Run(results...)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "::error "); n != 10 || !strings.Contains(out.String(), "::5 more errors are not shown here") || !strings.Contains(out.String(), "host13%3A fail in baseline") {
		t.Errorf("%d errors:\n%s", n, out.String())
	}
}
