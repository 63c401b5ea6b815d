package ablation_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/ablation"
)

// world is a cell whose fixes do what is written here.
type world struct {
	fixes []string
	// needs: of each set, one fix has to be in effect.
	needs []need
	// harmful fixes make the cell fail.
	harmful []string
	// satisfied by the host.
	satisfied []string
	// verdict, if set, is asked before all else, by how many trials of the same
	// set were made before; nil goes on.
	verdict func(without []string, before int) *matrix.Judgement
}

// need is a set of fixes of which one has to be there, and how the cell fails
// else.
type need struct {
	fixes     []string
	phase     matrix.Phase
	signature string
}

const whole = 200 * time.Second

func needs(phase matrix.Phase, signature string, fixes ...string) need {
	return need{fixes: fixes, phase: phase, signature: signature}
}

func judged(v matrix.Verdict, reason string) *matrix.Judgement {
	return &matrix.Judgement{Verdict: v, Reason: reason}
}

// ablation is one about all fixes, each of which claims to cure its own name.
func (w world) ablation(asked ...string) matrix.Ablation {
	a := matrix.Ablation{Cell: "kubeadm-1.34/debian-13/1/embedded", Goal: matrix.GoalOutcomes}
	for _, id := range w.fixes {
		f := matrix.AblatedFix{ID: id, Cures: []string{id}, Asked: len(asked) == 0 || slices.Contains(asked, id)}
		if slices.Contains(w.satisfied, id) {
			f.Skip = "already satisfied"
		}
		a.Fixes = append(a.Fixes, f)
	}
	return a
}

// try is what a trial comes to.
func (w world) try(a matrix.Ablation, without []string) matrix.Trial {
	before := 0
	for _, t := range a.Trials {
		if slices.Equal(t.Without, without) {
			before++
		}
	}
	t := matrix.Trial{Run: fmt.Sprintf("r%d", len(a.Trials)+1), Without: without, Judgement: matrix.Judgement{Verdict: matrix.Pass}, Took: matrix.Duration(whole)}
	fail := func(phase matrix.Phase, signature string) {
		t.Verdict, t.Phase, t.Reason, t.Took = matrix.Fail, phase, "no "+signature, matrix.Duration(whole/8)
		if signature != "" {
			t.Diagnoses = []matrix.Diagnosis{{Signature: signature, Log: "kubelet.log", Line: "no " + signature}}
		}
	}
	if w.verdict != nil {
		if j := w.verdict(without, before); j != nil {
			t.Judgement = *j
			return t
		}
	}
	for _, id := range w.harmful {
		if !slices.Contains(without, id) {
			fail(matrix.PhaseInstall, "harm")
			return t
		}
	}
	for _, n := range w.needs {
		if !slices.ContainsFunc(n.fixes, func(id string) bool { return !slices.Contains(without, id) }) {
			fail(n.phase, n.signature)
			return t
		}
	}
	return t
}

// settle goes on until nothing is left to try.
func (w world) settle(t testing.TB, a matrix.Ablation) (matrix.Ablation, ablation.Study) {
	t.Helper()
	for range 500 {
		s := ablation.Outcomes(a)
		if s.Done {
			return a, s
		}
		if !slices.IsSorted(s.Next) {
			t.Fatalf("the next trial is without %v, which is not in order", s.Next)
		}
		a.Trials = append(a.Trials, w.try(a, s.Next))
	}
	t.Fatalf("no end after %d trials", len(a.Trials))
	return a, ablation.Study{}
}

// said is all findings, a line for each.
func said(s ablation.Study) string {
	var b strings.Builder
	for _, f := range s.Findings {
		fmt.Fprintf(&b, "%s %s", f.Fix, f.Outcome)
		if len(f.With) > 0 {
			fmt.Fprintf(&b, " %s", strings.Join(f.With, ","))
		}
		if f.Phase != "" {
			fmt.Fprintf(&b, " in %s", f.Phase)
		}
		if f.Signature != "" {
			fmt.Fprintf(&b, " by %s", f.Signature)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func letters(n int) []string {
	var all []string
	for i := range n {
		all = append(all, string(rune('a'+i)))
	}
	return all
}

func TestOutcomes(t *testing.T) {
	const install, recover = matrix.PhaseInstall, matrix.PhaseRecover
	twice := func(without []string, of ...string) bool { return slices.Equal(without, of) }
	tests := map[string]struct {
		world  world
		asked  []string
		want   string
		reason map[string]string // a part of the reason, by fix
		trials int
	}{
		"one of each": {
			world: world{fixes: letters(4), needs: []need{needs(install, "a", "a"), needs(install, "other", "b"), needs(recover, "c", "c")}},
			want:  "a required in install by a\nb required-otherwise in install by other\nc needed-after-restart in recover by c\nd harmless\n",
			// Control, none, four alone, control, and what failed again.
			trials: 2 + 4 + 1 + 3,
		},
		"without a line": {
			world: world{fixes: letters(1), needs: []need{needs(install, "", "a")}},
			want:  "a required-otherwise in install\n", trials: 4,
		},
		"nothing is needed": {
			world: world{fixes: letters(3)}, want: "a harmless\nb harmless\nc harmless\n", trials: 2 + 3,
			reason: map[string]string{"a": "and without a, b, c together"},
		},
		"two cover each other": {
			world: world{fixes: letters(6), needs: []need{needs(install, "x", "b", "e"), needs(install, "c", "c")}},
			want:  "a harmless\nb redundant-with e\nc required in install by c\nd harmless\ne redundant-with b\nf harmless\n",
		},
		"three cover each other": {
			world: world{fixes: letters(5), needs: []need{needs(install, "x", "a", "b", "d")}},
			want:  "a redundant-with b,d\nb redundant-with a,d\nc harmless\nd redundant-with a,b\ne harmless\n",
		},
		"two pairs, one of them shared": {
			world: world{fixes: letters(5), needs: []need{needs(install, "x", "a", "b"), needs(install, "y", "a", "d")}},
			want:  "a redundant-with b,d\nb redundant-with a\nc harmless\nd redundant-with a\ne harmless\n",
		},
		"one is harmful": {
			world:  world{fixes: letters(3), harmful: []string{"b"}},
			want:   "a unknown\nb harmful\nc unknown\n",
			reason: map[string]string{"a": "the cell fails with all its fixes, too", "b": "twice"},
			trials: 2 + 1 + 3 + 2,
		},
		"nothing passes": {
			world: world{fixes: letters(2), harmful: []string{"x"}}, want: "a unknown\nb unknown\n", trials: 5,
		},
		"the first control fails by chance": {
			world: world{fixes: letters(2), needs: []need{needs(install, "a", "a")}, verdict: func(without []string, before int) *matrix.Judgement {
				if len(without) == 0 && before == 0 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: install, Reason: "by chance"}
				}
				return nil
			}},
			want: "a required in install by a\nb harmless\n",
		},
		"the host has it": {
			world: world{fixes: letters(3), needs: []need{needs(install, "a", "a")}, satisfied: []string{"a"}},
			want:  "a unknown\nb harmless\nc harmless\n", trials: 1 + 1 + 2,
			reason: map[string]string{"a": "already satisfied"},
		},
		"only one is asked about": {
			world: world{fixes: letters(5), needs: []need{needs(install, "d", "d")}}, asked: []string{"d"},
			want: "d required in install by d\n", trials: 2 + 1 + 1 + 1,
		},
		"a failure that does not come back": {
			world: world{fixes: letters(2), verdict: func(without []string, before int) *matrix.Judgement {
				if twice(without, "a") && before == 0 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: install, Reason: "by chance"}
				}
				return nil
			}},
			want: "a unknown\nb harmless\n", reason: map[string]string{"a": "it failed in install: by chance, and then it passed"},
		},
		"other lines the second time": {
			world: world{fixes: letters(1), needs: []need{needs(install, "a", "a")}, verdict: func(without []string, before int) *matrix.Judgement {
				if twice(without, "a") && before == 1 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: matrix.PhaseBaseline, Reason: "taints"}
				}
				return nil
			}},
			want: "a required-otherwise in baseline\n",
		},
		"once before a restart and once after": {
			world: world{fixes: letters(1), needs: []need{needs(recover, "a", "a")}, verdict: func(without []string, before int) *matrix.Judgement {
				if twice(without, "a") && before == 1 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: matrix.PhaseBaseline, Reason: "taints"}
				}
				return nil
			}},
			want: "a required-otherwise in baseline\n",
		},
		"the control in between fails": {
			world: world{fixes: letters(2), needs: []need{needs(install, "a", "a")}, verdict: func(without []string, before int) *matrix.Judgement {
				if len(without) == 0 && before == 1 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: install, Reason: "by chance"}
				}
				return nil
			}},
			want: "a unknown\nb harmless\n", reason: map[string]string{"a": "was not the same twice"},
		},
		"blocked once": {
			world: world{fixes: letters(2), needs: []need{needs(install, "a", "a")}, verdict: func(without []string, before int) *matrix.Judgement {
				if twice(without, "a") && before == 0 {
					return judged(matrix.Blocked, "no room")
				}
				return nil
			}},
			want: "a required in install by a\nb harmless\n",
		},
		"blocked always": {
			world: world{fixes: letters(2), verdict: func(without []string, _ int) *matrix.Judgement {
				if twice(without, "a") {
					return judged(matrix.Blocked, "no room")
				}
				return nil
			}},
			want: "a unknown\nb harmless\n", reason: map[string]string{"a": "blocked: no room"},
		},
		"a gate rules it out": {
			world: world{fixes: letters(3), verdict: func(without []string, _ int) *matrix.Judgement {
				if twice(without, "a") {
					return judged(matrix.Impossible, "gate g")
				}
				return nil
			}},
			// It is not tried again.
			want: "a unknown\nb harmless\nc harmless\n", trials: 2 + 3 + 1, reason: map[string]string{"a": "impossible: gate g"},
		},
		"the control is blocked": {
			world: world{fixes: letters(2), verdict: func([]string, int) *matrix.Judgement { return judged(matrix.Blocked, "no image") }},
			want:  "a unknown\nb unknown\n", trials: 2, reason: map[string]string{"b": "blocked: no image"},
		},
		"together it is blocked": {
			world: world{fixes: letters(3), needs: []need{needs(install, "c", "c")}, verdict: func(without []string, _ int) *matrix.Judgement {
				if twice(without, "a", "b") {
					return judged(matrix.Blocked, "no room")
				}
				return nil
			}},
			want: "a unknown\nb unknown\nc required in install by c\n",
		},
		"together it fails by chance": {
			world: world{fixes: letters(3), needs: []need{needs(install, "c", "c")}, verdict: func(without []string, before int) *matrix.Judgement {
				if twice(without, "a", "b") && before == 0 {
					return &matrix.Judgement{Verdict: matrix.Fail, Phase: install, Reason: "by chance"}
				}
				return nil
			}},
			want: "a unknown\nb unknown\nc required in install by c\n", reason: map[string]string{"a": "contradict each other"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, s := test.world.settle(t, test.world.ablation(test.asked...))
			if got := said(s); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
			if test.trials > 0 && len(a.Trials) != test.trials {
				t.Errorf("it took %d trials, want %d", len(a.Trials), test.trials)
			}
			for _, f := range s.Findings {
				if f.Reason == "" || !strings.Contains(f.Reason, test.reason[f.Fix]) {
					t.Errorf("%s: the reason is %q, want something of %q", f.Fix, f.Reason, test.reason[f.Fix])
				}
				if slices.Contains(test.world.satisfied, f.Fix) && len(f.Runs) > 0 {
					t.Errorf("%s was left out, which proves nothing", f.Fix)
				}
			}
		})
	}
}

// An ablation that was cut short says what it has, and goes on from there.
func TestInterrupted(t *testing.T) {
	w := world{fixes: letters(4), needs: []need{needs(matrix.PhaseInstall, "a", "a"), needs(matrix.PhaseInstall, "x", "b", "c")}}
	whole, end := w.settle(t, w.ablation())
	for n := range whole.Trials {
		cut := whole
		cut.Trials = whole.Trials[:n]
		s := ablation.Outcomes(cut)
		if s.Done || !slices.Equal(s.Next, whole.Trials[n].Without) {
			t.Fatalf("after %d trials the next is without %v, want %v", n, s.Next, whole.Trials[n].Without)
		}
		for i, f := range s.Findings {
			if n == 0 && f.Reason != "not tried yet" {
				t.Errorf("before the first trial %s is unknown: %s", f.Fix, f.Reason)
			}
			if f.Outcome != ablation.Unknown && f.Outcome != end.Findings[i].Outcome && f.Outcome != ablation.RedundantWith {
				t.Errorf("after %d trials %s is %s, at the end %s", n, f.Fix, f.Outcome, end.Findings[i].Outcome)
			}
		}
	}
}

// random is a world of up to n fixes with needs of one, two and three of them.
func random(r *rand.Rand, n int) world {
	w := world{fixes: letters(1 + r.IntN(n))}
	for range r.IntN(1 + len(w.fixes)/2) {
		members := map[string]bool{}
		for range 1 + r.IntN(3)*r.IntN(2) {
			members[w.fixes[r.IntN(len(w.fixes))]] = true
		}
		var set []string
		for _, id := range w.fixes {
			if members[id] {
				set = append(set, id)
			}
		}
		phase := []matrix.Phase{matrix.PhaseInstall, matrix.PhaseRecover}[r.IntN(2)]
		w.needs = append(w.needs, needs(phase, set[0], set...))
	}
	return w
}

// Whatever the fixes need of each other, what is said of them is so, and the
// cost stays within its limit.
func TestRandomWorlds(t *testing.T) {
	for seed := range uint64(500) {
		w := random(rand.New(rand.NewPCG(seed, 1)), 20)
		a, s := w.settle(t, w.ablation())
		if cost, limit := ablation.Cost(a), ablation.Limit(len(w.fixes)); cost > limit {
			t.Fatalf("seed %d: %d fixes cost %.1f runs of the cell, the limit is %.1f", seed, len(w.fixes), cost, limit)
		}
		if n := float64(len(w.fixes)); n >= 12 && ablation.Cost(a) > 1.5*n {
			t.Fatalf("seed %d: %g fixes cost %.1f runs of the cell, more than half as much again", seed, n, ablation.Cost(a))
		}
		fails := func(without ...string) bool { return w.try(matrix.Ablation{}, without).Verdict == matrix.Fail }
		var harmless []string
		for _, f := range s.Findings {
			switch f.Outcome {
			case ablation.Required, ablation.RequiredOtherwise, ablation.NeededAfterRestart:
				if !fails(f.Fix) {
					t.Fatalf("seed %d: %s is %s, and the cell passes without it", seed, f.Fix, f.Outcome)
				}
			case ablation.Harmless:
				harmless = append(harmless, f.Fix)
			case ablation.RedundantWith:
				if fails(f.Fix) || !fails(slices.Concat(f.With, []string{f.Fix})...) {
					t.Fatalf("seed %d: %s is %s %v, needs are %+v", seed, f.Fix, f.Outcome, f.With, w.needs)
				}
			case ablation.Unknown:
				if !strings.Contains(f.Reason, "the limit of") {
					t.Fatalf("seed %d: %s is unknown: %s", seed, f.Fix, f.Reason)
				}
			default:
				t.Fatalf("seed %d: %s is %s", seed, f.Fix, f.Outcome)
			}
		}
		if fails(harmless...) {
			t.Fatalf("seed %d: the cell fails without %v, which are all harmless; needs are %+v", seed, harmless, w.needs)
		}
	}
}

// The whole of a catalogue as large as ours, with a third of it needed and one
// pair that cover each other, stays within half as much again as its fixes.
func TestCost(t *testing.T) {
	w := world{fixes: letters(20), needs: []need{needs(matrix.PhaseInstall, "x", "f", "q")}}
	for _, id := range []string{"a", "c", "g", "h", "n", "t"} {
		w.needs = append(w.needs, needs(matrix.PhaseInstall, id, id))
	}
	a, s := w.settle(t, w.ablation())
	for _, f := range s.Findings {
		if f.Outcome == ablation.Unknown {
			t.Errorf("%s is unknown: %s", f.Fix, f.Reason)
		}
	}
	if cost := ablation.Cost(a); cost > 1.5*20 {
		t.Errorf("%d trials cost %.1f runs of the cell", len(a.Trials), cost)
	}
}

// Where failures take as long as passes, the limit holds all the same, and what
// is not tried is unknown.
func TestLimit(t *testing.T) {
	w := world{fixes: letters(20), verdict: func(without []string, _ int) *matrix.Judgement {
		if len(without) == 1 {
			return &matrix.Judgement{Verdict: matrix.Fail, Phase: matrix.PhaseForcedRecover, Reason: "late"}
		}
		return nil
	}}
	a, s := w.settle(t, w.ablation())
	if cost := ablation.Cost(a); cost > 30 {
		t.Errorf("it cost %.1f runs of the cell, the limit is 30", cost)
	}
	known, unknown := 0, 0
	for _, f := range s.Findings {
		switch {
		case f.Outcome == ablation.NeededAfterRestart:
			known++
		case f.Outcome == ablation.Unknown && strings.Contains(f.Reason, "the limit of 30.0 runs"):
			unknown++
		default:
			t.Errorf("%s is %s: %s", f.Fix, f.Outcome, f.Reason)
		}
	}
	if known == 0 || unknown == 0 {
		t.Errorf("%d are known and %d unknown", known, unknown)
	}
}

// minimize goes on until nothing is left to try.
func (w world) minimize(t testing.TB, a matrix.Ablation) (matrix.Ablation, ablation.Minimum) {
	t.Helper()
	a.Goal = matrix.GoalMinimal
	for range 500 {
		m := ablation.Minimal(a)
		if m.Done {
			return a, m
		}
		a.Trials = append(a.Trials, w.try(a, m.Next))
	}
	t.Fatalf("no end after %d trials", len(a.Trials))
	return a, ablation.Minimum{}
}

func TestMinimal(t *testing.T) {
	for seed := range uint64(300) {
		w := random(rand.New(rand.NewPCG(seed, 2)), 20)
		a, m := w.minimize(t, w.ablation())
		if m.Why != "" {
			t.Fatalf("seed %d: %s", seed, m.Why)
		}
		fails := func(without ...string) bool { return w.try(matrix.Ablation{}, without).Verdict == matrix.Fail }
		if fails(m.Dropped...) {
			t.Fatalf("seed %d: it fails with %v", seed, m.Kept)
		}
		passed := 0
		for _, trial := range a.Trials {
			if trial.Verdict == matrix.Pass && slices.Equal(trial.Without, slices.Sorted(slices.Values(m.Dropped))) {
				passed++
			}
		}
		if len(m.Dropped) > 0 && passed < 2 {
			t.Fatalf("seed %d: without %v it passed %d times, want two", seed, m.Dropped, passed)
		}
		for _, id := range m.Kept {
			if !fails(slices.Concat(m.Dropped, []string{id})...) {
				t.Fatalf("seed %d: %s can be spared of %v", seed, id, m.Kept)
			}
		}
		if len(a.Trials) > 6*len(w.fixes)+4 {
			t.Fatalf("seed %d: %d fixes took %d trials", seed, len(w.fixes), len(a.Trials))
		}
	}
}

// What opens the host most goes first, where one of two is enough.
func TestMinimalDropsPrivilege(t *testing.T) {
	w := world{fixes: letters(3), needs: []need{needs(matrix.PhaseInstall, "x", "a", "c")}}
	if _, m := w.minimize(t, w.ablation()); !slices.Equal(m.Kept, []string{"c"}) || m.Why != "" {
		t.Errorf("kept %v: %s", m.Kept, m.Why)
	}
}

func TestMinimalSaysWhatIsOpen(t *testing.T) {
	tests := map[string]struct {
		world world
		why   string
		kept  []string
	}{
		"the cell fails": {world{fixes: letters(2), harmful: []string{"x"}}, "does not pass with all its fixes: it failed in install", letters(2)},
		"blocked": {world{fixes: letters(2), needs: []need{needs(matrix.PhaseInstall, "b", "b")}, verdict: func(without []string, _ int) *matrix.Judgement {
			if slices.Equal(without, []string{"a"}) {
				return judged(matrix.Blocked, "no room")
			}
			return nil
		}}, "without a: blocked: no room", letters(2)},
		"passes once": {world{fixes: letters(2), needs: []need{needs(matrix.PhaseInstall, "b", "b")}, verdict: func(without []string, before int) *matrix.Judgement {
			if slices.Equal(without, []string{"a"}) && before > 0 {
				return &matrix.Judgement{Verdict: matrix.Fail, Phase: matrix.PhaseInstall, Reason: "by chance"}
			}
			return nil
		}}, "without a it passed once, and then it failed in install: by chance", letters(2)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, m := test.world.minimize(t, test.world.ablation())
			if !strings.Contains(m.Why, test.why) || !slices.Equal(m.Kept, test.kept) {
				t.Errorf("kept %v: %q, want %v and something of %q", m.Kept, m.Why, test.kept, test.why)
			}
		})
	}
}

func TestHasten(t *testing.T) {
	seconds := func(n int) matrix.Duration { return matrix.Duration(time.Duration(n) * time.Second) }
	before := matrix.Timeouts{Create: seconds(120), Install: seconds(360), Recover: seconds(300), Restart: seconds(120), Stability: seconds(30)}
	control := func(install, recover int) matrix.Attempt {
		return matrix.Attempt{Phases: []matrix.PhaseResult{
			{Phase: matrix.PhaseInstall, Duration: seconds(install)},
			{Phase: matrix.PhaseBaseline, Duration: seconds(40), Waited: seconds(30)},
			{Phase: matrix.PhaseRecover, Duration: seconds(30 + recover), Waited: seconds(30)},
			{Phase: matrix.PhaseForcedRecover, Duration: seconds(40), Waited: seconds(30)},
		}}
	}
	for name, test := range map[string]struct {
		control          matrix.Attempt
		install, recover int
	}{
		"a quick one":               {control(12, 15), 100, 60},
		"a slower one":              {control(50, 45), 150, 135},
		"one slower than all limit": {control(300, 200), 360, 300},
		"one that failed":           {matrix.Attempt{}, 360, 300},
	} {
		want := before
		want.Install, want.Recover = seconds(test.install), seconds(test.recover)
		if got := ablation.Hasten(before, test.control); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// What a run shows of a fix is held against what its data says.
func TestAgainst(t *testing.T) {
	w := world{fixes: letters(4), needs: []need{needs(matrix.PhaseInstall, "a", "a"), needs(matrix.PhaseInstall, "other", "b"),
		needs(matrix.PhaseRecover, "late", "c"), needs(matrix.PhaseInstall, "", "d")}}
	against := func(w world, change func(*matrix.Ablation)) map[string]string {
		a := w.ablation()
		if change != nil {
			change(&a)
		}
		_, s := w.settle(t, a)
		said := map[string]string{}
		for _, f := range s.Findings {
			if f.Outcome == ablation.Unknown && f.Against != "" {
				t.Errorf("%s is unknown, and against %s", f.Fix, f.Against)
			}
			said[f.Fix] = f.Against
		}
		return said
	}
	harmful := func(causes ...string) func(*matrix.Ablation) {
		return func(a *matrix.Ablation) { a.Fixes[0].Cures, a.Fixes[0].Harmful, a.Fixes[0].Causes = nil, true, causes }
	}
	for name, test := range map[string]struct {
		world  world
		change func(*matrix.Ablation)
		want   map[string]string
	}{
		"what they claim, and what they do not": {w, nil, map[string]string{"a": "", "b": "it does not say that it cures other, by which the cell fails without it",
			"c": "it does not say that it cures late, by which the cell fails without it", "d": "no signature knows how the cell fails without it"}},
		"harm that nobody knew of":         {world{fixes: letters(2), harmful: []string{"a"}}, nil, map[string]string{"a": "it is not marked harmful, and the cell passes only without it", "b": ""}},
		"harm as it is said":               {world{fixes: letters(1), harmful: []string{"a"}}, harmful("harm"), map[string]string{"a": ""}},
		"harm of another kind":             {world{fixes: letters(1), harmful: []string{"a"}}, harmful("x"), map[string]string{"a": "it says that it causes x, and the cell fails with it by something else"}},
		"harm that does not come":          {world{fixes: letters(1)}, harmful("x", "y"), map[string]string{"a": "it says that it causes x, y, and the cell passes with it"}},
		"harm that no failure would show":  {world{fixes: letters(1)}, harmful(), map[string]string{"a": ""}},
		"harmful advice that a cell needs": {world{fixes: letters(1), needs: []need{needs(matrix.PhaseInstall, "x", "a")}}, harmful("x"), map[string]string{"a": "it is marked harmful, and the cell needs it"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := against(test.world, test.change); !maps.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
