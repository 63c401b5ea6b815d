package fix

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// sysctlFile holds the sysctls of a node, for systemd to set at every boot.
const sysctlFile = "/etc/sysctl.d/90-lxcmatrix.conf"

// unitFolder is where an administrator's own units belong.
const unitFolder = "/etc/systemd/system"

// Apply brings the node part of the desired state about: files and units are
// written, units that are to be enabled are started, units that are to be disabled
// are stopped, units that must read a changed file are restarted, sysctls are set. Applying twice changes nothing.
// A command that the node refuses is a *provisioner.CommandError.
func Apply(ctx context.Context, node provisioner.Node, want provisioner.Desired) error {
	state := want.Node
	files := slices.Clone(state.Files)
	for _, unit := range state.Units {
		files = append(files, provisioner.File{Path: path.Join(unitFolder, unit.Name), Content: unit.Content})
	}
	if len(state.Sysctls) > 0 {
		files = append(files, provisioner.File{Path: sysctlFile, Content: sysctlConf(state.Sysctls)})
	}
	for _, file := range files {
		if err := node.Push(ctx, file); err != nil {
			return fmt.Errorf("apply fixes to node %s: write %s: %w", node.Name(), file.Path, err)
		}
	}
	script := activation(state)
	if script == "" {
		return nil
	}
	if _, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", script}}); err != nil {
		return fmt.Errorf("apply fixes to node %s: activate what was written: %w", node.Name(), err)
	}
	return nil
}

// activation is the script that makes systemd and the kernel take up what was
// written, in one go; empty if there is nothing to take up.
func activation(state provisioner.NodeState) string {
	var lines []string
	// system.conf drop-ins are files too, and are read at a reload.
	if len(state.Units) > 0 || slices.ContainsFunc(state.Files, func(f provisioner.File) bool { return strings.HasPrefix(f.Path, "/etc/systemd/") }) {
		lines = append(lines, "systemctl daemon-reload")
	}
	var enable, restart, disable []string
	for _, unit := range state.Units {
		if unit.Enable {
			enable = append(enable, quote(unit.Name))
		}
	}
	for _, unit := range state.Disable {
		disable = append(disable, quote(unit))
	}
	for _, unit := range state.Restart {
		restart = append(restart, quote(unit))
	}
	if len(enable) > 0 {
		lines = append(lines, "systemctl enable --now "+strings.Join(enable, " "))
	}
	if len(state.Disable) > 0 {
		lines = append(lines, "systemctl disable --now "+strings.Join(disable, " "))
	}
	if len(restart) > 0 {
		lines = append(lines, "systemctl try-restart "+strings.Join(restart, " "))
	}
	if len(state.Sysctls) > 0 {
		lines = append(lines, "sysctl -q -p "+sysctlFile)
	}
	if len(lines) == 0 {
		return ""
	}
	return "set -e\n" + searchPath + strings.Join(lines, "\n") + "\n"
}

// searchPath makes a node's administration commands found whatever the
// environment of an exec is.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n"

func sysctlConf(sysctls map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		fmt.Fprintf(&b, "%s = %s\n", key, sysctls[key])
	}
	return b.String()
}

// quote makes one word of a shell command.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
