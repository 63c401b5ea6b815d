package junit_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/junit"
)

// text is what an attribute or an element may hold.
type text struct {
	Pattern  string   `yaml:"pattern"`
	Required bool     `yaml:"required"`
	ReadBy   []string `yaml:"readBy"`
}

func (t text) holds(s string) bool {
	return regexp.MustCompile(`^(?:` + t.Pattern + `)$`).MatchString(s)
}

// element is what an element may have.
type element struct {
	Attributes map[string]text `yaml:"attributes"`
	Elements   []string        `yaml:"elements"`
	Text       *text           `yaml:"text"`
}

// node is an element of a report.
type node struct {
	XMLName xml.Name
	Attrs   []xml.Attr `xml:",any,attr"`
	Text    string     `xml:",chardata"`
	Inner   []node     `xml:",any"`
}

func (n node) attr(name string) string {
	i := slices.IndexFunc(n.Attrs, func(a xml.Attr) bool { return a.Name.Local == name })
	if i < 0 {
		return ""
	}
	return n.Attrs[i].Value
}

// check says what of an element and those in it the schema does not allow.
func check(schema map[string]element, n node) (problems []string) {
	name := n.XMLName.Local
	is, known := schema[name]
	if !known {
		return []string{"there is no element " + name}
	}
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s %q: ", name, n.attr("name"))+fmt.Sprintf(format, args...))
	}
	for _, a := range n.Attrs {
		if rule, known := is.Attributes[a.Name.Local]; !known || !rule.holds(a.Value) {
			bad("attribute %s is %q", a.Name.Local, a.Value)
		}
	}
	for attribute, rule := range is.Attributes {
		if rule.Required && !slices.ContainsFunc(n.Attrs, func(a xml.Attr) bool { return a.Name.Local == attribute }) {
			bad("has no %s", attribute)
		}
	}
	if is.Text == nil && strings.TrimSpace(n.Text) != "" || is.Text != nil && !is.Text.holds(n.Text) {
		bad("holds %q", n.Text)
	}
	for _, inner := range n.Inner {
		if !slices.Contains(is.Elements, inner.XMLName.Local) {
			bad("has an element %s", inner.XMLName.Local)
		}
		problems = append(problems, check(schema, inner)...)
	}
	return problems
}

// count adds up what the test cases of an element came to.
func count(n node, counts map[string]int) {
	if n.XMLName.Local == "testcase" {
		counts["tests"]++
		for kind, of := range map[string]string{"failure": "failures", "error": "errors", "skipped": "skipped"} {
			if slices.ContainsFunc(n.Inner, func(inner node) bool { return inner.XMLName.Local == kind }) {
				counts[of]++
			}
		}
	}
	for _, inner := range n.Inner {
		count(inner, counts)
	}
}

func readSchema(t *testing.T) map[string]element {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "schema.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	schema := map[string]element{}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

func parse(t *testing.T, r io.Reader) node {
	t.Helper()
	var root node
	d := xml.NewDecoder(r)
	if err := d.Decode(&root); err != nil {
		t.Fatal(err)
	}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return root
		}
		if data, blank := token.(xml.CharData); err != nil || !blank || len(bytes.TrimSpace(data)) > 0 {
			t.Fatalf("after the report there is %v: %v", token, err)
		}
	}
}

// Whatever the run, the report has what viewers read, counted right, and nothing
// that Jenkins refuses.
func TestViewersReadIt(t *testing.T) {
	schema := readSchema(t)
	files, err := filepath.Glob(filepath.Join("testdata", "*.golden"))
	if err != nil || len(files) < 5 {
		t.Fatalf("there are %d golden files: %v", len(files), err)
	}
	reports := map[string]node{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reports[file] = parse(t, bytes.NewReader(raw))
	}
	run := samples.Everything()
	run.Interrupted = "SIGTERM"
	var out bytes.Buffer
	if err := junit.Render(&out, run); err != nil {
		t.Fatal(err)
	}
	reports["interrupted"] = parse(t, &out)
	seen := map[string]bool{}
	for name, root := range reports {
		for _, problem := range check(schema, root) {
			t.Errorf("%s: %s", name, problem)
		}
		names := map[string]bool{}
		for _, n := range append(root.Inner, root) {
			counts := map[string]int{}
			count(n, counts)
			for kind, want := range counts {
				if kind == "skipped" && n.XMLName.Local == "testsuites" {
					continue // the schema has no such attribute there
				}
				if n.attr(kind) != strconv.Itoa(want) {
					t.Errorf("%s: %s %s says %s %q, there are %d", name, n.XMLName.Local, n.attr("name"), kind, n.attr(kind), want)
				}
			}
			for _, c := range n.Inner {
				if c.XMLName.Local != "testcase" {
					continue
				}
				for _, inner := range c.Inner {
					seen[inner.XMLName.Local] = true
				}
				// GitLab passes over a second one.
				key := c.attr("classname") + " " + c.attr("name")
				if names[key] {
					t.Errorf("%s: test case %s is there twice", name, key)
				}
				names[key] = true
			}
		}
	}
	for _, kind := range schema["testcase"].Elements {
		if !seen[kind] {
			t.Errorf("no report has a test case with %s, so that nothing is known of it", kind)
		}
	}
}

// The schema finds what is wrong.
func TestSchemaFinds(t *testing.T) {
	schema := readSchema(t)
	for _, wrong := range []string{
		`<testsuites tests="0" failures="0" errors="0" time="0.000" skipped="0"/>`,
		`<testsuites tests="0" failures="0" errors="0"/>`,
		`<testsuites tests="1" failures="0" errors="0" time="1s"/>`,
		`<testsuites tests="1" failures="0" errors="0" time="0.000">text</testsuites>`,
		`<testsuites tests="1" failures="0" errors="0" time="0.000"><testcase classname="lxcmatrix.a" name="n" time="0.000"/></testsuites>`,
	} {
		if len(check(schema, parse(t, strings.NewReader(wrong)))) == 0 {
			t.Errorf("it finds nothing wrong with %s", wrong)
		}
	}
}
