//go:build integration

package faults_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/run"
	"github.com/lxcmatrix/lxcmatrix/reports/progress"
	"github.com/lxcmatrix/lxcmatrix/suites/faults"
)

// faultsVariable names the faults to try, or is all.
const faultsVariable = "LXCMATRIX_TEST_FAULTS"

// few are tried where nobody says which.
const few = "endpoints-missing kubelet-stopped overlay-mtu stale-kubeconfig taint-custom"

// TestFaults breaks a real cluster, one fault at a time, and sees each caught.
func TestFaults(t *testing.T) {
	wanted := os.Getenv(faultsVariable)
	if wanted == "" {
		wanted = few
	}
	tried := choose(t, wanted)
	root := t.TempDir()
	if kept := os.Getenv("LXCMATRIX_TEST_FOLDER"); kept != "" {
		root = kept
	}
	shown := progress.NewLines(os.Stderr, time.Now)
	var outcomes []faults.Outcome
	for left := tried; len(left) > 0; {
		var some []faults.Outcome
		some, left = sow(t, filepath.Join(root, "cells"), filepath.Join(root, "faults"), left, shown)
		if outcomes = append(outcomes, some...); len(some) == 0 {
			t.Error("a cluster in which nothing was tried is not healthy")
			break
		}
	}
	if data, err := json.MarshalIndent(outcomes, "", "  "); err != nil {
		t.Error(err)
	} else if err := os.WriteFile(filepath.Join(root, "faults.json"), data, 0o600); err != nil {
		t.Error(err)
	}
	if err := faults.Render(os.Stdout, outcomes); err != nil {
		t.Error(err)
	}
	for _, o := range outcomes {
		if !o.Tried() && wanted != "all" {
			t.Errorf("fault %s was not tried: %s", o.Fault.ID, o.Blocked)
		}
		if missed := o.Missed(); o.Tried() && missed != "" {
			t.Errorf("fault %s was not caught: %s", o.Fault.ID, missed)
		}
	}
	if _, survivors := faults.Mutate(outcomes); wanted == "all" && len(survivors) > 0 {
		t.Errorf("no fault shows what these checks are worth: %s", strings.Join(survivors, ", "))
	}
}

// sow tries faults in a cell of their own, until it does not get well.
func sow(t *testing.T, root, folder string, tried []faults.Fault, shown engine.Progress) (outcomes []faults.Outcome, left []faults.Fault) {
	t.Helper()
	left = tried
	planned, err := run.Plan(t.Context(), run.Request{Matrix: filepath.Join("testdata", "cell.yaml"), Root: root, Progress: shown})
	if err != nil {
		t.Fatal(err)
	}
	stay := func(ctx context.Context, lodging cell.Lodging) {
		bed := faults.Bed{Lodging: lodging, Signatures: planned.Knowledge.Signatures, Folder: folder, Progress: shown}
		var err error
		if outcomes, left, err = bed.Sow(ctx, tried); err != nil {
			t.Logf("another cell is made for %d faults: %v", len(left), err)
		}
	}
	r, err := planned.Start(t.Context(), run.Options{Version: "test", Keep: cell.KeepNever, Stay: stay})
	if err != nil {
		t.Fatal(err)
	}
	result, err := r.Finish(func() string { return "" })
	if err != nil {
		t.Error(err)
	}
	if len(outcomes) == 0 {
		j := result.Results[0].Judgement
		t.Errorf("cell %s: %s in %s: %s", result.Results[0].Cell.ID, j.Verdict, j.Phase, j.Reason)
	}
	return outcomes, left
}

// choose finds faults by their names.
func choose(t *testing.T, names string) []faults.Fault {
	t.Helper()
	known, err := faults.Load(datafile.Source{Name: "faults", FS: fixtures.Faults()})
	if err != nil {
		t.Fatal(err)
	}
	if names == "all" {
		return known
	}
	var chosen []faults.Fault
	wanted := map[string]bool{}
	for _, name := range strings.Fields(names) {
		wanted[name] = true
	}
	for _, f := range known {
		if wanted[f.ID] {
			chosen = append(chosen, f)
		}
		delete(wanted, f.ID)
	}
	if len(wanted) > 0 {
		t.Fatalf("there are no faults %v", wanted)
	}
	return chosen
}
