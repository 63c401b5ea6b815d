package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// openRun opens a run that was kept: by its folder, by its ID under root, or,
// where nothing is named, the latest one under root.
func openRun(root, name string) (*runfolder.Folder, error) {
	if name == "" {
		dir, err := runfolder.Latest(root)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usage("no run is kept under %s; make one with lxcmatrix run, or name the folder with --runs", root)
		}
		if err != nil {
			return nil, err
		}
		return runfolder.Open(dir)
	}
	for _, dir := range []string{filepath.Join(root, name), name} {
		folder, err := runfolder.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return folder, err
	}
	return nil, usage("there is no run %s, neither as a folder nor under %s%s", name, root, indented("; kept are:", runIDs(root)))
}

// runIDs lists the runs under root, the latest first.
func runIDs(root string) []string {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var ids []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(root, e.Name(), "run.json")); err == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Reverse(ids)
	return ids
}

// indented lists lines below a title; without lines it is empty.
func indented(title string, lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return title + "\n  " + strings.Join(lines, "\n  ")
}

// findCell finds the one cell of a plan that name means: its ID, or a selector
// that matches it alone.
func findCell(plan matrix.Plan, name string) (matrix.Cell, error) {
	if c, ok := plan.Cell(matrix.CellID(name)); ok {
		return c, nil
	}
	s, err := selector.Parse(name)
	if err != nil {
		return matrix.Cell{}, usage("%w", err)
	}
	var matches []matrix.Cell
	for _, c := range plan.Cells {
		if s.Matches(c) {
			matches = append(matches, c)
		}
	}
	switch len(matches) {
	case 1:
		return matches[0], nil
	case 0:
		return matrix.Cell{}, usage("no cell of this run is %q%s", name, indented("; there are:", cellIDs(plan.Cells)))
	}
	return matrix.Cell{}, usage("%d cells of this run are %q, and one is wanted%s", len(matches), name, indented(":", cellIDs(matches)))
}

func cellIDs(cells []matrix.Cell) []string {
	ids := make([]string, len(cells))
	for i, c := range cells {
		ids[i] = string(c.ID)
	}
	return ids
}

// isNode says whether name means the node: its name, or the end of it that
// says its role, as s1.
func isNode(node, name string) bool { return node == name || strings.HasSuffix(node, "-"+name) }
