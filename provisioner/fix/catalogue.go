// Package fix holds the fixes that Kubernetes nodes need in system containers:
// it loads them from data, decides by observed facts which ones a cell needs,
// merges them into one desired state, applies and verifies that state.
package fix

import (
	"bytes"
	_ "embed" // this file, whose comments describe the schema
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/datafile"
)

//go:embed catalogue.go
var source string

// Schema is the JSON Schema (draft 2020-12) of a fix's file.
func Schema() ([]byte, error) { return datafile.Schema[Fix]("lxcmatrix fix", source) }

// Fix is one piece of knowledge: what goes wrong in a system container, where,
// and what has to be set so that it does not.
type Fix struct {
	// ID names the fix everywhere; it is the name of its file, too.
	ID string `yaml:"id" jsonschema:"required,pattern=^[a-z0-9]+(-[a-z0-9]+)*$"`
	// Title says in one line what the fix does.
	Title string `yaml:"title" jsonschema:"required,minLength=1"`
	// Why explains what goes wrong without it.
	Why string `yaml:"why" jsonschema:"required,minLength=1"`
	// Cures lists the signatures of the failures that it prevents, Causes those
	// of the failures that it brings about where it is harmful.
	Cures  []string `yaml:"cures"`
	Causes []string `yaml:"causes"`
	// When is the CEL condition under which it applies; empty means always.
	When    string  `yaml:"when"`
	Effects Effects `yaml:"effects"`
	// Verify shows that the fix is in effect; each must hold.
	Verify []Verification `yaml:"verify" jsonschema:"required,minItems=1"`
	// Repairs is a file in the node, where the fix tells what it mends by itself
	// later on: a line of JSON each, with time, repaired and saw. A cell in which
	// it mended anything fails.
	Repairs string `yaml:"repairs" jsonschema:"pattern=^/"`
	// Harmful marks advice that does damage, Optional another way to what a fix
	// that applies by itself does, or something that few want. Neither is applied
	// unless somebody asks for it.
	Harmful  bool `yaml:"harmful"`
	Optional bool `yaml:"optional"`
	// Contradicts lists fixes that this one cannot be in effect beside, although
	// both write to different places.
	Contradicts []string `yaml:"contradicts"`
	// After lists fixes whose raw.lxc lines, files and units come before this
	// one's, where they are in effect as well.
	After []string `yaml:"after"`
	// Sources are links to where the facts come from, or tables of runs that showed
	// them, as docs/ablation/TABLE.md.
	Sources []string `yaml:"sources" jsonschema:"required,minItems=1"`

	condition *Condition
	file      *datafile.File
	// sampled is the fix rendered for a node that does not exist.
	sampled *Fix
}

// Condition is the compiled When.
func (f *Fix) Condition() *Condition { return f.condition }

// OnRequest says that the fix is applied only where somebody asks for it.
func (f *Fix) OnRequest() bool { return f.Harmful || f.Optional }

// File is where the fix was loaded from.
func (f *Fix) File() string { return f.file.Name }

// Effects are what a fix wants, by where it takes effect. Every string in
// them, and in Verify, may be a Go template over a Context.
type Effects struct {
	Incus      IncusEffects      `yaml:"incus"`
	Host       HostEffects       `yaml:"host"`
	Node       NodeEffects       `yaml:"node"`
	Kubelet    map[string]any    `yaml:"kubelet"`
	KubeProxy  map[string]any    `yaml:"kubeProxy"`
	Containerd ContainerdEffects `yaml:"containerd"`
	// NodeIP is the address that kubelet is told to be the node's.
	NodeIP                string   `yaml:"nodeIP"`
	IgnorePreflightErrors []string `yaml:"ignorePreflightErrors"`
}

// IncusEffects are configuration of the instance.
type IncusEffects struct {
	Config map[string]string `yaml:"config"`
	// RawLXC is one line of raw.lxc, as "lxc.cap.drop=": one fix per line, so
	// that each can be left out alone.
	RawLXC  string                       `yaml:"rawLXC"`
	Devices map[string]map[string]string `yaml:"devices"`
}

// HostEffects are changes of the host itself.
type HostEffects struct {
	Sysctls map[string]string `yaml:"sysctls"`
}

// NodeEffects are changes inside a node.
type NodeEffects struct {
	Files []FileEffect `yaml:"files"`
	Units []UnitEffect `yaml:"units"`
	// Sysctls that belong to the node, as those of its network namespace.
	Sysctls map[string]string `yaml:"sysctls"`
	// Restart names units that read a changed file only when they start.
	Restart []string `yaml:"restart"`
	// Disable names units that are stopped, and that no boot starts.
	Disable []string `yaml:"disable"`
}

// FileEffect is a file in a node.
type FileEffect struct {
	Path string `yaml:"path" jsonschema:"required,pattern=^/"`
	// Mode is octal, "0644" if empty.
	Mode    string `yaml:"mode"`
	Content string `yaml:"content"`
}

// UnitEffect is a systemd unit in a node.
type UnitEffect struct {
	Name    string `yaml:"name" jsonschema:"required,minLength=1"`
	Content string `yaml:"content"`
	// Enable starts the unit at once and at every boot.
	Enable bool `yaml:"enable"`
}

// ContainerdEffects are settings of containerd.
type ContainerdEffects struct {
	CRI  map[string]any `yaml:"cri"`
	Runc map[string]any `yaml:"runc"`
	// Snapshotter is overlayfs, native, fuse-overlayfs; empty leaves containerd's
	// choice.
	Snapshotter string `yaml:"snapshotter"`
}

// Verification shows that a fix is in effect on a node.
type Verification struct {
	// Command is a shell command. It only looks: it repairs nothing.
	Command string `yaml:"command" jsonschema:"required,minLength=1"`
	// Want is a regular expression that the command's whole standard output,
	// trimmed, must match.
	Want string `yaml:"want" jsonschema:"required,minLength=1"`
	// After is the earliest phase at which it can hold: fix (the default),
	// install or baseline.
	After matrix.Phase `yaml:"after" jsonschema:"enum=fix,enum=install,enum=baseline"`
}

// Catalogue holds loaded fixes.
type Catalogue struct {
	fixes []*Fix
	byID  map[string]*Fix
}

// All lists the fixes in the order of their IDs.
func (c *Catalogue) All() []*Fix { return slices.Clone(c.fixes) }

// Fix finds a fix by ID. An unknown one is an error that names those with a
// similar name.
func (c *Catalogue) Fix(id string) (*Fix, error) {
	if f, ok := c.byID[id]; ok {
		return f, nil
	}
	known := make([]string, len(c.fixes))
	for i, f := range c.fixes {
		known[i] = f.ID
	}
	return nil, &UnknownError{ID: id, Near: near(id, known)}
}

// UnknownError is a fix that nobody knows.
type UnknownError struct {
	ID string
	// Near are IDs that may have been meant.
	Near []string
}

// Error names the ID and what may have been meant.
func (e *UnknownError) Error() string {
	if len(e.Near) == 0 {
		return fmt.Sprintf("there is no fix %q", e.ID)
	}
	return fmt.Sprintf("there is no fix %q; did you mean %s?", e.ID, strings.Join(e.Near, " or "))
}

// Source is a folder of YAML files and how messages name it.
type Source = datafile.Source

// Load reads every .yaml file at the root of each source. It reports all
// problems at once, each with its file and position: what is wrong with a fix
// by itself, and what is between several.
func Load(sources ...Source) (*Catalogue, error) {
	compiler, err := newCompiler()
	if err != nil {
		return nil, err
	}
	c := &Catalogue{byID: map[string]*Fix{}}
	var problems []error
	for _, source := range sources {
		problems = append(problems, datafile.Read(source, func(file *datafile.File, f *Fix) []error {
			f.file = file
			bad := f.validate(compiler)
			if first, twice := c.byID[f.ID]; twice {
				return append(bad, f.Errorf(datafile.Path{"id"}, "is already in %s", first.file.Name))
			}
			c.byID[f.ID] = f
			c.fixes = append(c.fixes, f)
			return bad
		})...)
	}
	slices.SortFunc(c.fixes, func(a, b *Fix) int { return strings.Compare(a.ID, b.ID) })
	if len(problems) == 0 {
		problems = c.between()
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load fixes: %w", errors.Join(problems...))
	}
	return c, nil
}

// Errorf is an error about what is at a path of the fix's file.
func (f *Fix) Errorf(at datafile.Path, format string, args ...any) error {
	return f.file.Errorf(at, "fix %s: "+format, append([]any{f.ID}, args...)...)
}

// identifier is the form of the IDs of fixes, gates and signatures.
func identifier() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`) }

// validate finds everything that is wrong with a fix by itself.
func (f *Fix) validate(compiler *compiler) []error {
	var problems []error
	bad := func(at datafile.Path, format string, args ...any) {
		problems = append(problems, f.Errorf(at, format, args...))
	}
	if !identifier().MatchString(f.ID) {
		bad(datafile.Path{"id"}, "id %q: want lower-case words joined by hyphens", f.ID)
	}
	if f.Title == "" || f.Why == "" {
		bad(nil, "needs a title and a why")
	}
	if len(f.Sources) == 0 {
		bad(nil, "needs sources")
	}
	if len(f.Verify) == 0 {
		bad(nil, "needs verify: what nobody can see is not known to be in effect")
	}
	if f.Harmful && f.Optional {
		bad(datafile.Path{"optional"}, "is harmful, and so not optional")
	}
	if f.Harmful && len(f.Cures) > 0 || !f.OnRequest() && len(f.Causes) > 0 {
		bad(nil, "a harmful fix causes, any other cures")
	}
	var err error
	if f.condition, err = compiler.compile(f.When); err != nil {
		bad(datafile.Path{"when"}, "when: %w", err)
	}
	rendered, err := f.render(Sample())
	if err != nil {
		bad(datafile.Path{"effects"}, "%w", err)
		return problems
	}
	f.sampled = rendered
	if line := rendered.Effects.Incus.RawLXC; line != "" {
		key, _, assigned := strings.Cut(line, "=")
		if !assigned || strings.ContainsAny(line, "\n\r") || !strings.HasPrefix(key, "lxc.") {
			bad(datafile.Path{"effects", "incus", "rawLXC"}, "rawLXC %q: want one line, lxc.KEY=VALUE", line)
		}
	}
	for i, file := range rendered.Effects.Node.Files {
		at := datafile.Path{"effects", "node", "files", i}
		if !path.IsAbs(file.Path) || path.Clean(file.Path) != file.Path {
			bad(append(at, "path"), "file %q: want a clean absolute path", file.Path)
		}
		if _, err := parseMode(file.Mode); err != nil {
			bad(append(at, "mode"), "file %s: %w", file.Path, err)
		}
	}
	for i, unit := range rendered.Effects.Node.Units {
		at := datafile.Path{"effects", "node", "units", i}
		if unit.Name == "" || strings.Contains(unit.Name, "/") || path.Ext(unit.Name) == "" {
			bad(append(at, "name"), "unit %q: want a name such as example.service", unit.Name)
		}
	}
	if f.Repairs != "" && !path.IsAbs(f.Repairs) {
		bad(datafile.Path{"repairs"}, "repairs %q: want an absolute path", f.Repairs)
	}
	for i, v := range rendered.Verify {
		at := datafile.Path{"verify", i}
		if strings.TrimSpace(v.Command) == "" || v.Want == "" {
			bad(at, "verify %d: needs command and want", i+1)
		}
		if _, err := wanted(v.Want); err != nil {
			bad(append(at, "want"), "verify %d: want: %w", i+1, err)
		}
		switch v.After {
		case "", matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseBaseline:
		default:
			bad(append(at, "after"), "verify %d: after %q: want fix, install or baseline", i+1, v.After)
		}
	}
	return problems
}

// wanted compiles what a verification wants of the whole output.
func wanted(want string) (*regexp.Regexp, error) { return regexp.Compile(`\A(?:` + want + `)\z`) }

func parseMode(mode string) (uint32, error) {
	if mode == "" {
		return 0, nil
	}
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil || m > 0o7777 {
		return 0, fmt.Errorf("mode %q: want octal permission bits, as 0755", mode)
	}
	return uint32(m), nil
}

// near lists those of known that differ from id by little.
func near(id string, known []string) []string {
	var out []string
	for _, k := range known {
		if distance(id, k) <= 2+len(id)/6 || len(id) > 3 && strings.Contains(k, id) {
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return distance(id, a) - distance(id, b) })
	return out[:min(len(out), 3)]
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// dump shows a decoded value as it would be written.
func dump(v any) string {
	out, err := yaml.Dump(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(bytes.TrimSpace(out))
}
