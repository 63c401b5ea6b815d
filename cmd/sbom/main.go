// Command sbom writes the bill of materials of a Go program: sbom PROGRAM FILE.
package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM FILE")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(program, file string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read what %s is built from: %w", program, err)
	}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(materials(info)); err != nil {
		return fmt.Errorf("write the bill of materials of %s: %w", program, err)
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// materials is the bill of a program's modules and of Go's own library, in
// CycloneDX. It has neither a time nor a number of its own, so that the bill of
// the same program is always the same.
func materials(info *debug.BuildInfo) *cdx.BOM {
	application := component(&info.Main)
	application.Type, application.Name = cdx.ComponentTypeApplication, path.Base(info.Path)
	var parts []cdx.Component
	var refs []string
	for _, module := range append(info.Deps, &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
		part := component(module)
		parts, refs = append(parts, part), append(refs, part.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = ""
	bom.Metadata = &cdx.Metadata{Component: &application}
	bom.Components = &parts
	bom.Dependencies = &[]cdx.Dependency{{Ref: application.BOMRef, Dependencies: &refs}}
	return bom
}

// component is a module as it was built: where it was replaced, what took its
// place.
func component(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	url := "pkg:golang/" + m.Path
	if version := cmp.Or(m.Version, "(devel)"); version != "(devel)" {
		url += "@" + version
	}
	c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: url}
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go.sum", Value: m.Sum}}
	}
	return c
}
