package chaos

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Tried is a subject with what came of its runs.
type Tried struct {
	Subject  string
	Outcomes []Outcome
}

// Kills counts the processes that were killed.
func (t Tried) Kills() (n int) {
	for _, o := range t.Outcomes {
		n += len(o.Kills)
	}
	return n
}

// Render writes what was killed doing what, what survived, and what was lost and
// leaked.
func Render(w io.Writer, all []Tried) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CELLS\tPROCESS\tKILLED IN\tKILLS")
	kills, runs, phases, cells := 0, 0, 0, 0
	var removed, problems []string
	for _, tried := range all {
		kills, runs = kills+tried.Kills(), runs+len(tried.Outcomes)
		counts := map[[2]string]int{}
		for _, o := range tried.Outcomes {
			phases, cells = phases+o.Phases, cells+o.Cells
			removed, problems = append(removed, o.Removed...), append(problems, o.Problems...)
			for _, k := range o.Kills {
				counts[[2]string{k.Verb, k.In}]++
			}
		}
		for _, verb := range []string{verbRun, verbResume, verbGC} {
			for _, in := range slices.Concat([]string{beforeRun, opening, readying}, phaseNames(), []string{ending, reporting, removing}) {
				if n := counts[[2]string{verb, in}]; n > 0 {
					fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", tried.Subject, verb, in, n)
				}
			}
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the table of kills: %w", err)
	}
	for _, p := range problems {
		fmt.Fprintf(w, "PROBLEM: %s\n", p)
	}
	slices.Sort(removed)
	left := "nothing"
	if len(removed) > 0 {
		left = strings.Join(removed, ", ")
	}
	if _, err := fmt.Fprintf(w, "\n%d processes of %d runs were killed; with the last of each %d finished phases were there and %d cells over\nremoved by gc in the end: %s\nlost, changed or leaked: %d\n",
		kills, runs, phases, cells, left, len(problems)); err != nil {
		return fmt.Errorf("write the table of kills: %w", err)
	}
	return nil
}

func phaseNames() (names []string) {
	for _, p := range matrix.Phases() {
		names = append(names, string(p))
	}
	return names
}
