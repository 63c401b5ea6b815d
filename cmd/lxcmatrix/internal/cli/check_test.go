package cli

import (
	"strings"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
)

// TestPrintSurvey holds what check prints to its golden file: what was not
// looked at stands beside what was.
func TestPrintSurvey(t *testing.T) {
	var out strings.Builder
	p := newProgram(Program{Streams: Streams{Out: &out}, Version: "test"})
	err := p.printSurvey(health.Survey{Server: "https://192.0.2.2:6443", Distro: "kubeadm",
		Nodes: []health.SurveyedNode{{Name: "cp1", Role: matrix.RoleServer, Kubelet: "v1.34.4", Instance: "k8s-cp1"}, {Name: "w1", Role: matrix.RoleAgent, Kubelet: "v1.34.4"}},
		Checks: []matrix.Evidence{
			{Check: "nodes-ready", Node: "cp1", Outcome: matrix.Healthy, Saw: "Ready"},
			{Check: "nodes-ready", Node: "w1", Outcome: matrix.Unhealthy, Saw: "Ready is False: KubeletNotReady", Want: "Ready"},
			{Check: "restart-stability", Outcome: matrix.Undecided, Saw: "the window did not begin, since nodes-ready is not healthy"}},
		Skipped: []health.Skipped{{Check: "node-facts", Node: "w1", Why: "it needs the node's Incus instance: --node w1=INSTANCE"}}})
	if err != nil {
		t.Fatal(err)
	}
	golden.Assert(t, out.String(), "check.golden")
}
