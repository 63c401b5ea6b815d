package runfolder_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

var start = time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)

func cell(release string) matrix.Cell {
	c := matrix.Cell{
		Host:     matrix.HostRef{Name: "embedded", Driver: "embedded"},
		Distro:   matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS:       matrix.OS{Name: "debian/" + release},
		Topology: matrix.Topology{Servers: 1},
	}
	c.ID = c.NewID()
	return c
}

func newRun(cells ...matrix.Cell) matrix.Run {
	return matrix.Run{ID: "20261120T193324Z-k5x2ab", Version: "v0", Started: start,
		Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion, Created: start, Matrix: "default", Cells: cells}}
}

func create(t *testing.T, run matrix.Run, opts ...runfolder.Option) *runfolder.Folder {
	t.Helper()
	f, err := runfolder.Create(filepath.Join(t.TempDir(), "runs", run.ID), run, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func passing(c matrix.Cell) matrix.Attempt {
	a := matrix.Attempt{Started: start, Host: matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4"},
		Nodes: []matrix.NodeFacts{{Node: "cp1", Kernel: "6.18.5", Cgroup: "v1", OSID: "debian", OSVersion: c.OS.Release(),
			Containerd: "1.7.30", Runc: "1.3.4", Kubernetes: "1.34.4", BootIDs: []string{"a", "b", "c"}}}}
	for _, p := range (matrix.Cell{}).ProvingPhases() {
		a.Phases = append(a.Phases, matrix.PhaseResult{Phase: p, Started: start, Duration: matrix.Duration(time.Second),
			Evidence: []matrix.Evidence{{Check: "c", Outcome: matrix.Healthy, Saw: "well"}}})
	}
	return a
}

func TestRoundTrip(t *testing.T) {
	g := NewWithT(t)
	twelve, thirteen := cell("12"), cell("13")
	f := create(t, newRun(twelve, thirteen))

	// A judgement that the caller made up is not what is stored.
	written, err := f.WriteResult(matrix.Result{Cell: thirteen, Judgement: matrix.Judgement{Verdict: matrix.Fail}, Attempts: []matrix.Attempt{passing(thirteen)}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(written.Judgement.Verdict).To(Equal(matrix.Pass))
	g.Expect(f.AddHarnessError(errors.New("delete node cp1: busy"))).To(Succeed())
	g.Expect(f.Finish(start.Add(time.Minute), "SIGINT")).To(Succeed())

	opened, err := runfolder.Open(f.Dir())
	g.Expect(err).NotTo(HaveOccurred())
	run, err := opened.Read()
	g.Expect(err).NotTo(HaveOccurred())
	want := newRun(twelve, thirteen)
	want.Ended, want.Interrupted, want.HarnessErrors = start.Add(time.Minute), "SIGINT", []string{"delete node cp1: busy"}
	want.Results = []matrix.Result{
		{APIVersion: matrix.ResultAPIVersion, Cell: twelve, Judgement: matrix.Judgement{Verdict: matrix.Unknown, Reason: "planned, no result"}},
		written,
	}
	g.Expect(run).To(Equal(want))

	same, err := f.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(same).To(Equal(run))
}

func TestCreateRefuses(t *testing.T) {
	g := NewWithT(t)
	run := newRun(cell("12"))
	f := create(t, run)
	_, err := runfolder.Create(f.Dir(), run)
	g.Expect(err).To(MatchError(fs.ErrExist))

	_, err = runfolder.Create(filepath.Join(t.TempDir(), "x"), newRun(cell("12"), cell("12")))
	g.Expect(err).To(MatchError(ContainSubstring("twice")))

	run.Plan.APIVersion = "lxcmatrix.dev/plan/v2"
	_, err = runfolder.Create(filepath.Join(t.TempDir(), "x"), run)
	g.Expect(err).To(MatchError(ContainSubstring(`apiVersion "lxcmatrix.dev/plan/v2"`)))

	_, err = runfolder.Open(t.TempDir())
	g.Expect(err).To(MatchError(fs.ErrNotExist))
}

// What cannot be believed is an error that names the file, never an unknown
// cell.
func TestCorrupt(t *testing.T) {
	c := cell("13")
	result := filepath.Join("cells", c.ID.FileName(), "result.json")
	edit := func(old, replacement string) func([]byte) []byte {
		return func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				panic("nothing to edit: " + old)
			}
			return bytes.Replace(b, []byte(old), []byte(replacement), 1)
		}
	}
	for name, tc := range map[string]struct {
		file   string
		change func([]byte) []byte
	}{
		"torn result":             {result, func(b []byte) []byte { return b[:len(b)/2] }},
		"empty result":            {result, func([]byte) []byte { return nil }},
		"result of another kind":  {result, edit("result/v1", "result/v2")},
		"result without version":  {result, edit(`"apiVersion": "lxcmatrix.dev/result/v1",`, "")},
		"result of another cell":  {result, edit(`"id": "kubeadm-1.34/debian-13`, `"id": "kubeadm-1.34/debian-12`)},
		"result of changed cell":  {result, edit(`"version": "1.34.4"`, `"version": "1.34.5"`)},
		"result with more fields": {result, edit(`"cell":`, `"extra": 1, "cell":`)},
		"a verdict nobody knows":  {result, edit(`"verdict": "pass"`, `"verdict": "fine"`)},
		"two results":             {result, func(b []byte) []byte { return append(b, b...) }},
		"torn plan":               {"plan.json", func(b []byte) []byte { return b[:len(b)-5] }},
		"plan of another version": {"plan.json", edit("plan/v1", "plan/v0")},
		"run of another version":  {"run.json", edit("run/v1", "run/v9")},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			f := create(t, newRun(c))
			_, err := f.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{passing(c)}})
			g.Expect(err).NotTo(HaveOccurred())
			path := filepath.Join(f.Dir(), tc.file)
			raw, err := os.ReadFile(path)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(os.WriteFile(path, tc.change(raw), 0o600)).To(Succeed())

			opened, err := runfolder.Open(f.Dir())
			if err == nil {
				_, err = opened.Read()
			}
			var corrupt *runfolder.CorruptError
			g.Expect(errors.As(err, &corrupt)).To(BeTrue(), "got %v", err)
			g.Expect(corrupt.Path).To(Equal(path))
		})
	}
}

func TestResultOfNoPlannedCell(t *testing.T) {
	g := NewWithT(t)
	f := create(t, newRun(cell("12")))
	_, err := f.WriteResult(matrix.Result{Cell: cell("13")})
	g.Expect(err).To(MatchError(ContainSubstring("not in the plan")))

	stray := filepath.Join(f.Dir(), "cells", "stray")
	g.Expect(os.MkdirAll(stray, 0o755)).To(Succeed())
	_, err = f.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(filepath.Join(stray, "result.json"), nil, 0o600)).To(Succeed())
	_, err = f.Read()
	var corrupt *runfolder.CorruptError
	g.Expect(errors.As(err, &corrupt)).To(BeTrue(), "got %v", err)
}

// A result may add a gate that was found at admission, and change nothing else
// of what was planned.
func TestAdmissionMayGate(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	gated := c
	gated.Gate = &matrix.GateFinding{Gate: "g", Reason: "r", Source: "s"}
	r, err := f.WriteResult(matrix.Result{Cell: gated})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.Judgement.Verdict).To(Equal(matrix.Impossible))
	run, err := f.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(run.Results[0].Judgement.Verdict).To(Equal(matrix.Impossible))

	// It may find the same by what was observed; what was planned as ruled out
	// stays so.
	ruledOut := cell("12")
	ruledOut.Gate = gated.Gate
	f = create(t, newRun(ruledOut))
	again := ruledOut
	again.Gate = &matrix.GateFinding{Gate: "g", Reason: "r", Source: "s", Facts: []matrix.Fact{{Name: "cgroup", Value: "v1", From: "observed"}}}
	r, err = f.WriteResult(matrix.Result{Cell: again})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(r.Cell.Gate.Facts).To(HaveLen(1))
	again.Gate = nil
	_, err = f.WriteResult(matrix.Result{Cell: again})
	g.Expect(err).To(MatchError(ContainSubstring("differs from the plan")))

	f = create(t, newRun(c))
	optional := c
	optional.Optional = true
	_, err = f.WriteResult(matrix.Result{Cell: optional})
	g.Expect(err).To(MatchError(ContainSubstring("differs from the plan")))
}

// A stored verdict that its own evidence does not bear is replaced, and said.
func TestStoredVerdictThatLies(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	a := passing(c)
	a.Phases = a.Phases[:5]
	_, err := f.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{a}})
	g.Expect(err).NotTo(HaveOccurred())
	path := filepath.Join(f.CellDir(c.ID), "result.json")
	raw, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	lie := bytes.Replace(raw, []byte(`"verdict": "unknown"`), []byte(`"verdict": "pass"`), 1)
	g.Expect(lie).NotTo(Equal(raw))
	g.Expect(os.WriteFile(path, lie, 0o600)).To(Succeed())

	run, err := f.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(run.Results[0].Judgement.Verdict).To(Equal(matrix.Unknown))
	g.Expect(run.HarnessErrors).To(ConsistOf(And(ContainSubstring(string(c.ID)), ContainSubstring("stored verdict is pass"), ContainSubstring("says unknown"))))
	g.Expect(matrix.ExitCode(run, false)).To(Equal(matrix.ExitHarness))
}

func TestEvents(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c))
	none, err := f.Events()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(none).To(BeEmpty())

	pass := matrix.Pass
	first := runfolder.Event{Time: start, Kind: runfolder.RunStarted, Text: "two\nlines"}
	second := runfolder.Event{Time: start, Kind: runfolder.PhaseEnded, Cell: c.ID, Attempt: 1, Phase: matrix.PhaseCreate, Verdict: &pass}
	g.Expect(f.AppendEvent(first)).To(Succeed())
	g.Expect(f.AppendEvent(second)).To(Succeed())

	// Another writer is refused while this one is at work.
	other, err := runfolder.Open(f.Dir())
	g.Expect(err).NotTo(HaveOccurred())
	var busy *runfolder.BusyError
	g.Expect(errors.As(other.AppendEvent(first), &busy)).To(BeTrue())
	g.Expect(busy.PID).To(BeZero(), "nobody said who it is")
	g.Expect(f.Close()).To(Succeed())

	// A crash leaves half a line: it is not read, and the next line is whole.
	path := filepath.Join(f.Dir(), "events.ndjson")
	raw, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(os.WriteFile(path, append(raw, `{"time":"2026-11-`...), 0o600)).To(Succeed())
	g.Expect(other.Events()).To(Equal([]runfolder.Event{first, second}))
	g.Expect(other.AppendEvent(first)).To(Succeed())
	g.Expect(other.Close()).To(Succeed())
	g.Expect(other.Events()).To(Equal([]runfolder.Event{first, second, first}))

	// A broken line that is not the last is nobody's crash.
	g.Expect(os.WriteFile(path, append([]byte("{\n"), raw...), 0o600)).To(Succeed())
	_, err = other.Events()
	g.Expect(err).To(MatchError(ContainSubstring("line 1")))
}

// TestBegin: one process works on a run, others learn which, and a run that had
// ended goes on.
func TestBegin(t *testing.T) {
	g := NewWithT(t)
	f := create(t, newRun(cell("13")))
	g.Expect(f.Begin(start)).To(Succeed())
	other, err := runfolder.Open(f.Dir())
	g.Expect(err).NotTo(HaveOccurred())
	var busy *runfolder.BusyError
	g.Expect(errors.As(other.Claim(), &busy)).To(BeTrue())
	g.Expect(busy.PID).To(Equal(os.Getpid()))
	g.Expect(busy).To(MatchError(ContainSubstring(fmt.Sprintf("by process %d", os.Getpid()))))

	// What was written after the other opened it is known once it is its own.
	g.Expect(f.Finish(start.Add(time.Minute), "SIGINT")).To(Succeed())
	g.Expect(f.Close()).To(Succeed())
	g.Expect(other.Claim()).To(Succeed())
	defer func() { g.Expect(other.Close()).To(Succeed()) }()
	run, err := other.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(run.Interrupted).To(Equal("SIGINT"))
	g.Expect(other.Begin(start.Add(time.Hour))).To(Succeed())
	run, err = other.Read()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(run.Ended.IsZero() && run.Interrupted == "").To(BeTrue())
	events, err := other.Events()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(events).To(HaveEach(And(HaveField("Kind", runfolder.RunStarted), HaveField("Run", run.ID), HaveField("PID", os.Getpid()))))
	g.Expect(events).To(HaveLen(2))
}

// TestClaimWaits: a lock that is about to go is no refusal, and what was being
// written when its process was killed is not kept.
func TestClaimWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		c := cell("13")
		f := create(t, newRun(c))
		g.Expect(f.Begin(start)).To(Succeed())
		g.Expect(os.MkdirAll(f.CellDir(c.ID), 0o700)).To(Succeed())
		torn := filepath.Join(f.CellDir(c.ID), ".writing-result.json-1")
		g.Expect(os.WriteFile(torn, []byte("{"), 0o600)).To(Succeed())
		other, err := runfolder.Open(f.Dir())
		g.Expect(err).NotTo(HaveOccurred())
		go func() {
			time.Sleep(time.Second)
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}()
		g.Expect(other.Claim()).To(Succeed())
		g.Expect(torn).NotTo(BeAnExistingFile())
		g.Expect(other.Close()).To(Succeed())
	})
}

func TestLogs(t *testing.T) {
	g := NewWithT(t)
	c := cell("13")
	f := create(t, newRun(c), runfolder.WithRedactor(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("hunter2"), []byte("REDACTED")) }))
	path, err := f.WriteLog(c.ID, "cp1", "kubelet.log", []byte("password hunter2"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(path).To(Equal(filepath.Join(f.Dir(), "cells", c.ID.FileName(), "logs", "cp1", "kubelet.log")))
	g.Expect(os.ReadFile(path)).To(BeEquivalentTo("password REDACTED"))
	for p, mode := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700, f.Dir(): 0o700} {
		info, err := os.Stat(p)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(info.Mode().Perm()).To(Equal(mode), p)
	}
	logs, err := f.Logs(c.ID)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(logs).To(HaveLen(1))
	g.Expect(logs[0]).To(And(HaveField("Node", "cp1"), HaveField("Name", "kubelet.log"), HaveField("Path", path), HaveField("Size", BeEquivalentTo(17))))

	for _, bad := range [][2]string{{"..", "x"}, {"cp1", "../x"}, {"cp1", ""}, {"", "x"}, {"cp1", "a/b"}, {".", "x"}, {"cp1", "a\x00"}} {
		_, err := f.WriteLog(c.ID, bad[0], bad[1], nil)
		g.Expect(err).To(HaveOccurred(), "%q", bad)
	}
	_, err = f.WriteLog("no/such", "cp1", "x", nil)
	g.Expect(err).To(MatchError(ContainSubstring("not in the plan")))
}

func TestConsole(t *testing.T) {
	g := NewWithT(t)
	f := create(t, newRun(cell("13")))
	path, err := f.Console("k6.12-v2")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(path).To(Equal(filepath.Join(f.Dir(), "hosts", "k6.12-v2", "console.log")))
	g.Expect(os.WriteFile(path, nil, 0o600)).To(Succeed())
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/", ".hidden"} {
		_, err := f.Console(name)
		g.Expect(err).To(HaveOccurred(), name)
	}
}

// Nothing that another program said reaches the disk unredacted.
func TestEverythingIsRedacted(t *testing.T) {
	g := NewWithT(t)
	const secret = "hunter2"
	c := cell("13")
	run := newRun(c)
	run.Plan.Sources.Mirror = "https://u:" + secret + "@mirror.example"
	run.HarnessErrors = []string{secret}
	f := create(t, run, runfolder.WithRedactor(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(secret), []byte("REDACTED")) }))
	a := passing(c)
	a.Repairs, a.Kept = []string{secret}, secret
	a.Diagnoses = []matrix.Diagnosis{{Line: secret}}
	a.Phases[0].Error = secret
	a.Phases[0].Evidence[0].Saw, a.Phases[0].Evidence[0].Want = secret, secret
	blocked := c
	blocked.Unavailable = secret
	_, err := f.WriteResult(matrix.Result{Cell: blocked, Attempts: []matrix.Attempt{a}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(a.Phases[0].Error).To(Equal(secret), "the caller's attempt must stay as it is")
	g.Expect(f.AppendEvent(runfolder.Event{Kind: runfolder.Note, Text: secret})).To(Succeed())
	g.Expect(f.AddHarnessError(errors.New(secret))).To(Succeed())
	_, err = f.WriteLog(c.ID, "cp1", "x", []byte(secret))
	g.Expect(err).NotTo(HaveOccurred())

	files := 0
	g.Expect(filepath.WalkDir(f.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%s holds the secret:\n%s", path, raw)
		}
		return err
	})).To(Succeed())
	g.Expect(files).To(Equal(5))
}

// Cells run side by side, each rewritten after every phase, while a report
// reads: it sees each result whole.
func TestConcurrentCells(t *testing.T) {
	var cells []matrix.Cell
	for i := range 4 {
		c := cell("13")
		c.Variants = []string{fmt.Sprint(i)}
		c.ID = c.NewID()
		cells = append(cells, c)
	}
	f := create(t, newRun(cells...))
	var writers, reader sync.WaitGroup
	done := make(chan struct{})
	reader.Go(func() {
		for {
			if _, err := f.Read(); err != nil {
				t.Error(err)
			}
			if _, err := f.Events(); err != nil {
				t.Error(err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for _, c := range cells {
		writers.Go(func() {
			whole := passing(c)
			for n := range whole.Phases {
				a := whole
				a.Phases = whole.Phases[:n+1]
				if _, err := f.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{a}}); err != nil {
					t.Error(err)
				}
				if err := f.AppendEvent(runfolder.Event{Time: start, Kind: runfolder.PhaseEnded, Cell: c.ID, Phase: a.Phases[n].Phase}); err != nil {
					t.Error(err)
				}
				if _, err := f.WriteLog(c.ID, "cp1", "kubelet.log", []byte(strings.Repeat("x", n))); err != nil {
					t.Error(err)
				}
				if err := f.AddHarnessError(errors.New("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	reader.Wait()
	g := NewWithT(t)
	run, err := f.Read()
	g.Expect(err).NotTo(HaveOccurred())
	for _, r := range run.Results {
		g.Expect(r.Judgement.Verdict).To(Equal(matrix.Pass), string(r.Cell.ID))
	}
	phases := len(matrix.Cell{}.ProvingPhases())
	g.Expect(run.HarnessErrors).To(HaveLen(len(cells) * phases))
	g.Expect(f.Events()).To(HaveLen(len(cells) * phases))
	left, err := filepath.Glob(filepath.Join(f.Dir(), "cells", "*", ".writing-*"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(BeEmpty())
}

func TestLatestAndIDs(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	_, err := runfolder.Latest(root)
	g.Expect(err).To(MatchError(fs.ErrNotExist))
	_, err = runfolder.Latest(filepath.Join(root, "none"))
	g.Expect(err).To(MatchError(fs.ErrNotExist))

	berlin := time.FixedZone("", 3600)
	g.Expect(runfolder.FormatRunID(start.In(berlin), "k5x2ab")).To(Equal("20261120T193324Z-k5x2ab"))
	g.Expect(runfolder.NewRunID(start)).NotTo(Equal(runfolder.NewRunID(start)))

	var newest string
	for i := range 3 {
		run := newRun(cell("13"))
		run.ID = runfolder.NewRunID(start.Add(time.Duration(i) * time.Second))
		newest = filepath.Join(root, run.ID)
		_, err := runfolder.Create(newest, run)
		g.Expect(err).NotTo(HaveOccurred())
	}
	// Younger by name, but no run: nobody finished creating it.
	g.Expect(os.Mkdir(filepath.Join(root, runfolder.NewRunID(start.Add(time.Hour))), 0o755)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(root, runfolder.NewRunID(start.Add(2*time.Hour))), nil, 0o600)).To(Succeed())
	g.Expect(os.Mkdir(filepath.Join(root, "zzz"), 0o755)).To(Succeed())
	g.Expect(runfolder.Latest(root)).To(Equal(newest))
}

// The stored files are for people too: what is written is what the types say.
func TestStoredShape(t *testing.T) {
	g := NewWithT(t)
	f := create(t, newRun(cell("13")))
	raw, err := os.ReadFile(filepath.Join(f.Dir(), "run.json"))
	g.Expect(err).NotTo(HaveOccurred())
	var got map[string]any
	g.Expect(json.Unmarshal(raw, &got)).To(Succeed())
	g.Expect(got).To(Equal(map[string]any{"apiVersion": runfolder.APIVersion, "id": "20261120T193324Z-k5x2ab", "version": "v0", "started": "2026-11-20T19:33:24Z"}))
}
