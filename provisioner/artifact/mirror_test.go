package artifact

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/gomega"
)

// everything is what lies under a folder, by path, with content.
func everything(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLay: what is laid out of a mirror is one, on a server too, without a
// listing; doing it again asks for no file again.
func TestLay(t *testing.T) {
	g := NewWithT(t)
	from, to := t.TempDir(), t.TempDir()
	layRancher(t, from, "k3s", "1.33.9+k3s1")
	layRancher(t, from, "k3s", "1.34.2+k3s1")
	layRancher(t, from, "rke2", "1.34.2+rke2r1")
	write(t, filepath.Join(from, k3sChannels), channels("stable", "v1.33.9+k3s1", "latest", "v1.34.2+k3s1", "v1.33", "v1.33.9+k3s1"))
	lay(t, from, "1.34.4", map[string]v1.Image{"v1.34.4": randomImage(t)})
	lay(t, from, "1.34.9", map[string]v1.Image{"v1.34.9": randomImage(t)})

	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		http.FileServer(http.Dir(from)).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	layAll := func(cacheDir string) {
		t.Helper()
		s := open(t, cacheDir, rancherModules(t), Options{Sources: []string{SourceMirror}, Mirror: server.URL})
		for _, wanted := range []Request{
			{Distro: "k3s", Version: "stable"}, {Distro: "rke2", Version: "1.34.2+rke2r1", Parts: []string{"cilium"}},
			{Distro: "kubeadm", Version: "1.34.4"}, {Distro: "kubeadm", Version: "1.34.9"},
		} {
			laid, err := s.Lay(t.Context(), wanted, to)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(laid).NotTo(BeEmpty())
			for _, l := range laid {
				g.Expect(hashFile(t.Context(), l.Path)).To(Equal(blob{l.SHA256, l.Size}))
			}
		}
	}
	layAll(t.TempDir())
	got, source := everything(t, to), everything(t, from)
	for path, content := range got {
		switch name := filepath.Base(path); {
		case name == "channels", name == "stable-1.34.txt":
		case strings.HasPrefix(name, "sha256:"):
			g.Expect("sha256:" + sumOf(content)).To(Equal(name))
		default:
			g.Expect(strings.TrimSpace(content)).To(Equal(strings.TrimSpace(source[path])), path)
		}
	}
	g.Expect(got).To(And(HaveKey(k3sReleases+"v1.33.9+k3s1/"+rancherFiles("k3s")[0]), Not(HaveKey(HavePrefix(k3sReleases+"v1.34")))))
	g.Expect(got).NotTo(HaveKey(ContainSubstring("canal")))
	g.Expect(channelLatest(got[k3sChannels], "stable")).To(Equal("v1.33.9+k3s1"))
	g.Expect(channelLatest(got[k3sChannels], "1.33")).To(Equal("v1.33.9+k3s1"))
	_, err := channelLatest(got[k3sChannels], "latest")
	g.Expect(err).To(MatchError(ContainSubstring("has no channel latest; it has stable, v1.33")), "what is not there is not promised")
	g.Expect(got).To(HaveKeyWithValue("dl.k8s.io/release/stable-1.34.txt", "v1.34.9\n"))

	// Again, with an empty cache: only what may have changed is asked for.
	asked = nil
	layAll(t.TempDir())
	g.Expect(asked).NotTo(ContainElement(HaveSuffix(rancherFiles("k3s")[0])))
	g.Expect(everything(t, to)).To(Equal(got))

	// It serves by itself.
	for _, mirror := range []string{to, asServer(t, to)} {
		s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceMirror}, Mirror: mirror})
		for want, wanted := range map[string]Request{
			"1.33.9+k3s1":   {Distro: "k3s", Version: "stable"},
			"1.34.2+rke2r1": {Distro: "rke2", Version: "1.34", Parts: []string{"cilium"}},
			"1.34.9":        {Distro: "kubeadm", Version: "1.34"},
		} {
			exact, _, err := s.Resolve(t.Context(), wanted)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(exact).To(Equal(want))
		}
	}
	s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceMirror}, Mirror: to})
	release, err := s.Ensure(t.Context(), Request{Distro: "kubeadm", Version: "1.34.9"})
	g.Expect(err).NotTo(HaveOccurred())
	archive, _ := release.File(ImagesName)
	g.Expect(archive.Images).To(HaveLen(2))
}

// TestLayRefuses: a mirror is made of what is right, whole, or not at all.
func TestLayRefuses(t *testing.T) {
	g := NewWithT(t)
	from, to := t.TempDir(), t.TempDir()
	layRancher(t, from, "k3s", "1.34.2+k3s1")
	s := open(t, t.TempDir(), rancherModules(t), Options{Sources: []string{SourceMirror}, Mirror: from})
	binary := filepath.Join(from, k3sReleases, "v1.34.2+k3s1", rancherFiles("k3s")[1])
	g.Expect(os.WriteFile(binary, []byte("something else"), 0o644)).To(Succeed())
	_, err := s.Lay(t.Context(), Request{Distro: "k3s", Version: "1.34"}, to)
	g.Expect(err).To(MatchError(And(HavePrefix("lay out k3s 1.34.2+k3s1: "), ContainSubstring(binary+") is refused"))))
	g.Expect(os.Remove(binary)).To(Succeed())
	_, err = s.Lay(t.Context(), Request{Distro: "k3s", Version: "1.34"}, to)
	g.Expect(err).To(MatchError(And(HavePrefix("k3s 1.34.2+k3s1 cannot be had: mirror: "), ContainSubstring(binary+": 404"))))
	g.Expect(everything(t, to)).NotTo(HaveKey(ContainSubstring("channels")), "nothing names what is not whole")
	// What lies there and is wrong is replaced.
	layRancher(t, from, "k3s", "1.34.2+k3s1")
	write(t, filepath.Join(to, k3sReleases, "v1.34.2+k3s1", rancherFiles("k3s")[0]), "old")
	_, err = s.Lay(t.Context(), Request{Distro: "k3s", Version: "1.34"}, to)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.ReadFile(filepath.Join(to, k3sReleases, "v1.34.2+k3s1", rancherFiles("k3s")[0]))).To(HavePrefix("k3s 1.34.2+k3s1"))
}
