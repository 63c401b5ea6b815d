package runfolder

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

const (
	logsDir = "logs"
	// packedLogs is an archive since that has an index, reads one log without the
	// others, and opens with what people have.
	packedLogs = "logs.zip"
	saidFile   = "said.txt"
)

// Log is a kept log.
type Log struct {
	Node, Name string
	// Path is the log's or, where it is packed, the archive's that has it as
	// NODE/NAME.
	Path string
	// Size is the log's own, in bytes.
	Size int64
	// archive is that of the cell, which has the log, or will have it once the cell
	// has ended.
	archive string
}

// Open opens the log for reading, packed or not.
func (l Log) Open() (io.ReadCloser, error) {
	fail := func(err error) (io.ReadCloser, error) {
		return nil, fmt.Errorf("read log %s of node %s: %w", l.Name, l.Node, err)
	}
	if l.Path != l.archive {
		f, err := os.Open(l.Path)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
		// It was packed meanwhile.
	}
	archive, err := zip.OpenReader(l.archive)
	if err != nil {
		return fail(err)
	}
	f, err := archive.Open(l.Node + "/" + l.Name)
	if err != nil {
		return fail(errors.Join(err, archive.Close()))
	}
	return packedLog{f, archive}, nil
}

// packedLog closes its archive with it.
type packedLog struct {
	io.ReadCloser
	archive io.Closer
}

func (l packedLog) Close() error { return errors.Join(l.ReadCloser.Close(), l.archive.Close()) }

// Last reads at most so many bytes of the log's end.
func (l Log) Last(most int64) (text []byte, err error) {
	r, err := l.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err = io.CopyN(io.Discard, r, max(0, l.Size-most)); err == nil {
		text, err = io.ReadAll(io.LimitReader(r, most))
	}
	if err != nil {
		return nil, fmt.Errorf("read log %s of node %s: %w", l.Name, l.Node, err)
	}
	return text, nil
}

// WriteLog keeps a log that was collected from a node and returns its path. A
// second one of the same name replaces the first.
func (f *Folder) WriteLog(id matrix.CellID, node, name string, content []byte) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("keep log %s of node %s in cell %s: %w", name, node, id, err)
	}
	if _, ok := f.cells[id]; !ok {
		return fail(errors.New("the cell is not in the plan"))
	}
	for _, part := range []string{node, name} {
		if err := checkName(part); err != nil {
			return fail(err)
		}
	}
	dir := filepath.Join(f.CellDir(id), logsDir, node)
	if err := os.MkdirAll(f.CellDir(id), 0o755); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	path := filepath.Join(dir, name)
	if err := writeAtomic(path, f.redact(content), 0o600); err != nil {
		return fail(err)
	}
	return path, nil
}

// Logs lists a cell's kept logs by node and name; none is no error. An archive that
// cannot be believed is a *CorruptError.
func (f *Folder) Logs(id matrix.CellID) ([]Log, error) {
	if _, ok := f.cells[id]; !ok {
		return nil, fmt.Errorf("list logs of cell %s: the cell is not in the plan", id)
	}
	// In this order nothing is missed that is packed meanwhile.
	loose, err := f.loose(id)
	if err != nil {
		return nil, err
	}
	all, err := f.packed(id)
	if err != nil {
		return nil, err
	}
	// What was collected since is newer.
	maps.Copy(all, loose)
	return slices.SortedFunc(maps.Values(all), func(a, b Log) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name))
	}), nil
}

// Say keeps what a node of a cell said last, for those who look on while the cell
// goes on; what it said before is forgotten. A crash may leave an old line.
func (f *Folder) Say(id matrix.CellID, line string) error {
	fail := func(err error) error { return fmt.Errorf("keep what was said in cell %s: %w", id, err) }
	c, ok := f.cells[id]
	if !ok {
		return fail(errors.New("the cell is not in the plan"))
	}
	c.Lock()
	defer c.Unlock()
	if err := os.MkdirAll(f.CellDir(id), 0o755); err != nil {
		return fail(err)
	}
	// Nothing is lost with it: it is not worth waiting for the disk.
	path := filepath.Join(f.CellDir(id), saidFile)
	err := os.WriteFile(path+".new", []byte(f.text(line)), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Said is what a node of a cell said last; empty where that is not known, as of a
// cell that has ended.
func (f *Folder) Said(id matrix.CellID) string {
	line, err := os.ReadFile(filepath.Join(f.CellDir(id), saidFile))
	if err != nil {
		return ""
	}
	return string(line)
}

// PackLogs compresses the logs of a cell that has ended into one archive, and forgets
// what was said last. Logs that are packed already stay, unless they were collected
// again. A crash leaves the logs as they were, or twice.
func (f *Folder) PackLogs(id matrix.CellID) error {
	fail := func(err error) error { return fmt.Errorf("pack logs of cell %s: %w", id, err) }
	if err := os.Remove(filepath.Join(f.CellDir(id), saidFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	loose, err := f.loose(id)
	if err != nil {
		return fail(err)
	}
	if len(loose) == 0 {
		return nil
	}
	all, err := f.Logs(id)
	if err != nil {
		return fail(err)
	}
	var b bytes.Buffer
	archive := zip.NewWriter(&b)
	for _, l := range all {
		if err := pack(archive, l); err != nil {
			return fail(err)
		}
	}
	if err := archive.Close(); err != nil {
		return fail(err)
	}
	if err := writeAtomic(f.archive(id), b.Bytes(), 0o600); err != nil {
		return fail(err)
	}
	if err := os.RemoveAll(filepath.Join(f.CellDir(id), logsDir)); err != nil {
		return fail(err)
	}
	return nil
}

func pack(archive *zip.Writer, l Log) (err error) {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := archive.Create(l.Node + "/" + l.Name)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return err
}

// archive is where a cell's logs are once they are packed.
func (f *Folder) archive(id matrix.CellID) string { return filepath.Join(f.CellDir(id), packedLogs) }

// packed are the logs in a cell's archive, by node and name.
func (f *Folder) packed(id matrix.CellID) (all map[string]Log, err error) {
	path := f.archive(id)
	all = map[string]Log{}
	archive, err := zip.OpenReader(path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, &CorruptError{Path: path, Err: err}
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	for _, entry := range archive.File {
		node, name, _ := strings.Cut(entry.Name, "/")
		if err := errors.Join(checkName(node), checkName(name)); err != nil {
			return nil, &CorruptError{Path: path, Err: err}
		}
		all[entry.Name] = Log{Node: node, Name: name, Path: path, Size: entry.FileInfo().Size(), archive: path}
	}
	return all, nil
}

// loose are a cell's logs that are files of their own, by node and name.
func (f *Folder) loose(id matrix.CellID) (map[string]Log, error) {
	all := map[string]Log{}
	root := filepath.Join(f.CellDir(id), logsDir)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Not there yet, or packed in this moment.
			return nil
		case err != nil:
			return err
		case entry.IsDir() || strings.HasPrefix(entry.Name(), "."):
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		l := Log{Node: filepath.Base(filepath.Dir(path)), Name: entry.Name(), Path: path, Size: info.Size(), archive: f.archive(id)}
		all[l.Node+"/"+l.Name] = l
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list logs of cell %s: %w", id, err)
	}
	return all, nil
}
