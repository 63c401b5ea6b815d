package cell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

// Stream is a journal that says ten lines a second in odd pieces, and breaks off
// after four seconds, as one whose node restarts.
func (n *fakeNode) Stream(ctx context.Context, cmd provisioner.Command, stdout, _ io.Writer) (int, error) {
	if err := n.call(ctx, cmd.Args[0]); err != nil {
		return -1, err
	}
	for i := range 40 {
		if _, err := fmt.Fprintf(stdout, "%d%s\n%d of the next ", i, strings.Repeat(" long", 1000), i); err != nil {
			return -1, err
		}
		if err := (bubbleClock{}).Sleep(ctx, 100*time.Millisecond); err != nil {
			return -1, err
		}
	}
	return -1, errors.New("the node is down")
}

// What nodes say is told from their creation to their end, once a second at the
// most, and again after their journals broke off.
func TestHear(t *testing.T) {
	g := NewWithT(t)
	w, c := newFakeWorld(), planned("1+1")
	var mu sync.Mutex
	heard := map[string][]time.Time{}
	a := attempt(t, w, c, func(r *cell.Runner) {
		r.Hear = func(node, line string) {
			mu.Lock()
			defer mu.Unlock()
			heard[node] = append(heard[node], time.Now())
			g.Expect(len(line)).To(BeNumerically("<=", 1<<10))
			g.Expect(line).To(MatchRegexp(`^\d+ (of the next \d+ )?long`))
		}
		r.Stay = func(ctx context.Context, _ cell.Lodging) { _ = bubbleClock{}.Sleep(ctx, 20*time.Second) }
	})
	g.Expect(heard).To(HaveLen(2))
	for _, times := range heard {
		// Four seconds of each six: the rest is the wait for the node's return.
		g.Expect(len(times)).To(BeNumerically(">=", 12))
		for i := range times[1:] {
			g.Expect(times[i+1].Sub(times[i])).To(BeNumerically(">=", time.Second))
		}
	}
	destroyed, ok := a.Phase(matrix.PhaseDestroy)
	g.Expect(ok).To(BeTrue())
	for _, times := range heard {
		g.Expect(times[len(times)-1]).NotTo(BeTemporally(">", destroyed.Started))
	}
}
