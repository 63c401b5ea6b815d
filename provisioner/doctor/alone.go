package doctor

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// alone tells what else runs on a machine whose kernel nodes share: they are
// privileged, and root in one is root on the machine. Containers are told by
// their cgroups, virtual machines by their programs, and services by what they
// listen on beyond loopback, SSH apart.
func (m Machine) alone(_ context.Context, opts Options) []Finding {
	const id, remedy = "alone", "give lxcmatrix a machine of its own (docs/runner.md), or a qemu host, whose nodes share no kernel with this one"
	if !opts.nodesHere() {
		return nil
	}
	running := m.processes()
	if len(running) == 0 {
		return warning(id, remedy, "what else runs here could not be told: /proc shows no processes")
	}
	listening := m.listening()
	others := map[string]bool{}
	for _, p := range running {
		switch container := p.container(); {
		case p.ours(opts):
		case container != "":
			others["container "+container] = true
		case strings.HasPrefix(p.name, "qemu-system") || p.name == "kvm":
			others[fmt.Sprintf("virtual machine (%s, process %d)", p.name, p.pid)] = true
		default:
			for _, port := range m.portsOf(p, listening) {
				others[fmt.Sprintf("%s on port %d", p.name, port)] = true
			}
		}
	}
	if len(others) == 0 {
		return ok(id, "nothing else runs here that a privileged node could harm: no containers, no virtual machines, no services but SSH")
	}
	var names []string
	for name := range others {
		names = append(names, name)
	}
	slices.Sort(names)
	const most = 8
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("%d more", more))
	}
	return warning(id, remedy, "other things run here, and root in a node is root on this machine: a node can read, change and end them: %s", strings.Join(names, ", "))
}

// process is a process as /proc shows it.
type process struct {
	pid           int
	name, command string
	cgroups       string
}

func (m Machine) processes() (all []process) {
	entries, err := os.ReadDir(m.path("/proc"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		name, there := m.read(filepath.Join(dir, "comm"))
		command, _ := m.read(filepath.Join(dir, "cmdline"))
		cgroups, _ := m.read(filepath.Join(dir, "cgroup"))
		if there && command != "" { // Threads of the kernel have none.
			all = append(all, process{pid: pid, name: name, command: command, cgroups: cgroups})
		}
	}
	return all
}

// ours says whether a process belongs to lxcmatrix: to an embedded host, whose
// state folder or bridge its command names, to a qemu host, or to a node.
func (p process) ours(opts Options) bool {
	return opts.StateDir != "" && strings.Contains(p.command, opts.StateDir) || strings.Contains(p.command, "--interface="+strings.TrimSuffix(embeddedBridges, "+")) ||
		strings.Contains(p.cgroups, "lxc.payload.lxcmatrix_") || strings.HasPrefix(p.name, "lxcmatrix")
}

// inContainer matches the cgroups that Incus, LXD, LXC and Proxmox, Docker,
// Podman, Kubernetes and systemd-nspawn give to containers.
var inContainer = regexp.MustCompile(`/(?:lxc\.payload\.([^/\n]+)|lxc/([^/\n]+)|docker[-/]([0-9a-f]{12})|libpod-([0-9a-f]{12})|(kubepods)|machine\.slice/machine-([^/\n]+)\.scope)`)

// container is the name of the container that the process is in, or "".
func (p process) container() string {
	found := inContainer.FindStringSubmatch(p.cgroups)
	if found == nil {
		return ""
	}
	return strings.Join(found[1:], "")
}

// listening are the ports that somebody listens on beyond loopback, by the
// socket's inode.
func (m Machine) listening() map[string]int {
	const listens, ssh = "0A", 22
	ports := map[string]int{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := m.read(file)
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listens {
				continue
			}
			if at, ok := socketAddress(f[1]); ok && !at.Addr().IsLoopback() && at.Port() != ssh {
				ports[f[9]] = int(at.Port())
			}
		}
	}
	return ports
}

// socketAddress reads an address as the kernel prints it: words of 32 bits in the
// machine's own order, and the port, all in hex.
func socketAddress(text string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	at, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(at.Unmap(), uint16(n)), ok
}

// portsOf are those of the ports that a process has open.
func (m Machine) portsOf(p process, listening map[string]int) (ports []int) {
	dir := m.path(filepath.Join("/proc", strconv.Itoa(p.pid), "fd"))
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil // It has ended.
	}
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil {
			continue
		}
		inode, socket := strings.CutPrefix(target, "socket:[")
		if port, known := listening[strings.TrimSuffix(inode, "]")]; socket && known {
			ports = append(ports, port)
		}
	}
	return ports
}
