//go:build integration

package incus_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/tinyimage"
)

// open opens an embedded host of the test's own, and closes and removes it at
// the end. Its folder is short: paths of sockets below it must fit 107 bytes.
func open(t *testing.T) *incus.Server {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "lxm") //nolint:usetesting // the paths of its sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: dir, PoolBytes: 1 << 30})
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
	return h.Server
}

func spec(name string, image incus.Image, rawLXC ...string) provisioner.NodeSpec {
	return provisioner.NodeSpec{Name: name, Image: image.Fingerprint, Owner: map[string]string{"run": "test"},
		Limits: matrix.NodeLimits{MemoryBytes: 256 << 20, Processes: 200},
		Incus:  provisioner.IncusConfig{Config: map[string]string{"security.privileged": "true"}, RawLXC: rawLXC}}
}

// TestInstance is what the rest of the project relies on, on one daemon.
func TestInstance(t *testing.T) {
	server := open(t)
	image := tinyimage.Import(t, server, "tiny")
	create := func(g *WithT, name string, rawLXC ...string) *incus.Instance {
		i, err := server.Create(t.Context(), spec(name, image, rawLXC...))
		g.Expect(err).NotTo(HaveOccurred())
		return i
	}
	gone := func(g *WithT) {
		owned, err := server.Owned(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(owned).To(BeEmpty())
	}

	t.Run("a configuration that LXC does not know is the node's fault", func(t *testing.T) {
		g := NewWithT(t)
		i, err := server.Create(t.Context(), spec("refused", image, "lxc.no.such.key=1"))
		var node *provisioner.NodeError
		if i == nil {
			// Incus itself refuses what does not parse.
			g.Expect(err).To(MatchError(ContainSubstring("lxc.no.such.key")))
		}
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring("lxc.no.such.key")))
		if i != nil {
			g.Expect(i.Delete(t.Context())).To(Succeed())
		}
		gone(g)
	})

	t.Run("a mount that cannot be made is the node's fault, in LXC's words", func(t *testing.T) {
		g := NewWithT(t)
		i, err := server.Create(t.Context(), spec("unmounted", image, "lxc.mount.entry=/no/such/source mnt none bind 0 0"))
		var node *provisioner.NodeError
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring("/no/such/source")))
		g.Expect(i).NotTo(BeNil(), "it is there, and can be looked at")
		console, err := i.Console(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(console).To(ContainSubstring("/no/such/source"))
		g.Expect(i.Delete(t.Context())).To(Succeed())
		gone(g)
	})

	t.Run("a name that is taken", func(t *testing.T) {
		g := NewWithT(t)
		first := create(g, "twin")
		second, err := server.Create(t.Context(), spec("twin", image))
		g.Expect(err).To(MatchError(And(ContainSubstring("create instance twin"), ContainSubstring("is there already"))))
		g.Expect(provisioner.IsNodes(err)).To(BeFalse())
		g.Expect(second).To(BeNil(), "or the first would be deleted for the second")
		g.Expect(first.Delete(t.Context())).To(Succeed())
		gone(g)
	})

	t.Run("an image that is not there", func(t *testing.T) {
		g := NewWithT(t)
		i, err := server.Create(t.Context(), spec("none", incus.Image{Fingerprint: strings.Repeat("ab", 32)}))
		g.Expect(err).To(MatchError(ContainSubstring("create instance none from image abab")))
		g.Expect(provisioner.IsNodes(err)).To(BeFalse())
		g.Expect(i).To(BeNil())
		gone(g)
	})

	t.Run("a run that ends while a node is created leaves none", func(t *testing.T) {
		g := NewWithT(t)
		for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, 900 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			i, err := server.Create(ctx, spec("hasty", image))
			cancel()
			if err != nil {
				g.Expect(provisioner.IsNodes(err)).To(BeFalse(), "%v", err)
			}
			if i != nil {
				g.Expect(i.Delete(t.Context())).To(Succeed())
			}
			gone(g)
		}
	})

	t.Run("a command ends with its context", func(t *testing.T) {
		g := NewWithT(t)
		i := create(g, "busy")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := i.Exec(ctx, provisioner.Command{Args: []string{"/sbin/init", "sleep", "/run/pid"}})
			ended <- err
		}()
		var pid []byte
		g.Eventually(func() (err error) {
			pid, err = i.Pull(t.Context(), "/run/pid")
			return err
		}, time.Minute, time.Millisecond*50).Should(Succeed())
		alive := provisioner.Command{Args: []string{"/sbin/init", "alive", string(pid)}}
		_, err := i.Exec(t.Context(), alive)
		g.Expect(err).NotTo(HaveOccurred())
		cancel()
		g.Eventually(ended, time.Minute).Should(Receive(MatchError(context.Canceled)))
		g.Eventually(func() error {
			_, err := i.Exec(t.Context(), alive)
			return err
		}, time.Minute, time.Millisecond*50).Should(BeAssignableToTypeOf(&provisioner.CommandError{}), "the command was killed")

		_, err = i.Exec(ctx, alive)
		g.Expect(err).To(MatchError(context.Canceled), "nothing is started any more")
		g.Expect(i.Delete(t.Context())).To(Succeed())
	})

	t.Run("output that comes while the command is given up on", func(t *testing.T) {
		g := NewWithT(t)
		i := create(g, "loud")
		var wait sync.WaitGroup
		for n := range 10 {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*10*time.Millisecond)
				defer cancel()
				_, _ = i.Exec(ctx, provisioner.Command{Args: []string{"/sbin/init", "emit", "5000000", "0"}})
			})
		}
		wait.Wait() // the race detector judges
		g.Expect(i.Delete(t.Context())).To(Succeed())
	})

	t.Run("a node that is down", func(t *testing.T) {
		g := NewWithT(t)
		i := create(g, "down")
		g.Expect(i.Kill(t.Context())).To(Succeed())
		var node *provisioner.NodeError
		_, err := i.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "boot"}})
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(ContainSubstring("stopped")))
		console, err := i.Console(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(console).To(ContainSubstring("--- lxc.log"))
		g.Expect(i.Delete(t.Context())).To(Succeed())
	})

	t.Run("a node that does not end in time", func(t *testing.T) {
		g := NewWithT(t)
		i := create(g, "deaf")
		_, err := i.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "deafen"}})
		g.Expect(err).NotTo(HaveOccurred())
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var node *provisioner.NodeError
		err = i.Restart(ctx)
		g.Expect(errors.As(err, &node)).To(BeTrue(), "%v", err)
		_, err = i.Exec(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "boot"}})
		g.Expect(err).NotTo(HaveOccurred(), "it was not forced")
		g.Expect(i.ForceRestart(t.Context())).To(Succeed())
		g.Expect(i.Delete(t.Context())).To(Succeed())
		gone(g)
	})

	t.Run("a terminal", func(t *testing.T) {
		g := NewWithT(t)
		i := create(g, "terminal")
		var out bytes.Buffer
		code, err := i.Interactive(t.Context(), provisioner.Command{Args: []string{"/sbin/init", "emit", "3", "5"}},
			incus.Terminal{In: io.MultiReader(), Out: &out, Size: incus.Size{Columns: 80, Rows: 24}})
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(code).To(Equal(5))
		g.Expect(out.String()).To(Equal("oooeee"))
		g.Expect(i.Delete(t.Context())).To(Succeed())
	})
}

func TestServerThatIsNotThere(t *testing.T) {
	g := NewWithT(t)
	_, err := incus.Connect(t.Context(), t.TempDir()+"/none")
	g.Expect(err).To(MatchError(ContainSubstring("connect to Incus at")))
}
