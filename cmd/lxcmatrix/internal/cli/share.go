package cli

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
)

// share makes a copy of a run that others may read; words are what the user wants
// hidden beside what is known.
func (p *program) share(folder *runfolder.Folder, r matrix.Run, dir string, words []string) error {
	site, err := siteOf(folder, r)
	if err != nil {
		return err
	}
	site.Words = words
	shared, err := folder.Share(dir, site.Hide())
	if errors.Is(err, fs.ErrExist) {
		return usage("--share: %w; name a folder that is not there yet", err)
	}
	if err != nil {
		return err
	}
	run, err := shared.Read()
	if err != nil {
		return err
	}
	page, err := os.Create(reportPath(shared))
	if err != nil {
		return err
	}
	// Of the runs beside it nothing is told.
	logs := func(id matrix.CellID) ([]html.Log, error) { return logsOf(shared, id) }
	if err := errors.Join(html.Render(page, html.Input{Run: run, Logs: logs}), page.Close(), os.Chmod(dir, 0o755)); err != nil {
		return err
	}
	p.say("a copy to share is in %s: names, addresses and paths that are known here are replaced; look through it, and hide what is left with --hide", dir)
	return nil
}

// siteOf is what is known of where a run was made: this machine, unless the run came
// from elsewhere, and what its plan names.
func siteOf(folder *runfolder.Folder, r matrix.Run) (redact.Site, error) {
	s := redact.Site{Public: publicHosts()}
	if name, err := os.Hostname(); err == nil {
		s.Hosts = append(s.Hosts, name)
	}
	s.Hosts = append(s.Hosts, searchDomains()...)
	s.Users = append(s.Users, os.Getenv("USER"), os.Getenv("SUDO_USER"))
	if u, err := user.Current(); err == nil {
		s.Users = append(s.Users, u.Username)
		s.Paths = append(s.Paths, u.HomeDir)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return s, err
	}
	dir, err := filepath.Abs(folder.Dir())
	if err != nil {
		return s, err
	}
	s.Paths = append(s.Paths, os.Getenv("HOME"), cwd, filepath.Dir(dir), r.Origin.Lock, filepath.Dir(r.Plan.Matrix), strings.TrimPrefix(r.Plan.Sources.Mirror, "file://"))
	s.Paths = append(s.Paths, r.Origin.FixFolders...)
	cells := r.Plan.Whole().Cells
	// What cells are called by is not hidden, but for their hosts.
	s.Keep = []string{"root", "localhost"}
	for _, c := range cells {
		ref := c.Host
		s.Keep = append(s.Keep, ref.Driver, c.Distro.Name, c.Variant())
		for _, os := range []matrix.OS{c.OS, c.OSOf(matrix.RoleAgent)} {
			s.Keep = append(s.Keep, os.Family())
		}
		// A machine of ours is called by its kernel, and is nowhere else.
		if ref.Driver != "qemu" && ref.Name != ref.Driver {
			s.Hosts = append(s.Hosts, ref.Name)
		}
		remote := ref.Remote
		s.Hosts = append(s.Hosts, remote.Name, remote.Member)
		if u, err := url.Parse(remote.URL); err == nil {
			s.Hosts = append(s.Hosts, u.Hostname())
		}
		if who, at, found := strings.Cut(remote.SSH, "@"); found {
			address, _, _ := strings.Cut(at, ":")
			s.Users, s.Hosts = append(s.Users, who), append(s.Hosts, address)
		}
		s.Paths = append(s.Paths, remote.ClientCert, remote.ClientKey, ref.QEMU.Kernel, ref.QEMU.Initrd, ref.QEMU.Modules)
	}
	var absolute []string
	for _, path := range s.Paths {
		if filepath.IsAbs(path) {
			absolute = append(absolute, path)
		}
	}
	s.Paths = absolute
	return s, nil
}

// searchDomains are those that this machine looks names up in.
func searchDomains() (domains []string) {
	// Without the file there are none.
	text, _ := os.ReadFile("/etc/resolv.conf")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain") {
			domains = append(domains, f[1:]...)
		}
	}
	return domains
}

var httpsHost = regexp.MustCompile(`https://([A-Za-z0-9.-]+)`)

// publicHosts are those that what is known of the world refers to.
func publicHosts() (hosts []string) {
	for _, known := range []fs.FS{fixtures.Fixes(), fixtures.Gates(), fixtures.Signatures(), fixtures.Modules(), fixtures.OS()} {
		// They are embedded: nothing in them cannot be read.
		_ = fs.WalkDir(known, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(known, path)
			for _, found := range httpsHost.FindAllSubmatch(text, -1) {
				hosts = append(hosts, string(found[1]))
			}
			return err
		})
	}
	return hosts
}
