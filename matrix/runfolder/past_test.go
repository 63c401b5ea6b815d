package runfolder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func TestPast(t *testing.T) {
	root := t.TempDir()
	started := time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)
	for i, id := range []string{"20261120T193324Z-aaaaaa", "20261120T203324Z-aaaaaa", "20261120T213324Z-aaaaaa"} {
		c := matrix.Cell{Host: matrix.HostRef{Name: "h"}, OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
		c.ID = c.NewID()
		f, err := Create(filepath.Join(root, id), matrix.Run{ID: id, Started: started, Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion, Cells: []matrix.Cell{c}}})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			continue // killed: nothing was remembered
		}
		run, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Remember(run); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(before string, most int) (all []string) {
		runs, unread := ReadPast(root, before, most)
		if len(unread) > 0 {
			t.Errorf("not read: %v", unread)
		}
		for _, r := range runs {
			if len(r.Cells) != 1 || r.Cells[0].Verdict != matrix.Unknown {
				t.Errorf("run %s is remembered as %v", r.ID, r.Cells)
			}
			all = append(all, r.ID[9:11])
		}
		return all
	}
	for _, tc := range []struct {
		before string
		most   int
		want   string
	}{{"", 90, "[19 20 21]"}, {"", 2, "[20 21]"}, {"20261120T213324Z-aaaaaa", 90, "[19 20]"}, {"20261120T193324Z-aaaaaa", 90, "[]"}} {
		if got := ids(tc.before, tc.most); fmt.Sprint(got) != tc.want {
			t.Errorf("the last %d before %q are %v, want %s", tc.most, tc.before, got, tc.want)
		}
	}
	path := filepath.Join(root, "20261120T193324Z-aaaaaa", summaryFile)
	if err := os.WriteFile(path, []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	runs, unread := ReadPast(root, "", 90)
	var corrupt *CorruptError
	if len(runs) != 2 || len(unread) != 1 || !errors.As(unread[0], &corrupt) || corrupt.Path != path {
		t.Errorf("%d runs, not read: %v", len(runs), unread)
	}
	if runs, unread := ReadPast(filepath.Join(root, "nowhere"), "", 90); runs != nil || unread != nil {
		t.Errorf("nowhere has %v, %v", runs, unread)
	}
}

func TestOldRuns(t *testing.T) {
	root := t.TempDir()
	for _, id := range []string{"20261120T193324Z-aaaaaa", "20261121T193324Z-aaaaaa", "20261122T193324Z-aaaaaa", "20261123T193324Z-aaaaaa"} {
		if _, err := Create(filepath.Join(root, id), matrix.Run{ID: id, Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		keep   int
		before time.Time
		want   string
	}{
		{0, time.Time{}, "[]"}, {4, time.Time{}, "[]"}, {2, time.Time{}, "[20 21]"}, {1, time.Time{}, "[20 21 22]"},
		{0, time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC), "[20 21]"}, {3, time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), "[20]"},
		{0, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), "[20 21 22]"},
	} {
		var days []string
		for _, dir := range Old(root, tc.keep, tc.before) {
			days = append(days, filepath.Base(dir)[6:8])
		}
		if got := fmt.Sprint(days); got != tc.want {
			t.Errorf("keeping %d, none before %s: old are %s, want %s", tc.keep, tc.before, got, tc.want)
		}
	}

	busy, err := Open(filepath.Join(root, "20261120T193324Z-aaaaaa"))
	if err != nil {
		t.Fatal(err)
	}
	if err := busy.AppendEvent(Event{Kind: RunStarted}); err != nil {
		t.Fatal(err)
	}
	var writing *BusyError
	if err := Remove(busy.Dir()); !errors.As(err, &writing) {
		t.Errorf("a run that is being written is removed: %v", err)
	}
	if _, err := Open(busy.Dir()); err != nil {
		t.Errorf("it is not whole any more: %v", err)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(busy.Dir()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(busy.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
