// Package config reads matrix files: strictly, with every problem at once and
// each with its place, and with every default filled in.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
	"go.yaml.in/yaml/v4"
)

// FileName is the matrix file that is read where none is named, if the current
// folder has it; DefaultName is the built-in matrix that is read else.
const (
	FileName    = "matrix.yaml"
	DefaultName = "default"
)

// Find reads the matrix that arg names for somebody in the folder cwd: a path,
// or the name of a built-in matrix. A bare name that is both is the built-in
// one; "./NAME" is the file. An empty arg is FileName in cwd if that is there,
// else the built-in DefaultName. An error about the matrix is an *Error.
func Find(arg, cwd string) (*Matrix, error) {
	if arg == "" {
		path := filepath.Join(cwd, FileName)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return Builtin(DefaultName)
		}
		return load(path, FileName)
	}
	path := arg
	if !filepath.IsAbs(path) {
		path = filepath.Join(cwd, path)
	}
	names := Builtins()
	for _, name := range names {
		if name == arg {
			return Builtin(name)
		}
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, problem(arg, "neither a file nor a built-in matrix%s; built in are %s",
			selector.DidYouMean(arg, names), strings.Join(names, ", "))
	}
	return load(path, arg)
}

// Load reads a matrix file; paths in it start at its folder. An error about it
// is an *Error.
func Load(path string) (*Matrix, error) { return load(path, path) }

func load(path, shown string) (*Matrix, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, problem(shown, "cannot be read: %v", err)
	}
	m, err := parseHere(shown, data)
	if err != nil {
		return nil, err
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, problem(shown, "the folder it is in cannot be told: %v", err)
	}
	m.rebase(folder)
	return m, nil
}

// rebase makes the paths in the matrix absolute: they start at its folder.
func (m *Matrix) rebase(folder string) {
	m.folder = folder
	if isPath(m.Sources.Mirror) && !filepath.IsAbs(m.Sources.Mirror) {
		m.Sources.Mirror = filepath.Join(folder, m.Sources.Mirror)
	}
	for i := range m.Hosts {
		h := &m.Hosts[i]
		paths := []*string{&h.Initrd, &h.Modules, &h.ClientCert, &h.ClientKey}
		if isPath(h.Kernel) {
			paths = append(paths, &h.Kernel)
		}
		for _, path := range paths {
			if *path != "" && !filepath.IsAbs(*path) {
				*path = filepath.Join(folder, *path)
			}
		}
	}
}

// Beside is the path of a file in the matrix file's folder; empty for a
// built-in matrix, which is in none.
func (m *Matrix) Beside(name string) string {
	if m.folder == "" {
		return ""
	}
	return filepath.Join(m.folder, name)
}

// Builtins lists the names of the built-in matrices.
func Builtins() []string {
	entries, err := fs.ReadDir(fixtures.Matrices(), ".")
	if err != nil {
		panic(err) // an embedded folder can be read
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Builtin reads a built-in matrix. An error about it is an *Error.
func Builtin(name string) (*Matrix, error) {
	data, err := fs.ReadFile(fixtures.Matrices(), name+".yaml")
	if err != nil {
		return nil, problem(name, "not a built-in matrix%s; built in are %s",
			selector.DidYouMean(name, Builtins()), strings.Join(Builtins(), ", "))
	}
	return parseHere("built-in "+name, data)
}

func parseHere(shown string, data []byte) (*Matrix, error) {
	machine, err := ThisMachine()
	if err != nil {
		return nil, err
	}
	return Parse(shown, data, machine)
}

func problem(file, format string, args ...any) error {
	p := &problems{file: file}
	p.add(place{}, format, args...)
	return p.err()
}

// Parse reads a matrix file's text; file is what problems call it, and the
// default budget is a part of machine. The matrix it returns is effective:
// every default is filled in. Otherwise the error is an *Error with every
// problem that was found; only the rules' matches are not looked at while the
// axes or the rules themselves have problems.
func Parse(file string, data []byte, machine Machine) (*Matrix, error) {
	p := &problems{file: file}
	m := &Matrix{File: file, positions: positions{}}
	root := parse(data, p)
	if root == nil {
		return nil, p.err()
	}
	d := newDecoder(p, m.positions)
	d.value(root, reflect.ValueOf(m).Elem(), "", constraints{})
	m.setDefaults(machine)
	m.check(p)
	named := d.anyBroken("os") || m.checkOS(p)
	if m.unique(p) && named && !d.anyBroken("hosts", "distros", "os", "topologies", "variants", "exclude", "include", "expect") {
		m.expand(p)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return m, nil
}

// YAML is the matrix with every default written out; reading it gives the same
// matrix.
func (m *Matrix) YAML() ([]byte, error) {
	data, err := yaml.Dump(m)
	if err != nil {
		return nil, fmt.Errorf("write matrix %s: %w", m.File, err)
	}
	return data, nil
}

// valid holds a distro to what its short form may say.
func (d Distro) valid() bool { return matches(d.scalarPattern(), d.Name+"@"+d.Version) }

func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }
