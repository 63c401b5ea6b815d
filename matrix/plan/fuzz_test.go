package plan

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// FuzzDecode: what is taken for a plan has cells that can be made, and says the
// same once it is written again.
func FuzzDecode(f *testing.F) {
	c := matrix.Cell{Host: matrix.HostRef{Name: "embedded", Driver: "embedded"}, Distro: matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
		OS: matrix.OS{Name: "debian/13"}, Topology: matrix.Topology{Servers: 1, Agents: 2}, Variants: []string{"flannel"}}
	c.ID = c.NewID()
	seed, err := json.Marshal(matrix.Plan{APIVersion: matrix.PlanAPIVersion, Matrix: "default", Cells: []matrix.Cell{c}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decode(data)
		if err != nil {
			return
		}
		for _, c := range p.Cells {
			if c.Topology.Servers < 1 || c.Topology.Agents < 0 || c.Topology.Nodes() > 100 {
				t.Errorf("cell %s has %d servers and %d agents", c.ID, c.Topology.Servers, c.Topology.Agents)
			}
		}
		once, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(once)
		if err != nil {
			t.Fatalf("what was written does not read: %v\n%s", err, once)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%v\n%s\n%s", err, once, twice)
		}
	})
}
