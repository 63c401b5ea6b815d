package kubeadm

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/toml"
)

// PluginFolder is where CNI plugins are that a release brings, as everybody but
// Debian has it.
const PluginFolder = "/opt/cni/bin"

// osPlugins is where Debian has the CNI plugins.
const osPlugins = "/usr/lib/cni"

var containerdVersion = regexp.MustCompile(`\s[vV]?(\d+)\.(\d+)\.\d+`)

// containerdConfig renders containerd's configuration in version 2 for
// containerd 1.x and in version 3 for 2.x, where the CRI plugin was split and
// renamed. said is what `containerd --version` printed, pause the sandbox image.
func containerdConfig(said, pause string, s provisioner.ContainerdSettings) (string, error) {
	m := containerdVersion.FindStringSubmatch(said)
	if m == nil {
		return "", fmt.Errorf("read containerd's version from %q", strings.TrimSpace(said))
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	cri, err := toml.Keys(s.CRI)
	if err != nil {
		return "", err
	}
	runc, err := toml.Keys(s.Runc)
	if err != nil {
		return "", err
	}
	version, runtime := 2, `plugins."io.containerd.grpc.v1.cri"`
	if major >= 2 {
		version, runtime = 3, `plugins."io.containerd.cri.v1.runtime"`
	}
	plugins := fmt.Sprintf("bin_dir = %q", osPlugins)
	if major > 2 || major == 2 && minor >= 1 {
		// 2.1 takes several folders, and 2.4 no longer knows the old key.
		plugins = fmt.Sprintf("bin_dirs = [%q, %q]", PluginFolder, osPlugins)
	}
	line("# Written by lxcmatrix.\nversion = %d\n", version)
	line("[%s]", runtime)
	if version == 2 {
		line("  sandbox_image = %q", pause)
	}
	b.WriteString(cri)
	if version == 3 {
		line("\n[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = %q", pause)
	}
	if s.Snapshotter != "" {
		owner := runtime + ".containerd"
		if version == 3 {
			owner = `plugins."io.containerd.cri.v1.images"`
		}
		line("\n[%s]\n  snapshotter = %q", owner, s.Snapshotter)
	}
	line("\n[%s.cni]\n  %s\n  conf_dir = %q", runtime, plugins, "/etc/cni/net.d")
	line("\n[%s.containerd.runtimes.runc]\n  runtime_type = %q", runtime, "io.containerd.runc.v2")
	line("\n[%s.containerd.runtimes.runc.options]", runtime)
	b.WriteString(runc)
	return b.String(), nil
}
