//go:build integration

package compat_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gstruct"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
)

// TestWithout leaves one fix out of a real cell and sees it fail: in the phase
// and with the log line that the fix claims to cure.
func TestWithout(t *testing.T) {
	facts := observe(t)
	type leftOut struct {
		file, fix string
		phase     matrix.Phase
		// needed says whether this machine needs the fix at all.
		needed bool
	}
	tests := []leftOut{
		{"without.yaml", "cgroup1-split-cpu", matrix.PhaseInstall, facts.CgroupCPUSplit},
		{"without.yaml", "restrict-oom-score-adj", matrix.PhaseInstall, !slices.Contains(facts.Capabilities, "CAP_SYS_RESOURCE")},
	}
	// To build it takes minutes, so it is asked for.
	if slices.Contains(strings.Fields(os.Getenv("LXCMATRIX_TEST_RELEASES")), "kubeadm@1.36") {
		tests = append(tests, leftOut{"without-1.36.yaml", "cgroup-v1-kubelet", matrix.PhaseInstall, facts.Cgroup == "v1"})
	}
	for _, test := range tests {
		t.Run(test.fix, func(t *testing.T) {
			g := NewWithT(t)
			result := attempt(t, t.TempDir(), test.file, test.fix)
			if !test.needed {
				// Not this machine's fix: leaving it out must then change nothing.
				g.Expect(result.Judgement.Verdict).To(Equal(matrix.Pass), result.Judgement.Reason)
				return
			}
			g.Expect(result.Judgement.Verdict).To(Equal(matrix.Fail), result.Judgement.Reason)
			g.Expect(result.Judgement.Phase).To(Equal(test.phase))
			last, ok := result.Last()
			g.Expect(ok).To(BeTrue())
			g.Expect(last.Diagnoses).To(ContainElement(gstruct.MatchFields(gstruct.IgnoreExtras, gstruct.Fields{"Cure": Equal(test.fix), "Line": Not(BeEmpty())})))
			g.Expect(last.Fixes).To(ContainElement(gstruct.MatchFields(gstruct.IgnoreExtras, gstruct.Fields{"ID": Equal(test.fix), "State": Equal("left-out")})))
		})
	}
}

// attempt runs the one cell of a matrix file, and keeps the run below root.
func attempt(t *testing.T, root, file string, without ...string) matrix.Result {
	t.Helper()
	return runMatrix(t, root, file, without...).Results[0]
}

// runMatrix runs the cells of a matrix file, and keeps the run below root.
func runMatrix(t *testing.T, root, file string, without ...string) matrix.Run {
	t.Helper()
	planned, err := run.Plan(t.Context(), run.Request{Matrix: filepath.Join("testdata", file), Without: without, Root: root, Progress: progress.NewLines(os.Stderr, time.Now)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := planned.Start(t.Context(), run.Options{Version: "test", Keep: cell.KeepNever})
	if err != nil {
		t.Fatal(err)
	}
	finished, err := r.Finish(func() string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Render(os.Stdout, finished); err != nil {
		t.Error(err)
	}
	if len(finished.HarnessErrors) > 0 {
		t.Errorf("the harness failed: %v", finished.HarnessErrors)
	}
	return finished
}

// observe opens the embedded host for a moment.
func observe(t *testing.T) matrix.HostFacts {
	t.Helper()
	h, err := host.OpenEmbedded(t.Context(), host.EmbeddedOptions{StateDir: host.StateDir(), PoolBytes: 20 << 30})
	if err != nil {
		t.Fatal(err)
	}
	facts, err := h.Facts(t.Context())
	if err != nil {
		t.Error(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return facts
}
