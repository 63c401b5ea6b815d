package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/html"
)

// htmlName is the HTML report's in the run's folder.
const htmlName = "report.html"

// htmlReport writes the HTML report of a run, with its logs and with what is
// remembered of the runs beside it.
func htmlReport(w io.Writer, folder *runfolder.Folder, r matrix.Run) error {
	// What cannot be read of the past is no part of this run.
	past, _ := runfolder.ReadPast(filepath.Dir(folder.Dir()), r.ID, html.PastRuns-1)
	return html.Render(w, html.Input{Run: r, Past: past, Logs: func(id matrix.CellID) ([]html.Log, error) { return logsOf(folder, id) }})
}

// logsOf are a cell's logs as the HTML report takes them; they were redacted when
// they were kept.
func logsOf(folder *runfolder.Folder, id matrix.CellID) ([]html.Log, error) {
	kept, err := folder.Logs(id)
	if err != nil {
		return nil, err
	}
	logs := make([]html.Log, len(kept))
	for i, l := range kept {
		info, err := os.Stat(l.Path)
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		logs[i] = html.Log{Node: l.Node, Name: l.Name, Size: info.Size(), Last: func(most int64) ([]byte, error) { return lastOf(l.Path, most) }}
	}
	return logs, nil
}

// lastOf reads the end of a file.
func lastOf(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", path, err)
	}
	return text, nil
}
