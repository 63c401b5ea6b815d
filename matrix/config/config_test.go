package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
)

// machine is what the examples' default budgets are a part of.
func machine() config.Machine { return config.Machine{CPUs: 4, Memory: 16 << 30} }

// examples are the YAML files of a folder below testdata.
func examples(t *testing.T, folder string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples in testdata/%s: %v", folder, err)
	}
	return paths
}

// goldenOf names the golden file beside an example, from testdata on.
func goldenOf(example string) string {
	folder, file := filepath.Split(example)
	return filepath.Join(filepath.Base(folder), strings.TrimSuffix(file, ".yaml")+".golden")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// effective is a matrix with its defaults, and its cells.
func effective(t *testing.T, m *config.Matrix) string {
	t.Helper()
	g := NewWithT(t)
	text, err := m.YAML()
	g.Expect(err).NotTo(HaveOccurred())
	cells, err := m.Cells()
	g.Expect(err).NotTo(HaveOccurred())
	var b strings.Builder
	b.Write(text)
	for _, c := range cells {
		fmt.Fprintf(&b, "# %s version=%q optional=%t", c.ID, c.Distro.Version, c.Optional)
		if c.Expect != nil {
			fmt.Fprintf(&b, " expect=%s:%s", c.Expect.Phase, c.Expect.Signature)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestValid(t *testing.T) {
	for _, path := range examples(t, "valid") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			g := NewWithT(t)
			m, err := config.Parse("matrix.yaml", read(t, path), machine())
			g.Expect(err).NotTo(HaveOccurred())
			text := effective(t, m)
			golden.Assert(t, text, goldenOf(path))

			// What is written out reads as the same matrix, on any machine.
			written, err := m.YAML()
			g.Expect(err).NotTo(HaveOccurred())
			again, err := config.Parse("matrix.yaml", written, config.Machine{CPUs: 64, Memory: 1 << 40})
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(effective(t, again)).To(Equal(text))
		})
	}
}

func TestInvalid(t *testing.T) {
	for _, path := range append(examples(t, "structure"), examples(t, "meaning")...) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			g := NewWithT(t)
			m, err := config.Parse("matrix.yaml", read(t, path), machine())
			g.Expect(m).To(BeNil())
			var list *config.Error
			g.Expect(errors.As(err, &list)).To(BeTrue(), "%v", err)
			golden.Assert(t, err.Error()+"\n", goldenOf(path))
		})
	}
}

func TestBuiltins(t *testing.T) {
	g := NewWithT(t)
	g.Expect(config.Builtins()).To(ContainElements("default", "gates", "kernels", "smoke"))
	for _, name := range config.Builtins() {
		m, err := config.Builtin(name)
		g.Expect(err).NotTo(HaveOccurred(), name)
		g.Expect(m.File).To(Equal("built-in " + name))
	}
	m, err := config.Builtin(config.DefaultName)
	g.Expect(err).NotTo(HaveOccurred())
	cells, err := m.Cells()
	g.Expect(err).NotTo(HaveOccurred())
	var ids []matrix.CellID
	for _, c := range cells {
		ids = append(ids, c.ID)
	}
	g.Expect(ids).To(Equal([]matrix.CellID{"kubeadm-1.34/debian-12/1/embedded", "kubeadm-1.34/debian-13/1/embedded"}))
}

func TestFind(t *testing.T) {
	text, err := fs.ReadFile(fixtures.Matrices(), "smoke.yaml")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name string) {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("with/matrix.yaml")
	write("with/other")
	write("with/default")
	if err := os.MkdirAll(filepath.Join(folder, "without", "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ arg, cwd, file, problem string }{
		{"", "without", "built-in default", ""},
		{"", "with", "matrix.yaml", ""},
		{"smoke", "with", "built-in smoke", ""},
		{"default", "with", "built-in default", ""},
		{"./default", "with", "./default", ""},
		{"other", "with", "other", ""},
		{"../with/matrix.yaml", "without", "../with/matrix.yaml", ""},
		{"somke", "with", "", `somke: neither a file nor a built-in matrix (did you mean "smoke"?); built in are default, distros, gates, kernels, smoke`},
		{"gone.yaml", "with", "", `gone.yaml: neither a file nor a built-in matrix; built in are default, distros, gates, kernels, smoke`},
		{"folder", "without", "", `folder: cannot be read: is a directory`},
	} {
		t.Run(test.arg+" in "+test.cwd, func(t *testing.T) {
			g := NewWithT(t)
			m, err := config.Find(test.arg, filepath.Join(folder, test.cwd))
			if test.problem != "" {
				var list *config.Error
				g.Expect(errors.As(err, &list)).To(BeTrue(), "%v", err)
				g.Expect(err).To(MatchError(test.problem))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(m.File).To(Equal(test.file))
		})
	}
}

func TestDefaultsFitSmallMachines(t *testing.T) {
	g := NewWithT(t)
	text, err := fs.ReadFile(fixtures.Matrices(), "default.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	m, err := config.Parse("default", text, config.Machine{CPUs: 1, Memory: 4 << 30})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(m.PlanBudget()).To(Equal(matrix.Budget{CPUs: 1, MemoryBytes: 3 << 30, DiskBytes: 20 << 30,
		Node: matrix.NodeLimits{MemoryBytes: 3 << 30, Processes: 4096, CPUs: 1}}))
}

func TestMatrixMadeInCode(t *testing.T) {
	g := NewWithT(t)
	m := config.Matrix{File: "code",
		Hosts:      []config.Host{{Name: "embedded", Driver: "embedded"}},
		Distros:    []config.Distro{{Name: "kubeadm", Version: "1.34"}},
		OS:         []config.OS{{Name: "debian/13"}},
		Topologies: []config.Topology{{Servers: 1}},
		Exclude:    []config.Selector{{OS: "debian/12"}},
	}
	_, err := m.Cells()
	g.Expect(err).To(MatchError("code: exclude[0]: os=debian/12 matches no combination of the axes"))
}

func TestLargeMatrix(t *testing.T) {
	g := NewWithT(t)
	_, err := config.Parse("matrix.yaml", large(400), machine())
	g.Expect(err).To(MatchError("matrix.yaml:1:1: the axes make more than 50000 cells"))
}

func TestManyAliases(t *testing.T) {
	g := NewWithT(t)
	text := "apiVersion: lxcmatrix.dev/v1\ndistros: [&d kubeadm@1.34" + strings.Repeat(", *d", 101) + "]\nos: [debian/13]\n"
	_, err := config.Parse("matrix.yaml", []byte(text), machine())
	g.Expect(err).To(MatchError(ContainSubstring("distros[101]: there are more than 100 aliases")))
}

// large is a matrix of n times n cells.
func large(n int) []byte {
	var b strings.Builder
	b.WriteString("apiVersion: lxcmatrix.dev/v1\ndistros: [kubeadm@1.34]\nhosts:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: h%d, driver: local}\n", i)
	}
	b.WriteString("os:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - debian/%d\n", i)
	}
	b.WriteString("exclude: [{host: h1, os: debian/1}]\nexpect: [{host: h*2, phase: install, signature: s, issue: 'https://example.org'}]\n")
	return []byte(b.String())
}

// BenchmarkTenThousandCells reads and expands a matrix; it should stay far
// below a second.
func BenchmarkTenThousandCells(b *testing.B) {
	text := large(100)
	for b.Loop() {
		m, err := config.Parse("matrix.yaml", text, machine())
		if err != nil {
			b.Fatal(err)
		}
		if cells, err := m.Cells(); err != nil || len(cells) != 9999 {
			b.Fatal(len(cells), err)
		}
	}
}

// FuzzParse: whatever is read, the answer is a matrix that can be expanded and
// written, or a list of problems.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*/*.yaml", "../../fixtures/matrices/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatal(pattern, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := config.Parse("matrix.yaml", data, machine())
		if err != nil {
			var list *config.Error
			if !errors.As(err, &list) || len(list.Problems) == 0 {
				t.Fatalf("no list of problems: %v", err)
			}
			return
		}
		cells, err := m.Cells()
		if err != nil || len(cells) == 0 {
			t.Fatalf("%d cells, %v", len(cells), err)
		}
		text, err := m.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse("matrix.yaml", text, machine()); err != nil {
			t.Fatalf("what was written does not read: %v\n%s", err, text)
		}
	})
}

// TestPathsStartAtTheMatrixFile: a run's hosts do not depend on where it was
// started.
func TestPathsStartAtTheMatrixFile(t *testing.T) {
	g := NewWithT(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "hosts.yaml")
	g.Expect(os.WriteFile(file, read(t, "testdata/valid/hosts.yaml"), 0o600)).To(Succeed())
	m, err := config.Load(file)
	g.Expect(err).NotTo(HaveOccurred())
	cells, err := m.Cells()
	g.Expect(err).NotTo(HaveOccurred())
	hosts := map[string]matrix.HostRef{}
	for _, c := range cells {
		hosts[c.Host.Name] = c.Host
	}
	own := hosts["own"].QEMU
	g.Expect([]string{own.Kernel, own.Initrd, own.Modules}).To(Equal(
		[]string{folder + "/kernels/bzImage", folder + "/kernels/initrd", "/srv/modules"}))
	g.Expect(hosts["k5.10-v1"]).To(Equal(matrix.HostRef{Name: "k5.10-v1", Driver: "qemu", Cgroup: "v1", QEMU: matrix.QEMURef{
		OS: "debian/12", Kernel: "debian/5.10", Incus: "bookworm-backports", CPUs: 2, MemoryBytes: 8 << 30, DiskBytes: 40 << 30, Accel: "tcg"}}))
	g.Expect(hosts["lab"]).To(Equal(matrix.HostRef{Name: "lab", Driver: "remote", Cgroup: "v2", HostWrites: "allow", Remote: matrix.RemoteRef{
		URL: "https://incus.example.org:8443", Fingerprint: "5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456",
		ClientCert: folder + "/certs/client.crt", ClientKey: folder + "/certs/client.key",
		Pool: "nvme", Network: "br0", SSH: "root@incus.example.org:22"}}))
}
