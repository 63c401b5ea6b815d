package matrix

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Shard says that a plan is a part of another one, whose other parts run
// elsewhere: on another machine, or later.
type Shard struct {
	// Part is which, as it was asked for: "2/4", the second of four, or
	// "host=lab", the cells of one host.
	Part string `json:"part"`
	// Plan is the digest of the whole plan. Runs with equal ones are shards of
	// one run.
	Plan string `json:"plan"`
	// Cells are all of the whole plan's, in its order: those of a shard that never
	// ran are known to the others.
	Cells []Cell `json:"cells"`
}

// Whole is the plan that p is a part of: p itself unless it is a shard. Its
// inputs are those of p alone, since others are resolved where they are needed.
func (p Plan) Whole() Plan {
	if p.Shard != nil {
		p.Cells, p.Shard = p.Shard.Cells, nil
	}
	return p
}

// Extent says how many cells the plan has and, of a shard, of how many.
func (p Plan) Extent() string {
	if p.Shard == nil {
		return fmt.Sprintf("%d cells", len(p.Cells))
	}
	return fmt.Sprintf("%d of %d cells, shard %s", len(p.Cells), len(p.Shard.Cells), p.Shard.Part)
}

// Digest is a SHA-256, in hex, of what the whole plan is: its matrix, its cells
// with their versions, and the limits and timeouts that they run with. What one
// machine can have and another cannot is not in it (inputs, and cells that are
// unavailable for want of one; the budget; how long a run takes), and neither is
// when the plan was made.
func (p Plan) Digest() string {
	whole := p.Whole()
	of := struct {
		Matrix   string
		Cells    []Cell
		Node     NodeLimits
		Timeouts Timeouts
	}{whole.Matrix, make([]Cell, len(whole.Cells)), whole.Budget.Node, whole.Timeouts}
	for i, c := range whole.Cells {
		c.Unavailable = ""
		of.Cells[i] = c
	}
	data, err := json.Marshal(of)
	if err != nil {
		panic(fmt.Sprintf("encode a plan: %v", err)) // it is plain data, and has no NaN
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// CheckShard says what is wrong with what the plan says of the whole that it is a
// shard of: a digest that is not the whole's, a cell that the whole does not have.
func (p Plan) CheckShard() error {
	if p.Shard == nil {
		return nil
	}
	if got := p.Digest(); got != p.Shard.Plan {
		return fmt.Errorf("shard %s: the whole plan's digest is %s, and it says %s", p.Shard.Part, got, p.Shard.Plan)
	}
	whole := map[CellID]bool{}
	for _, c := range p.Shard.Cells {
		whole[c.ID] = true
	}
	for _, c := range p.Cells {
		if !whole[c.ID] {
			return fmt.Errorf("shard %s: cell %s is not in the whole plan", p.Shard.Part, c.ID)
		}
	}
	return nil
}
