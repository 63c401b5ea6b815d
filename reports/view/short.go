package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Short is a duration in at most six characters: "4.2s", "42s", "2m05s",
// "1h02m".
func Short(d time.Duration) string {
	switch s := d.Round(time.Second); {
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case s < time.Minute:
		return fmt.Sprintf("%ds", s/time.Second)
	case s < time.Hour:
		return fmt.Sprintf("%dm%02ds", s/time.Minute, s%time.Minute/time.Second)
	default:
		return fmt.Sprintf("%dh%02dm", s/time.Hour, s%time.Hour/time.Minute)
	}
}

// Glyph is a phase's outcome as one character: "✓" pass, "✗" fail, "!"
// blocked, "?" unknown, "-" not run.
func (p Phase) Glyph() string {
	switch {
	case !p.Ran:
		return "-"
	case p.Verdict == matrix.Pass:
		return "✓"
	case p.Verdict == matrix.Fail:
		return "✗"
	case p.Verdict == matrix.Blocked:
		return "!"
	}
	return "?"
}

// Short is the glyph with the time taken: "✓42s".
func (p Phase) Short() string {
	if !p.Ran {
		return p.Glyph()
	}
	return p.Glyph() + Short(p.Took)
}

// Heading is a phase's name as short as a table's column.
func Heading(phase matrix.Phase) string {
	for _, r := range matrix.Restarts() {
		if phase == r.Recovers {
			return "recov"
		}
	}
	switch phase {
	case matrix.PhaseInstall:
		return "inst"
	case matrix.PhaseBaseline:
		return "base"
	case matrix.PhaseForcedRestart:
		return "forced"
	case matrix.PhaseCollect:
		return "coll"
	case matrix.PhaseDestroy:
		return "destr"
	}
	short, _ := strings.CutSuffix(string(phase), "-restart")
	return strings.TrimPrefix(short, "agents-")
}

// Legend explains the glyphs.
const Legend = "✓ pass, ✗ fail, ! blocked, ? unknown, - not run"

// MemoryGiB is memory in GiB with one decimal.
func MemoryGiB(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
