package cli

import (
	"io"
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
		logs[i] = html.Log{Node: l.Node, Name: l.Name, Size: l.Size, Last: l.Last}
	}
	return logs, nil
}
