package artifact

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
)

func TestEmbeddedRecipes(t *testing.T) {
	g := NewWithT(t)
	known, err := loadKnowledge(fixtures.Modules())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(known.upstreams).To(And(HaveKey("kubeadm"), HaveKey("k3s"), HaveKey("rke2")))
	g.Expect(known.recipes).NotTo(BeEmpty())
	for _, r := range known.recipes {
		if r.Distro == "kubeadm" {
			g.Expect(r.Binaries[:3]).To(Equal([]string{"kubeadm", "kubelet", "kubectl"}))
			if r.Runtime.Containerd == RuntimeOS {
				g.Expect(r.Binaries).To(HaveLen(3))
			} else {
				g.Expect(r.Binaries).To(ContainElements("containerd", "containerd-shim-runc-v2", "ctr", "runc"))
				g.Expect(r.Runtime.Plugins).To(ContainElements("bridge", "host-local", "loopback", "portmap"), "as the pod networks' configuration names them")
			}
			g.Expect(r.imageNames(true)).To(ContainElements("lxcmatrix.dev/probe:v1", "registry.k8s.io/kube-apiserver:v"+r.Version))
		}
		for _, m := range r.Modules {
			files, err := moduleFiles(fixtures.Modules(), m.Name)
			g.Expect(err).NotTo(HaveOccurred())
			var names []string
			for _, f := range files {
				names = append(names, f.name)
				g.Expect(f.name).NotTo(HaveSuffix("_test.go"))
				g.Expect(f.name).NotTo(HaveSuffix(".in"))
			}
			g.Expect(names).To(ContainElement("go.mod"))
		}
	}
}

// TestRecipesBuildWhatTheyName holds a recipe's names against the modules that
// they are built from: what would be another version under this one's name does
// not reach an image.
func TestRecipesBuildWhatTheyName(t *testing.T) {
	known, err := loadKnowledge(fixtures.Modules())
	if err != nil {
		t.Fatal(err)
	}
	var minors []string
	for _, r := range known.recipes {
		minors = append(minors, r.Distro+" "+r.Minor)
		t.Run(r.Distro+" "+r.Version, func(t *testing.T) {
			g := NewWithT(t)
			// By image, the module that its tag is of.
			tag := func(image string) string {
				for _, name := range r.imageNames(false) {
					if tag, found := strings.CutPrefix(name, image+":"); found {
						return tag
					}
				}
				t.Fatalf("there is no image %s", image)
				return ""
			}
			required := map[string]string{}
			switch r.Distro {
			case "kubeadm":
				required["k8s.io/kubernetes"] = tag("registry.k8s.io/kube-apiserver")
				required["go.etcd.io/etcd/server/v3"] = "v" + strings.TrimSuffix(tag("registry.k8s.io/etcd"), "-0")
				required["github.com/coredns/coredns"] = tag("registry.k8s.io/coredns/coredns")
			case "flannel":
				required["github.com/flannel-io/flannel"] = tag("ghcr.io/flannel-io/flannel")
				g.Expect(tag("ghcr.io/flannel-io/flannel")).To(Equal("v" + r.Version))
			}
			for _, m := range r.Modules {
				content, err := fs.ReadFile(fixtures.Modules(), path.Join(m.Name, "go.mod.in"))
				g.Expect(err).NotTo(HaveOccurred())
				for line := range strings.Lines(string(content)) {
					fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
					if len(fields) < 2 {
						continue
					}
					if want, named := required[fields[0]]; named {
						g.Expect(fields[1]).To(Equal(want), "%s in module %s", fields[0], m.Name)
						delete(required, fields[0])
					}
					if fields[1] == "=>" {
						g.Expect(fields[3]).To(Equal("v0."+strings.TrimPrefix(r.Version, "1.")), "%s in module %s", fields[0], m.Name)
					}
				}
				for variable, value := range m.Set {
					switch {
					case strings.HasSuffix(variable, "version.gitVersion"):
						g.Expect(value).To(Equal("v" + r.Version))
					case strings.HasSuffix(variable, "version.gitMinor"):
						g.Expect("1." + value).To(Equal(r.Minor))
					}
				}
			}
			g.Expect(required).To(BeEmpty(), "what no module requires")
		})
	}
	want := []string{"flannel 0.26", "kubeadm 1.31", "kubeadm 1.32", "kubeadm 1.33", "kubeadm 1.34", "kubeadm 1.35", "kubeadm 1.36"}
	if !slices.Equal(minors, want) {
		t.Errorf("there are recipes of %q, want %q", minors, want)
	}
}

func TestRecipeNamesEveryProblem(t *testing.T) {
	g := NewWithT(t)
	_, err := loadKnowledge(fstest.MapFS{
		"own.yaml": {Data: []byte("images: [{name: lonely}]")},
		"upstreams/odd.yaml": {Data: []byte(`
distro: odd
folder: https://example.test/{version}
runtime: {containerd: bundled, runc: os}
files: [{name: a, kind: images}, {name: "x-{part}", kind: airgap}]
images: [b, list]
`)},
		"upstreams/kubeadm.yaml": helloModules()["upstreams/kubeadm.yaml"],
		"releases/bad.yaml": {Data: []byte(`
distro: kubeadm
minor: "1.35"
version: 1.34.4
modules: [{name: absent, commands: {a: example.test/a, c: example.test/c/a}}]
binaries: [b, d]
runtime: {containerd: os, runc: magic, plugins: [vanished]}
downloads:
- {url: "https://example.test/d.tar.gz", files: {other: bin/other}}
- {url: "https://example.test/runc.{arch}", checksums: "https://example.test/sums", files: {b: runc}}
images:
- {name: i, base: none, files: {relative: a}, entrypoint: [/a]}
- {name: empty}
`)},
		"releases/unknown.yaml": {Data: []byte("distro: kubeadm\nminors: oops\n")},
	})
	g.Expect(err).To(HaveOccurred())
	for _, want := range []string{`minor "1.35" does not fit`, "module absent", "two packages build a file a", "binary b is built by no module", `no base "none"`,
		`path "relative" is not absolute`, "image empty needs files", `runtime "magic" is neither`, `plugin "vanished" is none of the binaries`, "releases/unknown.yaml", "minors",
		"binary d is neither among upstream's files", "image lonely needs files",
		"needs distro, files and checksums", "has no /v{version}", "one of channels and newest", `a: "images" is no kind`, "{part} in its name", "images: b is none",
		"containerd and runc come from two sides", "d.tar.gz needs files and checksums", "other is none of the binaries", "is no .tar.gz, and has no runc in it"} {
		g.Expect(err.Error()).To(ContainSubstring(want))
	}
}

func TestFingerprintFollowsWhatIsBuilt(t *testing.T) {
	g := NewWithT(t)
	modules := helloModules()
	known, err := loadKnowledge(modules)
	g.Expect(err).NotTo(HaveOccurred())
	recipes := known.recipes
	of := func(r recipe, modules fstest.MapFS, goVersion, arch string) string {
		f, err := r.fingerprint(modules, goVersion, arch)
		g.Expect(err).NotTo(HaveOccurred())
		return f
	}
	base := of(recipes[0], modules, "go1", "amd64")
	g.Expect(of(recipes[0], helloModules(), "go1", "amd64")).To(Equal(base))
	g.Expect(of(recipes[0], modules, "go2", "amd64")).NotTo(Equal(base))
	g.Expect(of(recipes[0], modules, "go1", "arm64")).NotTo(Equal(base))

	// A test beside a program is no part of it; the program is.
	modules["hello/main_test.go"] = &fstest.MapFile{Data: []byte("package main")}
	g.Expect(of(recipes[0], modules, "go1", "amd64")).To(Equal(base))
	modules["hello/main.go.in"] = &fstest.MapFile{Data: append([]byte("// other\n"), modules["hello/main.go.in"].Data...)}
	g.Expect(of(recipes[0], modules, "go1", "amd64")).NotTo(Equal(base))
	changed := recipes[0]
	changed.Version = "1.34.5"
	g.Expect(of(changed, helloModules(), "go1", "amd64")).NotTo(Equal(base))
}

// TestRecipeOfAVersion: a version without a recipe is as that of the next older
// minor, whatever the order of the files' names.
func TestRecipeOfAVersion(t *testing.T) {
	modules := helloModules()
	for _, version := range []string{"1.36.3", "1.100.2"} {
		minor := version[:strings.LastIndex(version, ".")]
		text := strings.NewReplacer("1.34.4", version, `"1.34"`, `"`+minor+`"`).Replace(string(modules["releases/kubeadm-1.34.yaml"].Data))
		modules["releases/kubeadm-"+minor+".yaml"] = &fstest.MapFile{Data: []byte(text)}
	}
	s := open(t, t.TempDir(), modules, Options{})
	for asked, want := range map[string]struct {
		version string
		found   bool
	}{
		"1.34": {"1.34.4", true}, "1.34.9": {"1.34.4", true}, "1.36.3": {"1.36.3", true}, "1.100": {"1.100.2", true},
		"1.33.1": {"1.34.4", false}, "1.35": {"1.34.4", false}, "1.35.9": {"1.34.4", false}, "1.99.0": {"1.36.3", false}, "1.101.0": {"1.100.2", false},
	} {
		r, found := s.recipe("kubeadm", asked)
		if r.Version != want.version || found != want.found {
			t.Errorf("%s: recipe %s, %t; want %s, %t", asked, r.Version, found, want.version, want.found)
		}
	}
	if r, found := s.recipe("k3s", "1.34"); found || r.Version != "" || len(r.Images) != 1 || len(r.Modules) != 1 {
		t.Errorf("k3s: recipe %+v", r)
	}
}

func TestCommandName(t *testing.T) {
	for pkg, want := range map[string]string{
		"k8s.io/kubernetes/cmd/kubelet": "kubelet",
		"go.etcd.io/etcd/server/v3":     "server",
		"example.test/v8engine":         "v8engine",
	} {
		if got := commandName(pkg); got != want {
			t.Errorf("commandName(%q) = %q, want %q", pkg, got, want)
		}
	}
}

// helloModules is a release in small: two commands of one module that print
// who they are, one image of upstream's and one of ours.
func helloModules() fstest.MapFS {
	const main = `package main

import "os"

var version = "unset"

func main() { os.Stdout.WriteString("NAME " + version + "\n") }
`
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		"releases/kubeadm-1.34.yaml": file(`
distro: kubeadm
minor: "1.34"
version: 1.34.4
modules:
- name: hello
  set: {main.version: v1.34.4}
  commands: {kubeadm: hello.test/hello, kubelet: hello.test/hello/other/v2}
binaries: [kubeadm, kubelet]
runtime: {containerd: os, runc: os}
images:
- {name: "registry.k8s.io/hello:v1.34.4", files: {/usr/local/bin/hello: kubeadm}, entrypoint: [/usr/local/bin/hello]}
`),
		"own.yaml": file(`
modules:
- name: own
  commands: {own: own.test/own}
images:
- {name: "lxcmatrix.dev/own:v1", own: true, files: {/own: own}, entrypoint: [/own], command: [serve]}
`),
		"upstreams/kubeadm.yaml": file(`
distro: kubeadm
folder: https://dl.k8s.io/release/v{version}/bin/linux/{arch}
checksums: "{file}.sha256"
newest: https://dl.k8s.io/release/stable-{minor}.txt
files: [{name: kubeadm, kind: binary}, {name: kubelet, kind: binary}]
images: [kubeadm, config, images, list, --kubernetes-version, "v{version}"]
`),
		"hello/go.mod.in":           file("module hello.test/hello\n\ngo 1.24.0\n"),
		"hello/main.go.in":          file(strings.Replace(main, "NAME", "kubeadm", 1)),
		"hello/other/v2/main.go.in": file(strings.Replace(main, "NAME", "kubelet", 1)),
		"own/go.mod.in":             file("module own.test/own\n\ngo 1.24.0\n"),
		"own/main.go.in":            file(strings.Replace(main, "NAME", "own", 1)),
	}
}
