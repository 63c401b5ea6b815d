package fix_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
)

// fakeNode keeps what is pushed, and answers commands by exec.
type fakeNode struct {
	provisioner.Lifecycle
	pushed  []provisioner.File
	pushErr error
	scripts []string
	exec    func(script string) (provisioner.Output, error)
}

func (n *fakeNode) Name() string    { return "cp1" }
func (n *fakeNode) Address() string { return "10.7.0.5" }
func (n *fakeNode) Pull(context.Context, string) ([]byte, error) {
	return nil, errors.New("not asked for")
}

func (n *fakeNode) Push(_ context.Context, f provisioner.File) error {
	n.pushed = append(n.pushed, f)
	return n.pushErr
}

func (n *fakeNode) Exec(_ context.Context, c provisioner.Command) (provisioner.Output, error) {
	n.scripts = append(n.scripts, c.Args[2])
	return n.exec(c.Args[2])
}

func silent(string) (provisioner.Output, error) { return provisioner.Output{}, nil }

// here runs a script on this machine, with systemctl answering as told.
func here(t *testing.T, systemctl string) func(string) (provisioner.Output, error) {
	return func(script string) (provisioner.Output, error) {
		script = strings.Replace(script, "look boot 'systemctl is-system-running'", "look boot 'echo "+systemctl+"'", 1)
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return provisioner.Output{Stdout: stdout.String(), Stderr: stderr.String()}, err
	}
}

func TestApplyWritesThenActivatesOnce(t *testing.T) {
	node := &fakeNode{exec: silent}
	want := provisioner.Desired{Node: provisioner.NodeState{
		Files:   []provisioner.File{{Path: "/etc/systemd/journald.conf.d/x.conf", Content: "x"}, {Path: "/usr/local/bin/x", Content: "y", Mode: 0o755}},
		Units:   []provisioner.Unit{{Name: "a.service", Content: "a", Enable: true}, {Name: "b.service", Content: "b", Enable: true}, {Name: "c.timer", Content: "c"}},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net.a": "2"},
		Restart: []string{"systemd-journald.service"},
		Disable: []string{"firewalld.service"},
	}}
	if err := fix.Apply(t.Context(), node, want); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range node.pushed {
		paths = append(paths, f.Path)
	}
	if !slices.Equal(paths, []string{"/etc/systemd/journald.conf.d/x.conf", "/usr/local/bin/x", "/etc/systemd/system/a.service",
		"/etc/systemd/system/b.service", "/etc/systemd/system/c.timer", "/etc/sysctl.d/90-lxcmatrix.conf"}) {
		t.Errorf("pushed %v", paths)
	}
	if got := node.pushed[5].Content; got != "net.a = 2\nnet.ipv4.ip_forward = 1\n" {
		t.Errorf("sysctls %q", got)
	}
	if node.pushed[1].Mode != 0o755 {
		t.Errorf("mode %o", node.pushed[1].Mode)
	}
	if len(node.scripts) != 1 {
		t.Fatalf("%d commands, want one", len(node.scripts))
	}
	_, tail, _ := strings.Cut(node.scripts[0], "export PATH\n")
	if tail != "systemctl daemon-reload\nsystemctl enable --now 'a.service' 'b.service'\nsystemctl disable --now 'firewalld.service'\nsystemctl try-restart 'systemd-journald.service'\nsysctl -q -p /etc/sysctl.d/90-lxcmatrix.conf\n" {
		t.Errorf("script:\n%s", tail)
	}
}

func TestApplyingNothingDoesNothing(t *testing.T) {
	node := &fakeNode{exec: silent}
	if err := fix.Apply(t.Context(), node, provisioner.Desired{}); err != nil || len(node.pushed)+len(node.scripts) > 0 {
		t.Errorf("%v, %v, %v", err, node.pushed, node.scripts)
	}
}

func TestApplySaysWhatFailedAndWhoseFaultItIs(t *testing.T) {
	want := provisioner.Desired{Node: provisioner.NodeState{Sysctls: map[string]string{"net.a": "1"}}}
	refused := &provisioner.CommandError{Node: "cp1", Command: []string{"sh"}, Output: provisioner.Output{ExitCode: 1, Stderr: "no such key"}}
	err := fix.Apply(t.Context(), &fakeNode{exec: func(string) (provisioner.Output, error) { return refused.Output, refused }}, want)
	if !provisioner.IsNodes(err) || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("error %v", err)
	}
	gone := errors.New("connection refused")
	err = fix.Apply(t.Context(), &fakeNode{exec: silent, pushErr: gone}, want)
	if provisioner.IsNodes(err) || !errors.Is(err, gone) || !strings.Contains(err.Error(), "write /etc/sysctl.d/90-lxcmatrix.conf") {
		t.Errorf("error %v", err)
	}
}

// verifications are of every kind; the expected outcome of each is its fix.
func verifications() provisioner.Desired {
	v := func(fix, command, want string, after matrix.Phase) provisioner.Verification {
		return provisioner.Verification{Fix: fix, Command: command, Want: want, After: after}
	}
	return provisioner.Desired{Verify: []provisioner.Verification{
		v("healthy", `printf 'two\nlines  \n\n'`, `two\nlines`, matrix.PhaseFix),
		v("unhealthy", "echo the other", "other", matrix.PhaseFix), // anchored
		v("healthy", `echo "it's $((1 + 1)) x'y"`, `it's 2 x'y`, matrix.PhaseFix),
		v("unhealthy", "echo broken >&2; exit 3", ".+", matrix.PhaseFix),
		v("unhealthy", "printf 'lxcmatrix-verify 5 0 4 0\nyes\n'; exit 1", "yes", matrix.PhaseFix), // cannot speak for another
		v("healthy", "printf 'h\\303\\244'", "hä", matrix.PhaseFix),
		v("healthy", "exit 0; }", "", matrix.PhaseBaseline),
	}}
}

func TestVerifyHoldsEachCommandAgainstWhatIsWanted(t *testing.T) {
	node := &fakeNode{exec: here(t, "running")}
	evidence := fix.Verify(t.Context(), node, verifications(), matrix.PhaseInstall)
	if len(node.scripts) != 1 {
		t.Errorf("%d commands, want one for all", len(node.scripts))
	}
	if len(evidence) != 6 {
		t.Fatalf("%d pieces of evidence, want six: the seventh cannot hold yet", len(evidence))
	}
	for i, e := range evidence {
		if e.Check != "fix:"+e.Outcome.String() || e.Node != "cp1" || e.Saw == "" {
			t.Errorf("%d: %+v", i, e)
		}
	}
	if got := evidence[3].Saw; got != "nothing, but the error broken (exit code 3)" {
		t.Errorf("saw %q", got)
	}
	if all := fix.Verify(t.Context(), node, verifications(), matrix.PhaseRestart); len(all) != 7 {
		t.Errorf("%d pieces of evidence after a restart, want all seven", len(all))
	}
}

func TestVerifyIsUndecidedWhereTheWorldFails(t *testing.T) {
	for name, exec := range map[string]func(string) (provisioner.Output, error){
		"exec fails": func(string) (provisioner.Output, error) {
			return provisioner.Output{}, errors.New("connection refused")
		},
		"cut off": func(string) (provisioner.Output, error) {
			return provisioner.Output{Stdout: "lxcmatrix-verify boot 0 7 0\nrunning\nlxcmatrix-verify 0 0 90 0\ntwo\n"}, nil
		},
	} {
		for _, e := range fix.Verify(t.Context(), &fakeNode{exec: exec}, verifications(), matrix.PhaseFix) {
			if e.Outcome != matrix.Undecided || e.Saw == "" {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

func TestVerifyBlamesANodeThatCannotRunCommands(t *testing.T) {
	killed := &provisioner.CommandError{Node: "cp1", Command: []string{"sh"}, Output: provisioner.Output{ExitCode: 137}}
	for _, e := range fix.Verify(t.Context(), &fakeNode{exec: func(string) (provisioner.Output, error) { return killed.Output, killed }}, verifications(), matrix.PhaseFix) {
		if e.Outcome != matrix.Unhealthy || !strings.Contains(e.Saw, "exit code 137") {
			t.Errorf("%+v", e)
		}
	}
}

func TestVerifyLooksAgainWhileTheNodeBoots(t *testing.T) {
	want := provisioner.Desired{Verify: []provisioner.Verification{{Fix: "a", Command: "x", Want: "yes", After: matrix.PhaseFix}}}
	answer := func(state, saw string) provisioner.Output {
		record := func(name, text string) string {
			return "lxcmatrix-verify " + name + " 0 " + string(rune('0'+len(text))) + " 0\n" + text + "\n"
		}
		return provisioner.Output{Stdout: record("boot", state) + record("0", saw)}
	}
	for name, tc := range map[string]struct {
		states []string
		saw    []string
		looks  int
		want   matrix.Outcome
	}{
		"it holds in the end":           {[]string{"", "starting", "starting"}, []string{"no", "no", "yes"}, 3, matrix.Healthy},
		"it never holds":                {[]string{"starting", "running"}, []string{"no", "no"}, 2, matrix.Unhealthy},
		"the node never ends booting":   {[]string{"starting"}, []string{"no"}, 122, matrix.Unhealthy},
		"a node that runs is not asked": {[]string{"degraded"}, []string{"no"}, 1, matrix.Unhealthy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := &fakeNode{}
				node.exec = func(string) (provisioner.Output, error) {
					i := min(len(node.scripts), len(tc.states)) - 1
					return answer(tc.states[i], tc.saw[i]), nil
				}
				evidence := fix.Verify(t.Context(), node, want, matrix.PhaseRestart)
				if evidence[0].Outcome != tc.want || len(node.scripts) != tc.looks {
					t.Errorf("%+v after %d looks, want %d", evidence, len(node.scripts), tc.looks)
				}
			})
		})
	}
}
