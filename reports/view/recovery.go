package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// plainRecovery is a recovery whose texts are fit to be shown.
func plainRecovery(r matrix.Recovery) matrix.Recovery {
	r.Taints = slices.Clone(r.Taints)
	for i := range r.Taints {
		r.Taints[i].Node, r.Taints[i].Taint = Plain(r.Taints[i].Node), Plain(r.Taints[i].Taint)
	}
	return r
}

// Figures are the distributions of the phase's recoveries.
func (p Phase) Figures() []matrix.Figure { return matrix.Recoveries(p.Recoveries) }

// Recovered says for a figure of Figures when it was: "12s", of several restarts
// "p50 12s, p95 15s", and "-" where it was not seen.
func (p Phase) Recovered(name string) string {
	i := slices.IndexFunc(p.Figures(), func(f matrix.Figure) bool { return f.Name == name })
	switch {
	case i < 0:
		return "-"
	case len(p.Recoveries) == 1:
		return Short(p.Figures()[i].Max.Std())
	}
	f := p.Figures()[i]
	return fmt.Sprintf("p50 %s, p95 %s", Short(f.P50.Std()), Short(f.P95.Std()))
}

// Taints says what Kubernetes tainted nodes with meanwhile, and when: one line for
// each.
func (p Phase) Taints() (lines []string) {
	for _, r := range p.Recoveries {
		for _, t := range r.Taints {
			line := fmt.Sprintf("%s on %s after %s", strings.TrimPrefix(t.Taint, "node.kubernetes.io/"), t.Node, Short(time.Duration(t.Seen)))
			if t.Gone != nil {
				line += ", gone after " + Short(time.Duration(*t.Gone))
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// Soak is the recovery from restarts in a row in one line; empty where there were
// none.
func (c Cell) Soak() string {
	for _, r := range matrix.Restarts() {
		i := slices.IndexFunc(c.Phases, func(p Phase) bool { return r.Restart == matrix.RestartSoak && p.Name == string(r.Recovers) })
		if i < 0 || len(c.Phases[i].Recoveries) == 0 {
			continue
		}
		line := fmt.Sprintf("%d restarts in a row", len(c.Phases[i].Recoveries))
		for _, f := range c.Phases[i].Figures() {
			line += fmt.Sprintf("; %s p50 %s, p95 %s, at most %s", f.Name, Short(f.P50.Std()), Short(f.P95.Std()), Short(f.Max.Std()))
		}
		return line
	}
	return ""
}
