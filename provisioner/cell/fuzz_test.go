package cell

import (
	"strings"
	"testing"
)

// FuzzRepaired: whatever a node tells of its repairs is one line of text each,
// and what cannot be read counts as one.
func FuzzRepaired(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-20T20:21:03Z","repaired":"/dev/kmsg","saw":"it was missing"}` + "\nnot JSON\n\n{\"saw\":\"a taint\"}\n"))
	f.Fuzz(func(t *testing.T, told []byte) {
		repairs := repaired("one", told)
		lines := 0
		for line := range strings.Lines(string(told)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "{") && line != "null" {
				lines++
			}
		}
		if len(repairs) < lines {
			t.Errorf("%d lines that are no JSON objects, %d repairs: %q", lines, len(repairs), repairs)
		}
	})
}
