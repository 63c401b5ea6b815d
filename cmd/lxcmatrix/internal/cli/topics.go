package cli

import "github.com/spf13/cobra"

// topics are pages of `lxcmatrix help`.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "selectors", Short: "How --only, --skip and CELL pick cells", Long: `A selector is one or more terms with commas between them, all of which must
hold. A term KEY=PATTERN looks at one axis (distro, os, topology, host,
variant); a bare PATTERN looks at all of them and at the cell's ID. In a
pattern, * stands for any text without a slash and ** for any text.

  kubeadm                           every kubeadm
  debian/13                         every cell on Debian 13
  distro=kubeadm@1.34,os=debian/*   kubeadm 1.34 on any Debian
  debian/12+debian/13               Debian 12 servers with Debian 13 agents
  topology=*+*,variant=flannel      flannel between several nodes
  variant=default                   cells of no variant
  kubeadm-1.34/debian-13/**         cells by ID

A selector that matches nothing is an error, never an empty run.`},
		{Use: "verdicts", Short: "What pass, fail, blocked and the others mean", Long: `A cell's ID is distro-minor/os/topology/host, then its variants.

  pass        every phase is proven, both restarts included
  fail        the node, its configuration or Kubernetes did it
  blocked     the harness could not tell: no host, image or release, or an error
  impossible  a gate rules the combination out, and says why; or it was defied,
              and the cell failed as the gate says
  xfail       fails as the matrix expects
  xpass       passes although the matrix expects it to fail, or a gate that was
              defied says that it cannot
  flaky       passed only when it was tried again
  unknown     planned, no result

lxcmatrix why CELL says which gates rule a cell out and by which facts; run
--defy-gates runs it all the same. A failure that does not tell whether the gate
still holds is blocked; one in a later phase than the gate's is fail.

Only pass, xfail and impossible are as expected. Exit codes: 0 all as expected,
1 a deviation, 2 usage or configuration, 3 the harness failed, cells that are
not optional were blocked, or no cell reached its baseline, 130 and 143
interrupted.`},
		{Use: "environment", Short: "The environment variables that are read", Long: `  LXCMATRIX_STATE      the embedded host's state; default: /var/lib/lxcmatrix
  LXCMATRIX_CACHE      releases and builds; default: lxcmatrix in the user's
                       cache folder
  LXCMATRIX_MIRROR     a mirror of upstream's releases, as --mirror
  LXCMATRIX_BOOTSTRAP  no: doctor --fix changes nothing and says what is missing
  NO_COLOR             set: tables have no colour`},
	}
}
