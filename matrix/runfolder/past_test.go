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
