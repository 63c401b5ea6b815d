package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"lxcmatrix": main, "simulated": simulatedProgram})
}

// TestScripts runs the program as users do, each script in a folder of its own
// that holds everything it reads and writes. Nothing is to be had from any
// network, so that a plan is the same everywhere.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		UpdateScripts:       golden.FlagUpdate(),
		Setup: func(env *testscript.Env) error {
			for name, value := range map[string]string{
				"HOME":                filepath.Join(env.WorkDir, "home"),
				"XDG_CACHE_HOME":      filepath.Join(env.WorkDir, "home", ".cache"),
				"LXCMATRIX_STATE":     filepath.Join(env.WorkDir, "state"),
				"LXCMATRIX_CACHE":     filepath.Join(env.WorkDir, "cache"),
				"LXCMATRIX_MIRROR":    "",
				"LXCMATRIX_BOOTSTRAP": "no",
				// Nobody listens there.
				"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "",
				// Nobody is to tell these.
				"GITHUB_TOKEN": inEnvironment, "AWS_SECRET_ACCESS_KEY": inEnvironment, "MIRROR_PASSWORD": inEnvironment,
			} {
				env.Setenv(name, value)
			}
			path, err := exec.LookPath("lxcmatrix")
			if err != nil {
				return err
			}
			env.Setenv("LXCMATRIX", path)
			return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "stored": stored, "schema": schema, "hints": hints, "secretless": secretless},
	})
}

// exits CODE COMMAND... runs a command that has to end with an exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	script := `want=$1; shift; "$@"; got=$?; [ "$got" = "$want" ] || { echo "exit code $got, want $want" >&2; exit 1; }`
	ts.Check(ts.Exec("/bin/sh", append([]string{"-c", script, "exits"}, args...)...))
}

// hints FILE asks for the help of every command that an HTML report names, with
// the flags that it names: there has to be one.
func hints(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: hints FILE")
	}
	found := regexp.MustCompile(`<pre tabindex="0">(lxcmatrix [^<]*)</pre>`).FindAllStringSubmatch(ts.ReadFile(args[0]), -1)
	if len(found) == 0 {
		ts.Fatalf("%s names no command", args[0])
	}
	for _, hint := range found {
		ts.Check(ts.Exec("/bin/sh", "-c", html.UnescapeString(hint[1])+" --help"))
	}
}

// inEnvironment is a secret of whoever runs the program.
const inEnvironment = "canary-in-the-environment"

// secretless FILE... holds every file in the script's folder, and in the archives
// there, to having no secret of a simulated program's world. The FILEs are some in
// which there was one: they show that it was removed.
func secretless(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: secretless FILE...")
	}
	for _, name := range args {
		if !strings.Contains(ts.ReadFile(name), "REDACTED") {
			ts.Fatalf("%s: no secret was removed from it", name)
		}
	}
	look := func(name string, content []byte) {
		for what, secret := range canaries {
			if bytes.Contains(content, []byte(secret)) {
				ts.Logf("%s has the %s", name, what)
				ts.Check(errors.New("a secret was told"))
			}
		}
		if bytes.Contains(content, []byte(inEnvironment)) {
			ts.Fatalf("%s has what was in the environment", name)
		}
	}
	root, files := ts.MkAbs("."), 0
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		look(path, content)
		switch filepath.Ext(path) {
		case ".gz":
			unpacked, err := gzip.NewReader(bytes.NewReader(content))
			if err != nil {
				return err
			}
			if content, err = io.ReadAll(unpacked); err != nil {
				return err
			}
			look(path, content)
		case ".zip":
			archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
			if err != nil {
				return err
			}
			for _, f := range archive.File {
				content, err := fs.ReadFile(archive, f.Name)
				if err != nil {
					return err
				}
				look(path+" "+f.Name, content)
			}
		}
		return nil
	}))
	ts.Logf("%d files were looked at", files)
}

// schema SCHEMA FILE validates a matrix file.
func schema(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: schema SCHEMA FILE")
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	compiler := jsonschema.NewCompiler()
	ts.Check(compiler.AddResource(args[0], doc))
	compiled, err := compiler.Compile(args[0])
	ts.Check(err)
	var instance any
	ts.Check(yaml.Unmarshal([]byte(ts.ReadFile(args[1])), &instance))
	if err := compiled.Validate(instance); (err != nil) != neg {
		ts.Fatalf("%s against %s: %v", args[1], args[0], err)
	}
}

// stored DIR VERDICT... keeps a run of one cell for each verdict: pass, fail, flaky,
// optional (blocked, and optional), unrun (planned, no result), gated (by what was observed at admission),
// defied (by a gate that still holds), without (a fix that is needed). A cell
// that fails has logs. With elsewhere among them the run is a shard, of the plan that
// has those cells too.
func stored(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: stored DIR VERDICT...")
	}
	start := time.Date(2026, 11, 20, 19, 33, 24, 0, time.UTC)
	run := matrix.Run{ID: filepath.Base(args[0]), Version: "test", Started: start, Ended: start.Add(5 * time.Minute),
		Plan: matrix.Plan{APIVersion: matrix.PlanAPIVersion, Created: start, Matrix: "matrix.yaml"}}
	limits, err := config.Builtin("default")
	ts.Check(err)
	run.Plan.Budget, run.Plan.Timeouts, run.Plan.Sources = limits.PlanBudget(), limits.PlanTimeouts(), limits.PlanSources()
	run.Plan.Inputs = []matrix.Input{{Kind: "artifact", Name: "kubeadm/kubelet", Version: "1.34.4", Digest: "ab", Source: "build", Provenance: "built"}}
	for i, kind := range args[1:] {
		c := matrix.Cell{
			Host:     matrix.HostRef{Name: "embedded", Driver: "embedded"},
			Distro:   matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
			OS:       matrix.OS{Name: "debian/" + []string{"12", "13", "14"}[i]},
			Topology: matrix.Topology{Servers: 1},
		}
		if kind == "optional" {
			c.Optional, c.Unavailable = true, "image "+c.OS.Name+" cannot be had: no source has it"
		}
		if kind == "defied" {
			c.Gate, c.DefyGates = controllersGate(), true
		}
		if kind == "without" {
			c.Without = []string{"restrict-oom-score-adj"}
		}
		c.ID = c.NewID()
		run.Plan.Cells = append(run.Plan.Cells, c)
	}
	cells := run.Plan.Cells
	if kinds := args[1:]; slices.Contains(kinds, "elsewhere") {
		run.Plan.Shard = &matrix.Shard{Part: fmt.Sprintf("of %d", len(kinds)), Plan: run.Plan.Digest(), Cells: cells}
		run.Plan.Cells = nil
		for i, c := range cells {
			if kinds[i] != "elsewhere" {
				run.Plan.Cells = append(run.Plan.Cells, c)
			}
		}
	}
	folder, err := runfolder.Create(ts.MkAbs(args[0]), run)
	ts.Check(err)
	for i, c := range cells {
		result := matrix.Result{Cell: c}
		switch args[1+i] {
		case "elsewhere":
			continue
		case "pass":
			result.Attempts = []matrix.Attempt{attempt(c, start, "")}
		case "flaky":
			result.Attempts = []matrix.Attempt{attempt(c, start, matrix.PhaseBaseline), attempt(c, start.Add(4*time.Minute), "")}
		case "fail":
			result.Attempts = []matrix.Attempt{attempt(c, start, matrix.PhaseBaseline)}
			for name, content := range map[string]string{"kubelet.log": "kubelet says hello\n", "journal.log": "systemd says hello\n"} {
				_, err := folder.WriteLog(c.ID, "kubeadm-134-debian-13-abcdef-s1", name, []byte(content))
				ts.Check(err)
			}
		case "gated":
			result.Cell.Gate = controllersGate()
			observed := attempt(c, start, "").Host
			observed.Controllers = []string{"cpu"}
			result.Attempts = []matrix.Attempt{{Started: start, Ended: start, Host: observed}}
		case "defied":
			a := attempt(c, start, matrix.PhaseInstall)
			a.Host.Controllers = []string{"cpu"}
			a.Diagnoses = []matrix.Diagnosis{{Signature: "cgroup-v1-controllers", Title: "no controller", Log: "s1/kubelet.log", Line: "not mounted"}}
			result.Attempts = []matrix.Attempt{a}
		case "without":
			a := attempt(c, start, matrix.PhaseInstall)
			a.Fixes = []matrix.AppliedFix{{ID: "kmsg-device", State: "applied"}, {ID: "restrict-oom-score-adj", State: "left-out"}}
			a.Diagnoses = []matrix.Diagnosis{{Signature: "oom-score-adj-pipe", Title: "no sandbox", Log: "s1/containerd.log", Line: "EOF"}}
			result.Attempts = []matrix.Attempt{a}
		case "optional":
		case "unrun":
			continue
		default:
			ts.Fatalf("stored: no verdict %q", args[1+i])
		}
		_, err := folder.WriteResult(result)
		ts.Check(err)
		ts.Check(folder.PackLogs(c.ID))
	}
	ts.Check(folder.Finish(run.Ended, ""))
	ts.Check(folder.Close())
}

// controllersGate is a gate that can be probed, as found on a host.
func controllersGate() *matrix.GateFinding {
	return &matrix.GateFinding{Gate: "cgroup-v1-controllers", Reason: "a controller is missing", Source: "https://example.org/controllers",
		Rule:  `cgroup == "v1" && !("memory" in controllers)`,
		Facts: []matrix.Fact{{Name: "cgroup", Value: "v1", From: "observed"}, {Name: "controllers", Value: "cpu", From: "observed"}},
		Probe: &matrix.Probe{Phase: matrix.PhaseInstall, Signature: "cgroup-v1-controllers"}}
}

// attempt is one in which everything was healthy up to a phase, or to the end.
func attempt(c matrix.Cell, start time.Time, failed matrix.Phase) matrix.Attempt {
	a := matrix.Attempt{Started: start, Ended: start.Add(4 * time.Minute), Provenance: "built",
		Fixes: []matrix.AppliedFix{{ID: "kmsg-device", State: "applied"}},
		Host:  matrix.HostFacts{Kernel: "6.18.5", Cgroup: "v1", Incus: "6.0.4", LXC: "6.0.4", Storage: "dir", CPUs: 2, MemoryBytes: 8 << 30},
		Nodes: []matrix.NodeFacts{{Node: "s1", Kernel: "6.18.5", Cgroup: "v1", OSID: c.OS.Family(), OSVersion: c.OS.Release(),
			Systemd: "257", Containerd: "1.7.30", Runc: "1.3.4", Kubernetes: c.Distro.Version, BootIDs: []string{"b1", "b2", "b3"}}}}
	for _, phase := range (matrix.Cell{}).Phases() {
		r := matrix.PhaseResult{Phase: phase, Started: start, Duration: matrix.Duration(time.Second)}
		if slices.Contains(matrix.Cell{}.ProvingPhases(), phase) {
			r.Evidence = []matrix.Evidence{{Check: "nodes", Outcome: matrix.Healthy, Saw: "every node is Ready"}}
		}
		if phase == failed {
			r.Evidence = []matrix.Evidence{{Check: "nodes", Outcome: matrix.Unhealthy, Saw: "node s1 is NotReady"}}
			a.Phases = append(a.Phases, r)
			break
		}
		a.Phases = append(a.Phases, r)
	}
	return a
}
