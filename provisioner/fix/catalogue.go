// Package fix holds the fixes that Kubernetes nodes need in system containers:
// it loads them from data, decides by observed facts which ones a cell needs,
// merges them into one desired state, applies and verifies that state.
package fix

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Fix is one piece of knowledge: what goes wrong in a system container, where,
// and what has to be set so that it does not.
type Fix struct {
	// ID names the fix everywhere; it is the name of its file, too.
	ID string `yaml:"id"`
	// Title says in one line what the fix does.
	Title string `yaml:"title"`
	// Why explains what goes wrong without it.
	Why string `yaml:"why"`
	// Cures lists the signatures of the failures that it prevents.
	Cures []string `yaml:"cures"`
	// When is the CEL condition under which it applies; empty means always.
	When    string  `yaml:"when"`
	Effects Effects `yaml:"effects"`
	// Verify shows that the fix is in effect; each must hold.
	Verify []Verification `yaml:"verify"`
	// Harmful marks advice that does damage, Optional another way to what a fix
	// that applies by itself does, or something that few want. Neither is applied
	// unless somebody asks for it.
	Harmful  bool `yaml:"harmful"`
	Optional bool `yaml:"optional"`
	// Contradicts lists fixes that this one cannot be in effect beside, although
	// both write to different places.
	Contradicts []string `yaml:"contradicts"`
	// Sources are links to where the facts come from.
	Sources []string `yaml:"sources"`

	condition *Condition
	file      string
}

// Condition is the compiled When.
func (f *Fix) Condition() *Condition { return f.condition }

// OnRequest says that the fix is applied only where somebody asks for it.
func (f *Fix) OnRequest() bool { return f.Harmful || f.Optional }

// File is where the fix was loaded from.
func (f *Fix) File() string { return f.file }

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
	Path string `yaml:"path"`
	// Mode is octal, "0644" if empty.
	Mode    string `yaml:"mode"`
	Content string `yaml:"content"`
}

// UnitEffect is a systemd unit in a node.
type UnitEffect struct {
	Name    string `yaml:"name"`
	Content string `yaml:"content"`
	// Enable starts the unit at once and at every boot.
	Enable bool `yaml:"enable"`
}

// ContainerdEffects are settings of containerd.
type ContainerdEffects struct {
	CRI  map[string]any `yaml:"cri"`
	Runc map[string]any `yaml:"runc"`
}

// Verification shows that a fix is in effect on a node.
type Verification struct {
	// Command is a shell command. It only looks: it repairs nothing.
	Command string `yaml:"command"`
	// Want is a regular expression that the command's whole standard output,
	// trimmed, must match.
	Want string `yaml:"want"`
	// After is the earliest phase at which it can hold: fix (the default),
	// install or baseline.
	After matrix.Phase `yaml:"after"`
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
type Source struct {
	// Name is put before file names in messages, as the folder's path.
	Name string
	FS   fs.FS
}

// Load reads every .yaml file at the root of each source. It reports all
// problems at once, each with its file, and its position where it has one.
func Load(sources ...Source) (*Catalogue, error) {
	compiler, err := newCompiler()
	if err != nil {
		return nil, err
	}
	c := &Catalogue{byID: map[string]*Fix{}}
	var problems []error
	for _, source := range sources {
		problems = append(problems, decodeAll(source, func(file string, f *Fix) []error {
			f.file = file
			bad := f.validate(compiler)
			if first, twice := c.byID[f.ID]; twice {
				return append(bad, fmt.Errorf("fix %s is already in %s", f.ID, first.file))
			}
			c.byID[f.ID] = f
			c.fixes = append(c.fixes, f)
			return bad
		})...)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("load fixes: %w", errors.Join(problems...))
	}
	slices.SortFunc(c.fixes, func(a, b *Fix) int { return strings.Compare(a.ID, b.ID) })
	return c, nil
}

// decodeAll decodes each of a source's files into a T and hands it on; what
// either of both complains about comes back with the file's name.
func decodeAll[T any](source Source, accept func(file string, v *T) []error) []error {
	entries, err := fs.ReadDir(source.FS, ".")
	if err != nil {
		return []error{fmt.Errorf("read folder %s: %w", source.Name, err)}
	}
	var problems []error
	for _, entry := range entries {
		if entry.IsDir() || path.Ext(entry.Name()) != ".yaml" {
			continue
		}
		file := path.Join(source.Name, entry.Name())
		data, err := fs.ReadFile(source.FS, entry.Name())
		if err != nil {
			problems = append(problems, fmt.Errorf("read %s: %w", file, err))
			continue
		}
		v := new(T)
		if err := yaml.Load(data, v, yaml.WithV4Defaults(), yaml.WithKnownFields()); err != nil {
			problems = append(problems, positioned(file, err)...)
			continue
		}
		for _, err := range accept(file, v) {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
		}
	}
	return problems
}

// positioned turns a decoder's error into one problem per position.
func positioned(file string, err error) []error {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		var problems []error
		for _, one := range many.Errors {
			problems = append(problems, fmt.Errorf("%s:%d:%d: %s", file, one.Mark.Line, one.Mark.Column, one.Message))
		}
		return problems
	}
	var one *yaml.LoadError
	if errors.As(err, &one) && one.Mark.Line > 0 {
		return []error{fmt.Errorf("%s:%d:%d: %s", file, one.Mark.Line, one.Mark.Column, one.Message)}
	}
	return []error{fmt.Errorf("%s: %w", file, err)}
}

// identifier is the form of the IDs of fixes, gates and signatures.
func identifier() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`) }

// validate finds everything that is wrong with a fix by itself.
func (f *Fix) validate(compiler *compiler) []error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("fix %s: "+format, append([]any{f.ID}, args...)...))
	}
	if !identifier().MatchString(f.ID) {
		bad("id %q: want lower-case words joined by hyphens", f.ID)
	}
	if f.Title == "" || f.Why == "" {
		bad("needs a title and a why")
	}
	if len(f.Sources) == 0 {
		bad("needs sources")
	}
	if len(f.Verify) == 0 {
		bad("needs verify: what nobody can see is not known to be in effect")
	}
	var err error
	if f.condition, err = compiler.compile(f.When); err != nil {
		bad("when: %w", err)
	}
	rendered, err := f.render(sample())
	if err != nil {
		bad("%w", err)
		return problems
	}
	if line := rendered.Effects.Incus.RawLXC; line != "" {
		key, _, assigned := strings.Cut(line, "=")
		if !assigned || strings.ContainsAny(line, "\n\r") || !strings.HasPrefix(key, "lxc.") {
			bad("rawLXC %q: want one line, lxc.KEY=VALUE", line)
		}
	}
	for _, file := range rendered.Effects.Node.Files {
		if !path.IsAbs(file.Path) || path.Clean(file.Path) != file.Path {
			bad("file %q: want a clean absolute path", file.Path)
		}
		if _, err := parseMode(file.Mode); err != nil {
			bad("file %s: %w", file.Path, err)
		}
	}
	for _, unit := range rendered.Effects.Node.Units {
		if unit.Name == "" || strings.Contains(unit.Name, "/") || path.Ext(unit.Name) == "" {
			bad("unit %q: want a name such as example.service", unit.Name)
		}
	}
	for i, v := range rendered.Verify {
		if strings.TrimSpace(v.Command) == "" || v.Want == "" {
			bad("verify %d: needs command and want", i+1)
		}
		if _, err := wanted(v.Want); err != nil {
			bad("verify %d: want: %w", i+1, err)
		}
		switch v.After {
		case "", matrix.PhaseFix, matrix.PhaseInstall, matrix.PhaseBaseline:
		default:
			bad("verify %d: after %q: want fix, install or baseline", i+1, v.After)
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
