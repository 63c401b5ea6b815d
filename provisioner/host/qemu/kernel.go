package qemu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

// kernelPackage is a packaged kernel and the suite it comes from.
type kernelPackage struct {
	debian.Package
	Suite string
}

// kernelSuites are the suites that have kernels, those of a machine's own
// release first: a kernel built for another release is the second choice.
func kernelSuites(own string) []string {
	suites := []string{own, own + "-backports"}
	for _, s := range []string{"bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports"} {
		if !slices.Contains(suites, s) {
			suites = append(suites, s)
		}
	}
	return suites
}

// cloudKernel begins and ends the names of the kernels for virtual machines:
// few drivers, so a small initrd.
const cloudPrefix, cloudSuffix = "linux-image-", "-cloud-amd64"

// resolveKernel finds what Spec.Kernel asks for, a version or a package's name,
// in an archive's indexes. The first of the suites that has it counts, and in
// it the newest.
func resolveKernel(want string, suites []string, index map[string][]debian.Package) (kernelPackage, error) {
	version, family := strings.CutPrefix(want, "debian/")
	var near []string
	for _, suite := range suites {
		var best kernelPackage
		for _, p := range index[suite] {
			if !family {
				if p.Name == want {
					return kernelPackage{p, suite}, nil
				}
				continue
			}
			release, found := strings.CutPrefix(p.Name, cloudPrefix)
			if !found {
				continue
			}
			release, found = strings.CutSuffix(release, cloudSuffix)
			// linux-image-cloud-amd64 and its like only point to one of these.
			if !found || release == "" || release[0] < '0' || release[0] > '9' {
				continue
			}
			near = append(near, minor(release))
			if !strings.HasPrefix(release+".", version+".") && !strings.HasPrefix(release, version+"+") {
				continue
			}
			if best.Name == "" || newer(p.Name, best.Name) {
				best = kernelPackage{p, suite}
			}
		}
		if best.Name != "" {
			return best, nil
		}
	}
	tried := fmt.Sprintf("none of the suites %s has it", strings.Join(suites, ", "))
	if family {
		slices.SortFunc(near, func(a, b string) int {
			if newer(b, a) {
				return -1
			}
			return 1
		})
		tried += "; they have " + strings.Join(slices.Compact(near), ", ")
	}
	return kernelPackage{}, &provisioner.UnavailableError{What: "kernel " + want, Tried: []string{tried}}
}

// minor is the 6.1 of 6.1.0-50.
func minor(release string) string {
	parts := strings.SplitN(release, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// newer compares two package names number by number: a kernel's name holds its
// version and its ABI, and that is what differs between them.
func newer(a, b string) bool {
	return slices.CompareFunc(numbers(a), numbers(b), func(x, y int) int { return x - y }) > 0
}

func numbers(s string) (all []int) {
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		// A number too long for an int is none of a kernel's.
		n, _ := strconv.Atoi(f)
		all = append(all, n)
	}
	return all
}
