package matrix

import "fmt"

// Verdict is the answer for one cell. Its zero value is Unknown, so that a
// cell nobody judged can never read as anything better.
type Verdict int

// The verdicts. Only Pass, XFail and Impossible are as expected.
const (
	// Unknown: planned, no result.
	Unknown Verdict = iota
	// Pass: every phase has evidence, and all of it is healthy.
	Pass
	// Fail: the node or Kubernetes did it.
	Fail
	// Blocked: the harness could not tell (host unreachable, image or
	// artifact not to be had, checksum mismatch, Incus error).
	Blocked
	// Impossible: a gate rules the combination out, with its reason.
	Impossible
	// XFail: failed as the matrix expects, with the phase and the signature.
	XFail
	// XPass: passed although the matrix expects a failure.
	XPass
	// Flaky: passed only when tried again.
	Flaky
)

var verdictNames = [...]string{"unknown", "pass", "fail", "blocked", "impossible", "xfail", "xpass", "flaky"}

// Verdicts lists every verdict in the order in which summaries count them.
func Verdicts() []Verdict {
	return []Verdict{Pass, Fail, Blocked, Impossible, XFail, XPass, Flaky, Unknown}
}

// String is the verdict's word in tables, files and reports.
func (v Verdict) String() string {
	if v < 0 || int(v) >= len(verdictNames) {
		return fmt.Sprintf("verdict(%d)", int(v))
	}
	return verdictNames[v]
}

// AsExpected says whether a cell with this verdict leaves the run's exit code
// at 0.
func (v Verdict) AsExpected() bool { return v == Pass || v == XFail || v == Impossible }

// MarshalText writes the verdict's word.
func (v Verdict) MarshalText() ([]byte, error) {
	if v < 0 || int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("encode verdict %d: no such verdict", int(v))
	}
	return []byte(verdictNames[v]), nil
}

// UnmarshalText reads a verdict's word; anything else is an error.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("decode verdict %q: no such verdict", text)
}
