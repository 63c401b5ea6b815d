package json_test

import (
	"bytes"
	stdjson "encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/json"
)

// compiled is the published schema; strict makes of it one that refuses fields
// that it does not name.
func compiled(t *testing.T, strict bool) *jsonschema.Schema {
	t.Helper()
	raw, err := json.Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden.Assert(t, string(raw), filepath.Join("..", "..", "..", "docs", "report.schema.json"))
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if strict {
		closeObjects(doc)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("report", doc); err != nil {
		t.Fatal(err)
	}
	s, err := compiler.Compile("report")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeObjects(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, is := n["properties"].(map[string]any); is {
			n["additionalProperties"] = false
		}
		for _, child := range n {
			closeObjects(child)
		}
	case []any:
		for _, child := range n {
			closeObjects(child)
		}
	}
}

func instance(t *testing.T, text string) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Everything that a report has is in the schema, and is what it says.
func TestEveryReportHasTheSchema(t *testing.T) {
	s := compiled(t, true)
	files, err := filepath.Glob(filepath.Join("testdata", "*.golden"))
	if err != nil || len(files) < 5 {
		t.Fatalf("there are %d golden files: %v", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(instance(t, string(raw))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	bare := samples.Run(samples.Result(samples.Cell("13"), matrix.Attempt{Nodes: []matrix.NodeFacts{{}}, Host: matrix.HostFacts{Kernel: "6"}, Diagnoses: []matrix.Diagnosis{{}}, Hygiene: &matrix.Hygiene{}}))
	for name, run := range map[string]matrix.Run{"zero": {}, "bare": bare} {
		var out bytes.Buffer
		if err := json.Render(&out, run); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(instance(t, out.String())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The schema refuses what no report says, and lets fields pass that a later program
// may add.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t, false)
	raw, err := os.ReadFile(filepath.Join("testdata", "everything.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(report, cell map[string]any){
		"another version":    func(r, _ map[string]any) { r["apiVersion"] = "lxcmatrix.dev/report/v2" },
		"no cells":           func(r, _ map[string]any) { delete(r, "cells") },
		"a verdict too many": func(_, c map[string]any) { c["verdict"] = "green" },
		"a count that is none": func(r, _ map[string]any) {
			delete(r["summary"].(map[string]any)["verdicts"].(map[string]any), "unknown")
		},
		"a text for a number": func(_, c map[string]any) { c["seconds"] = "1" },
	} {
		var report map[string]any
		if err := stdjson.Unmarshal(raw, &report); err != nil {
			t.Fatal(err)
		}
		change(report, report["cells"].([]any)[0].(map[string]any))
		if s.Validate(report) == nil {
			t.Errorf("it lets pass: %s", what)
		}
	}
	var report map[string]any
	if err := stdjson.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	report["later"] = true
	if err := s.Validate(report); err != nil {
		t.Errorf("it refuses a field of a later program: %v", err)
	}
}
