package selector_test

import (
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// TestMalformed: what is wrong with an expression or a topology is said, with
// what there is instead.
func TestMalformed(t *testing.T) {
	var said strings.Builder
	tell := func(what, input string, err error) {
		message := "accepted"
		if err != nil {
			message = err.Error()
		}
		fmt.Fprintf(&said, "%s %.60q\n\t%q\n", what, input, message)
	}
	for _, expr := range []string{"", ",", " ", "rke2,", ",rke2", "rke2,,k3s", "=", "=rke2", "distro=", "distro= ", "dsitro=rke2", "Distro=rke2", "os=debian/13,distro=",
		"name=x", "topologies=1", "kernel=6.1", "variants=x", "host=,", "\x00=x", "distro =", strings.Repeat("a", 1001), strings.Repeat("*", 1001)} {
		_, err := selector.Parse(expr)
		tell("selector", expr, err)
	}
	for _, text := range []string{"", "0", "-1", "+1", "1+", "1+0", "+", "1++1", "1+-1", "01", "1+01", "10", "1+51", "1 ", " 1", "1+1+1", "one", "1,1", "1.0", "1e0", "٣", "0x1", "99999999999999999999", "1+99999999999999999999"} {
		_, err := matrix.ParseTopology(text)
		tell("topology", text, err)
	}
	golden.Assert(t, said.String(), "malformed.golden")
}
