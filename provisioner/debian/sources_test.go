package debian

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
)

func TestParse(t *testing.T) {
	const sources, list = "/etc/apt/sources.list.d/x.sources", "/etc/apt/sources.list"
	for name, c := range map[string]struct {
		file, text string
		want       []Source
	}{
		"one line": {list, "# deb http://no.example x main\ndeb-src http://src.example x main\n deb  http://a.example/debian  trixie main contrib # why\n",
			[]Source{{URIs: []string{"http://a.example/debian"}, Suites: []string{"trixie"}, Components: []string{"main", "contrib"}}}},
		"tabs and options": {list, "deb\t[ arch=amd64,arm64 signed-by=/k.gpg ]\thttp://a.example/debian trixie main\n",
			[]Source{{URIs: []string{"http://a.example/debian"}, Suites: []string{"trixie"}, Components: []string{"main"},
				Options: []Option{{"Architectures", "amd64 arm64"}, {"Signed-By", "/k.gpg"}}}}},
		"a flat archive": {list, "deb file:/srv/packages ./\n", []Source{{URIs: []string{"file:/srv/packages"}, Suites: []string{"./"}, Components: []string{}}}},
		"broken lines":   {list, "deb\ndeb http://a.example\ndeb [arch=amd64 http://a.example trixie main\ndebian http://a.example x main\n", nil},
		"paragraphs": {sources, "# why\nTypes: deb deb-src\nURIs: http://a.example/debian\n http://b.example/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n -----END\n\n\nTypes: deb-src\nURIs: http://src.example\nSuites: x\nComponents: main\n",
			[]Source{{URIs: []string{"http://a.example/debian", "http://b.example/debian"}, Suites: []string{"trixie", "trixie-updates"}, Components: []string{"main"},
				Options: []Option{{"Signed-By", "\n -----BEGIN\n .\n -----END"}}}}},
		"names in any case":  {sources, "types: deb\nuris: http://a.example/debian\nSUITES: trixie\ncomponents: main\n", []Source{{URIs: []string{"http://a.example/debian"}, Suites: []string{"trixie"}, Components: []string{"main"}}}},
		"disabled":           {sources, "Types: deb\nEnabled: No\nURIs: http://a.example\nSuites: x\nComponents: main\n", nil},
		"an orphaned indent": {sources, " lost\n\nTypes: deb\nURIs: u\nSuites: s\n", []Source{{URIs: []string{"u"}, Suites: []string{"s"}}}},
		"nothing":            {sources, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			for i := range c.want {
				c.want[i].File = c.file
			}
			g.Expect(Parse(c.file, c.text)).To(Equal(c.want))
		})
	}
}

func TestSources(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	g.Expect(Sources(root)).To(BeEmpty())
	dir := filepath.Join(root, "etc/apt/sources.list.d")
	g.Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
	for name, text := range map[string]string{
		"etc/apt/sources.list":                    "deb http://a.example/debian trixie main\n",
		"etc/apt/sources.list.d/b.list":           "deb http://b.example/debian trixie main\n",
		"etc/apt/sources.list.d/a.sources":        "Types: deb\nURIs: http://c.example/debian\nSuites: trixie\nComponents: main\n",
		"etc/apt/sources.list.d/a.sources.before": "deb http://no.example x main\n",
	} {
		g.Expect(os.WriteFile(filepath.Join(root, name), []byte(text), 0o600)).To(Succeed())
	}
	g.Expect(Sources(root)).To(HaveExactElements(
		HaveField("File", "/etc/apt/sources.list"), HaveField("File", "/etc/apt/sources.list.d/b.list"), HaveField("File", "/etc/apt/sources.list.d/a.sources")))
}

func TestOption(t *testing.T) {
	g := NewWithT(t)
	s := Source{Options: []Option{{"signed-by", "/k.gpg"}}}
	g.Expect(s.Option("Signed-By")).To(Equal("/k.gpg"))
	g.Expect(s.Option("Trusted")).To(BeEmpty())
}

func TestArchive(t *testing.T) {
	for name, c := range map[string]struct{ list, suite, want string }{
		"the suite itself":     {"deb http://a.example/other sid main\ndeb http://b.example/debian trixie main\n", "trixie", "http://b.example/debian"},
		"another release":      {"deb http://a.example/debian trixie main\n", "bullseye", "http://a.example/debian"},
		"by its class":         {"deb http://a.example/debian oldstable main\n", "bookworm", "http://a.example/debian"},
		"a vendor's namesake":  {"deb https://vendor.example/apt trixie main\ndeb http://a.example/debian trixie main\ndeb http://a.example/debian trixie-updates main\n", "trixie", "http://a.example/debian"},
		"security is not it":   {"deb http://a.example/debian-security trixie-security main\n", "trixie", ""},
		"another component":    {"deb http://a.example/debian trixie contrib\n", "trixie", ""},
		"a disc is not it":     {"deb cdrom:[Debian] trixie main\n", "trixie", ""},
		"a disc, then another": {"deb cdrom:[Debian] trixie main\ndeb http://a.example/debian sid main\n", "trixie", "http://a.example/debian"},
		"nothing":              {"", "trixie", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := Archive(Parse("/etc/apt/sources.list", c.list), c.suite)
			if c.want == "" {
				g.Expect(err).To(MatchError(ErrNoArchive))
				g.Expect(err).To(MatchError(ContainSubstring(c.suite)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got.URIs).To(Equal([]string{c.want}))
		})
	}
}
