package datafile

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON Schema (draft 2020-12) of files that hold a T, generated
// from the type and the comments in the Go source that declares it. It knows
// their structure; what it cannot say only reading a file finds.
func Schema[T any](title, source string) ([]byte, error) {
	comments, err := Comments(source)
	if err != nil {
		return nil, fmt.Errorf("generate the schema of %s: %w", title, err)
	}
	r := jsonschema.Reflector{
		Anonymous: true, ExpandedStruct: true, RequiredFromJSONSchemaTags: true, FieldNameTag: "yaml",
		LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
	}
	schema := r.Reflect(new(T))
	schema.Title = title
	data, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("generate the schema of %s: %w", title, err)
	}
	return append(data, '\n'), nil
}

// Comments reads doc comments from Go source: those of types as "Type.", those
// of fields as "Type.Field", each on one line.
func Comments(source string) (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "types.go", source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	oneLine := func(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
	comments := map[string]string{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		spec := gen.Specs[0].(*ast.TypeSpec)
		comments[spec.Name.Name+"."] = oneLine(gen.Doc)
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					comments[spec.Name.Name+"."+name.Name] = oneLine(f.Doc)
				}
			}
		}
	}
	return comments, nil
}
