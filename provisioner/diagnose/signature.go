// Package diagnose finds known failures in collected logs.
package diagnose

import (
	"context"
	_ "embed" // this file, whose comments describe the schema
	"errors"
	"fmt"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

//go:embed signature.go
var source string

// Schema is the JSON Schema (draft 2020-12) of a signature's file.
func Schema() ([]byte, error) { return datafile.Schema[Signature]("lxcmatrix signature", source) }

// Signature is a log line by which a failure is known.
type Signature struct {
	// ID names the signature everywhere; it is the name of its file, too.
	ID string `yaml:"id" jsonschema:"required,minLength=1"`
	// Title says in one line what failed.
	Title string `yaml:"title" jsonschema:"required,minLength=1"`
	// Pattern is a regular expression (RE2) that one line of a log matches.
	Pattern string `yaml:"pattern" jsonschema:"required,minLength=1"`
	// Where holds globs of the names of the log files that are looked at.
	Where []string `yaml:"where" jsonschema:"required,minItems=1"`
	// Cause says why it happens.
	Cause string `yaml:"cause" jsonschema:"required,minLength=1"`
	// Cure is the ID of the fix that cures it; empty where none does.
	Cure string `yaml:"cure"`
	// CausedBy is the ID of a harmful or optional fix that brings it about where
	// somebody asked for it; empty where none does.
	CausedBy string `yaml:"causedBy"`
	// Symptom says that the line tells what is wrong and not what of: causes are
	// told before it, and where none is found, what else the logs say as well.
	Symptom bool `yaml:"symptom"`
	// Issue is a link to what is known upstream.
	Issue string `yaml:"issue" jsonschema:"required,minLength=1"`

	pattern *regexp.Regexp
	// literals: a line that has none of them cannot match. Empty means that
	// every line has to be tried.
	literals []string
	file     *datafile.File
}

// Matches says whether a line shows the failure.
func (s *Signature) Matches(line []byte) bool { return s.pattern.Match(line) }

// looksAt says whether a log file of this name is one to look at.
func (s *Signature) looksAt(name string) bool {
	return slices.ContainsFunc(s.Where, func(glob string) bool {
		ok, err := path.Match(glob, name)
		return ok && err == nil
	})
}

// Source is a folder of YAML files and how messages name it.
type Source = datafile.Source

// Load reads every .yaml file at the root of each source, sorted by ID. It
// reports all problems at once, each with its file and position.
func Load(sources ...Source) ([]*Signature, error) {
	var signatures []*Signature
	byID := map[string]*Signature{}
	var problems []error
	for _, source := range sources {
		problems = append(problems, datafile.Read(source, func(file *datafile.File, s *Signature) []error {
			s.file = file
			bad := s.validate()
			if first, twice := byID[s.ID]; twice {
				return append(bad, s.Errorf(datafile.Path{"id"}, "is already in %s", first.file.Name))
			}
			byID[s.ID] = s
			signatures = append(signatures, s)
			return bad
		})...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load signatures: %w", errors.Join(problems...))
	}
	slices.SortFunc(signatures, func(a, b *Signature) int { return strings.Compare(a.ID, b.ID) })
	return signatures, nil
}

// Errorf is an error about what is at a path of the signature's file.
func (s *Signature) Errorf(at datafile.Path, format string, args ...any) error {
	return s.file.Errorf(at, "signature %s: "+format, append([]any{s.ID}, args...)...)
}

func (s *Signature) validate() []error {
	var problems []error
	bad := func(at datafile.Path, format string, args ...any) {
		problems = append(problems, s.Errorf(at, format, args...))
	}
	if s.ID == "" || s.Title == "" || s.Pattern == "" || s.Cause == "" || s.Issue == "" || len(s.Where) == 0 {
		bad(nil, "needs id, title, pattern, where, cause and issue")
	}
	if s.ID == matrix.Unclassified {
		bad(datafile.Path{"id"}, "the name is taken: it stands for what no signature knows")
	}
	for i, glob := range s.Where {
		if _, err := path.Match(glob, "kubelet.log"); err != nil {
			bad(datafile.Path{"where", i}, "where %q: %w", glob, err)
		}
	}
	var err error
	if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
		bad(datafile.Path{"pattern"}, "pattern: %w", err)
	} else if s.pattern.MatchString("") {
		bad(datafile.Path{"pattern"}, "pattern %q matches an empty line, and so every log", s.Pattern)
	} else {
		s.literals = required(s.Pattern)
	}
	return problems
}

// MatchesNone reports the signatures that are found in logs in which nothing
// failed, each with the place of its pattern and the first line that it matches.
func MatchesNone(ctx context.Context, signatures []*Signature, passing Source) error {
	found, err := Scan(ctx, signatures, passing.FS)
	problems := []error{err}
	for _, d := range found {
		i := slices.IndexFunc(signatures, func(s *Signature) bool { return s.ID == d.Signature })
		problems = append(problems, signatures[i].Errorf(datafile.Path{"pattern"}, "matches a log in which nothing failed: %s: %s", path.Join(passing.Name, d.Log), d.Line))
	}
	return errors.Join(problems...)
}

// shortest is how long a literal must be to be worth looking for first.
const shortest = 6

// required finds literals of which every line that matches the pattern has at
// least one; none if there is no such set.
func required(pattern string) []string {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil
	}
	return literals(tree.Simplify())
}

func literals(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 && len(re.Rune) >= shortest {
			return []string{string(re.Rune)}
		}
	case syntax.OpCapture, syntax.OpPlus:
		return literals(re.Sub[0])
	case syntax.OpConcat:
		// Any part will do: take the one whose shortest literal is longest.
		var best []string
		for _, sub := range re.Sub {
			if found := literals(sub); found != nil && (best == nil || least(found) > least(best)) {
				best = found
			}
		}
		return best
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			found := literals(sub)
			if found == nil {
				return nil
			}
			all = append(all, found...)
		}
		return all
	}
	return nil
}

func least(literals []string) int {
	n := len(literals[0])
	for _, l := range literals {
		n = min(n, len(l))
	}
	return n
}
