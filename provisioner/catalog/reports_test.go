package catalog

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/config"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/k3s"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/kubeadm"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rancher"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/rke2"
	"github.com/lxcmatrix/lxcmatrix/provisioner/export"
	"github.com/lxcmatrix/lxcmatrix/provisioner/fix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/health"
)

// thing is a name in code of docs/field-reports.md: KIND/ID.
var thing = regexp.MustCompile("`([a-z]+)/([^`]+)`")

// TestFieldReportsNameWhatThereIs: each part of a field report is a thing of
// the program that exists, and every fix, gate and signature is one of
// them, but signatures of what a fault brings about.
func TestFieldReportsNameWhatThereIs(t *testing.T) {
	knowledge, err := LoadKnowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exports, _ := export.Formats()
	known := map[string][]string{
		"matrix":  config.Builtins(),
		"export":  exports,
		"variant": slices.Concat(k3s.CNIs(), rke2.CNIs(), []string{rancher.DatastoreEtcd, rancher.DatastoreSQLite}, kubeadm.Variants(), fix.Variants()),
	}
	for _, f := range knowledge.Fixes.All() {
		known["fix"] = append(known["fix"], f.ID)
	}
	for _, g := range knowledge.Gates.All() {
		known["gate"] = append(known["gate"], g.ID)
	}
	for _, s := range knowledge.Signatures {
		known["signature"] = append(known["signature"], s.ID)
	}
	for _, o := range knowledge.OSes {
		known["os"] = append(known["os"], o.Name)
	}
	for _, p := range (matrix.Cell{}).Phases() {
		known["phase"] = append(known["phase"], string(p))
	}
	for _, r := range matrix.Restarts() {
		known["restart"] = append(known["restart"], string(r.Restart))
	}
	for _, s := range matrix.Services() {
		known["service"] = append(known["service"], string(s))
	}
	for name := range distributions() {
		known["distro"] = append(known["distro"], name)
	}
	for _, c := range health.AfterRestart(health.Snapshot{}, matrix.Timeouts{}) {
		known["check"] = append(known["check"], c.Name())
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "field-reports.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	rows, claims := 0, 0
	for i, line := range strings.Split(string(text), "\n") {
		things := thing.FindAllStringSubmatch(line, -1)
		for _, m := range things {
			kind, id := m[1], m[2]
			named[kind+"/"+id] = true
			if kind == "topology" {
				if _, err := matrix.ParseTopology(id); err != nil {
					t.Errorf("line %d: %v", i+1, err)
				}
				continue
			}
			if known[kind] == nil {
				t.Errorf("line %d: there is no kind of thing %q", i+1, kind)
			} else if !slices.Contains(known[kind], id) {
				t.Errorf("line %d: there is no %s %q", i+1, kind, id)
			}
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.HasPrefix(line, "|---") || strings.TrimSpace(cells[len(cells)-2]) == "here" {
			continue
		}
		rows++
		if len(things) == 0 {
			t.Errorf("line %d names nothing that there is: %s", i+1, line)
		}
		if no, err := strconv.Atoi(strings.TrimSpace(cells[1])); err == nil {
			if claims++; no != claims {
				t.Errorf("line %d: claim %d, want %d", i+1, no, claims)
			}
		}
	}
	if rows < 70 || claims != 26 {
		t.Errorf("%d rows and %d claims were read", rows, claims)
	}
	// What no report tells of, a fault brings about.
	files, err := fs.Glob(fixtures.Faults(), "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d faults: %v", len(files), err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(fixtures.Faults(), file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^signature: (\S+)$`).FindAllStringSubmatch(string(text), -1) {
			named["signature/"+m[1]] = true
		}
	}
	for _, kind := range []string{"fix", "gate", "signature"} {
		for _, id := range known[kind] {
			if !named[kind+"/"+id] {
				t.Errorf("%s %s is in no row", kind, id)
			}
		}
	}
}
