package redact

import (
	"bytes"
	"regexp"
	"slices"
)

// entry is a line as a mapping entry of YAML or of indented JSON.
type entry struct {
	// indent is the key's column; item says that the line begins a list item.
	indent int
	item   bool
	key    string
	// value is where the value begins in the line.
	value int
}

var entryPattern = regexp.MustCompile(`^([ \t]*)((?:- +)*)(?:"([^"\\]+)"[ \t]*:[ \t]*|'([^']+)'[ \t]*:[ \t]+|([A-Za-z0-9_./-]+):(?:[ \t]+|\r?$))`)

func parseEntry(line []byte) (entry, bool) {
	m := entryPattern.FindSubmatchIndex(line)
	if m == nil {
		return entry{}, false
	}
	e := entry{indent: m[5], item: m[5] > m[4], value: m[1]}
	for i := 6; i <= 10; i += 2 {
		if m[i] >= 0 {
			e.key = string(line[m[i]:m[i+1]])
		}
	}
	return e, true
}

func (e entry) rest(line []byte) string { return string(bytes.TrimSpace(line[e.value:])) }

// depth is the number of blanks that a line begins with, -1 for a line that
// has nothing else.
func depth(line []byte) int {
	n := len(line) - len(bytes.TrimLeft(line, " \t"))
	if len(bytes.TrimSpace(line)) == 0 {
		return -1
	}
	return n
}

// secretData removes the values under data and stringData of every Secret in
// YAML and indented JSON. A mapping whose kind cannot be seen is taken for a
// Secret's.
func secretData(lines [][]byte) [][]byte {
	var out [][]byte
	for i := 0; i < len(lines); i++ {
		out = append(out, lines[i])
		if !bytes.Contains(lines[i], []byte("ata")) {
			continue
		}
		e, ok := parseEntry(lines[i])
		if !ok || e.key != "data" && e.key != "stringData" {
			continue
		}
		rest, end := e.rest(lines[i]), deeperEnd(lines, i, e.indent)
		kinds := siblingKinds(lines, i, e)
		secret := slices.Contains(kinds, "Secret")
		switch onlyKeys := rest == "" || rest == "{"; {
		case onlyKeys && (secret || len(kinds) == 0):
			out = append(out, redactMapping(lines[i+1:end])...)
			i = end - 1
		case !onlyKeys && secret && telling(rest):
			out[len(out)-1] = replaceValue(lines[i], e)
			i = end - 1
		}
	}
	return out
}

// deeperEnd is the end of the lines after lines[i] that are indented deeper
// than indent, blank lines among them but not after them.
func deeperEnd(lines [][]byte, i, indent int) int {
	end := i + 1
	for j := end; j < len(lines); j++ {
		d := depth(lines[j])
		if d > indent {
			end = j + 1
		} else if d >= 0 {
			break
		}
	}
	return end
}

// siblingKinds lists the values of kind in the mapping that lines[i] is an
// entry of. Nothing is listed where the mapping is too long to search.
func siblingKinds(lines [][]byte, i int, e entry) []string {
	const far = 5000
	var kinds []string
	consider := func(line []byte) (item bool) {
		s, ok := parseEntry(line)
		if !ok || s.indent != e.indent {
			return false
		}
		if s.key == "kind" {
			kinds = append(kinds, string(bytes.Trim([]byte(s.rest(line)), `"', `)))
		}
		return s.item
	}
	for j := i - 1; !e.item && j >= 0 && i-j < far; j-- {
		d := depth(lines[j])
		if d < 0 {
			continue
		}
		if bytes.HasPrefix(lines[j], []byte("---")) {
			break
		}
		if s, ok := parseEntry(lines[j]); d < e.indent && (!ok || s.indent < e.indent) {
			break
		}
		if consider(lines[j]) {
			break
		}
	}
	for j := i + 1; j < len(lines) && j-i < far; j++ {
		d := depth(lines[j])
		if d < 0 {
			continue
		}
		if d < e.indent || bytes.HasPrefix(lines[j], []byte("---")) {
			break
		}
		consider(lines[j])
	}
	return kinds
}

// redactMapping keeps the keys of a mapping's own entries and nothing else.
func redactMapping(lines [][]byte) [][]byte {
	var out [][]byte
	first := -1
	for _, line := range lines {
		d := depth(line)
		if d < 0 {
			continue
		}
		if first < 0 {
			first = d
		}
		e, ok := parseEntry(line)
		switch {
		case d > first: // more of the value before
		case ok:
			out = append(out, replaceValue(line, e))
		default:
			out = append(out, append(bytes.Clone(line[:d]), Mark...))
		}
	}
	return out
}

// replaceValue replaces the value of an entry on one line, and keeps what
// makes it valid JSON.
func replaceValue(line []byte, e entry) []byte {
	rest := bytes.TrimRight(line[e.value:], " \t\r")
	tail := line[e.value+len(rest):]
	out := bytes.Clone(line[:e.value])
	if n := len(out); n > 0 && out[n-1] == ':' {
		out = append(out, ' ')
	}
	switch {
	case bytes.HasPrefix(rest, []byte(`"`)):
		out = append(out, `"`+Mark+`"`...)
		if bytes.HasSuffix(rest, []byte(",")) {
			out = append(out, ',')
		}
	default:
		out = append(out, Mark...)
	}
	return append(out, tail...)
}

var (
	kindSecret = regexp.MustCompile(`\\*"kind\\*"[ \t]*:[ \t]*\\*"Secret\\*"`)
	anyKind    = regexp.MustCompile(`\\*"kind\\*"[ \t]*:`)
	apiVersion = regexp.MustCompile(`\\*"apiVersion\\*"[ \t]*:`)
	dataObject = regexp.MustCompile(`(\\*)"(?:data|stringData)\\*"[ \t]*:[ \t]*\{`)
)

// secretJSON removes the values under data and stringData from a line of JSON
// that holds a Secret, also where the JSON is itself quoted.
func secretJSON(line []byte) []byte {
	if !bytes.Contains(line, []byte(`ata`)) || !dataObject.Match(line) || !kindSecret.Match(line) && (anyKind.Match(line) || !apiVersion.Match(line)) {
		return line
	}
	var out []byte
	for {
		m := dataObject.FindSubmatchIndex(line)
		if m == nil {
			return append(out, line...)
		}
		quote := append(bytes.Clone(line[m[2]:m[3]]), '"')
		end := closingBrace(line[m[1]:], len(quote)-1)
		out = append(out, line[:m[1]]...)
		if len(bytes.TrimSpace(line[m[1]:m[1]+end])) > 0 {
			out = append(out, quote...)
			out = append(out, Mark...)
			out = append(append(append(out, quote...), ':'), quote...)
			out = append(append(out, Mark...), quote...)
		}
		line = line[m[1]+end:]
	}
}

// closingBrace is where the object that s is the inside of ends; the end of s
// if it does not. Quotes have escapes backslashes before them.
func closingBrace(s []byte, escapes int) int {
	level, quoted, slashes := 1, false, 0
	for i, c := range s {
		switch {
		case c == '\\':
			slashes++
			continue
		case c == '"' && slashes == escapes:
			quoted = !quoted
		case c == '{' && !quoted:
			level++
		case c == '}' && !quoted:
			if level--; level == 0 {
				return i
			}
		}
		slashes = 0
	}
	return len(s)
}
