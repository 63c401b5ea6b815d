//go:build integration

package compat_test

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
	"github.com/lxcmatrix/lxcmatrix/suites/compat"
)

// TestCompat runs the matrix that LXCMATRIX_MATRIX names, or the default, as
// lxcmatrix run does: real cells, and the same specs.
func TestCompat(t *testing.T) {
	RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	if suite.ParallelTotal > 1 {
		t.Fatal(compat.ErrParallel)
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	shown := progress.NewLines(os.Stderr, time.Now)
	planned, err := run.Plan(ctx, run.Request{Matrix: os.Getenv("LXCMATRIX_MATRIX"), Root: t.TempDir(), Progress: shown})
	if err != nil {
		t.Fatal(err)
	}
	r, err := planned.Start(ctx, run.Options{Version: "test", Keep: cell.KeepNever})
	if err != nil {
		t.Fatal(err)
	}
	compat.Define(planned.Plan, r.Engine)
	reporter.NoColor = true // CI keeps what is printed as text
	ginkgo.RunSpecs(t, "lxcmatrix compatibility", reporter)
	result, err := r.Finish(func() string { return "" })
	if err != nil {
		t.Error(err)
	}
	if err := table.Render(os.Stdout, result); err != nil {
		t.Error(err)
	}
	if code := matrix.ExitCode(result, true); code != matrix.ExitExpected {
		t.Errorf("the run's exit code is %d, want %d", code, matrix.ExitExpected)
	}
}
