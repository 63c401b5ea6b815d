// Package samples makes runs for the tests of reports: their evidence is what
// leads matrix.Judge to each verdict.
package samples

import (
	"fmt"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

var start = time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)

// Cell is a planned cell of kubeadm on a Debian release.
func Cell(release string) matrix.Cell {
	c := matrix.Cell{
		Host:     matrix.HostRef{Name: "embedded", Driver: "embedded"},
		Distro:   matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS:       matrix.OS{Name: "debian/" + release},
		Topology: matrix.Topology{Servers: 1},
	}
	c.ID = c.NewID()
	return c
}

// Passing is an attempt at a cell in which everything was healthy.
func Passing(c matrix.Cell) matrix.Attempt {
	a := matrix.Attempt{
		Started:    start,
		Host:       Host(),
		Provenance: "built",
		Fixes: []matrix.AppliedFix{
			{ID: "kmsg-device", State: "applied", Why: "true"},
			{ID: "cgroup1-split-cpu", State: "applied", Why: `host.cgroup == "v1"`},
			{ID: "conntrack-max", State: "satisfied"},
			{ID: "containerd-apparmor", State: "not-applicable", Why: "host.apparmor"},
		},
		Nodes: []matrix.NodeFacts{{
			Node: "cp1", Kernel: "6.18.5", Cgroup: "v1", OSID: c.OS.Family(), OSVersion: c.OS.Release(), Systemd: "257",
			Containerd: "1.7.30", Runc: "1.3.4", Kubernetes: c.Distro.Version, BootIDs: []string{"b1", "b2", "b3"},
		}},
	}
	at := start
	for i, p := range (matrix.Cell{}).Phases() {
		r := matrix.PhaseResult{Phase: p, Started: at, Duration: matrix.Duration(time.Duration(900+i*4200) * time.Millisecond)}
		if p == matrix.PhaseBaseline || p == matrix.PhaseRecover || p == matrix.PhaseForcedRecover {
			r.Duration += matrix.Duration(30 * time.Second)
			r.Waited = matrix.Duration(30 * time.Second)
		}
		if p != matrix.PhaseCollect && p != matrix.PhaseDestroy {
			r.Evidence = []matrix.Evidence{{Check: "check-" + string(p), Node: "cp1", Outcome: matrix.Healthy, Saw: "as it should be", Took: matrix.Duration(time.Second)}}
		}
		a.Phases = append(a.Phases, r)
		at = at.Add(r.Duration.Std())
	}
	a.Ended = at
	return a
}

// Host is what was observed on the host of every sample: one without AppArmor,
// CAP_SYS_RESOURCE and the hugetlb controller.
func Host() matrix.HostFacts {
	caps := slices.DeleteFunc(view.Capabilities(), func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	return matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", CgroupCPUSplit: true, Controllers: []string{"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "blkio"},
		Capabilities: caps, AppArmor: new(false), SELinux: new(false), Incus: "6.0.4", LXC: "6.0.4", Storage: "dir", CPUs: 2, MemoryBytes: 8 << 30}
}

// Failing is an attempt that ends in a phase, by what change does to it.
func Failing(c matrix.Cell, phase matrix.Phase, change func(*matrix.PhaseResult)) matrix.Attempt {
	a := Passing(c)
	var phases []matrix.PhaseResult
	for _, r := range a.Phases {
		after := len(phases) > 0 && phases[len(phases)-1].Phase == phase
		if after && r.Phase != matrix.PhaseCollect {
			break
		}
		if r.Phase == phase {
			change(&r)
		}
		phases = append(phases, r)
	}
	a.Phases = append(phases, a.Phases[len(a.Phases)-2:]...)
	return a
}

// OOM is what a cell looks like that lacks restrict-oom-score-adj.
func OOM(c matrix.Cell) matrix.Attempt {
	a := Failing(c, matrix.PhaseBaseline, func(r *matrix.PhaseResult) {
		r.Evidence = append(r.Evidence, matrix.Evidence{Check: "kube-system-pods", Outcome: matrix.Unhealthy,
			Saw: "coredns-1: ContainerCreating | sandbox <failed>", Want: "every pod Ready"})
	})
	a.Fixes = append(a.Fixes, matrix.AppliedFix{ID: "restrict-oom-score-adj", State: "left-out"})
	a.Diagnoses = []matrix.Diagnosis{{Signature: "sandbox-pid-eof", Title: "runc cannot lower oom_score_adj", Cure: "restrict-oom-score-adj",
		Log: "cp1/containerd.log", Line: "OCI runtime create failed: can't get final child's PID from pipe: EOF", Issue: "https://github.com/opencontainers/runc/issues/1"}}
	return a
}

// ForVerdict is a result whose evidence leads to a verdict.
func ForVerdict(v matrix.Verdict) matrix.Result {
	c := Cell("13")
	expect := &matrix.Expectation{Phase: matrix.PhaseBaseline, Signature: "sandbox-pid-eof", Issue: "https://github.com/opencontainers/runc/issues/1"}
	var attempts []matrix.Attempt
	switch v {
	case matrix.Unknown:
	case matrix.Pass:
		attempts = []matrix.Attempt{Passing(c)}
	case matrix.Fail:
		attempts = []matrix.Attempt{OOM(c)}
	case matrix.Blocked:
		attempts = []matrix.Attempt{Failing(c, matrix.PhaseCreate, func(r *matrix.PhaseResult) {
			r.Blame, r.Error, r.Evidence = matrix.BlameWorld, "create node \"cp1\": no space left on device", nil
		})}
	case matrix.Impossible:
		c.Gate = &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "kubelet >= 1.35 refuses cgroup v1", Source: "https://kep.k8s.io/5573"}
	case matrix.XFail:
		c.Expect = expect
		attempts = []matrix.Attempt{OOM(c)}
	case matrix.XPass:
		c.Expect = expect
		attempts = []matrix.Attempt{Passing(c)}
	case matrix.Flaky:
		attempts = []matrix.Attempt{OOM(c), Passing(c)}
	default:
		panic(fmt.Sprintf("no sample of %s", v))
	}
	return Result(c, attempts...)
}

// Defied is a result of a cell that defied its gate, whose evidence leads to a
// verdict: impossible, xpass, fail or blocked.
func Defied(v matrix.Verdict) matrix.Result {
	c := Cell("13")
	c.DefyGates = true
	c.Gate = &matrix.GateFinding{Gate: "kubelet-cgroup-v1", Reason: "kubelet >= 1.35 refuses cgroup v1", Source: "https://kep.k8s.io/5573",
		Probe: &matrix.Probe{Phase: matrix.PhaseBaseline, Signature: "sandbox-pid-eof"}}
	a := OOM(c)
	switch v {
	case matrix.Impossible:
	case matrix.XPass:
		a = Passing(c)
	case matrix.Fail:
		c.Gate.Probe.Phase = matrix.PhaseInstall
	case matrix.Blocked:
		a.Diagnoses = nil
	default:
		panic(fmt.Sprintf("no sample of %s that defies a gate", v))
	}
	return Result(c, a)
}

// Result judges attempts at a cell.
func Result(c matrix.Cell, attempts ...matrix.Attempt) matrix.Result {
	return matrix.Result{APIVersion: matrix.ResultAPIVersion, Cell: c, Judgement: matrix.Judge(c, attempts), Attempts: attempts}
}

// Run is a run of results, planned as they are.
func Run(results ...matrix.Result) matrix.Run {
	run := matrix.Run{ID: "20261120T193324Z-k5x2ab", Version: "v0.1.0", Results: results, Started: start, Ended: start.Add(5 * time.Minute),
		Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion, Created: start, Matrix: "default"}}
	for _, r := range results {
		run.Plan.Cells = append(run.Plan.Cells, r.Cell)
	}
	return run
}

// Everything is a run with a cell of every verdict, one of them optional, and
// with text that means to break out of each format.
func Everything() matrix.Run {
	var results []matrix.Result
	for i, v := range matrix.Verdicts() {
		r := ForVerdict(v)
		r.Cell.Host.Name = fmt.Sprintf("host%d", i)
		r.Cell.ID = r.Cell.NewID()
		results = append(results, Result(r.Cell, r.Attempts...))
	}
	c := Cell("12")
	c.Optional, c.Variants, c.Unavailable = true, []string{"k6.12-v2", "flannel"}, "image debian/12 cannot be had: server: 404"
	c.ID = c.NewID()
	results = append(results, Result(c))

	c = Cell("12")
	a := Hostile(c)
	results = append(results, Result(c, a))
	suspect := Cell("12")
	suspect.Host.Name = "host0"
	suspect.With, suspect.Without = []string{"kmsg-console"}, []string{"kmsg-device"}
	suspect.ID = suspect.NewID()
	results = append(results, Result(suspect, Suspect(suspect)))
	run := Run(results...)
	run.HarnessErrors = []string{"delete node cp1: it is still there"}
	return run
}

// Suspect is a passing attempt on a host that was left changed, and that it
// changes more itself, beside another cell. A client watched its restart.
func Suspect(c matrix.Cell) matrix.Attempt {
	a := Passing(c)
	for i, p := range a.Phases {
		if p.Phase == matrix.PhaseRecover {
			a.Phases[i].Traffic = []matrix.Traffic{{Through: "haproxy/api", Sent: 312, Failed: 41, LongestGap: matrix.Duration(8321 * time.Millisecond)}}
		}
	}
	other := Cell("13")
	a.Hygiene = &matrix.Hygiene{
		Unseen:    []string{"nftables: nft is not installed"},
		Shared:    []matrix.CellID{other.ID},
		OtherRuns: true,
		Suspect: []matrix.HostTrace{{Cell: "kubeadm-1.34/debian-13/1/host0", HostChange: matrix.HostChange{
			Kind: "sysctl", What: "vm.overcommit_memory", Change: "changed", Before: "0", After: "1"}}},
		MoreSuspect: 2,
		Changes: []matrix.HostChange{
			{Kind: "sysctl", What: "fs.nr_open", Change: "changed", Before: "1048576", After: "1073741816", Undone: true},
			{Kind: "sysctl", What: "kernel.core_pattern", Change: "changed", Before: "core", After: "|/bin/<b>`x`", Undone: true},
			{Kind: "module", What: "br_netfilter", Change: "added", Left: "unloading is risky"},
		},
		MoreChanges: 1,
	}
	return a
}

// Hostile is an attempt whose texts mean to break out of a format.
func Hostile(c matrix.Cell) matrix.Attempt {
	a := Failing(c, matrix.PhaseInstall, func(r *matrix.PhaseResult) {
		r.Blame = matrix.BlameNode
		r.Error = "exit code 1: \x1b[31mred\x1b[0m | pipe\n<script>alert(1)</script> ``` ]]> \x00\x08 \u202egnp.exe [link](https://evil.example) @everyone"
		r.Evidence = nil
	})
	a.Diagnoses = []matrix.Diagnosis{{Signature: "x|y", Title: "a <b>title</b>\nin two lines", Cure: "none", Log: "cp1/a`b.log",
		Line: "\x1b]0;owned\x07line | with `ticks`\r\n## heading", Issue: "javascript:alert(1)"}}
	a.Kept = "lxcmatrix shell " + string(c.ID) + "\x1b[2J"
	a.Nodes[0].OSVersion = "12<i>"
	a.Hygiene = &matrix.Hygiene{NotObserved: "look at the host: \x1b[31m | <b> ``` ]]> @everyone\n## heading"}
	return a
}

// Ablated is a run of two cells whose fixes were left out: of one, each of
// them, with every outcome but harmful, and of the other, as many as can be
// spared. finished is false where it was cut short before its last trial.
func Ablated(finished bool) matrix.Run {
	one, two := Cell("13"), Cell("12")
	run := Run(Result(one, Passing(one)), Result(two, Passing(two)))
	trial := func(v matrix.Verdict, phase matrix.Phase, signature string, without ...string) matrix.Trial {
		t := matrix.Trial{Without: without, Judgement: matrix.Judgement{Verdict: v, Phase: phase}, Took: matrix.Duration(3 * time.Minute)}
		if v == matrix.Fail {
			t.Reason, t.Took = "ended | early: <it broke>", matrix.Duration(25*time.Second)
		}
		if signature != "" {
			t.Diagnoses = []matrix.Diagnosis{{Signature: signature, Log: "cp1/kubelet.log", Line: "E1120 `it` broke\x1b[31m"}}
		}
		return t
	}
	numbered := func(trials []matrix.Trial) []matrix.Trial {
		for i := range trials {
			trials[i].Run = fmt.Sprintf("20261120T19%02d00Z-aaaaaa", i)
		}
		return trials
	}
	fail, pass := matrix.Fail, matrix.Pass
	fixes := func(ids ...string) (all []matrix.AblatedFix) {
		for _, id := range ids {
			all = append(all, matrix.AblatedFix{ID: id, Cures: []string{id}, Asked: true})
		}
		return all
	}
	of := matrix.Ablation{Cell: one.ID, Goal: matrix.GoalOutcomes, Fixes: fixes("ids", "kmsg-device", "swap", "stop-timeout", "resolv", "rshared", "conntrack-max", "net-sysctls")}
	of.Fixes[6].Skip = "the host has already what it wants"
	all := []string{"ids", "kmsg-device", "net-sysctls", "resolv", "rshared", "stop-timeout", "swap"}
	blocked := trial(matrix.Blocked, matrix.PhaseCreate, "", "net-sysctls")
	blocked.Reason = "no room"
	of.Trials = numbered([]matrix.Trial{
		trial(pass, "", ""), trial(fail, matrix.PhaseCreate, "", all...),
		trial(fail, matrix.PhaseInstall, "other", "ids"), trial(fail, matrix.PhaseInstall, "kmsg-device", "kmsg-device"), trial(pass, "", "", "swap"),
		trial(fail, matrix.PhaseRecover, "", "stop-timeout"), trial(pass, "", "", "resolv"), trial(pass, "", "", "rshared"), blocked, blocked,
		trial(pass, "", ""), trial(fail, matrix.PhaseInstall, "other", "ids"), trial(fail, matrix.PhaseInstall, "kmsg-device", "kmsg-device"),
		trial(fail, matrix.PhaseForcedRecover, "", "stop-timeout"),
		trial(fail, matrix.PhaseBaseline, "", "resolv", "rshared", "swap"), trial(pass, "", "", "resolv", "swap"),
		trial(pass, "", "", "rshared", "swap"), trial(fail, matrix.PhaseBaseline, "", "resolv", "rshared"), trial(fail, matrix.PhaseBaseline, "", "resolv", "rshared"),
	})
	few := matrix.Ablation{Cell: two.ID, Goal: matrix.GoalMinimal, Fixes: fixes("ids", "swap"), Trials: numbered([]matrix.Trial{
		trial(pass, "", ""), trial(fail, matrix.PhaseInstall, "", "ids", "swap"), trial(pass, "", "", "ids"), trial(pass, "", "", "ids"),
	})}
	if !finished {
		of.Trials = of.Trials[:4]
		few.Trials = few.Trials[:2]
	}
	run.Ablations = []matrix.Ablation{of, few}
	return run
}

// Large is a run of so many cells, each with as much evidence as a real one has;
// one of ten fails.
func Large(cells int) matrix.Run {
	var results []matrix.Result
	for i := range cells {
		c := Cell(fmt.Sprint(11 + i%4))
		c.Distro.Minor = fmt.Sprintf("1.%d", 30+i/4%7)
		c.Distro.Version = c.Distro.Minor + ".4"
		c.Topology.Agents = i / 28 % 3
		c.Host.Name = fmt.Sprintf("host%d", i/84)
		c.ID = c.NewID()
		a := Passing(c)
		if i%10 == 9 {
			a = OOM(c)
		}
		a.Host.Kernel = fmt.Sprintf("6.%d.5", i/84)
		for k := range c.Topology.Nodes() {
			if k > 0 {
				a.Nodes = append(a.Nodes, a.Nodes[0])
				a.Nodes[k].Node = fmt.Sprint("node", k)
			}
			a.Nodes[k].Kernel = a.Host.Kernel
		}
		for k := range 40 {
			a.Fixes = append(a.Fixes, matrix.AppliedFix{ID: fmt.Sprint("fix-", k), State: []string{"applied", "not-applicable"}[k%2], Why: "always"})
		}
		for p := range a.Phases {
			for k := range 15 {
				e := matrix.Evidence{Check: fmt.Sprintf("fix:fix-%d", 2*k), Node: "kubeadm-134-debian-13-77af5b-s1", Outcome: matrix.Healthy, Saw: "1 0 10 1 1000000", Want: "1 0 10 1 1000000"}
				if k%2 == 1 {
					e.Check, e.Saw = fmt.Sprint("check-", k), fmt.Sprintf("kubelet v1.34.4, kernel 6.18.44, 10.187.%d.%d", i%250, k)
				}
				a.Phases[p].Evidence = append(a.Phases[p].Evidence, e)
			}
		}
		results = append(results, Result(c, a))
	}
	return Run(results...)
}
