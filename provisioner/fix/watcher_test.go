package fix_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/jsonpath"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// watched is a node in a folder, for the script of node-watcher. The programs that
// it asks are fakes.
type watched struct {
	t      *testing.T
	dir    string
	script string
	env    []string
}

// fakes are the programs of a watched node. What they answer is in files below
// $NODE, and what they are told to do goes into its file done.
func fakes() map[string]string {
	return map[string]string{
		"systemctl": `case $1 in
is-system-running) cat $NODE/state ;;
is-failed) [ -e $NODE/failed-$3 ] ;;
show) echo exit-code ;;
start) echo "start $2" >>$NODE/done; [ ! -e $NODE/stubborn ] || { echo 'it "will" not'; exit 1; }; rm $NODE/failed-$2 ;;
esac`,
		"findmnt":    `cat $NODE/propagation`,
		"mount":      `echo "mount $*" >>$NODE/done; echo shared >$NODE/propagation`,
		"mountpoint": `[ -e $NODE/mounted ]`,
		"mknod":      `echo "mknod $*" >>$NODE/done; : >"$3"`,
		"kubectl":    `case $* in *"get nodes"*) cat $NODE/nodes ;; *) echo "kubectl ${*##*conf }" >>$NODE/done ;; esac`,
	}
}

// watch is a node on which all is well.
func watch(t *testing.T) *watched {
	t.Helper()
	catalogue, _ := embedded(t)
	f, err := catalogue.Fix("node-watcher")
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, dir: t.TempDir(), script: f.Effects.Node.Files[0].Content}
	for _, path := range []string{"/dev/", "/sys/", "/var/lib/lxcmatrix/", "/usr/local/lib/", "/etc/"} {
		w.script = strings.ReplaceAll(w.script, path, w.dir+path)
	}
	w.script = strings.ReplaceAll(w.script, "2>"+w.dir+"/dev/null", "2>/dev/null")
	for name, script := range fakes() {
		w.write("bin/"+name, "#!/bin/sh\n"+script+"\n", 0o755)
	}
	w.env = append(os.Environ(), "PATH="+filepath.Join(w.dir, "bin")+":"+os.Getenv("PATH"), "NODE="+w.dir)
	w.write("dev/kmsg", "", 0o600)
	w.write("dev/console", "", 0o600)
	w.write("state", "running\n", 0o600)
	w.write("propagation", "shared\n", 0o600)
	w.write("mounted", "", 0o600)
	return w
}

func (w *watched) write(name, content string, mode os.FileMode) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) remove(name string) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
		w.t.Fatal(err)
	}
}

// nodes are what the API says, as the script asks for it.
func (w *watched) nodes(objects ...any) {
	w.t.Helper()
	template := regexp.MustCompile(`-o jsonpath='([^']*)'`).FindStringSubmatch(w.script)
	if template == nil {
		w.t.Fatal("the script asks for no nodes")
	}
	path := jsonpath.New("nodes")
	if err := path.Parse(template[1]); err != nil {
		w.t.Fatal(err)
	}
	var printed bytes.Buffer
	if err := path.AllowMissingKeys(true).Execute(&printed, map[string]any{"items": objects}); err != nil {
		w.t.Fatal(err)
	}
	w.write("nodes", printed.String(), 0o600)
	w.write("etc/kubernetes/admin.conf", "", 0o600)
}

// aNode is one of the API's, that has been Ready or not for a time.
func aNode(name, ready string, since time.Duration, taints ...string) any {
	spec := map[string]any{}
	var list []any
	for _, taint := range taints {
		key, effect, _ := strings.Cut(taint, ":")
		list = append(list, map[string]any{"key": key, "effect": effect})
	}
	if list != nil {
		spec["taints"] = list
	}
	return map[string]any{"metadata": map[string]any{"name": name}, "spec": spec, "status": map[string]any{"conditions": []any{
		map[string]any{"type": "MemoryPressure", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": time.Now().Add(-since).UTC().Format(time.RFC3339)},
	}}}
}

// look runs the script once, and returns what it did and told.
func (w *watched) look() (did []string, told []provisioner.Repair) {
	w.t.Helper()
	for _, of := range []string{"done", "var/lib/lxcmatrix/node-watcher/repairs.jsonl"} {
		_ = os.Remove(filepath.Join(w.dir, of)) // there may be none
	}
	cmd := exec.CommandContext(w.t.Context(), "sh", "-c", w.script)
	cmd.Env = w.env
	printed, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, printed)
	}
	if done, err := os.ReadFile(filepath.Join(w.dir, "done")); err == nil {
		did = strings.Split(strings.TrimSpace(strings.ReplaceAll(string(done), w.dir, "")), "\n")
	}
	kept, _ := os.ReadFile(filepath.Join(w.dir, "var/lib/lxcmatrix/node-watcher/repairs.jsonl")) // where nothing was told there is none
	if string(kept) != string(printed) {
		w.t.Errorf("it printed\n%sand kept\n%s", printed, kept)
	}
	for line := range bytes.Lines(kept) {
		var r provisioner.Repair
		if err := json.Unmarshal(line, &r); err != nil || r.Time.IsZero() || r.Saw == "" {
			w.t.Errorf("%v: it told %s", err, line)
		}
		r.Repaired = strings.ReplaceAll(r.Repaired, w.dir, "")
		told = append(told, r)
	}
	return did, told
}

// TestNodeWatcher: causes are mended and told, a node that is on its way is left
// alone, and so is one on which all is well.
func TestNodeWatcher(t *testing.T) {
	const unreachable = "node.kubernetes.io/unreachable:NoExecute"
	for name, c := range map[string]struct {
		spoil    func(w *watched)
		did      []string
		repaired []string
	}{
		"all is well": {func(*watched) {}, nil, nil},
		"it is starting": {func(w *watched) {
			w.write("state", "starting\n", 0o600)
			w.remove("dev/kmsg")
		}, nil, nil},
		"no kmsg": {func(w *watched) { w.remove("dev/kmsg") },
			[]string{"mknod -m 600 /dev/kmsg c 1 11"}, []string{"/dev/kmsg"}},
		"kmsg is the console": {func(w *watched) {
			w.remove("dev/kmsg")
			if err := os.Symlink(filepath.Join(w.dir, "dev/console"), filepath.Join(w.dir, "dev/kmsg")); err != nil {
				w.t.Fatal(err)
			}
		}, []string{"mknod -m 600 /dev/kmsg c 1 11"}, []string{"/dev/kmsg"}},
		"a root that is private": {func(w *watched) { w.write("propagation", "private\n", 0o600) },
			[]string{"mount --make-rshared /"}, []string{"mount propagation"}},
		"cgroups apart": {func(w *watched) {
			w.remove("mounted")
			w.write("usr/local/lib/lxcmatrix/cgroup1-split-cpu", "#!/bin/sh\necho split >>$NODE/done\n", 0o755)
		}, []string{"split"}, []string{"cgroups"}},
		"a unit that failed": {func(w *watched) { w.write("failed-kubelet.service", "", 0o600) },
			[]string{"start kubelet.service"}, []string{"kubelet.service"}},
		"a unit that cannot be started": {func(w *watched) {
			w.write("failed-kubelet.service", "", 0o600)
			w.write("stubborn", "", 0o600)
		}, []string{"start kubelet.service"}, []string{""}},
		"taints": {func(w *watched) {
			w.nodes(aNode("n1", "True", 5*time.Minute, unreachable, "example.com/mine:NoSchedule"), aNode("n2", "False", time.Hour, unreachable),
				aNode("n3", "True", 10*time.Second, unreachable), aNode("n4", "Unknown", time.Hour, unreachable), aNode("n5", "True", time.Hour))
		}, []string{"kubectl taint nodes n1 " + unreachable + "-"}, []string{"taint " + unreachable + " of node n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t)
			c.spoil(w)
			did, told := w.look()
			if !slices.Equal(did, c.did) {
				t.Errorf("it did %q, want %q", did, c.did)
			}
			var repaired []string
			for _, r := range told {
				repaired = append(repaired, r.Repaired)
			}
			if !slices.Equal(repaired, c.repaired) {
				t.Errorf("it told of %q, want %q", repaired, c.repaired)
			}
			// What is mended stays so, and a taint that comes back is not fought for.
			if did, _ := w.look(); name != "a unit that cannot be started" && name != "cgroups apart" && did != nil {
				t.Errorf("the second time it did %q", did)
			}
		})
	}
}
