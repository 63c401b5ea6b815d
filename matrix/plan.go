package matrix

import "time"

// Plan is the frozen list of a run's cells, with every version, image and
// digest resolved. It fixes the denominator: a cell that is in the plan is in
// the table, whatever happens.
type Plan struct {
	APIVersion string    `json:"apiVersion"`
	Created    time.Time `json:"created"`
	// Matrix names the file or built-in that the plan was made from.
	Matrix   string   `json:"matrix"`
	Cells    []Cell   `json:"cells"`
	Inputs   []Input  `json:"inputs"`
	Budget   Budget   `json:"budget"`
	Timeouts Timeouts `json:"timeouts"`
	Sources  Sources  `json:"sources"`
	// Expected is how long the run is expected to take.
	Expected Estimate `json:"expected,omitzero"`
	// Shard, if set, says that the cells are a part of another plan's.
	Shard *Shard `json:"shard,omitempty"`
}

// Estimate is how long a run is expected to take, from the opening of its first
// host to the closing of its last. Getting images and artifacts is not in it.
type Estimate struct {
	Makespan Duration `json:"makespan"`
	// Cells is how many are to run, and Known how many of them passed in
	// earlier runs, so that how long they take was seen; the others are guessed.
	Cells int `json:"cells"`
	Known int `json:"known"`
}

// PlanAPIVersion is the version of plan.json that this program reads and
// writes.
const PlanAPIVersion = "lxcmatrix.dev/plan/v1"

// Cell finds a cell by ID.
func (p *Plan) Cell(id CellID) (Cell, bool) {
	for _, c := range p.Cells {
		if c.ID == id {
			return c, true
		}
	}
	return Cell{}, false
}

// Input is something that the cells are made of, pinned.
type Input struct {
	// Kind is image or artifact.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Version is exact.
	Version string `json:"version,omitempty"`
	// Digest is a SHA-256 in hex, or an image fingerprint; empty where the
	// bytes do not exist yet (they will be built).
	Digest string `json:"digest,omitempty"`
	// Source says where it comes from: cache, mirror, upstream, build, server,
	// mmdebstrap, imported.
	Source string `json:"source"`
	// Provenance is release or built.
	Provenance string `json:"provenance,omitempty"`
}

// Budget limits what a run may use at one time.
type Budget struct {
	// CPUs that concurrently running cells may claim.
	CPUs int `json:"cpus"`
	// MemoryBytes that concurrently running cells may claim.
	MemoryBytes int64 `json:"memoryBytes"`
	// DiskBytes is the size of an embedded host's storage pool.
	DiskBytes int64 `json:"diskBytes"`
	// Cells that may run at one time; 0 means as many as fit.
	Cells int `json:"cells,omitempty"`
	// Node holds the limits of one node.
	Node NodeLimits `json:"node"`
}

// NodeLimits are the limits that every node has.
type NodeLimits struct {
	MemoryBytes int64 `json:"memoryBytes"`
	Processes   int   `json:"processes"`
	CPUs        int   `json:"cpus"`
}

// Timeouts bound the phases. A phase that runs out is unhealthy, never
// healthy.
type Timeouts struct {
	Create  Duration `json:"create"`
	Fix     Duration `json:"fix"`
	Install Duration `json:"install"`
	// Baseline, and every recovery, must be healthy within this for each server.
	Recover Duration `json:"recover"`
	Restart Duration `json:"restart"`
	Collect Duration `json:"collect"`
	Destroy Duration `json:"destroy"`
	// Stability is how long restart counts must hold still once everything is
	// healthy.
	Stability Duration `json:"stability"`
}

// Sources says where artifacts and images may come from, in order.
type Sources struct {
	// Artifacts: any of cache, mirror, upstream, build.
	Artifacts []string `json:"artifacts"`
	// Images: any of server, mmdebstrap.
	Images []string `json:"images"`
	// Mirror is a file:// or https:// URL with upstream's own layout.
	Mirror string `json:"mirror,omitempty"`
}

// Duration is a time.Duration that reads and writes as "1m30s".
type Duration time.Duration

// Std is the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the duration as time.Duration prints it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes "1m30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}
