package cli

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

func (p *program) logs() *cobra.Command {
	var root, name string
	cmd := &cobra.Command{
		Use: "logs CELL [NODE] [NAME]", Short: "List or print the logs that were kept of a cell", Args: args(cobra.RangeArgs(1, 3)),
		Long: `Logs lists what was collected of a cell of the latest run, or prints one of its
logs. CELL is a cell's ID or a selector that matches it alone; NODE is a node's
name or the end of it, as s1. Where a NAME is one node's alone, NODE can be
left out. Secrets were removed when the logs were kept.`,
		Example: `  lxcmatrix logs kubeadm-1.34/debian-13/1/embedded
  lxcmatrix logs debian/13 s1
  lxcmatrix logs debian/13 s1 kubelet.log
  lxcmatrix logs debian/13 kubelet.log | grep -i error`,
		RunE: func(_ *cobra.Command, args []string) error {
			folder, err := openRun(root, name)
			if err != nil {
				return err
			}
			c, err := findCell(folder.Plan(), args[0])
			if err != nil {
				return err
			}
			all, err := folder.Logs(c.ID)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return usage("no logs were kept of cell %s in %s: it never came to a node", c.ID, folder.Dir())
			}
			chosen, one := chooseLogs(all, args[1:])
			switch {
			case len(chosen) == 0:
				return usage("cell %s has no log %q%s", c.ID, args[1:], indented("; there are:", logNames(all)))
			case one && len(chosen) > 1:
				return usage("%d logs of cell %s are %q, name a node too%s", len(chosen), c.ID, args[1:], indented(":", logNames(chosen)))
			case one:
				return p.printFile(chosen[0].Path)
			}
			rows := make([][]string, len(chosen))
			for i, l := range chosen {
				size := "-"
				if info, err := os.Stat(l.Path); err == nil {
					size = bytesOf(info.Size())
				}
				rows[i] = []string{l.Node, l.Name, size, l.Path}
			}
			return columns(p.Out, []string{"NODE", "NAME", "SIZE", "FILE"}, rows)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeLogs(root, name, args), cobra.ShellCompDirectiveNoFileComp
		},
	}
	rootFlag(cmd.Flags(), &root)
	cmd.Flags().StringVar(&name, "run", "", "a `run` by ID or folder; default: the latest")
	return cmd
}

// chooseLogs picks logs by NODE and NAME, either of which may be left out; one
// says that a single log is meant.
func chooseLogs(all []runfolder.Log, args []string) (chosen []runfolder.Log, one bool) {
	pick := func(keep func(runfolder.Log) bool) []runfolder.Log {
		return slices.DeleteFunc(slices.Clone(all), func(l runfolder.Log) bool { return !keep(l) })
	}
	switch len(args) {
	case 0:
		return all, false
	case 1:
		if of := pick(func(l runfolder.Log) bool { return isNode(l.Node, args[0]) }); len(of) > 0 {
			return of, false
		}
		return pick(func(l runfolder.Log) bool { return l.Name == args[0] }), true
	}
	return pick(func(l runfolder.Log) bool { return isNode(l.Node, args[0]) && l.Name == args[1] }), true
}

func logNames(logs []runfolder.Log) []string {
	names := make([]string, len(logs))
	for i, l := range logs {
		names[i] = l.Node + " " + l.Name
	}
	return names
}

func (p *program) printFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("print log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(p.Out, f); err != nil {
		return fmt.Errorf("print log %s: %w", path, err)
	}
	return nil
}
