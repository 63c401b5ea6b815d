// Package datafile reads folders of YAML files that hold one piece of knowledge
// each, as a fix, a gate or a signature, and says where in a file something is
// wrong.
package datafile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Source is a folder of YAML files and how messages name it.
type Source struct {
	// Name is put before file names in messages, as the folder's path.
	Name string
	FS   fs.FS
}

// Path leads to a value in a file: keys of mappings and indexes of lists.
type Path []any

// File is one file of a source.
type File struct {
	// Name is the file's with its source's.
	Name string
	root *yaml.Node
}

// Errorf is an error about what is at a path, with its place before it.
func (f *File) Errorf(at Path, format string, args ...any) error {
	return fmt.Errorf("%s: "+format, append([]any{f.Place(at)}, args...)...)
}

// Place is where a path is, as FILE:LINE:COLUMN. A path that is not in the file
// stands for the nearest above it that is.
func (f *File) Place(at Path) string {
	node := f.root
	for _, step := range at {
		below := child(node, step)
		if below == nil {
			break
		}
		node = below
	}
	return fmt.Sprintf("%s:%d:%d", f.Name, max(node.Line, 1), max(node.Column, 1))
}

// child is the value below a node; nil if there is none.
func child(node *yaml.Node, step any) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch step := step.(type) {
	case string:
		if node.Kind != yaml.MappingNode {
			return nil
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1]
			}
		}
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step]
		}
	}
	return nil
}

// Read decodes each .yaml file at the root of a source into a T, refusing keys
// that T has not, and hands it on; a file that ends in .yml is a problem, since
// it was meant to be read. It returns every problem with its file, its
// own with their positions as well; accept's are taken as they are.
func Read[T any](source Source, accept func(f *File, v *T) []error) []error {
	entries, err := fs.ReadDir(source.FS, ".")
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err // it names the folder as "."
		}
		return []error{fmt.Errorf("read folder %s: %w", source.Name, err)}
	}
	var problems []error
	for _, entry := range entries {
		f := &File{Name: path.Join(source.Name, entry.Name())}
		switch ext := path.Ext(entry.Name()); {
		case !entry.IsDir() && ext == ".yml":
			problems = append(problems, fmt.Errorf("%s: is not read: call it %s.yaml", f.Name, strings.TrimSuffix(entry.Name(), ext)))
			continue
		case entry.IsDir() || ext != ".yaml":
			continue
		}
		data, err := readFile(source.FS, entry.Name())
		if err != nil {
			problems = append(problems, fmt.Errorf("read %s: %w", f.Name, err))
			continue
		}
		var document yaml.Node
		v := new(T)
		if err := yaml.Load(data, v, yaml.WithV4Defaults(), yaml.WithKnownFields()); err != nil {
			problems = append(problems, positioned(f.Name, err)...)
			continue
		}
		if err := yaml.Load(data, &document, yaml.WithV4Defaults()); err != nil {
			problems = append(problems, positioned(f.Name, err)...)
			continue
		}
		f.root = &document
		if len(document.Content) == 1 {
			f.root = document.Content[0]
		}
		problems = append(problems, accept(f, v)...)
	}
	return problems
}

// most is far more than any piece of knowledge takes.
const most = 1 << 20

func readFile(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("more than the %d bytes that are read", most)
	}
	return data, err
}

// positioned turns a decoder's error into one problem per position.
func positioned(file string, err error) []error {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		var problems []error
		for _, one := range many.Errors {
			problems = append(problems, fmt.Errorf("%s:%d:%d: %s", file, one.Mark.Line, one.Mark.Column, one.Message))
		}
		return problems
	}
	var one *yaml.LoadError
	if errors.As(err, &one) && one.Mark.Line > 0 {
		return []error{fmt.Errorf("%s:%d:%d: %s", file, one.Mark.Line, one.Mark.Column, one.Message)}
	}
	return []error{fmt.Errorf("%s: %w", file, err)}
}
