package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// FileName is the plan's name in a run's folder.
const FileName = "plan.json"

// Write writes a plan to path in one step: whoever reads it sees the old file
// or the new one, whole.
func Write(path string, p matrix.Plan) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write plan %s: %w", path, err)
		}
	}()
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	_, err = temporary.Write(append(data, '\n'))
	if err == nil {
		err = temporary.Chmod(0o644)
	}
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// Read reads a plan that Write wrote. What another version of the program
// wrote, and what does not hold together, is refused.
func Read(path string) (matrix.Plan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return matrix.Plan{}, fmt.Errorf("read plan: %w", err)
	}
	p, err := decode(data)
	if err != nil {
		return matrix.Plan{}, fmt.Errorf("read plan %s: %w", path, err)
	}
	return p, nil
}

func decode(data []byte) (matrix.Plan, error) {
	var version struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return matrix.Plan{}, err
	}
	if version.APIVersion != matrix.PlanAPIVersion {
		return matrix.Plan{}, fmt.Errorf("its apiVersion is %q, this program reads %q", version.APIVersion, matrix.PlanAPIVersion)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var p matrix.Plan
	if err := d.Decode(&p); err != nil {
		return matrix.Plan{}, err
	}
	if len(p.Cells) == 0 {
		return matrix.Plan{}, errors.New("it has no cells")
	}
	seen := make(map[matrix.CellID]bool, len(p.Cells))
	for _, c := range p.Cells {
		switch {
		case c.ID != c.NewID():
			return matrix.Plan{}, fmt.Errorf("cell %s has the values of %s", c.ID, c.NewID())
		case seen[c.ID]:
			return matrix.Plan{}, fmt.Errorf("cell %s is there twice", c.ID)
		}
		if _, err := matrix.ParseTopology(c.Topology.String()); err != nil {
			return matrix.Plan{}, fmt.Errorf("cell %s: %w", c.ID, err)
		}
		seen[c.ID] = true
	}
	if err := p.CheckShard(); err != nil {
		return matrix.Plan{}, err
	}
	return p, nil
}
