package json_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/json"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestGolden(t *testing.T) {
	for name, run := range map[string]matrix.Run{
		"pass.golden":       samples.Run(samples.ForVerdict(matrix.Pass)),
		"everything.golden": samples.Everything(),
		"empty.golden":      samples.Run(),
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := json.Render(&got, run); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s differs (run with -update to accept):\n%s", path, got.Bytes())
			}
		})
	}
}
