package chaos

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
)

// TestDo: a process is killed only where it still runs, and its own end is told
// apart from that.
func TestDo(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	tool := Tool{Binary: filepath.Join(dir, "tool"), State: "/state", Runs: "/runs"}
	g.Expect(os.WriteFile(tool.Binary, []byte("#!/bin/sh\necho \"$LXCMATRIX_STATE $*\"\n[ \"$1\" = wait ] && read -r _ </dev/zero\nkill -KILL $$\n"), 0o700)).To(Succeed())
	e, err := tool.Do(t.Context(), time.Millisecond, "wait")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(e.Killed).To(BeTrue())
	g.Expect(os.WriteFile(tool.Binary, []byte("#!/bin/sh\necho \"$LXCMATRIX_STATE $*\"\nexit 3\n"), 0o700)).To(Succeed())
	e, err = tool.Do(t.Context(), time.Hour, "resume", "x")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(e).To(And(HaveField("Killed", false), HaveField("Code", 3), HaveField("Said", "/state resume x --runs /runs\n")))
}

// TestDoing: what a process was doing when it was killed shows in what it told.
func TestDoing(t *testing.T) {
	c := matrix.Cell{ID: "a", Topology: matrix.Topology{Servers: 1}}
	plan := matrix.Plan{Cells: []matrix.Cell{c}}
	pass, fail := matrix.Pass, matrix.Fail
	ended := func(p matrix.Phase, v *matrix.Verdict) runfolder.Event {
		return runfolder.Event{Kind: runfolder.PhaseEnded, Cell: c.ID, Phase: p, Verdict: v}
	}
	for _, tc := range []struct {
		last runfolder.Event
		want string
	}{
		{runfolder.Event{Kind: runfolder.RunStarted}, opening},
		{runfolder.Event{Kind: runfolder.HostOpened}, readying},
		{ended(matrix.PhaseCreate, &pass), "fix"},
		{ended(matrix.PhaseInstall, &fail), "collect"},
		{ended(matrix.PhaseForcedRecover, &pass), "collect"},
		{ended(matrix.PhaseDestroy, &pass), ending},
		{runfolder.Event{Kind: runfolder.CellEnded}, ending},
		{runfolder.Event{Kind: runfolder.HostClosed}, reporting},
	} {
		if got := doing(plan, []runfolder.Event{{Kind: runfolder.HostClosed}, {Kind: runfolder.RunStarted}, tc.last}); got != tc.want {
			t.Errorf("after %+v it was doing %q, want %q", tc.last, got, tc.want)
		}
	}
}

// TestLeft: a process and a loop device are among what is left, and what has
// nothing to do with the state folder is not.
func TestLeft(t *testing.T) {
	g := NewWithT(t)
	state := filepath.Join(t.TempDir(), "state")
	cmd := exec.CommandContext(t.Context(), "sleep", "3600")
	cmd.Env = []string{"LXCMATRIX_STATE=" + state}
	g.Expect(cmd.Start()).To(Succeed())
	left, err := processes(t.Context(), state, nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).To(ConsistOf(HaveSuffix(": sleep 3600 ")))
	g.Expect(cmd.Process.Kill()).To(Succeed())
	g.Expect(cmd.Wait()).NotTo(Succeed())
	for _, of := range []func() ([]string, error){
		func() ([]string, error) { return processes(t.Context(), state, nil) },
		func() ([]string, error) { return mounts(t.Context(), state, nil) },
		func() ([]string, error) { return loops(t.Context(), state, nil) },
		func() ([]string, error) { return cgroups(t.Context(), state, []string{"node-of-nobody"}) },
	} {
		left, err := of()
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(left).To(BeEmpty())
	}
	left, err = mounts(t.Context(), "/proc", nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(left).NotTo(BeEmpty())
}

func TestRender(t *testing.T) {
	g := NewWithT(t)
	var b bytes.Buffer
	g.Expect(Render(&b, []Tried{
		{Subject: "refused", Outcomes: []Outcome{
			{Kills: []Kill{{Verb: "run", In: opening}, {Verb: "resume", In: "collect"}, {Verb: "gc", In: removing}}, Phases: 7, Cells: 1},
			{Kills: []Kill{{Verb: "run", In: beforeRun}, {Verb: "run", In: opening}}, Removed: []string{"mount", "daemon"}},
		}},
		{Subject: "whole", Outcomes: []Outcome{{Kills: []Kill{{Verb: "resume", In: "forced-recover"}}, Phases: 8, Problems: []string{"leaked, after gc: loop0"}}}},
	})).To(Succeed())
	golden.Assert(t, b.String(), "table.golden")
}
