package diagnose

import (
	"bytes"
	"io/fs"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
)

// FuzzSignature: a signature is refused, or finds exactly the lines of a log
// that its pattern matches, however it looks for them.
func FuzzSignature(f *testing.F) {
	names, err := fs.Glob(fixtures.Signatures(), "*.yaml")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(fixtures.Signatures(), name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte("2026-11-20T19:00:00.123456+0000 one kubelet[812]: it broke\n\r\nit broke"))
	}
	f.Fuzz(func(t *testing.T, text, log []byte) {
		signatures, err := Load(Source{Name: "signatures", FS: fstest.MapFS{"one.yaml": {Data: text}}})
		if err != nil {
			return
		}
		s := signatures[0]
		s.Where = []string{"*"}
		want := false
		for line := range bytes.Lines(log) {
			line, _ = lineAt(line, 0)
			want = want || s.Matches(line)
		}
		found, err := Scan(t.Context(), signatures, fstest.MapFS{"a.log": {Data: log}})
		if err != nil {
			t.Fatal(err)
		}
		if (len(found) == 1) != want {
			t.Errorf("pattern %q, literals %q: found %v, and a line matches: %v", s.Pattern, s.literals, found, want)
		}
	})
}

// FuzzDiagnose: whatever a log holds, something is said of it, in lines that
// can be shown.
func FuzzDiagnose(f *testing.F) {
	signatures, err := Load(Source{Name: "signatures", FS: fixtures.Signatures()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("E1120 19:00:00.123456     812 kubelet.go:1703] \"Failed to start ContainerManager\"\n"))
	f.Add([]byte("level=error msg=\"\x1b[31mno\x00\xff\"\r\n2026-11-20T19:00:00+00:00 panic: <b>\n"))
	f.Add(append([]byte("panic: "), bytes.Repeat([]byte("a"), 2<<20)...))
	f.Fuzz(func(t *testing.T, log []byte) {
		found, err := Diagnose(t.Context(), signatures, fixtures.Passing(), fstest.MapFS{"node/kubelet.log": {Data: log}})
		if err != nil || len(found) == 0 {
			t.Fatalf("%d diagnoses, %v", len(found), err)
		}
		for _, d := range found {
			if !utf8.ValidString(d.Line) || len(d.Line) > 3*longest || bytes.ContainsRune([]byte(d.Line), '\n') {
				t.Errorf("%s: %d bytes: %.200q", d.Signature, len(d.Line), d.Line)
			}
		}
	})
}
