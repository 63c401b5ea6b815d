// Command lxcmatrix answers whether a Kubernetes distribution runs inside
// LXC/Incus system containers, which fixes it needs there, and whether it
// comes back after a restart.
package main

import (
	"os"

	"github.com/lxcmatrix/lxcmatrix/cmd/lxcmatrix/internal/cli"
)

// version is set by the linker.
var version = "unknown"

func main() {
	os.Exit(cli.Program{Streams: cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, Version: version}.Main(os.Args[1:]))
}
