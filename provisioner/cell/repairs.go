package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// readRepairs reads what fixes mended in the nodes since these were created. A
// cluster that needed it did not come up by itself, however healthy it is now.
func (x *run) readRepairs(ctx context.Context) error {
	x.attempt.Repairs = nil
	for i, node := range x.nodes {
		for _, file := range x.wants[i].Repairs {
			told, err := node.Pull(ctx, file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read what was repaired on node %s: %w", node.Name(), err)
			}
			x.attempt.Repairs = append(x.attempt.Repairs, repaired(node.Name(), told)...)
		}
	}
	return nil
}

// repaired are the lines that tell of a repair. One that cannot be read may be
// one, too, so it counts.
func repaired(node string, told []byte) (repairs []string) {
	for line := range bytes.Lines(told) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var r provisioner.Repair
		switch err := json.Unmarshal(line, &r); {
		case err != nil:
			repairs = append(repairs, fmt.Sprintf("on %s: %s", node, line))
		case r.Repaired != "":
			repairs = append(repairs, fmt.Sprintf("%s on %s at %s: %s", r.Repaired, node, r.Time.UTC().Format(time.TimeOnly), r.Saw))
		}
	}
	return repairs
}
