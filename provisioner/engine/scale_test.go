package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
)

// BenchmarkScale runs ever more cells on twenty hosts that simulate them, in
// every phase of which the result is written, and reads the run back: what an
// operation costs per cell is to stay what it is. A result is synced to disk
// for each phase; TMPDIR=/dev/shm leaves the disk out.
func BenchmarkScale(b *testing.B) {
	const hosts = 20
	for _, cells := range []int{1000, 2500, 5000, 10000} {
		b.Run(fmt.Sprintf("cells=%d", cells), func(b *testing.B) {
			var all []matrix.Cell
			for i := range cells {
				c := named(cellOn(fmt.Sprintf("host%d", i%hosts), "1"), fmt.Sprintf("v%d", i))
				c.Host.Driver = "remote"
				all = append(all, c)
			}
			plan := planOf(all...)
			facts := hostFacts()
			facts.CPUs, facts.MemoryBytes = 64, 256*gib
			var peak uint64
			for n := 0; b.Loop(); n++ {
				dir := filepath.Join(b.TempDir(), fmt.Sprint(n))
				folder, err := runfolder.Create(dir, matrix.Run{ID: "r", Plan: plan})
				if err != nil {
					b.Fatal(err)
				}
				if expected := engine.Expect(plan, runfolder.History{}); expected.Cells != cells {
					b.Fatalf("%d cells are expected to run", expected.Cells)
				}
				e := engine.New(engine.Options{Ground: &fakeGround{facts: facts}, Plan: plan, Folder: folder, Attempts: 1, Clock: stillClock{}})
				e.Start(b.Context())
				if errs := e.Wait(); len(errs) > 0 {
					b.Fatal(errs)
				}
				run, err := folder.Read()
				if err != nil {
					b.Fatal(err)
				}
				for _, r := range run.Results {
					if r.Judgement.Verdict != matrix.Pass {
						b.Fatalf("%s: %+v", r.Cell.ID, r.Judgement)
					}
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.Sys)
				if err := folder.Close(); err != nil {
					b.Fatal(err)
				}
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(cells)/float64(time.Microsecond), "µs/cell")
			b.ReportMetric(float64(peak)/(1<<20), "MiB")
		})
	}
}
