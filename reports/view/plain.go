package view

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escapes are terminal control sequences: OSC to its end, CSI, and the
// two-byte ones.
var escapes = regexp.MustCompile("\x1b(?:\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|\\[[0-9;:?<=>!]*[ -/]*[@-~]|[@-Z\\\\^_a-z=>])")

// Plain makes text that others wrote safe to show on one line: terminal
// control sequences, control characters and characters that reorder or hide
// text go, any white space becomes one blank, and bytes that are not UTF-8 are
// shown as U+FFFD.
func Plain(s string) string {
	if isPlain(s) {
		return s
	}
	s = escapes.ReplaceAllString(s, "")
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co), r == 0xFFFE, r == 0xFFFF:
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// isPlain says of most text, quickly, that it is plain as it stands: printable
// ASCII with single blanks between words.
func isPlain(s string) bool {
	blank := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' && blank, c < ' ', c > '~':
			return false
		default:
			blank = c == ' '
		}
	}
	return s == "" || !blank
}

func plainAll(in []string) []string {
	if in == nil {
		return nil
	}
	out := make([]string, 0, len(in))
	for _, s := range in {
		out = append(out, Plain(s))
	}
	return out
}
