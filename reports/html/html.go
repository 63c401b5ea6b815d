// Package html shows a run as one page that needs nothing else: no server, no
// network, and no JavaScript either, which only makes it quicker to look
// through. What nodes said is text in it and nothing more: the page's policy
// lets the browser run and style by nothing but what this package brought.
package html

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// PastRuns is how many runs a cell's past shows, this one included.
const PastRuns = 90

// How much of the logs a page holds: the end of each, and of those of cells
// that are as expected only what the others leave.
const (
	logMost = 1 << 20
	logsAll = 24 << 20
)

// Input is what a page is made of.
type Input struct {
	Run matrix.Run
	// Past is what is remembered of earlier runs, in order.
	Past []history.Run
	// Logs lists the logs that were kept of a cell, redacted; nil where there are
	// none.
	Logs func(matrix.CellID) ([]Log, error)
}

// Log is a kept log.
type Log struct {
	Node, Name string
	Size       int64
	// Last reads at most so many bytes of its end.
	Last func(most int64) ([]byte, error)
}

//go:embed page.html.tmpl
var page string

//go:embed style.css
var css string

//go:embed script.js
var script string

// Render writes the page. Its errors are of reading logs and of writing.
func Render(w io.Writer, in Input) error {
	b := bufio.NewWriterSize(w, 1<<16)
	err := render(b, in)
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return fmt.Errorf("write HTML of run %s: %w", in.Run.ID, err)
	}
	return nil
}

func render(w io.Writer, in Input) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"short": view.Short, "software": view.Software, "said": view.Said, "gib": view.MemoryGiB, "web": webLink.MatchString,
		"glyph": Glyph, "when": when, "outcome": outcomeClass, "list": list,
	}).Parse(page)
	if err != nil {
		return err
	}
	p, err := newPage(in)
	if err != nil {
		return err
	}
	if err := t.ExecuteTemplate(w, "head", p); err != nil {
		return err
	}
	// Cells are what a page mostly is: several are made at one time, and written
	// in order.
	for few := range slices.Chunk(p.Cells, 4*runtime.GOMAXPROCS(0)) {
		made := make([]bytes.Buffer, len(few))
		errs := make([]error, len(few))
		var all sync.WaitGroup
		for i, c := range few {
			all.Go(func() {
				d, err := p.drill(c)
				if err == nil {
					err = t.ExecuteTemplate(&made[i], "cell", d)
				}
				errs[i] = err
			})
		}
		all.Wait()
		for i := range made {
			if errs[i] != nil {
				return errs[i]
			}
			if _, err := w.Write(made[i].Bytes()); err != nil {
				return err
			}
		}
	}
	return t.ExecuteTemplate(w, "tail", p)
}

var webLink = regexp.MustCompile(`^https://[A-Za-z0-9][A-Za-z0-9./_#?=&%+-]*$`)

// Glyph is the one character that stands for a verdict, beside its word and its
// colour.
func Glyph(v matrix.Verdict) string {
	switch v {
	case matrix.Pass:
		return "✓"
	case matrix.Fail:
		return "✗"
	case matrix.Blocked:
		return "!"
	case matrix.Impossible:
		return "⊘"
	case matrix.XFail:
		return "↓"
	case matrix.XPass:
		return "↑"
	case matrix.Flaky:
		return "~"
	}
	return "?"
}

func outcomeClass(o matrix.Outcome) string {
	switch o {
	case matrix.Healthy:
		return "pass"
	case matrix.Unhealthy:
		return "fail"
	}
	return "unknown"
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// policy lets the page use its own style and script, and nothing else at all.
func policy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return fmt.Sprintf("default-src 'none'; style-src %s; script-src %s; base-uri 'none'; form-action 'none'", hash(css), hash(script))
}
