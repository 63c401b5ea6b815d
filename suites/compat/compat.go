// Package compat is the compatibility suite: one ordered container per cell of
// a plan, one spec per phase, labelled per axis. The engine does the work and
// the specs wait for its results; a spec fails exactly when matrix.Judge says
// so, so that suite and engine can never disagree.
package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/formatter"
	"github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Subject is a run in flight.
type Subject interface {
	// Phase waits until a cell's first attempt is through with a phase; ok is
	// false where the cell ended without that.
	Phase(ctx context.Context, id matrix.CellID, phase matrix.Phase) (result matrix.PhaseResult, ok bool, err error)
	// Result waits for a cell's end.
	Result(ctx context.Context, id matrix.CellID) (matrix.Result, error)
}

// ErrParallel says that the suite was started in more than one process.
var ErrParallel = errors.New("the compatibility suite is one Ginkgo process: cells run side by side in the engine, within the matrix' budget; start it without -p and --procs")

// Define defines the plan's specs. It is called once, before Run.
func Define(plan matrix.Plan, subject Subject) {
	for _, c := range plan.Cells {
		ginkgo.Describe(string(c.ID), ginkgo.Ordered, labels(c), func() {
			// One that does not run never comes to a phase: the verdict says why.
			if c.Runs() {
				for _, phase := range c.ProvingPhases() {
					ginkgo.It(string(phase), func(ctx ginkgo.SpecContext) { assertPhase(ctx, subject, c, phase) })
				}
			}
			ginkgo.It("verdict", func(ctx ginkgo.SpecContext) { assertVerdict(ctx, subject, c) })
		})
	}
}

// labels are one per axis; a label may not hold a slash.
func labels(c matrix.Cell) ginkgo.Labels {
	l := ginkgo.Labels{"distro:" + c.Distro.String(), "os:" + c.OS.String(), "topology:" + c.Topology.String(), "host:" + c.Host.Name}
	for _, v := range c.Variants {
		l = append(l, "variant:"+strings.NewReplacer("/", "-", ",", "-", "&", "-", "|", "-", "!", "-", "(", "-", ")", "-").Replace(v))
	}
	return l
}

// assertPhase asserts on the evidence of one phase. A cell that is expected to
// fail, or that was tried again, is settled by its verdict instead.
func assertPhase(ctx context.Context, subject Subject, c matrix.Cell, phase matrix.Phase) {
	r, ok, err := subject.Phase(ctx, c.ID, phase)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	if ok {
		for _, e := range r.Evidence {
			ginkgo.GinkgoWriter.Printf("%-9s %s %s: %s\n", e.Outcome, e.Check, e.Node, e.Saw)
		}
		if matrix.JudgePhase(r).Verdict == matrix.Pass {
			return
		}
	}
	result, err := subject.Result(ctx, c.ID)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	switch {
	case result.Judgement.Verdict.AsExpected():
		ginkgo.Skip(fmt.Sprintf("%s: %s", result.Judgement.Verdict, result.Judgement.Reason))
	case !ok:
		gomega.Expect(ok).To(gomega.BeTrue(), "%s has no result: %s: %s", phase, result.Judgement.Verdict, result.Judgement.Reason)
	default:
		gomega.Expect(r).To(passPhase(), "%s: %s%s", result.Judgement.Verdict, result.Judgement.Reason, known(result))
	}
}

// assertVerdict asserts on the cell's verdict.
func assertVerdict(ctx context.Context, subject Subject, c matrix.Cell) {
	result, err := subject.Result(ctx, c.ID)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	gomega.Expect(result).To(beAsExpected())
	if result.Judgement.Verdict == matrix.Impossible {
		ginkgo.Skip(result.Judgement.Reason)
	}
}

// Run runs the specs that were defined, in this process, and writes Ginkgo's
// own report to log. It says whether all passed. Ginkgo allows one call per
// process, and handles signals from then on as well.
func Run(log io.Writer, description string) (passed bool, err error) {
	suite, reporter := ginkgo.GinkgoConfiguration()
	if suite.ParallelTotal > 1 {
		return false, ErrParallel
	}
	// Cells end in the engine, each phase within its own timeout.
	suite.Timeout = 0
	suite.RandomSeed = 1
	// The engine goes on while no spec runs; its output is not to be captured.
	suite.OutputInterceptorMode = "none"
	reporter.NoColor = true
	formatter.ColorableStdOut = log
	gomega.RegisterFailHandler(ginkgo.Fail)
	return ginkgo.RunSpecs(ordinary{}, description, suite, reporter), nil
}

// ordinary stands in for testing.T in a program that is no test: RunSpecs
// returns what Fail would tell.
type ordinary struct{}

func (ordinary) Fail() {}
