package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of a page, with the line that it begins in.
type block struct {
	kind, text string
	line       int
}

func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		fence, is := strings.CutPrefix(line, "```")
		switch {
		case is && open == nil:
			open = &block{kind: strings.TrimSpace(fence), line: n}
		case is:
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block does not end", page, open.line)
	}
	return all
}

// pages are the guides and what is at the repository's root.
func pages(t *testing.T) []string {
	t.Helper()
	guides, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil || len(guides) < 5 {
		t.Fatalf("the guides are %v: %v", guides, err)
	}
	return append(guides, filepath.Join("..", "..", "README.md"), filepath.Join("..", "..", "CONTRIBUTING.md"))
}

// TestDocs runs the examples of the guides, each page in a folder of its own that
// its commands share. In a block of kind console, a line after "$ " is a command,
// and the lines below it are in what it prints, in that order; "..." in them
// stands for any text, alone in a line for any lines. A command that ends in
// "# exit N" has to end so. A block whose first line is "# FILE" of kind yaml is
// that file. The lxcmatrix commands of blocks of kind sh are asked for their
// help, flags and all: there has to be such a command.
func TestDocs(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			env := append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+filepath.Join(dir, ".cache"), "LXCMATRIX_STATE="+filepath.Join(dir, "state"),
				"LXCMATRIX_CACHE="+filepath.Join(dir, "cache"), "LXCMATRIX_MIRROR=", "LXCMATRIX_BOOTSTRAP=no",
				"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=", "REPOSITORY="+root)
			for _, b := range blocks(t, page) {
				switch b.kind {
				case "console":
					console(t, b, dir, env)
				case "yaml":
					first, _, _ := strings.Cut(b.text, "\n")
					if name, named := strings.CutPrefix(first, "# "); named && regexp.MustCompile(`^[a-z0-9/-]+\.yaml$`).MatchString(name) {
						path := filepath.Join(dir, name)
						if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
							t.Fatal(err)
						}
						if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
							t.Fatal(err)
						}
					}
				case "sh":
					askForHelp(t, b, dir, env)
				}
			}
		})
	}
}

// console runs a block's commands and holds their output to what is shown.
func console(t *testing.T, b block, dir string, env []string) {
	t.Helper()
	var command, code string
	var shown []string
	run := func() {
		if command == "" {
			return
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		want := "exit status " + code
		if (err == nil) != (code == "") || err != nil && err.Error() != want {
			t.Errorf("line %d: $ %s: %v\n%s", b.line, command, err, out)
			return
		}
		pattern := "(?m)"
		for _, line := range shown {
			if strings.TrimSpace(line) == "..." {
				pattern += "(?s:.*?)"
				continue
			}
			pattern += "^" + strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + " *$(?s:\\s*)"
		}
		if !regexp.MustCompile(pattern).Match(out) {
			t.Errorf("line %d: $ %s: it does not print what is shown, but\n%s", b.line, command, out)
		}
	}
	for line := range strings.Lines(b.text) {
		line = strings.TrimSuffix(line, "\n")
		next, is := strings.CutPrefix(line, "$ ")
		if !is {
			shown = append(shown, line)
			continue
		}
		run()
		shown = nil
		command, code, _ = strings.Cut(next, "# exit ")
		command = strings.TrimSpace(command)
	}
	if command == "" {
		t.Errorf("line %d: a console block without a command", b.line)
	}
	run()
}

// askForHelp holds the commands of a block to those that there are.
func askForHelp(t *testing.T, b block, dir string, env []string) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(b.text))
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "lxcmatrix ") {
			continue
		}
		for _, end := range []string{" #", " |", " >", " <", " &&", " \\"} {
			line, _, _ = strings.Cut(line, end)
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-c", line+" --help")
		cmd.Dir, cmd.Env = dir, env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("below line %d: %s: %v\n%s", b.line, line, err, out)
		}
	}
}

// TestDocsLinks: what the pages link to within the repository is there.
func TestDocsLinks(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s: %v", filepath.Base(page), err)
			}
		}
	}
}
