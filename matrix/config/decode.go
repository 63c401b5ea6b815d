package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"go.yaml.in/yaml/v4"
)

// decoder fills structs from YAML nodes and reports everything that does not
// fit, with its place. It obeys the jsonschema tags required, enum, pattern,
// minimum, maximum, minItems, maxItems
// and uniqueItems, so that it and the JSON Schema
// cannot drift apart. Depth is bounded by the types, none of which contains
// itself, and the number of aliases by mostAliases, so that they can neither
// recurse nor explode.
type decoder struct {
	problems  *problems
	positions positions
	types     map[reflect.Type][]field
	aliases   int
	// broken holds the top-level keys below which something does not fit.
	broken map[string]bool
}

func newDecoder(p *problems, at positions) *decoder {
	return &decoder{problems: p, positions: at, types: map[reflect.Type][]field{}, broken: map[string]bool{}}
}

func (d *decoder) anyBroken(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return d.broken[key] })
}

// fields are those of t, read once.
func (d *decoder) fields(t reflect.Type) []field {
	if _, known := d.types[t]; !known {
		d.types[t] = fieldsOf(t)
	}
	return d.types[t]
}

// parse reads the one document of a file.
func parse(data []byte, p *problems) *yaml.Node {
	const most = 1 << 20
	if len(data) > most {
		p.add(place{}, "%d bytes, at most %d are read", len(data), most)
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		p.add(place{}, "%v", err)
		return nil
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil {
		addYAML(p, err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		p.add(place{second.Line, second.Column}, "a second document; a matrix file holds one")
	case !errors.Is(err, io.EOF):
		addYAML(p, err)
		return nil
	}
	if len(doc.Content) != 1 {
		p.add(place{}, "the file is empty")
		return nil
	}
	return doc.Content[0]
}

func addYAML(p *problems, err error) {
	var le *yaml.LoadError
	switch {
	case errors.Is(err, io.EOF):
		p.add(place{}, "the file is empty")
	case errors.As(err, &le) && le.Mark.Line > 0:
		message := le.Message
		if le.ContextMsg != "" {
			message = le.ContextMsg + ": " + message
		}
		p.add(place{le.Mark.Line, le.Mark.Column}, "not YAML: %s", message)
	default:
		p.add(place{}, "not YAML: %v", err)
	}
}

// value decodes node into v. path is where v is in the matrix, tag the field's
// constraints.
func (d *decoder) value(node *yaml.Node, v reflect.Value, path string, tag constraints) {
	at := place{node.Line, node.Column}
	d.positions[path] = at
	for node.Kind == yaml.AliasNode {
		if d.aliases++; d.aliases > mostAliases {
			d.problems.add(at, "%s: there are more than %d aliases", path, mostAliases)
			return
		}
		node = node.Alias
	}
	if v.Kind() == reflect.Slice {
		d.list(node, v, path, at, tag)
		return
	}
	if v.Kind() == reflect.Struct && !isText(v) {
		d.structure(node, v, path, at)
		return
	}
	d.scalar(node, v, path, at, tag)
}

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

func (d *decoder) list(node *yaml.Node, v reflect.Value, path string, at place, tag constraints) {
	if node.Kind != yaml.SequenceNode {
		d.problems.add(at, "%s: want a list, got %s", path, describe(node))
		return
	}
	if len(node.Content) < tag.minItems {
		d.problems.add(at, "%s: the list is empty, want at least %d", path, tag.minItems)
	}
	if tag.maxItems > 0 && len(node.Content) > tag.maxItems {
		d.problems.add(at, "%s: the list has %d elements, want at most %d", path, len(node.Content), tag.maxItems)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	seen := map[string]bool{}
	for i, child := range node.Content {
		element := fmt.Sprintf("%s[%d]", path, i)
		d.value(child, v.Index(i), element, constraints{})
		if tag.uniqueItems && child.Kind == yaml.ScalarNode {
			if seen[child.Value] {
				d.problems.add(place{child.Line, child.Column}, "%s: %q is there twice", element, child.Value)
			}
			seen[child.Value] = true
		}
	}
}

func (d *decoder) structure(node *yaml.Node, v reflect.Value, path string, at place) {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!str" {
		if short, ok := v.Addr().Interface().(shorthand); ok {
			short.fromScalar(node.Value)
			d.checkFields(v, node.Value, path, at)
			return
		}
	}
	if node.Kind != yaml.MappingNode {
		want := "a mapping"
		if _, ok := v.Addr().Interface().(shorthand); ok {
			want = "a mapping or a string"
		}
		d.problems.add(at, "%s: want %s, got %s", orFile(path), want, describe(node))
		return
	}
	fields := d.fields(v.Type())
	seen, merged := map[string]int{}, false
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, child := node.Content[i], node.Content[i+1]
		keyAt := place{key.Line, key.Column}
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.ShortTag() == "!!merge":
			d.problems.add(keyAt, "%s: merge keys (<<) are not read; write the keys out", orFile(path))
			merged = true
			continue
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
			d.problems.add(keyAt, "%s: a key must be a string, got %s", orFile(path), describe(key))
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.problems.add(keyAt, "%s: key %q is there twice, first in line %d", orFile(path), key.Value, line)
			continue
		}
		seen[key.Value] = keyAt.line
		k := slices.IndexFunc(fields, func(f field) bool { return f.name == key.Value })
		if k < 0 {
			names := make([]string, len(fields))
			for i, f := range fields {
				names[i] = f.name
			}
			hint := selector.DidYouMean(key.Value, names)
			if hint == "" {
				hint = "; keys are " + strings.Join(names, ", ")
			}
			d.problems.add(keyAt, "%s: unknown key %q%s", orFile(path), key.Value, hint)
			continue
		}
		before := len(d.problems.list)
		d.value(child, v.FieldByIndex(fields[k].index), join(path, key.Value), fields[k].constraints)
		if path == "" && len(d.problems.list) > before {
			d.broken[key.Value] = true
		}
	}
	for _, f := range fields {
		if _, there := seen[f.name]; f.required && !there && !merged {
			d.problems.add(at, "%s: key %q is missing", orFile(path), f.name)
		}
	}
}

// checkFields holds a struct that was written as a scalar to its fields'
// constraints.
func (d *decoder) checkFields(v reflect.Value, written, path string, at place) {
	for _, f := range d.fields(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if fv.Kind() != reflect.String || (!f.required && fv.Len() == 0) {
			continue
		}
		switch complaint := f.complain(fv.String()); {
		case complaint == "":
		case fv.Len() == 0 && f.want != "":
			d.problems.add(at, "%s: %q has no %s; want %s", path, written, f.name, f.want)
		default:
			d.problems.add(at, "%s: %s", join(path, f.name), complaint)
		}
	}
}

func (d *decoder) scalar(node *yaml.Node, v reflect.Value, path string, at place, tag constraints) {
	wrong := func(want string) {
		hint := ""
		if tag := node.ShortTag(); node.Kind == yaml.ScalarNode && strings.HasPrefix(want, "a string") && (tag == "!!int" || tag == "!!float" || tag == "!!bool") {
			hint = fmt.Sprintf("; write it in quotes: %q", node.Value)
		}
		d.problems.add(at, "%s: want %s, got %s%s", path, want, describe(node), hint)
	}
	kind := ""
	if node.Kind == yaml.ScalarNode {
		kind = node.ShortTag()
	}
	switch target := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		var err error
		if node.Kind == yaml.ScalarNode && kind != "!!null" {
			err = target.UnmarshalText([]byte(node.Value))
		}
		switch {
		case err != nil:
			d.problems.add(at, "%s: %v", path, err)
		case kind != "!!str":
			wrong("a string")
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if kind != "!!str" {
			wrong("a string")
			return
		}
		if w, ok := v.Interface().(interface{ words() []string }); ok {
			tag.enum = w.words()
		}
		if complaint := tag.complain(node.Value); complaint != "" {
			d.problems.add(at, "%s: %s", path, complaint)
		}
		v.SetString(node.Value)
	case reflect.Bool:
		if kind != "!!bool" {
			wrong("true or false")
			return
		}
		v.SetBool(node.Value == "true" || node.Value == "True" || node.Value == "TRUE")
	case reflect.Int:
		n, err := strconv.ParseInt(node.Value, 10, 32)
		switch {
		case kind != "!!int" || (err != nil && !errors.Is(err, strconv.ErrRange)):
			wrong("a whole number")
			return
		case err != nil || n < tag.minimum || n > tag.maximum:
			d.problems.add(at, "%s: %s is out of range, want %d to %d", path, node.Value, tag.minimum, tag.maximum)
			return
		}
		v.SetInt(n)
	default:
		// Only a new field of a kind that nothing above reads comes here, and
		// then every test does.
		panic(fmt.Sprintf("config: %s has a type that the decoder does not know: %s", path, v.Type()))
	}
}

// describe says what a node is, for "want X, got ...".
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch node.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return fmt.Sprintf("the string %q", node.Value)
		case "!!int", "!!float":
			return "the number " + node.Value
		case "!!bool":
			return "the boolean " + node.Value
		}
		return fmt.Sprintf("%s %q", node.ShortTag(), node.Value)
	}
	return "something else"
}

func orFile(path string) string {
	if path == "" {
		return "the matrix"
	}
	return path
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// field is a struct's field as the file sees it.
type field struct {
	name  string
	index []int
	constraints
}

// fieldsOf lists the fields, those of inlined structs among them.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case options == "inline":
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append(slices.Clone(f.Index), inner.index...)
				out = append(out, inner)
			}
		default:
			out = append(out, field{name, f.Index, constraintsOf(f)})
		}
	}
	return out
}

// constraints are what a field's tags demand.
type constraints struct {
	required, uniqueItems bool
	enum                  []string
	pattern               *regexp.Regexp
	// want says in words what the pattern wants.
	want             string
	minimum, maximum int64
	// maxItems is 0 where nothing is said.
	minItems, maxItems int
}

// constraintsOf reads a field's jsonschema and want tags. A comma inside a
// value of jsonschema is written \, there. What it cannot read is a mistake
// in types.go, so it panics: every test comes by here.
func constraintsOf(f reflect.StructField) constraints {
	const comma = "\x00"
	c := constraints{want: f.Tag.Get("want"), maximum: math.MaxInt32}
	for part := range strings.SplitSeq(strings.ReplaceAll(f.Tag.Get("jsonschema"), `\,`, comma), ",") {
		key, value, _ := strings.Cut(strings.ReplaceAll(part, comma, ","), "=")
		number := func() int64 {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				panic(fmt.Sprintf("config: field %s: jsonschema tag %q: %v", f.Name, part, err))
			}
			return n
		}
		switch key {
		case "", "-":
		case "required":
			c.required = true
		case "uniqueItems":
			c.uniqueItems = true
		case "enum":
			c.enum = append(c.enum, value)
		case "pattern":
			c.pattern = regexp.MustCompile(value)
		case "minimum":
			c.minimum = number()
		case "maximum":
			c.maximum = number()
		case "minItems":
			c.minItems = int(number())
		case "maxItems":
			c.maxItems = int(number())
		default:
			panic(fmt.Sprintf("config: field %s: jsonschema tag %q is not one that the decoder knows", f.Name, part))
		}
	}
	return c
}

// complain says why s is no such value, or nothing.
func (c constraints) complain(s string) string {
	switch {
	case len(c.enum) > 0 && !slices.Contains(c.enum, s):
		want := strings.Join(c.enum, ", ")
		if len(c.enum) > 1 {
			want = "one of " + want
		}
		return fmt.Sprintf("%q is not supported%s; want %s", s, selector.DidYouMean(s, c.enum), want)
	case c.pattern != nil && !c.pattern.MatchString(s):
		return fmt.Sprintf("%q: want %s", s, c.want)
	}
	return ""
}
