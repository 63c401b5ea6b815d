package service

import (
	"io/fs"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func state(downs int, down time.Duration, status string) containers.ServerState {
	return containers.ServerState{Listener: "api", Server: "s1", Up: status == "UP", Status: status, Check: "L7OK", Downs: downs, Down: down}
}

func TestSince(t *testing.T) {
	for name, c := range map[string]struct {
		before, now containers.ServerState
		fell        bool
		want        matrix.Outcome
		saw         string
	}{
		"it went down and came back":  {state(1, 5*time.Second, "UP"), state(2, 14*time.Second, "UP"), true, matrix.Healthy, "api/s1 was DOWN 1 times, 9s in all, and is UP"},
		"it was never seen down":      {state(1, 5*time.Second, "UP"), state(1, 5*time.Second, "UP"), true, matrix.Unhealthy, "api/s1 was DOWN 0 times, 0s in all, and is UP"},
		"it need not go down":         {state(1, 5*time.Second, "UP"), state(1, 5*time.Second, "UP"), false, matrix.Healthy, "api/s1 was DOWN 0 times, 0s in all, and is UP"},
		"HAProxy was started anew":    {state(3, 5*time.Second, "UP"), state(1, 9*time.Second, "UP"), true, matrix.Undecided, "counts from the start again"},
		"HAProxy has less time in it": {state(1, 9*time.Second, "UP"), state(1, time.Second, "UP"), true, matrix.Undecided, "counts from the start again"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			got := since([]containers.ServerState{c.before}, []containers.ServerState{c.now}, c.fell)
			g.Expect(got).To(HaveExactElements(And(HaveField("Outcome", c.want), HaveField("Node", "s1"), HaveField("Saw", ContainSubstring(c.saw)))))
		})
	}
	g := NewWithT(t)
	g.Expect(since(nil, []containers.ServerState{state(1, 0, "UP")}, true)).To(HaveExactElements(HaveField("Outcome", matrix.Undecided)), "a server that was not there before")
}

func TestUp(t *testing.T) {
	g := NewWithT(t)
	late := errorOf("time ran out")
	g.Expect(up([]containers.ServerState{state(0, 0, "UP")}, nil)).To(HaveExactElements(HaveField("Outcome", matrix.Healthy)))
	g.Expect(up([]containers.ServerState{state(0, 0, "UP"), state(1, 0, "DOWN")}, late)).To(HaveExactElements(HaveField("Outcome", matrix.Healthy), HaveField("Outcome", matrix.Unhealthy)))
	g.Expect(up(nil, late)).To(HaveExactElements(And(HaveField("Outcome", matrix.Undecided), HaveField("Saw", "time ran out"))), "it was never asked")
	g.Expect(up([]containers.ServerState{state(0, 0, "UP")}, late)).To(HaveExactElements(HaveField("Outcome", matrix.Undecided)), "it could not be asked in the end")
}

func TestClients(t *testing.T) {
	g := NewWithT(t)
	got := clients([]matrix.Traffic{
		{Through: "haproxy/api", Sent: 312, Failed: 41, LongestGap: matrix.Duration(8_321 * time.Millisecond)},
		{Through: "haproxy/http", Sent: 3, Failed: 3, LongestGap: matrix.Duration(time.Second)},
		{Through: "haproxy/none"},
	}, map[string]string{"haproxy/api": "EOF"})
	g.Expect(got).To(HaveExactElements(
		And(HaveField("Outcome", matrix.Healthy), HaveField("Saw", "haproxy/api: 312 requests sent, 41 failed, longest gap 8.32s; failed last with: EOF")),
		HaveField("Outcome", matrix.Unhealthy), HaveField("Outcome", matrix.Undecided)))
}

// TestNodePort: HAProxy asks the node port that the workload has.
func TestNodePort(t *testing.T) {
	g := NewWithT(t)
	text, err := fs.ReadFile(fixtures.Manifests(), "workload-kinds.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(text)).To(ContainSubstring("nodePort: %d\n", nodePort))
}

type errorOf string

func (e errorOf) Error() string { return string(e) }
