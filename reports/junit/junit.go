// Package junit shows a run as JUnit XML, as CI systems read it: one test case
// for each planned cell, so that their counts are the table's. Blocked and
// unknown cells are errors, impossible ones are skipped, fail, xpass and flaky
// are failures, pass and xfail pass. Where fixes were left out of a cell, each is a
// test case of a suite of its own, too: what cannot be told is an error, or
// skipped where the host has it already, what is harmful a failure. What the harness itself did wrong is a
// suite of its own, so that a run which exits with 3 is never green here.
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
	Skipped  int      `xml:"skipped,attr"`
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
	// A pointer, so that a suite without any has no empty element.
	Properties *properties `xml:"properties"`
	Cases      []testcase  `xml:"testcase"`
}

type property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type testcase struct {
	Class      string      `xml:"classname,attr"`
	Name       string      `xml:"name,attr"`
	Time       seconds     `xml:"time,attr"`
	Properties *properties `xml:"properties"`
	Failure    *outcome    `xml:"failure"`
	Error      *outcome    `xml:"error"`
	Skipped    *outcome    `xml:"skipped"`
	Out        string      `xml:"system-out,omitempty"`
}

type properties struct {
	List []property `xml:"property"`
}

type outcome struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

type seconds time.Duration

// MarshalXMLAttr writes seconds with milliseconds, as JUnit has them.
func (s seconds) MarshalXMLAttr(name xml.Name) (xml.Attr, error) {
	return xml.Attr{Name: name, Value: fmt.Sprintf("%.3f", time.Duration(s).Seconds())}, nil
}

// Render writes a run. It returns only errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	cells := suite{Name: "cells", Properties: &properties{List: []property{
		{"run", v.ID}, {"version", v.Version}, {"matrix", v.Matrix}, {"summary", v.Summary()}}}}
	if !v.Started.IsZero() {
		cells.Timestamp = v.Started.UTC().Format("2006-01-02T15:04:05")
	}
	for _, c := range v.Cells {
		cells.add(newCase(c))
	}
	all := suites{Name: "lxcmatrix"}
	all.add(cells)
	for _, a := range v.Ablations {
		all.add(ablationSuite(a))
	}
	if harness := harnessSuite(v); harness.Tests > 0 {
		all.add(harness)
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
	s.Skipped += t.Skipped
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

func harnessSuite(v view.Run) suite {
	s := suite{Name: "harness"}
	if v.Interrupted != "" {
		s.add(testcase{Class: "lxcmatrix.harness", Name: "run to the end", Error: &outcome{Message: "interrupted by " + v.Interrupted, Type: "interrupted"}})
	}
	for i, e := range v.HarnessErrors {
		s.add(testcase{Class: "lxcmatrix.harness", Name: fmt.Sprintf("harness error %d", i+1), Error: &outcome{Message: e, Type: "harness"}})
	}
	if v.Planned == 0 {
		s.add(testcase{Class: "lxcmatrix.harness", Name: "plan", Error: &outcome{Message: "no cell is planned", Type: "harness"}})
	}
	return s
}

func newCase(c view.Cell) testcase {
	t := testcase{Class: class(c), Name: c.ID, Time: seconds(c.Took), Properties: &properties{}}
	for _, a := range c.Axes {
		t.Properties.add(a.Name, a.Value)
	}
	t.Properties.add("verdict", c.Verdict.String())
	t.Properties.add("phase", c.Phase)
	if c.Optional {
		t.Properties.add("optional", "true")
	}
	t.Properties.add("gate", c.Gate)
	if c.Defied {
		t.Properties.add("defied", "true")
	}
	t.Properties.add("with", strings.Join(c.With, ", "))
	t.Properties.add("without", strings.Join(c.Without, ", "))
	t.Properties.add("provenance", c.Provenance)
	if c.Observed {
		t.Properties.add("kernel", c.Host.Kernel)
		t.Properties.add("cgroup", c.Host.Cgroup)
		t.Properties.add("incus", c.Host.Incus)
		t.Properties.add("host-lacks", strings.Join(c.Lacks, ", "))
	}
	for _, n := range c.Nodes {
		t.Properties.add("node:"+n.Node, view.Software(n))
	}
	for _, f := range c.Fixes {
		t.Properties.add("fixes:"+f.State, strings.Join(f.Fixes, ", "))
	}
	for _, note := range c.HygieneNotes() {
		t.Properties.add(strings.ReplaceAll(note.Name, " ", "-"), note.Text)
	}

	reason := c.Verdict.String() + c.Where() + ": " + c.Reason
	if c.Optional {
		reason = "optional, " + reason
	}
	said := &outcome{Message: reason, Type: c.Verdict.String(), Text: details(c)}
	switch c.Verdict {
	case matrix.Pass, matrix.XFail:
		t.Out = phases(c)
		if c.Verdict == matrix.XFail {
			t.Out = reason + "\n" + details(c) + t.Out
		}
	case matrix.Impossible:
		t.Skipped = &outcome{Message: reason}
	case matrix.Fail, matrix.XPass, matrix.Flaky:
		t.Failure, t.Out = said, phases(c)
	default:
		t.Error, t.Out = said, phases(c)
	}
	return t
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
