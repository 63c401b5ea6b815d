//go:build integration

package image_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/image"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// TestPreparationThatFails: an installation that fails leaves neither an
// instance nor an image, and a base that no source has is told with every
// source's answer.
func TestPreparationThatFails(t *testing.T) {
	g := NewWithT(t)
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // paths of sockets below it must fit 107 bytes
	g.Expect(err).NotTo(HaveOccurred())
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 1 << 30})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(h.Close(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	store := image.Store{Server: h.Server, CacheDir: t.TempDir(), Sources: []string{image.SourceMmdebstrap},
		OSes: []image.OS{{Name: "tiny/1", Family: "debian", Packages: []string{"containerd"}}, {Name: "tiny/2", Server: "tiny/2", Packages: []string{"x"}}}}
	// The base is there already, so no source is asked for it; and it has no
	// shell, so nothing can be installed.
	sum := sha256.Sum256([]byte("null"))
	base := tinyimage.Import(t, h.Server, "base/tiny/1/"+hex.EncodeToString(sum[:])[:12])
	_, err = store.Prepare(t.Context(), "tiny/1", image.Content{Name: "kubeadm", Version: "1.34.4"})
	g.Expect(err).To(MatchError(And(ContainSubstring("prepare image tiny/1 with kubeadm 1.34.4"), ContainSubstring("install packages"))))
	owned, err := h.Server.Owned(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(owned).To(BeEmpty())
	images, err := h.Server.Images(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(images).To(HaveExactElements(HaveField("Fingerprint", base.Fingerprint)))

	_, err = store.Prepare(t.Context(), "tiny/2", image.Content{})
	var unavailable *provisioner.UnavailableError
	g.Expect(errors.As(err, &unavailable)).To(BeTrue(), "%v", err)
	g.Expect(err).To(MatchError(ContainSubstring("none of the sources mmdebstrap can make it")))
}
