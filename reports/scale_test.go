package reports_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// BenchmarkRender shows ever larger runs in every format: what a cell costs is
// to stay what it is.
func BenchmarkRender(b *testing.B) {
	for _, r := range renderers() {
		for _, cells := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("%s/cells=%d", r.name, cells), func(b *testing.B) {
				var results []matrix.Result
				for i := range cells {
					c := samples.Cell("13")
					c.Host.Name, c.Variants = fmt.Sprintf("host%d", i%20), []string{fmt.Sprintf("v%d", i)}
					c.ID = c.NewID()
					results = append(results, samples.Result(c, samples.Passing(c)))
				}
				run := samples.Run(results...)
				for b.Loop() {
					if err := r.render(io.Discard, run); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(cells)/float64(time.Microsecond), "µs/cell")
			})
		}
	}
}
