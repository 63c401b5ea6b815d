package compat

import (
	"fmt"
	"strings"

	"github.com/onsi/gomega"
	"github.com/onsi/gomega/types"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// passPhase matches a phase that Judge passes.
func passPhase() types.GomegaMatcher {
	return gomega.WithTransform(func(r matrix.PhaseResult) string {
		j := matrix.JudgePhase(r)
		if j.Verdict == matrix.Pass {
			return ""
		}
		return fmt.Sprintf("%s: %s", j.Verdict, j.Reason)
	}, gomega.BeEmpty())
}

// beAsExpected matches a result whose verdict is as expected.
func beAsExpected() types.GomegaMatcher {
	return gomega.WithTransform(func(r matrix.Result) string {
		if r.Judgement.Verdict.AsExpected() {
			return ""
		}
		return fmt.Sprintf("%s: %s%s", r.Judgement.Verdict, r.Judgement.Reason, known(r))
	}, gomega.BeEmpty())
}

// known is what is known of a cell's failure, one line each.
func known(r matrix.Result) string {
	var b strings.Builder
	if a, ok := r.Last(); ok {
		for _, d := range a.Diagnoses {
			fmt.Fprintf(&b, "\n%s", d.Title)
			if d.Cure != "" {
				fmt.Fprintf(&b, " (cured by %s)", d.Cure)
			}
			fmt.Fprintf(&b, ": %s", strings.TrimSpace(d.Line))
		}
	}
	return b.String()
}
