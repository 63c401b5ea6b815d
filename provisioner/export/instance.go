package export

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// instances makes a file of each way in which the cell's instances are set up:
// one, where all are alike.
func (s Steps) instances(file string, write func(Node) (string, error)) ([]provisioner.File, error) {
	nodes := s.Nodes
	if !slices.ContainsFunc(nodes, func(n Node) bool { return !reflect.DeepEqual(n.Instance, nodes[0].Instance) }) {
		nodes = nodes[:1]
	}
	var files []provisioner.File
	for _, n := range nodes {
		text, err := write(n)
		if err != nil {
			return nil, err
		}
		name := file
		if len(nodes) > 1 {
			name = s.named(n, file)
		}
		files = append(files, provisioner.File{Path: name, Content: text})
	}
	return files, nil
}

// incusProfile is the container's part as `incus profile edit` reads it.
func incusProfile(s Steps) ([]provisioner.File, error) {
	return s.instances("profile.yaml", func(n Node) (string, error) {
		config := map[string]string{}
		maps.Copy(config, n.Instance.Config)
		if len(n.Instance.RawLXC) > 0 {
			config["raw.lxc"] = strings.Join(n.Instance.RawLXC, "\n")
		}
		devices := n.Instance.Devices
		if devices == nil {
			devices = map[string]map[string]string{}
		}
		text, err := yaml.Dump(map[string]any{"description": "lxcmatrix: " + string(s.Cell), "config": config, "devices": devices})
		return s.header() + "# Apply it:  incus profile create k8s; incus profile edit k8s < profile.yaml\n" +
			"#            incus launch IMAGE NODE --profile default --profile k8s\n" +
			"# Undo it:   incus profile remove NODE k8s, and restart the node\n" + string(text), err
	})
}

// lxc are the container's settings for LXC without Incus.
type lxc struct {
	unprivileged, nesting bool
	// lines are key and value.
	lines [][2]string
}

// toLXC says in LXC's own words what is said in Incus'. What Incus does beyond
// LXC cannot be said.
func (s Steps) toLXC(n Node, format string) (lxc, error) {
	var l lxc
	add := func(key, value string) { l.lines = append(l.lines, [2]string{key, value}) }
	for _, key := range slices.Sorted(maps.Keys(n.Instance.Config)) {
		switch value := n.Instance.Config[key]; {
		case key == "security.privileged":
			l.unprivileged = value == "false"
		case key == "security.nesting":
			l.nesting = value == "true"
		case key == "limits.memory.swap" && value == "false" && s.Cgroup == "v2":
			add("lxc.cgroup2.memory.swap.max", "0")
		case key == "limits.memory.swap" && value == "false":
			add("lxc.cgroup.memory.swappiness", "0")
		default:
			return l, &UntranslatableError{format, fmt.Sprintf("the instance's %s=%s", key, value)}
		}
	}
	for _, line := range n.Instance.RawLXC {
		key, value, _ := strings.Cut(line, "=")
		add(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	for _, name := range slices.Sorted(maps.Keys(n.Instance.Devices)) {
		d := n.Instance.Devices[name]
		// Incus makes the device anew and lets the container open it; the host's own,
		// mounted and on the list, is the same.
		if d["type"] != "unix-char" || d["source"] != "/dev/kmsg" {
			return l, &UntranslatableError{format, "the device " + name}
		}
		key := "lxc.cgroup2.devices.allow"
		if s.Cgroup == "v1" {
			key = "lxc.cgroup.devices.allow"
		}
		add(key, "c 1:11 rwm")
		add("lxc.mount.entry", fmt.Sprintf("%s %s none bind,create=file 0 0", d["source"], strings.TrimPrefix(d["path"], "/")))
	}
	return l, nil
}

// lxcConf are lines for the end of /var/lib/lxc/NAME/config.
func lxcConf(s Steps) ([]provisioner.File, error) {
	return s.instances("lxc.conf", func(n Node) (string, error) {
		l, err := s.toLXC(n, "lxc-conf")
		if err != nil {
			return "", err
		}
		var b strings.Builder
		b.WriteString(s.header())
		b.WriteString("# Put it at the end of the container's own: /var/lib/lxc/NAME/config.\n")
		if l.unprivileged {
			b.WriteString("# The container has a user namespace: an lxc.idmap of yours goes with it.\n")
		}
		if l.nesting {
			b.WriteString("lxc.include = /usr/share/lxc/config/nesting.conf\n")
		}
		for _, line := range l.lines {
			fmt.Fprintf(&b, "%s = %s\n", line[0], line[1])
		}
		return b.String(), nil
	})
}

// proxmox are lines for the end of /etc/pve/lxc/ID.conf.
func proxmox(s Steps) ([]provisioner.File, error) {
	return s.instances("pct.conf", func(n Node) (string, error) {
		l, err := s.toLXC(n, "proxmox")
		if err != nil {
			return "", err
		}
		var b strings.Builder
		b.WriteString("# derived, unproven: no Proxmox was seen to take it\n" + s.header())
		b.WriteString("# Put it at the end of /etc/pve/lxc/ID.conf, while the container is stopped.\n")
		if l.unprivileged {
			b.WriteString("unprivileged: 1\n")
		} else {
			b.WriteString("unprivileged: 0\n")
		}
		if l.nesting {
			b.WriteString("features: nesting=1\n")
		}
		for _, line := range l.lines {
			fmt.Fprintf(&b, "%s: %s\n", line[0], line[1])
		}
		return b.String(), nil
	})
}
