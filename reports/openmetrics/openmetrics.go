// Package openmetrics shows a run as OpenMetrics text that Prometheus' node
// exporter takes, too, from its folder of text files: gauges alone, without
// timestamps, which both formats write alike.
package openmetrics

import (
	"bytes"
	"fmt"
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// label is a name and a value.
type label struct{ name, value string }

// family is a metric with its samples.
type family struct{ dto.MetricFamily }

func newFamily(name, help string) *family {
	f := &family{}
	f.Name, f.Help, f.Type = &name, &help, dto.MetricType_GAUGE.Enum()
	return f
}

func (f *family) add(value float64, labels ...label) {
	m := &dto.Metric{Gauge: &dto.Gauge{Value: &value}}
	for _, l := range labels {
		m.Label = append(m.Label, &dto.LabelPair{Name: &l.name, Value: &l.value})
	}
	f.Metric = append(f.Metric, m)
}

// Render writes a run. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	var out bytes.Buffer
	for _, f := range families(v, history.Of(run)) {
		if len(f.Metric) == 0 {
			continue
		}
		if _, err := expfmt.MetricFamilyToOpenMetrics(&out, &f.MetricFamily); err != nil {
			return fmt.Errorf("render OpenMetrics of run %s: %w", v.ID, err)
		}
	}
	if _, err := expfmt.FinalizeOpenMetrics(&out); err != nil {
		return fmt.Errorf("render OpenMetrics of run %s: %w", v.ID, err)
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write OpenMetrics of run %s: %w", v.ID, err)
	}
	return nil
}

// families are the metrics. Those of cells have the cell's axes as labels, and no
// label changes from run to run but the verdict.
func families(v view.Run, remembered history.Run) []*family {
	about := newFamily("lxcmatrix_run", "The run that the other metrics are of; always 1.")
	about.add(1, label{"run", v.ID}, label{"version", v.Version}, label{"matrix", v.Matrix})
	started := newFamily("lxcmatrix_run_start_timestamp_seconds", "When the run started, as Unix time.")
	ended := newFamily("lxcmatrix_run_end_timestamp_seconds", "When the run ended, as Unix time; absent where nobody wrote that it did.")
	for f, at := range map[*family]time.Time{started: v.Started, ended: v.Ended} {
		if !at.IsZero() {
			f.add(float64(at.Unix()))
		}
	}
	exit := newFamily("lxcmatrix_run_exit_code", "The run's exit code: 0 all as expected, 1 a deviation, 3 the harness could not tell.")
	exit.add(float64(v.ExitCode))
	errs := newFamily("lxcmatrix_run_harness_errors", "Failures of the harness itself.")
	errs.add(float64(len(v.HarnessErrors)))
	counts := newFamily("lxcmatrix_cells", "Planned cells by verdict.")
	for _, c := range v.Counts {
		counts.add(float64(c.Cells), label{"verdict", c.Verdict.String()})
	}
	verdicts := newFamily("lxcmatrix_cell_verdict", "The cell's verdict, as a label; always 1.")
	expected := newFamily("lxcmatrix_cell_as_expected", "1 where the cell's verdict is as expected (pass, xfail, impossible), else 0.")
	took := newFamily("lxcmatrix_cell_net_duration_seconds", "What the cell's phases took, without stability windows.")
	up := newFamily("lxcmatrix_cell_up_seconds", "From the first phase to a healthy cluster, without stability windows; absent where it never came to that.")
	recovery := newFamily("lxcmatrix_cell_recovery_seconds", "From a graceful restart to a healthy cluster, without stability windows; absent where it never came to that.")
	times := map[string]history.Cell{}
	for _, c := range remembered.Cells {
		times[view.Plain(string(c.ID))] = c
	}
	for _, c := range v.Cells {
		labels := []label{{"cell", c.ID}}
		for _, axis := range []string{"distro", "os", "topology", "host", "variant"} {
			if value := c.Axis(axis); value != "" {
				labels = append(labels, label{axis, value})
			}
		}
		if chosen := c.Chosen(); chosen != "" {
			// With other fixes it is another cell, whose numbers are not this one's.
			labels = append(labels, label{"fixes", view.Plain(chosen)})
		}
		verdicts.add(1, append(labels, label{"verdict", c.Verdict.String()})...)
		expected.add(map[bool]float64{true: 1}[c.Verdict.AsExpected()], labels...)
		if c.Took > 0 {
			took.add((c.Took - c.Waited).Seconds(), labels...)
		}
		for f, d := range map[*family]matrix.Duration{up: times[c.ID].Up, recovery: times[c.ID].Recovery} {
			if d > 0 {
				f.add(d.Std().Seconds(), labels...)
			}
		}
	}
	outcomes := newFamily("lxcmatrix_fix_outcome", "What a fix turned out to be in a cell when it was left out, as a label; always 1.")
	for _, a := range v.Ablations {
		for _, f := range a.Findings {
			outcomes.add(1, label{"cell", a.Cell}, label{"fix", f.Fix}, label{"outcome", f.Outcome.String()})
		}
	}
	return []*family{about, started, ended, exit, errs, counts, verdicts, expected, took, up, recovery, outcomes}
}
