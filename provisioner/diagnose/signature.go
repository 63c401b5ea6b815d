// Package diagnose finds known failures in collected logs.
package diagnose

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Signature is a log line by which a failure is known.
type Signature struct {
	// ID names the signature everywhere; it is the name of its file, too.
	ID string `yaml:"id"`
	// Title says in one line what failed.
	Title string `yaml:"title"`
	// Pattern is a regular expression (RE2) that one line of a log matches.
	Pattern string `yaml:"pattern"`
	// Where holds globs of the names of the log files that are looked at.
	Where []string `yaml:"where"`
	// Cause says why it happens.
	Cause string `yaml:"cause"`
	// Cure is the ID of the fix that cures it; empty where none does.
	Cure string `yaml:"cure"`
	// Issue is a link to what is known upstream.
	Issue string `yaml:"issue"`

	pattern *regexp.Regexp
	// literals: a line that has none of them cannot match. Empty means that
	// every line has to be tried.
	literals []string
	file     string
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
type Source struct {
	// Name is put before file names in messages, as the folder's path.
	Name string
	FS   fs.FS
}

// Load reads every .yaml file at the root of each source, sorted by ID. It
// reports all problems at once, each with its file.
func Load(sources ...Source) ([]*Signature, error) {
	var signatures []*Signature
	byID := map[string]*Signature{}
	var problems []error
	for _, source := range sources {
		entries, err := fs.ReadDir(source.FS, ".")
		if err != nil {
			problems = append(problems, fmt.Errorf("read folder %s: %w", source.Name, err))
			continue
		}
		for _, entry := range entries {
			if entry.IsDir() || path.Ext(entry.Name()) != ".yaml" {
				continue
			}
			s := &Signature{file: path.Join(source.Name, entry.Name())}
			if err := s.load(source.FS, entry.Name()); err != nil {
				problems = append(problems, err)
				continue
			}
			if first, twice := byID[s.ID]; twice {
				problems = append(problems, fmt.Errorf("%s: signature %s is already in %s", s.file, s.ID, first.file))
				continue
			}
			byID[s.ID] = s
			signatures = append(signatures, s)
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load signatures: %w", errors.Join(problems...))
	}
	slices.SortFunc(signatures, func(a, b *Signature) int { return strings.Compare(a.ID, b.ID) })
	return signatures, nil
}

func (s *Signature) load(fsys fs.FS, name string) error {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.file, err)
	}
	if err := yaml.Load(data, s, yaml.WithV4Defaults(), yaml.WithKnownFields()); err != nil {
		var many *yaml.LoadErrors
		var one *yaml.LoadError
		switch {
		case errors.As(err, &many):
			var problems []error
			for _, e := range many.Errors {
				problems = append(problems, fmt.Errorf("%s:%d:%d: %s", s.file, e.Mark.Line, e.Mark.Column, e.Message))
			}
			return errors.Join(problems...)
		case errors.As(err, &one) && one.Mark.Line > 0:
			return fmt.Errorf("%s:%d:%d: %s", s.file, one.Mark.Line, one.Mark.Column, one.Message)
		}
		return fmt.Errorf("%s: %w", s.file, err)
	}
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: signature %s: "+format, append([]any{s.file, s.ID}, args...)...))
	}
	if s.ID == "" || s.Title == "" || s.Pattern == "" || s.Cause == "" || s.Issue == "" || len(s.Where) == 0 {
		bad("needs id, title, pattern, where, cause and issue")
	}
	for _, glob := range s.Where {
		if _, err := path.Match(glob, "kubelet.log"); err != nil {
			bad("where %q: %w", glob, err)
		}
	}
	if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
		bad("pattern: %w", err)
	} else if s.pattern.MatchString("") {
		bad("pattern %q matches an empty line, and so every log", s.Pattern)
	} else {
		s.literals = required(s.Pattern)
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
