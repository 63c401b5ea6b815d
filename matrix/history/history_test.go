package history_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
)

var start = time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)

// attempt ends with the phase that fails; with none, everything is healthy.
func attempt(failed matrix.Phase) matrix.Attempt {
	a := matrix.Attempt{Started: start, Host: matrix.HostFacts{Kernel: "6.12.1", Cgroup: "v2", Incus: "6.0.4", LXC: "6.0.4"},
		Nodes: []matrix.NodeFacts{{Node: "s1", Kernel: "6.12.1", Cgroup: "v2", OSID: "debian", OSVersion: "13", Runc: "1.3.2", Containerd: "2.1.0", Kubernetes: "1.34.4", BootIDs: []string{"1", "2", "3"}}},
		Fixes: []matrix.AppliedFix{{ID: "swap", State: "applied"}, {ID: "ids", State: "not-applicable"}}}
	for _, p := range (matrix.Cell{}).Phases() {
		r := matrix.PhaseResult{Phase: p, Duration: matrix.Duration(10 * time.Second), Evidence: []matrix.Evidence{{Check: "c", Outcome: matrix.Healthy, Saw: "it"}}}
		if p == matrix.PhaseBaseline {
			r.Waited = matrix.Duration(5 * time.Second)
		}
		if p == failed {
			r.Evidence[0].Outcome = matrix.Unhealthy
		}
		a.Phases = append(a.Phases, r)
		if p == failed {
			break
		}
	}
	return a
}

func result(os string, attempts ...matrix.Attempt) matrix.Result {
	c := matrix.Cell{Host: matrix.HostRef{Name: "native", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: os}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	return matrix.Result{Cell: c, Judgement: matrix.Judge(c, attempts), Attempts: attempts}
}

func run(id string, results ...matrix.Result) matrix.Run {
	r := matrix.Run{ID: id, Version: "v1", Results: results, Started: start, Plan: matrix.Plan{Matrix: "default",
		Inputs: []matrix.Input{{Kind: "image", Name: "debian/13", Digest: strings.Repeat("a", 64)}}}}
	for _, one := range results {
		r.Plan.Cells = append(r.Plan.Cells, one.Cell)
	}
	return r
}

func TestOf(t *testing.T) {
	without := result("debian/12", attempt(matrix.PhaseRecover))
	without.Cell.Without = []string{"swap"}
	got := history.Of(run("a", result("debian/13", attempt("")), without, result("debian/14"), result("debian/11", attempt(matrix.PhaseInstall))))
	for i, want := range []string{
		"kubeadm-1.34/debian-13/1/native [] pass 1 35s 20s",
		"kubeadm-1.34/debian-12/1/native [without swap] fail 1 35s 0s",
		"kubeadm-1.34/debian-14/1/native [] unknown 0 0s 0s",
		"kubeadm-1.34/debian-11/1/native [] fail 1 0s 0s",
	} {
		c := got.Cells[i]
		if said := fmt.Sprint(c.ID, " ", c.Chosen, " ", c.Verdict, " ", c.Set, " ", c.Up, " ", c.Recovery); said != want {
			t.Errorf("cell %d is remembered as %q, want %q", i, said, want)
		}
	}
	if set := got.Sets[0]; set["runc"] != "1.3.2" || set["fix swap"] != "applied" || set["kubeadm"] != "1.34.4" || set["OS"] != "debian 13" {
		t.Errorf("the inputs are %v", set)
	}
	if _, there := got.Sets[0]["fix ids"]; there || len(got.Sets) != 1 {
		t.Errorf("the sets of inputs are %v", got.Sets)
	}
	if got.Inputs["image debian/13"] != "aaaaaaaaaaaa" || got.Inputs["lxcmatrix"] != "v1" {
		t.Errorf("the run's inputs are %v", got.Inputs)
	}
}

// Two runs that differ in one input differ by that one, which is named, and it is
// named beside the cell that regressed.
func TestTheOneInputThatDiffersIsNamed(t *testing.T) {
	for want, change := range map[string]func(*matrix.Run, *matrix.Result){
		"kernel 6.12.1 -> 6.12.9":              func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Host.Kernel = "6.12.9" },
		"cgroup v2 -> v1":                      func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Host.Cgroup = "v1" },
		"Incus 6.0.4 -> 7.0":                   func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Host.Incus = "7.0" },
		"AppArmor off -> on":                   func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Host.AppArmor = new(true) },
		"containerd 2.1.0 -> 2.1.5":            func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Nodes[0].Containerd = "2.1.5" },
		"runc 1.3.2 -> 1.3.3":                  func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Nodes[0].Runc = "1.3.3" },
		"kubeadm 1.34.4 -> 1.34.5":             func(_ *matrix.Run, r *matrix.Result) { r.Cell.Distro.Version = "1.34.5" },
		"provenance built -> release":          func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Provenance = "release" },
		"fix swap applied -> left-out":         func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Fixes[0].State = "left-out" },
		"fix ids not-applicable -> applied":    func(_ *matrix.Run, r *matrix.Result) { r.Attempts[0].Fixes[1].State = "applied" },
		"gates kept -> defied":                 func(_ *matrix.Run, r *matrix.Result) { r.Cell.DefyGates = true },
		"image debian/13 aaaaaaaaaaaa -> bbbb": func(run *matrix.Run, _ *matrix.Result) { run.Plan.Inputs[0].Digest = "bbbb" },
		"timeout install 0s -> 1m0s":           func(run *matrix.Run, _ *matrix.Result) { run.Plan.Timeouts.Install = matrix.Duration(time.Minute) },
		"node CPUs 0 -> 1":                     func(run *matrix.Run, _ *matrix.Result) { run.Plan.Budget.Node.CPUs = 1 },
		"lxcmatrix v1 -> v2":                   func(run *matrix.Run, _ *matrix.Result) { run.Version = "v2" },
		"restarts graceful, forced -> graceful, forced, service": func(_ *matrix.Run, r *matrix.Result) {
			r.Cell.Restarts = []matrix.Restart{matrix.RestartService}
		},
	} {
		made := func(failed matrix.Phase, change func(*matrix.Run, *matrix.Result)) history.Run {
			r := result("debian/13", attempt(failed))
			r.Attempts[0].Host.AppArmor, r.Attempts[0].Provenance = new(false), "built"
			whole := run("x", r)
			change(&whole, &whole.Results[0])
			return history.Of(whole)
		}
		d := history.Compare(made("", func(*matrix.Run, *matrix.Result) {}), made(matrix.PhaseRecover, change))
		if len(d.Inputs) != 1 || d.Inputs[0].String() != want {
			t.Errorf("changed inputs are %v, want %s", d.Inputs, want)
			continue
		}
		if d.Summary() != "1 regressed; changed inputs: "+want {
			t.Errorf("it is told as %s", d.Summary())
		}
		if ofCell := d.Inputs[0].Cells > 0; ofCell != (len(d.Cells[0].Inputs) == 1) {
			t.Errorf("%s: of %d cells, beside the cell %v", want, d.Inputs[0].Cells, d.Cells[0].Inputs)
		}
	}
}

func remembered(id string, set history.Inputs, verdicts ...matrix.Verdict) history.Run {
	r := history.Run{ID: id, Sets: []history.Inputs{set}}
	for i, v := range verdicts {
		if v >= 0 {
			r.Cells = append(r.Cells, history.Cell{ID: matrix.CellID(fmt.Sprint("c", i)), Judgement: matrix.Judgement{Verdict: v}, Set: 1})
		}
	}
	return r
}

const none = matrix.Verdict(-1)

func TestCompare(t *testing.T) {
	a := remembered("a", history.Inputs{"runc": "1.3.2", "kernel": "6.12", "fix swap": "applied", "fix firewalld": "undecided"},
		matrix.Pass, matrix.Pass, matrix.Impossible, matrix.Fail, matrix.Blocked, none, matrix.Pass, matrix.Fail, matrix.Pass, none, matrix.Fail, matrix.Pass)
	b := remembered("b", history.Inputs{"runc": "1.3.3", "kernel": "6.12", "fix kmsg": "applied", "containerd": "2.1.0"},
		matrix.Fail, matrix.Blocked, matrix.XPass, matrix.Pass, matrix.Pass, matrix.Pass, matrix.Unknown, matrix.Blocked, none, matrix.Fail, matrix.Fail, matrix.Pass)
	a.Inputs, b.Inputs = history.Inputs{"lxcmatrix": "v1"}, history.Inputs{"lxcmatrix": "v2", "image debian/13": "abc"}
	d := history.Compare(a, b)
	var got []string
	for _, c := range d.Cells {
		got = append(got, fmt.Sprintf("%s %s", c.Cell, c.Kind))
	}
	want := []string{"c0 regressed", "c1 regressed", "c2 regressed", "c6 lost", "c3 fixed", "c4 newly passing", "c5 newly passing", "c7 changed", "c9 added", "c8 removed"}
	if !slices.Equal(got, want) {
		t.Errorf("the cells differ by\n%q, want\n%q", got, want)
	}
	const summary = "3 regressed, 1 lost, 1 fixed, 2 newly passing, 1 changed, 1 added, 1 removed; changed inputs: fix kmsg not-applicable -> applied, fix swap applied -> not-applicable, runc 1.3.2 -> 1.3.3, lxcmatrix v1 -> v2"
	if d.Summary() != summary || !d.Worse() {
		t.Errorf("worse %t: %s", d.Worse(), d.Summary())
	}
	if d.Inputs[0].Cells != 9 || len(d.Cells[0].Inputs) != 3 {
		t.Errorf("inputs %v, of the first cell %v", d.Inputs, d.Cells[0].Inputs)
	}
	same := history.Compare(a, a)
	if same.Worse() || same.Summary() != "no cell differs; no input changed" {
		t.Errorf("a run differs from itself: %s", same.Summary())
	}
	raw, err := json.Marshal(same)
	if err != nil || string(raw) != `{"apiVersion":"lxcmatrix.dev/diff/v1","summary":"no cell differs; no input changed","worse":false,"from":"a","to":"a","cells":[],"inputs":[]}` {
		t.Errorf("JSON: %s, %v", raw, err)
	}
	if better := history.Compare(b, a); better.Worse() != true {
		t.Error("a cell that was newly passing and is unplanned again is not worse, one that was fixed and fails is")
	}
}

// Of an input that stands for several only what was replaced is told: a run of
// fewer cells has less of it, and that is no change.
func TestInputsOfSeveral(t *testing.T) {
	for now, want := range map[string]string{
		"1.33 a, 1.34 b, 1.35 c": "no input changed",
		"1.33 a, 1.35 c":         "no input changed",
		"1.33 a, 1.34 b, 1.36 d": "changed inputs: artifact kubelet 1.35 c -> 1.36 d",
		"1.33 x":                 "changed inputs: artifact kubelet 1.33 a, 1.34 b, 1.35 c -> 1.33 x",
	} {
		a, b := remembered("a", nil, matrix.Pass), remembered("b", nil, matrix.Pass)
		a.Inputs, b.Inputs = history.Inputs{"artifact kubelet": "1.33 a, 1.34 b, 1.35 c"}, history.Inputs{"artifact kubelet": now}
		if got := history.Compare(a, b).Summary(); got != "no cell differs; "+want {
			t.Errorf("%s: %s", now, got)
		}
	}
}

func TestSeries(t *testing.T) {
	var runs []history.Run
	for i := range 20 {
		r := remembered(fmt.Sprint(i), nil, matrix.Pass)
		r.Cells[0].Up = matrix.Duration(time.Duration(20-i) * time.Second)
		runs = append(runs, r)
	}
	runs[3].Cells[0].Verdict, runs[4].Cells[0].Verdict = matrix.Flaky, matrix.Blocked
	chosen := remembered("x", nil, matrix.Fail)
	chosen.Cells[0].Chosen = []string{"without swap"}
	all := history.AllSeries(append(runs, chosen))
	s := all[history.Key("c0", nil)]
	flaky, results := s.Flakes()
	if len(all) != 2 || len(s.Points) != 20 || flaky != 1 || results != 19 {
		t.Errorf("%d pasts, of %d runs, flaky in %d of %d", len(all), len(s.Points), flaky, results)
	}
	if s.Up.P50 != 10*time.Second || s.Up.P95 != 19*time.Second || s.Up.Values[0] != 20*time.Second || len(s.Recovery.Values) != 0 || s.Recovery.P95 != 0 {
		t.Errorf("it took %v, recovery %v", s.Up, s.Recovery)
	}
}
