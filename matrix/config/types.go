package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/selector"
)

// The doc comments of the types and fields below are the JSON Schema's
// descriptions, and the jsonschema tags hold for the decoder as well: see
// decode.go and schema.go.

// Matrix is a matrix file: the axes whose combinations are the cells, the
// rules that add and remove combinations, and what a run may use.
type Matrix struct {
	// The version of this format.
	APIVersion string `yaml:"apiVersion" jsonschema:"required,enum=lxcmatrix.dev/v1"`
	// Where nodes run; kernel and cgroup mode belong to the host. Default: one embedded host.
	Hosts []Host `yaml:"hosts" jsonschema:"minItems=1"`
	// Which Kubernetes distributions to install.
	Distros []Distro `yaml:"distros" jsonschema:"required,minItems=1"`
	// What the nodes run.
	OS []OS `yaml:"os" jsonschema:"required,minItems=1"`
	// Clusters as SERVERS or SERVERS+AGENTS. Default: "1", one server.
	Topologies []Topology `yaml:"topologies" jsonschema:"minItems=1"`
	// Ways to set a distribution up, by names that it knows, several at once with slashes between them, as flannel; default is the way without a name. Default: default.
	Variants []Variant `yaml:"variants" jsonschema:"minItems=1"`
	// Further restarts of every cell, after the graceful and the forced one that each has, in this order whatever is written. service: the services that are Kubernetes, and no node. daemon: the host's Incus daemon, and no node; hosts other than embedded cannot have it. agents: each agent in its turn. rollout: the first server, while a Deployment with its pods there is rolled out. agents-away: the agents are stopped for 90 seconds, until they are tainted as unreachable. agents-gone: the agents are stopped for 7 minutes, until their pods are evicted. Cells without agents do without those of agents. Default: none.
	Restarts []Restart `yaml:"restarts,omitempty" jsonschema:"uniqueItems=true"`
	// What stands around every cell's cluster, and is looked at at its baseline and after every restart. haproxy: a load balancer in front of the API servers and of a workload's node ports, with a client of each. registry: an image registry with TLS and a password, which every node pulls from. They run in Docker where an engine answers that reaches the nodes, and else in Incus beside the nodes; @docker and @incus after the name choose. Default: none.
	Services []Service `yaml:"services,omitempty" jsonschema:"uniqueItems=true"`
	// Combinations to remove.
	Exclude []Selector `yaml:"exclude,omitempty" jsonschema:"maxItems=1000"`
	// Combinations to add, after exclude has removed its own.
	Include []Combination `yaml:"include,omitempty" jsonschema:"maxItems=1000"`
	// Cells that are expected to fail, and how.
	Expect []Expect `yaml:"expect,omitempty" jsonschema:"maxItems=1000"`
	// What a run may use at one time.
	Budget Budget `yaml:"budget"`
	// How long each phase may take; a phase that runs out has failed.
	Timeouts Timeouts `yaml:"timeouts"`
	// Where artifacts and images come from.
	Sources Sources `yaml:"sources"`

	// File names the file, or the built-in matrix, that this was read from.
	File string `yaml:"-" jsonschema:"-"`

	folder    string
	positions positions
}

// Host is where nodes run, written as a mapping or, with neither options nor a
// name of its own, as its driver alone.
type Host struct {
	// The name in cell IDs, reports and selectors.
	Name string `yaml:"name" jsonschema:"required,pattern=^[a-z][a-z0-9.-]{0\\,39}$" want:"a name of at most 40 small letters, digits, dots and dashes that starts with a letter"`
	// embedded: an Incus daemon of the harness's own, started and stopped by it. local: the system's Incus. qemu: a virtual machine with a kernel, a cgroup mode and an Incus of its own, booted for the run. remote: an Incus server elsewhere.
	Driver string `yaml:"driver" jsonschema:"required,enum=embedded,enum=local,enum=qemu,enum=remote"`
	// The cgroup mode that the host has, if its cells shall hold it to that. A machine of driver qemu is booted with it; default there: v2.
	Cgroup string `yaml:"cgroup,omitempty" jsonschema:"enum=v1,enum=v2"`
	// allow: sysctls of a host that the harness did not make may be changed while a cell needs it.
	HostWrites string `yaml:"hostWrites,omitempty" jsonschema:"enum=allow"`
	// Where the host cannot be had, its cells are blocked and counted, but do not fail the run.
	Optional   bool `yaml:"optional,omitempty"`
	QEMUHost   `yaml:",inline"`
	RemoteHost `yaml:",inline"`
}

// QEMUHost describes the virtual machine of a host with driver qemu. A
// relative path starts at the matrix file's folder.
type QEMUHost struct {
	// qemu: the machine's own system. Default: debian/12 for cgroup v1, else debian/13.
	OS string `yaml:"os,omitempty" jsonschema:"enum=debian/12,enum=debian/13"`
	// qemu: Debian's newest kernel of a version (debian/6.1), a Debian package (linux-image-6.1.0-38-cloud-amd64), or the path of a kernel of one's own, beginning with / or ./ (initrd and modules go with it, unless it has all built in). Default: that of the system, debian/6.1 or debian/6.12.
	Kernel string `yaml:"kernel,omitempty" jsonschema:"pattern=^(debian/[1-9][0-9]{0\\,2}(\\.[0-9]{1\\,3})?|linux-image-[a-z0-9][a-z0-9.+-]{0\\,99}|[.]{0\\,2}/.+)$" want:"debian/VERSION as debian/6.1, a Debian package as linux-image-6.1.0-38-cloud-amd64, or a path that begins with / or ./"`
	// qemu: the path of the initrd of a kernel of one's own.
	Initrd string `yaml:"initrd,omitempty"`
	// qemu: a folder that holds lib/modules of a kernel of one's own.
	Modules string `yaml:"modules,omitempty"`
	// qemu: the Debian suite that the machine's Incus comes from. Default: bookworm-backports on debian/12, trixie on debian/13.
	Incus string `yaml:"incus,omitempty" jsonschema:"enum=bookworm-backports,enum=trixie,enum=trixie-backports"`
	// qemu: the machine's CPUs. Default: 2, or the budget's, if that is less.
	CPUs int `yaml:"cpus,omitempty" jsonschema:"minimum=1,maximum=255"`
	// qemu: the machine's memory. Default: what the nodes of the largest topology may use and 1GiB more, or what the budget has, if that is less: 2GiB of it are for QEMU's own, unless accel is kvm.
	Memory Size `yaml:"memory,omitempty"`
	// qemu: the size of the machine's disk, which takes only the room that it uses. Default: 24GiB.
	Disk Size `yaml:"disk,omitempty"`
	// qemu: kvm, tcg (software emulation), or auto: kvm where it boots this kernel, else tcg. Default: auto.
	Accel string `yaml:"accel,omitempty" jsonschema:"enum=auto,enum=kvm,enum=tcg"`
}

// RemoteHost says where the Incus server of a host with driver remote is, by
// URL and fingerprint or by its name in the user's Incus client configuration.
// A relative path starts at the matrix file's folder.
type RemoteHost struct {
	// remote: the server's address, as https://incus.example.org:8443; fingerprint goes with it.
	URL string `yaml:"url,omitempty" jsonschema:"pattern=^https://(\\[[0-9A-Fa-f:.]+\\]|[0-9A-Za-z.-]+):[0-9]{1\\,5}$" want:"https://ADDRESS:PORT"`
	// remote: the name of a remote in the user's Incus client configuration, instead of url.
	Remote string `yaml:"remote,omitempty" jsonschema:"pattern=^[^ :/]{1\\,100}$" want:"the name of a remote, as incus remote list shows it"`
	// remote: the SHA-256 of the server's certificate, as incus info shows it.
	Fingerprint string `yaml:"fingerprint,omitempty" jsonschema:"pattern=^[0-9a-f]{64}$" want:"64 digits from 0 to f, as incus info shows them"`
	// remote: the path of the client certificate to show, PEM. Default: that of the user's Incus client configuration.
	ClientCert string `yaml:"clientCert,omitempty"`
	// remote: the path of the client certificate's key, PEM.
	ClientKey string `yaml:"clientKey,omitempty"`
	// remote: the storage pool that nodes use. Default: the only one there is, or the default profile's.
	Pool string `yaml:"pool,omitempty"`
	// remote: the network that nodes use. Default: the only managed bridge there is, or the default profile's.
	Network string `yaml:"network,omitempty"`
	// remote: USER@ADDRESS[:PORT] of the host's own system. Default: none; what truly needs it is blocked then.
	SSH string `yaml:"ssh,omitempty" jsonschema:"pattern=^[^@ ]+@[^@ ]+$" want:"USER@ADDRESS or USER@ADDRESS:PORT"`
}

// Distro is a Kubernetes distribution, written as a mapping or as
// NAME@VERSION.
type Distro struct {
	// Which distribution.
	Name string `yaml:"name" jsonschema:"required,enum=kubeadm,enum=k3s,enum=rke2"`
	// A minor version ("1.34": the newest release that can be had), an exact one ("1.34.4", "1.34.2+k3s1"), or a channel of k3s or rke2 ("stable", "latest"). In quotes: 1.30 without them is the number 1.3.
	Version string `yaml:"version" jsonschema:"required,pattern=^(v?1\\.[0-9]{1\\,2}(\\.[0-9]{1\\,3}([-+][0-9A-Za-z.+-]{1\\,30})?)?|[a-z][a-z-]{1\\,29})$" want:"a version such as 1.34 or 1.34.4, or a channel of k3s or rke2 such as stable"`
	// Where the release cannot be had, its cells are blocked and counted, but do not fail the run.
	Optional bool `yaml:"optional,omitempty"`
}

// OS is the nodes' operating system, written as a mapping or as its name alone.
// One for the servers and another for the agents is written as a mapping or as
// SERVERS+AGENTS; it makes cells with the topologies that have agents.
type OS struct {
	// FAMILY/RELEASE, as Incus images are named: debian/13.
	Name string `yaml:"name,omitempty" jsonschema:"pattern=^[a-z][a-z0-9-]{0\\,29}/[a-z0-9][A-Za-z0-9.-]{0\\,29}$" want:"FAMILY/RELEASE as Incus names images, as debian/13"`
	// The servers' alone, instead of name; agents goes with it.
	Servers string `yaml:"servers,omitempty" jsonschema:"pattern=^[a-z][a-z0-9-]{0\\,29}/[a-z0-9][A-Za-z0-9.-]{0\\,29}$" want:"FAMILY/RELEASE as Incus names images, as debian/13"`
	// The agents' alone, instead of name; servers goes with it.
	Agents string `yaml:"agents,omitempty" jsonschema:"pattern=^[a-z][a-z0-9-]{0\\,29}/[a-z0-9][A-Za-z0-9.-]{0\\,29}$" want:"FAMILY/RELEASE as Incus names images, as debian/13"`
	// Where the image cannot be had, its cells are blocked and counted, but do not fail the run.
	Optional bool `yaml:"optional,omitempty"`
}

// Selector picks combinations: every field that is given must match. In a
// value, * stands for any text without a slash and ** for any text.
type Selector struct {
	// NAME, NAME@MINOR or NAME@VERSION.
	Distro string `yaml:"distro,omitempty" jsonschema:"pattern=^.{1\\,200}$" want:"a value of at most 200 characters"`
	// FAMILY/RELEASE, debian/* for example, or SERVERS+AGENTS.
	OS string `yaml:"os,omitempty" jsonschema:"pattern=^.{1\\,200}$" want:"a value of at most 200 characters"`
	// SERVERS or SERVERS+AGENTS.
	Topology string `yaml:"topology,omitempty" jsonschema:"pattern=^.{1\\,200}$" want:"a value of at most 200 characters"`
	// A host's name.
	Host string `yaml:"host,omitempty" jsonschema:"pattern=^.{1\\,200}$" want:"a value of at most 200 characters"`
	// A variant's name, or default.
	Variant string `yaml:"variant,omitempty" jsonschema:"pattern=^.{1\\,200}$" want:"a value of at most 200 characters"`
}

// Combination adds cells: each field is a value to add, on its axis or not,
// or picks values of its axis as a selector does. A field that is left out
// means every value of the axis. The host must be on its axis.
type Combination struct {
	Selector `yaml:",inline"`
	// Where what they need cannot be had, the added cells are blocked and counted, but do not fail the run.
	Optional bool `yaml:"optional,omitempty"`
}

// Expect is a failure that is known, so that anything else still counts as
// one. A cell that passes although it is expected to fail is a deviation too.
type Expect struct {
	Selector `yaml:",inline"`
	// The phase that fails.
	Phase FailingPhase `yaml:"phase" jsonschema:"required"`
	// The ID of the log signature that is found then.
	Signature string `yaml:"signature" jsonschema:"required,pattern=^[a-z0-9][a-z0-9-]*$" want:"the ID of a signature, of small letters, digits and dashes"`
	// A link to where the failure is tracked.
	Issue string `yaml:"issue" jsonschema:"required,pattern=^https?://[^ ]+$" want:"a link, http:// or https://"`
}

// Budget limits what a run may use at one time.
type Budget struct {
	// CPUs that the cells running at one time may claim. Default: all of the machine's.
	CPUs int `yaml:"cpus" jsonschema:"minimum=1,maximum=4096"`
	// Memory that the cells running at one time may claim. Default: three quarters of the machine's.
	Memory Size `yaml:"memory"`
	// The size of an embedded host's storage pool. Default: 20GiB.
	Disk Size `yaml:"disk"`
	// How many cells may run at one time; 0 means as many as fit. Default: 0.
	Cells int `yaml:"cells" jsonschema:"minimum=0,maximum=1000"`
	// Limits of each node.
	Node NodeLimits `yaml:"node"`
}

// NodeLimits are the limits that every node has.
type NodeLimits struct {
	// Default: 5GiB, or what the budget leaves to a node of the largest topology, if that is less.
	Memory Size `yaml:"memory"`
	// Default: 4096.
	Processes int `yaml:"processes" jsonschema:"minimum=512,maximum=4194304"`
	// Default: 2, or the budget's, if that is less.
	CPUs int `yaml:"cpus" jsonschema:"minimum=1,maximum=4096"`
}

// Timeouts bound the phases, each from 1s to 24h.
type Timeouts struct {
	// Default: 2m.
	Create Duration `yaml:"create"`
	// Default: 2m.
	Fix Duration `yaml:"fix"`
	// One server, or all agents: further servers are joined one after another. Default: 6m.
	Install Duration `yaml:"install"`
	// One restart, until the init of the nodes that are restarted together runs again. Default: 2m.
	Restart Duration `yaml:"restart"`
	// The baseline, and every recovery after a restart, must be healthy within this for each server; nodes that are restarted in turns must be back within it. Default: 5m.
	Recover Duration `yaml:"recover"`
	// Default: 1m.
	Collect Duration `yaml:"collect"`
	// Default: 1m.
	Destroy Duration `yaml:"destroy"`
	// How long restart counts must hold still once everything is healthy; 30s at least, for a crash loop waits 10, 20 and 40 s. Default: 30s.
	Stability Duration `yaml:"stability"`
}

// Sources says where artifacts and images come from: each source is asked in
// the order written here.
type Sources struct {
	// Default: cache, mirror, upstream, build.
	Artifacts []ArtifactSource `yaml:"artifacts" jsonschema:"minItems=1,uniqueItems=true"`
	// Default: server, mmdebstrap.
	Images []ImageSource `yaml:"images" jsonschema:"minItems=1,uniqueItems=true"`
	// A folder (a path that begins with / or ., from the matrix file's folder on) or a file://, http:// or https:// URL under which upstream's files lie as HOST/PATH; empty: the source mirror is passed over.
	Mirror string `yaml:"mirror" jsonschema:"pattern=^((file|https?)://[^ ]+|[./].*)?$" want:"a path that begins with / or ., or a file://, http:// or https:// URL"`
}

// Restart is a restart that a matrix may ask for.
type Restart string

// words lists the values: those that cells do not have anyway.
func (Restart) words() (words []string) {
	for _, r := range matrix.Restarts() {
		if !r.Always && r.Restart != matrix.RestartSoak {
			words = append(words, string(r.Restart))
		}
	}
	return words
}

// AddRestarts adds restarts to those that the matrix asks for. The error names
// one that there is not.
func (m *Matrix) AddRestarts(names []string) error {
	for _, name := range names {
		r := Restart(name)
		if !slices.Contains(r.words(), name) {
			return fmt.Errorf("there is no restart %q to ask for%s; there are %s", name, selector.DidYouMean(name, r.words()), strings.Join(r.words(), ", "))
		}
		if !slices.Contains(m.Restarts, r) {
			m.Restarts = append(m.Restarts, r)
		}
	}
	return nil
}

// Service is a service that a matrix may ask for.
type Service string

// words lists the values.
func (Service) words() (words []string) {
	for _, s := range matrix.Services() {
		words = append(words, string(s))
	}
	return words
}

// FailingPhase is a phase that a cell may be expected to fail in.
type FailingPhase string

// words lists the values: all but the phases of restarts in a row, which no matrix
// file asks for.
func (FailingPhase) words() (words []string) {
	c := matrix.Cell{Topology: matrix.Topology{Servers: 1, Agents: 1}}
	for _, r := range Restart("").words() {
		c.Restarts = append(c.Restarts, matrix.Restart(r))
	}
	for _, p := range c.ProvingPhases() {
		words = append(words, string(p))
	}
	return words
}

// ArtifactSource is where a release's files come from.
type ArtifactSource string

// The sources of artifacts: files fetched or built before, a mirror, the
// project's own release URLs, and a build from source.
const (
	ArtifactCache    ArtifactSource = "cache"
	ArtifactMirror   ArtifactSource = "mirror"
	ArtifactUpstream ArtifactSource = "upstream"
	ArtifactBuild    ArtifactSource = "build"
)

// words lists the values.
func (ArtifactSource) words() []string {
	return []string{string(ArtifactCache), string(ArtifactMirror), string(ArtifactUpstream), string(ArtifactBuild)}
}

// ImageSource is where node images come from.
type ImageSource string

// The sources of images: Incus's image server, and a build from the machine's
// own Debian mirror.
const (
	ImageServer     ImageSource = "server"
	ImageMmdebstrap ImageSource = "mmdebstrap"
)

// words lists the values.
func (ImageSource) words() []string { return []string{string(ImageServer), string(ImageMmdebstrap)} }

// Topology counts a cluster's nodes by role, written "1" or "1+2".
type Topology matrix.Topology

// String is the topology as it is written.
func (t Topology) String() string { return matrix.Topology(t).String() }

// MarshalText writes "1+2".
func (t Topology) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads "1+2".
func (t *Topology) UnmarshalText(text []byte) error {
	parsed, err := matrix.ParseTopology(string(text))
	*t = Topology(parsed)
	return err
}

func (Topology) pattern() string { return `^[1-9](\+[1-9][0-9]?)?$` }

// Variant is a cell's variants with slashes between them, or matrix.NoVariant.
type Variant string

// UnmarshalText reads names with slashes between them.
func (v *Variant) UnmarshalText(text []byte) error {
	if !matches(v.pattern(), string(text)) {
		return fmt.Errorf("%q is no variant, want %s or names in small letters with slashes between them, as flannel", text, matrix.NoVariant)
	}
	*v = Variant(text)
	return nil
}

func (Variant) pattern() string {
	return `^[a-z][a-z0-9.-]{0,29}(/[a-z][a-z0-9.-]{0,29}){0,4}$`
}

// names are those that a cell holds.
func (v Variant) names() []string {
	if v == matrix.NoVariant {
		return nil
	}
	return strings.Split(string(v), "/")
}

// Duration is a time.Duration written as "1m30s".
type Duration time.Duration

// String is the duration without the zero parts that time.Duration prints:
// "5m", not "5m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes "1m30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, from 1s to 24h.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	switch {
	case err != nil || !matches(d.pattern(), string(text)):
		return fmt.Errorf("%q is no duration, want for example 90s or 5m", text)
	case v < time.Second || v > 24*time.Hour:
		return fmt.Errorf("%q is out of range, want 1s to 24h", text)
	}
	*d = Duration(v)
	return nil
}

func (Duration) pattern() string { return `^([0-9]+(\.[0-9]+)?(h|m|s|ms))+$` }

// Size is a number of bytes written as "12GiB" or "512MiB".
type Size int64

// The units that sizes are written in.
const (
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// String is the size in the largest unit that holds it evenly.
func (s Size) String() string {
	switch {
	case s > 0 && s%tib == 0:
		return fmt.Sprintf("%dTiB", s/tib)
	case s > 0 && s%gib == 0:
		return fmt.Sprintf("%dGiB", s/gib)
	}
	return fmt.Sprintf("%dMiB", s/mib)
}

// MarshalText writes "12GiB".
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number of MiB, GiB or TiB.
func (s *Size) UnmarshalText(text []byte) error {
	if !matches(s.pattern(), string(text)) {
		return fmt.Errorf("%q is no size, want for example 12GiB or 512MiB", text)
	}
	number, suffix := text[:len(text)-3], text[len(text)-3:]
	unit := map[string]int64{"MiB": mib, "GiB": gib, "TiB": tib}[string(suffix)]
	n, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is more than any machine has", text)
	}
	*s = Size(n * unit)
	return nil
}

func (Size) pattern() string { return `^[1-9][0-9]*(MiB|GiB|TiB)$` }

// shorthand is a type that may be written as one scalar instead of a mapping.
type shorthand interface {
	// fromScalar reads it, in the form that scalarPattern gives; of anything
	// else it makes fields that do not hold.
	fromScalar(s string)
	scalarPattern() string
}

func (h *Host) fromScalar(s string) { *h = Host{Name: s, Driver: s} }
func (Host) scalarPattern() string  { return `^(embedded|local|qemu)$` }

func (d *Distro) fromScalar(s string) {
	name, version, _ := strings.Cut(s, "@")
	*d = Distro{Name: name, Version: version}
}

func (Distro) scalarPattern() string {
	return `^((kubeadm|k3s|rke2)@v?1\.[0-9]{1,2}(\.[0-9]{1,3}([-+][0-9A-Za-z.+-]{1,30})?)?|(k3s|rke2)@[a-z][a-z-]{1,29})$`
}

func (o *OS) fromScalar(s string) {
	*o = OS{Name: s}
	if servers, agents, mixed := strings.Cut(s, "+"); mixed {
		*o = OS{Servers: servers, Agents: agents}
	}
}

func (OS) scalarPattern() string {
	const name = `[a-z][a-z0-9-]{0,29}/[a-z0-9][A-Za-z0-9.-]{0,29}`
	return `^` + name + `(\+` + name + `)?$`
}

// os is the OS as cells hold it.
func (o OS) os() matrix.OS {
	if o.Servers == "" || o.Agents == "" {
		return matrix.OS{Name: o.Name}
	}
	return matrix.OS{Name: o.Servers, Agents: o.Agents}
}
