package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// workflow is what a test reads of a workflow's file.
type workflow struct {
	Permissions any               `yaml:"permissions"`
	Env         map[string]string `yaml:"env"`
	Jobs        map[string]struct {
		Needs       any               `yaml:"needs"`
		If          string            `yaml:"if"`
		Permissions map[string]string `yaml:"permissions"`
		Steps       []step            `yaml:"steps"`
	} `yaml:"jobs"`
}

type step struct {
	ID, Name, Uses, Run string
	Env                 map[string]string
}

func readWorkflow(t *testing.T, name string) (workflow, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", ".github", "workflows", name))
	if err != nil {
		t.Fatal(err)
	}
	var w workflow
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return w, string(text)
}

// Nothing that others write reaches a shell's text, a token can do no more than
// its job needs, and actions are what they were when they were looked at.
func TestWorkflowsAreHardened(t *testing.T) {
	writes := map[string]string{"nightly.yml publish": "contents", "nightly.yml issues": "issues"}
	for _, name := range []string{"ci.yml", "nightly.yml"} {
		w, text := readWorkflow(t, name)
		if none, ok := w.Permissions.(map[string]any); !ok || len(none) > 0 {
			t.Errorf("%s: a job that asks for nothing has the permissions %v", name, w.Permissions)
		}
		for id, job := range w.Jobs {
			if job.Permissions == nil {
				t.Errorf("%s: job %s does not say its permissions", name, id)
			}
			for scope, access := range job.Permissions {
				if access == "write" && writes[name+" "+id] != scope {
					t.Errorf("%s: job %s may write %s", name, id, scope)
				}
			}
			for _, s := range job.Steps {
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s: step %q of job %s has an expression in its shell lines", name, s.Name, id)
				}
			}
		}
		pinned := regexp.MustCompile(`uses: [a-z-]+/[a-z-]+@[0-9a-f]{40} # v[0-9.]+\n`)
		if uses := strings.Count(text, "uses:"); uses == 0 || uses != len(pinned.FindAllString(text, -1)) {
			t.Errorf("%s: an action is not pinned by its commit, with its version beside it", name)
		}
	}
}

// night is one run of nightly.yml: its shell steps as they are, in clones of a
// repository, with what GitHub does between them done by hand.
type night struct {
	*testing.T
	w workflow
	// dir holds the origin, and of this night its clones and artifacts.
	dir, origin string
	env         []string
	// expressions are what the contexts of GitHub hold.
	expressions map[string]string
}

// clone is a job's fresh checkout, with the program built.
func (n *night) clone(job string) string {
	n.Helper()
	dir := filepath.Join(n.dir, job)
	n.command(n.dir, "git", "clone", "-q", n.origin, dir)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(n.origin), "fakes", "lxcmatrix-with-recorded-runs"), filepath.Join(dir, "bin", "lxcmatrix")); err != nil {
		n.Fatal(err)
	}
	return dir
}

func (n *night) command(dir, name string, args ...string) string {
	n.Helper()
	cmd := exec.CommandContext(n.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, n.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

var expression = regexp.MustCompile(`\$\{\{ (.*?) \}\}`)

// step runs a step in a folder as GitHub does, takes its outputs, and says
// whether it succeeded.
func (n *night) step(dir, job, name string) bool {
	n.Helper()
	steps := n.w.Jobs[job].Steps
	i := slices.IndexFunc(steps, func(s step) bool { return s.Name == name })
	if i < 0 || steps[i].Run == "" {
		n.Fatalf("job %s has no shell step %q", job, name)
	}
	s := steps[i]
	output := filepath.Join(n.TempDir(), "output")
	env := append(slices.Clone(n.env), "GITHUB_OUTPUT="+output, "GITHUB_STEP_SUMMARY="+filepath.Join(n.dir, "summary.md"), "RUNNER_TEMP="+n.TempDir())
	values := maps.Clone(n.w.Env)
	maps.Copy(values, s.Env)
	for key, value := range values {
		env = append(env, key+"="+expression.ReplaceAllStringFunc(value, func(e string) string {
			of := expression.FindStringSubmatch(e)[1]
			v, known := n.expressions[of]
			if !known {
				n.Fatalf("step %q: what is ${{ %s }}?", name, of)
			}
			return v
		}))
	}
	cmd := exec.CommandContext(n.Context(), "bash", "--noprofile", "--norc", "-e", "-c", s.Run)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	n.Logf("%s: %s: %v\n%s", job, name, err, out)
	text, _ := os.ReadFile(output)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		n.expressions["steps."+s.ID+".outputs."+key] = value
	}
	return err == nil
}

// carry copies what is in a folder into another, as artifacts are carried: hidden
// files are left out.
func (n *night) carry(from, to string) {
	n.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		n.Fatal(err)
	}
	n.command(from, "sh", "-c", `cp -r -- * "$1"`, "carry", to)
}

// run goes through a night. came says how the cell of each host came out: "", a
// phase in which it failed, or "never" for a shard that never started. It
// returns what the last job's end is.
func (n *night) run(started time.Time, came map[string]string) (green bool) {
	n.Helper()
	n.expressions = map[string]string{"inputs.matrix || 'kernels'": "matrix.yaml", "github.token": "a-token", "github.repository": "owner/name",
		"steps.join.outputs.run": "", "steps.join.outputs.status": ""}
	planning := n.clone("plan")
	if !n.step(planning, "plan", "Plan") {
		n.Fatal("no plan was made")
	}
	if jobs := n.expressions["steps.plan.outputs.jobs"]; !strings.Contains(jobs, `"shard":"host=one","runs-on":["self-hosted","linux","lxcmatrix","one"]`) {
		n.Fatalf("the jobs are %s", jobs)
	}
	reporting := n.clone("report")
	shards := "success"
	for _, host := range slices.Sorted(maps.Keys(came)) {
		if came[host] == "never" {
			shards = "cancelled"
			continue
		}
		dir := n.clone("shard-" + host)
		n.command(planning, "cp", "artifacts.lock", dir)
		n.record(dir, host, started, came[host])
		n.expressions["matrix.shard"] = "host=" + host
		if !n.step(dir, "shard", "Run") {
			shards = "failure"
		}
		n.carry(filepath.Join(dir, "runs"), filepath.Join(reporting, "shards", "shard-"+host))
	}
	n.expressions["needs.plan.result"], n.expressions["needs.shard.result"] = "success", shards
	joined := n.step(reporting, "report", "Join the shards with the past")
	if joined != (n.expressions["steps.join.outputs.run"] != "") {
		n.Errorf("joined: %v, as run %q", joined, n.expressions["steps.join.outputs.run"])
	}
	if joined {
		for _, name := range []string{"Make the pages", "Find what regressed"} {
			if !n.step(reporting, "report", name) {
				n.Errorf("step %q failed", name)
			}
		}
		n.expressions["needs.report.outputs.run"] = n.expressions["steps.join.outputs.run"]
		publishing := n.clone("publish")
		n.carry(filepath.Join(reporting, "site"), filepath.Join(publishing, "site"))
		if !n.step(publishing, "publish", "Publish") {
			n.Error("nothing was published")
		}
		telling := n.clone("issues")
		n.carry(filepath.Join(reporting, "issues"), filepath.Join(telling, "issues"))
		if !n.step(telling, "issues", "Tell what regressed") {
			n.Error("nobody was told")
		}
	}
	return n.step(reporting, "report", "End as the run did")
}

// record makes the run of a host's shard that the stand-in hands out.
func (n *night) record(dir, host string, started time.Time, failed string) {
	n.Helper()
	n.command(dir, filepath.Join("bin", "lxcmatrix"), "plan", "-f", "matrix.yaml", "--lock", "artifacts.lock", "--shard", "host="+host, "--output", "planned.json")
	planned, err := plan.Read(filepath.Join(dir, "planned.json"))
	if err != nil {
		n.Fatal(err)
	}
	suffix := map[string]string{"one": "aaaaaa", "two": "bbbbbb"}[host]
	id := runfolder.FormatRunID(started, suffix)
	folder, err := runfolder.Create(filepath.Join(dir, "recorded", id), matrix.Run{ID: id, Version: "test", Started: started, Plan: planned})
	if err != nil {
		n.Fatal(err)
	}
	for _, c := range planned.Cells {
		if _, err := folder.WriteResult(matrix.Result{Cell: c, Attempts: []matrix.Attempt{attempt(c, started, matrix.Phase(failed))}}); err != nil {
			n.Fatal(err)
		}
		if _, err := folder.WriteLog(c.ID, "s1", "kubelet.log", []byte("kubelet says hello\n")); err != nil {
			n.Fatal(err)
		}
	}
	if err := folder.Finish(started.Add(time.Minute), ""); err != nil {
		n.Fatal(err)
	}
	if err := folder.Close(); err != nil {
		n.Fatal(err)
	}
	code := "0"
	if failed != "" {
		code = "1"
	}
	if err := os.WriteFile(filepath.Join(dir, "recorded-code"), []byte(code), 0o600); err != nil {
		n.Fatal(err)
	}
}

// TestNightly goes through five nights of the nightly workflow with its own
// shell steps: all is well, a cell regresses, its runner does not start, it
// passes again, and nothing runs at all.
func TestNightly(t *testing.T) {
	w, _ := readWorkflow(t, "nightly.yml")
	for _, job := range []string{"report", "publish", "issues"} {
		if !strings.Contains(w.Jobs[job].If, "always()") {
			t.Errorf("job %s does not run when others failed", job)
		}
	}
	lxcmatrix, err := exec.LookPath("lxcmatrix")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fakes, log, open := filepath.Join(dir, "fakes"), filepath.Join(dir, "gh.log"), filepath.Join(dir, "open.json")
	env := append(os.Environ(), "PATH="+fakes+":"+os.Getenv("PATH"), "HOME="+dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"LXCMATRIX_STATE="+filepath.Join(dir, "state"), "LXCMATRIX_CACHE="+filepath.Join(dir, "cache"), "LXCMATRIX_MIRROR=",
		"HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "NO_PROXY=",
		"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@example.org", "GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@example.org",
		"LXCMATRIX="+lxcmatrix, "GH_LOG="+log, "GH_OPEN="+open)
	for name, text := range map[string]string{
		// The program is built already.
		"make": "#!/bin/sh\n[ \"$*\" = build ]\n",
		// Writes down how it was called.
		"gh": "#!/bin/sh\nif [ \"$1 $2\" = 'issue list' ]; then exec cat \"$GH_OPEN\"; fi\nprintf '%s|' \"$@\" >>\"$GH_LOG\"; echo >>\"$GH_LOG\"\n",
		// A run is the one that was recorded; all else is the program's own.
		"lxcmatrix-with-recorded-runs": "#!/bin/sh\ncase $1 in\ndoctor) exit 0 ;;\nrun) cp -r recorded runs && exit \"$(cat recorded-code)\" ;;\nesac\nexec \"$LXCMATRIX\" \"$@\"\n",
	} {
		if err := os.MkdirAll(fakes, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fakes, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	first := &night{T: t, w: w, dir: dir, origin: filepath.Join(dir, "origin.git"), env: env}
	first.command(dir, "git", "init", "-q", "--bare", "-b", "main", first.origin)
	first.command(dir, "git", "clone", "-q", first.origin, "seed")
	seed := filepath.Join(dir, "seed")
	for name, text := range map[string]string{
		"matrix.yaml": "apiVersion: lxcmatrix.dev/v1\nhosts: [{name: one, driver: embedded}, {name: two, driver: local}]\ndistros: [kubeadm@1.34]\nos: [debian/13]\n",
		".gitignore":  "/bin/\n/runs/\n",
	} {
		if err := os.WriteFile(filepath.Join(seed, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first.command(seed, "git", "checkout", "-q", "-B", "main")
	first.command(seed, "git", "add", ".")
	first.command(seed, "git", "commit", "-q", "-m", "A matrix")
	first.command(seed, "git", "push", "-q", "origin", "main")

	const cell = "kubeadm-1.34/debian-13/1/two"
	start := time.Date(2026, 11, 20, 2, 17, 0, 0, time.UTC)
	for i, c := range []struct {
		name  string
		came  map[string]string
		open  string
		green bool
		told  string
	}{
		{"all is well", map[string]string{"one": "", "two": ""}, "[]", true, ""},
		{"one regresses", map[string]string{"one": "", "two": "baseline"}, "[]", false,
			"issue|create|--title|Regression: " + cell + "|--label|regression|--body-file|issues/1.md|\n"},
		{"it still fails", map[string]string{"one": "", "two": "install"}, `[{"number": 7, "title": "Regression: ` + cell + `"}]`, false,
			"issue|edit|7|--body-file|issues/1.md|\n"},
		{"its runner does not start", map[string]string{"one": "", "two": "never"}, `[{"number": 7, "title": "Regression: ` + cell + `"}]`, false, ""},
		{"it passes again", map[string]string{"one": "", "two": ""}, `[{"number": 7, "title": "Regression: ` + cell + `"}]`, true,
			"issue|close|7|--comment|`" + cell + "` is as expected again: pass in run `RUN`.|\n"},
		{"nothing runs", map[string]string{"one": "never", "two": "never"}, "[]", false, ""},
	} {
		ok := t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(open, []byte(c.open), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(log, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			n := &night{T: t, w: w, dir: t.TempDir(), origin: first.origin, env: env}
			if green := n.run(start.AddDate(0, 0, i), c.came); green != c.green {
				t.Errorf("the last job is green: %v", green)
			}
			told, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			var issues strings.Builder
			for line := range strings.Lines(string(told)) {
				if !strings.HasPrefix(line, "label|") {
					issues.WriteString(line)
				}
			}
			if want := strings.ReplaceAll(c.told, "RUN", n.expressions["steps.join.outputs.run"]); issues.String() != want {
				t.Errorf("GitHub was told %q, want %q", &issues, want)
			}
			runs := min(i+1, 5)
			if got := n.command(dir, "git", "--git-dir", first.origin, "rev-list", "--count", "gh-pages"); strings.TrimSpace(got) != "1" {
				t.Errorf("the branch has %s commits", got)
			}
			files := n.command(dir, "git", "--git-dir", first.origin, "ls-tree", "-r", "--name-only", "gh-pages")
			for name, want := range map[string]int{"summary.json.gz\n": runs, "report.html\n": runs, "index.html\n": 1, ".nojekyll\n": 1, "kubelet.log\n": 0, "logs.zip\n": 0, "/result.json\n": 2*runs - min(max(0, i-2), 1)} {
				if got := strings.Count(files, name); got != want {
					t.Errorf("%d files %q are published, want %d:\n%s", got, name, want, files)
				}
			}
			summary, err := os.ReadFile(filepath.Join(n.dir, "summary.md"))
			want := fmt.Sprintf("%d of 2 cells pass", map[string]int{"": 2, "baseline": 1, "install": 1, "never": 1}[c.came["two"]])
			if c.came["one"] == "never" {
				want = "no run came of the shards"
			}
			if err != nil || !strings.Contains(string(summary), want) {
				t.Errorf("the summary is %v %.300s, want %q in it", err, summary, want)
			}
		})
		if !ok {
			return // the nights after it are other ones
		}
	}
}
