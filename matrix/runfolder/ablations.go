package runfolder

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// AblationsAPIVersion is the version of ablations.json that this program reads
// and writes.
const AblationsAPIVersion = "lxcmatrix.dev/ablations/v1"

const (
	ablationsFile = "ablations.json"
	trialsDir     = "trials"
)

// ablations is ablations.json.
type ablations struct {
	APIVersion string            `json:"apiVersion"`
	Ablations  []matrix.Ablation `json:"ablations"`
}

// Trials is the folder that the runs of ablations' trials are kept in; it may
// not be there yet.
func (f *Folder) Trials() string { return filepath.Join(f.dir, trialsDir) }

// WriteAblations replaces ablations.json, redacted. One of a cell that is not in
// the plan, or a second one of a cell, is an error.
func (f *Folder) WriteAblations(all []matrix.Ablation) error {
	file := ablations{APIVersion: AblationsAPIVersion}
	for _, a := range all {
		a.Trials = slices.Clone(a.Trials)
		for i := range a.Trials {
			t := &a.Trials[i]
			t.Reason = f.text(t.Reason)
			t.Diagnoses = slices.Clone(t.Diagnoses)
			for k := range t.Diagnoses {
				t.Diagnoses[k].Line = f.text(t.Diagnoses[k].Line)
			}
		}
		file.Ablations = append(file.Ablations, a)
	}
	err := f.checkAblations(file.Ablations)
	if err == nil {
		err = writeJSON(filepath.Join(f.dir, ablationsFile), file)
	}
	if err != nil {
		return fmt.Errorf("keep the trials: %w", err)
	}
	return nil
}

// Ablations reads ablations.json; none where there is no such file. One that
// cannot be believed is a *CorruptError.
func (f *Folder) Ablations() ([]matrix.Ablation, error) {
	path := filepath.Join(f.dir, ablationsFile)
	var file ablations
	err := readJSON(path, AblationsAPIVersion, &file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		if bad := f.checkAblations(file.Ablations); bad != nil {
			err = &CorruptError{Path: path, Err: bad}
		}
	}
	return file.Ablations, err
}

// checkAblations holds ablations against the plan.
func (f *Folder) checkAblations(all []matrix.Ablation) error {
	seen := map[matrix.CellID]bool{}
	for _, a := range all {
		if _, ok := f.cells[a.Cell]; !ok || seen[a.Cell] {
			return fmt.Errorf("an ablation is of cell %q, which is not in the plan, or has one already", a.Cell)
		}
		seen[a.Cell] = true
		if a.Goal != matrix.GoalOutcomes && a.Goal != matrix.GoalMinimal {
			return fmt.Errorf("the ablation of cell %s has goal %q, which is none", a.Cell, a.Goal)
		}
	}
	return nil
}
