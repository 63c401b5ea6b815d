package artifact

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/Masterminds/semver/v3"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// rancherModules is helloModules with k3s and RKE2 as they really are.
func rancherModules(t *testing.T) fstest.MapFS {
	t.Helper()
	modules := helloModules()
	for _, name := range []string{"upstreams/k3s.yaml", "upstreams/rke2.yaml"} {
		text, err := fs.ReadFile(fixtures.Modules(), name)
		if err != nil {
			t.Fatal(err)
		}
		modules[name] = &fstest.MapFile{Data: text}
	}
	return modules
}

const (
	k3sReleases  = "github.com/k3s-io/k3s/releases/download/"
	rke2Releases = "github.com/rancher/rke2/releases/download/"
	k3sChannels  = "update.k3s.io/v1-release/channels"
	rke2Channels = "update.rke2.io/v1-release/channels"
)

// rancherFiles are the names of a release's files upstream.
func rancherFiles(distro string) []string {
	arch := runtime.GOARCH
	if distro == "k3s" {
		return []string{map[string]string{"amd64": "k3s", "arm64": "k3s-arm64"}[arch], "k3s-airgap-images-" + arch + ".tar.zst"}
	}
	names := []string{"rke2.linux-" + arch + ".tar.gz"}
	for _, images := range []string{"core", "canal", "cilium"} {
		names = append(names, "rke2-images-"+images+".linux-"+arch+".tar.zst")
	}
	return names
}

// contentOf is what a file of a release has in it: its own name or, where it is
// an archive of images, one of that name.
func contentOf(distro, version, name string) string {
	text := distro + " " + version + " " + name
	if !strings.HasSuffix(name, ".tar.zst") {
		return text
	}
	list := fmt.Sprintf(`[{"RepoTags": ["example.test/%x:v1"]}]`, text)
	var b strings.Builder
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o644, Size: int64(len(list))}); err != nil {
		panic(err)
	}
	if _, err := io.WriteString(w, list); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

// layRancher lays out a release as upstream does.
func layRancher(t *testing.T, dir, distro, version string) {
	t.Helper()
	folder := map[string]string{"k3s": k3sReleases, "rke2": rke2Releases}[distro] + "v" + version + "/"
	files := map[string]string{}
	sums := ""
	for _, name := range rancherFiles(distro) {
		files[name] = contentOf(distro, version, name)
		sums += fmt.Sprintf("%s  %s\n", sumOf(files[name]), name)
	}
	files["sha256sum-"+runtime.GOARCH+".txt"] = sums
	for name, content := range files {
		write(t, filepath.Join(dir, folder, name), content)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// channels is a channel server's document, with what is in a real one.
func channels(latest ...string) string {
	var data []string
	for i := 0; i < len(latest); i += 2 {
		data = append(data, fmt.Sprintf(`{"id": %[1]q, "type": "channel", "links": {"self": "https://update/%[1]s"}, "name": %[1]q, "latest": %[2]q, "latestRegexp": ".*"}`, latest[i], latest[i+1]))
	}
	return `{"type": "collection", "links": {}, "actions": {}, "resourceType": "channels", "data": [` + strings.Join(data, ",") + `]}`
}

// asServer is a mirror on a local HTTP server over a folder.
func asServer(t *testing.T, dir string) string {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL
}

// TestPullRancher: k3s and RKE2 from each kind of mirror, with the parts that
// are wanted.
func TestPullRancher(t *testing.T) {
	dir := t.TempDir()
	layRancher(t, dir, "k3s", "1.34.2+k3s1")
	layRancher(t, dir, "rke2", "1.34.2+rke2r1")
	server := asServer(t, dir)
	arch := runtime.GOARCH
	for _, c := range []struct {
		mirror string
		wanted Request
		files  map[string]string // kind by name
		parts  string
	}{
		{server, Request{Distro: "k3s", Version: "v1.34.2+k3s1"},
			map[string]string{"k3s": KindBinary, "k3s-airgap-images-" + arch + ".tar.zst": KindAirgap, ImagesName: KindImages}, ""},
		{dir, Request{Distro: "rke2", Version: "1.34.2+rke2r1"},
			map[string]string{"rke2.linux-" + arch + ".tar.gz": KindBundle, "rke2-images-core.linux-" + arch + ".tar.zst": KindAirgap,
				"rke2-images-canal.linux-" + arch + ".tar.zst": KindAirgap, ImagesName: KindImages}, "canal"},
		{"file://" + dir, Request{Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{"cilium"}},
			map[string]string{"rke2.linux-" + arch + ".tar.gz": KindBundle, "rke2-images-core.linux-" + arch + ".tar.zst": KindAirgap,
				"rke2-images-cilium.linux-" + arch + ".tar.zst": KindAirgap, ImagesName: KindImages}, "cilium"},
		{dir, Request{Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{PartNone}},
			map[string]string{"rke2.linux-" + arch + ".tar.gz": KindBundle, "rke2-images-core.linux-" + arch + ".tar.zst": KindAirgap, ImagesName: KindImages}, PartNone},
	} {
		t.Run(c.wanted.String(), func(t *testing.T) {
			g := NewWithT(t)
			cacheDir := t.TempDir()
			s := open(t, cacheDir, rancherModules(t), Options{Sources: []string{SourceCache, SourceMirror}, Mirror: c.mirror})
			_, inputs, err := s.Resolve(t.Context(), c.wanted)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(inputs).To(HaveLen(len(c.files)))
			g.Expect(inputs[len(inputs)-1]).To(Equal(matrix.Input{Kind: "artifact", Name: c.wanted.Distro + "/" + ImagesName,
				Version: strings.TrimPrefix(c.wanted.Version, "v"), Source: SourceBuild, Provenance: ProvenanceBuilt}))

			release, err := s.Ensure(t.Context(), c.wanted)
			g.Expect(err).NotTo(HaveOccurred())
			got := map[string]string{}
			for _, f := range release.Files {
				got[f.Name] = f.Kind
				if f.Kind != KindImages {
					g.Expect(os.ReadFile(f.Path)).To(BeEquivalentTo(contentOf(c.wanted.Distro, release.Version, f.Name)))
				}
			}
			g.Expect(got).To(Equal(c.files))
			g.Expect(release.OwnRuntime()).To(BeTrue())
			g.Expect(release.Version).To(HavePrefix("1.34.2+"))
			g.Expect(strings.Join(release.Parts, " ")).To(Equal(c.parts))
			archive, _ := release.File(ImagesName)
			g.Expect(archive.Images).To(HaveExactElements(HaveField("Name", "lxcmatrix.dev/own:v1")))

			again := open(t, cacheDir, rancherModules(t), Options{Sources: []string{SourceCache, SourceMirror}, Mirror: "/nonexistent"})
			g.Expect(again.Ensure(t.Context(), c.wanted)).To(Equal(release))
			left, err := filepath.Glob(filepath.Join(cacheDir, "artifacts", "parts", "*"))
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(left).To(BeEmpty())
		})
	}
}

// TestPartsShareFiles: what two variants have in common is had once.
func TestPartsShareFiles(t *testing.T) {
	g := NewWithT(t)
	dir, seen := t.TempDir(), &steps{}
	layRancher(t, dir, "rke2", "1.34.2+rke2r1")
	s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceCache, SourceMirror}, Mirror: dir, Progress: seen})
	for _, p := range []string{"canal", "cilium"} {
		_, err := s.Ensure(t.Context(), Request{Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{p}})
		g.Expect(err).NotTo(HaveOccurred())
	}
	g.Expect(seen.count("download ")).To(Equal(4))
	g.Expect(s.Parts("rke2", []string{"sqlite", "cilium"})).To(Equal([]string{"cilium"}))
	g.Expect(s.Parts("rke2", []string{"sqlite", "bridge"})).To(Equal([]string{PartNone}))
	g.Expect(s.Parts("k3s", []string{"bridge"})).To(BeEmpty())
	_, err := s.Ensure(t.Context(), Request{Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{"weave"}})
	g.Expect(err).To(MatchError(ContainSubstring(`rke2 has no part "weave"; it has canal, calico, cilium, flannel`)))
	_, err = s.Ensure(t.Context(), Request{Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{PartNone, "canal"}})
	g.Expect(err).To(MatchError(ContainSubstring(`rke2 has no part "none"`)))
	_, _, err = s.Resolve(t.Context(), Request{Distro: "k3s", Version: "1.34.2+k3s1", Parts: []string{PartNone}})
	g.Expect(err).To(MatchError(ContainSubstring(`k3s has no part "none"; it has none`)))
	_, _, err = s.Resolve(t.Context(), Request{Distro: "k3s", Version: "1.34.2+k3s1", Parts: []string{"canal"}})
	g.Expect(err).To(MatchError(ContainSubstring(`k3s has no part "canal"; it has none`)))
}

// TestDamagedRancherMirror: what is missing or wrong is named, with where it was
// looked for, and nothing is left of the rest.
func TestDamagedRancherMirror(t *testing.T) {
	core := rancherFiles("rke2")[1]
	for name, c := range map[string]struct {
		damage  func(path string) error
		file    string
		want    string
		refused bool
	}{
		"one file is not there": {os.Remove, core, core + ": 404 Not Found", false},
		"one file is other":     {overwrite, core, core + ") is refused: its SHA-256 is " + sumOf("something else") + ", want " + sumOf(contentOf("rke2", "1.34.2+rke2r1", core)), true},
		"no checksums":          {os.Remove, "sha256sum-" + runtime.GOARCH + ".txt", "sha256sum-" + runtime.GOARCH + ".txt: 404 Not Found", false},
		"checksums of others":   {overwrite, "sha256sum-" + runtime.GOARCH + ".txt", "it has no SHA-256 of rke2.linux-", false},
	} {
		for _, kind := range []string{"folder", "server"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				g := NewWithT(t)
				dir := t.TempDir()
				layRancher(t, dir, "rke2", "1.34.2+rke2r1")
				at := rke2Releases + "v1.34.2+rke2r1/" + c.file
				g.Expect(c.damage(filepath.Join(dir, at))).To(Succeed())
				mirror := dir
				if kind == "server" {
					mirror, at = asServer(t, dir), strings.ReplaceAll(at, "+", "%2B")
				}
				s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceCache, SourceMirror}, Mirror: mirror})
				wanted := Request{Distro: "rke2", Version: "1.34.2+rke2r1"}
				_, err := s.Ensure(t.Context(), wanted)
				named := MatchError(And(ContainSubstring(c.want), ContainSubstring(mirror+"/"+at)))
				g.Expect(err).To(named)
				var refused *ChecksumError
				g.Expect(errors.As(err, &refused)).To(Equal(c.refused))
				g.Expect(s.List()).To(BeEmpty())
				g.Expect(filepath.Glob(s.cache.part("*"))).To(BeEmpty())
				// What is missing is known before it is had; what is other, only then.
				_, _, err = s.Resolve(t.Context(), wanted)
				if c.refused {
					g.Expect(refused.Remedy).To(MatchRegexp(`^as .*sha256sum-.*\.txt says: get both anew$`))
					g.Expect(err).NotTo(HaveOccurred())
				} else {
					g.Expect(err).To(named)
				}
			})
		}
	}
}

// TestResolveChannels: what a channel and a minor are, by whom, and what is said
// where nobody knows.
func TestResolveChannels(t *testing.T) {
	for name, c := range map[string]struct {
		present  []string // versions of k3s that lie in the mirror
		document string   // of the channel server; empty: none
		server   bool     // the mirror is one, and cannot be listed
		version  string
		exact    string
		want     string // of the error
	}{
		"a channel":                 {present: []string{"1.33.9+k3s1"}, document: channels("stable", "v1.33.9+k3s1", "latest", "v1.34.2+k3s1"), version: "stable", exact: "1.33.9+k3s1"},
		"a minor's channel":         {present: []string{"1.34.2+k3s2"}, document: channels("stable", "v1.33.9+k3s1", "v1.34", "v1.34.2+k3s2"), version: "v1.34", exact: "1.34.2+k3s2"},
		"a channel, from a server":  {present: []string{"1.33.9+k3s1"}, document: channels("stable", "v1.33.9+k3s1"), server: true, version: "stable", exact: "1.33.9+k3s1"},
		"no document, newest":       {present: []string{"1.33.9+k3s1", "1.34.10+k3s1", "1.34.9+k3s3", "1.35.0-rc1+k3s1"}, version: "stable", exact: "1.34.10+k3s1"},
		"no document, of a minor":   {present: []string{"1.33.9+k3s1", "1.33.9+k3s10", "1.33.9+k3s9", "1.34.1+k3s1"}, version: "1.33", exact: "1.33.9+k3s10"},
		"no document, odd folders":  {present: []string{"1.34.1", "1.34.9+rke2r1", "latest", "1.34.0+k3s1"}, version: "latest", exact: "1.34.0+k3s1"},
		"no document, not listable": {present: []string{"1.34.2+k3s1"}, server: true, version: "stable", want: "/update.k3s.io/v1-release/channels: 404 Not Found"},
		"no document, odd channel":  {present: []string{"1.34.2+k3s1"}, version: "testing", want: "cannot tell what channel testing is"},
		"nothing there":             {version: "1.34", want: "github.com/k3s-io/k3s/releases/download has no version of 1.34"},
		"no such channel":           {present: []string{"1.34.2+k3s1"}, document: channels("stable", "v1.34.2+k3s1"), version: "v1.35", want: "has no channel v1.35; it has stable"},
		"an empty channel":          {document: channels("testing", ""), version: "testing", want: "names no version for channel testing"},
		"another's minor":           {document: channels("v1.34", "v1.35.1+k3s1"), version: "1.34", want: "names 1.35.1+k3s1 for 1.34"},
		"another's version":         {document: channels("stable", "v1.35.1+rke2r1"), version: "stable", want: `"1.35.1+rke2r1" is no version of k3s`},
		"no version":                {document: channels("stable", "https://github.com"), version: "stable", want: "is no exact version"},
		"a page":                    {document: "<html>", version: "stable", want: "is no document of a channel server"},
		"another document":          {document: `{"channels": []}`, version: "stable", want: "is no document of a channel server: it has no data"},
		"cut off":                   {document: channels("stable", "v1.34.2+k3s1")[:80], version: "stable", want: "is no document of a channel server"},
		"a channel twice":           {document: channels("stable", "v1.34.2+k3s1", "stable", "v1.34.3+k3s1"), version: "stable", want: `a channel "stable" is there without a name, or twice`},
		"a channel without a name":  {document: `{"data": [{"latest": "v1.34.2+k3s1"}]}`, version: "stable", want: "without a name"},
		"a name alone, an ID alone": {present: []string{"1.34.2+k3s1"}, document: `{"data": [{"id": "stable", "latest": "v1.34.2+k3s1"}, {"name": "x", "latest": 7.5}]}`, version: "stable", want: "is no document"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			dir := t.TempDir()
			for _, v := range c.present {
				layRancher(t, dir, "k3s", v)
			}
			if c.document != "" {
				write(t, filepath.Join(dir, k3sChannels), c.document)
			}
			mirror := dir
			if c.server {
				mirror = asServer(t, dir)
			}
			s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceMirror}, Mirror: mirror})
			exact, inputs, err := s.Resolve(t.Context(), Request{Distro: "k3s", Version: c.version})
			if c.want != "" {
				var unavailable *provisioner.UnavailableError
				g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
				g.Expect(err).To(MatchError(And(ContainSubstring(c.want), ContainSubstring("update.k3s.io/v1-release/channels"))))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(exact).To(Equal(c.exact))
			g.Expect(inputs[0]).To(Equal(matrix.Input{Kind: "artifact", Name: "k3s/" + rancherFiles("k3s")[0], Version: c.exact,
				Digest: sumOf("k3s " + c.exact + " " + rancherFiles("k3s")[0]), Source: SourceMirror, Provenance: ProvenanceRelease}))
			// A release that comes out meanwhile does not divide the plan.
			layRancher(t, dir, "k3s", "1.34.99+k3s1")
			g.Expect(os.RemoveAll(filepath.Join(dir, k3sChannels))).To(Succeed())
			exact, _, err = s.Resolve(t.Context(), Request{Distro: "k3s", Version: c.version})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(exact).To(Equal(c.exact))
		})
	}
}

func TestVersionsOfDistributions(t *testing.T) {
	s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceCache}})
	for _, c := range []struct{ distro, version, want string }{
		{"k3s", "1.34.2", "written as 1.34.2+k3s1"},
		{"k3s", "1.34.2+rke2r1", "written as 1.34.2+k3s1"},
		{"rke2", "1.34.2+rke2", "written as 1.34.2+rke2r1"},
		{"kubeadm", "1.34.2+k3s1", "written as 1.34.2"},
		{"kubeadm", "stable", "kubeadm has no channels"},
		{"k3s", "1.34.2.1", "is no exact version"},
	} {
		_, _, err := s.Resolve(t.Context(), Request{Distro: c.distro, Version: c.version})
		var unavailable *provisioner.UnavailableError
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &unavailable) {
			t.Errorf("%s@%s: %v; want %q", c.distro, c.version, err, c.want)
		}
	}
	versions := []string{"1.34.2+rke2r9", "1.34.2+rke2r10", "1.34.10+rke2r1", "1.34.2-rc1+rke2r11", "1.34.2+rke2r2"}
	slices.SortFunc(versions, func(a, b string) int {
		if newer(semver.MustParse(a), semver.MustParse(b)) {
			return 1
		}
		return -1
	})
	want := []string{"1.34.2-rc1+rke2r11", "1.34.2+rke2r2", "1.34.2+rke2r9", "1.34.2+rke2r10", "1.34.10+rke2r1"}
	if !slices.Equal(versions, want) {
		t.Errorf("%q", versions)
	}
}

// TestArm64: upstream calls k3s' binary otherwise there, a node does not.
func TestArm64(t *testing.T) {
	g := NewWithT(t)
	known, err := loadKnowledge(fixtures.Modules())
	g.Expect(err).NotTo(HaveOccurred())
	of := func(distro, version, arch string, parts ...string) map[string]string {
		urls := map[string]string{}
		for _, d := range known.upstreams[distro].downloads(Request{Distro: distro, Version: version, Parts: parts}, arch) {
			urls[d.Names[0]] = d.URL + " " + filepath.Base(d.Checksums)
		}
		return urls
	}
	const k3s, rke2 = "https://github.com/k3s-io/k3s/releases/download/v1.34.2%2Bk3s1/", "https://github.com/rancher/rke2/releases/download/v1.34.2%2Brke2r1/"
	g.Expect(of("k3s", "1.34.2+k3s1", "amd64")).To(Equal(map[string]string{"k3s": k3s + "k3s sha256sum-amd64.txt",
		"k3s-airgap-images-amd64.tar.zst": k3s + "k3s-airgap-images-amd64.tar.zst sha256sum-amd64.txt"}))
	g.Expect(of("k3s", "1.34.2+k3s1", "arm64")).To(HaveKeyWithValue("k3s", k3s+"k3s-arm64 sha256sum-arm64.txt"))
	g.Expect(of("rke2", "1.34.2+rke2r1", "arm64", "calico", "flannel")).To(Equal(map[string]string{
		"rke2.linux-arm64.tar.gz":                 rke2 + "rke2.linux-arm64.tar.gz sha256sum-arm64.txt",
		"rke2-images-core.linux-arm64.tar.zst":    rke2 + "rke2-images-core.linux-arm64.tar.zst sha256sum-arm64.txt",
		"rke2-images-calico.linux-arm64.tar.zst":  rke2 + "rke2-images-calico.linux-arm64.tar.zst sha256sum-arm64.txt",
		"rke2-images-flannel.linux-arm64.tar.zst": rke2 + "rke2-images-flannel.linux-arm64.tar.zst sha256sum-arm64.txt"}))
	g.Expect(slices.Collect(maps.Values(of("kubeadm", "1.34.4", "amd64")))).To(ContainElement("https://dl.k8s.io/release/v1.34.4/bin/linux/amd64/kubelet kubelet.sha256"))
}
