package doctor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// backportsFile is where Fix adds the release's backports.
const backportsFile = "/etc/apt/sources.list.d/lxcmatrix-backports.sources"

// source is one of apt's package sources, whichever way it was written.
type source struct {
	file       string
	uris       []string
	suites     []string
	components []string
	// options holds every other field as deb822 names and lays it out, in
	// order: Signed-By with its continuation lines among them.
	options []option
}

type option struct{ name, value string }

// sources are the machine's enabled sources of binary packages.
func (m Machine) sources() []source {
	var out []source
	files := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"*.list", "*.sources"} {
		// The pattern is a constant and well formed.
		found, _ := filepath.Glob(m.path("/etc/apt/sources.list.d/" + pattern))
		for _, name := range found {
			files = append(files, "/etc/apt/sources.list.d/"+filepath.Base(name))
		}
	}
	for _, name := range files {
		b, err := os.ReadFile(m.path(name))
		if err != nil {
			continue
		}
		parse := oneLine
		if strings.HasSuffix(name, ".sources") {
			parse = deb822
		}
		for _, s := range parse(string(b)) {
			s.file = name
			out = append(out, s)
		}
	}
	return out
}

func (m Machine) hasSuite(suite string) bool {
	return slices.ContainsFunc(m.sources(), func(s source) bool { return slices.Contains(s.suites, suite) })
}

// deb822 reads the format of .sources files: sources.list(5).
func deb822(text string) []source {
	var out []source
	var fields []option
	end := func() {
		var s source
		enabled, binary := true, false
		for _, f := range fields {
			switch strings.ToLower(f.name) {
			case "types":
				binary = slices.Contains(strings.Fields(f.value), "deb")
			case "uris":
				s.uris = strings.Fields(f.value)
			case "suites":
				s.suites = strings.Fields(f.value)
			case "components":
				s.components = strings.Fields(f.value)
			case "enabled":
				enabled = !slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(strings.TrimSpace(f.value)))
			case "description", "x-repolib-name":
			default:
				s.options = append(s.options, f)
			}
		}
		if binary && enabled {
			out = append(out, s)
		}
		fields = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == ' ' || line[0] == '\t':
			if len(fields) > 0 {
				fields[len(fields)-1].value += "\n" + line
			}
		default:
			name, value, _ := strings.Cut(line, ":")
			fields = append(fields, option{name, strings.TrimSpace(value)})
		}
	}
	end()
	return out
}

// oneLine reads the format of .list files: sources.list(5).
func oneLine(text string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !found || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if inner, found := strings.CutPrefix(rest, "["); found {
			var options string
			options, rest, _ = strings.Cut(inner, "]")
			for _, o := range strings.Fields(options) {
				name, value, _ := strings.Cut(o, "=")
				s.options = append(s.options, option{deb822Name(name), strings.ReplaceAll(value, ",", " ")})
			}
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			continue
		}
		s.uris, s.suites, s.components = f[:1], f[1:2], f[2:]
		out = append(out, s)
	}
	return out
}

// deb822Name is how .sources files call an option of .list files.
func deb822Name(name string) string {
	switch name {
	case "arch":
		return "Architectures"
	case "lang":
		return "Languages"
	case "target":
		return "Targets"
	}
	parts := strings.Split(name, "-")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "-")
}

var errNoDebianSource = errors.New("no source of Debian's main component among apt's sources")

// backportsSource is the text of a .sources file for a release's backports,
// from where and signed as this machine's own source of the release is.
func (m Machine) backportsSource(codename string) (string, error) {
	all := m.sources()
	best, bestScore := -1, -1
	for i, s := range all {
		named := slices.ContainsFunc([]string{codename, "stable", "oldstable"}, func(suite string) bool { return slices.Contains(s.suites, suite) })
		if !named || !slices.Contains(s.components, "main") || len(s.uris) == 0 || strings.HasPrefix(s.uris[0], "cdrom:") {
			continue
		}
		// Others publish suites of the same name. Debian's archive has the
		// release's updates beside it.
		score := 0
		for _, other := range all {
			if slices.Equal(other.uris, s.uris) && slices.Contains(other.suites, codename+"-updates") {
				score = 4
			}
		}
		if base := path.Base(s.file); base == "sources.list" || base == "debian.sources" {
			score += 2
		}
		if path.Base(strings.TrimSuffix(s.uris[0], "/")) == "debian" {
			score++
		}
		if score > bestScore {
			best, bestScore = i, score
		}
	}
	if best < 0 {
		return "", fmt.Errorf("find where %s comes from: %w", codename, errNoDebianSource)
	}
	s := all[best]
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by lxcmatrix: Incus comes from the release's backports. The rest is as in\n# %s.\n", s.file)
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n", strings.Join(s.uris, " "), codename)
	for _, o := range s.options {
		if strings.HasPrefix(o.value, "\n") {
			fmt.Fprintf(&b, "%s:%s\n", o.name, o.value)
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", o.name, o.value)
	}
	return b.String(), nil
}
