package chaos

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
)

// leavePatience is how long what is just ending may take.
const leavePatience = 30 * time.Second

// Left is what runs with an embedded host in a state folder left on this machine,
// beside the files in it: processes, mounts, loop devices, the bridge and rules
// about it, cgroups of nodes, and sysctls that no live run holds. What is gone a
// moment later is not among it.
func Left(ctx context.Context, state string, nodes []string) ([]string, error) {
	var left []string
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		var err error
		if left, err = look(ctx, state, nodes); err != nil {
			return struct{}{}, backoff.Permanent(err)
		}
		if len(left) > 0 {
			return struct{}{}, fmt.Errorf("left: %s", strings.Join(left, ", "))
		}
		return struct{}{}, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(leavePatience))
	if len(left) > 0 {
		return left, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for what was left of %s: %w", state, err)
	}
	return nil, nil
}

func look(ctx context.Context, state string, nodes []string) (left []string, err error) {
	for _, of := range []func(context.Context, string, []string) ([]string, error){processes, mounts, loops, bridge, cgroups, sysctls} {
		more, err := of(ctx, state, nodes)
		if err != nil {
			return nil, err
		}
		left = append(left, more...)
	}
	return left, nil
}

// processes are those that name the state folder, in their arguments or their
// environment, or that are in a node.
func processes(_ context.Context, state string, nodes []string) (left []string, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range all {
		// One that ends meanwhile has none of them.
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if bytes.Contains(command, []byte(state)) || bytes.Contains(environment, []byte(state)) ||
			slices.ContainsFunc(nodes, func(n string) bool { return bytes.Contains(cgroup, []byte(n)) }) {
			left = append(left, fmt.Sprintf("process %s: %s", filepath.Base(dir), bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	return left, nil
}

func mounts(_ context.Context, state string, _ []string) (left []string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.Contains(lines.Text(), state) {
			left = append(left, "mount "+lines.Text())
		}
	}
	return left, lines.Err()
}

func loops(_ context.Context, state string, _ []string) (left []string, err error) {
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		// A device that is being detached has none.
		if file, _ := os.ReadFile(path); bytes.Contains(file, []byte(state)) {
			left = append(left, strings.Split(path, "/")[3]+" of "+strings.TrimSpace(string(file)))
		}
	}
	return left, nil
}

// bridge is the embedded host's, and rules that name it.
func bridge(ctx context.Context, state string, _ []string) (left []string, err error) {
	name := host.BridgeName(state)
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(interfaces, func(i net.Interface) bool { return i.Name == name }) {
		left = append(left, "interface "+name)
	}
	for _, list := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}} {
		if _, err := exec.LookPath(list[0]); err != nil {
			continue
		}
		rules, err := exec.CommandContext(ctx, list[0], list[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(list, " "), err)
		}
		for line := range strings.Lines(string(rules)) {
			if strings.Contains(line, name) {
				left = append(left, list[0]+": "+strings.TrimSpace(line))
			}
		}
	}
	return left, nil
}

func cgroups(_ context.Context, _ string, nodes []string) (left []string, err error) {
	for _, node := range nodes {
		for _, depth := range []string{"", "*/"} {
			found, err := filepath.Glob("/sys/fs/cgroup/" + depth + "lxc.*_" + node)
			if err != nil {
				return nil, err
			}
			left = append(left, found...)
		}
	}
	return left, nil
}

func sysctls(ctx context.Context, _ string, _ []string) (left []string, err error) {
	keys, err := lease.Left(ctx, catalog.LeaseFile)
	if len(keys) > 0 {
		left = []string{"sysctls " + strings.Join(keys, " ")}
	}
	return left, err
}
