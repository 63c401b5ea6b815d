package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// TestBill: the bill of this test's own program names what it is built from, and is
// the same each time.
func TestBill(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var bills [2][]byte
	for i := range bills {
		file := filepath.Join(t.TempDir(), "bill.json")
		if err := write(program, file); err != nil {
			t.Fatal(err)
		}
		if bills[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(bills[0], bills[1]) {
		t.Errorf("two bills of one program differ:\n%s\n%s", bills[0], bills[1])
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(bills[0]), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if name := bom.Metadata.Component.Name; name != "sbom" {
		t.Errorf("it is the bill of %q", name)
	}
	for _, name := range []string{"github.com/CycloneDX/cyclonedx-go", "std"} {
		i := slices.IndexFunc(*bom.Components, func(c cdx.Component) bool { return c.Name == name })
		if i < 0 {
			t.Errorf("%s is not in it", name)
			continue
		}
		if c := (*bom.Components)[i]; c.Version == "" || c.PackageURL != "pkg:golang/"+name+"@"+c.Version || !slices.Contains(*(*bom.Dependencies)[0].Dependencies, c.BOMRef) {
			t.Errorf("%s is in it as %+v", name, c)
		}
	}
	if err := write(filepath.Join("main_test.go"), filepath.Join(t.TempDir(), "bill.json")); err == nil {
		t.Error("a file that is no program has a bill")
	}
}
