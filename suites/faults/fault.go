// Package faults shows that health checks fail when they should: it breaks a
// cluster that passes, one fault at a time, and asserts that the verdict turns,
// by which check, how soon, and what the diagnosis says. The faults are data.
package faults

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

// Fault is one way to break a cluster.
type Fault struct {
	// ID names the fault; it is the name of its file, too.
	ID string `yaml:"id"`
	// Title says in one line what is wrong then.
	Title string `yaml:"title"`
	// Topology is what it needs, as 1 or 1+1.
	Topology Topology `yaml:"topology"`
	// Needs is a script for the server without whose success the fault is blocked
	// here, and Why says so.
	Needs string `yaml:"needs"`
	Why   string `yaml:"why"`
	// After says what happens before: nothing, a restart of every node, or, for a
	// restart that never was, just what is recorded before one.
	After After `yaml:"after"`
	// Inject breaks the cluster, Heal makes it whole again.
	Inject Scripts `yaml:"inject"`
	Heal   Scripts `yaml:"heal"`
	// Pause freezes a node's processes from Inject to Heal.
	Pause matrix.Role `yaml:"pause"`
	// Kubeconfig is a file of the server's that the checks use instead of their
	// own.
	Kubeconfig string `yaml:"kubeconfig"`
	// Verdict is what the cluster is judged to be, by each of Checks.
	Verdict string   `yaml:"verdict"`
	Checks  []string `yaml:"checks"`
	// Within is the deadline of the checks. Right before the fault, the cluster is
	// seen to be healthy within the same.
	Within matrix.Duration `yaml:"within"`
	// Stability is how long restarts are watched for; a second where it is empty.
	Stability matrix.Duration `yaml:"stability"`
	// Signature is what the diagnosis finds.
	Signature string `yaml:"signature"`

	file *datafile.File
}

// Scripts are run by sh, where they are set: on the host, then on the agent, then
// on the server.
type Scripts struct {
	Host   string `yaml:"host"`
	Agent  string `yaml:"agent"`
	Server string `yaml:"server"`
}

// After is what happened to a cluster before a fault.
type After string

// What may have happened.
const (
	AfterNothing   After = ""
	AfterRestart   After = "restart"
	AfterNoRestart After = "no-restart"
)

// Topology is a topology's name.
type Topology string

// nodes is how many nodes it has; 0 where it is not known.
func (t Topology) nodes() int { return map[Topology]int{"1": 1, "1+1": 2}[t] }

// second is how long restarts are watched for where a fault does not say.
const second = matrix.Duration(1e9)

// Load reads every fault of a source, in the order in which they are tried: by
// ID, and those after a restart last. It reports all problems at once.
func Load(source datafile.Source) ([]Fault, error) {
	var all []Fault
	problems := datafile.Read(source, func(file *datafile.File, f *Fault) []error {
		f.file = file
		if f.Stability == 0 {
			f.Stability = second
		}
		all = append(all, *f)
		return f.validate()
	})
	if len(problems) > 0 {
		return nil, fmt.Errorf("load faults: %w", errors.Join(problems...))
	}
	slices.SortStableFunc(all, func(a, b Fault) int {
		if by := slices.Index(afters, a.After) - slices.Index(afters, b.After); by != 0 {
			return by
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// afters are in the order in which faults are tried.
var afters = []After{AfterNothing, AfterRestart, AfterNoRestart}

func (f *Fault) validate() []error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, f.file.Errorf(datafile.Path{key}, "fault %s: "+format, append([]any{f.ID}, args...)...))
	}
	if f.ID == "" || f.Title == "" || len(f.Checks) == 0 || f.Signature == "" || f.Within <= 0 {
		bad("id", "needs id, title, checks, signature and within")
	}
	if f.Topology.nodes() == 0 {
		bad("topology", "topology %q: want 1 or 1+1", f.Topology)
	}
	if f.Topology.nodes() == 1 && (f.Inject.Agent != "" || f.Heal.Agent != "" || f.Pause == matrix.RoleAgent) {
		bad("topology", "it does something to an agent, which topology 1 has not")
	}
	if !slices.Contains(afters, f.After) {
		bad("after", "after %q: want nothing, restart or no-restart", f.After)
	}
	if (f.Needs == "") != (f.Why == "") {
		bad("needs", "needs and why go together")
	}
	if f.verdict() == matrix.Unknown {
		bad("verdict", "verdict %q: want fail or blocked", f.Verdict)
	}
	if f.Inject == (Scripts{}) && f.Pause == "" && f.Kubeconfig == "" && f.After != AfterNoRestart {
		bad("inject", "it breaks nothing")
	}
	return problems
}

// verdict is the one that is wanted; a cluster with a fault that is not seen
// would pass, so that this is none to want.
func (f *Fault) verdict() matrix.Verdict {
	for _, v := range []matrix.Verdict{matrix.Fail, matrix.Blocked} {
		if v.String() == f.Verdict {
			return v
		}
	}
	return matrix.Unknown
}
