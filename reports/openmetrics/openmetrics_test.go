package openmetrics_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/openmetrics"
)

func TestGolden(t *testing.T) { samples.Goldens(t, openmetrics.Render) }

// The node exporter, which reads with this parser, finds each cell's numbers under
// the names that they have, hostile ones too, and no timestamps, which it refuses.
func TestTextfileCollectorReadsIt(t *testing.T) {
	hostile := "a\"b\\c\nd{e=\"f\"} 1 # EOF"
	run := samples.Everything()
	c := samples.Cell("13")
	c.Variants = []string{hostile}
	c.ID = c.NewID()
	r := samples.Result(c, samples.Passing(c))
	run.Results, run.Plan.Cells = append(run.Results, r), append(run.Plan.Cells, c)
	var out bytes.Buffer
	if err := openmetrics.Render(&out, run); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "\n# EOF\n") || strings.Count(out.String(), "\n# EOF") != 1 {
		t.Errorf("it ends with %q", out.String()[max(0, out.Len()-80):])
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&out)
	if err != nil {
		t.Fatal(err)
	}
	total, found := 0.0, false
	for name, f := range families {
		if f.GetHelp() == "" || f.GetType() != dto.MetricType_GAUGE {
			t.Errorf("%s has help %q and type %s", name, f.GetHelp(), f.GetType())
		}
		seen := map[string]bool{}
		for _, m := range f.Metric {
			if m.TimestampMs != nil {
				t.Errorf("%s has a timestamp", name)
			}
			labels := fmt.Sprint(m.Label)
			if seen[labels] {
				t.Errorf("%s has %s twice", name, labels)
			}
			seen[labels] = true
			if name == "lxcmatrix_cells" {
				total += m.GetGauge().GetValue()
			}
			for _, l := range m.Label {
				found = found || name == "lxcmatrix_cell_up_seconds" && l.GetName() == "variant" && l.GetValue() == "a\"b\\c d{e=\"f\"} 1 # EOF" && m.GetGauge().GetValue() > 0
			}
		}
	}
	if int(total) != len(run.Plan.Cells) || !found {
		t.Errorf("it counts %v cells of %d; the hostile one was found: %v", total, len(run.Plan.Cells), found)
	}
}
