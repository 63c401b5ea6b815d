// Package junit shows a run as JUnit XML, as CI systems read it and Jenkins' xUnit
// plugin accepts it: one suite with one test case for each planned cell, so that
// the counts are the table's, with the cell's axes and what was observed of it as
// the suite's properties. Blocked and unknown cells are errors, impossible ones are
// skipped, fail, xpass and flaky are failures, pass and xfail pass. Where fixes were
// left out of a cell, each is a test case of a further suite: what cannot be told is
// an error, or skipped where the host has it already, what is harmful a failure.
// What the harness itself did wrong is in the suite of the run, which comes first, so
// that a run which exits with 3 is never green here.
package junit

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

type suites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Name     string   `xml:"name,attr"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Errors   int      `xml:"errors,attr"`
	Time     seconds  `xml:"time,attr"`
	Suites   []suite  `xml:"testsuite"`
}

type suite struct {
	Name      string  `xml:"name,attr"`
	Tests     int     `xml:"tests,attr"`
	Failures  int     `xml:"failures,attr"`
	Errors    int     `xml:"errors,attr"`
	Skipped   int     `xml:"skipped,attr"`
	Time      seconds `xml:"time,attr"`
	Timestamp string  `xml:"timestamp,attr,omitempty"`
	// Of test cases the plugin's schema knows no properties.
	Properties *properties `xml:"properties"`
	Cases      []testcase  `xml:"testcase"`
}

type property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type testcase struct {
	Class   string   `xml:"classname,attr"`
	Name    string   `xml:"name,attr"`
	Time    seconds  `xml:"time,attr"`
	Failure *outcome `xml:"failure"`
	Error   *outcome `xml:"error"`
	Skipped *outcome `xml:"skipped"`
	Out     string   `xml:"system-out,omitempty"`
}

type properties struct {
	List []property `xml:"property"`
}

// outcome is said twice, since some viewers show the attribute and some what the
// element holds.
type outcome struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

func newOutcome(kind, text string) *outcome { return &outcome{Message: text, Type: kind, Text: text} }

type seconds time.Duration

// MarshalXMLAttr writes seconds with milliseconds, as JUnit has them.
func (s seconds) MarshalXMLAttr(name xml.Name) (xml.Attr, error) {
	return xml.Attr{Name: name, Value: fmt.Sprintf("%.3f", time.Duration(s).Seconds())}, nil
}

// Render writes a run. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	all := suites{Name: "lxcmatrix"}
	all.add(runSuite(v))
	for _, c := range v.Cells {
		s := cellSuite(c)
		s.Timestamp = timestamp(v.Started)
		all.add(s)
	}
	for _, a := range v.Ablations {
		all.add(ablationSuite(a))
	}

	var out bytes.Buffer
	out.WriteString(xml.Header)
	e := xml.NewEncoder(&out)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("render JUnit of run %s: %w", v.ID, err)
	}
	out.WriteString("\n")
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write JUnit of run %s: %w", v.ID, err)
	}
	return nil
}

func (s *suites) add(t suite) {
	s.Suites = append(s.Suites, t)
	s.Tests += t.Tests
	s.Failures += t.Failures
	s.Errors += t.Errors
	s.Time += t.Time
}

func (s *suite) add(t testcase) {
	s.Cases = append(s.Cases, t)
	s.Tests++
	s.Time += t.Time
	switch {
	case t.Failure != nil:
		s.Failures++
	case t.Error != nil:
		s.Errors++
	case t.Skipped != nil:
		s.Skipped++
	}
}

// timestamp is a time as JUnit has it; empty for none.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

// runSuite says what the run is, and has a case for each thing that the harness did
// wrong.
func runSuite(v view.Run) suite {
	s := suite{Name: "run", Timestamp: timestamp(v.Started), Properties: &properties{List: []property{
		{"run", v.ID}, {"version", v.Version}, {"matrix", v.Matrix}, {"summary", v.Summary()}}}}
	if v.Interrupted != "" {
		s.add(testcase{Class: "lxcmatrix.harness", Name: "run to the end", Error: newOutcome("interrupted", "interrupted by "+v.Interrupted)})
	}
	for i, e := range v.HarnessErrors {
		s.add(testcase{Class: "lxcmatrix.harness", Name: fmt.Sprintf("harness error %d", i+1), Error: newOutcome("harness", e)})
	}
	if v.Planned == 0 {
		s.add(testcase{Class: "lxcmatrix.harness", Name: "plan", Error: newOutcome("harness", "no cell is planned")})
	}
	return s
}

// cellSuite is a cell's.
func cellSuite(c view.Cell) suite {
	s := suite{Name: c.ID, Properties: &properties{}}
	for _, a := range c.Axes {
		s.Properties.add(a.Name, a.Value)
	}
	s.Properties.add("verdict", c.Verdict.String())
	s.Properties.add("phase", c.Phase)
	if c.Optional {
		s.Properties.add("optional", "true")
	}
	s.Properties.add("gate", c.Gate)
	if c.Defied {
		s.Properties.add("defied", "true")
	}
	s.Properties.add("with", strings.Join(c.With, ", "))
	s.Properties.add("without", strings.Join(c.Without, ", "))
	s.Properties.add("provenance", c.Provenance)
	if c.Observed {
		s.Properties.add("kernel", c.Host.Kernel)
		s.Properties.add("cgroup", c.Host.Cgroup)
		s.Properties.add("incus", c.Host.Incus)
		s.Properties.add("host-lacks", strings.Join(c.Lacks, ", "))
	}
	for _, n := range c.Nodes {
		s.Properties.add("node:"+n.Node, view.Software(n))
	}
	for _, f := range c.Fixes {
		s.Properties.add("fixes:"+f.State, strings.Join(f.Fixes, ", "))
	}
	for _, note := range c.HygieneNotes() {
		s.Properties.add(strings.ReplaceAll(note.Name, " ", "-"), note.Text)
	}

	t := testcase{Class: class(c), Name: c.ID, Time: seconds(c.Took)}
	reason := c.Verdict.String() + c.Where() + ": " + c.Reason
	if c.Optional {
		reason = "optional, " + reason
	}
	said := &outcome{Message: reason, Type: c.Verdict.String(), Text: reason + "\n" + details(c)}
	switch c.Verdict {
	case matrix.Pass, matrix.XFail:
		t.Out = phases(c)
		if c.Verdict == matrix.XFail {
			t.Out = said.Text + t.Out
		}
	case matrix.Impossible:
		t.Skipped = newOutcome("impossible", reason)
	case matrix.Fail, matrix.XPass, matrix.Flaky:
		t.Failure, t.Out = said, phases(c)
	default:
		t.Error, t.Out = said, phases(c)
	}
	s.add(t)
	return s
}

func (p *properties) add(name, value string) {
	if value != "" {
		p.List = append(p.List, property{name, value})
	}
}

// class groups cells by distribution and OS. A dot ends a package's name in
// viewers that follow Java, so versions have none.
func class(c view.Cell) string {
	parts := []string{"lxcmatrix"}
	for _, a := range c.Axes[:2] {
		parts = append(parts, strings.NewReplacer(".", "_", "/", "-").Replace(a.Value))
	}
	return strings.Join(parts, ".")
}

// details is what is known of a failure, a fact a line.
func details(c view.Cell) string {
	var b strings.Builder
	for _, d := range c.Diagnoses {
		fmt.Fprintf(&b, "diagnosis: %s (%s)\n", d.Title, d.Signature)
		if d.Log != "" {
			fmt.Fprintf(&b, "%s: %s\n", d.Log, d.Line)
		}
		if d.Cause != "" {
			fmt.Fprintf(&b, "cause: %s\n", d.Cause)
		}
		if remedy := c.Remedy(d); remedy != "" {
			fmt.Fprintf(&b, "remedy: %s\n", remedy)
		}
		if d.Issue != "" {
			fmt.Fprintf(&b, "issue: %s\n", d.Issue)
		}
	}
	if c.Kept != "" {
		fmt.Fprintf(&b, "kept: %s\n", c.Kept)
	}
	return b.String()
}

func phases(c view.Cell) string {
	var b strings.Builder
	for _, p := range c.Phases {
		if p.Ran {
			fmt.Fprintf(&b, "%s %s", p.Short(), p.Name)
			if p.Reason != "" {
				fmt.Fprintf(&b, ": %s", p.Reason)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
