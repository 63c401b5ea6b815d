package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a matrix.
type Problem struct {
	// File as the user named it, or "built-in NAME".
	File string
	// Line and Column count from 1; 0 where the problem has no place.
	Line, Column int
	// Message says what is wrong, and the remedy where there is one.
	Message string
}

// String is "FILE:LINE:COLUMN: MESSAGE".
func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Error is everything that is wrong with a matrix, in the file's order.
type Error struct {
	Problems []Problem
}

// Error has one problem a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// place is a line and column; zero where nothing was written.
type place struct{ line, column int }

// positions maps the path of a value, as "hosts[0].driver", to its place.
type positions map[string]place

// of finds the place of path or of the nearest thing around it.
func (p positions) of(path string) place {
	for {
		if at, ok := p[path]; ok || path == "" {
			return at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// problems collects what is wrong with one file.
type problems struct {
	file string
	list []Problem
}

func (p *problems) add(at place, format string, args ...any) {
	p.list = append(p.list, Problem{p.file, at.line, at.column, fmt.Sprintf(format, args...)})
}

// err is an *Error in the file's order, or nil.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return &Error{slices.Compact(p.list)}
}
