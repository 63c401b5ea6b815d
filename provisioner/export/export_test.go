package export_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/golden"
	"mvdan.cc/sh/v3/syntax"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/artifact"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/export"
)

// passed is a cell and an attempt of it on a host with everything in it.
func passed(distro, version string) (matrix.Cell, matrix.Attempt) {
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: distro}.At(version),
		OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	apparmor := false
	a := matrix.Attempt{
		Host: matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", CgroupCPUSplit: true, Incus: "6.0.4", LXC: "5.0.2", Storage: "dir", AppArmor: &apparmor,
			Controllers: []string{"cpu", "cpuset", "memory", "pids"}, Capabilities: []string{"CAP_SYS_ADMIN", "CAP_SYS_TIME"}},
		Nodes: []matrix.NodeFacts{{Node: "s1", Containerd: "1.7.24"}},
	}
	return c, a
}

// steps are those of a cell of one node.
func steps(t *testing.T, distro, version string) export.Steps {
	t.Helper()
	c, a := passed(distro, version)
	return stepsOf(t, c, a)
}

// several are those of a cell with servers of Debian 12, and of agents of Debian
// 13, whose containerd is newer.
func several(t *testing.T, distro, version string, topology matrix.Topology) export.Steps {
	t.Helper()
	c, a := passed(distro, version)
	c.OS, c.Topology = matrix.OS{Name: "debian/12", Agents: "debian/13"}, topology
	c.ID = c.NewID()
	for i := 1; i < topology.Nodes(); i++ {
		node := a.Nodes[0]
		if topology.Role(i) == matrix.RoleAgent {
			node.Containerd = "2.1.4"
		}
		a.Nodes = append(a.Nodes, node)
	}
	return stepsOf(t, c, a)
}

func stepsOf(t *testing.T, c matrix.Cell, a matrix.Attempt) export.Steps {
	t.Helper()
	k, err := catalog.LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store, err := artifact.New(t.TempDir(), artifact.Options{Sources: []string{artifact.SourceCache}})
	if err != nil {
		t.Fatal(err)
	}
	decided, err := catalog.Fixes{Catalogue: k.Fixes}.Decide(c, a.Host, &a.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	a.Fixes = decided
	s, err := catalog.Steps(k, store, c, a, matrix.Timeouts{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFormats holds what each format writes for each distribution to its golden
// files.
func TestFormats(t *testing.T) {
	for folder, s := range map[string]export.Steps{
		"kubeadm":       steps(t, "kubeadm", "1.34.4"),
		"k3s":           steps(t, "k3s", "1.34.2+k3s1"),
		"rke2":          steps(t, "rke2", "1.34.2+rke2r1"),
		"kubeadm-mixed": several(t, "kubeadm", "1.34.4", matrix.Topology{Servers: 1, Agents: 2}),
		"k3s-mixed":     several(t, "k3s", "1.34.2+k3s1", matrix.Topology{Servers: 1, Agents: 1}),
	} {
		names, _ := export.Formats()
		for _, format := range names {
			t.Run(folder+" "+format, func(t *testing.T) {
				files, err := export.Write(format, s)
				if err != nil {
					t.Fatal(err)
				}
				var all strings.Builder
				for _, f := range files {
					all.WriteString("==> " + f.Path + " <==\n" + f.Content)
				}
				golden.Assert(t, all.String(), filepath.Join(folder, format+".golden"))
			})
		}
	}
}

// TestScriptsAreScripts has every script parsed as a POSIX shell would, and
// looked at by sh and shellcheck where they are there.
func TestScriptsAreScripts(t *testing.T) {
	for _, one := range []struct {
		steps   export.Steps
		scripts []string
	}{
		{steps(t, "kubeadm", "1.34.4"), []string{"host.sh", "node.sh"}},
		{steps(t, "k3s", "1.34.2+k3s1"), []string{"host.sh", "node.sh"}},
		{several(t, "kubeadm", "1.34.4", matrix.Topology{Servers: 1, Agents: 1}), []string{"host.sh", "server.sh", "agent.sh"}},
		{several(t, "kubeadm", "1.34.4", matrix.Topology{Servers: 3}), []string{"host.sh", "first-server.sh", "server.sh"}},
		{several(t, "rke2", "1.34.2+rke2r1", matrix.Topology{Servers: 3, Agents: 2}), []string{"host.sh", "first-server.sh", "server.sh", "agent.sh"}},
	} {
		files, err := export.Write("shell", one.steps)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range files {
			names = append(names, f.Path)
		}
		if !slices.Equal(names, one.scripts) {
			t.Errorf("the scripts of %s are %q, want %q", one.steps.Cell, names, one.scripts)
		}
		for _, f := range files {
			if _, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(f.Content), f.Path); err != nil {
				t.Error(err)
			}
			path := filepath.Join(t.TempDir(), f.Path)
			if err := os.WriteFile(path, []byte(f.Content), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, command := range [][]string{{"sh", "-n", path}, {"shellcheck", path}} {
				if _, err := exec.LookPath(command[0]); err != nil {
					continue
				}
				if said, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
					t.Errorf("%s of %s: %v\n%s", command[0], f.Path, err, said)
				}
			}
		}
	}
}

// TestUntranslatable: what a format cannot say is no silence.
func TestUntranslatable(t *testing.T) {
	for what, spoil := range map[string]func(*export.Steps){
		"security.syscalls.intercept.mknod": func(s *export.Steps) {
			s.Nodes[0].Instance.Config = map[string]string{"security.syscalls.intercept.mknod": "true"}
		},
		"the device lib-modules": func(s *export.Steps) {
			s.Nodes[0].Instance.Devices = map[string]map[string]string{"lib-modules": {"type": "disk", "source": "/lib/modules", "path": "/lib/modules"}}
		},
	} {
		s := steps(t, "kubeadm", "1.34.4")
		spoil(&s)
		for _, format := range []string{"lxc-conf", "proxmox"} {
			_, err := export.Write(format, s)
			var cannot *export.UntranslatableError
			if !errors.As(err, &cannot) || cannot.Format != format || !strings.Contains(cannot.What, what) {
				t.Errorf("%s: %v, want that it cannot say %s", format, err, what)
			}
		}
		if _, err := export.Write("incus-profile", s); err != nil {
			t.Error(err)
		}
	}
}

// TestUnprovenSaysSo: what was not seen to work says so in its first line.
func TestUnprovenSaysSo(t *testing.T) {
	files, err := export.Write("proxmox", steps(t, "kubeadm", "1.34.4"))
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(files[0].Content, "\n"); !strings.Contains(first, "derived, unproven") {
		t.Errorf("it begins with %q", first)
	}
}

// TestScriptRoundTrip applies a script of files alone, twice, and undoes it.
func TestScriptRoundTrip(t *testing.T) {
	dir := t.TempDir()
	replaced, made := filepath.Join(dir, "etc/replaced"), filepath.Join(dir, "etc/it's made")
	if err := os.MkdirAll(filepath.Dir(replaced), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(replaced, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := export.Steps{Nodes: []export.Node{{Part: export.Part{Name: "node", Files: []provisioner.File{
		{Path: replaced, Content: "a $HOME `and` 'quotes'\nEND\nname " + export.NodeName + "\n", Mode: 0o644}, {Path: made, Mode: 0o755}}}}}}
	files, err := export.Write("shell", s)
	if err != nil {
		t.Fatal(err)
	}
	// Its memory is in a place of its own.
	script := strings.ReplaceAll(files[0].Content, "/var/lib/lxcmatrix-export", dir+"/kept")
	run := func(verb string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-s", verb)
		cmd.Stdin, cmd.Env = strings.NewReader(script), append(os.Environ(), "NODE_NAME=n1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", verb, err, out)
		}
		return string(out)
	}
	if out, want := run("apply"), "changed: file "+replaced+"\nchanged: file "+made+"\n"; out != want {
		t.Errorf("it said %q, want %q", out, want)
	}
	content, err := os.ReadFile(replaced)
	if want := "a $HOME `and` 'quotes'\nEND\nname n1\n"; err != nil || string(content) != want {
		t.Errorf("%v: the file holds %q, want %q", err, content, want)
	}
	first, err := os.Stat(replaced)
	if err != nil {
		t.Fatal(err)
	}
	if out := run("apply"); out != "no change\n" {
		t.Errorf("the second time it said %q", out)
	}
	if again, err := os.Stat(replaced); err != nil || again.ModTime() != first.ModTime() {
		t.Errorf("the second time it wrote: %v", err)
	}
	run("undo")
	content, err = os.ReadFile(replaced)
	if err != nil || string(content) != "before\n" {
		t.Errorf("%v: after undo the file holds %q", err, content)
	}
	if info, err := os.Stat(replaced); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("after undo its mode is %v: %v", info.Mode(), err)
	}
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after undo %s is there: %v", made, err)
	}
	if out := run("undo"); out != "no change\n" {
		t.Errorf("the second undo said %q", out)
	}
}

// TestEachRoleHasItsOwn: nodes of two OSes are told apart, by what their own
// containerd reads and by how they come into the cluster; what is asked is told
// before anything is written.
func TestEachRoleHasItsOwn(t *testing.T) {
	s := several(t, "kubeadm", "1.34.4", matrix.Topology{Servers: 3, Agents: 1})
	files, err := export.Write("shell", s)
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{}
	for _, f := range files {
		scripts[f.Path] = f.Content
	}
	for script, of := range map[string]struct{ has, lacks []string }{
		"first-server.sh": {[]string{"kind: InitConfiguration", "version = 2", "kubeadm init"}, []string{"TOKEN", "version = 3"}},
		"server.sh":       {[]string{"kind: JoinConfiguration", "controlPlane:", "version = 2", "kubeadm join", "CERTIFICATE_KEY"}, []string{"InitConfiguration", "version = 3"}},
		"agent.sh":        {[]string{"kind: JoinConfiguration", "version = 3", "kubeadm join", "CA_HASH"}, []string{"controlPlane:", "CERTIFICATE_KEY", "version = 2"}},
	} {
		for _, has := range of.has {
			if !strings.Contains(scripts[script], has) {
				t.Errorf("%s lacks %q", script, has)
			}
		}
		for _, lacks := range of.lacks {
			if strings.Contains(scripts[script], lacks) {
				t.Errorf("%s has %q", script, lacks)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-s")
	cmd.Stdin, cmd.Env = strings.NewReader(scripts["agent.sh"]), append(os.Environ(), "NODE_NAME=n1", "NODE_ADDRESS=192.0.2.2", "GATEWAY=192.0.2.1", "SERVER=192.0.2.3")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "set TOKEN: a token of the cluster") || strings.Contains(string(out), "changed") {
		t.Errorf("without a token: %v\n%s", err, out)
	}
}
