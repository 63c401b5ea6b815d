package badge_test

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/badge"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

func TestGolden(t *testing.T) { samples.Goldens(t, badge.Render) }

// Each row has an image of its own, in the folder and nowhere else, and whatever it
// is called, it is an image and nothing more.
func TestFolder(t *testing.T) {
	hostile := samples.Cell("13")
	hostile.OS.Name = "../../<script>alert(1)</script>\"\x01"
	hostile.ID = hostile.NewID()
	run := samples.Run(samples.ForVerdict(matrix.Pass), samples.ForVerdict(matrix.Impossible), samples.Result(hostile))
	run.Plan.Cells[1].Host.Name, run.Results[1].Cell.Host.Name = "other", "other"
	run.Plan.Cells[1].ID, run.Results[1].Cell.ID = "other", "other"
	dir := filepath.Join(t.TempDir(), "badges")
	if err := badge.Folder(dir, run); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		badge.Overall:                "Kubernetes in LXC: 1 of 3 pass, 1 not as expected, not all is known",
		"kubeadm-1.34_debian_13.svg": "kubeadm-1.34 on debian/13: 1 of 2 pass",
		"kubeadm-1.34_.._.._%3Cscript%3Ealert%281%29%3C_script%3E%22.svg": `kubeadm-1.34 on ../../<script>alert(1)</script>": 0 of 1 pass, 1 not as expected`,
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(want) {
		t.Errorf("there are %v, want %d: %v", files, len(want), err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var svg struct {
			XMLName xml.Name `xml:"http://www.w3.org/2000/svg svg"`
			Title   string   `xml:"title"`
			Inner   []struct {
				XMLName xml.Name
			} `xml:",any"`
		}
		if err := xml.Unmarshal(raw, &svg); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
		}
		if svg.Title != want[f.Name()] {
			t.Errorf("%s says %q, want %q", f.Name(), svg.Title, want[f.Name()])
		}
		for _, e := range svg.Inner {
			if e.XMLName.Local != "rect" && e.XMLName.Local != "g" {
				t.Errorf("%s has an element %s", f.Name(), e.XMLName.Local)
			}
		}
	}
}
