package config

import (
	_ "embed" // types.go, whose comments describe the schema
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"

	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

//go:embed types.go
var typesSource string

// Schema is the JSON Schema (draft 2020-12) of matrix files, generated from
// the types and their comments. It knows their structure; what it cannot say,
// as that a rule matches a cell, only reading the file finds.
func Schema() ([]byte, error) {
	comments, err := datafile.Comments(typesSource)
	if err != nil {
		return nil, fmt.Errorf("generate the schema of matrix files: %w", err)
	}
	r := jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, RequiredFromJSONSchemaTags: true, FieldNameTag: "yaml",
		Mapper:        scalarSchema,
		LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
	}
	schema := r.Reflect(&Matrix{})
	schema.Title = "lxcmatrix matrix"
	for name, short := range map[string]interface{ scalarPattern() string }{"Host": Host{}, "Distro": Distro{}, "OS": OS{}} {
		mapping := schema.Definitions[name]
		schema.Definitions[name] = &jsonschema.Schema{
			Description: mapping.Description,
			OneOf:       []*jsonschema.Schema{{Type: "string", Pattern: short.scalarPattern()}, mapping},
		}
		mapping.Description = ""
	}
	schema.Definitions["OS"].OneOf[1].OneOf = []*jsonschema.Schema{{Required: []string{"name"}}, {Required: []string{"servers", "agents"}}}
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("generate the schema of matrix files: %w", err)
	}
	return append(data, '\n'), nil
}

// scalarSchema is the schema of types that are written as one string.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch v := reflect.Zero(t).Interface().(type) {
	case interface{ pattern() string }:
		return &jsonschema.Schema{Type: "string", Pattern: v.pattern()}
	case interface{ words() []string }:
		s := &jsonschema.Schema{Type: "string"}
		for _, word := range v.words() {
			s.Enum = append(s.Enum, word)
		}
		return s
	}
	return nil
}
