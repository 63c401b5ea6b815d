package doctor

import (
	"errors"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

func TestBackportsSource(t *testing.T) {
	const list, other = "/etc/apt/sources.list", "/etc/apt/sources.list.d/"
	const gone = "-"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"one line": {
			files: map[string]string{list: "# comment\ndeb-src http://mirror.example/debian bookworm main\ndeb http://mirror.example/debian bookworm main contrib\n"},
			want:  "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n",
		},
		"one line with options": {
			files: map[string]string{list: "deb [arch=amd64,arm64 signed-by=/k.gpg check-valid-until=no] http://mirror.example/debian bookworm main # why\n"},
			want:  "Components: main\nArchitectures: amd64 arm64\nSigned-By: /k.gpg\nCheck-Valid-Until: no\n",
		},
		"a key in the file": {
			files: map[string]string{other + "debian.sources": "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"},
			want:  "Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
		},
		"another vendor's suite of the same name": {
			files: map[string]string{
				other + "a-vendor.sources": "Types: deb\nURIs: https://vendor.example/apt\nSuites: bookworm\nComponents: main\nSigned-By: /vendor.gpg\n",
				other + "z.list":           "deb http://mirror.example/debian bookworm main\ndeb http://mirror.example/debian bookworm-updates main\n",
			},
			want: "URIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n",
		},
		"disabled, source-only and cdrom": {
			files: map[string]string{
				other + "a.sources": "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n\nTypes: deb-src\nURIs: http://src.example/debian\nSuites: bookworm\nComponents: main\n",
				list:                "deb cdrom:[Debian] bookworm main\ndeb http://mirror.example/debian bookworm main\n",
			},
			want: "URIs: http://mirror.example/debian\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"/etc/apt/sources.list.d/debian.sources": gone}
			for k, v := range c.files {
				files[k] = v
			}
			m, _ := machine(t, files)
			got, err := m.backportsSource("bookworm")
			if err != nil || !strings.Contains(got, c.want) {
				t.Errorf("%v: got\n%s\nwant in it\n%s", err, got, c.want)
			}
			// What was written is a source that is found again.
			if parsed := debian.Parse(backportsFile, got); len(parsed) != 1 || parsed[0].Suites[0] != "bookworm-backports" {
				t.Errorf("it reads back as %+v", parsed)
			}
		})
	}
	m, _ := machine(t, map[string]string{"/etc/apt/sources.list.d/debian.sources": gone})
	if _, err := m.backportsSource("bookworm"); !errors.Is(err, debian.ErrNoArchive) {
		t.Errorf("without any source: %v", err)
	}
}

func TestBackportsAreNotAddedTwice(t *testing.T) {
	for name, text := range map[string]string{
		"/etc/apt/sources.list.d/mine.sources": "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n",
		"/etc/apt/sources.list":                "deb http://mirror.example/debian bookworm-backports main\n",
	} {
		files := map[string]string{name: text}
		for k, v := range bookworm {
			files[k] = v
		}
		m, r := machine(t, files)
		r.answers["apt-get"] = answer{}
		if err := m.Fix(t.Context(), m.Examine(t.Context(), Options{}), &strings.Builder{}); err != nil {
			t.Fatal(err)
		}
		if m.exists(backportsFile) {
			t.Errorf("with %s there, %s was written", name, backportsFile)
		}
	}
}
