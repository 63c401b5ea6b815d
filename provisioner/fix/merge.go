package fix

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Context is what templates in a fix may refer to. A field that is empty is
// not known: a fix that refers to it cannot be merged.
type Context struct {
	// NodeName and NodeAddress are .Node.Name and .Node.Address.
	NodeName, NodeAddress string
	// Gateway and Subnet are .Network.Gateway and .Network.Subnet.
	Gateway, Subnet string
	// Kernel is .Host.Kernel, the host's `uname -r`, and Cgroup .Host.Cgroup, v1
	// or v2.
	Kernel, Cgroup string
}

// data is the context as templates see it, without what is not known.
func (c Context) data() map[string]map[string]string {
	all := map[string]map[string]string{
		"Node":    {"Name": c.NodeName, "Address": c.NodeAddress},
		"Network": {"Gateway": c.Gateway, "Subnet": c.Subnet},
		"Host":    {"Kernel": c.Kernel, "Cgroup": c.Cgroup},
	}
	for _, group := range all {
		maps.DeleteFunc(group, func(_, value string) bool { return value == "" })
	}
	return all
}

// Sample is a context that knows everything, of a node that does not exist: to
// try templates with, and to show what they come to.
func Sample() Context {
	return Context{NodeName: "node", NodeAddress: "192.0.2.2", Gateway: "192.0.2.1", Subnet: "192.0.2.0/24", Kernel: "6.12.0", Cgroup: "v2"}
}

// ConflictError is two fixes that want different things of one place.
type ConflictError struct {
	// Place names what both want to set, as "kubelet.cgroupDriver".
	Place string
	// Fixes are the IDs of both, Values what each wants there.
	Fixes, Values [2]string
}

// Error names the place, both fixes and both values.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("fixes %s and %s differ on %s: %q and %q", e.Fixes[0], e.Fixes[1], e.Place, e.Values[0], e.Values[1])
}

// ContradictionError is a fix beside one that it says it contradicts.
type ContradictionError struct{ Fix, Contradicts string }

// Error names both.
func (e *ContradictionError) Error() string {
	return fmt.Sprintf("fix %s contradicts %s", e.Fix, e.Contradicts)
}

// Merge makes one desired state of a node from fixes. Their raw.lxc lines, files
// and units are in the order in which the fixes are given, but for what they say
// themselves of what comes after what. Fixes that want the
// same are no conflict; every conflict is reported, as a *ConflictError or a
// *ContradictionError.
func Merge(fixes []*Fix, c Context) (provisioner.Desired, error) {
	rendered := make([]*Fix, 0, len(fixes))
	var problems []error
	for _, f := range inOrder(fixes) {
		one, err := f.render(c)
		if err != nil {
			problems = append(problems, fmt.Errorf("fix %s: %w", f.ID, err))
			continue
		}
		rendered = append(rendered, one)
	}
	m := merged(rendered)
	if err := errors.Join(append(problems, m.conflicts...)...); err != nil {
		return provisioner.Desired{}, fmt.Errorf("merge fixes: %w", err)
	}
	return m.want, nil
}

// differ says where fixes, rendered, cannot be in effect together.
func differ(rendered ...*Fix) error { return errors.Join(merged(rendered).conflicts...) }

func merged(rendered []*Fix) *merger {
	m := &merger{owner: map[string]setting{}}
	for _, f := range rendered {
		m.add(f)
		for _, other := range rendered {
			if slices.Contains(f.Contradicts, other.ID) {
				m.conflicts = append(m.conflicts, &ContradictionError{Fix: f.ID, Contradicts: other.ID})
			}
		}
	}
	return m
}

// inOrder puts fixes behind those that they come after, and changes their order
// no further. That none comes after itself was checked when they were loaded.
func inOrder(fixes []*Fix) []*Fix {
	ordered := make([]*Fix, 0, len(fixes))
	placed := map[string]bool{}
	var place func(f *Fix)
	place = func(f *Fix) {
		if placed[f.ID] {
			return
		}
		placed[f.ID] = true
		for _, earlier := range fixes {
			if slices.Contains(f.After, earlier.ID) {
				place(earlier)
			}
		}
		ordered = append(ordered, f)
	}
	for _, f := range fixes {
		place(f)
	}
	return ordered
}

type setting struct {
	fix   string
	value any
}

// merger builds the desired state and remembers who set what.
type merger struct {
	want      provisioner.Desired
	owner     map[string]setting
	conflicts []error
}

// set claims a place for a fix and says whether the value is new there.
func (m *merger) set(fix, place string, value any) bool {
	before, taken := m.owner[place]
	if !taken {
		m.owner[place] = setting{fix, value}
		return true
	}
	if !reflect.DeepEqual(before.value, value) {
		m.conflicts = append(m.conflicts, &ConflictError{Place: place,
			Fixes: [2]string{before.fix, fix}, Values: [2]string{show(before.value), show(value)}})
	}
	return false
}

func show(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return dump(v)
}

func (m *merger) add(f *Fix) {
	e, w := f.Effects, &m.want
	m.strings(f.ID, "incus.config", &w.Incus.Config, e.Incus.Config)
	for _, name := range slices.Sorted(maps.Keys(e.Incus.Devices)) {
		if m.set(f.ID, "incus.devices."+name, e.Incus.Devices[name]) {
			if w.Incus.Devices == nil {
				w.Incus.Devices = map[string]map[string]string{}
			}
			w.Incus.Devices[name] = maps.Clone(e.Incus.Devices[name])
		}
	}
	if line := e.Incus.RawLXC; line != "" && m.rawLXC(f.ID, line) {
		w.Incus.RawLXC = append(w.Incus.RawLXC, line)
	}
	m.strings(f.ID, "host.sysctls", &w.Host.Sysctls, e.Host.Sysctls)
	if len(e.Host.Sysctls) > 0 {
		w.Host.Fixes = append(w.Host.Fixes, f.ID)
	}
	m.strings(f.ID, "node.sysctls", &w.Node.Sysctls, e.Node.Sysctls)
	for _, file := range e.Node.Files {
		mode, _ := parseMode(file.Mode) // checked when it was loaded
		v := provisioner.File{Path: file.Path, Content: file.Content, Mode: mode}
		if m.set(f.ID, "node.files."+file.Path, v) {
			w.Node.Files = append(w.Node.Files, v)
		}
	}
	for _, unit := range e.Node.Units {
		v := provisioner.Unit{Name: unit.Name, Content: unit.Content, Enable: unit.Enable}
		if m.set(f.ID, "node.units."+unit.Name, v) {
			w.Node.Units = append(w.Node.Units, v)
		}
	}
	for _, unit := range e.Node.Disable {
		if m.set(f.ID, "node.running."+unit, "disabled") {
			w.Node.Disable = append(w.Node.Disable, unit)
		}
	}
	for _, unit := range e.Node.Restart {
		m.set(f.ID, "node.running."+unit, "restarted")
		if !slices.Contains(w.Node.Restart, unit) {
			w.Node.Restart = append(w.Node.Restart, unit)
		}
	}
	m.tree(f.ID, "kubelet", &w.Kubelet, e.Kubelet)
	m.tree(f.ID, "kubeProxy", &w.KubeProxy, e.KubeProxy)
	m.tree(f.ID, "containerd.cri", &w.Containerd.CRI, e.Containerd.CRI)
	m.tree(f.ID, "containerd.runc", &w.Containerd.Runc, e.Containerd.Runc)
	if s := e.Containerd.Snapshotter; s != "" && m.set(f.ID, "containerd.snapshotter", s) {
		w.Containerd.Snapshotter = s
	}
	if e.NodeIP != "" && m.set(f.ID, "nodeIP", e.NodeIP) {
		w.NodeIP = e.NodeIP
	}
	for _, check := range e.IgnorePreflightErrors {
		if !slices.Contains(w.IgnorePreflightErrors, check) {
			w.IgnorePreflightErrors = append(w.IgnorePreflightErrors, check)
		}
	}
	if f.Repairs != "" && !slices.Contains(w.Repairs, f.Repairs) {
		w.Repairs = append(w.Repairs, f.Repairs)
	}
	for _, v := range f.Verify {
		after := v.After
		if after == "" {
			after = matrix.PhaseFix
		}
		w.Verify = append(w.Verify, provisioner.Verification{Fix: f.ID, Command: v.Command, Want: v.Want, After: after})
	}
}

func (m *merger) strings(fix, place string, into *map[string]string, from map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		if m.set(fix, place+"."+key, from[key]) {
			if *into == nil {
				*into = map[string]string{}
			}
			(*into)[key] = from[key]
		}
	}
}

// tree merges nested settings leaf by leaf.
func (m *merger) tree(fix, place string, into *map[string]any, from map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		if *into == nil {
			*into = map[string]any{}
		}
		here := place + "." + key
		branch, isBranch := from[key].(map[string]any)
		existing, exists := (*into)[key]
		below, isBelow := existing.(map[string]any)
		switch {
		case isBranch && (!exists || isBelow):
			m.tree(fix, here, &below, branch)
			if below == nil {
				below = map[string]any{}
			}
			(*into)[key] = below
		case exists && (isBranch || isBelow):
			// A leaf here, settings below it there.
			m.conflicts = append(m.conflicts, &ConflictError{Place: here,
				Fixes: [2]string{m.first(here), fix}, Values: [2]string{show(existing), show(from[key])}})
		default:
			if m.set(fix, here, from[key]) {
				(*into)[key] = from[key]
			}
		}
	}
}

// first is a fix that set something at or below a place.
func (m *merger) first(place string) string {
	for _, key := range slices.Sorted(maps.Keys(m.owner)) {
		if key == place || strings.HasPrefix(key, place+".") {
			return m.owner[key].fix
		}
	}
	return ""
}

// rawLXC claims a raw.lxc line. LXC adds up lines of some keys, and takes the
// last line of all others: those may be set once only.
func (m *merger) rawLXC(fix, line string) bool {
	key, value, _ := strings.Cut(line, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	for _, adds := range []string{"lxc.cap.", "lxc.mount.auto", "lxc.mount.entry", "lxc.cgroup.devices.", "lxc.cgroup2.devices.",
		"lxc.hook.", "lxc.environment", "lxc.idmap"} {
		if strings.HasPrefix(key, adds) {
			return m.set(fix, "incus.rawLXC."+key+"="+value, value)
		}
	}
	return m.set(fix, "incus.rawLXC."+key, value)
}

// render is the fix with every template in its effects and verifications
// filled in.
func (f *Fix) render(c Context) (*Fix, error) {
	data := c.data()
	out := *f
	var err error
	if out.Effects, err = renderAll(f.Effects, data); err != nil {
		return nil, err
	}
	if out.Verify, err = renderAll(f.Verify, data); err != nil {
		return nil, err
	}
	return &out, nil
}

// renderAll copies v with every string in it rendered.
func renderAll[T any](v T, data any) (T, error) {
	var problems []error
	out, _ := rendered(reflect.ValueOf(v), data, &problems).Interface().(T)
	return out, errors.Join(problems...)
}

func rendered(v reflect.Value, data any, problems *[]error) reflect.Value {
	switch v.Kind() {
	case reflect.String:
		text, err := expand(v.String(), data)
		if err != nil {
			*problems = append(*problems, err)
		}
		return reflect.ValueOf(text).Convert(v.Type())
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			out.Field(i).Set(rendered(v.Field(i), data, problems))
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(rendered(v.Index(i), data, problems))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for _, key := range v.MapKeys() {
			out.SetMapIndex(key, rendered(v.MapIndex(key), data, problems))
		}
		return out
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		return rendered(v.Elem(), data, problems)
	}
	return v
}

func expand(text string, data any) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("effect").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", fmt.Errorf("template %q: %w", text, err)
	}
	if len(t.Templates()) > 1 || !straight(t.Root) {
		return "", fmt.Errorf("template %q: want values, if and with: what repeats itself may never end", text)
	}
	var out strings.Builder
	if err := t.Execute(&out, data); err != nil {
		return "", fmt.Errorf("template %q: %w", text, err)
	}
	return out.String(), nil
}

// straight says whether nothing in a template is done more than once.
func straight(list *parse.ListNode) bool {
	if list == nil {
		return true
	}
	return !slices.ContainsFunc(list.Nodes, func(n parse.Node) bool {
		switch n := n.(type) {
		case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
			return false
		case *parse.IfNode:
			return !straight(n.List) || !straight(n.ElseList)
		case *parse.WithNode:
			return !straight(n.List) || !straight(n.ElseList)
		}
		return true
	})
}
