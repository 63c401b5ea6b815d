package debian

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Source is one of apt's sources of binary packages, whichever way it was
// written.
type Source struct {
	// File is where it was read, as the machine itself names it.
	File       string
	URIs       []string
	Suites     []string
	Components []string
	// Options holds every other field as .sources files name and lay it out,
	// in order: Signed-By with its continuation lines among them.
	Options []Option
}

// Option is one further field of a source. A value that begins on the next
// line begins with a newline.
type Option struct{ Name, Value string }

// Option is the value of a field, whatever the case of its name; empty where
// there is none.
func (s Source) Option(name string) string {
	for _, o := range s.Options {
		if strings.EqualFold(o.Name, name) {
			return o.Value
		}
	}
	return ""
}

// line is the source in the format of .list files, for another suite of the
// same archive.
func (s Source) line(suite string) string {
	options := ""
	// A key that is written out in the source cannot be named in a line.
	if key := s.Option("Signed-By"); filepath.IsAbs(key) {
		options = "[signed-by=" + key + "] "
	}
	return "deb " + options + s.URIs[0] + " " + suite + " main"
}

// Sources are the enabled sources of binary packages of the machine whose root
// is at root, in both of apt's formats. What it cannot read it leaves out.
func Sources(root string) []Source {
	const dir = "/etc/apt/sources.list.d"
	files := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"*.list", "*.sources"} {
		// The pattern is a constant and well formed.
		found, _ := filepath.Glob(filepath.Join(root, dir, pattern))
		for _, name := range found {
			files = append(files, path.Join(dir, filepath.Base(name)))
		}
	}
	var all []Source
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue
		}
		all = append(all, Parse(name, string(text))...)
	}
	return all
}

// Parse reads one file of apt's, whose name says its format (sources.list(5)).
func Parse(file, text string) []Source {
	parse := oneLine
	if path.Ext(file) == ".sources" {
		parse = deb822
	}
	all := parse(text)
	for i := range all {
		all[i].File = file
	}
	return all
}

// deb822 reads the format of .sources files.
func deb822(text string) []Source {
	var all []Source
	var fields []Option
	end := func() {
		var s Source
		enabled, binary := true, false
		for _, f := range fields {
			switch strings.ToLower(f.Name) {
			case "types":
				binary = slices.Contains(strings.Fields(f.Value), "deb")
			case "uris":
				s.URIs = strings.Fields(f.Value)
			case "suites":
				s.Suites = strings.Fields(f.Value)
			case "components":
				s.Components = strings.Fields(f.Value)
			case "enabled":
				enabled = !slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(strings.TrimSpace(f.Value)))
			case "description", "x-repolib-name":
			default:
				s.Options = append(s.Options, f)
			}
		}
		if binary && enabled {
			all = append(all, s)
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
				fields[len(fields)-1].Value += "\n" + line
			}
		default:
			name, value, _ := strings.Cut(line, ":")
			fields = append(fields, Option{strings.TrimSpace(name), strings.TrimSpace(value)})
		}
	}
	end()
	return all
}

// oneLine reads the format of .list files.
func oneLine(text string) []Source {
	var all []Source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !found || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		var s Source
		rest = strings.TrimSpace(rest)
		if inner, found := strings.CutPrefix(rest, "["); found {
			var options string
			options, rest, _ = strings.Cut(inner, "]")
			for _, o := range strings.Fields(options) {
				name, value, _ := strings.Cut(o, "=")
				s.Options = append(s.Options, Option{deb822Name(name), strings.ReplaceAll(value, ",", " ")})
			}
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			continue
		}
		s.URIs, s.Suites, s.Components = f[:1], f[1:2], f[2:]
		all = append(all, s)
	}
	return all
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

// ErrNoArchive says that none of a machine's sources is Debian's archive.
var ErrNoArchive = errors.New("no source of Debian's main component among apt's sources")

// releases are the names that Debian's archive has its releases under.
var releases = [...]string{"bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"}

// Archive picks Debian's archive among the sources: the one that has the
// suite, else any release, since every suite lies in the one archive. Without
// one it is ErrNoArchive.
func Archive(all []Source, suite string) (Source, error) {
	for _, suites := range [][]string{{suite}, releases[:]} {
		best, bestScore := -1, -1
		for i, s := range all {
			if !slices.Contains(s.Components, "main") || len(s.URIs) == 0 || strings.HasPrefix(s.URIs[0], "cdrom:") {
				continue
			}
			for _, name := range s.Suites {
				if !slices.Contains(suites, name) {
					continue
				}
				if score := likeness(all, s, name); score > bestScore {
					best, bestScore = i, score
				}
			}
		}
		if best >= 0 {
			return all[best], nil
		}
	}
	return Source{}, fmt.Errorf("find where %s comes from: %w", suite, ErrNoArchive)
}

// likeness says how much a source looks like Debian's own archive: others
// publish suites of the same name. Debian's has the release's updates beside
// it.
func likeness(all []Source, s Source, suite string) int {
	score := 0
	for _, other := range all {
		if slices.Equal(other.URIs, s.URIs) && slices.Contains(other.Suites, suite+"-updates") {
			score = 4
		}
	}
	if base := path.Base(s.File); base == "sources.list" || base == "debian.sources" {
		score += 2
	}
	if path.Base(strings.TrimSuffix(s.URIs[0], "/")) == "debian" {
		score++
	}
	return score
}
