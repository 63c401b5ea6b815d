package reports_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// FuzzRender: a run with anything in it is shown in every format, without a
// control character, and JUnit's XML is well-formed.
func FuzzRender(f *testing.F) {
	for _, run := range []matrix.Run{samples.Everything(), samples.Ablated(true), samples.Run(samples.Defied(matrix.XPass)), {}} {
		text, err := json.Marshal(run)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var run matrix.Run
		if json.Unmarshal(data, &run) != nil {
			return
		}
		// What reading a run's folder sees to.
		for i, r := range run.Results {
			run.Results[i].Judgement = matrix.Judge(r.Cell, r.Attempts)
		}
		for _, r := range renderers() {
			var out bytes.Buffer
			if err := r.render(&out, run); err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			if i := strings.IndexFunc(out.String(), func(c rune) bool { return c < ' ' && c != '\n' || c == 0x7f || c == 0x202e }); i >= 0 {
				t.Errorf("%s: control character %q after %q", r.name, out.String()[i], out.String()[max(0, i-60):i])
			}
			if r.name != "junit" {
				continue
			}
			for d := xml.NewDecoder(&out); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("the XML is not well-formed: %v", err)
				}
			}
		}
	})
}
