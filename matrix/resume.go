package matrix

import (
	"fmt"
	"reflect"
	"slices"
	"time"
)

// Origin is what a run was started with, beside its plan: whoever goes on with it
// needs the same. It is empty in runs of before it was kept.
type Origin struct {
	// Verb is run, ablate or minimize.
	Verb string `json:"verb,omitempty"`
	// Keep says when nodes are left, Attempts how often a cell that does not
	// pass is tried.
	Keep     string `json:"keep,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// FixFolders and Lock are absolute paths.
	FixFolders []string `json:"fixFolders,omitempty"`
	Lock       string   `json:"lock,omitempty"`
	// Program is the program's SHA-256 in hex, Knowledge those of the fixes,
	// gates and signatures that it worked with, by kind and file.
	Program   string            `json:"program,omitempty"`
	Knowledge map[string]string `json:"knowledge,omitempty"`
}

// Interrupted says whether somebody ended the attempt, or its process ended.
func (a Attempt) Interrupted() bool {
	return slices.ContainsFunc(a.Phases, func(r PhaseResult) bool { return r.Blame == BlameInterrupt })
}

// Proof is how far an attempt came in showing what its cell is worth: it is
// decided where every proving phase passed, or one did not. in is the next phase
// then: collect or destroy where nothing is left to prove, and none where these
// are done as well.
func (a Attempt) Proof(c Cell) (decided, passed bool, in Phase) {
	results := map[Phase][]PhaseResult{}
	for _, r := range a.Phases {
		results[r.Phase] = append(results[r.Phase], r)
	}
	for _, phase := range c.Course() {
		ran := results[phase]
		if len(ran) == 0 {
			return false, false, phase
		}
		if JudgePhase(ran[0]).Verdict != Pass {
			return !a.Interrupted(), false, a.after()
		}
		results[phase] = ran[1:]
	}
	return true, true, a.after()
}

// after is the first phase of the teardown without a result, or none.
func (a Attempt) after() Phase {
	for _, p := range []Phase{PhaseCollect, PhaseDestroy} {
		if _, ran := a.Phase(p); !ran {
			return p
		}
	}
	return ""
}

// CutShort is an attempt whose process ended in it: interrupted in the phase that
// was next. One that has ended stays as it is.
func (a Attempt) CutShort(c Cell, at time.Time) Attempt {
	if !a.Ended.IsZero() {
		return a
	}
	if _, _, in := a.Proof(c); in != "" && !a.Interrupted() {
		a.Phases = append(slices.Clone(a.Phases), PhaseResult{Phase: in, Started: at, Blame: BlameInterrupt, Error: "the process that ran it ended"})
	}
	a.Ended = at
	return a
}

// Tries counts the attempts at a cell that told something: one that was
// interrupted before that is made again.
func Tries(c Cell, attempts []Attempt) (n int) {
	for _, a := range attempts {
		if !a.Interrupted() || judgeAttempt(c, a).Verdict != Unknown {
			n++
		}
	}
	return n
}

// Over says whether a cell needs no attempt beside those that were made of it,
// where one that fails or is blocked is tried so many times.
func Over(c Cell, attempts []Attempt, most int) bool {
	if n := len(attempts); n > 0 && attempts[n-1].Ended.IsZero() {
		return false
	}
	switch Judge(c, attempts).Verdict {
	case Unknown:
		return false
	case Fail, Blocked:
		return !c.Runs() || Tries(c, attempts) >= most
	}
	return true
}

// Lost names what a run no longer has of what was known of it once: attempts and
// finished phases that are gone or are others now.
func Lost(once, now Run) (problems []string) {
	for _, r := range once.Results {
		i := slices.IndexFunc(now.Results, func(n Result) bool { return n.Cell.ID == r.Cell.ID })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("cell %s is gone", r.Cell.ID))
			continue
		}
		for k, a := range r.Attempts {
			var kept []PhaseResult
			if k < len(now.Results[i].Attempts) {
				kept = now.Results[i].Attempts[k].Phases
			}
			if len(kept) < len(a.Phases) || len(a.Phases) > 0 && !reflect.DeepEqual(kept[:len(a.Phases)], a.Phases) {
				problems = append(problems, fmt.Sprintf("attempt %d of %s had %+v, and has %+v", k+1, r.Cell.ID, a.Phases, kept))
			}
		}
	}
	return problems
}
