package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	. "github.com/onsi/gomega"
	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func TestLoadOS(t *testing.T) {
	const el = "name: el\ninstall: dnf\npackages: [tar]\nruntime: {none: it has none}\nplugins: {packages: [cni]}\n"
	const own = "name: el\ninstall: dnf\npackages: [tar]\nruntime: {packages: [containerd]}\nplugins: {none: x}\n"
	const one = "name: el/10\nfamily: el\n"
	family := Family{Name: "el", Install: "dnf", Packages: []string{"tar"}, Runtime: Packaged{None: "it has none"}, Plugins: Packaged{Packages: []string{"cni"}}}
	for name, c := range map[string]struct {
		files map[string]string
		want  []OS
		err   string
	}{
		"none": {nil, nil, ""},
		"two, by file name": {map[string]string{"families/el.yaml": el, "b.yaml": one, "a.yaml": "name: el/11\nfamily: el\nserver: el/11\n", "README.md": "no: os"},
			[]OS{{Name: "el/11", Server: "el/11", Family: family, Runtime: family.Runtime}, {Name: "el/10", Family: family, Runtime: family.Runtime}}, ""},
		"everything": {map[string]string{"families/el.yaml": el + "base: {files: [{path: /x, content: y, mode: 0o600}], links: {/a: /b}}\n",
			"a.yaml": one + "runtime: {packages: [runc]}\nmmdebstrap: {suite: trixie, variant: minbase, packages: [dbus], customize: ['true']}\n"},
			[]OS{{Name: "el/10", Family: Family{Name: "el", Install: "dnf", Packages: []string{"tar"}, Runtime: family.Runtime, Plugins: family.Plugins,
				Base: Base{Files: []provisioner.File{{Path: "/x", Content: "y", Mode: 0o600}}, Links: map[string]string{"/a": "/b"}}},
				Runtime:    Packaged{Packages: []string{"runc"}},
				Mmdebstrap: &Mmdebstrap{Suite: "trixie", Variant: "minbase", Packages: []string{"dbus"}, Customize: []string{"true"}}}}, ""},
		"twice":                    {map[string]string{"families/el.yaml": el, "a.yaml": one, "b.yaml": one}, nil, "read node OS b.yaml: el/10 is there twice"},
		"a family twice":           {map[string]string{"families/a.yaml": el, "families/b.yaml": own}, nil, "read node OS b.yaml: el is there twice"},
		"no name":                  {map[string]string{"families/el.yaml": el, "a.yaml": "family: el\n"}, nil, "wants a name, and a family"},
		"no such family":           {map[string]string{"a.yaml": one}, nil, "wants a name, and a family"},
		"a family without its way": {map[string]string{"families/el.yaml": "name: el\npackages: [tar]\nruntime: {none: x}\n"}, nil, "a way to install"},
		"a family without runtime": {map[string]string{"families/el.yaml": "name: el\ninstall: x\npackages: [tar]\nplugins: {none: x}\n"}, nil, "a runtime and plugins, or why there are none"},
		"a family without plugins": {map[string]string{"families/el.yaml": "name: el\ninstall: x\npackages: [tar]\nruntime: {none: x}\n"}, nil, "a runtime and plugins, or why there are none"},
		"a runtime and none":       {map[string]string{"families/el.yaml": own, "a.yaml": one + "runtime: {packages: [runc], none: x}\n"}, nil, "packages, or why there are none"},
		"unknown field":            {map[string]string{"families/el.yaml": el, "a.yaml": one + "pakages: []\n"}, nil, "pakages"},
		"no YAML":                  {map[string]string{"a.yaml": "name: ["}, nil, "read node OS a.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			files := fstest.MapFS{}
			for path, text := range c.files {
				files[path] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := LoadOS(files)
			if c.err != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.err)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(c.want))
		})
	}
}

// TestEmbeddedOSes: what is built in is whole, and each is named by its file.
func TestEmbeddedOSes(t *testing.T) {
	g := NewWithT(t)
	all, err := LoadOS(fixtures.OS())
	g.Expect(err).NotTo(HaveOccurred())
	names := map[string]OS{}
	for _, o := range all {
		names[o.Name] = o
		g.Expect(fs.Stat(fixtures.OS(), strings.ToLower(matrix.OS{Name: o.Name}.String())+".yaml")).Error().NotTo(HaveOccurred())
		g.Expect(o.Server).To(Or(BeEmpty(), Equal(o.Name)))
		for _, f := range o.Family.Base.Files {
			g.Expect(path.IsAbs(f.Path)).To(BeTrue(), f.Path)
		}
	}
	for _, name := range []string{"almalinux/10", "rockylinux/10", "centos/10-Stream", "oracle/10", "rhel/10"} {
		g.Expect(names).To(HaveKeyWithValue(name, And(HaveField("Family.Name", "el"), HaveField("Runtime.Packages", BeEmpty()))))
	}
	g.Expect(names["rhel/10"].Server).To(BeEmpty(), "no server has it")
	for _, name := range []string{"debian/11", "debian/12", "debian/13"} {
		g.Expect(names).To(HaveKeyWithValue(name, And(HaveField("Family.Name", "debian"), HaveField("Mmdebstrap", Not(BeNil())))))
	}
	g.Expect(names["debian/11"].Runtime.None).NotTo(BeEmpty())
	g.Expect(names["debian/13"].Runtime.Packages).To(ContainElements("containerd", "runc"))
}

// TestResolve: what cannot be had is told when it is planned, and the image
// server is asked only where nothing else has the image.
func TestResolve(t *testing.T) {
	const asked = "https://127.0.0.1:1" // where nobody listens
	family := Family{Name: "el"}
	none := Packaged{None: "it packages no containerd"}
	bootstrap := &Mmdebstrap{Suite: "trixie"}
	for name, c := range map[string]struct {
		os      OS
		brings  Brings
		sources []string
		made    string
		want    matrix.Input
		err     string
	}{
		"mmdebstrap after a server that is not asked": {os: OS{Name: "x/1", Server: "x/1", Mmdebstrap: bootstrap}, sources: []string{SourceServer, SourceMmdebstrap},
			want: matrix.Input{Kind: "image", Name: "x/1", Source: "server, else mmdebstrap"}},
		"a server that does not answer": {os: OS{Name: "x/1", Server: "x/one"}, sources: []string{SourceServer, SourceMmdebstrap},
			err: "image x/1 cannot be had: server: ask " + asked + " for x/one: "},
		"what was made here before": {os: OS{Name: "x/1", Server: "x/one"}, sources: []string{SourceServer}, made: "prepared/x/1/kubeadm-1.36.3/0123",
			want: matrix.Input{Kind: "image", Name: "x/1", Source: "server"}},
		"no source": {os: OS{Name: "x/1", Family: family}, sources: []string{SourceServer, SourceMmdebstrap},
			err: "image x/1 cannot be had: none of the sources server, mmdebstrap has it; to bring one of your own: lxcmatrix image import x/1 FILE"},
		"a source that is not wanted": {os: OS{Name: "x/1", Server: "x/1"}, sources: []string{SourceMmdebstrap}, err: "image x/1 cannot be had: none of the sources mmdebstrap has it"},
		"an imported one":             {os: OS{Name: "x/1", Server: "x/1"}, made: "imported/x/1", want: matrix.Input{Kind: "image", Name: "x/1", Source: "imported"}},
		"no runtime": {os: OS{Name: "x/1", Runtime: none}, made: "imported/x/1",
			err: "a container runtime for kubeadm 1.34.4 on x/1 cannot be had: it packages no containerd; take a release that brings its own"},
		"neither an image nor a runtime": {os: OS{Name: "x/1", Runtime: none}, err: "image x/1 cannot be had: none of the sources  has it; " +
			"to bring one of your own: lxcmatrix image import x/1 FILE; a container runtime for kubeadm 1.34.4 on x/1 cannot be had: it packages"},
		"no plugins": {os: OS{Name: "x/1", Family: Family{Plugins: none}}, brings: Brings{Runtime: true}, made: "imported/x/1",
			err: "CNI plugins for kubeadm 1.34.4 on x/1 cannot be had: it packages no containerd; take a release that brings its own"},
		"no need of a runtime": {os: OS{Name: "x/1", Runtime: none}, brings: Brings{Runtime: true, Plugins: true}, made: "imported/x/1", want: matrix.Input{Kind: "image", Name: "x/1", Source: "imported"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			packed(t, `exec cat > "$target"`)
			s := Store{CacheDir: t.TempDir(), Sources: c.sources, OSes: []OS{c.os}, images: imageServer{url: asked}}
			if c.made != "" {
				p, err := Files{Dir: FilesDir(s.CacheDir)}.add(t.Context(), Prepared{Name: c.made, OS: "x/1"}, func(io.Writer) error { return nil })
				g.Expect(err).NotTo(HaveOccurred())
				if c.want.Source == SourceImported {
					c.want.Digest = p.Fingerprint
				}
			}
			got, err := s.Resolve(t.Context(), "x/1", matrix.Distro{Name: "kubeadm", Version: "1.34.4"}, c.brings)
			if c.err == "" {
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(got).To(Equal(c.want))
				return
			}
			var unavailable *provisioner.UnavailableError
			g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
			g.Expect(err).To(MatchError(HavePrefix(c.err)))
		})
	}
}

// TestSilentServer: a server that does not answer is asked once, whatever is
// wanted of it.
func TestSilentServer(t *testing.T) {
	g := NewWithT(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = listener.Close() }()
	s := imageServer{url: "https://" + listener.Addr().String(), patience: 100 * time.Millisecond}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	cancel(stopped)
	_, err = s.find(ctx, "x/1")
	g.Expect(err).To(MatchError(stopped))
	g.Expect(s.silent).NotTo(HaveOccurred(), "it was not given the time to answer")
	for _, alias := range []string{"x/1", "x/2", "x/1"} {
		_, err := s.find(t.Context(), alias)
		g.Expect(err).To(MatchError(And(HavePrefix("ask https://127.0.0.1:"), HaveSuffix("for "+alias+": no answer within 100ms"))))
	}
	g.Expect(s.seen).To(BeEmpty())
}

func TestUnknownOS(t *testing.T) {
	g := NewWithT(t)
	s := Store{OSes: []OS{{Name: "debian/12"}, {Name: "debian/13"}}}
	_, err := s.OS("el/10")
	var unavailable *provisioner.UnavailableError
	g.Expect(errors.As(err, &unavailable)).To(BeTrue())
	g.Expect(err).To(MatchError(And(ContainSubstring("el/10"), ContainSubstring("debian/12, debian/13"))))
	_, err = s.Prepare(t.Context(), "el/10", Content{})
	g.Expect(errors.As(err, &unavailable)).To(BeTrue())
}

// TestPreparedKey: an image is made anew when anything that goes in changes,
// and for no other reason.
func TestPreparedKey(t *testing.T) {
	type inputs struct {
		os       OS
		imported string
		content  Content
	}
	fresh := func() inputs {
		return inputs{OS{Name: "debian/13", Family: Family{Name: "debian", Install: "apt-get", Packages: []string{"socat"}, Plugins: Packaged{Packages: []string{"plugins"}}},
			Runtime: Packaged{Packages: []string{"containerd", "runc"}}}, "",
			Content{Name: "kubeadm", Version: "1.34.4",
				Binaries: []Blob{{Name: "kubelet", Path: "/cache/a", SHA256: "aa"}}, Archives: []Blob{{Name: "images.tar", Path: "/cache/b", SHA256: "bb"}},
				Files: []provisioner.File{{Path: "/etc/x", Content: "x"}}, Units: []provisioner.Unit{{Name: "kubelet.service", Content: "u", Enable: true}}}}
	}
	key := func(change func(*inputs)) string {
		in := fresh()
		change(&in)
		k, err := preparedKey(in.os, in.imported, in.content)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key(func(*inputs) {})
	seen := map[string]string{first: "nothing"}
	for what, change := range map[string]func(*inputs){
		"image server's name": func(in *inputs) { in.os.Server = "debian/13" },
		"mmdebstrap's recipe": func(in *inputs) { in.os.Mmdebstrap = &Mmdebstrap{Suite: "trixie"} },
		"imported image":      func(in *inputs) { in.imported = "cafe" },
		"way to install":      func(in *inputs) { in.os.Family.Install = "dnf" },
		"packages":            func(in *inputs) { in.os.Family.Packages = []string{"kmod"} },
		"OS's runtime":        func(in *inputs) { in.os.Runtime.Packages = []string{"containerd"} },
		"OS's plugins":        func(in *inputs) { in.os.Family.Plugins.Packages = []string{"other-plugins"} },
		"own plugins":         func(in *inputs) { in.content.Brings.Plugins = true },
		"own runtime":         func(in *inputs) { in.content.Brings.Runtime = true },
		"binary's name":       func(in *inputs) { in.content.Binaries[0].Name = "kubectl" },
		"binary's bytes":      func(in *inputs) { in.content.Binaries[0].SHA256 = "ab" },
		"one binary more": func(in *inputs) {
			in.content.Binaries = append(in.content.Binaries, Blob{Name: "kubeadm", SHA256: "cc"})
		},
		"archive's bytes":  func(in *inputs) { in.content.Archives[0].SHA256 = "ba" },
		"archive's name":   func(in *inputs) { in.content.Archives[0].Name = "more.tar" },
		"binary, archive":  func(in *inputs) { in.content.Binaries, in.content.Archives = in.content.Archives, in.content.Binaries },
		"file's path":      func(in *inputs) { in.content.Files[0].Path = "/etc/y" },
		"file's content":   func(in *inputs) { in.content.Files[0].Content = "y" },
		"file's mode":      func(in *inputs) { in.content.Files[0].Mode = 0o600 },
		"unit's name":      func(in *inputs) { in.content.Units[0].Name = "other.service" },
		"unit's content":   func(in *inputs) { in.content.Units[0].Content = "v" },
		"unit not enabled": func(in *inputs) { in.content.Units[0].Enable = false },
		"bundle":           func(in *inputs) { in.content.Bundles = []Blob{{Name: "rke2.tar.gz", SHA256: "aa"}} },
		"bundle's bytes":   func(in *inputs) { in.content.Bundles = []Blob{{Name: "rke2.tar.gz", SHA256: "ab"}} },
		"kept file":        func(in *inputs) { in.content.Kept = []Kept{{Blob: Blob{SHA256: "aa"}, Target: "/x"}} },
		"kept file's path": func(in *inputs) { in.content.Kept = []Kept{{Blob: Blob{SHA256: "aa"}, Target: "/y"}} },
		"kept bytes":       func(in *inputs) { in.content.Kept = []Kept{{Blob: Blob{SHA256: "ab"}, Target: "/x"}} },
		"kept program":     func(in *inputs) { in.content.Kept = []Kept{{Blob: Blob{SHA256: "aa"}, Target: "/x", Program: true}} },
		"link":             func(in *inputs) { in.content.Links = map[string]string{"/x": "y"} },
		"link's target":    func(in *inputs) { in.content.Links = map[string]string{"/x": "z"} },
	} {
		k := key(change)
		if other, there := seen[k]; there {
			t.Errorf("%s gives the same key as %s", what, other)
		}
		seen[k] = what
	}
	for what, change := range map[string]func(*inputs){
		"where a file lies in the cache": func(in *inputs) { in.content.Binaries[0].Path, in.content.Archives[0].Path = "/else", "/where" },
	} {
		if key(change) != first {
			t.Errorf("%s changes the key", what)
		}
	}
}

func TestMetadata(t *testing.T) {
	g := NewWithT(t)
	var written bytes.Buffer
	g.Expect(about{}.describing("debian/13", SourceMmdebstrap).write(tar.NewWriter(&written))).To(Succeed())
	archive := tar.NewReader(&written)
	h, err := archive.Next()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(h.Name).To(Equal("metadata.yaml"))
	text, err := io.ReadAll(archive)
	g.Expect(err).NotTo(HaveOccurred())
	var metadata struct {
		Architecture string            `yaml:"architecture"`
		Created      int64             `yaml:"creation_date"`
		Properties   map[string]string `yaml:"properties"`
	}
	g.Expect(yaml.Load(text, &metadata, yaml.WithKnownFields())).To(Succeed())
	g.Expect(metadata.Architecture).To(Equal(here().incus))
	g.Expect(metadata.Created).To(BeNumerically(">", 0))
	g.Expect(metadata.Properties).To(And(HaveKeyWithValue("os", "debian/13"), HaveKeyWithValue("source", SourceMmdebstrap)))
}
