package matrix_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

func TestVerdicts(t *testing.T) {
	if matrix.Verdict(0) != matrix.Unknown {
		t.Error("the zero verdict is not unknown")
	}
	if matrix.Outcome(0) != matrix.Undecided {
		t.Error("the zero outcome is not undecided")
	}
	seen := map[string]bool{}
	for _, v := range matrix.Verdicts() {
		text, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back matrix.Verdict
		if err := back.UnmarshalText(text); err != nil || back != v || seen[string(text)] {
			t.Errorf("%s reads back as %s, error %v", text, back, err)
		}
		seen[string(text)] = true
		green := []matrix.Verdict{matrix.Pass, matrix.XFail, matrix.Impossible}
		if v.AsExpected() != slices.Contains(green, v) {
			t.Errorf("%s is as expected: %v", v, v.AsExpected())
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d verdicts are listed, want 8", len(seen))
	}
}

func TestVerdictsThatDoNotExist(t *testing.T) {
	for _, v := range []matrix.Verdict{-1, 8} {
		if v.AsExpected() {
			t.Errorf("verdict %d is as expected", v)
		}
		if text, err := v.MarshalText(); err == nil {
			t.Errorf("verdict %d is written as %q", v, text)
		}
	}
	for _, text := range []string{`"passed"`, `"PASS"`, `""`, `1`} {
		var v matrix.Verdict
		if err := json.Unmarshal([]byte(text), &v); err == nil {
			t.Errorf("%s reads as %s", text, v)
		}
	}
}

func TestOutcomeThatDoesNotExistIsUndecided(t *testing.T) {
	o := matrix.Healthy
	if err := o.UnmarshalText([]byte("Healthy")); err != nil || o != matrix.Undecided {
		t.Errorf("got %s, error %v", o, err)
	}
	for _, o := range []matrix.Outcome{matrix.Undecided, matrix.Healthy, matrix.Unhealthy} {
		text, err := o.MarshalText()
		var back matrix.Outcome
		if err != nil || back.UnmarshalText(text) != nil || back != o {
			t.Errorf("%s reads back as %s, error %v", o, back, err)
		}
	}
}
