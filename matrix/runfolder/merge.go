package runfolder

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/shards"
)

// Shards opens the runs that folders hold: each is a run's own, or has runs in
// it. One that has neither wraps fs.ErrNotExist.
func Shards(dirs []string) ([]*Folder, error) {
	var all []*Folder
	for _, dir := range dirs {
		f, err := Open(dir)
		if err == nil {
			all = append(all, f)
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		found := 0
		for _, inside := range slices.Backward(youngest(dir, math.MaxInt, "")) {
			f, err := Open(inside)
			if err != nil {
				return nil, err
			}
			all, found = append(all, f), found+1
		}
		if found == 0 {
			return nil, fmt.Errorf("find runs in %s: %w", dir, fs.ErrNotExist)
		}
	}
	return all, nil
}

// Merge joins runs that are shards of one into a run under root, with their
// results, logs, consoles and events. The same shards make the same run again,
// which takes the place of what they made before. Runs that cannot be joined are
// a *shards.Error, and nothing is written.
func Merge(root string, parts []*Folder) (folder *Folder, err error) {
	runs := make([]matrix.Run, len(parts))
	for i, f := range parts {
		if runs[i], err = f.Read(); err != nil {
			return nil, err
		}
	}
	merged, err := shards.Merge(runs)
	if err != nil {
		return nil, err
	}
	run := merged.Run
	run.ID = FormatRunID(run.Started, merged.Suffix)
	final := filepath.Join(root, run.ID)
	fail := func(err error) (*Folder, error) { return nil, fmt.Errorf("join shards into %s: %w", final, err) }
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err)
	}
	// A run's folder is there whole, or not at all.
	making, err := os.MkdirTemp(root, ".joining-")
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(making)) }()
	f, err := Create(filepath.Join(making, run.ID), run)
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(f.take(parts, merged), f.Close()); err != nil {
		return fail(err)
	}
	if _, err := os.Stat(final); err == nil {
		if err := Remove(final); err != nil {
			return fail(err)
		}
	}
	if err := os.Rename(f.dir, final); err != nil {
		return fail(err)
	}
	return Open(final)
}

// take copies what the parts of a merged run have.
func (f *Folder) take(parts []*Folder, merged shards.Merged) error {
	for _, result := range merged.Run.Results {
		id := result.Cell.ID
		place, there := merged.From[id]
		if !there || len(result.Attempts) == 0 {
			continue
		}
		if _, err := f.WriteResult(result); err != nil {
			return err
		}
		logs, err := parts[place].Logs(id)
		if err != nil {
			return err
		}
		for _, l := range logs {
			content, err := l.Last(l.Size)
			if err != nil {
				return err
			}
			if _, err := f.WriteLog(id, l.Node, l.Name, content); err != nil {
				return err
			}
		}
		if err := f.PackLogs(id); err != nil {
			return err
		}
	}
	var events []Event
	for _, part := range parts {
		own, err := part.Events()
		if err != nil {
			return err
		}
		events = append(events, own...)
		if err := f.takeConsoles(part); err != nil {
			return err
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	for _, e := range events {
		if err := f.AppendEvent(e); err != nil {
			return err
		}
	}
	return nil
}

// takeConsoles copies what machines printed, each part's by itself: several may
// have had a host of one name.
func (f *Folder) takeConsoles(part *Folder) error {
	hosts, err := os.ReadDir(filepath.Join(part.dir, hostsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, h := range hosts {
		from, err := part.Console(h.Name())
		if err != nil {
			return err
		}
		text, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		to, err := f.Console(h.Name() + "-" + part.header.ID)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
