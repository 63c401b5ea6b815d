package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// packed puts a tar2sqfs of the test's own before the machine's: it keeps what
// it reads as it is.
func packed(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tar2sqfs"), []byte("#!/bin/sh\nfor target in \"$@\"; do :; done\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestFiles(t *testing.T) {
	g := NewWithT(t)
	packed(t, `exec cat > "$target"`)
	f := Files{Dir: filepath.Join(t.TempDir(), "images")}
	const name = "prepared/debian/13/kubeadm-1.34.4/0123456789abcdef"
	_, err := f.use(name)
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	g.Expect(f.List()).To(BeEmpty())

	add := func(name, content string) (Prepared, error) {
		return f.add(t.Context(), Prepared{Name: name, OS: "debian/13"}, func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			return err
		})
	}
	made, err := add(name, "first")
	g.Expect(err).NotTo(HaveOccurred())
	sum := sha256.Sum256([]byte("first"))
	g.Expect(made.Fingerprint).To(Equal(hex.EncodeToString(sum[:])), "what Incus calls the file")
	g.Expect(made.Size).To(BeEquivalentTo(5))
	used, err := f.use(name)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(used.Used).NotTo(BeZero())
	used.Used = made.Used
	g.Expect(used).To(Equal(made))
	g.Expect(os.ReadFile(used.Path)).To(BeEquivalentTo("first"))

	// What does not come to its end leaves nothing, and what was there stays.
	boom := errors.New("boom")
	_, err = f.add(t.Context(), Prepared{Name: name}, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return boom
	})
	g.Expect(err).To(MatchError(boom))
	g.Expect(f.use(name)).To(HaveField("Fingerprint", made.Fingerprint))

	// A file that changed is told, and made anew.
	g.Expect(os.WriteFile(made.Path, []byte("worse"), 0o600)).To(Succeed())
	_, err = f.use(name)
	var damaged *DamagedError
	g.Expect(errors.As(err, &damaged)).To(BeTrue(), "%v", err)
	g.Expect(damaged.Want).To(Equal(made.Fingerprint))
	again, err := add(name, "second")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.use(name)).To(HaveField("Fingerprint", again.Fingerprint))

	// One without its file is none.
	g.Expect(os.Remove(again.Path)).To(Succeed())
	_, err = f.use(name)
	g.Expect(err).To(MatchError(fs.ErrNotExist))

	g.Expect(f.Remove(again)).To(Succeed())
	g.Expect(f.Remove(again)).To(Succeed())
	left, err := os.ReadDir(f.Dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
}

func TestPackingThatFails(t *testing.T) {
	g := NewWithT(t)
	f := Files{Dir: t.TempDir()}
	forever := func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	}
	packed(t, "echo disk full >&2; exit 1")
	_, err := f.add(t.Context(), Prepared{Name: "x"}, forever)
	g.Expect(err).To(MatchError(ContainSubstring("disk full")))

	packed(t, "exec cat > /dev/null")
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	_, err = f.add(ctx, Prepared{Name: "x"}, func(w io.Writer) error {
		cancel(stopped)
		return forever(w)
	})
	g.Expect(err).To(MatchError(stopped))

	t.Setenv("PATH", t.TempDir())
	_, err = f.add(t.Context(), Prepared{Name: "x"}, forever)
	g.Expect(errors.Is(err, exec.ErrNotFound)).To(BeTrue(), "%v", err)
	g.Expect(err).To(MatchError(ContainSubstring("squashfs-tools-ng")))
	left, err := os.ReadDir(f.Dir)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
}

// TestPrune: age first, then size, the one that was asked for last kept.
func TestPrune(t *testing.T) {
	g := NewWithT(t)
	packed(t, `exec cat > "$target"`)
	f := Files{Dir: t.TempDir()}
	now := time.Now()
	for name, c := range map[string]struct {
		size int64
		used time.Duration
	}{
		"today": {10 << 30, time.Hour}, "yesterday": {9 << 30, 24 * time.Hour}, "last-week": {2 << 30, 7 * 24 * time.Hour},
		"two-weeks-ago": {1 << 20, 14 * 24 * time.Hour}, "long-ago": {1, 31 * 24 * time.Hour},
		"imported/mine/1": {30 << 30, 100 * 24 * time.Hour},
	} {
		p, err := f.add(t.Context(), Prepared{Name: name}, func(io.Writer) error { return nil })
		g.Expect(err).NotTo(HaveOccurred())
		p.Size = c.size
		g.Expect(f.describe(p)).To(Succeed())
		g.Expect(os.Chtimes(f.file(name, descriptionSuffix), now, now.Add(-c.used))).To(Succeed())
	}
	g.Expect(f.prune(now)).To(Succeed())
	left, err := f.List()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(HaveExactElements(HaveField("Name", "today"), HaveField("Name", "yesterday"), HaveField("Name", "two-weeks-ago"),
		HaveField("Name", "imported/mine/1")))
	for _, p := range left {
		g.Expect(p.Path).To(BeAnExistingFile())
	}
	g.Expect(f.file("last-week", imageSuffix)).NotTo(BeAnExistingFile())
}
