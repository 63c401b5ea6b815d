package html_test

import (
	"fmt"
	goruntime "runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	report "github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// largePast is that of a large run, with other verdicts and times in each.
func largePast(run matrix.Run, runs int) (past []history.Run) {
	of := history.Of(run)
	for i := range runs {
		one := of
		one.ID = fmt.Sprintf("2026%02d%02dT193324Z-aaaaaa", 1+i/28, 1+i%28)
		one.Cells = slices.Clone(one.Cells)
		for k := range one.Cells {
			c := &one.Cells[k]
			c.Up += matrix.Duration(i%7) * 1e9
			if (i+k)%31 == 0 {
				c.Verdict = matrix.Flaky
			}
		}
		past = append(past, one)
	}
	return past
}

// BenchmarkWrite writes the page of 2,000 cells with 90 runs of each. It says
// what the CPUs were busy for, which other work on the machine does not change,
// how large the page is, and how much memory was in use at the most, the run and
// its past included.
func BenchmarkWrite(b *testing.B) {
	run := samples.Large(2000)
	past := largePast(run, report.PastRuns-1)
	goruntime.GC()
	most := watchMemory()
	before := cpu(b)
	var size counter
	for b.Loop() {
		size = 0
		if err := report.Render(&size, report.Input{Run: run, Past: past}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(size)/1e6, "MB-page")
	b.ReportMetric(float64(most())/1e6, "MB-peak")
}

// cpu is how long the process has kept CPUs busy.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchMemory looks at the memory in use until it is asked for the most of it.
func watchMemory() (most func() uint64) {
	stop, ended := make(chan struct{}), make(chan uint64)
	go func() {
		var peak uint64
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m goruntime.MemStats
			goruntime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse+m.StackInuse)
			select {
			case <-tick.C:
			case <-stop:
				ended <- peak
				return
			}
		}
	}()
	return func() uint64 { close(stop); return <-ended }
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
