package faults

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Render writes what came of each fault, how many were caught, and which checks
// could be made to return healthy without anybody noticing.
func Render(w io.Writer, outcomes []Outcome) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FAULT\tVERDICT\tCHECK\tSECONDS\tDIAGNOSIS\tOUTCOME")
	caught, tried := 0, 0
	var told []string
	for _, o := range outcomes {
		row := []string{o.Fault.ID, "blocked", "-", "-", "-", o.Blocked}
		if o.Tried() {
			tried++
			row = []string{o.Fault.ID, judge(o.Evidence).Verdict.String(), strings.Join(o.seenBy(), ", "),
				fmt.Sprintf("%.1f", o.Took.Std().Seconds()), o.diagnosis(), "caught"}
			if missed := o.Missed(); missed == "" {
				caught++
			} else {
				row[5] = "NOT CAUGHT"
				told = append(told, fmt.Sprintf("%s: %s", o.Fault.ID, missed))
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write the table of faults: %w", err)
	}
	for _, line := range told {
		fmt.Fprintln(w, line)
	}
	percent := 0
	if tried > 0 {
		percent = 100 * caught / tried
	}
	fmt.Fprintf(w, "\n%d of %d faults caught, %d %%; %d blocked here\n", caught, tried, percent, len(outcomes)-tried)
	noticed, survivors := Mutate(outcomes)
	_, err := fmt.Fprintf(w, "%d of %d checks are noticed when they return healthy whatever they see\n", len(noticed), len(noticed)+len(survivors))
	if err == nil && len(survivors) > 0 {
		_, err = fmt.Fprintf(w, "nobody would notice: %s\n", strings.Join(survivors, ", "))
	}
	return err
}

// seenBy are those of the fault's checks that saw it.
func (o Outcome) seenBy() []string {
	seen := slices.DeleteFunc(slices.Clone(o.Fault.Checks), func(c string) bool { return !o.saw(c) })
	if len(seen) == 0 {
		return []string{"-"}
	}
	return seen
}

func (o Outcome) diagnosis() string {
	switch {
	case o.named():
		return o.Fault.Signature
	case len(o.Diagnoses) > 0:
		return o.Diagnoses[0].Signature
	}
	return "-"
}

// Mutate makes each check return healthy, one at a time, in what was seen of all
// faults: it says which are noticed, since a fault is no longer caught, and
// which are not. What a check sees hangs on no other, so that all else would
// have been seen just so.
func Mutate(outcomes []Outcome) (noticed, survivors []string) {
	var checks []string
	for _, o := range outcomes {
		for _, e := range o.Evidence {
			if !slices.Contains(checks, e.Check) {
				checks = append(checks, e.Check)
			}
		}
	}
	slices.Sort(checks)
	for _, check := range checks {
		if slices.ContainsFunc(outcomes, func(o Outcome) bool {
			return o.Tried() && o.Missed() == "" && o.without(check).Missed() != ""
		}) {
			noticed = append(noticed, check)
		} else {
			survivors = append(survivors, check)
		}
	}
	return noticed, survivors
}

// without is the outcome, had a check always returned healthy.
func (o Outcome) without(check string) Outcome {
	o.Evidence = slices.Clone(o.Evidence)
	for i := range o.Evidence {
		if o.Evidence[i].Check == check {
			o.Evidence[i].Outcome = matrix.Healthy
		}
	}
	return o
}
