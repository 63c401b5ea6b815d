package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// mostJobs is how many jobs GitHub makes of one matrix.
const mostJobs = 256

// job is one entry of a GitHub Actions matrix: what `matrix.host` and the others
// are in a workflow.
type job struct {
	Host string `json:"host"`
	// Shard is for run --shard.
	Shard string `json:"shard"`
	// RunsOn are the labels that a runner must have.
	RunsOn []string `json:"runs-on"`
	// Cells is how many the host has.
	Cells int `json:"cells"`
}

// GitHub writes the plan as the matrix of a GitHub Actions job, in one line: one
// job per host, in the order of the plan, since a machine's kernel is the host's.
//
// A runner has to have the labels self-hosted, linux and lxcmatrix, and one more
// where the machine matters: kvm for a qemu host that is not to emulate its CPUs
// (accel: kvm), and for a host of another driver its name, unless that is the
// driver's own. Of a remote cluster's member it is the cluster's name.
func GitHub(w io.Writer, p matrix.Plan) error {
	jobs := []*job{}
	of := map[string]*job{}
	for _, c := range p.Cells {
		j, there := of[c.Host.Name]
		if !there {
			j = &job{Host: c.Host.Name, Shard: Part{host: c.Host.Name}.String(), RunsOn: labels(c.Host)}
			of[c.Host.Name] = j
			jobs = append(jobs, j)
		}
		j.Cells++
	}
	if len(jobs) > mostJobs {
		return fmt.Errorf("the plan has %d hosts, and GitHub makes at most %d jobs of a matrix; leave some out with --only or --skip", len(jobs), mostJobs)
	}
	if err := json.NewEncoder(w).Encode(map[string][]*job{"include": jobs}); err != nil {
		return fmt.Errorf("print the plan for GitHub: %w", err)
	}
	return nil
}

// labels are those that a host's runner must have.
func labels(h matrix.HostRef) []string {
	all := []string{"self-hosted", "linux", "lxcmatrix"}
	switch {
	case h.Driver == "qemu" && h.QEMU.Accel == "kvm":
		return append(all, "kvm")
	case h.Driver == "qemu", h.Name == h.Driver:
		return all
	}
	return append(all, strings.TrimSuffix(h.Name, "-"+h.Remote.Member))
}
