package runfolder_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// contents are a cell's logs as they read.
func contents(f *runfolder.Folder) (all []string, err error) {
	logs, err := f.Logs(cell("13").ID)
	for _, l := range logs {
		text, readErr := l.Last(l.Size)
		err = errors.Join(err, readErr)
		all = append(all, fmt.Sprintf("%s/%s %d %.20s", l.Node, l.Name, l.Size, text))
	}
	return all, err
}

// What a node said last is there as long as its cell goes on.
func TestSay(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c), runfolder.WithRedactor(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("secret"), []byte("-")) }))
	g.Expect(f.Said(c.ID)).To(BeEmpty())
	g.Expect(f.Say(c.ID, "s1: the secret")).To(Succeed())
	g.Expect(f.Say(c.ID, "s2: another secret")).To(Succeed())
	g.Expect(f.Said(c.ID)).To(Equal("s2: another -"))
	g.Expect(f.PackLogs(c.ID)).To(Succeed())
	g.Expect(f.Said(c.ID)).To(BeEmpty())
	g.Expect(f.Say("of/no/plan", "")).NotTo(Succeed())
}

// Logs read the same packed and not, and what is collected after packing, as when a
// cell is run again, takes the place of what was.
func TestPackLogs(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	g.Expect(f.PackLogs(c.ID)).To(Succeed(), "a cell without logs")
	write := func(node, name, text string) {
		_, err := f.WriteLog(c.ID, node, name, []byte(text))
		g.Expect(err).NotTo(HaveOccurred())
	}
	long := strings.Repeat("kubelet says hello\n", 100_000)
	write("s2", "kubelet.log", "second")
	write("s1", "kubelet.log", long)
	write("s1", "empty.log", "")
	want := []string{"s1/empty.log 0 ", "s1/kubelet.log 1900000 kubelet says hello\nk", "s2/kubelet.log 6 second"}
	g.Expect(contents(f)).To(Equal(want))
	unpacked, err := f.Logs(c.ID)
	g.Expect(err).NotTo(HaveOccurred())

	g.Expect(f.PackLogs(c.ID)).To(Succeed())
	g.Expect(contents(f)).To(Equal(want))
	g.Expect(unpacked[1].Last(6)).To(BeEquivalentTo("hello\n"), "one that was listed before it was packed")
	logs, err := f.Logs(c.ID)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(logs[1].Last(6)).To(BeEquivalentTo("hello\n"))
	g.Expect(logs[1].Last(1 << 30)).To(HaveLen(len(long)))
	archive := filepath.Join(f.CellDir(c.ID), "logs.zip")
	g.Expect(logs[1].Path).To(Equal(archive))
	info, err := os.Stat(archive)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600))
	g.Expect(info.Size()).To(BeNumerically("<", len(long)/20))
	g.Expect(filepath.Join(f.CellDir(c.ID), "logs")).NotTo(BeAnExistingFile())

	write("s2", "kubelet.log", "again")
	write("s2", "journal.log", "new")
	want = []string{want[0], want[1], "s2/journal.log 3 new", "s2/kubelet.log 5 again"}
	g.Expect(contents(f)).To(Equal(want))
	g.Expect(f.PackLogs(c.ID)).To(Succeed())
	g.Expect(contents(f)).To(Equal(want))
	g.Expect(f.PackLogs(c.ID)).To(Succeed())
	g.Expect(contents(f)).To(Equal(want))
}

// An archive that is torn, or that names files elsewhere, is not believed.
func TestPackedLogsThatCannotBeBelieved(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	_, err := f.WriteLog(c.ID, "s1", "kubelet.log", []byte("hello"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(f.PackLogs(c.ID)).To(Succeed())
	archive := filepath.Join(f.CellDir(c.ID), "logs.zip")
	whole, err := os.ReadFile(archive)
	g.Expect(err).NotTo(HaveOccurred())
	of := func(name string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		_, err := z.Create(name)
		g.Expect(errors.Join(err, z.Close())).To(Succeed())
		return b.Bytes()
	}
	for name, content := range map[string][]byte{"torn": whole[:len(whole)-10], "elsewhere": of("../../x"), "deep": of("a/b/c"), "no node": of("x"), "hidden": of("s1/.x")} {
		g.Expect(os.WriteFile(archive, content, 0o600)).To(Succeed())
		_, err := f.Logs(c.ID)
		var corrupt *runfolder.CorruptError
		g.Expect(errors.As(err, &corrupt)).To(BeTrue(), "%s: %v", name, err)
		g.Expect(corrupt.Path).To(Equal(archive), name)
	}
}

// Who reads logs while they are packed misses none.
func TestLogsWhilePacked(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	var reader sync.WaitGroup
	done := make(chan struct{})
	_, err := f.WriteLog(c.ID, "s1", "first.log", []byte("first"))
	g.Expect(err).NotTo(HaveOccurred())
	reader.Go(func() {
		for {
			all, err := contents(f)
			if err != nil || len(all) == 0 || all[0] != "s1/first.log 5 first" {
				t.Errorf("there are %q: %v", all, err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 5 {
		g.Expect(f.PackLogs(c.ID)).To(Succeed())
		_, err := f.WriteLog(c.ID, "s1", fmt.Sprintf("more-%d.log", i), []byte("more"))
		g.Expect(err).NotTo(HaveOccurred())
	}
	close(done)
	reader.Wait()
}
