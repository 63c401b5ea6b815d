//go:build integration

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// embedded opens an embedded host, with a pool of a size, that is gone when the
// test ends.
func embedded(t *testing.T, pool int64) *host.Host {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // paths of sockets below it must fit 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(h.Close(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return h
}

// TestPreparationThatFails: an installation that fails leaves neither an
// instance nor an image, and a base that no source has is told with every
// source's answer.
func TestPreparationThatFails(t *testing.T) {
	g := NewWithT(t)
	h := embedded(t, 1<<30)
	store := Store{Workshop: On(h.Server), CacheDir: t.TempDir(), Sources: []string{SourceMmdebstrap},
		OSes: []OS{{Name: "tiny/1", Family: Family{Install: "apt-get install"}}, {Name: "tiny/2", Server: "tiny/2"}}}
	// The base is there already, so no source is asked for it; and it has no
	// shell, so nothing can be installed.
	sum := sha256.Sum256([]byte("null"))
	base := tinyimage.Import(t, h.Server, "base/tiny/1/"+hex.EncodeToString(sum[:])[:12])
	_, err := store.Prepare(t.Context(), "tiny/1", Content{Name: "kubeadm", Version: "1.34.4"})
	g.Expect(err).To(MatchError(And(ContainSubstring("prepare image tiny/1 with kubeadm 1.34.4"), ContainSubstring("install packages"))))
	owned, err := h.Server.Owned(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owned).To(BeEmpty())
	images, err := h.Server.Images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(images).To(HaveExactElements(HaveField("Fingerprint", base.Fingerprint)))

	_, err = store.Prepare(t.Context(), "tiny/2", Content{})
	var unavailable *provisioner.UnavailableError
	g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
	g.Expect(err).To(MatchError(ContainSubstring("none of the sources mmdebstrap can make it")))
}

// TestImportGivesEveryServerTheFile: what an instance was becomes a file, a
// server knows it by the file's digest, and nodes start from it.
func TestImportGivesEveryServerTheFile(t *testing.T) {
	g := NewWithT(t)
	h := embedded(t, 1<<30)
	base := tinyimage.Import(t, h.Server, "base")
	create := func(name, image string) provisioner.Node {
		n, err := h.CreateNode(t.Context(), provisioner.NodeSpec{Name: name, Image: image, Owner: map[string]string{"kind": "node"},
			Limits: matrix.NodeLimits{MemoryBytes: 256 << 20, Processes: 512, CPUs: 1},
			Incus:  provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true"}}})
		g.Expect(err).NotTo(HaveOccurred())
		return n
	}
	store := &Store{CacheDir: t.TempDir()}
	files := Files{Dir: FilesDir(store.CacheDir)}
	file := func(instance string) Prepared {
		g.Expect(h.Server.Instance(instance, "").Stop(t.Context())).To(Succeed())
		published, err := h.Server.PublishInstance(t.Context(), instance, instance, nil)
		g.Expect(err).NotTo(HaveOccurred())
		p, err := files.add(t.Context(), Prepared{Name: "prepared/tiny/1/x/1"}, func(w io.Writer) error {
			return h.Server.ExportImage(t.Context(), published.Fingerprint, w)
		})
		g.Expect(err).NotTo(HaveOccurred())
		return p
	}
	one := create("one", base.Fingerprint)
	g.Expect(one.Push(t.Context(), provisioner.File{Path: "/etc/one", Content: "1"})).To(Succeed())
	p := file("one")
	for range 2 {
		g.Expect(store.Import(t.Context(), h.Server, p)).To(Succeed())
		there, found, err := h.Server.Image(t.Context(), p.Name)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(found).To(BeTrue())
		g.Expect(there).To(And(HaveField("Fingerprint", p.Fingerprint), HaveField("Size", p.Size)))
	}
	two := create("two", p.Fingerprint)
	g.Expect(two.Pull(t.Context(), "/etc/one")).To(BeEquivalentTo("1"))

	// The file of that name was made anew since: the server gets the new one.
	g.Expect(two.Push(t.Context(), provisioner.File{Path: "/etc/one", Content: "2"})).To(Succeed())
	again := file("two")
	g.Expect(again.Fingerprint).NotTo(Equal(p.Fingerprint))
	g.Expect(store.Import(t.Context(), h.Server, again)).To(Succeed())
	g.Expect(h.Server.Images(t.Context())).NotTo(ContainElement(HaveField("Fingerprint", p.Fingerprint)))
	g.Expect(create("three", again.Fingerprint).Pull(t.Context(), "/etc/one")).To(BeEquivalentTo("2"))

	// A damaged file is no image of that name.
	g.Expect(h.Server.DeleteImage(t.Context(), again.Fingerprint)).To(Succeed())
	g.Expect(os.WriteFile(again.Path, []byte("not an image"), 0o600)).To(Succeed())
	g.Expect(store.Import(t.Context(), h.Server, again)).To(MatchError(ContainSubstring("import image prepared/tiny/1/x/1")))
	_, found, err := h.Server.Image(t.Context(), again.Name)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(BeFalse())
}
