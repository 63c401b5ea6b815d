package html_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	report "github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// rendered is a page as a browser without scripts has it.
func rendered(t *testing.T, in report.Input) (string, *html.Node) {
	t.Helper()
	var b bytes.Buffer
	if err := report.Render(&b, in); err != nil {
		t.Fatal(err)
	}
	root, err := html.ParseWithOptions(bytes.NewReader(b.Bytes()), html.ParseOptionEnableScripting(false))
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), root
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var b strings.Builder
	for c := range n.ChildNodes() {
		b.WriteString(text(c))
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// hostileLogs has what tries to leave its place: of the cell with hostile texts
// everywhere, and of every other one too.
func hostileLogs(matrix.CellID) ([]report.Log, error) {
	content := "plain\n\x1b[1;31mred\x1b[0m and \x1b[38;5;12mmore\x1b[m\n</li></ol></noscript><script>alert(1)</script><img src=x onerror=alert(1)>\n" +
		"\x1b]8;;https://evil.example\x07link\x1b]8;;\x07 \u202etxt.exe \x00end\n"
	return []report.Log{{Node: "cp1<i>", Name: "a`b\"><b>.log", Size: int64(len(content)), Last: func(most int64) ([]byte, error) {
		return []byte(content)[int64(len(content))-most:], nil
	}}}, nil
}

// Nothing of what nodes say becomes a part of the page but text: it has the
// elements and attributes that the template names, one script and one style,
// and no address but known ones.
func TestHostileText(t *testing.T) {
	run := samples.Everything()
	hostile := `"><script>alert(1)</script><img src=x onerror=alert(1)>'{{.}}` + "`</noscript>"
	run.Plan.Matrix = hostile
	run.Plan.Inputs = []matrix.Input{{Kind: "image", Name: hostile, Version: hostile}}
	last := &run.Results[len(run.Results)-1]
	last.Cell.Variants = []string{hostile}
	last.Cell.ID = last.Cell.NewID()
	last.Attempts[0].Repairs = []string{hostile}
	run.Plan.Cells[len(run.Plan.Cells)-1] = last.Cell
	past := history.Of(run)
	past.ID, past.Cells = "20261119T193324Z-aaaaaa", past.Cells[:1]
	past.Inputs = history.Inputs{hostile: "1"}
	page, root := rendered(t, report.Input{Run: run, Past: []history.Run{past}, Logs: hostileLogs})
	allowed := regexp.MustCompile(`^(class|id|href|rel|title|scope|colspan|rowspan|tabindex|role|lang|charset|content|name|http-equiv|hidden|open|value|type|selected|autocomplete|start|aria-[a-z]+|data-[a-z]+|viewBox|preserveAspectRatio|x|width|height|points)$`)
	scripts, styles := 0, 0
	for n := range root.Descendants() {
		if n.Type == html.CommentNode {
			t.Errorf("a comment: %q", n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			scripts++
		case "style":
			styles++
		case "img", "iframe", "object", "embed", "link", "base", "i":
			t.Errorf("an element <%s>", n.Data)
		}
		for _, a := range n.Attr {
			if !allowed.MatchString(a.Key) {
				t.Errorf("<%s> has attribute %s=%q", n.Data, a.Key, a.Val)
			}
			if a.Key == "href" && !strings.HasPrefix(a.Val, "#") && !regexp.MustCompile(`^\?verdict=[a-z]+#grid$`).MatchString(a.Val) && !strings.HasPrefix(a.Val, "https://kep.k8s.io/") && !strings.HasPrefix(a.Val, "https://github.com/opencontainers/runc/") {
				t.Errorf("a link to %s", a.Val)
			}
		}
	}
	if scripts != 1 || styles != 1 {
		t.Errorf("%d scripts and %d styles, want one of each", scripts, styles)
	}
	if i := strings.IndexFunc(page, func(c rune) bool { return c < ' ' && c != '\n' || c == 0x7f || c == 0x202e }); i >= 0 {
		t.Errorf("control character %q after %q", page[i], page[max(0, i-60):i])
	}
	if !strings.Contains(page, `<span class="bold fg1">red</span> and more`) {
		t.Error("the log's colours are not shown")
	}
}

// The page says of every cell what its judgement is, as every report does, and
// a browser without scripts shows all of it.
func TestEveryVerdict(t *testing.T) {
	run := samples.Everything()
	_, root := rendered(t, report.Input{Run: run})
	links, cells := map[string]string{}, map[string]string{}
	for n := range root.Descendants() {
		if v := attribute(n, "data-verdict"); v != "" {
			links[attribute(n, "href")] = v
			if !strings.HasPrefix(text(n), glyphs(t, v)+" "+v) {
				t.Errorf("a %s cell is shown as %q", v, text(n))
			}
		}
		if attribute(n, "class") == "cell" {
			cells[attribute(n, "id")] = text(n)
		}
	}
	if len(links) != len(run.Results) || len(cells) != len(run.Results) {
		t.Fatalf("%d links and %d cells for %d results", len(links), len(cells), len(run.Results))
	}
	for _, r := range run.Results {
		id := "c-" + r.Cell.ID.FileName()
		said, there := cells[id]
		if !there || !strings.Contains(said, string(r.Cell.ID)) || !strings.Contains(said, r.Judgement.Verdict.String()) {
			t.Errorf("cell %s, which is %s, says %q", r.Cell.ID, r.Judgement.Verdict, said)
		}
	}
}

func glyphs(t *testing.T, verdict string) string {
	var v matrix.Verdict
	if err := v.UnmarshalText([]byte(verdict)); err != nil {
		t.Fatal(err)
	}
	return report.Glyph(v)
}

// Every verdict has a glyph of its own: colour is not needed to tell them apart.
func TestGlyphs(t *testing.T) {
	seen := map[string]matrix.Verdict{}
	for _, v := range matrix.Verdicts() {
		if other, twice := seen[report.Glyph(v)]; twice {
			t.Errorf("%s and %s have the same glyph", v, other)
		}
		seen[report.Glyph(v)] = v
	}
}

// A run that nobody ended says so, and what did not run is unknown.
func TestKilled(t *testing.T) {
	done, never := samples.ForVerdict(matrix.Pass), samples.Cell("12")
	run := samples.Run(done)
	run.Plan.Cells = append(run.Plan.Cells, never)
	run.Ended = time.Time{}
	_, root := rendered(t, report.Input{Run: run})
	page := text(root)
	for _, want := range []string{"1 of 2 cells pass", "it was killed, or still runs", "1 pass", "1 unknown"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// The past of a cell: one glyph for each run, how often it was flaky, and how
// long it took; a run with other fixes chosen is of another cell.
func TestPast(t *testing.T) {
	var past []history.Run
	for i, v := range []matrix.Verdict{matrix.Fail, matrix.Pass, matrix.Flaky, matrix.Pass} {
		run := samples.Run(samples.ForVerdict(v))
		run.ID = fmt.Sprintf("20261110T19332%dZ-aaaaaa", i)
		past = append(past, history.Of(run))
	}
	other := samples.Cell("13")
	other.Without = []string{"swap"}
	past = append(past[:2], append([]history.Run{history.Of(samples.Run(samples.Result(other, samples.OOM(other))))}, past[2:]...)...)
	page, root := rendered(t, report.Input{Run: samples.Run(samples.ForVerdict(matrix.Pass)), Past: past})
	said := text(root)
	for _, want := range []string{"✗✓~✓✓", "5 runs, oldest first. Flaky in 1 of 5 results: 20.0 %", "bring-up: p50", "Since run 20261110T193323Z-aaaaaa", "no cell differs; no input changed"} {
		if !strings.Contains(said, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if !strings.Contains(page, "<polyline points=") {
		t.Error("nothing is plotted")
	}
}

// What a log is cut to is its end, from a whole line on.
func TestLongLog(t *testing.T) {
	content := strings.Repeat("a line of some length, which is repeated\n", 60000) + "the last one\n"
	_, root := rendered(t, report.Input{Run: samples.Run(samples.ForVerdict(matrix.Fail)), Logs: func(matrix.CellID) ([]report.Log, error) {
		return []report.Log{{Node: "cp1", Name: "kubelet.log", Size: int64(len(content)), Last: func(most int64) ([]byte, error) { return []byte(content[int64(len(content))-most:]), nil }}}, nil
	}})
	var lines []string
	for n := range root.Descendants() {
		if n.Data == "li" && n.Parent != nil && attribute(n.Parent, "class") == "lines" {
			lines = append(lines, text(n))
		}
	}
	if len(lines) < 20000 || len(lines) > 30000 || lines[0] != "a line of some length, which is repeated" || lines[len(lines)-1] != "the last one" {
		t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
	if !strings.Contains(text(root), "The whole of it: lxcmatrix logs kubeadm-1.34/debian-13/1/embedded cp1 kubelet.log --run ") {
		t.Error("the page does not say where the whole log is")
	}
}

func TestErrorsAreTold(t *testing.T) {
	broken := errors.New("disk full")
	run := samples.Everything()
	for name, err := range map[string]error{
		"write": report.Render(brokenWriter{broken}, report.Input{Run: run}),
		"list":  report.Render(&bytes.Buffer{}, report.Input{Run: run, Logs: func(matrix.CellID) ([]report.Log, error) { return nil, broken }}),
		"read": report.Render(&bytes.Buffer{}, report.Input{Run: run, Logs: func(matrix.CellID) ([]report.Log, error) {
			return []report.Log{{Size: 1, Last: func(int64) ([]byte, error) { return nil, broken }}}, nil
		}}),
	} {
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), run.ID) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// What somebody who thinks of having such a host asks first: what passes there,
// how soon, and why the rest does not. Cells that share a cause are told once.
func TestSummary(t *testing.T) {
	var results []matrix.Result
	for i, host := range []string{"one", "one", "one", "two", "three"} {
		c := samples.Cell("13")
		c.Host.Name, c.Variants = host, []string{fmt.Sprint("v", i)}
		c.ID = c.NewID()
		a := samples.Passing(c)
		switch host {
		case "one":
			a = samples.OOM(c)
		case "three":
			c.Unavailable, c.Optional = "image debian/13 cannot be had: nobody has it", true
			results = append(results, samples.Result(c))
			continue
		}
		results = append(results, samples.Result(c, a))
	}
	_, root := rendered(t, report.Input{Run: samples.Run(results...)})
	rows := map[string]string{}
	var causes []string
	for n := range root.Descendants() {
		switch {
		case n.Data == "tr" && n.FirstChild.Data == "th" && attribute(n.FirstChild, "scope") == "row":
			rows[text(n.FirstChild)] = text(n)
		case n.Data == "li" && attribute(n.Parent, "class") == "causes":
			causes = append(causes, text(n))
		}
	}
	for host, want := range map[string]string{"one": "0 of 3✗ 3 fail---", "two": "1 of 1-kubeadm-1.3429s40s", "three": "not observed0 of 1! 1 blocked---"} {
		if !strings.Contains(rows[host], want) {
			t.Errorf("host %s is shown as %q, want %q in it", host, rows[host], want)
		}
	}
	if len(causes) != 2 {
		t.Fatalf("%d causes, want 2: %q", len(causes), causes)
	}
	for i, wants := range [][]string{
		{"fail runc cannot lower oom_score_adj", "can't get final child's PID from pipe: EOF", "Remedy: fix restrict-oom-score-adj", "/one/v0", "/one/v1", "/one/v2"},
		{"blocked image debian/13 cannot be had nobody has it", "/three/v4"},
	} {
		for _, want := range wants {
			if !strings.Contains(causes[i], want) {
				t.Errorf("cause %d does not say %q: %q", i, want, causes[i])
			}
		}
	}
}
