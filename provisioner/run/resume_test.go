package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// killed is a run of one cell that passed, whose process was killed before it
// could say that it is over.
func killed(t *testing.T, change func(*matrix.Origin)) *runfolder.Folder {
	t.Helper()
	t.Setenv("LXCMATRIX_CACHE", t.TempDir())
	p := planned(t)
	p.Plan.Sources.Artifacts = []string{"cache"}
	origin, err := p.origin(verbRun)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&origin)
	}
	folder, _, err := keepIn(p.root, p.Plan, "test", origin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = folder.Close() })
	c := p.Plan.Cells[0]
	a := fakeHost{&fakeBench{}}.Run(t.Context(), c, 1, func(matrix.Attempt) {})
	if _, err := folder.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{a}}); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestResume(t *testing.T) {
	folder := killed(t, nil)
	request := ResumeRequest{Dir: folder.Dir(), Root: filepath.Dir(folder.Dir())}
	refused := func(want string) {
		t.Helper()
		_, err := Resume(t.Context(), request)
		if usage := new(UsageError); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a usage error with %q", err, want)
		}
	}
	// Its process is this one, and works on it.
	refused(fmt.Sprintf("is alive: process %d works on it", os.Getpid()))
	if err := folder.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(folder.CellDir(folder.Plan().Cells[0].ID), "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Resume(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	run, err := r.Finish(never)
	if err != nil {
		t.Fatal(err)
	}
	if run.Ended.IsZero() || run.Results[0].Judgement.Verdict != matrix.Pass || len(run.HarnessErrors) > 0 {
		t.Errorf("the run is %+v", run)
	}
	after, err := os.ReadFile(filepath.Join(folder.CellDir(folder.Plan().Cells[0].ID), "result.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("the cell was over, and its result is another: %v\n%s\nwas\n%s", err, after, before)
	}
	refused("it is finished")
}

// TestResumeOfAnother: what the run was started with is named where it is not
// what there is now, and so is a run that is not run's.
func TestResumeOfAnother(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*matrix.Origin)
		want   []string
		// always: no flag helps.
		always bool
	}{
		"another program": {func(o *matrix.Origin) { o.Program = strings.Repeat("0", 64) }, []string{"the program: its SHA-256 is ", "it was 000"}, false},
		"no origin": {func(o *matrix.Origin) { *o = matrix.Origin{} },
			[]string{"the program: its SHA-256 is ", "it was not kept", "fix built-in/swap.yaml is new"}, false},
		"other fixes": {func(o *matrix.Origin) {
			o.Knowledge["fix my-fixes/gone.yaml"] = "00"
			o.Knowledge["fix built-in/swap.yaml"] = "00"
			delete(o.Knowledge, "fix built-in/ids.yaml")
		}, []string{"fix built-in/swap.yaml is another", "fix my-fixes/gone.yaml is gone", "fix built-in/ids.yaml is new"}, false},
		"a folder of fixes that is gone": {func(o *matrix.Origin) { o.FixFolders = []string{"/nowhere"} }, []string{"/nowhere"}, true},
		"an ablation":                    {func(o *matrix.Origin) { o.Verb = verbAblate }, []string{"lxcmatrix ablate --resume"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			folder := killed(t, tc.change)
			if err := folder.Close(); err != nil {
				t.Fatal(err)
			}
			request := ResumeRequest{Dir: folder.Dir(), Root: filepath.Dir(folder.Dir())}
			_, err := Resume(t.Context(), request)
			if usage := new(UsageError); !errors.As(err, &usage) {
				t.Fatalf("got %v, want a usage error", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			was, err := folder.Events()
			if err != nil || slices.ContainsFunc(was, func(e runfolder.Event) bool { return e.Kind == runfolder.Note }) {
				t.Errorf("a run that is refused says so in its events: %v", err)
			}
			request.Changed = true
			r, err := Resume(t.Context(), request)
			if tc.always {
				if err == nil {
					t.Error("--changed helps")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Finish(never); err != nil {
				t.Fatal(err)
			}
			events, err := folder.Events()
			if err != nil || !slices.ContainsFunc(events, func(e runfolder.Event) bool {
				return e.Kind == runfolder.Note && strings.Contains(e.Text, "goes on with what has changed")
			}) {
				t.Errorf("nothing tells what has changed: %v", err)
			}
		})
	}
}
