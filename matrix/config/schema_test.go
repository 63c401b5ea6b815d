package config_test

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	if err := compiler.AddResource("matrix.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("matrix.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// TestSchemaAndDecoderAgree: the schema takes every valid example, every
// built-in and every effective matrix, and refuses every example with a fault
// of structure. Faults of meaning are beyond it.
func TestSchemaAndDecoderAgree(t *testing.T) {
	s := schema(t)
	validate := func(text []byte) error {
		var instance any
		if err := yaml.Unmarshal(text, &instance); err != nil {
			return err
		}
		return s.Validate(instance)
	}
	for _, path := range examples(t, "valid") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			g := NewWithT(t)
			text := read(t, path)
			g.Expect(validate(text)).To(Succeed())
			m, err := config.Parse(path, text, machine())
			g.Expect(err).NotTo(HaveOccurred())
			written, err := m.YAML()
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(validate(written)).To(Succeed())
		})
	}
	for _, name := range config.Builtins() {
		t.Run("built-in "+name, func(t *testing.T) {
			g := NewWithT(t)
			text, err := fs.ReadFile(fixtures.Matrices(), name+".yaml")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(validate(text)).To(Succeed())
		})
	}
	for _, path := range examples(t, "structure") {
		t.Run("refuses "+filepath.Base(path), func(t *testing.T) {
			NewWithT(t).Expect(validate(read(t, path))).NotTo(Succeed())
		})
	}
}

// TestSchemaRefuses: each fault by itself, so that one does not hide another,
// and the decoder refuses it too.
func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	const valid = "apiVersion: lxcmatrix.dev/v1\ndistros: [kubeadm@1.34]\nos: [debian/13]\n"
	for name, extra := range map[string]string{
		"unknown key":            "nodes: 3",
		"unknown key of a host":  "hosts: [{name: a, driver: local, kernel: x}]",
		"no hosts":               "hosts: []",
		"unsupported driver":     "hosts: [{name: a, driver: docker}]",
		"unsupported short host": "hosts: [remote]",
		"name with a slash":      "hosts: [{name: a/b, driver: local}]",
		"long name":              "hosts: [{name: " + strings.Repeat("a", 41) + ", driver: local}]",
		"many rules":             "exclude: [" + strings.Repeat("{os: debian/13}, ", 1001) + "]",
		"cgroup":                 "hosts: [{name: a, driver: local, cgroup: v3}]",
		"host writes":            "hosts: [{name: a, driver: local, hostWrites: yes}]",
		"system of a machine":    "hosts: [{name: a, driver: qemu, os: debian/11}]",
		"kernel":                 "hosts: [{name: a, driver: qemu, kernel: '6.1'}]",
		"suite of Incus":         "hosts: [{name: a, driver: qemu, incus: sid}]",
		"CPUs of a machine":      "hosts: [{name: a, driver: qemu, cpus: 0}]",
		"memory of a machine":    "hosts: [{name: a, driver: qemu, memory: 4GB}]",
		"accelerator":            "hosts: [{name: a, driver: qemu, accel: hvf}]",
		"URL without a port":     "hosts: [{name: a, driver: remote, url: 'https://incus', fingerprint: " + strings.Repeat("a", 64) + "}]",
		"short fingerprint":      "hosts: [{name: a, driver: remote, url: 'https://incus:8443', fingerprint: abc}]",
		"SSH without a user":     "hosts: [{name: a, driver: remote, remote: lab, ssh: lab}]",
		"optional":               "hosts: [{name: a, driver: local, optional: 1}]",
		"number as topology":     "topologies: [1]",
		"topology":               "topologies: [1+0]",
		"variant":                "variants: [Flannel]",
		"no variants":            "variants: []",
		"phase":                  "expect: [{phase: collect, signature: s, issue: 'https://example.org'}]",
		"expect without issue":   "expect: [{phase: install, signature: s}]",
		"empty selector value":   "exclude: [{os: ''}]",
		"size":                   "budget: {memory: 12GB}",
		"fraction of a size":     "budget: {memory: 1.5GiB}",
		"negative cells":         "budget: {cells: -1}",
		"no cpus":                "budget: {cpus: 0}",
		"few processes":          "budget: {node: {processes: 10}}",
		"nothing as budget":      "budget:",
		"duration":               "timeouts: {fix: fast}",
		"negative duration":      "timeouts: {fix: -2m}",
		"plus before a duration": "timeouts: {fix: +2m}",
		"source":                 "sources: {artifacts: [internet]}",
		"no sources":             "sources: {images: []}",
		"source twice":           "sources: {images: [server, server]}",
		"mirror":                 "sources: {mirror: 'ftp://x'}",
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			text := []byte(valid + extra + "\n")
			var instance any
			g.Expect(yaml.Unmarshal(text, &instance)).To(Succeed())
			g.Expect(s.Validate(instance)).NotTo(Succeed())
			_, err := config.Parse("matrix.yaml", text, machine())
			g.Expect(err).To(HaveOccurred())
		})
	}
}

// TestSchemaDescribesEverything: no key without a description.
func TestSchemaDescribesEverything(t *testing.T) {
	g := NewWithT(t)
	text, err := config.Schema()
	g.Expect(err).NotTo(HaveOccurred())
	golden.Assert(t, string(text), "schema.golden")
	var doc map[string]any
	g.Expect(yaml.Unmarshal(text, &doc)).To(Succeed())
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if properties, ok := v["properties"].(map[string]any); ok {
				for key, p := range properties {
					property, ok := p.(map[string]any)
					g.Expect(ok).To(BeTrue(), path+"/"+key)
					g.Expect(property["description"]).NotTo(BeEmpty(), path+"/"+key)
				}
			}
			for key, child := range v {
				walk(path+"/"+key, child)
			}
		case []any:
			for _, child := range v {
				walk(path, child)
			}
		}
	}
	walk("", doc)
}
