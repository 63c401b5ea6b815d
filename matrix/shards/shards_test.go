package shards_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/shards"
)

var start = time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)

func cell(release string) matrix.Cell {
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/" + release}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	return c
}

// world is a plan of four cells, the last of which a gate rules out.
func world() matrix.Plan {
	p := matrix.Plan{APIVersion: matrix.PlanAPIVersion, Matrix: "default", Cells: []matrix.Cell{cell("11"), cell("12"), cell("13"), cell("14")},
		Inputs: []matrix.Input{{Kind: "artifact", Name: "kubelet", Version: "1.34.4", Digest: "aa", Provenance: "release"}, {Kind: "image", Name: "debian/13", Digest: "", Source: "mmdebstrap"}}}
	p.Cells[3].Gate = &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "kubelet >= 1.35 refuses cgroup v1", Source: "https://kep.k8s.io/5573"}
	return p
}

// shard is a run of some cells of a plan, by their places: the phase that fails, or
// "-" where it was never begun.
func shard(p matrix.Plan, part string, n int, came map[int]string) matrix.Run {
	whole := p
	p.Shard = &matrix.Shard{Part: part, Plan: whole.Digest(), Cells: whole.Cells}
	p.Cells = nil
	r := matrix.Run{ID: fmt.Sprintf("20261120T19330%dZ-aaaaaa", n), Version: "v1", Started: start.Add(time.Duration(n) * time.Second), Ended: start.Add(time.Minute)}
	for i, c := range whole.Cells {
		how, has := came[i]
		if !has {
			continue
		}
		p.Cells = append(p.Cells, c)
		var attempts []matrix.Attempt
		if how != "-" {
			attempts = []matrix.Attempt{{Started: start}}
			for _, phase := range c.Phases() {
				result := matrix.PhaseResult{Phase: phase, Evidence: []matrix.Evidence{{Check: "check", Outcome: matrix.Healthy, Saw: "it"}}}
				if string(phase) == how {
					result.Blame, result.Error = matrix.BlameNode, "it broke"
				}
				attempts[0].Phases = append(attempts[0].Phases, result)
				if result.Blame != "" {
					break
				}
			}
		}
		r.Results = append(r.Results, matrix.Result{Cell: c, Judgement: matrix.Judge(c, attempts), Attempts: attempts})
	}
	r.Plan = p
	return r
}

func said(m shards.Merged) (all []string) {
	for i, r := range m.Run.Results {
		if m.Run.Plan.Cells[i].ID != r.Cell.ID {
			all = append(all, "out of order")
		}
		all = append(all, fmt.Sprint(r.Cell.OS.Release(), " ", r.Judgement.Verdict, " ", r.Judgement.Phase))
	}
	return all
}

func TestMerge(t *testing.T) {
	p := world()
	one, two := shard(p, "1/3", 1, map[int]string{0: "install", 3: "-"}), shard(p, "2/3", 2, map[int]string{1: "baseline"})
	two.HarnessErrors, two.Ended = []string{"no room"}, time.Time{}
	two.Plan.Cells[0].Unavailable = ""
	two.Plan.Inputs = slices.Clone(two.Plan.Inputs)
	two.Plan.Inputs[1].Digest = "bb"
	m, err := shards.Merge([]matrix.Run{two, one})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := said(m), []string{"11 fail install", "12 fail baseline", "13 unknown ", "14 impossible "}; !slices.Equal(got, want) {
		t.Errorf("merged it is %q, want %q", got, want)
	}
	want := []string{"shard 2/3 (run 20261120T193302Z-aaaaaa): no room", "shard 2/3 (run 20261120T193302Z-aaaaaa) did not run to its end",
		"1 of 4 planned cells are in none of the 2 shards: kubeadm-1.34/debian-13/1/embedded"}
	if !slices.Equal(m.Run.HarnessErrors, want) {
		t.Errorf("it says %q, want %q", m.Run.HarnessErrors, want)
	}
	if m.Run.Plan.Shard != nil || m.Run.Plan.Digest() != p.Digest() || !m.Run.Started.Equal(one.Started) || !m.Run.Ended.Equal(one.Ended) {
		t.Errorf("the whole run is %+v", m.Run)
	}
	if in := m.Run.Plan.Inputs; len(in) != 2 || in[1].Digest != "bb" {
		t.Errorf("its inputs are %+v", in)
	}
	if m.From[p.Cells[0].ID] != 1 || m.From[p.Cells[1].ID] != 0 {
		t.Errorf("cells are from %v", m.From)
	}
	if code := matrix.ExitCode(m.Run, false); code != matrix.ExitDeviation {
		t.Errorf("exit code %d", code)
	}
	again, err := shards.Merge([]matrix.Run{one, two})
	if err != nil || again.Suffix != m.Suffix || len(m.Suffix) != 6 {
		t.Errorf("in another order the suffix is %q, was %q: %v", again.Suffix, m.Suffix, err)
	}
}

// A cell of two shards is that of the later, or of the one that has a result.
func TestMergeOverlap(t *testing.T) {
	p := world()
	all := map[int]string{0: "install", 1: "baseline", 2: "install", 3: "-"}
	first := shard(p, "1/1", 1, map[int]string{0: "install", 1: "-", 2: "-", 3: "-"})
	for name, runs := range map[string][]matrix.Run{
		"run again":               {first, shard(p, "1/1", 2, all)},
		"again, and ended sooner": {shard(p, "1/1", 1, all), shard(p, "1/1", 2, map[int]string{0: "-", 3: "-"})},
	} {
		m, err := shards.Merge(runs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, want := said(m), []string{"11 fail install", "12 fail baseline", "13 fail install", "14 impossible "}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	p := world()
	one := shard(p, "1/2", 1, map[int]string{0: "install"})
	changed := func(change func(*matrix.Plan)) matrix.Run {
		other := world()
		other.Cells = slices.Clone(other.Cells)
		change(&other)
		return shard(other, "2/2", 2, map[int]string{1: "install"})
	}
	with := func(change func(*matrix.Run)) matrix.Run {
		r := shard(p, "2/2", 2, map[int]string{1: "install"})
		change(&r)
		return r
	}
	for want, runs := range map[string][]matrix.Run{
		"there is none":  nil,
		"is no shard":    {with(func(r *matrix.Run) { r.Plan.Shard = nil })},
		"is there twice": {one, one},
		"different plans: only the first has cell kubeadm-1.34/debian-14/1/embedded": {one, changed(func(p *matrix.Plan) { p.Cells = p.Cells[:3] })},
		"is of kubeadm 1.34.4 and of 1.34.5":                                         {one, changed(func(p *matrix.Plan) { p.Cells[2].Distro.Version = "1.34.5" })},
		"different plans: of matrix default and of other":                            {one, changed(func(p *matrix.Plan) { p.Matrix = "other" })},
		"different plans: their digests are":                                         {one, changed(func(p *matrix.Plan) { p.Timeouts.Install = 7 })},
		"different versions of lxcmatrix: v1 and v2":                                 {one, with(func(r *matrix.Run) { r.Version = "v2" })},
		"left fixes out":             {one, with(func(r *matrix.Run) { r.Ablations = []matrix.Ablation{{}} })},
		"the whole plan's digest is": {one, with(func(r *matrix.Run) { s := *r.Plan.Shard; s.Plan = "00"; r.Plan.Shard = &s })},
		"disagree on cell kubeadm-1.34/debian-11/1/embedded: fail in install and fail in baseline": {one, shard(p, "1/2", 3, map[int]string{0: "baseline"})},
		"different bytes of artifact kubelet 1.34.4": {one, with(func(r *matrix.Run) {
			r.Plan.Inputs = slices.Clone(r.Plan.Inputs)
			r.Plan.Inputs[0].Digest = "cc"
		})},
	} {
		_, err := shards.Merge(runs)
		var refused *shards.Error
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
