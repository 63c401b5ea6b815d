package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
)

// recipe is what is done to a node by hand: what the fix set and the
// distribution would write, and the commands that they would run, in their
// order.
type recipe struct {
	want     provisioner.Desired
	files    []provisioner.File
	commands [][]string
}

// writeDown makes the recipe of a node from what was observed and decided for
// the same cell before.
func writeDown(ctx context.Context, knowledge *catalog.Knowledge, distro provisioner.Distro, e Example, name, address string, network provisioner.Network) (*recipe, error) {
	fixes := catalog.Fixes{Catalogue: knowledge.Fixes}
	want, err := fixes.Desired(e.Attempt.Fixes, cell.NodeContext{Name: name, Address: address, Network: network, Host: e.Attempt.Host})
	if err != nil {
		return nil, fmt.Errorf("write down what is done by hand: %w", err)
	}
	if len(e.Attempt.Nodes) != 1 {
		return nil, fmt.Errorf("write down what is done by hand: the cell has %d nodes, only one is known", len(e.Attempt.Nodes))
	}
	node := &paper{name: name, address: address, containerd: e.Attempt.Nodes[0].Containerd}
	if err = fixes.Apply(ctx, node, want); err == nil {
		err = distro.Configure(ctx, node, want)
	}
	if err == nil {
		_, err = distro.Init(ctx, node, want)
	}
	if err != nil {
		return nil, fmt.Errorf("write down what is done by hand: %w", err)
	}
	return &recipe{want: want, files: node.files, commands: node.commands}, nil
}

// instance is the configuration that `incus launch` reads from its standard
// input.
func (r *recipe) instance(limits matrix.NodeLimits, address, pool, bridge string, owner map[string]string) map[string]any {
	config := map[string]string{
		"limits.memory": fmt.Sprint(limits.MemoryBytes), "limits.processes": fmt.Sprint(limits.Processes), "limits.cpu": fmt.Sprint(limits.CPUs),
		"raw.lxc": strings.Join(r.want.Incus.RawLXC, "\n"),
	}
	for key, value := range r.want.Incus.Config {
		config[key] = value
	}
	for key, value := range owner {
		config["user.lxcmatrix."+key] = value
	}
	devices := map[string]map[string]string{
		"root": {"type": "disk", "path": "/", "pool": pool},
		"eth0": {"type": "nic", "name": "eth0", "network": bridge, "ipv4.address": address},
	}
	for name, device := range r.want.Incus.Devices {
		devices[name] = device
	}
	return map[string]any{"config": config, "devices": devices}
}

// archive is the files as a tar archive. Folders are left to tar.
func (r *recipe) archive() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range r.files {
		mode := int64(f.Mode)
		if mode == 0 {
			mode = 0o644
		}
		err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: mode, Size: int64(len(f.Content)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = w.Write([]byte(f.Content))
		}
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack the node's files: %w", err)
	}
	return b.Bytes(), nil
}

// paper is a node that does nothing and notes everything.
type paper struct {
	// Lifecycle is nil: nobody restarts paper.
	provisioner.Lifecycle
	name, address, containerd string
	files                     []provisioner.File
	commands                  [][]string
}

var _ provisioner.Node = (*paper)(nil)

func (p *paper) Name() string    { return p.name }
func (p *paper) Address() string { return p.address }

// Exec notes the command. The one question that is asked is answered, and not
// noted: who does it by hand knows.
func (p *paper) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	if strings.Join(cmd.Args, " ") == "containerd --version" {
		return provisioner.Output{Stdout: "containerd github.com/containerd/containerd " + p.containerd}, nil
	}
	p.commands = append(p.commands, cmd.Args)
	return provisioner.Output{}, nil
}

func (p *paper) Push(_ context.Context, file provisioner.File) error {
	p.files = append(p.files, file)
	return nil
}

// Pull knows only the administrator's kubeconfig, which is read by hand later.
func (p *paper) Pull(_ context.Context, path string) ([]byte, error) {
	if path == adminConf {
		return nil, nil
	}
	return nil, fmt.Errorf("pull %s: %w", path, fs.ErrNotExist)
}
