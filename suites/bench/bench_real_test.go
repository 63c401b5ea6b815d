//go:build bench

package bench_test

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/suites/bench"
)

const (
	// pairsVariable names how many pairs are measured; five without it.
	pairsVariable = "LXCMATRIX_BENCH_PAIRS"
	// tidyUp is left of the test's time to remove what was made.
	tidyUp = 2 * time.Minute
)

// pairsWanted is how many pairs are to be measured.
func pairsWanted(t *testing.T) int {
	t.Helper()
	pairs := 5
	if text := os.Getenv(pairsVariable); text != "" {
		var err error
		if pairs, err = strconv.Atoi(text); err != nil || pairs < 1 {
			t.Fatalf("%s=%q: want the number of pairs", pairsVariable, text)
		}
	}
	return pairs
}

// sides are both, and the time that they have.
func sides(t *testing.T) (context.Context, bench.Harness, bench.Hand) {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	t.Cleanup(stop)
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-tidyUp))
		t.Cleanup(cancel)
	}
	binary, err := filepath.Abs("../../bin/lxcmatrix")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v; make build makes it", err)
	}
	cache, err := artifact.DefaultCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return ctx, bench.Harness{Binary: binary, Runs: t.TempDir(), Log: t.Output()},
		bench.Hand{StateDir: host.StateDir(), CacheDir: cache, Folder: t.TempDir(), Log: t.Output()}
}

// TestBench measures in turns and prints. It fails where a cell fails, never
// for a time: a busy machine is slow.
func TestBench(t *testing.T) {
	pairs := pairsWanted(t)
	ctx, harness, hand := sides(t)
	var measured []bench.Pair
	defer func() {
		if len(measured) == 0 {
			return
		}
		if err := bench.Report(t.Output(), measured); err != nil {
			t.Error(err)
		}
	}()
	var example bench.Example
	for n := range pairs {
		t.Logf("pair %d of %d", n+1, pairs)
		var pair bench.Pair
		byHarness := func() (err error) {
			handTimes := pair.Hand
			example, pair, err = harness.Run(ctx)
			pair.Hand = handTimes
			return err
		}
		byHand := func() (err error) {
			pair.Hand, err = hand.Run(ctx, example)
			return err
		}
		// Neither side always comes second, to what the other warmed up. The
		// first pair's harness makes the image and is the hand's example.
		order := []func() error{byHarness, byHand}
		if n%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, side := range order {
			if err := side(); err != nil {
				t.Fatal(err)
			}
		}
		measured = append(measured, pair)
	}
}

// TestJoin measures joins of both roles in turns, on one server, and prints. The cell
// that is run first makes the image and says what a node is.
func TestJoin(t *testing.T) {
	pairs := pairsWanted(t)
	ctx, harness, hand := sides(t)
	example, _, err := harness.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	joins, err := hand.Joins(ctx, example)
	defer func() {
		if err := joins.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	var measured []bench.JoinPair
	for n := range 2 * pairs {
		pair := bench.JoinPair{Role: []matrix.Role{matrix.RoleAgent, matrix.RoleServer}[n%2]}
		order := []func(){
			func() { pair.Harness, err = joins.ByHarness(ctx, pair.Role) },
			func() { pair.Hand, err = joins.ByHand(ctx, pair.Role) },
		}
		if n/2%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, side := range order {
			if side(); err != nil {
				t.Fatal(err)
			}
		}
		measured = append(measured, pair)
	}
	if err := bench.ReportJoins(t.Output(), measured); err != nil {
		t.Error(err)
	}
}
