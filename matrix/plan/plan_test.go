package plan_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// gone is something that cannot be had.
type gone struct{ what string }

func (g *gone) Error() string   { return g.what + " cannot be had: upstream: no such release" }
func (*gone) Unavailable() bool { return true }

// world answers from tables and counts the questions.
type world struct {
	asked   map[string]int
	exact   map[string]string
	failOn  string
	members map[string][]string
	// drift makes each answer's digest another.
	drift bool
}

func newWorld() *world {
	return &world{asked: map[string]int{}, exact: map[string]string{
		"kubeadm 1.34": "1.34.4", "kubeadm 1.35": "1.35.4", "kubeadm 1.33.5": "1.33.5"}}
}

func (w *world) Distro(_ context.Context, d matrix.Distro, _ []string) (string, []matrix.Input, error) {
	question := d.Name + " " + d.Wanted()
	w.asked[question]++
	if w.failOn == question {
		return "", nil, errors.New("the disk is full")
	}
	exact, there := w.exact[question]
	if !there {
		return "", nil, fmt.Errorf("look for %s: %w", question, &gone{question})
	}
	return exact, []matrix.Input{
		{Kind: "artifact", Name: "kubelet", Version: exact, Digest: strings.Repeat("ab", 32), Source: "cache", Provenance: "release"},
		{Kind: "artifact", Name: "etcd", Version: "3.6.8", Source: "build", Provenance: "built"},
	}, nil
}

func (w *world) Members(_ context.Context, server matrix.RemoteRef) ([]string, error) {
	w.asked["members of "+server.Name]++
	members, there := w.members[server.Name]
	if !there {
		return nil, errors.New("nobody answers")
	}
	return members, nil
}

func (w *world) Image(_ context.Context, os string, distro matrix.Distro, _ []string) ([]matrix.Input, error) {
	question := os + " for " + distro.Name + " " + distro.Version
	w.asked[question]++
	if w.failOn == question {
		return nil, errors.New("the disk is full")
	}
	if !strings.HasPrefix(os, "debian/") {
		return nil, &gone{"image " + os}
	}
	digest := strings.Repeat("cd", 32)
	if w.drift {
		digest = fmt.Sprintf("%064d", len(w.asked))
	}
	return []matrix.Input{{Kind: "image", Name: os, Digest: digest, Source: "mmdebstrap"}}, nil
}

// old gates what is too new for cgroup v1.
type old struct{ fail bool }

func (o old) Decide(c matrix.Cell) (*matrix.GateFinding, error) {
	if o.fail {
		return nil, errors.New("no such fact")
	}
	if c.Host.Cgroup == "v1" && c.Distro.Minor == "1.35" {
		return &matrix.GateFinding{Gate: "kubelet-cgroup1", Reason: "kubelet " + c.Distro.Version + " refuses cgroup v1", Source: "https://example.org/kep"}, nil
	}
	return nil, nil
}

// probed are gates that can be probed.
type probed struct{ old }

func (p probed) Decide(c matrix.Cell) (*matrix.GateFinding, error) {
	found, err := p.old.Decide(c)
	if found != nil {
		found.Probe = &matrix.Probe{Phase: matrix.PhaseInstall, Signature: "refused"}
	}
	return found, err
}

// TestDefyGates: a gate that can be probed is planned to be run, with all that
// it needs; one that cannot stays out.
func TestDefyGates(t *testing.T) {
	for name, tc := range map[string]struct {
		gates   plan.Gates
		defy    bool
		summary string
		notes   string
		image   bool
	}{
		"not defied":       {probed{}, false, ", 5 impossible", "impossible: kubelet-cgroup1: ", false},
		"defied":           {probed{}, true, ", 0 impossible", "defies kubelet-cgroup1: ", true},
		"cannot be probed": {old{}, true, ", 5 impossible", "impossible: kubelet-cgroup1: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			w, o := newWorld(), options()
			o.DefyGates = tc.defy
			p, err := plan.Make(t.Context(), wideMatrix(t), w, tc.gates, o)
			g.Expect(err).NotTo(HaveOccurred())
			var out strings.Builder
			g.Expect(plan.Print(&out, p)).To(Succeed())
			g.Expect(out.String()).To(And(ContainSubstring(tc.summary), ContainSubstring(tc.notes)))
			_, asked := w.asked["debian/13 for kubeadm 1.35.4"]
			g.Expect(asked).To(Equal(tc.image), "whether its image is planned")
		})
	}
}

const wide = `
apiVersion: lxcmatrix.dev/v1
hosts: [{name: embedded, driver: embedded, cgroup: v1}]
distros: [kubeadm@1.34, kubeadm@1.35, kubeadm@1.33.5, {name: rke2, version: "1.34", optional: true}]
os: [debian/12, debian/13, rockylinux/10]
topologies: ["1", "1+1"]
exclude: [{topology: 1+1, os: debian/12}, {distro: kubeadm@1.33, os: rockylinux/10}]
expect: [{distro: kubeadm-1.33, os: debian/12, phase: install, signature: no-cpu, issue: "https://example.org/7"}]
budget: {cpus: 2, memory: 12GiB}
`

func wideMatrix(t *testing.T) *config.Matrix {
	t.Helper()
	m, err := config.Parse("matrix.yaml", []byte(wide), config.Machine{CPUs: 2, Memory: 16 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func options() plan.Options {
	return plan.Options{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), With: []string{"kmsg-console"}, Without: []string{"stop-timeout", "ids", "ids"}}
}

func TestMake(t *testing.T) {
	g := NewWithT(t)
	w := newWorld()
	p, err := plan.Make(t.Context(), wideMatrix(t), w, old{}, options())
	g.Expect(err).NotTo(HaveOccurred())
	for question, times := range w.asked {
		g.Expect(times).To(Equal(1), question)
	}
	g.Expect(w.asked).NotTo(HaveKey("debian/13 for kubeadm 1.35.4"), "a gated cell needs no image")
	for _, in := range p.Inputs {
		g.Expect(in.Version).NotTo(Equal("1.35.4"), "what only gated cells need is no input of the run")
	}

	var out strings.Builder
	g.Expect(plan.Print(&out, p)).To(Succeed())
	golden.Assert(t, out.String(), "wide.golden")

	path := filepath.Join(t.TempDir(), plan.FileName)
	g.Expect(plan.Write(path, p)).To(Succeed())
	text, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	golden.Assert(t, string(text), "wide.json")
	again, err := plan.Read(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(again).To(Equal(p))
}

// TestPrintExpected: a guess is never shown as knowledge.
func TestPrintExpected(t *testing.T) {
	for want, e := range map[string]matrix.Estimate{
		"": {},
		"expected to take 7m10s: a guess, as none of the cells has passed here before\n":                 {Makespan: matrix.Duration(432 * time.Second), Cells: 3},
		"expected to take 7m10s: from earlier runs, which 2 of 3 cells passed; the others are guessed\n": {Makespan: matrix.Duration(432 * time.Second), Cells: 3, Known: 2},
		"expected to take 7m10s, from earlier runs\n":                                                    {Makespan: matrix.Duration(432 * time.Second), Cells: 3, Known: 3},
	} {
		var out strings.Builder
		if err := plan.Print(&out, matrix.Plan{Matrix: "m", Expected: e}); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.HasPrefix(got, "m: 0 planned: 0 to run, 0 impossible, 0 cannot be had\n"+want+"\n") {
			t.Errorf("%+v: %q", e, got)
		}
	}
}

func TestMakeNarrowed(t *testing.T) {
	g := NewWithT(t)
	w := newWorld()
	o := options()
	o.Only, o.Skip = []string{"kubeadm-1.34"}, []string{"rockylinux/10", "1+1"}
	p, err := plan.Make(t.Context(), wideMatrix(t), w, old{}, o)
	g.Expect(err).NotTo(HaveOccurred())
	var ids []matrix.CellID
	for _, c := range p.Cells {
		ids = append(ids, c.ID)
	}
	g.Expect(ids).To(Equal([]matrix.CellID{"kubeadm-1.34/debian-12/1/embedded", "kubeadm-1.34/debian-13/1/embedded"}))
	g.Expect(w.asked).To(HaveLen(3), "what is not selected is not resolved: %v", w.asked)
}

// TestChannels: a channel's minor is in the ID once it is known, whatever is
// selected, and is asked for once; one that cannot be resolved blocks its cells.
func TestChannels(t *testing.T) {
	const text = `
apiVersion: lxcmatrix.dev/v1
distros: [k3s@stable, k3s@1.33, rke2@latest]
os: [debian/12, debian/13]
exclude: [{distro: k3s@stable, os: debian/12}]
`
	for name, c := range map[string]struct {
		stable string
		only   []string
		want   []matrix.CellID
		err    string
	}{
		"resolved": {stable: "1.35.5+k3s1", want: []matrix.CellID{"k3s-1.35/debian-13/1/embedded", "k3s-1.33/debian-12/1/embedded",
			"k3s-1.33/debian-13/1/embedded", "rke2-latest/debian-12/1/embedded", "rke2-latest/debian-13/1/embedded"}},
		"selected by what it was": {stable: "1.35.5+k3s1", only: []string{"k3s@stable"}, want: []matrix.CellID{"k3s-1.35/debian-13/1/embedded"}},
		"selected by what it is":  {stable: "1.35.5+k3s1", only: []string{"k3s-1.35"}, want: []matrix.CellID{"k3s-1.35/debian-13/1/embedded"}},
		"the same minor twice": {stable: "1.33.9+k3s2",
			err: "two cells have the ID k3s-1.33/debian-13/1/embedded: k3s@stable and k3s@1.33 are both k3s-1.33; leave one out"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			m, err := config.Parse("matrix.yaml", []byte(text), config.Machine{CPUs: 2, Memory: 16 << 30})
			g.Expect(err).NotTo(HaveOccurred())
			w := newWorld()
			w.exact["k3s stable"], w.exact["k3s 1.33"] = c.stable, "1.33.9+k3s1"
			p, err := plan.Make(t.Context(), m, w, old{}, plan.Options{Only: c.only})
			if c.err != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.err)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			var ids []matrix.CellID
			for _, cell := range p.Cells {
				ids = append(ids, cell.ID)
				if cell.Distro.Name == "rke2" {
					g.Expect(cell.Unavailable).To(ContainSubstring("rke2 latest cannot be had"))
				} else {
					g.Expect(cell.Unavailable).To(BeEmpty())
				}
			}
			g.Expect(ids).To(Equal(c.want))
			g.Expect(p.Cells[0].Distro).To(Equal(matrix.Distro{Name: "k3s", Channel: "stable", Version: "1.35.5+k3s1", Minor: "1.35"}))
			g.Expect(w.asked).To(And(HaveKeyWithValue("k3s stable", 1), HaveKeyWithValue("rke2 latest", 1)))
			path := filepath.Join(t.TempDir(), plan.FileName)
			g.Expect(plan.Write(path, p)).To(Succeed())
			g.Expect(plan.Read(path)).To(HaveField("Cells", p.Cells))
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	asSelector := func(err error) bool { var e *selector.Error; return errors.As(err, &e) }
	asConfig := func(err error) bool { var e *config.Error; return errors.As(err, &e) }
	other := func(err error) bool { return !asSelector(err) && !asConfig(err) }
	for _, test := range []struct {
		name   string
		change func(w *world, gates *old, m *config.Matrix, o *plan.Options)
		kind   func(error) bool
		want   string
	}{
		{"no such cell", func(_ *world, _ *old, _ *config.Matrix, o *plan.Options) { o.Only = []string{"k3s"} }, asSelector,
			`selector "k3s": matches no cell`},
		{"a matrix that does not hold", func(_ *world, _ *old, m *config.Matrix, _ *plan.Options) { m.OS = append(m.OS, m.OS[0]) }, asConfig,
			"two cells have the ID"},
		{"a release cannot be looked for", func(w *world, _ *old, _ *config.Matrix, _ *plan.Options) { w.failOn = "kubeadm 1.34" }, other,
			"resolve kubeadm 1.34: the disk is full"},
		{"an image cannot be looked for", func(w *world, _ *old, _ *config.Matrix, _ *plan.Options) { w.failOn = "debian/13 for kubeadm 1.34.4" }, other,
			"resolve the image debian/13 for kubeadm 1.34.4: the disk is full"},
		{"another version", func(w *world, _ *old, _ *config.Matrix, _ *plan.Options) { w.exact["kubeadm 1.34"] = "1.340.1" }, other,
			`resolve kubeadm 1.34: got version "1.340.1", which is another`},
		{"no version", func(w *world, _ *old, _ *config.Matrix, _ *plan.Options) { w.exact["kubeadm 1.34"] = "" }, other,
			`resolve kubeadm 1.34: got version "", which is another`},
		{"a gate cannot decide", func(_ *world, gates *old, _ *config.Matrix, _ *plan.Options) { gates.fail = true }, other,
			"decide the gates of cell kubeadm-1.34/debian-12/1/embedded: no such fact"},
		{"one image with two contents", func(w *world, _ *old, _ *config.Matrix, _ *plan.Options) { w.drift = true }, other,
			"plan cell kubeadm-1.33/debian-12/1/embedded: image debian/12 is resolved to"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			w, gates, m, o := newWorld(), old{}, wideMatrix(t), options()
			test.change(w, &gates, m, &o)
			p, err := plan.Make(t.Context(), m, w, gates, o)
			g.Expect(p).To(Equal(matrix.Plan{}))
			g.Expect(err).To(MatchError(ContainSubstring(test.want)))
			g.Expect(test.kind(err)).To(BeTrue(), "%T", err)
		})
	}
}

func TestMakeEndsWithItsContext(t *testing.T) {
	g := NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := plan.Make(ctx, wideMatrix(t), newWorld(), old{}, options())
	g.Expect(err).To(MatchError(context.Canceled))
}

func TestReadRefuses(t *testing.T) {
	p, err := plan.Make(t.Context(), wideMatrix(t), newWorld(), old{}, options())
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	good := filepath.Join(folder, "good.json")
	if err := plan.Write(good, p); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	const apiVersion = `"apiVersion": "lxcmatrix.dev/plan/v1"`
	for name, test := range map[string]struct{ from, to, want string }{
		"another version":  {apiVersion, `"apiVersion": "lxcmatrix.dev/plan/v9"`, `its apiVersion is "lxcmatrix.dev/plan/v9", this program reads "lxcmatrix.dev/plan/v1"`},
		"an unknown field": {apiVersion, apiVersion + `, "colour": 1`, "unknown field"},
		"a changed cell":   {`"minor": "1.34"`, `"minor": "1.31"`, "has the values of kubeadm-1.31"},
		"cut off":          {"", "", "unexpected end of JSON input"},
		"no cells":         {string(text), `{` + apiVersion + `}`, "it has no cells"},
		"more":             {string(text), string(text) + "{}", "after top-level value"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			path := filepath.Join(folder, strings.ReplaceAll(name, " ", "-"))
			changed := strings.Replace(string(text), test.from, test.to, 1)
			if name == "cut off" {
				changed = string(text[:len(text)/2])
			}
			g.Expect(os.WriteFile(path, []byte(changed), 0o600)).To(Succeed())
			_, err := plan.Read(path)
			g.Expect(err).To(MatchError(And(HavePrefix("read plan "+path+": "), ContainSubstring(test.want))))
		})
	}
	t.Run("a cell twice", func(t *testing.T) {
		g := NewWithT(t)
		twice := p
		twice.Cells = append(twice.Cells[:1:1], twice.Cells[0])
		path := filepath.Join(folder, "twice.json")
		g.Expect(plan.Write(path, twice)).To(Succeed())
		_, err := plan.Read(path)
		g.Expect(err).To(MatchError(ContainSubstring("is there twice")))
	})
	t.Run("not there", func(t *testing.T) {
		_, err := plan.Read(filepath.Join(folder, "gone.json"))
		NewWithT(t).Expect(err).To(MatchError(os.ErrNotExist))
	})
}

func TestWriteLeavesNothingHalf(t *testing.T) {
	g := NewWithT(t)
	folder := t.TempDir()
	target := filepath.Join(folder, plan.FileName)
	g.Expect(os.MkdirAll(filepath.Join(target, "in-the-way"), 0o755)).To(Succeed())
	g.Expect(plan.Write(target, matrix.Plan{})).To(MatchError(HavePrefix("write plan " + target + ": ")))
	entries, err := os.ReadDir(folder)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(entries).To(HaveLen(1), "no temporary file stays behind")
}

// BenchmarkTenThousandCells plans a matrix; it should stay far below a second.
func BenchmarkTenThousandCells(b *testing.B) {
	var text strings.Builder
	text.WriteString("apiVersion: lxcmatrix.dev/v1\ndistros: [kubeadm@1.34]\nhosts:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - {name: h%d, driver: local}\n", i)
	}
	text.WriteString("os:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  - debian/%d\n", i)
	}
	m, err := config.Parse("matrix.yaml", []byte(text.String()), config.Machine{CPUs: 2, Memory: 16 << 30})
	if err != nil {
		b.Fatal(err)
	}
	o := options()
	o.Skip = []string{"h7*", "os=debian/1*,host=h1"}
	for b.Loop() {
		p, err := plan.Make(b.Context(), m, newWorld(), old{}, o)
		if err != nil || len(p.Cells) != 8900-11 {
			b.Fatal(len(p.Cells), err)
		}
	}
}

// TestMembers: each member of a cluster is a host of its own, and a server that
// cannot be asked blocks its cells alone.
func TestMembers(t *testing.T) {
	g := NewWithT(t)
	parse := func(ssh string) *config.Matrix {
		m, err := config.Parse("matrix.yaml", []byte(`
apiVersion: lxcmatrix.dev/v1
hosts:
  - embedded
  - {name: lab, driver: remote, remote: lab, optional: true`+ssh+`}
  - {name: alone, driver: remote, remote: alone}
  - {name: down, driver: remote, remote: down}
distros: [kubeadm@1.34]
os: [debian/12, debian/13]
`), config.Machine{CPUs: 2, Memory: 16 << 30})
		g.Expect(err).NotTo(HaveOccurred())
		return m
	}
	w := newWorld()
	w.members = map[string][]string{"lab": {"one", "two"}, "alone": nil}
	p, err := plan.Make(t.Context(), parse(""), w, old{}, plan.Options{Only: []string{"debian/13"}})
	g.Expect(err).NotTo(HaveOccurred())
	var seen []string
	for _, c := range p.Cells {
		seen = append(seen, fmt.Sprintf("%s %s %t %s", c.ID, c.Host.Remote.Member, c.Optional, c.Unavailable))
	}
	g.Expect(seen).To(Equal([]string{
		"kubeadm-1.34/debian-13/1/embedded  false ",
		"kubeadm-1.34/debian-13/1/lab-one one true ",
		"kubeadm-1.34/debian-13/1/lab-two two true ",
		"kubeadm-1.34/debian-13/1/alone  false ",
		"kubeadm-1.34/debian-13/1/down  false host down: nobody answers",
	}))
	g.Expect(w.asked).To(And(HaveKeyWithValue("members of lab", 1), HaveKeyWithValue("members of down", 1)))

	p, err = plan.Make(t.Context(), parse(", ssh: root@lab"), w, old{}, plan.Options{Only: []string{"lab"}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Cells).To(HaveEach(HaveField("Unavailable", ContainSubstring("ssh is the way to one machine"))))
}

// TestMixedOS: both OSes' images are planned, each once, and one that cannot be
// had blocks the cell.
func TestMixedOS(t *testing.T) {
	g := NewWithT(t)
	m, err := config.Parse("matrix.yaml", []byte(`
apiVersion: lxcmatrix.dev/v1
distros: [kubeadm@1.34]
os: [debian/12+debian/13, debian/13+rhel/10]
topologies: ["1+1"]
`), config.Machine{CPUs: 4, Memory: 16 << 30})
	g.Expect(err).NotTo(HaveOccurred())
	w := newWorld()
	p, err := plan.Make(t.Context(), m, w, old{}, plan.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Cells).To(HaveLen(2))
	g.Expect(p.Cells[0].Unavailable).To(BeEmpty())
	g.Expect(p.Cells[1].Unavailable).To(ContainSubstring("image rhel/10 cannot be had"))
	var images []string
	for _, in := range p.Inputs {
		if in.Kind == "image" {
			images = append(images, in.Name)
		}
	}
	g.Expect(images).To(Equal([]string{"debian/12", "debian/13"}))
	g.Expect(w.asked).To(HaveKeyWithValue("debian/13 for kubeadm 1.34.4", 1))
}

// TestRestartThatCannotBeDone: a cell whose host's daemon is not the harness's to
// restart is planned, and blocked.
func TestRestartThatCannotBeDone(t *testing.T) {
	g := NewWithT(t)
	m, err := config.Parse("matrix.yaml", []byte(`
apiVersion: lxcmatrix.dev/v1
hosts: [embedded, local]
distros: [kubeadm@1.34]
os: [debian/13]
restarts: [daemon]
`), config.Machine{CPUs: 2, Memory: 16 << 30})
	g.Expect(err).NotTo(HaveOccurred())
	p, err := plan.Make(t.Context(), m, newWorld(), old{}, plan.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.Cells).To(HaveExactElements(HaveField("Unavailable", ""),
		HaveField("Unavailable", "restart daemon cannot be done on host local: it needs one with driver embedded")))
}
