package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// The targets: how much longer the harness may take than the same by hand, and
// what memory it may use.
const (
	MostWhole   = 1.2
	MostHealthy = 1.15
	MostBytes   = 150_000_000
)

// Report prints every pair, phase by phase, the medians with their spread, and
// which targets are met. It needs one pair at least.
func Report(w io.Writer, pairs []Pair) error {
	if len(pairs) == 0 {
		return fmt.Errorf("report the benchmark: nothing was measured")
	}
	if err := phases(w, pairs); err != nil {
		return fmt.Errorf("report the benchmark: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nSeconds; stability windows are not counted. Medians of %d pairs (least..most):\n", len(pairs))
	compare(&b, pairs, "create to healthy", Times.Healthy, MostHealthy)
	compare(&b, pairs, "whole cell, both restarts included", Times.Whole, MostWhole)
	peak := summarise(of(pairs, func(p Pair) int64 { return p.PeakBytes }))
	fmt.Fprintf(&b, "  peak memory of lxcmatrix run: %s (%s..%s) MB; target under %s: %s\n", megabytes(peak.median),
		megabytes(peak.least), megabytes(peak.most), megabytes(MostBytes), met(peak.most < MostBytes))
	ready := summarise(of(pairs, func(p Pair) time.Duration { return p.Ready }))
	fmt.Fprintf(&b, "  not counted: lxcmatrix run made its plan, started the daemon and verified the release in %s (%s..%s)\n",
		seconds(ready.median), seconds(ready.least), seconds(ready.most))
	_, err := io.WriteString(w, b.String())
	return err
}

// phases is the table of all pairs: a column per phase, a line per side.
func phases(w io.Writer, pairs []Pair) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(table, strings.Join(cells, "\t")) }
	header := []string{"PAIR", "SIDE"}
	for _, phase := range (matrix.Cell{}).ProvingPhases() {
		header = append(header, string(phase))
	}
	line(append(header, "HEALTHY", "WHOLE")...)
	side := func(pair, name string, t Times, sums ...string) {
		cells := []string{pair, name}
		for _, phase := range (matrix.Cell{}).ProvingPhases() {
			cells = append(cells, seconds(t[phase]))
		}
		line(append(cells, sums...)...)
	}
	for i, p := range pairs {
		side(fmt.Sprint(i+1), "harness", p.Harness, seconds(p.Harness.Healthy()), seconds(p.Harness.Whole()))
		side("", "by hand", p.Hand, seconds(p.Hand.Healthy()), seconds(p.Hand.Whole()))
		cells := append([]string{"", "ratio"}, make([]string, len(matrix.Cell{}.ProvingPhases()))...)
		line(append(cells, ratio(p.Harness.Healthy(), p.Hand.Healthy()), ratio(p.Harness.Whole(), p.Hand.Whole()))...)
	}
	side("median", "harness", medians(pairs, func(p Pair) Times { return p.Harness }))
	side("", "by hand", medians(pairs, func(p Pair) Times { return p.Hand }))
	return table.Flush()
}

// medians are each phase's own: they show where time goes, and do not add up
// to the median of the sums.
func medians(pairs []Pair, side func(Pair) Times) Times {
	m := Times{}
	for _, phase := range (matrix.Cell{}).ProvingPhases() {
		m[phase] = summarise(of(pairs, func(p Pair) time.Duration { return side(p)[phase] })).median
	}
	return m
}

// compare prints one figure of both sides and whether its target is met.
func compare(w io.Writer, pairs []Pair, what string, figure func(Times) time.Duration, most float64) {
	harness := summarise(of(pairs, func(p Pair) time.Duration { return figure(p.Harness) }))
	hand := summarise(of(pairs, func(p Pair) time.Duration { return figure(p.Hand) }))
	fmt.Fprintf(w, "  %s: harness %s (%s..%s), by hand %s (%s..%s), ratio %s; target at most %.2f: %s\n", what,
		seconds(harness.median), seconds(harness.least), seconds(harness.most),
		seconds(hand.median), seconds(hand.least), seconds(hand.most),
		ratio(harness.median, hand.median), most, met(float64(harness.median) <= most*float64(hand.median)))
}

// of takes one figure from each pair.
func of[N number](pairs []Pair, figure func(Pair) N) []N {
	var values []N
	for _, p := range pairs {
		values = append(values, figure(p))
	}
	return values
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func ratio(a, b time.Duration) string { return fmt.Sprintf("%.3f", float64(a)/float64(b)) }

func megabytes(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/1e6) }

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "not met"
}
