package reports_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/annotations"
	"github.com/lxcmatrix/lxcmatrix/reports/badge"
	"github.com/lxcmatrix/lxcmatrix/reports/csv"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/json"
	"github.com/lxcmatrix/lxcmatrix/reports/junit"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/openmetrics"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
)

type renderer struct {
	name   string
	render func(io.Writer, matrix.Run) error
}

func renderers() []renderer {
	return []renderer{{"table", table.Render}, {"markdown", markdown.Render}, {"json", json.Render}, {"junit", junit.Render},
		{"csv", csv.Render}, {"openmetrics", openmetrics.Render}, {"annotations", annotations.Render}, {"badge", badge.Render}}
}

// Text from logs cannot leave its place: no control character and no escape
// sequence gets through, Markdown shows no HTML, and XML stays well-formed.
func TestHostileText(t *testing.T) {
	run := samples.Everything()
	for _, r := range renderers() {
		t.Run(r.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := r.render(&b, run); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			if i := strings.IndexFunc(text, func(c rune) bool { return c < ' ' && c != '\n' || c == 0x7f || c == 0x202e }); i >= 0 {
				t.Errorf("control character %q after %q", text[i], text[max(0, i-60):i])
			}
			switch r.name {
			case "markdown":
				outside := withoutCode(text)
				if m := regexp.MustCompile(`<[a-z/][^>]*>`).FindString(strings.ReplaceAll(outside, "<https://", "")); m != "" {
					t.Errorf("HTML gets through: %s", m)
				}
				if strings.Contains(outside, "@everyone") || strings.Contains(outside, "](") || strings.Contains(text, "<javascript:") {
					t.Errorf("a mention or a link gets through:\n%s", outside)
				}
				columns := 0
				for line := range strings.Lines(text) {
					if !strings.HasPrefix(line, "|") {
						columns = 0
						continue
					}
					n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
					if columns != 0 && n != columns {
						t.Errorf("a row has %d bars, its table %d: %s", n, columns, line)
					}
					columns = n
				}
			case "junit", "badge":
				d := xml.NewDecoder(&b)
				for {
					if _, err := d.Token(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatalf("the XML is not well-formed: %v", err)
					}
				}
			}
		})
	}
}

// withoutCode is Markdown without its code spans, as CommonMark finds them: a
// run of backticks up to the next run of the same length.
func withoutCode(text string) string {
	runs := regexp.MustCompile("\\\\`|`+")
	var out strings.Builder
	for {
		open := runs.FindStringIndex(text)
		if open == nil {
			return out.String() + text
		}
		out.WriteString(text[:open[0]])
		fence := text[open[0]:open[1]]
		text = text[open[1]:]
		if fence[0] == '\\' {
			continue
		}
		for _, end := range regexp.MustCompile("`+").FindAllStringIndex(text, -1) {
			if end[1]-end[0] == len(fence) {
				text = text[end[1]:]
				break
			}
		}
	}
}

type brokenWriter struct{}

var errBroken = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorsAreTold(t *testing.T) {
	for _, r := range renderers() {
		err := r.render(brokenWriter{}, samples.Everything())
		if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), samples.Everything().ID) {
			t.Errorf("%s says %v", r.name, err)
		}
	}
}
