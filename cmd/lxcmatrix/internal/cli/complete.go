package cli

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
)

// completer lists what may be written at one place.
type completer = func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective)

// complete registers the completion of a flag that the command has.
func complete(cmd *cobra.Command, flag string, with completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(fmt.Sprintf("complete --%s of %s: %v", flag, cmd.Name(), err)) // the flag is registered by the caller, once
	}
}

func words(all ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSelection completes the flags of a selection.
func completeSelection(cmd *cobra.Command) {
	completeMatrix(cmd)
	for _, flag := range []string{"only", "skip"} {
		complete(cmd, flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			file, _ := cmd.Flags().GetString("file")
			return plannedNames(file), cobra.ShellCompDirectiveNoFileComp
		})
	}
	completeFixes(cmd)
}

// completeFixes completes --without by the fixes that there are, and --with by
// those that are applied only where somebody asks.
func completeFixes(cmd *cobra.Command) {
	for flag, wanted := range map[string]func(*fix.Fix) bool{"with": (*fix.Fix).OnRequest, "without": func(*fix.Fix) bool { return true }} {
		complete(cmd, flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			folders, _ := cmd.Flags().GetStringArray("fixes")
			return fixIDs(cmd.Context(), folders, wanted), cobra.ShellCompDirectiveNoFileComp
		})
	}
}

// completeMatrix completes --file: the built-in matrices, and files.
func completeMatrix(cmd *cobra.Command) {
	complete(cmd, "file", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return config.Builtins(), cobra.ShellCompDirectiveDefault
	})
}

// plannedNames are the selectors that people mean most: distributions, OSes
// and cell IDs of a matrix. One that cannot be read has none.
func plannedNames(file string) []string {
	cwd, err := os.Getwd()
	if err != nil {
		return nil
	}
	m, err := config.Find(file, cwd)
	if err != nil {
		return nil
	}
	cells, err := m.Cells()
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range cells {
		names = append(names, c.Distro.String(), c.OS.Written(), string(c.ID))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func fixIDs(ctx context.Context, folders []string, wanted func(*fix.Fix) bool) []string {
	knowledge, err := loadKnowledge(ctx, folders)
	if err != nil {
		return nil
	}
	var ids []string
	for _, f := range knowledge.Fixes.All() {
		if wanted(f) {
			ids = append(ids, f.ID+"\t"+f.Title)
		}
	}
	return ids
}

// keptCells are the cells of a run that was kept.
func keptCells(root, name string) []string {
	folder, err := openRun(root, name)
	if err != nil {
		return nil
	}
	return cellIDs(folder.Plan().Cells)
}

// completeLogs completes CELL, NODE and NAME in turn.
func completeLogs(root, name string, args []string) []string {
	if len(args) == 0 {
		return keptCells(root, name)
	}
	folder, err := openRun(root, name)
	if err != nil {
		return nil
	}
	c, err := findCell(folder.Plan(), args[0])
	if err != nil {
		return nil
	}
	all, err := folder.Logs(c.ID)
	if err != nil {
		return nil
	}
	var names []string
	for _, l := range all {
		switch {
		case len(args) == 1:
			names = append(names, l.Node)
		case len(args) == 2 && isNode(l.Node, args[1]):
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
