package image

import (
	"archive/tar"
	"errors"
	"io"
	"testing"
	"testing/fstest"

	. "github.com/onsi/gomega"
	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func TestLoadOS(t *testing.T) {
	const whole = "name: debian/13\nfamily: debian\npackages: [socat]\nruntime: [containerd]\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  []OS
		err   string
	}{
		"none": {nil, nil, ""},
		"two, by file name": {map[string]string{"b.yaml": "name: debian/12\npackages: [kmod]\nruntime: [runc]\n", "a.yaml": whole, "README.md": "no: os"},
			[]OS{{Name: "debian/13", Family: "debian", Packages: []string{"socat"}, Runtime: []string{"containerd"}}, {Name: "debian/12", Packages: []string{"kmod"}, Runtime: []string{"runc"}}}, ""},
		"everything": {map[string]string{"a.yaml": whole + "server: debian/13\nmmdebstrap: {suite: trixie, variant: minbase, packages: [dbus], customize: ['true']}\n"},
			[]OS{{Name: "debian/13", Family: "debian", Packages: []string{"socat"}, Runtime: []string{"containerd"}, Server: "debian/13",
				Mmdebstrap: &Mmdebstrap{Suite: "trixie", Variant: "minbase", Packages: []string{"dbus"}, Customize: []string{"true"}}}}, ""},
		"twice":         {map[string]string{"a.yaml": whole, "b.yaml": whole}, nil, "read node OS b.yaml: debian/13 is there twice"},
		"no name":       {map[string]string{"a.yaml": "packages: [x]\nruntime: [y]\n"}, nil, "wants a name, packages and a runtime"},
		"no packages":   {map[string]string{"a.yaml": "name: x/1\nruntime: [y]\n"}, nil, "wants a name, packages and a runtime"},
		"no runtime":    {map[string]string{"a.yaml": "name: x/1\npackages: [x]\n"}, nil, "wants a name, packages and a runtime"},
		"unknown field": {map[string]string{"a.yaml": whole + "pakages: []\n"}, nil, "pakages"},
		"no YAML":       {map[string]string{"a.yaml": "name: ["}, nil, "read node OS a.yaml"},
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

// TestEmbeddedOSes: every OS that is built in can be made somehow, and its
// packages installed.
func TestEmbeddedOSes(t *testing.T) {
	g := NewWithT(t)
	all, err := LoadOS(fixtures.OS())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(all).NotTo(BeEmpty())
	for _, o := range all {
		g.Expect(installers).To(HaveKey(o.Family), o.Name)
		g.Expect(o.Server != "" || o.Mmdebstrap != nil).To(BeTrue(), o.Name)
	}
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
		os      OS
		content Content
	}
	fresh := func() inputs {
		return inputs{OS{Name: "debian/13", Family: "debian", Packages: []string{"socat"}, Runtime: []string{"containerd", "runc"}},
			Content{Name: "kubeadm", Version: "1.34.4",
				Binaries: []Blob{{Name: "kubelet", Path: "/cache/a", SHA256: "aa"}}, Archives: []Blob{{Name: "images.tar", Path: "/cache/b", SHA256: "bb"}},
				Files: []provisioner.File{{Path: "/etc/x", Content: "x"}}, Units: []provisioner.Unit{{Name: "kubelet.service", Content: "u", Enable: true}}}}
	}
	key := func(change func(*inputs)) string {
		in := fresh()
		change(&in)
		k, err := preparedKey(in.os, in.content)
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
		"family":              func(in *inputs) { in.os.Family = "el" },
		"packages":            func(in *inputs) { in.os.Packages = []string{"kmod"} },
		"OS's runtime":        func(in *inputs) { in.os.Runtime = []string{"containerd"} },
		"own runtime":         func(in *inputs) { in.content.Runtime = true },
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
		"kept file":        func(in *inputs) { in.content.Kept = []Kept{{Blob{SHA256: "aa"}, "/x"}} },
		"kept file's path": func(in *inputs) { in.content.Kept = []Kept{{Blob{SHA256: "aa"}, "/y"}} },
		"kept bytes":       func(in *inputs) { in.content.Kept = []Kept{{Blob{SHA256: "ab"}, "/x"}} },
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
	r, err := metadataTar(OS{Name: "debian/13"})
	g.Expect(err).NotTo(HaveOccurred())
	archive := tar.NewReader(r)
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
	g.Expect(metadata.Architecture).To(Equal("x86_64"))
	g.Expect(metadata.Created).To(BeNumerically(">", 0))
	g.Expect(metadata.Properties).To(HaveKeyWithValue("os", "debian/13"))
}
