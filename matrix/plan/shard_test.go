package plan_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/plan"
)

func part(t *testing.T, text string) plan.Part {
	t.Helper()
	p, err := plan.ParsePart(text)
	if err != nil {
		t.Fatal(err)
	}
	if p.String() != text {
		t.Errorf("%q is written as %q", text, p)
	}
	return p
}

func TestParsePartRefuses(t *testing.T) {
	for _, text := range []string{"2", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/4/2", "1/20000", "host=", "lab", " 1/2"} {
		if p, err := plan.ParsePart(text); err == nil {
			t.Errorf("%q is taken for %s", text, p)
		}
	}
}

// on is a cell of a host.
func on(driver, host, os string) matrix.Cell {
	c := matrix.Cell{Host: matrix.HostRef{Name: host, Driver: driver}, Distro: matrix.Distro{Name: "kubeadm", Minor: "1.34"},
		OS: matrix.OS{Name: os}, Topology: matrix.Topology{Servers: 1}}
	c.ID = c.NewID()
	return c
}

// Which part has a cell is written down here: it must be the same in every
// version of the program, since each machine keeps what its cells need.
func TestPartsAreStable(t *testing.T) {
	g := NewWithT(t)
	dealt := func(c matrix.Cell, parts int) (in []int) {
		for i := 1; i <= parts; i++ {
			if part(t, fmt.Sprintf("%d/%d", i, parts)).Has(c) {
				in = append(in, i)
			}
		}
		return in
	}
	g.Expect(dealt(on("embedded", "embedded", "debian/12"), 4)).To(Equal([]int{1}))
	g.Expect(dealt(on("embedded", "embedded", "debian/13"), 4)).To(Equal([]int{4}))
	g.Expect(dealt(on("qemu", "k6.1-v1", "debian/12"), 4)).To(Equal([]int{2}))
	counts := map[int]int{}
	for i := range 1000 {
		os := fmt.Sprintf("debian/%d", i)
		in := dealt(on("embedded", "embedded", os), 4)
		g.Expect(in).To(HaveLen(1), os)
		counts[in[0]]++
		g.Expect(dealt(on("qemu", "k6.1-v1", os), 4)).To(Equal([]int{2}), "the cells of one machine stay together")
		g.Expect(dealt(on("remote", "lab", os), 4)).To(Equal(dealt(on("remote", "lab", "debian/13"), 4)))
	}
	for i := 1; i <= 4; i++ {
		g.Expect(counts[i]).To(BeNumerically("~", 250, 50), "part %d", i)
	}
	g.Expect(part(t, "host=k6.1-v1").Has(on("qemu", "k6.1-v1", "debian/12"))).To(BeTrue())
	g.Expect(part(t, "host=k6.1-v1").Has(on("qemu", "k6.1-v2", "debian/12"))).To(BeFalse())
	g.Expect(plan.Part{}.Has(on("qemu", "k6.1-v2", "debian/12"))).To(BeTrue())
}

func TestMakeShards(t *testing.T) {
	g := NewWithT(t)
	whole, err := plan.Make(t.Context(), wideMatrix(t), newWorld(), old{}, options())
	g.Expect(err).NotTo(HaveOccurred())
	seen := map[matrix.CellID]int{}
	for i := 1; i <= 3; i++ {
		o, w := options(), newWorld()
		o.Part = part(t, fmt.Sprintf("%d/3", i))
		p, err := plan.Make(t.Context(), wideMatrix(t), w, old{}, o)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(p.Shard.Plan).To(Equal(whole.Digest()))
		g.Expect(p.Shard.Part).To(Equal(o.Part.String()))
		g.Expect(p.Whole().Cells).To(HaveLen(len(whole.Cells)))
		for _, c := range p.Cells {
			seen[c.ID]++
			g.Expect(whole.Cells).To(ContainElement(c), "a cell is what it is in the whole plan")
		}
		if len(p.Cells) > 0 {
			path := filepath.Join(t.TempDir(), plan.FileName)
			g.Expect(plan.Write(path, p)).To(Succeed())
			g.Expect(plan.Read(path)).To(Equal(p))
		}
	}
	for _, c := range whole.Cells {
		g.Expect(seen[c.ID]).To(Equal(1), "%s", c.ID)
	}
	o := options()
	o.Part = part(t, "host=nowhere")
	_, err = plan.Make(t.Context(), wideMatrix(t), newWorld(), old{}, o)
	g.Expect(err).To(MatchError(ContainSubstring(`no cell is on host "nowhere"; hosts are: `)))
}

// Nothing is asked about what other shards need.
func TestMakeShardAsksForItsOwn(t *testing.T) {
	g := NewWithT(t)
	whole := newWorld()
	_, err := plan.Make(t.Context(), wideMatrix(t), whole, old{}, options())
	g.Expect(err).NotTo(HaveOccurred())
	o, w := options(), newWorld()
	o.Part = part(t, "1/9")
	p, err := plan.Make(t.Context(), wideMatrix(t), w, old{}, o)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(w.asked)).To(BeNumerically("<", len(whole.asked)))
	if len(p.Cells) == 0 {
		g.Expect(p.Inputs).To(BeEmpty())
	}
}

func TestGitHub(t *testing.T) {
	g := NewWithT(t)
	kvm, member, odd := on("qemu", "k6.12-v2", "debian/13"), on("remote", "lab-one", "debian/13"), on("local", "pve", "debian/13")
	kvm.Host.QEMU.Accel, member.Host.Remote = "kvm", matrix.RemoteRef{Name: "lab", Member: "one"}
	p := matrix.Plan{Cells: []matrix.Cell{on("embedded", "embedded", "debian/12"), on("qemu", "k6.1-v1", "debian/13"), on("embedded", "embedded", "debian/13"), kvm, member, odd}}
	var out strings.Builder
	g.Expect(plan.GitHub(&out, p)).To(Succeed())
	g.Expect(strings.Count(out.String(), "\n")).To(Equal(1), "a job's output is one line")
	g.Expect(out.String()).To(MatchJSON(`{"include": [
		{"host": "embedded", "shard": "host=embedded", "runs-on": ["self-hosted", "linux", "lxcmatrix"], "cells": 2},
		{"host": "k6.1-v1", "shard": "host=k6.1-v1", "runs-on": ["self-hosted", "linux", "lxcmatrix"], "cells": 1},
		{"host": "k6.12-v2", "shard": "host=k6.12-v2", "runs-on": ["self-hosted", "linux", "lxcmatrix", "kvm"], "cells": 1},
		{"host": "lab-one", "shard": "host=lab-one", "runs-on": ["self-hosted", "linux", "lxcmatrix", "lab"], "cells": 1},
		{"host": "pve", "shard": "host=pve", "runs-on": ["self-hosted", "linux", "lxcmatrix", "pve"], "cells": 1}]}`))
	for i := range 300 {
		p.Cells = append(p.Cells, on("qemu", fmt.Sprintf("k%d", i), "debian/13"))
	}
	g.Expect(plan.GitHub(&out, p)).To(MatchError(ContainSubstring("the plan has 305 hosts, and GitHub makes at most 256 jobs")))
	out.Reset()
	g.Expect(plan.GitHub(&out, matrix.Plan{})).To(Succeed())
	g.Expect(out.String()).To(MatchJSON(`{"include": []}`))
}
