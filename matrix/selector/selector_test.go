package selector_test

import (
	"errors"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// cells are six, named below by their distro, OS and topology.
func cells() []matrix.Cell {
	make := func(name, minor, version, os, topology, host string, variants ...string) matrix.Cell {
		t, err := matrix.ParseTopology(topology)
		if err != nil {
			panic(err)
		}
		c := matrix.Cell{Distro: matrix.Distro{Name: name, Minor: minor, Version: version}, OS: matrix.OS{Name: os}, Topology: t,
			Host: matrix.HostRef{Name: host}, Variants: variants}
		c.ID = c.NewID()
		return c
	}
	return []matrix.Cell{
		make("kubeadm", "1.34", "", "debian/12", "1", "embedded"),
		make("kubeadm", "1.34", "", "debian/13", "1", "embedded"),
		make("kubeadm", "1.33", "1.33.5", "debian/13", "1+1", "embedded"),
		make("rke2", "1.34", "1.34.1+rke2r1", "debian/13", "1+1", "lab"),
		make("k3s", "1.34", "", "rockylinux/10", "3", "lab"),
		make("kubeadm", "1.34", "", "debian/13", "1", "lab", "flannel"),
	}
}

func ids(cells []matrix.Cell) string {
	var b strings.Builder
	for _, c := range cells {
		b.WriteString(string(c.ID) + "\n")
	}
	return b.String()
}

func TestSelect(t *testing.T) {
	all := cells()
	pick := func(indexes ...int) (out []matrix.Cell) {
		for _, i := range indexes {
			out = append(out, all[i])
		}
		return out
	}
	for _, test := range []struct {
		name       string
		only, skip []string
		want       []matrix.Cell
	}{
		{"nothing said", nil, nil, all},
		{"a distro", []string{"rke2"}, nil, pick(3)},
		{"a distro and its minor", []string{"kubeadm-1.34"}, nil, pick(0, 1, 5)},
		{"as a matrix writes it", []string{"kubeadm@1.33"}, nil, pick(2)},
		{"an exact version", []string{"kubeadm-1.33.5"}, nil, pick(2)},
		{"an OS", []string{"debian/13"}, nil, pick(1, 2, 3, 5)},
		{"an OS as in the ID", []string{"debian-12"}, nil, pick(0)},
		{"a topology", []string{"1+1"}, nil, pick(2, 3)},
		{"a host", []string{"lab"}, nil, pick(3, 4, 5)},
		{"a variant", []string{"flannel"}, nil, pick(5)},
		{"two keys", []string{"distro=kubeadm,os=debian/13"}, nil, pick(1, 2, 5)},
		{"spaces", []string{" distro = kubeadm , debian/12 "}, nil, pick(0)},
		{"every key", []string{"distro=kubeadm,os=debian/13,topology=1,host=lab,variant=flannel"}, nil, pick(5)},
		{"an ID", []string{"kubeadm-1.34/debian-13/1/embedded"}, nil, pick(1)},
		{"no part of an ID", []string{"kubeadm-1.34/debian-13/1/embedded", "k3s"}, nil, pick(1, 4)},
		{"a star stays within a segment", []string{"kubeadm-*/debian-13/*/embedded"}, nil, pick(1, 2)},
		{"two stars go across", []string{"kubeadm-*/debian-13/**"}, nil, pick(1, 2, 5)},
		{"a star in a value", []string{"os=debian/*"}, nil, pick(0, 1, 2, 3, 5)},
		{"any of several", []string{"rke2", "k3s"}, nil, pick(3, 4)},
		{"skip", nil, []string{"lab", "debian/12"}, pick(1, 2)},
		{"only and skip", []string{"kubeadm"}, []string{"topology=1"}, pick(2)},
		{"skip what only left out anyway", []string{"rke2"}, []string{"k3s"}, pick(3)},
		{"a dot is a dot", []string{"kubeadm-1.3*"}, nil, pick(0, 1, 2, 5)},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := selector.Select(all, test.only, test.skip)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(ids(got)).To(Equal(ids(test.want)))
		})
	}
}

func TestSelectRefuses(t *testing.T) {
	const there = "; there are distro kubeadm-1.34 kubeadm-1.33 rke2-1.34 k3s-1.34; os debian/12 debian/13 rockylinux/10; topology 1 1+1 3; host embedded lab; variant flannel"
	for _, test := range []struct {
		name       string
		only, skip []string
		want       string
	}{
		{"a typo", []string{"rek2"}, nil, `selector "rek2": matches no cell (did you mean "rke2"?)` + there},
		{"a typo in a value", []string{"os=debain/13"}, nil, `selector "os=debain/13": matches no cell (did you mean "debian/13"?)` + there},
		{"nothing like it", nil, []string{"openshift"}, `selector "openshift": matches no cell` + there},
		{"values that exist, but in no one cell", []string{"distro=k3s,os=debian/12"}, nil, `selector "distro=k3s,os=debian/12": matches no cell` + there},
		{"half an ID", []string{"kubeadm-1.34/debian-13"}, nil, `selector "kubeadm-1.34/debian-13": matches no cell` + there},
		{"empty", []string{""}, nil, `selector "": an empty term; want for example rke2, debian/13, distro=kubeadm,os=debian/13 or a cell's ID`},
		{"a comma too many", []string{"rke2,"}, nil, `selector "rke2,": an empty term; want for example rke2, debian/13, distro=kubeadm,os=debian/13 or a cell's ID`},
		{"an unknown key", []string{"distor=rke2"}, nil, `selector "distor=rke2": unknown key "distor" (did you mean "distro"?); keys are distro, os, topology, host, variant`},
		{"no value", []string{"os="}, nil, `selector "os=": os has no value`},
		{"an expression without end", []string{strings.Repeat("*/", 600)}, nil, `selector "*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/...": longer than 1000 characters`},
		{"nothing left", []string{"rke2"}, []string{"lab"}, `selector "rke2 lab": together they leave no cell`},
		{"all that is wrong", []string{"os="}, []string{"host="}, "selector \"os=\": os has no value\nselector \"host=\": host has no value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			got, err := selector.Select(cells(), test.only, test.skip)
			g.Expect(got).To(BeNil())
			g.Expect(err).To(MatchError(test.want))
			var se *selector.Error
			g.Expect(errors.As(err, &se)).To(BeTrue())
		})
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"topologies", "timeouts", "os", "include", "exclude"}
	for name, want := range map[string]string{
		"topologys":              ` (did you mean "topologies"?)`,
		"so":                     ` (did you mean "os"?)`,
		"xclude":                 ` (did you mean "exclude"?)`,
		"ixclude":                ` (did you mean "include" or "exclude"?)`,
		"":                       "",
		"nodes":                  "",
		strings.Repeat("x", 999): "",
	} {
		if got := selector.DidYouMean(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// FuzzParse: any expression is refused or matches without a panic, and its
// String is the expression.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{"rke2", "distro=kubeadm,os=debian/13", "kubeadm-*/debian-13/**", "=", ",", "os=***", "a=b=c", "\xff*", "[*", `\*`} {
		f.Add(expr)
	}
	all := cells()
	f.Fuzz(func(t *testing.T, expr string) {
		s, err := selector.Parse(expr)
		if err != nil {
			var se *selector.Error
			if !errors.As(err, &se) {
				t.Fatalf("%T", err)
			}
			return
		}
		if s.String() != expr {
			t.Fatalf("%q became %q", expr, s)
		}
		for _, c := range all {
			s.Matches(c)
		}
	})
}
