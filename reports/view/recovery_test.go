package view_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	jsonreport "github.com/lxcmatrix/lxcmatrix/reports/json"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func seconds(n int) *matrix.Duration { return new(matrix.Duration(time.Duration(n) * time.Second)) }

// soaked is a run of one cell that was restarted in a row.
func soaked() matrix.Run {
	c := samples.Cell("13")
	c.Soak = 3
	a := samples.Passing(c)
	var phases []matrix.PhaseResult
	for _, p := range a.Phases {
		switch p.Phase {
		case matrix.PhaseRecover:
			p.Recovery = &matrix.Recovery{API: seconds(9), Ready: seconds(12), Taints: []matrix.TaintSeen{
				{Node: "cp1", Taint: "node.kubernetes.io/not-ready:NoSchedule", Seen: *seconds(10), Gone: seconds(13)},
				{Node: "cp1", Taint: "node.kubernetes.io/unreachable:NoExecute", Seen: *seconds(11)}}}
		case matrix.PhaseCollect:
			for i := range c.Soak {
				p := matrix.PhaseResult{Phase: "soak-recover", Started: p.Started, Duration: *seconds(40), Evidence: []matrix.Evidence{{Check: "dns", Outcome: matrix.Healthy, Saw: "an address"}},
					Recovery: &matrix.Recovery{API: seconds(8 + i), Pods: seconds(20 + i)}}
				phases = append(phases, matrix.PhaseResult{Phase: "soak-restart", Started: p.Started, Duration: *seconds(5), Evidence: p.Evidence}, p)
			}
		}
		phases = append(phases, p)
	}
	a.Phases = phases
	a.Nodes[0].BootIDs = []string{"b1", "b2", "b3", "b4", "b5", "b6"}
	return matrix.Run{ID: "r1", Plan: matrix.Plan{Cells: []matrix.Cell{c}},
		Results: []matrix.Result{{Cell: c, Judgement: matrix.Judge(c, []matrix.Attempt{a}), Attempts: []matrix.Attempt{a}}}}
}

func TestRecovery(t *testing.T) {
	g := NewWithT(t)
	c := view.New(soaked()).Cells[0]
	g.Expect(c.Verdict).To(Equal(matrix.Pass), c.Reason)
	phase := func(name string) view.Phase {
		for _, p := range c.Phases {
			if p.Name == name {
				return p
			}
		}
		t.Fatalf("no phase %s", name)
		return view.Phase{}
	}
	back := phase("recover")
	g.Expect([]string{back.Recovered("api"), back.Recovered("ready"), back.Recovered("pods")}).To(HaveExactElements("9.0s", "12s", "-"))
	g.Expect(back.Taints()).To(HaveExactElements("not-ready:NoSchedule on cp1 after 10s, gone after 13s", "unreachable:NoExecute on cp1 after 11s"))
	soak := phase("soak-recover")
	g.Expect([]string{soak.Recovered("api"), soak.Recovered("ready"), soak.Recovered("pods")}).To(HaveExactElements("p50 9.0s, p95 10s", "-", "p50 21s, p95 22s"))
	g.Expect(phase("baseline").Recovered("api")).To(Equal("-"))
	g.Expect(c.Soak()).To(Equal("3 restarts in a row; api p50 9.0s, p95 10s, at most 10s; pods p50 21s, p95 22s, at most 22s"))
	g.Expect(view.New(matrix.Run{Plan: matrix.Plan{Cells: []matrix.Cell{samples.Cell("13")}}}).Cells[0].Soak()).To(BeEmpty())
}

// TestRecoveryIsShown: each format that shows restarts tells how long they took.
func TestRecoveryIsShown(t *testing.T) {
	for name, format := range map[string]struct {
		render func(*bytes.Buffer) error
		shown  []string
	}{
		"table":    {func(b *bytes.Buffer) error { return table.Render(b, soaked()) }, []string{"3 restarts in a row; api p50 9.0s, p95 10s"}},
		"markdown": {func(b *bytes.Buffer) error { return markdown.Render(b, soaked()) }, []string{"## Restarts in a row", "pods p50 21s, p95 22s, at most 22s"}},
		"json":     {func(b *bytes.Buffer) error { return jsonreport.Render(b, soaked()) }, []string{`"recoveries": [`, `"taint": "node.kubernetes.io/not-ready:NoSchedule"`, `"p95": `}},
		"html": {func(b *bytes.Buffer) error { return html.Render(b, html.Input{Run: soaked()}) }, []string{"soak, 3 times", "<td>p50 9.0s, p95 10s<td>-<td>p50 21s, p95 22s",
			"not-ready:NoSchedule on cp1 after 10s, gone after 13s<br>"}},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := format.render(&b); err != nil {
				t.Fatal(err)
			}
			text := strings.Join(strings.Fields(b.String()), " ")
			for _, shown := range format.shown {
				NewWithT(t).Expect(text).To(ContainSubstring(shown))
			}
		})
	}
}
