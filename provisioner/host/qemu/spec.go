// Package qemu boots virtual machines that are hosts of a matrix: a kernel and
// a cgroup mode of choice, with an Incus server inside that answers on loopback
// under a certificate made for this boot, and a way to the machine's own
// system. It knows ports and certificates; what Incus does with them is its
// caller's.
package qemu

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Spec describes a machine, complete and consistent: NewSpec makes one.
type Spec struct {
	// OS is the machine's own system: debian/12 or debian/13.
	OS string
	// Kernel is debian/VERSION (the newest packaged kernel of that version), a
	// Debian package's name, or the absolute path of a kernel. Initrd and
	// Modules (a folder that holds lib/modules) go with a path.
	Kernel, Initrd, Modules string
	// Cgroup is v1 or v2.
	Cgroup string
	// Incus is the Debian suite that Incus comes from.
	Incus string
	CPUs  int
	// MemoryBytes is the machine's memory, DiskBytes its data disk, where
	// nodes and images are.
	MemoryBytes, DiskBytes int64
	// Accel is auto, kvm or tcg.
	Accel string
}

// The accelerators of a Spec. AccelAuto takes KVM where a probe shows that it
// boots the kernel, and TCG elsewhere.
const (
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// The least that a machine needs.
const (
	leastMemory = 1 << 30
	leastDisk   = 2 << 30
)

// system is what it takes to make one of matrix.QEMUSystems.
type system struct {
	Suite string
	// LegacyForce: its systemd boots on cgroup v1 only with
	// SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 (systemd 256 and 257; 258 removed it).
	LegacyForce bool
}

// system is the Spec's own; NewSpec made sure that there is one.
func (s Spec) system() system {
	if s.OS == "debian/12" {
		return system{Suite: "bookworm"}
	}
	return system{Suite: "trixie", LegacyForce: true}
}

// request is what a disk is made for, in words.
func (s Spec) request() string {
	return fmt.Sprintf("%s with kernel %s and Incus of %s", s.OS, s.Kernel, s.Incus)
}

// SpecError lists everything that is wrong with a machine's description.
type SpecError struct {
	Host     string
	Problems []string
}

// Error names the host and every problem.
func (e *SpecError) Error() string {
	return fmt.Sprintf("host %s: %s", e.Host, strings.Join(e.Problems, "; "))
}

// packageName is what Debian policy allows (5.6.7), which also cannot be taken
// for an option or a list.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// kernelVersion is the version in debian/6.1.
var kernelVersion = regexp.MustCompile(`^[0-9]+(\.[0-9]+){0,2}$`)

// NewSpec completes what a matrix says of a qemu host. All that is wrong with
// it is one *SpecError.
func NewSpec(ref matrix.HostRef) (Spec, error) {
	cgroup := cmp.Or(ref.Cgroup, "v2")
	q := ref.QEMU.WithDefaults(cgroup)
	s := Spec{OS: q.OS, Kernel: q.Kernel, Initrd: q.Initrd, Modules: q.Modules, Cgroup: cgroup, Incus: q.Incus,
		CPUs: q.CPUs, MemoryBytes: q.MemoryBytes, DiskBytes: q.DiskBytes, Accel: q.Accel}
	var problems []string
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	if s.Cgroup != "v1" && s.Cgroup != "v2" {
		wrong("cgroup is %q, not v1 or v2", s.Cgroup)
	}
	if own, ok := q.System(); !ok {
		var known []string
		for _, c := range matrix.QEMUSystems() {
			known = append(known, c.OS)
		}
		wrong("os is %q; a qemu host's is one of %s", s.OS, strings.Join(known, ", "))
	} else if !slices.Contains(own.Incus, s.Incus) {
		wrong("incus is %q; on %s it comes from %s", s.Incus, s.OS, strings.Join(own.Incus, " or "))
	}
	switch version, family := strings.CutPrefix(s.Kernel, "debian/"); {
	case s.Kernel == "":
	case filepath.IsAbs(s.Kernel):
		for what, path := range map[string]string{"initrd": s.Initrd, "modules": s.Modules} {
			if path != "" && !filepath.IsAbs(path) {
				wrong("%s is %q, not an absolute path", what, path)
			}
		}
	case family && !kernelVersion.MatchString(version):
		wrong("kernel is %q; write debian/VERSION, as debian/6.1", s.Kernel)
	case !family && !packageName.MatchString(s.Kernel):
		wrong("kernel is %q; write debian/VERSION, a Debian package's name, or an absolute path", s.Kernel)
	case s.Initrd != "" || s.Modules != "":
		wrong("initrd and modules go with a kernel that is a path, not with %q, which has its own", s.Kernel)
	}
	if s.CPUs < 1 || s.CPUs > 255 {
		wrong("cpus is %d, not 1 to 255", s.CPUs)
	}
	if s.MemoryBytes < leastMemory {
		wrong("memory is %d MiB; a machine needs %d MiB at least", s.MemoryBytes>>20, leastMemory>>20)
	}
	if s.DiskBytes < leastDisk {
		wrong("disk is %d MiB; a machine needs %d MiB at least", s.DiskBytes>>20, leastDisk>>20)
	}
	if !slices.Contains([]string{AccelAuto, AccelKVM, AccelTCG}, s.Accel) {
		wrong("accel is %q, not auto, kvm or tcg", s.Accel)
	}
	if len(problems) > 0 {
		slices.Sort(problems)
		return Spec{}, &SpecError{Host: ref.Name, Problems: problems}
	}
	return s, nil
}
