package csv_test

import (
	"bytes"
	stdcsv "encoding/csv"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/csv"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

func TestGolden(t *testing.T) { samples.Goldens(t, csv.Render) }

// Nothing that others named begins a formula in a spreadsheet, and each cell is one
// line of as many fields as the first.
func TestNothingIsAFormula(t *testing.T) {
	for _, hostile := range []string{`=HYPERLINK("https://evil.example","x")`, "+1+1", "-2+3", "@SUM(1)", "\t=1+1", "\r\n=1+1", "＝1+1", `"x"` + "\n=1", "a,b;c\td"} {
		c := samples.Cell("13")
		c.Host.Name, c.Variants = hostile, []string{hostile}
		c.ID = matrix.CellID(hostile)
		c.Unavailable = hostile
		var out bytes.Buffer
		if err := csv.Render(&out, samples.Run(samples.Result(c))); err != nil {
			t.Fatal(err)
		}
		rows, err := stdcsv.NewReader(&out).ReadAll()
		if err != nil || len(rows) != 2 {
			t.Fatalf("%q makes %d rows: %v", hostile, len(rows), err)
		}
		for i, field := range rows[1] {
			if strings.IndexAny(field, "=+-@\t\r\n＝＋－＠") == 0 {
				t.Errorf("%s is %q", rows[0][i], field)
			}
		}
		if want := strings.TrimLeft(strings.Join(strings.Fields(hostile), " "), "'"); strings.TrimPrefix(rows[1][1], "'") != want {
			t.Errorf("the cell is %q, was %q", rows[1][1], hostile)
		}
	}
}
