package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/doctor"
)

// recorder is a machine's runner that runs nothing.
type recorder struct{ ran []string }

func (r *recorder) Run(_ context.Context, c doctor.Command) (string, error) {
	r.ran = append(r.ran, c.String())
	return "", nil
}

// TestDoctorRefuses: on a machine that lacks everything, LXCMATRIX_BOOTSTRAP=no
// and a user who is not root change nothing and say what is missing.
func TestDoctorRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, bootstrap string
		uid             int
		says            string
	}{
		{"told not to", "no", 0, "LXCMATRIX_BOOTSTRAP=no: nothing was changed, and this is left to do:"},
		{"not root", "", 1000, "not root: nothing was changed, and this is left to do:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := newProgram(Program{Streams: Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr}, Version: "test"})
			runner := &recorder{}
			p.machine = doctor.Machine{Root: debian(t), Runner: runner, UID: tc.uid, CPUs: 2, Now: time.Now,
				Getenv: func(name string) string {
					if name == "LXCMATRIX_BOOTSTRAP" {
						return tc.bootstrap
					}
					return ""
				},
				Free: func(string) (int64, error) { return 1 << 40, nil }}
			root := p.root()
			root.SetArgs([]string{"doctor", "--fix", "--json", "-f", "default"})
			if code := p.execute(root, nil); code != matrix.ExitHarness {
				t.Errorf("exit code %d, want %d", code, matrix.ExitHarness)
			}
			if !strings.Contains(stderr.String(), tc.says) || !strings.Contains(stderr.String(), "remedy: ") {
				t.Errorf("said %q, want %q in it, and remedies", &stderr, tc.says)
			}
			var findings []doctor.Finding
			if err := json.Unmarshal(stdout.Bytes(), &findings); err != nil || len(doctor.Problems(findings)) == 0 {
				t.Errorf("findings %s: error %v; want problems", &stdout, err)
			}
			for _, command := range runner.ran {
				if strings.Contains(command, "install") || strings.Contains(command, "modprobe") {
					t.Errorf("ran %q", command)
				}
			}
		})
	}
}

// debian is the root of a Debian that has nothing but its name.
func debian(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	release := "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\nPRETTY_NAME=Debian\n"
	if err := os.WriteFile(filepath.Join(dir, "etc", "os-release"), []byte(release), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
