package runfolder_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// FuzzRead: a file of a run's folder with anything in it is believed, or is a
// *CorruptError; never is there a result more or less than was planned.
func FuzzRead(f *testing.F) {
	c := cell("13")
	dir := filepath.Join(f.TempDir(), "run")
	folder, err := runfolder.Create(dir, newRun(c))
	if err == nil {
		_, err = folder.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{passing(c)}})
	}
	if err == nil {
		err = folder.WriteAblations([]matrix.Ablation{{Cell: c.ID, Goal: matrix.GoalMinimal}})
	}
	if err == nil {
		err = errors.Join(folder.AppendEvent(runfolder.Event{Time: start, Kind: runfolder.RunStarted}), folder.Close())
	}
	if err != nil {
		f.Fatal(err)
	}
	files := []string{"run.json", "plan.json", filepath.Join("cells", c.ID.FileName(), "result.json"), "events.ndjson", "ablations.json"}
	whole := make([][]byte, len(files))
	for i, name := range files {
		if whole[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
		var compact bytes.Buffer
		if json.Compact(&compact, whole[i]) == nil {
			f.Add(byte(i), compact.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		i := int(which) % len(files)
		path := filepath.Join(dir, files[i])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.WriteFile(path, whole[i], 0o600); err != nil {
				t.Fatal(err)
			}
		}()
		believed := func(err error) bool {
			var corrupt *runfolder.CorruptError
			if err != nil && !errors.As(err, &corrupt) {
				t.Errorf("%s: %v (%T)", files[i], err, err)
			}
			return err == nil
		}
		opened, err := runfolder.Open(dir)
		if !believed(err) {
			return
		}
		_, err = opened.Events()
		believed(err)
		run, err := opened.Read()
		if believed(err) && len(run.Results) != len(opened.Plan().Cells) {
			t.Errorf("%d results of %d cells", len(run.Results), len(opened.Plan().Cells))
		}
		for _, c := range opened.Plan().Cells {
			if c.Topology.Servers < 1 || c.Topology.Nodes() > 100 {
				t.Errorf("cell %s has %d servers and %d agents", c.ID, c.Topology.Servers, c.Topology.Agents)
			}
		}
	})
}
