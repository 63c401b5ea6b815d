package reports_test

import (
	"bytes"
	stdjson "encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/annotations"
	"github.com/lxcmatrix/lxcmatrix/reports/csv"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/json"
	"github.com/lxcmatrix/lxcmatrix/reports/junit"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/openmetrics"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
)

// said is what one report says of a run's only cell.
type said struct {
	verdict, headline string
}

func fromTable(t *testing.T, run matrix.Run) said {
	t.Helper()
	var b bytes.Buffer
	if err := table.RenderWith(&b, run, table.Options{Width: 200}); err != nil {
		t.Fatal(err)
	}
	return said{column(t, b.String(), `(?m)^kubeadm-1\.34/\S+ +(\w+)\*?†? `), column(t, b.String(), `(?m)^(\d+ of \d+ cells pass: .*)$`)}
}

func fromMarkdown(t *testing.T, run matrix.Run) said {
	t.Helper()
	var b bytes.Buffer
	if err := markdown.Render(&b, run); err != nil {
		t.Fatal(err)
	}
	return said{column(t, b.String(), `(?m)^\| kubeadm-1\.34/\S+ +\| \**(\w+)`), column(t, b.String(), `(?m)^\*\*(\d+ of \d+ cells pass: .*)\*\*$`)}
}

// renderHTML is the HTML report of a run alone.
func renderHTML(w io.Writer, run matrix.Run) error { return html.Render(w, html.Input{Run: run}) }

func fromHTML(t *testing.T, run matrix.Run) said {
	t.Helper()
	var b bytes.Buffer
	if err := renderHTML(&b, run); err != nil {
		t.Fatal(err)
	}
	return said{column(t, b.String(), `data-verdict="(\w+)"`), column(t, b.String(), `<meta name="description" content="([^"]*)">`)}
}

func column(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing matches %s in:\n%s", pattern, text)
	}
	return m[1]
}

func fromJSON(t *testing.T, run matrix.Run) (said, int) {
	t.Helper()
	var b bytes.Buffer
	if err := json.Render(&b, run); err != nil {
		t.Fatal(err)
	}
	var r json.Report
	if err := stdjson.Unmarshal(b.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Cells) != 1 {
		t.Fatalf("JSON has %d cells, want 1", len(r.Cells))
	}
	if n := r.Summary.Verdicts[r.Cells[0].Verdict]; n != 1 || len(r.Summary.Verdicts) != len(matrix.Verdicts()) {
		t.Errorf("JSON counts %v for a %s cell", r.Summary.Verdicts, r.Cells[0].Verdict)
	}
	return said{r.Cells[0].Verdict.String(), r.Summary.Headline}, r.Summary.ExitCode
}

// junitReport is what a CI system reads: the suite of the run, and then one of each
// cell.
type junitReport struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Suites   []struct {
		Properties []struct {
			Name  string `xml:"name,attr"`
			Value string `xml:"value,attr"`
		} `xml:"properties>property"`
		Cases []struct {
			Name    string    `xml:"name,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func (r junitReport) outcome() string {
	c := r.Suites[1].Cases[0]
	switch {
	case c.Failure != nil:
		return "failure"
	case c.Error != nil:
		return "error"
	case c.Skipped != nil:
		return "skipped"
	}
	return "passed"
}

func fromJUnit(t *testing.T, run matrix.Run) (said, junitReport) {
	t.Helper()
	var b bytes.Buffer
	if err := junit.Render(&b, run); err != nil {
		t.Fatal(err)
	}
	var r junitReport
	if err := xml.Unmarshal(b.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	var s said
	for _, p := range r.Suites[1].Properties {
		if p.Name == "verdict" {
			s.verdict = p.Value
		}
	}
	for _, p := range r.Suites[0].Properties {
		if p.Name == "summary" {
			s.headline = p.Value
		}
	}
	return s, r
}

// throughDisk stores a run and reads it back, as reports see runs.
func throughDisk(t *testing.T, run matrix.Run) matrix.Run {
	t.Helper()
	f, err := runfolder.Create(filepath.Join(t.TempDir(), run.ID), run)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range run.Results {
		if len(r.Attempts) == 0 {
			continue
		}
		if _, err := f.WriteResult(r); err != nil {
			t.Fatal(err)
		}
	}
	if f, err = runfolder.Open(f.Dir()); err != nil {
		t.Fatal(err)
	}
	read, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// For every verdict: evidence that leads Judge there, and then every report
// and the exit code must tell the same story.
func TestEveryReportAgreesOnEveryVerdict(t *testing.T) {
	want := map[matrix.Verdict]struct {
		junit string
		exit  int
	}{
		matrix.Pass:       {"passed", matrix.ExitExpected},
		matrix.XFail:      {"passed", matrix.ExitExpected},
		matrix.Impossible: {"skipped", matrix.ExitExpected},
		matrix.Fail:       {"failure", matrix.ExitDeviation},
		matrix.XPass:      {"failure", matrix.ExitDeviation},
		matrix.Flaky:      {"failure", matrix.ExitDeviation},
		matrix.Blocked:    {"error", matrix.ExitHarness},
		matrix.Unknown:    {"error", matrix.ExitHarness},
	}
	if len(want) != len(matrix.Verdicts()) {
		t.Fatalf("the test knows %d verdicts, there are %d", len(want), len(matrix.Verdicts()))
	}
	type sample struct {
		name    string
		verdict matrix.Verdict
		result  matrix.Result
	}
	var all []sample
	for _, v := range matrix.Verdicts() {
		all = append(all, sample{v.String(), v, samples.ForVerdict(v)})
	}
	for _, v := range []matrix.Verdict{matrix.Impossible, matrix.XPass, matrix.Fail, matrix.Blocked} {
		all = append(all, sample{"defied, " + v.String(), v, samples.Defied(v)})
	}
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			v, result := s.verdict, s.result
			if result.Judgement.Verdict != v {
				t.Fatalf("Judge says %s: %s", result.Judgement.Verdict, result.Judgement.Reason)
			}
			run := throughDisk(t, samples.Run(result))
			for name, shown := range showsDefied(t, run) {
				if shown != result.Cell.Defied() {
					t.Errorf("%s shows a gate that is defied: %v, want %v", name, shown, result.Cell.Defied())
				}
			}
			if got := run.Results[0].Judgement; got != result.Judgement {
				t.Fatalf("read back from disk it is %+v, was %+v", got, result.Judgement)
			}

			passed := 0
			if v == matrix.Pass {
				passed = 1
			}
			var counts []string
			for _, other := range matrix.Verdicts() {
				n := 0
				if other == v {
					n = 1
				}
				counts = append(counts, fmt.Sprintf("%s %d", other, n))
			}
			expected := said{v.String(), fmt.Sprintf("%d of 1 cells pass: %s", passed, strings.Join(counts, ", "))}

			inJSON, exit := fromJSON(t, run)
			inJUnit, report := fromJUnit(t, run)
			for name, got := range map[string]said{"table": fromTable(t, run), "markdown": fromMarkdown(t, run), "html": fromHTML(t, run), "json": inJSON, "junit": inJUnit} {
				if got != expected {
					t.Errorf("%s says %+v, want %+v", name, got, expected)
				}
			}
			if got := report.outcome(); got != want[v].junit {
				t.Errorf("JUnit's outcome is %s, want %s", got, want[v].junit)
			}
			if bad, code := report.Failures+report.Errors > 0, matrix.ExitCode(run, false); bad != (code != 0) {
				t.Errorf("JUnit is bad: %v, the exit code is %d", bad, code)
			}
			if report.Tests != 1 {
				t.Errorf("JUnit counts %d tests, one cell is planned", report.Tests)
			}
			for name, code := range map[string]int{"ExitCode": matrix.ExitCode(run, false), "json": exit} {
				if code != want[v].exit {
					t.Errorf("%s is %d, want %d", name, code, want[v].exit)
				}
			}
		})
	}
}

// showsDefied says of each report whether it shows that a gate was defied.
func showsDefied(t *testing.T, run matrix.Run) map[string]bool {
	t.Helper()
	shown := map[string]bool{}
	for name, render := range map[string]func(io.Writer, matrix.Run) error{"table": table.Render, "markdown": markdown.Render, "html": renderHTML} {
		var b bytes.Buffer
		if err := render(&b, run); err != nil {
			t.Fatal(err)
		}
		shown[name] = strings.Contains(b.String(), "(defied gate kubelet-cgroup-v1)")
	}
	shown["json"] = json.New(run).Cells[0].Defied
	_, report := fromJUnit(t, run)
	shown["junit"] = false
	for _, p := range report.Suites[1].Properties {
		shown["junit"] = shown["junit"] || p.Name == "defied" && p.Value == "true"
	}
	return shown
}

// What the harness did wrong must be visible everywhere, also where every cell
// passes.
func TestHarnessErrorsAreNeverGreen(t *testing.T) {
	run := samples.Run(samples.ForVerdict(matrix.Pass))
	run.HarnessErrors = []string{"delete node cp1: still there"}
	if code := matrix.ExitCode(run, false); code != matrix.ExitHarness {
		t.Errorf("exit code %d, want %d", code, matrix.ExitHarness)
	}
	if _, r := fromJUnit(t, run); r.Errors != 1 {
		t.Errorf("JUnit has %d errors, want 1", r.Errors)
	}
	j, _ := fromJSON(t, run)
	for name, s := range map[string]said{"table": fromTable(t, run), "markdown": fromMarkdown(t, run), "html": fromHTML(t, run), "json": j} {
		if !strings.Contains(s.headline, "harness errors 1") {
			t.Errorf("%s does not count the harness error: %s", name, s.headline)
		}
	}
}

// A planned cell is in every report, with or without a result.
func TestPlannedCellWithoutResultIsShown(t *testing.T) {
	run := samples.Run(samples.ForVerdict(matrix.Pass))
	run.Results = nil
	j, exit := fromJSON(t, run)
	u, _ := fromJUnit(t, run)
	for name, s := range map[string]said{"table": fromTable(t, run), "markdown": fromMarkdown(t, run), "html": fromHTML(t, run), "json": j, "junit": u} {
		if s.verdict != "unknown" || !strings.HasPrefix(s.headline, "0 of 1 cells pass") {
			t.Errorf("%s says %+v", name, s)
		}
	}
	if exit != matrix.ExitHarness {
		t.Errorf("exit code %d, want %d", exit, matrix.ExitHarness)
	}
}

// Optional cells are counted and marked, and leave the exit code alone unless
// strict.
func TestOptionalBlocked(t *testing.T) {
	c := samples.Cell("12")
	c.Optional, c.Unavailable = true, "image cannot be had"
	run := samples.Run(samples.ForVerdict(matrix.Pass), samples.Result(c))
	if got := matrix.ExitCode(run, false); got != matrix.ExitExpected {
		t.Errorf("exit code %d, want %d", got, matrix.ExitExpected)
	}
	if got := matrix.ExitCode(run, true); got != matrix.ExitHarness {
		t.Errorf("strict exit code %d, want %d", got, matrix.ExitHarness)
	}
	if got := fromTable(t, run).headline; !strings.HasPrefix(got, "1 of 2 cells pass: pass 1, fail 0, blocked 1 (1 optional), ") {
		t.Errorf("headline: %s", got)
	}
}

// What somebody chose of the fixes is shown of a cell that passes, too.
func TestChosenFixesAreShown(t *testing.T) {
	c := samples.Cell("13")
	c.With, c.Without = []string{"kmsg-console"}, []string{"kmsg-device", "ids"}
	run := throughDisk(t, samples.Run(samples.Result(c, samples.Passing(c))))
	for name, render := range map[string]func(io.Writer, matrix.Run) error{"table": table.Render, "markdown": markdown.Render, "html": renderHTML} {
		var b bytes.Buffer
		if err := render(&b, run); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "‡") || !strings.Contains(b.String(), "(with kmsg-console) (without kmsg-device, ids)") {
			t.Errorf("%s does not show it:\n%s", name, b.String())
		}
	}
	if cell := json.New(run).Cells[0]; !slices.Equal(cell.With, c.With) || !slices.Equal(cell.Without, c.Without) {
		t.Errorf("json has with %v, without %v", cell.With, cell.Without)
	}
	_, report := fromJUnit(t, run)
	shown := map[string]string{}
	for _, p := range report.Suites[1].Properties {
		shown[p.Name] = p.Value
	}
	if shown["with"] != "kmsg-console" || shown["without"] != "kmsg-device, ids" {
		t.Errorf("JUnit has %v", shown)
	}
}

// What fixes turned out to be reads the same in every report, and one that is
// not finished is green in none.
func TestEveryReportAgreesOnFixesLeftOut(t *testing.T) {
	want := map[string]string{"ids": "required-otherwise", "kmsg-device": "required", "swap": "harmless", "stop-timeout": "needed-after-restart",
		"resolv": "redundant-with rshared", "rshared": "redundant-with resolv", "conntrack-max": "unknown", "net-sysctls": "unknown"}
	whole, cut := samples.Ablated(true), samples.Ablated(false)
	for fix, outcome := range want {
		for name, render := range map[string]func(io.Writer, matrix.Run) error{"table": table.Render, "markdown": markdown.Render, "junit": junit.Render,
			"html": renderHTML, "csv": csv.Render, "openmetrics": openmetrics.Render, "annotations": annotations.Render} {
			var b bytes.Buffer
			if err := render(&b, whole); err != nil {
				t.Fatal(err)
			}
			shown := map[string]string{"table": `(?m)^` + fix + ` +` + outcome + `$`, "markdown": `(?m)^\| ` + fix + ` +\| ` + outcome + ` +\|$`,
				"junit": `<testcase [^>]*name="` + fix + `"[^>]*>\s*<[a-z-]+(?: message="|>)` + outcome + `: `,
				"html":  `<th scope="row">` + fix + `<td>` + outcome + `\s*<`,
				"csv":   `[,;] ?` + fix + `: ` + outcome + `(;|\n)`, "openmetrics": `fix="` + fix + `",outcome="` + strings.Fields(outcome)[0] + `"} 1`,
				"annotations": `%0A` + fix + `: ` + outcome + `(%0A|\n)`}[name]
			if !regexp.MustCompile(shown).MatchString(b.String()) {
				t.Errorf("%s does not show that %s is %s:\n%s", name, fix, outcome, b.String())
			}
		}
		found := false
		for _, f := range json.New(whole).Ablations[0].Fixes {
			found = found || f.Fix == fix && strings.TrimSpace(f.Outcome.String()+" "+strings.Join(f.With, ", ")) == outcome
		}
		if !found {
			t.Errorf("json does not show that %s is %s", fix, outcome)
		}
	}
	for name, run := range map[string]matrix.Run{"with a fix that is unknown": whole, "cut short": cut} {
		_, report := fromJUnit(t, run)
		if code := json.New(run).Summary.ExitCode; code != matrix.ExitHarness || report.Errors == 0 {
			t.Errorf("%s: exit code %d, %d errors in JUnit", name, code, report.Errors)
		}
	}
}
