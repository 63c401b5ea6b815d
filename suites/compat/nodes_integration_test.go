//go:build integration

package compat_test

import (
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// TestNodes runs clusters of several nodes: pods reach each other across them
// before any restart, after each node was restarted by itself, and after all
// were killed at once.
func TestNodes(t *testing.T) {
	g := NewWithT(t)
	results := runMatrix(t, t.TempDir(), "nodes.yaml").Results
	g.Expect(results).To(HaveLen(2))
	for _, r := range results {
		g.Expect(r.Judgement.Verdict).To(Equal(matrix.Pass), "%s: %s", r.Cell.ID, r.Judgement.Reason)
		last, ok := r.Last()
		g.Expect(ok).To(BeTrue())
		pairs := map[matrix.Phase]int{}
		var restarted []string
		for _, p := range last.Phases {
			for _, e := range p.Evidence {
				switch e.Check {
				case "pod-to-pod":
					pairs[p.Phase]++
				case "restarted":
					restarted = append(restarted, e.Node[strings.LastIndex(e.Node, "-")+1:])
				}
			}
		}
		// Both nodes ask, and in the graceful restart in each of its two turns.
		g.Expect(pairs).To(Equal(map[matrix.Phase]int{matrix.PhaseBaseline: 2, matrix.PhaseRestart: 4, matrix.PhaseRecover: 2, matrix.PhaseForcedRecover: 2}))
		g.Expect(restarted).To(Equal([]string{"a1", "s1", "s1", "a1"}), "the agent, the server, and then both at once")
		for i, n := range last.Nodes {
			os := r.Cell.OSOf(r.Cell.Topology.Role(i))
			g.Expect(n.OSVersion).To(Equal(os.Release()), "node %s", n.Node)
		}
	}
}
