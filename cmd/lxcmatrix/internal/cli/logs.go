package cli

import (
	"errors"
	"fmt"
	"io"
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
left out. Secrets were removed when the logs were kept. FILE is the log or, once the
cell has ended, the archive that has it.`,
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
				return p.printLog(chosen[0])
			}
			rows := make([][]string, len(chosen))
			for i, l := range chosen {
				rows[i] = []string{l.Node, l.Name, bytesOf(l.Size), l.Path}
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

func (p *program) printLog(l runfolder.Log) (err error) {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := io.Copy(p.Out, r); err != nil {
		return fmt.Errorf("print log %s of node %s: %w", l.Name, l.Node, err)
	}
	return nil
}
