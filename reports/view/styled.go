package view

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Span is text of a line in one style.
type Span struct {
	// Style is of the terminal's colours and weights, as "bold fg1"; empty is the
	// terminal's own. Colours are numbered as terminals number them, 0 to 15.
	Style string
	Text  string
}

// Styled is one line of a log as a terminal would show it, made safe to show as
// text: colours and bold become styles, every other control sequence and what
// Plain drops goes. White space stays as it is, but for what would end the line.
func Styled(line string) []Span {
	var spans []Span
	var bold bool
	colour := -1
	add := func(text string) {
		text = visible(text)
		if text == "" {
			return
		}
		var style []string
		if bold {
			style = append(style, "bold")
		}
		if colour >= 0 {
			style = append(style, "fg"+strconv.Itoa(colour))
		}
		spans = append(spans, Span{strings.Join(style, " "), text})
	}
	for {
		at := escapes.FindStringIndex(line)
		if at == nil {
			add(line)
			return spans
		}
		add(line[:at[0]])
		if codes, is := strings.CutPrefix(line[at[0]:at[1]], "\x1b["); is && strings.HasSuffix(codes, "m") {
			bold, colour = style(strings.TrimSuffix(codes, "m"), bold, colour)
		}
		line = line[at[1]:]
	}
}

// style is what the codes of a sequence make of the style before it.
func style(codes string, bold bool, colour int) (bool, int) {
	all := strings.FieldsFunc(codes, func(r rune) bool { return r == ';' || r == ':' })
	if len(all) == 0 {
		return false, -1
	}
	for i := 0; i < len(all); i++ {
		switch n, err := strconv.Atoi(all[i]); {
		case err != nil:
		case n == 0:
			bold, colour = false, -1
		case n == 1:
			bold = true
		case n == 22:
			bold = false
		case n >= 30 && n <= 37:
			colour = n - 30
		case n >= 90 && n <= 97:
			colour = n - 90 + 8
		case n == 39:
			colour = -1
		case n == 38 || n == 48:
			// Of a palette or mixed: not shown, and its numbers are no codes.
			if i+1 < len(all) && all[i+1] == "5" {
				i += 2
			} else {
				i += 4
			}
		}
	}
	return bold, colour
}

// visible drops what hides, reorders or ends text.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == ' ':
			return r
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp), r == 0xFFFE, r == 0xFFFF:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}
