package doctor

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// requirement is something that must be installed. It is there when one of
// its files is, whoever put it there, and Debian has it in a package.
type requirement struct {
	pkg string
	why string
	// anyOf are programs, looked for in PATH, or absolute paths.
	anyOf []string
	// test: only for running the tests.
	test bool
	// qemu: only for qemu hosts, which the tests boot too.
	qemu bool
	// apparmor: only where the kernel has AppArmor on.
	apparmor bool
}

func requirements() []requirement {
	return []requirement{
		{pkg: "incus-base", why: "the Incus daemon and its client", anyOf: []string{"/usr/libexec/incus/incusd", "/usr/lib/incus/incusd", "/opt/incus/bin/incusd", "/usr/bin/incusd"}},
		{pkg: "dnsmasq-base", why: "addresses and DNS on the nodes' bridge", anyOf: []string{"dnsmasq"}},
		{pkg: "nftables", why: "NAT for the nodes' bridge", anyOf: []string{"nft"}},
		{pkg: "iproute2", why: "the bridge and its routes", anyOf: []string{"ip"}},
		{pkg: "e2fsprogs", why: "the embedded host's storage pool, and disks of qemu hosts", anyOf: []string{"mke2fs"}},
		{pkg: "mount", why: "the embedded host's storage pool", anyOf: []string{"losetup"}},
		{pkg: "mmdebstrap", why: "node images of Debian", anyOf: []string{"mmdebstrap"}},
		{pkg: "debian-archive-keyring", why: "the signatures of Debian's packages", anyOf: []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"}},
		{pkg: "squashfs-tools-ng", why: "prepared images as files", anyOf: []string{"tar2sqfs"}},
		{pkg: "xz-utils", why: "image archives", anyOf: []string{"xz"}},
		{pkg: "ca-certificates", why: "downloads over HTTPS", anyOf: []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"}},
		{pkg: "git", why: "the version that the binary carries", anyOf: []string{"git"}},
		{pkg: "apparmor", why: "AppArmor is on in this kernel, and Incus loads its profiles with it", anyOf: []string{"apparmor_parser"}, apparmor: true},
		{pkg: "qemu-system-x86", why: "the machines that are qemu hosts", anyOf: []string{"qemu-system-x86_64"}, qemu: true},
		{pkg: "qemu-utils", why: "their disks", anyOf: []string{"qemu-img"}, qemu: true},
		{pkg: "gcc", why: "runc, which is C in part, for Kubernetes 1.36", anyOf: []string{"gcc"}},
		{pkg: "libc6-dev", why: "runc, which is C in part, for Kubernetes 1.36", anyOf: []string{"/usr/include/stdio.h"}},
		{pkg: "libseccomp-dev", why: "runc, which is C in part, for Kubernetes 1.36", anyOf: []string{"/usr/include/seccomp.h"}},
		{pkg: "pkg-config", why: "runc, which is C in part, for Kubernetes 1.36", anyOf: []string{"pkg-config"}},
		{pkg: "make", why: "the Makefile", anyOf: []string{"make"}, test: true},
		{pkg: "docker.io", why: "services around clusters, in Docker", anyOf: []string{"dockerd"}, test: true},
		{pkg: "lxc", why: "what is exported for LXC without Incus", anyOf: []string{"lxc-start"}, test: true},
		{pkg: "shellcheck", why: "scripts that are exported", anyOf: []string{"shellcheck"}, test: true},
		{pkg: "chromium-headless-shell", why: "the HTML report in a browser", anyOf: []string{"chromium-headless-shell", "chromium"}, test: true},
		{pkg: "fonts-dejavu-core", why: "the HTML report in a browser", anyOf: []string{"/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"}, test: true},
		{pkg: "npm", why: "axe-core, which says whether everybody can use the HTML report", anyOf: []string{"npm"}, test: true},
	}
}

// release is the machine's OS.
type release struct {
	id, version, codename, pretty string
}

func (m Machine) release() release {
	text, _ := m.read("/etc/os-release")
	v := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), "="); found {
			v[key] = strings.Trim(value, `"'`)
		}
	}
	return release{id: v["ID"], version: v["VERSION_ID"], codename: v["VERSION_CODENAME"], pretty: v["PRETTY_NAME"]}
}

// supported says whether Fix knows how to install packages there.
func (r release) supported() bool {
	return r.id == "debian" && (r.version == "12" || r.version == "13")
}

func (m Machine) root(context.Context, Options) []Finding {
	if m.UID != 0 {
		return problem("root", "run it as root", "user %d is not root; Incus, mounts and bridges need root", m.UID)
	}
	return ok("root", "runs as root")
}

func (m Machine) os(context.Context, Options) []Finding {
	r := m.release()
	if r.supported() {
		return ok("os", "%s", r.pretty)
	}
	name := r.pretty
	if name == "" {
		name = "an OS without /etc/os-release"
	}
	return warning("os", "use Debian 12 or 13, or install what is missing by hand",
		"%s: only Debian 12 and 13 are set up automatically; elsewhere doctor only tells what is missing", name)
}

func (m Machine) packages(_ context.Context, opts Options) []Finding {
	var names, whys []string
	needed := 0
	for _, r := range requirements() {
		if r.test && opts.Purpose != Test || r.qemu && opts.Purpose != Test && opts.HostDriver != "qemu" || r.apparmor && !m.apparmorOn() {
			continue
		}
		needed++
		if !m.has(r) {
			names = append(names, r.pkg)
			whys = append(whys, fmt.Sprintf("%s (%s)", r.pkg, r.why))
		}
	}
	if len(names) == 0 {
		return ok("packages", "all %d packages are there", needed)
	}
	f := Finding{ID: "packages", Severity: Problem, What: "missing: " + strings.Join(whys, ", ")}
	r := m.release()
	if !r.supported() {
		f.Remedy = "install what provides them on this OS: " + strings.Join(names, ", ")
		return []Finding{f}
	}
	f.Fixable, f.repair.packages = true, names
	f.Remedy = installCommand(names).String()
	// Debian 12 itself has no Incus.
	if r.version == "12" && names[0] == "incus-base" && !m.hasSuite(r.codename+"-backports") {
		f.repair.backports = true
		f.Remedy = fmt.Sprintf("add %s-backports to apt's sources, apt-get update, %s", r.codename, f.Remedy)
	}
	return []Finding{f}
}

func (m Machine) has(r requirement) bool {
	for _, name := range r.anyOf {
		if _, found := m.look(name); found {
			return true
		}
	}
	return false
}

// leastGo is the Go release that go.mod asks for.
const leastGoMinor = 26

var goVersion = regexp.MustCompile(`go version go1\.(\d+)\S*`)

func (m Machine) toolchain(ctx context.Context, _ Options) []Finding {
	const remedy = "install Go 1.26 or newer and put its bin folder on PATH"
	path, found := m.look("go")
	if !found {
		return problem("go", remedy, "no Go toolchain on PATH: Kubernetes and this program are built from source")
	}
	out, err := m.Runner.Run(ctx, Command{Args: []string{path, "version"}, Env: []string{"GOTOOLCHAIN=local"}})
	if err != nil {
		return problem("go", remedy, "%v", err)
	}
	match := goVersion.FindStringSubmatch(out)
	if match == nil {
		return warning("go", remedy, "%s does not tell its version: %s", path, lastLines(out, 1))
	}
	if minor, err := strconv.Atoi(match[1]); err != nil || minor < leastGoMinor {
		return problem("go", remedy, "%s is too old: %s", path, match[0])
	}
	return ok("go", "%s: %s", path, strings.TrimPrefix(match[0], "go version "))
}
