package matrix

import "time"

// Phase is one step of a cell's way.
type Phase string

// The phases that cells have unless the matrix asks for other restarts, in
// order.
const (
	PhaseCreate        Phase = "create"
	PhaseFix           Phase = "fix"
	PhaseInstall       Phase = "install"
	PhaseBaseline      Phase = "baseline"
	PhaseRestart       Phase = "restart"
	PhaseRecover       Phase = "recover"
	PhaseForcedRestart Phase = "forced-restart"
	PhaseForcedRecover Phase = "forced-recover"
	PhaseCollect       Phase = "collect"
	PhaseDestroy       Phase = "destroy"
)

// Outcome is what one check or step came to. Its zero value is Undecided: a
// check that could not look is never healthy.
type Outcome int

// The outcomes.
const (
	Undecided Outcome = iota
	Healthy
	Unhealthy
)

var outcomeNames = [...]string{"undecided", "healthy", "unhealthy"}

// String is the outcome's word.
func (o Outcome) String() string {
	if o < 0 || int(o) >= len(outcomeNames) {
		return "undecided"
	}
	return outcomeNames[o]
}

// MarshalText writes the outcome's word.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads an outcome's word; anything unknown is Undecided.
func (o *Outcome) UnmarshalText(text []byte) error {
	*o = Undecided
	for i, name := range outcomeNames {
		if name == string(text) {
			*o = Outcome(i)
		}
	}
	return nil
}

// Evidence is what one check saw.
type Evidence struct {
	// Check is the check's ID, "fix:ID" for the verification of a fix.
	Check string `json:"check"`
	// Node is the node it looked at; empty means the cluster.
	Node    string  `json:"node,omitempty"`
	Outcome Outcome `json:"outcome"`
	// Saw is what was last seen, in words; never empty.
	Saw string `json:"saw"`
	// Want is what would have been healthy, where Saw does not tell.
	Want string   `json:"want,omitempty"`
	Took Duration `json:"took"`
}

// Blame says whose doing it was that a phase ended early.
type Blame string

// The blames.
const (
	// BlameNone: the phase ran to its end.
	BlameNone Blame = ""
	// BlameNode: the node, its configuration or Kubernetes did it.
	BlameNode Blame = "node"
	// BlameWorld: the harness, its host or its sources did it.
	BlameWorld Blame = "world"
	// BlameInterrupt: somebody ended the run.
	BlameInterrupt Blame = "interrupt"
)

// PhaseResult is one phase of one attempt.
type PhaseResult struct {
	Phase    Phase     `json:"phase"`
	Started  time.Time `json:"started"`
	Duration Duration  `json:"duration"`
	// Waited is the part of Duration spent in stability windows on purpose.
	Waited Duration `json:"waited,omitempty"`
	// Blame and Error are set where the phase did not run to its end.
	Blame    Blame      `json:"blame,omitempty"`
	Error    string     `json:"error,omitempty"`
	Evidence []Evidence `json:"evidence,omitempty"`
	// Traffic is what clients saw, of a phase at whose end they were stopped.
	Traffic []Traffic `json:"traffic,omitempty"`
	// Recovery is how the cluster came back, in the second phase of a restart.
	Recovery *Recovery `json:"recovery,omitempty"`
}

// Traffic is what a client of a cluster saw that asked again and again through a
// service, from before a restart until the cluster was healthy again. It decides
// no verdict.
type Traffic struct {
	// Through names the service and what the client asked for, as haproxy/api.
	Through string `json:"through"`
	// Sent is how many requests were sent, and Failed how many of them had no good
	// answer.
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
	// LongestGap is the longest time without a good answer.
	LongestGap Duration `json:"longestGap"`
}

// HostFacts is what was observed on a host. What was not observed is nil, empty
// or zero, and never reads as false.
type HostFacts struct {
	// Kernel is `uname -r`.
	Kernel string `json:"kernel"`
	// Cgroup is v1 or v2, from the filesystem at /sys/fs/cgroup.
	Cgroup string `json:"cgroup"`
	// CgroupCPUSplit: cpu and cpuacct are hierarchies of their own (v1). It is
	// observed wherever Cgroup is.
	CgroupCPUSplit bool `json:"cgroupCPUSplit"`
	// Controllers lists the cgroup controllers that are enabled.
	Controllers []string `json:"controllers,omitempty"`
	// Capabilities is the bounding set, as CAP_ names; an empty one is a set
	// that is empty.
	Capabilities []string `json:"capabilities,omitzero"`
	// AppArmor and SELinux say whether the kernel has them enabled.
	AppArmor *bool `json:"apparmor,omitempty"`
	SELinux  *bool `json:"selinux,omitempty"`
	// Incus, LXC and Storage (the driver of the nodes' pool) as the Incus server
	// reports them.
	Incus   string `json:"incus"`
	LXC     string `json:"lxc"`
	Storage string `json:"storage"`
	CPUs    int    `json:"cpus"`
	// CPULevel is the highest of x86-64-v1 to x86-64-v4 that the CPU's flags
	// make up, as the psABI of x86-64 lists them; on other architectures the
	// machine's name, as aarch64.
	CPULevel string `json:"cpuLevel,omitempty"`
	// MemoryBytes is the machine's memory, MemoryFreeBytes what was available
	// of it without swapping.
	MemoryBytes     int64  `json:"memoryBytes"`
	MemoryFreeBytes *int64 `json:"memoryFreeBytes,omitempty"`
	// DiskFreeBytes is what was free in the nodes' pool.
	DiskFreeBytes *int64 `json:"diskFreeBytes,omitempty"`
	// Sysctls holds the values that fixes care about, with one space between
	// their fields.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

// NodeFacts is what was observed in a node.
type NodeFacts struct {
	Node string `json:"node"`
	// Kernel is `uname -r` inside the node.
	Kernel string `json:"kernel"`
	// Cgroup is v1 or v2 as seen inside the node.
	Cgroup string `json:"cgroup"`
	// OSID and OSVersion are ID and VERSION_ID of /etc/os-release.
	OSID      string `json:"osID"`
	OSVersion string `json:"osVersion"`
	Systemd   string `json:"systemd"`
	// NetworkManager and Firewalld say whether the node has their services.
	NetworkManager *bool `json:"networkManager,omitempty"`
	Firewalld      *bool `json:"firewalld,omitempty"`
	// SELinux is enforcing, permissive or disabled, as programs in the node see
	// it.
	SELinux string `json:"selinux,omitempty"`
	// ReadOnlySysctls lists those of the sysctls that kubelet and kube-proxy set
	// that nothing in the node can write; nil where that was not observed.
	ReadOnlySysctls []string `json:"readOnlySysctls,omitzero"`
	// Containerd, Runc and Kubernetes are versions without a leading v.
	Containerd string `json:"containerd"`
	Runc       string `json:"runc"`
	Kubernetes string `json:"kubernetes"`
	// BootIDs of every start seen, oldest first.
	BootIDs []string `json:"bootIDs"`
}

// Unclassified is the name of what no signature knows.
const Unclassified = "unclassified"

// Diagnosis is a signature found in a cell's logs, or a line that tells much
// where none is found.
type Diagnosis struct {
	// Signature is its ID, or Unclassified.
	Signature string `json:"signature"`
	Title     string `json:"title"`
	// Cause says why it happens.
	Cause string `json:"cause,omitempty"`
	// Cure is the ID of the fix that cures it, CausedBy that of a fix that brings
	// it about where somebody asked for that.
	Cure     string `json:"cure,omitempty"`
	CausedBy string `json:"causedBy,omitempty"`
	// Log and Line are where it was found, and the line itself, redacted; empty
	// where no log says anything.
	Log  string `json:"log"`
	Line string `json:"line"`
	// At is the line's time; zero where it has none.
	At time.Time `json:"at,omitzero"`
	// Issue is a link to what is known upstream.
	Issue string `json:"issue,omitempty"`
}

// AppliedFix is a fix and what the plan decided about it.
type AppliedFix struct {
	ID string `json:"id"`
	// State is applied, left-out, satisfied, not-applicable.
	State string `json:"state"`
	// Why is the condition that decided it.
	Why string `json:"why,omitempty"`
	// Role is that of the nodes where it is so; empty where it is on all.
	Role Role `json:"role,omitempty"`
}

// Attempt is one try at a cell. Every attempt is kept.
type Attempt struct {
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Host    HostFacts `json:"host,omitzero"`
	// Nodes holds what was observed in each node, by the order of creation.
	Nodes  []NodeFacts   `json:"nodes,omitempty"`
	Fixes  []AppliedFix  `json:"fixes,omitempty"`
	Phases []PhaseResult `json:"phases"`
	// Repairs lists what a watcher mended: a cell that needed one fails.
	Repairs   []string    `json:"repairs,omitempty"`
	Diagnoses []Diagnosis `json:"diagnoses,omitempty"`
	// Kept says how to enter a cell that was not destroyed.
	Kept string `json:"kept,omitempty"`
	// Provenance is release or built.
	Provenance string `json:"provenance,omitempty"`
	// Soak is how long the cluster took to recover from restarts in a row; empty
	// where there were none.
	Soak []Figure `json:"soak,omitempty"`
	// Hygiene is what the attempt found and left on its host; nil where it
	// never came to a node.
	Hygiene *Hygiene `json:"hygiene,omitempty"`
}

// Hygiene is how a host differs after an attempt's nodes are gone from what it
// was before the first was there. It decides no verdict.
type Hygiene struct {
	// NotObserved is why that cannot be told; it says nothing about a host
	// being clean. Empty where the host was looked at before and after.
	NotObserved string `json:"notObserved,omitempty"`
	// Unseen names what the host did not show, each with its reason.
	Unseen []string `json:"unseen,omitempty"`
	// Shared names the cells whose nodes were on the host meanwhile, this one
	// not counted: a change may be theirs.
	Shared []CellID `json:"shared,omitempty"`
	// OtherRuns: cells of other runs were on the host at either look, or that
	// could not be told; a change may be theirs.
	OtherRuns bool `json:"otherRuns,omitempty"`
	// Changes are the first of the changes, MoreChanges how many there are
	// beside them.
	Changes     []HostChange `json:"changes,omitempty"`
	MoreChanges int          `json:"moreChanges,omitempty"`
	// Suspect holds what earlier cells of the run had changed and still was so
	// when the attempt began, oldest first; MoreSuspect as above. With any,
	// the attempt ran on a suspect host.
	Suspect     []HostTrace `json:"suspect,omitempty"`
	MoreSuspect int         `json:"moreSuspect,omitempty"`
}

// HostChange is one thing of a host that is not what it was.
type HostChange struct {
	// Kind is sysctl, module, interface, apparmor, nftables or iptables.
	Kind string `json:"kind"`
	// What is its name, or the rule with its table and chain.
	What string `json:"what"`
	// Change is added, removed or changed.
	Change string `json:"change"`
	// Before and After are the values, of what has any.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Undone: it was put back, and seen to be what it was.
	Undone bool `json:"undone,omitempty"`
	// Left is why it was not.
	Left string `json:"left,omitempty"`
}

// HostTrace is a change and the cell that left it.
type HostTrace struct {
	Cell CellID `json:"cell"`
	HostChange
}

// Phase finds a phase's result: of one that the attempt had several times, the
// first that did not pass, or else the last.
func (a Attempt) Phase(p Phase) (found PhaseResult, ok bool) {
	for _, r := range a.Phases {
		if r.Phase == p {
			if found, ok = r, true; JudgePhase(r).Verdict != Pass {
				break
			}
		}
	}
	return found, ok
}

// Through finds the result of a phase that an attempt at a cell is through with: it
// had it as often as the cell has it, or did not pass.
func (a Attempt) Through(c Cell, p Phase) (PhaseResult, bool) {
	r, ok := a.Phase(p)
	had := 0
	for _, r := range a.Phases {
		if r.Phase == p {
			had++
		}
	}
	return r, ok && (had >= c.times(p) || JudgePhase(r).Verdict != Pass)
}

// Judgement is a verdict with its reason.
type Judgement struct {
	Verdict Verdict `json:"verdict"`
	// Phase is where it was decided; empty for pass, and where no single phase
	// decided: gates, facts that do not match, repairs.
	Phase  Phase  `json:"phase,omitempty"`
	Reason string `json:"reason"`
}

// Result is everything that is known of one cell in one run.
type Result struct {
	APIVersion string    `json:"apiVersion"`
	Cell       Cell      `json:"cell"`
	Judgement  Judgement `json:"judgement"`
	Attempts   []Attempt `json:"attempts"`
}

// ResultAPIVersion is the version of result.json that this program reads and
// writes.
const ResultAPIVersion = "lxcmatrix.dev/result/v1"

// Last is the attempt that decides; ok is false where there was none.
func (r Result) Last() (a Attempt, ok bool) {
	if len(r.Attempts) == 0 {
		return Attempt{}, false
	}
	return r.Attempts[len(r.Attempts)-1], true
}

// Run is a plan and its results, one for each cell of the plan in its order.
type Run struct {
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Plan    Plan      `json:"plan"`
	Results []Result  `json:"results"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Interrupted names the signal that ended the run early, SIGINT, SIGTERM or
	// SIGHUP.
	Interrupted string `json:"interrupted,omitempty"`
	// Origin is what it was started with.
	Origin Origin `json:"origin,omitzero"`
	// HarnessErrors are failures of the harness itself that no cell's verdict
	// shows, such as a node that could not be removed.
	HarnessErrors []string `json:"harnessErrors,omitempty"`
	// Ablations are those that were made of the run's cells, each at most once;
	// the results are then of the cells with all their fixes.
	Ablations []Ablation `json:"ablations,omitempty"`
}
