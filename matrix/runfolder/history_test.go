package runfolder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// past writes a run in which a cell took some minutes, and its host some
// seconds to open; a cell that does not pass has no evidence.
func past(t *testing.T, root string, hour int, c matrix.Cell, minutes int, passes bool) string {
	t.Helper()
	g := NewWithT(t)
	run := newRun(c)
	run.ID = runfolder.NewRunID(start.Add(time.Duration(hour) * time.Hour))
	dir := filepath.Join(root, run.ID)
	f, err := runfolder.Create(dir, run)
	g.Expect(err).NotTo(HaveOccurred())
	a := passing(c)
	a.Ended = a.Started.Add(time.Duration(minutes) * time.Minute)
	if !passes {
		a.Phases = nil
	}
	_, err = f.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{a}})
	g.Expect(err).NotTo(HaveOccurred())
	for _, kind := range []runfolder.EventKind{runfolder.HostOpened, runfolder.HostClosed} {
		g.Expect(f.AppendEvent(runfolder.Event{Kind: kind, Host: "embedded", Took: matrix.Duration(time.Duration(minutes) * time.Second)})).To(Succeed())
	}
	g.Expect(f.Close()).To(Succeed())
	return dir
}

// TestHistory: the median of the last passes, and nothing of what is broken.
func TestHistory(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	c := cell("13")
	g.Expect(runfolder.ReadHistory(filepath.Join(root, "none")).Cells).To(BeEmpty())
	// Too old to count among the last five.
	for hour := range 4 {
		past(t, root, hour, c, 100, true)
	}
	for i, minutes := range []int{3, 9, 4, 5, 8} {
		past(t, root, 10+i, c, minutes, true)
	}
	past(t, root, 20, c, 1, false)
	for i, file := range []string{"run.json", "plan.json", "events.ndjson", filepath.Join("cells", c.ID.FileName(), "result.json")} {
		dir := past(t, root, 30+i, cell("13"), 60, false)
		g.Expect(os.WriteFile(filepath.Join(dir, file), []byte("{\n"), 0o600)).To(Succeed())
	}
	g.Expect(os.WriteFile(filepath.Join(root, runfolder.NewRunID(start.Add(99*time.Hour))), nil, 0o600)).To(Succeed())

	h := runfolder.ReadHistory(root)
	g.Expect(h.Cells).To(Equal(map[matrix.CellID]time.Duration{c.ID: 5 * time.Minute}))
	g.Expect(h.Opening).To(HaveKey("embedded"))
	g.Expect(h.Opening).To(Equal(h.Closing))

	// Only so many runs are looked at.
	for i := range 20 {
		past(t, root, 100+i, cell("12"), 2+i%2, true)
	}
	h = runfolder.ReadHistory(root)
	g.Expect(h.Cells).NotTo(HaveKey(c.ID), fmt.Sprint(h.Cells))
	g.Expect(h.Opening["embedded"]).To(BeNumerically("~", 2*time.Second, time.Second))
}
