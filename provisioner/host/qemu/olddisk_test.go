package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// TestADiskIsMadeOnce: many runs that want one disk at once make it once, and
// where that fails the next of them tries again.
func TestADiskIsMadeOnce(t *testing.T) {
	g := NewWithT(t)
	dir := filepath.Join(disks(t.TempDir()), "one")
	g.Expect(os.MkdirAll(filepath.Dir(dir), 0o755)).To(Succeed())
	broken := errors.New("the archive is down")
	var tries, making, made, failed atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			did, err := once(t.Context(), dir, func() error {
				if making.Add(1) > 1 {
					t.Error("two make the disk at one time")
				}
				defer making.Add(-1)
				if tries.Add(1) == 1 {
					return broken
				}
				return os.Mkdir(dir, 0o755)
			})
			switch {
			case errors.Is(err, broken):
				failed.Add(1)
			case err != nil:
				t.Error(err)
			default:
				if _, err := os.Stat(dir); err != nil {
					t.Error(err)
				}
			}
			if did {
				made.Add(1)
			}
		})
	}
	wait.Wait()
	g.Expect([]int32{tries.Load(), made.Load(), failed.Load()}).To(Equal([]int32{2, 1, 1}))

	// One who wants it while others run from it does not wait for their end.
	release, err := use(t.Context(), dir)
	g.Expect(err).NotTo(HaveOccurred())
	_, err = once(t.Context(), dir, func() error { return errors.New("it is there already") })
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(release()).To(Succeed())
	g.Expect(release()).To(Succeed(), "giving back twice is no error")

	_, err = use(t.Context(), dir+"-none")
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = once(ctx, dir+"-other", func() error { return nil })
	g.Expect(err).To(MatchError(context.Canceled))
}

// notes keeps what is told.
type notes struct{ all []string }

func (n *notes) Step(string, ...any) func(error) { return func(error) {} }
func (n *notes) Note(format string, args ...any) { n.all = append(n.all, fmt.Sprintf(format, args...)) }

// TestOldDisks: what is old, left or replaced goes, and never what is in use.
func TestOldDisks(t *testing.T) {
	g := NewWithT(t)
	cache := t.TempDir()
	none, err := OldDisks(cache)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(none).To(BeEmpty())

	now := time.Now()
	const day = 24 * time.Hour
	at := func(name string) string { return filepath.Join(disks(cache), name) }
	disk := func(name, request string, made, used time.Duration) {
		g.Expect(os.MkdirAll(at(name), 0o755)).To(Succeed())
		g.Expect(os.WriteFile(filepath.Join(at(name), diskFile), fmt.Appendf(nil, `{"request": %q}`, request), 0o600)).To(Succeed())
		g.Expect(os.Chtimes(filepath.Join(at(name), diskFile), time.Time{}, now.Add(-made))).To(Succeed())
		g.Expect(os.Chtimes(at(name), time.Time{}, now.Add(-used))).To(Succeed())
	}
	disk("newest", "12 with 6.1", 0, 0)
	disk("replaced", "12 with 6.1", 3*day, 2*day)
	disk("replaced and in use", "12 with 6.1", 3*day, 2*day)
	disk("replaced and given out", "12 with 6.1", 3*day, time.Minute)
	disk("another", "13 with 6.12", 20*day, 10*day)
	disk("unused", "13 with 7", 90*day, 31*day)
	disk("unused and in use", "13 with 5.10", 90*day, 31*day)
	disk("of before", "", 20*day, 10*day)
	disk("of long before", "", 40*day, 40*day)
	for _, name := range []string{"left", "being made"} {
		g.Expect(os.MkdirAll(filepath.Join(at(name)+halfMade, "root"), 0o755)).To(Succeed())
	}
	for _, name := range []string{"replaced and in use", "unused and in use"} {
		release, err := use(t.Context(), at(name))
		g.Expect(err).NotTo(HaveOccurred())
		defer func() { g.Expect(release()).To(Succeed()) }()
	}
	g.Expect(lockOf(at("being made")).TryLock()).To(BeTrue())

	old, err := OldDisks(cache)
	g.Expect(err).NotTo(HaveOccurred())
	why := map[string]string{}
	for _, d := range old {
		why[filepath.Base(d.Dir)] = d.Why
	}
	g.Expect(why).To(Equal(map[string]string{
		"replaced":       "a newer one was made for 12 with 6.1",
		"unused":         "unused since " + now.Add(-31*day).UTC().Format(time.DateOnly),
		"of long before": "unused since " + now.Add(-40*day).UTC().Format(time.DateOnly),
		"left.part":      "its making did not end",
	}))

	// One that a machine is booted from in the meantime stays.
	release, err := use(t.Context(), at("replaced"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(OldDisk{Dir: at("replaced")}.Remove()).To(MatchError(ContainSubstring("in use")))
	g.Expect(release()).To(Succeed())

	var told notes
	System{CacheDir: cache, Progress: &told}.prune()
	g.Expect(told.all).To(HaveLen(4))
	g.Expect(strings.Join(told.all, "\n")).To(ContainSubstring("removed root disk " + at("replaced") + ": a newer one"))
	for name, there := range map[string]bool{"newest": true, "replaced": false, "replaced and in use": true, "replaced and given out": true,
		"another": true, "unused": false, "unused and in use": true, "of before": true, "of long before": false, "left.part": false, "being made.part": true} {
		_, err := os.Stat(at(name))
		g.Expect(err == nil).To(Equal(there), "%s: %v", name, err)
	}
	g.Expect(OldDisk{Dir: at("replaced")}.Remove()).To(Succeed(), "removing twice is no error")
}
