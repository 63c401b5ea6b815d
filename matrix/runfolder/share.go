package runfolder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Share makes a copy of the run that others may read, in a new folder: every text
// in it went through hide, and so did names, those of cells among them. Results,
// logs, events, consoles and the trials at cells are in it; what programs wrote for
// themselves is not. Verdicts are judged anew from what is left.
func (f *Folder) Share(dir string, hide func(string) string) (shared *Folder, err error) {
	fail := func(err error) (*Folder, error) { return nil, fmt.Errorf("share run %s in %s: %w", f.dir, dir, err) }
	run, err := f.Read()
	if err != nil {
		return nil, err
	}
	if run, err = hidden(run, hide); err != nil {
		return fail(err)
	}
	if run.Plan.Shard != nil {
		run.Plan.Shard.Plan = run.Plan.Digest()
	}
	if shared, err = Create(dir, run); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			shared, err = nil, errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := errors.Join(f.shareCells(shared, run, hide), f.shareEvents(shared, hide), f.shareConsoles(shared, hide), f.shareTrials(shared, hide), shared.Close()); err != nil {
		return fail(err)
	}
	if len(run.Ablations) > 0 {
		if err := shared.WriteAblations(run.Ablations); err != nil {
			return fail(err)
		}
	}
	return shared, nil
}

func (f *Folder) shareCells(to *Folder, run matrix.Run, hide func(string) string) error {
	for i, c := range f.plan.Cells {
		result := run.Results[i]
		if len(result.Attempts) > 0 {
			if _, err := to.WriteResult(result); err != nil {
				return err
			}
		}
		logs, err := f.Logs(c.ID)
		if err != nil {
			return err
		}
		for _, l := range logs {
			content, err := l.Last(l.Size)
			if err != nil {
				return err
			}
			if _, err := to.WriteLog(result.Cell.ID, hide(l.Node), l.Name, []byte(hide(string(content)))); err != nil {
				return err
			}
		}
		if err := to.PackLogs(result.Cell.ID); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) shareEvents(to *Folder, hide func(string) string) error {
	events, err := f.Events()
	if err != nil {
		return err
	}
	for _, e := range events {
		if e, err = hidden(e, hide); err != nil {
			return err
		}
		if err := to.AppendEvent(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) shareConsoles(to *Folder, hide func(string) string) error {
	hosts, err := os.ReadDir(filepath.Join(f.dir, hostsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, h := range hosts {
		text, err := os.ReadFile(filepath.Join(f.dir, hostsDir, h.Name(), consoleFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		console, err := to.Console(hide(h.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(console, []byte(hide(string(text))), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) shareTrials(to *Folder, hide func(string) string) error {
	trials, err := os.ReadDir(f.Trials())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, t := range trials {
		trial, err := Open(filepath.Join(f.Trials(), t.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := trial.Share(filepath.Join(to.Trials(), t.Name()), hide); err != nil {
			return err
		}
	}
	return nil
}

// hidden is a copy of a value of which every string, keys of maps among them, went
// through hide.
func hidden[T any](value T, hide func(string) string) (copied T, err error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return copied, err
	}
	var plain any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // Sizes in bytes are more than a float64 holds.
	if err := decoder.Decode(&plain); err != nil {
		return copied, err
	}
	if raw, err = json.Marshal(hideIn(plain, hide)); err != nil {
		return copied, err
	}
	return copied, json.Unmarshal(raw, &copied)
}

func hideIn(value any, hide func(string) string) any {
	switch v := value.(type) {
	case string:
		return hide(v)
	case []any:
		for i := range v {
			v[i] = hideIn(v[i], hide)
		}
	case map[string]any:
		hidden := make(map[string]any, len(v))
		for key, inside := range v {
			hidden[hide(key)] = hideIn(inside, hide)
		}
		return hidden
	}
	return value
}
