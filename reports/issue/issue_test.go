package issue_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	"github.com/lxcmatrix/lxcmatrix/reports/issue"
)

const cell = "kubeadm-1.34/debian-13/1/embedded"

func standing(verdict matrix.Verdict, regressed bool) history.Standing {
	s := history.Standing{Cell: cell, Regressed: regressed, Latest: history.Came{Run: "20261122T193324Z-cccccc",
		Judgement: matrix.Judgement{Verdict: verdict, Phase: matrix.PhaseInstall, Reason: "s1 said: \x1b[31m`@everyone` <b>#1</b>\nand ``` more"}}}
	if regressed {
		s.Good = history.Came{Run: "20261120T193324Z-aaaaaa", Judgement: matrix.Judgement{Verdict: matrix.Pass}}
		s.Broke = history.Came{Run: "20261121T193324Z-bbbbbb", Judgement: matrix.Judgement{Verdict: matrix.Blocked, Reason: "no image"}}
		s.Inputs = []history.InputChange{{Name: "runc", From: "1.3.2", To: "1.3.3"}, {Name: "kernel", From: "6.12.1", To: "6.12.2 @root"}}
	}
	return s
}

func TestSteps(t *testing.T) {
	theirs := []issue.Open{{Number: 3, Title: "Regression: " + cell}, {Number: 9, Title: "Regression: " + cell}, {Number: 1, Title: "Something else"}}
	for name, c := range map[string]struct {
		standing history.Standing
		open     []issue.Open
		want     []string
	}{
		"regressed":                {standing(matrix.Fail, true), nil, []string{"create 0"}},
		"blocked is one":           {standing(matrix.Blocked, true), nil, []string{"create 0"}},
		"told already":             {standing(matrix.Fail, true), theirs, []string{"update 3"}},
		"fixed":                    {standing(matrix.Pass, false), theirs, []string{"close 3"}},
		"ruled out now":            {standing(matrix.Impossible, false), theirs, []string{"close 3"}},
		"passes, and nobody asked": {standing(matrix.Pass, false), theirs[2:], nil},
		"never passed":             {standing(matrix.Fail, false), nil, nil},
		"never passed, and yet":    {standing(matrix.Fail, false), theirs, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range issue.Steps([]history.Standing{c.standing}, c.open) {
				got = append(got, fmt.Sprint(s.Action, " ", s.Number))
				if s.Title != "Regression: "+cell {
					t.Errorf("its title is %q", s.Title)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBody(t *testing.T) {
	for name, s := range map[string]issue.Step{
		"create": issue.Steps([]history.Standing{standing(matrix.Fail, true)}, nil)[0],
		"close":  issue.Steps([]history.Standing{standing(matrix.Pass, false)}, []issue.Open{{Number: 3, Title: "Regression: " + cell}})[0],
	} {
		var b strings.Builder
		if err := s.Body(&b); err != nil {
			t.Fatal(err)
		}
		golden.Assert(t, b.String(), name+".golden")
		if strings.ContainsRune(b.String(), '\x1b') {
			t.Errorf("%s: a terminal sequence is left", name)
		}
	}
	long := standing(matrix.Fail, true)
	long.Inputs, long.Latest.Reason = nil, strings.Repeat("very ", 10_000)
	var b strings.Builder
	if err := issue.Steps([]history.Standing{long}, nil)[0].Body(&b); err != nil || b.Len() > 4000 || !strings.Contains(b.String(), "No input that was seen changed") {
		t.Errorf("%v, %d bytes: %.300s", err, b.Len(), b.String())
	}
	if err := issue.Steps([]history.Standing{long}, nil)[0].Body(full{}); !errors.Is(err, errFull) {
		t.Errorf("a full disk is told as %v", err)
	}
}

var errFull = errors.New("the disk is full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
