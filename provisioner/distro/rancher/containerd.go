package rancher

import (
	"fmt"
	"path"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/toml"
)

// The products render containerd's configuration at every start, from a
// template of their own or the one that lies beside it. Which file changes it
// depends on the version: k3s' pkg/agent/containerd/config.go and
// pkg/agent/templates/templates.go, and containerd's own rules for imports.
//
//	up to 1.31.5, 1.32.1  containerd 1.7: config.toml.tmpl, whole, as what is
//	                      imported replaces a plugin's settings
//	up to 1.35            containerd 2: config-v3.toml.tmpl, which renders the
//	                      product's and imports the drop-in, merged key by key
//	from 1.36             the product's template imports the folder of drop-ins
const (
	templateV2 = "config.toml.tmpl"
	templateV3 = "config-v3.toml.tmpl"
	dropIn     = "config-v3.toml.d/10-lxcmatrix.toml"
)

// containerdFiles are the files in a product's folder of containerd's
// configuration that bring settings about; none where there are no settings.
func containerdFiles(folder string, version *semver.Version, s provisioner.ContainerdSettings) ([]provisioner.File, error) {
	if len(s.CRI) == 0 && len(s.Runc) == 0 {
		return nil, nil
	}
	cri, err := toml.Keys(s.CRI)
	if err != nil {
		return nil, err
	}
	runc, err := toml.Keys(s.Runc)
	if err != nil {
		return nil, err
	}
	in := func(name, content string) provisioner.File {
		return provisioner.File{Path: path.Join(folder, name), Content: content}
	}
	if !atLeast(version, "1.31.6") || version.Minor() == 32 && !atLeast(version, "1.32.2") {
		return []provisioner.File{in(templateV2, wholeV2(s, cri, runc))}, nil
	}
	files := []provisioner.File{in(dropIn, dropInV3(cri, runc))}
	if !atLeast(version, "1.36.0") {
		files = append(files, in(templateV3, importing(path.Join(folder, path.Dir(dropIn)))))
	}
	return files, nil
}

const written = "# Written by lxcmatrix.\n"

func dropInV3(cri, runc string) string {
	const runtime = "plugins.'io.containerd.cri.v1.runtime'"
	text := written + "version = 3\n"
	if cri != "" {
		text += "\n[" + runtime + "]\n" + cri
	}
	if runc != "" {
		text += "\n[" + runtime + ".containerd.runtimes.runc.options]\n" + runc
	}
	return text
}

// importing is the product's own configuration, which imports a folder as
// well. Some versions import it by themselves, and a key may be there once
// only: what the product says at the top, which is no more than what is said
// here, goes into a table that belongs to no plugin.
func importing(folder string) string {
	return written + `version = 3
imports = ["` + folder + `/*.toml"]
root = {{ printf "%q" .NodeConfig.Containerd.Root }}
state = {{ printf "%q" .NodeConfig.Containerd.State }}

[plugins.'io.containerd.internal.v1.lxcmatrix']
{{ template "base" . }}
`
}

// wholeV2 is what the products want of containerd 1.7, and the settings.
func wholeV2(s provisioner.ContainerdSettings, cri, runc string) string {
	const plugin = `plugins."io.containerd.grpc.v1.cri"`
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	unless := func(values map[string]any, key, otherwise string) {
		if _, there := values[key]; !there {
			line("  %s", otherwise)
		}
	}
	b.WriteString(written + "version = 2\n")
	line(`root = {{ printf "%%q" .NodeConfig.Containerd.Root }}`)
	line(`state = {{ printf "%%q" .NodeConfig.Containerd.State }}`)
	line("\n[grpc]\n" + `  address = {{ printf "%%q" .NodeConfig.Containerd.Address }}`)
	line("\n[plugins.\"io.containerd.internal.v1.opt\"]\n" + `  path = {{ printf "%%q" .NodeConfig.Containerd.Opt }}`)
	line("\n[%s]", plugin)
	b.WriteString(cri)
	unless(s.CRI, "stream_server_address", `stream_server_address = "127.0.0.1"`)
	unless(s.CRI, "stream_server_port", `stream_server_port = "10010"`)
	unless(s.CRI, "enable_selinux", "enable_selinux = {{ .NodeConfig.SELinux }}")
	unless(s.CRI, "enable_unprivileged_ports", "enable_unprivileged_ports = {{ .EnableUnprivileged }}")
	unless(s.CRI, "enable_unprivileged_icmp", "enable_unprivileged_icmp = {{ .EnableUnprivileged }}")
	unless(s.CRI, "disable_cgroup", "{{ if .DisableCgroup }}disable_cgroup = true{{ end }}")
	unless(s.CRI, "disable_apparmor", "{{ if .IsRunningInUserNS }}disable_apparmor = true{{ end }}")
	unless(s.CRI, "restrict_oom_score_adj", "{{ if .IsRunningInUserNS }}restrict_oom_score_adj = true{{ end }}")
	unless(s.CRI, "sandbox_image", `{{ with .NodeConfig.AgentConfig.PauseImage }}sandbox_image = {{ printf "%q" . }}{{ end }}`)
	line("\n{{ with .NodeConfig.AgentConfig.Snapshotter }}\n[%s.containerd]", plugin)
	line(`  snapshotter = {{ printf "%%q" . }}` + "\n  disable_snapshot_annotations = true\n{{ end }}")
	line("\n{{ if not .NodeConfig.NoFlannel }}\n[%s.cni]", plugin)
	line(`  bin_dir = {{ printf "%%q" .NodeConfig.AgentConfig.CNIBinDir }}`)
	line(`  conf_dir = {{ printf "%%q" .NodeConfig.AgentConfig.CNIConfDir }}` + "\n{{ end }}")
	line("\n[%s.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"", plugin)
	line("\n[%s.containerd.runtimes.runc.options]", plugin)
	b.WriteString(runc)
	unless(s.Runc, "SystemdCgroup", "SystemdCgroup = {{ .SystemdCgroup }}")
	line("\n[%s.registry]\n"+`  config_path = {{ printf "%%q" .NodeConfig.Containerd.Registry }}`, plugin)
	return b.String()
}

// atLeast compares versions without their build metadata.
func atLeast(version *semver.Version, least string) bool {
	return version.Compare(semver.MustParse(least)) >= 0
}
