package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

// backportsFile is where Fix adds the release's backports.
const backportsFile = "/etc/apt/sources.list.d/lxcmatrix-backports.sources"

func (m Machine) hasSuite(suite string) bool {
	return slices.ContainsFunc(debian.Sources(m.path("/")), func(s debian.Source) bool { return slices.Contains(s.Suites, suite) })
}

// backportsSource is the text of a .sources file for a release's backports,
// from where and signed as this machine's own source of the release is.
func (m Machine) backportsSource(codename string) (string, error) {
	s, err := debian.Archive(debian.Sources(m.path("/")), codename)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by lxcmatrix: Incus comes from the release's backports. The rest is as in\n# %s.\n", s.File)
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n", strings.Join(s.URIs, " "), codename)
	for _, o := range s.Options {
		if strings.HasPrefix(o.Value, "\n") {
			fmt.Fprintf(&b, "%s:%s\n", o.Name, o.Value)
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", o.Name, o.Value)
	}
	return b.String(), nil
}
