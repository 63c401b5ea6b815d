package progress_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxcmatrix/lxcmatrix/reports/progress"
)

// What is over within two seconds is told only if it failed; the rest is told
// when it has taken that long, and at its end.
func TestLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := progress.New(&out, time.Now)
		wait := func(d time.Duration) {
			time.Sleep(d) // the bubble's own time
			synctest.Wait()
		}
		l.Note("%d cells", 2)
		short := l.Step("opening host %s", "embedded")
		wait(time.Second)
		short(nil)
		failing := l.Step("reading %s", "a file")
		wait(500 * time.Millisecond)
		failing(errors.New("no such file"))
		long := l.Step("building %s", "kubelet")
		wait(90 * time.Second)
		long(nil)
		late := l.Step("copying")
		wait(3 * time.Second)
		late(errors.New("no space left"))

		const want = `    0.0s  2 cells
    1.5s  reading a file: failed after 500ms: no such file
    3.5s  building kubelet ...
   91.5s  building kubelet: done in 1m30s
   93.5s  copying ...
   94.5s  copying: failed after 3s: no space left
`
		if out.String() != want {
			t.Errorf("told:\n%swant:\n%s", &out, want)
		}
	})
}
