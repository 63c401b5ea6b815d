package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAlone: what else runs on a machine is told, and what is lxcmatrix's own, SSH
// and what listens on loopback only are not.
func TestAlone(t *testing.T) {
	const state, head = "/var/lib/x", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	line := func(address, state string, inode int) string {
		return fmt.Sprintf("   0: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0000000000000000 100 0 0 10 0\n", address, state, inode)
	}
	for name, c := range map[string]struct {
		changes map[string]string
		// socket is the inode that process 7 has open.
		socket int
		driver string
		told   string
	}{
		"nothing":            {},
		"Docker container":   {changes: map[string]string{"/proc/7/cgroup": "0::/system.slice/docker-0123456789abcdef.scope"}, told: "container 0123456789ab"},
		"Incus container":    {changes: map[string]string{"/proc/7/cgroup": "9:pids:/lxc.payload.web/init.scope\n1:name=systemd:/"}, told: "container web"},
		"Proxmox container":  {changes: map[string]string{"/proc/7/cgroup": "0::/lxc/101/ns/init.scope"}, told: "container 101"},
		"Podman container":   {changes: map[string]string{"/proc/7/cgroup": "0::/machine.slice/libpod-abcdef012345.scope/container"}, told: "container abcdef012345"},
		"machine container":  {changes: map[string]string{"/proc/7/cgroup": "0::/machine.slice/machine-mail.scope/payload"}, told: "container mail"},
		"Kubernetes' pods":   {changes: map[string]string{"/proc/7/cgroup": "0::/kubepods.slice/kubepods-burstable.slice/x"}, told: "container kubepods"},
		"virtual machine":    {changes: map[string]string{"/proc/7/comm": "qemu-system-x86", "/proc/7/cmdline": "qemu-system-x86_64\x00-name\x00files"}, told: "virtual machine (qemu-system-x86, process 7)"},
		"Proxmox' machine":   {changes: map[string]string{"/proc/7/comm": "kvm", "/proc/7/cmdline": "/usr/bin/kvm\x00-id\x00100"}, told: "virtual machine (kvm, process 7)"},
		"service":            {changes: map[string]string{"/proc/net/tcp": head + line("00000000:1538", "0A", 70)}, socket: 70, told: "worker on port 5432"},
		"service, IPv6":      {changes: map[string]string{"/proc/net/tcp6": head + line("00000000000000000000000000000000:0050", "0A", 70)}, socket: 70, told: "worker on port 80"},
		"loopback":           {changes: map[string]string{"/proc/net/tcp": head + line("0100007F:1538", "0A", 70)}, socket: 70},
		"loopback, IPv6":     {changes: map[string]string{"/proc/net/tcp6": head + line("00000000000000000000000001000000:1538", "0A", 70)}, socket: 70},
		"SSH":                {changes: map[string]string{"/proc/net/tcp": head + line("00000000:0016", "0A", 70)}, socket: 70},
		"a connection":       {changes: map[string]string{"/proc/net/tcp": head + line("00000000:1538", "01", 70)}, socket: 70},
		"its own node":       {changes: map[string]string{"/proc/7/cgroup": "0::/lxc.payload.lxcmatrix_kubeadm-134-s1/init.scope"}},
		"its own daemon":     {changes: map[string]string{"/proc/7/cmdline": "incusd\x00--logfile\x00" + state + "/incusd.log", "/proc/net/tcp": head + line("00000000:20FB", "0A", 70)}, socket: 70},
		"its own bridge":     {changes: map[string]string{"/proc/7/cmdline": "dnsmasq\x00--interface=lxcm0e1faa9c", "/proc/net/tcp": head + line("0189BB0A:0035", "0A", 70)}, socket: 70},
		"the kernel's":       {changes: map[string]string{"/proc/7/cmdline": "", "/proc/7/cgroup": "0::/docker/0123456789abcdef"}},
		"nodes elsewhere":    {changes: map[string]string{"/proc/7/cgroup": "0::/lxc/101/ns"}, driver: "qemu"},
		"nothing to be seen": {changes: map[string]string{"/proc/1/comm": "-", "/proc/7/comm": "-"}, told: "could not be told"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"/proc/7/comm": "worker", "/proc/7/cmdline": "/usr/bin/worker", "/proc/7/cgroup": "0::/system.slice/worker.service"}
			for path, text := range c.changes {
				files[path] = text
			}
			m, _ := machine(t, files)
			if c.socket != 0 {
				dir := filepath.Join(m.Root, "proc/7/fd")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(fmt.Sprintf("socket:[%d]", c.socket), filepath.Join(dir, "3")); err != nil {
					t.Fatal(err)
				}
			}
			f, found := find(m.Examine(t.Context(), Options{HostDriver: c.driver, StateDir: state, PoolBytes: 20 << 30}), "alone")
			switch {
			case c.driver != "":
				if found {
					t.Errorf("%s, though nodes are not on this machine", f)
				}
			case c.told == "":
				if f.Severity != OK {
					t.Errorf("%s, want nothing told", f)
				}
			case f.Severity != Warning || !strings.Contains(f.What, c.told) || !strings.Contains(f.Remedy, "docs/runner.md"):
				t.Errorf("%s, want a warning of %q", f, c.told)
			}
		})
	}
}
