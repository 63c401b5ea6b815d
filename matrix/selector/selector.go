// Package selector picks cells by their axes' values: what --only and --skip
// say on the command line, and what include, exclude and expect say in a
// matrix file.
//
// An expression is one or more terms with commas between them, all of which
// must hold. A term KEY=PATTERN looks at one axis (distro, os, topology, host,
// variant); a bare PATTERN holds where it matches the value of any axis or the
// whole ID. A distro is matched by its name, by name-minor and name@minor, and
// by name-version and name@version where the version is known, and with the
// channel that the matrix names; an OS as "debian/13" and as "debian-13", one
// that agents have another of as "debian/12+debian/13"; a cell without variants
// has the variant "default". In a pattern, * stands for any text without
// a slash and ** for any text at all; everything else is literal.
package selector

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// The keys of terms, which are the axes' names too.
const (
	Distro   = "distro"
	OS       = "os"
	Topology = "topology"
	Host     = "host"
	Variant  = "variant"
)

// Keys lists the keys in the order of a cell's ID.
func Keys() []string { return []string{Distro, OS, Topology, Host, Variant} }

// Selector matches cells. Its zero value matches every cell.
type Selector struct {
	expr  string
	terms []term
}

// term is one condition; an empty key means any axis or the ID.
type term struct {
	key     string
	pattern Pattern
}

// Error is an expression that says nothing, or matches nothing.
type Error struct {
	// Expr is the expression as it was written.
	Expr string
	// Message says what is wrong and what there is instead.
	Message string
}

// Error quotes the expression.
func (e *Error) Error() string { return fmt.Sprintf("selector %q: %s", e.Expr, e.Message) }

// mostText is how long an expression may be; a pattern is compiled, and the
// compiler has its limits.
const mostText = 1000

// Parse reads an expression. Its error is an *Error.
func Parse(expr string) (Selector, error) {
	if len(expr) > mostText {
		return Selector{}, &Error{expr[:40] + "...", fmt.Sprintf("longer than %d characters", mostText)}
	}
	s := Selector{expr: expr}
	for part := range strings.SplitSeq(expr, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			return Selector{}, &Error{expr, "an empty term; want for example rke2, debian/13, distro=kubeadm,os=debian/13 or a cell's ID"}
		}
		key, value, keyed := strings.Cut(part, "=")
		if !keyed {
			s.terms = append(s.terms, term{pattern: NewPattern(part)})
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !slices.Contains(Keys(), key) {
			return Selector{}, &Error{expr, fmt.Sprintf("unknown key %q%s; keys are %s", key, DidYouMean(key, Keys()), strings.Join(Keys(), ", "))}
		}
		if value == "" {
			return Selector{}, &Error{expr, key + " has no value"}
		}
		s.terms = append(s.terms, term{key, NewPattern(value)})
	}
	return s, nil
}

// And adds the condition that the axis called key matches value. An empty
// value adds nothing.
func (s Selector) And(key, value string) Selector {
	if value == "" {
		return s
	}
	s.terms = append(slices.Clip(s.terms), term{key, NewPattern(value)})
	if s.expr != "" {
		s.expr += ","
	}
	s.expr += key + "=" + value
	return s
}

// String is the selector as an expression.
func (s Selector) String() string { return s.expr }

// Matches says whether every term holds for the cell.
func (s Selector) Matches(c matrix.Cell) bool {
	for _, t := range s.terms {
		if !t.matches(c) {
			return false
		}
	}
	return true
}

func (t term) matches(c matrix.Cell) bool {
	switch t.key {
	case Distro:
		return t.pattern.MatchesDistro(c.Distro)
	case OS:
		return t.pattern.MatchesOS(c.OS)
	case Topology:
		return t.pattern.Matches(c.Topology.String())
	case Host:
		return t.pattern.Matches(c.Host.Name)
	case Variant:
		return t.pattern.MatchesVariant(c)
	}
	return t.pattern.Matches(string(c.ID)) || t.pattern.MatchesDistro(c.Distro) || t.pattern.MatchesOS(c.OS) ||
		t.pattern.Matches(c.Topology.String()) || t.pattern.Matches(c.Host.Name) || t.pattern.MatchesVariant(c)
}

// Pattern is literal text in which * stands for any text without a slash and
// ** for any text.
type Pattern struct {
	text string
	glob *regexp.Regexp
}

// NewPattern makes a pattern; every text of at most a thousand characters is
// one.
func NewPattern(text string) Pattern {
	p := Pattern{text: text}
	if strings.Contains(text, "*") {
		const anything, segment = `.*`, `[^/]*`
		expr := regexp.QuoteMeta(strings.ToValidUTF8(text, "\uFFFD"))
		expr = strings.ReplaceAll(expr, `\*\*`, anything)
		expr = strings.ReplaceAll(expr, `\*`, segment)
		p.glob = regexp.MustCompile(`(?s)^` + expr + `$`)
	}
	return p
}

// Matches says whether the whole of s matches.
func (p Pattern) Matches(s string) bool {
	if p.glob != nil {
		return p.glob.MatchString(s)
	}
	return p.text == s
}

// IsGlob says whether the pattern can match more than its own text.
func (p Pattern) IsGlob() bool { return p.glob != nil }

// MatchesDistro says whether one of the distro's spellings matches.
func (p Pattern) MatchesDistro(d matrix.Distro) bool {
	return p.Matches(d.Name) || p.matchesVersion(d.Name, d.Minor) || p.matchesVersion(d.Name, d.Version) || p.matchesVersion(d.Name, d.Channel)
}

func (p Pattern) matchesVersion(name, version string) bool {
	if version == "" || p.glob == nil && !strings.HasPrefix(p.text, name) {
		return false
	}
	return p.Matches(name+"-"+version) || p.Matches(name+"@"+version)
}

// MatchesOS says whether one of the OS's spellings matches.
func (p Pattern) MatchesOS(o matrix.OS) bool { return p.Matches(o.Written()) || p.Matches(o.String()) }

// MatchesVariant says whether one of the cell's variants matches, or all of
// them as its ID shows them; a cell without any has matrix.NoVariant.
func (p Pattern) MatchesVariant(c matrix.Cell) bool {
	return p.Matches(c.Variant()) || slices.ContainsFunc(c.Variants, p.Matches)
}

// Select keeps the cells that match any expression of only (all, if there is
// none) and none of skip, in their order. Every expression must match at least
// one of cells, so that a typo never shrinks a run in silence; its error then
// holds one *Error for each that does not. An empty selection is an error too.
func Select(cells []matrix.Cell, only, skip []string) ([]matrix.Cell, error) {
	var problems errorList
	parse := func(exprs []string) (out []Selector) {
		for _, expr := range exprs {
			s, err := Parse(expr)
			if err == nil && !slices.ContainsFunc(cells, s.Matches) {
				err = &Error{expr, "matches no cell" + near(expr, cells)}
			}
			if err != nil {
				problems = append(problems, err)
				continue
			}
			out = append(out, s)
		}
		return out
	}
	onlys, skips := parse(only), parse(skip)
	if len(problems) > 0 {
		return nil, problems
	}
	matches := func(c matrix.Cell) func(Selector) bool { return func(s Selector) bool { return s.Matches(c) } }
	var kept []matrix.Cell
	for _, c := range cells {
		if (len(only) == 0 || slices.ContainsFunc(onlys, matches(c))) && !slices.ContainsFunc(skips, matches(c)) {
			kept = append(kept, c)
		}
	}
	if len(kept) == 0 {
		return nil, &Error{strings.Join(append(slices.Clone(only), skip...), " "), "together they leave no cell"}
	}
	return kept, nil
}

// errorList is several errors, one a line.
type errorList []error

func (l errorList) Error() string {
	lines := make([]string, len(l))
	for i, err := range l {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As the parts.
func (l errorList) Unwrap() []error { return l }

// near says what an expression that matches nothing may have meant, and what
// there is.
func near(expr string, cells []matrix.Cell) string {
	values := map[string][]string{}
	var ids []string
	add := func(key, value string) {
		if !slices.Contains(values[key], value) {
			values[key] = append(values[key], value)
		}
	}
	for _, c := range cells {
		add(Distro, c.Distro.String())
		add(OS, c.OS.Written())
		add(Topology, c.Topology.String())
		add(Host, c.Host.Name)
		if len(c.Variants) > 0 {
			add(Variant, c.Variant())
		}
		ids = append(ids, string(c.ID))
	}
	candidates := ids
	for _, key := range Keys() {
		for _, v := range values[key] {
			candidates = append(candidates, v)
			if name, _, cut := strings.Cut(v, "-"); cut && key == Distro {
				candidates = append(candidates, name)
			}
		}
	}
	hint := ""
	for part := range strings.SplitSeq(expr, ",") {
		_, value, keyed := strings.Cut(part, "=")
		if !keyed {
			value = part
		}
		if hint = DidYouMean(strings.TrimSpace(value), candidates); hint != "" {
			break
		}
	}
	var have []string
	for _, key := range Keys() {
		if len(values[key]) > 0 {
			have = append(have, key+" "+strings.Join(values[key], " "))
		}
	}
	return hint + "; there are " + strings.Join(have, "; ")
}

// DidYouMean is ` (did you mean "x" or "y"?)` for the known names nearest to a
// misspelt one, or empty.
func DidYouMean(name string, known []string) string {
	type guess struct {
		name     string
		distance int
	}
	const longest = 200 // nobody misspells more, and the distance is quadratic
	if name == "" || len(name) > longest || slices.Contains(known, name) {
		return ""
	}
	var guesses []guess
	for _, k := range known {
		if len(k) > longest {
			continue
		}
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d <= max(1, min(len(name), len(k))/3) && !slices.ContainsFunc(guesses, func(g guess) bool { return g.name == k }) {
			guesses = append(guesses, guess{k, d})
		}
	}
	sort.SliceStable(guesses, func(i, j int) bool { return guesses[i].distance < guesses[j].distance })
	var names []string
	for _, g := range guesses {
		if g.distance == guesses[0].distance && len(names) < 3 {
			names = append(names, fmt.Sprintf("%q", g.name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (did you mean " + strings.Join(names, " or ") + "?)"
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours between a and b.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
