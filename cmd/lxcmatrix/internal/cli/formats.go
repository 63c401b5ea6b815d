package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/pflag"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/annotations"
	"github.com/lxcmatrix/lxcmatrix/reports/badge"
	"github.com/lxcmatrix/lxcmatrix/reports/csv"
	jsonreport "github.com/lxcmatrix/lxcmatrix/reports/json"
	"github.com/lxcmatrix/lxcmatrix/reports/junit"
	"github.com/lxcmatrix/lxcmatrix/reports/markdown"
	"github.com/lxcmatrix/lxcmatrix/reports/openmetrics"
	"github.com/lxcmatrix/lxcmatrix/reports/table"
)

// render writes a report of a run that is kept in a folder.
type render func(w io.Writer, folder *runfolder.Folder, r matrix.Run) error

// The formats that are not one file, or that are made for standard output.
const (
	formatTable  = "table"
	formatBadges = "badges"
)

// renderers by the name of their format; of the table, how it is in a file.
var renderers = map[string]render{
	"annotations": ofRun(annotations.Render), "badge": ofRun(badge.Render), "csv": ofRun(csv.Render), "html": htmlReport, "json": ofRun(jsonreport.Render),
	"junit": ofRun(junit.Render), "markdown": ofRun(markdown.Render), "openmetrics": ofRun(openmetrics.Render), formatTable: ofRun(table.Render),
}

// ofRun is a renderer that needs the run alone.
func ofRun(of func(io.Writer, matrix.Run) error) render {
	return func(w io.Writer, _ *runfolder.Folder, r matrix.Run) error { return of(w, r) }
}

// formats are the names of all formats, in order.
func formats() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(renderers)), formatBadges)))
}

// outputFlags are those for further reports, by their formats.
func outputFlags(f *pflag.FlagSet) map[string]*string {
	outputs := map[string]*string{}
	for _, name := range formats() {
		switch name {
		case formatTable:
		case formatBadges:
			outputs[name] = f.String(name, "", "also write a badge of the run, and one of each distribution on an OS, into a `folder`")
		default:
			outputs[name] = f.String(name, "", "also write the "+name+" report to a `file`")
		}
	}
	return outputs
}

// writeReport writes a report to a file or, where the format is several, into a
// folder.
func writeReport(path, format string, folder *runfolder.Folder, r matrix.Run) error {
	if format == formatBadges {
		return badge.Folder(path, r)
	}
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(renderers[format](f, folder, r), f.Close())
	}
	if err != nil {
		return fmt.Errorf("write the %s report to %s: %w", format, path, err)
	}
	return nil
}
