package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeRunner answers by the command line's beginning, the longest that fits,
// and records what was asked.
type fakeRunner struct {
	ran     []string
	answers map[string]answer
	// did is called with each command line before it is answered.
	did func(line string)
}

type answer struct {
	output string
	exit   int
	err    error
}

func (r *fakeRunner) Run(_ context.Context, cmd Command) (string, error) {
	line := strings.Join(cmd.Args, " ")
	r.ran = append(r.ran, cmd.String())
	if r.did != nil {
		r.did(line)
	}
	best, a := -1, answer{exit: 127, output: "no answer to " + line}
	for prefix, candidate := range r.answers {
		if strings.HasPrefix(line, prefix) && len(prefix) > best {
			best, a = len(prefix), candidate
		}
	}
	if cmd.Stream != nil {
		if _, err := cmd.Stream.Write([]byte(a.output)); err != nil {
			return "", err
		}
	}
	switch {
	case a.err != nil:
		return a.output, a.err
	case a.exit != 0:
		return a.output, &RunError{Command: cmd, ExitCode: a.exit, Output: a.output}
	}
	return a.output, nil
}

const (
	mountsV1Split  = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/cpuacct cgroup rw,cpuacct 0 0\ncgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	mountsV1Joined = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\ncgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"
	mountsV2       = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\nlxcfs /var/lib/lxcfs fuse.lxcfs rw 0 0\n"
)

const program = "#!program"

// healthy is a Debian 13 machine where everything is in order, as files.
func healthy() map[string]string {
	files := map[string]string{
		"/etc/os-release":                                "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n",
		"/etc/resolv.conf":                               "nameserver 192.0.2.1\n",
		"/etc/apt/sources.list.d/debian.sources":         "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
		"/usr/share/keyrings/debian-archive-keyring.gpg": "key",
		"/etc/ssl/certs/ca-certificates.crt":             "certificates",
		"/usr/include/stdio.h":                           "header",
		"/usr/include/seccomp.h":                         "header",
		"/usr/libexec/incus/incusd":                      program,
		"/proc/self/mounts":                              mountsV2,
		"/proc/self/status":                              "Name:\tx\nCapBnd:\t000001ffffffffff\n",
		"/proc/sys/kernel/cap_last_cap":                  "40",
		"/proc/filesystems":                              "nodev\toverlay\n\text4\n",
		"/proc/sys/net/bridge/bridge-nf-call-iptables":   "1",
		"/proc/sys/net/netfilter/nf_conntrack_max":       "65536",
		"/proc/sys/net/ipv4/ip_forward":                  "1",
		"/proc/meminfo":                                  "MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n",
		"/proc/net/udp":                                  "  sl  local_address\n",
		"/proc/1/comm":                                   "systemd",
		"/proc/1/cmdline":                                "/sbin/init",
		"/proc/1/cgroup":                                 "0::/init.scope",
		"/sys/fs/cgroup/cgroup.controllers":              "cpuset cpu io memory hugetlb pids",
		"/sys/module/apparmor/parameters/enabled":        "Y",
		"/dev/loop-control":                              "",
		"/dev/kmsg":                                      "",
		"/proc/sys/vm/overcommit_memory":                 "1",
		"/proc/sys/vm/panic_on_oom":                      "0",
		"/proc/sys/kernel/panic":                         "10",
		"/proc/sys/kernel/panic_on_oops":                 "1",
		"/proc/sys/kernel/keys/root_maxkeys":             "1000000",
		"/proc/sys/kernel/keys/root_maxbytes":            "25000000",
		"/proc/sys/fs/inotify/max_user_instances":        "8192",
		"/proc/sys/fs/inotify/max_user_watches":          "999999",
		"/var/lib/apt/lists/mirror_dists_trixie_main_binary-amd64_Packages.lz4": "list",
		"/usr/local/go/bin/go": program,
	}
	files["/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"] = "font"
	for _, name := range []string{"dnsmasq", "nft", "ip", "mke2fs", "losetup", "mmdebstrap", "tar2sqfs", "xz", "git", "apparmor_parser", "gcc", "pkg-config", "make", "unshare", "modprobe", "iptables", "apt-get", "qemu-system-x86_64", "qemu-img", "lxc-start", "dockerd", "shellcheck", "chromium", "npm"} {
		files["/usr/sbin/"+name] = program
	}
	return files
}

// machine is a healthy one with changes; a file changed to "-" is not there.
func machine(t *testing.T, changes map[string]string) (Machine, *fakeRunner) {
	t.Helper()
	files := healthy()
	for name, text := range changes {
		files[name] = text
	}
	root := t.TempDir()
	for name, text := range files {
		if text == "-" {
			continue
		}
		mode := os.FileMode(0o644)
		if text == program {
			mode = 0o755
		}
		p := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	r := &fakeRunner{answers: map[string]answer{
		"/usr/local/go/bin/go version": {output: "go version go1.26.8 linux/amd64\n"},
		"/usr/sbin/unshare --net":      {},
		"/usr/sbin/nft list ruleset":   {output: "table inet incus {\n\tchain fwd.x {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n"},
	}}
	return Machine{
		Root:   root,
		Runner: r,
		Getenv: func(key string) string { return map[string]string{"PATH": "/usr/local/go/bin"}[key] },
		CPUs:   2,
		Free:   func(string) (int64, error) { return 100 << 30, nil },
		Now:    time.Now,
	}, r
}

func find(findings []Finding, id string) (Finding, bool) {
	for _, f := range findings {
		if f.ID == id {
			return f, true
		}
	}
	return Finding{}, false
}
