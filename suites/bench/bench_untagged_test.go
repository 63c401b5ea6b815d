//go:build !bench

package bench_test

import "testing"

// TestBench says that it ran nothing: real cells need the build tag.
func TestBench(t *testing.T) {
	t.Skip("measured nothing: the benchmark runs with: make bench")
}
