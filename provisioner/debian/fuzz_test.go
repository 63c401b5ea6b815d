package debian

import (
	"strings"
	"testing"
)

// FuzzParse: what apt's sources say can be searched, whatever they say.
func FuzzParse(f *testing.F) {
	f.Add(false, "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian trixie main # why\n")
	f.Add(true, "Types: deb\nURIs: http://a.example/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n")
	f.Fuzz(func(t *testing.T, deb822 bool, text string) {
		name := "/etc/apt/sources.list"
		if deb822 {
			name += ".d/debian.sources"
		}
		s, err := Archive(Parse(name, text), "trixie")
		if err == nil && (len(s.URIs) == 0 || s.File != name || s.line("trixie") == "") {
			t.Errorf("%+v", s)
		}
	})
}

// FuzzParseIndex: every package has a name and a version.
func FuzzParseIndex(f *testing.F) {
	f.Add("Package: incus\nVersion: 6.0.4-2\n\nPackage: lxc\nVersion: 1:6.0.4-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseIndex(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range all {
			if p.Name == "" || strings.ContainsAny(p.Name+p.Version, "\n") {
				t.Errorf("%+v", p)
			}
		}
	})
}
