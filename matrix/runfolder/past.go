package runfolder

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
)

// summaryFile is what is remembered of a run that is over, compressed: many
// runs are read by it at once.
const summaryFile = "summary.json.gz"

// Remember keeps what is to be remembered of the run, which is over and was read
// from this folder.
func (f *Folder) Remember(run matrix.Run) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	err := errors.Join(json.NewEncoder(z).Encode(history.Of(run)), z.Close())
	if err == nil {
		err = writeAtomic(filepath.Join(f.dir, summaryFile), b.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("remember run %s: %w", run.ID, err)
	}
	return nil
}

// ReadPastOf is what is remembered of the run in a folder. Where nothing was
// kept, as of a run that was killed, it is made from the results, and nothing is
// written. A folder that is no run's wraps fs.ErrNotExist.
func ReadPastOf(dir string) (history.Run, error) {
	path := filepath.Join(dir, summaryFile)
	r, err := readPast(path)
	if err == nil {
		return r, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return history.Run{}, &CorruptError{Path: path, Err: err}
	}
	f, err := Open(dir)
	if err != nil {
		return history.Run{}, err
	}
	run, err := f.Read()
	if err != nil {
		return history.Run{}, err
	}
	return history.Of(run), nil
}

func readPast(path string) (r history.Run, err error) {
	file, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	z, err := gzip.NewReader(file)
	if err != nil {
		return r, err
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, err
	}
	if r.APIVersion != history.APIVersion {
		return r, fmt.Errorf("apiVersion is %q, this program reads %q", r.APIVersion, history.APIVersion)
	}
	return r, nil
}

// ReadPast reads what is remembered of at most so many runs under root, the
// youngest, in the order in which they started; only those before a run's ID,
// unless that is empty. What cannot be read tells nothing, and is returned as
// errors beside what can: no root has no past.
func ReadPast(root, before string, most int) (runs []history.Run, unread []error) {
	for _, dir := range youngest(root, most, before) {
		r, err := ReadPastOf(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				unread = append(unread, err)
			}
			continue
		}
		runs = append(runs, r)
	}
	slices.Reverse(runs)
	return runs, unread
}

// Old lists the folders of the runs under root that are not among the youngest
// keep, or that started before a time, the oldest first. A keep of 0 and a zero
// time rule nothing out. The youngest run is never old: it is what the next one
// is held against.
func Old(root string, keep int, before time.Time) (dirs []string) {
	for i, dir := range youngest(root, math.MaxInt, "") {
		started, err := time.Parse(idTime, filepath.Base(dir)[:len(idTime)])
		if i > 0 && (keep > 0 && i >= keep || err == nil && started.Before(before)) {
			dirs = append(dirs, dir)
		}
	}
	slices.Reverse(dirs)
	return dirs
}

// Remove removes a run's folder and everything in it. One that a process is
// writing is a *BusyError, and stays.
func Remove(dir string) error {
	lock, err := openEvents(dir)
	if err == nil {
		err = errors.Join(os.RemoveAll(dir), lock.Close())
	}
	if err != nil {
		return fmt.Errorf("remove run %s: %w", dir, err)
	}
	return nil
}
