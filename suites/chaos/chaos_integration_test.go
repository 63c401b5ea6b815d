//go:build integration

package chaos_test

import (
	"cmp"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/suites/chaos"
)

// What LXCMATRIX_TEST_KILLS_REAL and LXCMATRIX_TEST_SEED say where nobody sets
// them.
const (
	few       = "10"
	firstSeed = "1"
)

// inOne is how often processes of one run are killed.
const inOne = 5

// TestKilled kills real runs on the embedded host, as often as
// LXCMATRIX_TEST_KILLS_REAL says: of cells that kubeadm refuses, which take
// seconds, and every tenth of a cell that goes all its way. Moments are drawn by
// LXCMATRIX_TEST_SEED, and are parts of the time that it takes without kills.
func TestKilled(t *testing.T) {
	kills, seed := number(t, "LXCMATRIX_TEST_KILLS_REAL", few), number(t, "LXCMATRIX_TEST_SEED", firstSeed)
	t.Logf("%d kills, LXCMATRIX_TEST_SEED=%d", kills, seed)
	whole := 0
	if kills >= 100 {
		whole = kills / 10
	}
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	binary := build(t)
	base := state(t, binary)
	var all []chaos.Tried
	for _, of := range []struct {
		chaos.Subject
		kills int
	}{
		{chaos.Subject{Name: "refused", Args: []string{"-f", filepath.Join(here, "refused.yaml"), "--fixes", filepath.Join(here, "fixes"), "--with", "manifest-in-the-way"}}, kills - whole},
		{chaos.Subject{Name: "whole", Args: []string{"-f", filepath.Join(here, "whole.yaml")}}, whole},
	} {
		if of.kills == 0 {
			continue
		}
		tool := chaos.Tool{Binary: binary, State: base, Runs: t.TempDir()}
		norm, err := tool.Measure(t.Context(), of.Subject)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s without a kill, gc %s", of.Name, norm.Run, norm.GC)
		tried := chaos.Tried{Subject: of.Name}
		for n := 0; tried.Kills() < of.kills; n++ {
			tool.Runs, tool.State = t.TempDir(), base
			if n%2 == 1 && of.Name == "refused" {
				// The host is made, too, and its image imported.
				tool.State = state(t, binary)
			}
			random := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
			outcome, err := tool.Try(t.Context(), of.Subject, norm, random, min(inOne, of.kills-tried.Kills()))
			tried.Outcomes = append(tried.Outcomes, outcome)
			if err != nil {
				t.Errorf("run %d of %s, killed %+v: %v", n, of.Name, outcome.Kills, err)
				break
			}
			t.Logf("run %d of %s: %+v", n, of.Name, outcome.Kills)
			for _, p := range outcome.Problems {
				t.Errorf("run %d of %s, killed %+v: %s", n, of.Name, outcome.Kills, p)
			}
		}
		all = append(all, tried)
	}
	if err := chaos.Render(os.Stdout, all); err != nil {
		t.Error(err)
	}
}

func number(t *testing.T, name, otherwise string) int {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(name), otherwise))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// build builds lxcmatrix of this tree, as make does.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "lxcmatrix")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-o", binary, "../../cmd/lxcmatrix")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build lxcmatrix: %v\n%s", err, out)
	}
	return binary
}

// state is a state folder of the test's own, which is removed once nothing runs
// in it.
func state(t *testing.T, binary string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "lxmk") //nolint:usetesting // the paths of its sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			// Nothing runs in it: the test has seen to that.
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
			return
		}
		gc := exec.Command(binary, "gc", "--host", "embedded", "--yes")
		gc.Env = append(os.Environ(), "LXCMATRIX_STATE="+dir)
		if out, err := gc.CombinedOutput(); err != nil {
			t.Errorf("clean up %s: %v\n%s", dir, err, out)
		} else if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
