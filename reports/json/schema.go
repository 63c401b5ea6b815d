package json

import (
	_ "embed" // the sources, whose comments describe the schema
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"

	"github.com/invopop/jsonschema"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

//go:embed json.go
var reportSource string

//go:embed ablation.go
var ablationSource string

// Schema is the JSON Schema (draft 2020-12) of the document, generated from the
// types and their comments. Since fields may be added to the document, it lets
// pass those that it does not know.
func Schema() ([]byte, error) {
	comments, err := datafile.Comments(reportSource)
	if err != nil {
		return nil, fmt.Errorf("generate the schema of reports: %w", err)
	}
	more, err := datafile.Comments(ablationSource)
	if err != nil {
		return nil, fmt.Errorf("generate the schema of reports: %w", err)
	}
	maps.Copy(comments, more)
	r := jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, AllowAdditionalProperties: true, Mapper: wordSchema,
		Namer:         defined,
		LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
	}
	schema := r.Reflect(&Report{})
	schema.Title = "lxcmatrix report, " + APIVersion
	if version, ok := schema.Properties.Get("apiVersion"); ok {
		version.Const = APIVersion
	}
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("generate the schema of reports: %w", err)
	}
	return append(data, '\n'), nil
}

// defined is a type's name among the definitions: those of other packages say whose
// they are, as some have the names of ours.
func defined(t reflect.Type) string {
	if t.Name() == "" || t.PkgPath() == reflect.TypeFor[Report]().PkgPath() {
		return t.Name()
	}
	return path.Base(t.PkgPath()) + t.Name()
}

// wordSchema is the schema of types that are written as words.
func wordSchema(t reflect.Type) *jsonschema.Schema {
	switch reflect.Zero(t).Interface().(type) {
	case matrix.Verdict:
		return words(matrix.Verdicts())
	case map[matrix.Verdict]int:
		counts := &jsonschema.Schema{Type: "object", Properties: jsonschema.NewProperties()}
		for _, v := range matrix.Verdicts() {
			counts.Properties.Set(v.String(), &jsonschema.Schema{Type: "integer", Minimum: "0"})
			counts.Required = append(counts.Required, v.String())
		}
		return counts
	case matrix.Outcome:
		return words([]matrix.Outcome{matrix.Undecided, matrix.Healthy, matrix.Unhealthy})
	case ablation.Outcome:
		return words(ablation.All())
	case matrix.Phase:
		return &jsonschema.Schema{Type: "string"}
	case matrix.Duration:
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(h|m|s|ms|µs|ns))+$`, Description: "A duration as Go writes it: 1m30s."}
	}
	return nil
}

func words[T fmt.Stringer](all []T) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	for _, word := range all {
		s.Enum = append(s.Enum, word.String())
	}
	return s
}
