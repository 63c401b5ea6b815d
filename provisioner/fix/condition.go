package fix

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Truth is what a condition comes to. Its zero value is Unknown, so that
// nothing that was not decided can read as false.
type Truth int

// The truths.
const (
	Unknown Truth = iota
	False
	True
)

// String is the truth's word.
func (t Truth) String() string {
	switch t {
	case False:
		return "false"
	case True:
		return "true"
	}
	return "unknown"
}

// Facts are what is known about a cell, its host and its nodes, by the names
// that conditions use. A fact that is not in the map is not known. A version
// that ends in ".x" is known as far as that: "7.x" is some 7.
type Facts map[string]any

// unprivileged is the variant that makes a cell's nodes unprivileged, whatever
// its distribution.
const unprivileged = "unprivileged"

// Variants are those that fixes know, whatever the distribution.
func Variants() []string { return []string{unprivileged} }

// FactsOf gathers what is known of a cell: what it declares, and what was
// observed, which counts where both say something. A nil host or node was not
// observed yet.
func FactsOf(cell matrix.Cell, host *matrix.HostFacts, node *matrix.NodeFacts) Facts {
	return Declared(cell).With(Observed(host, node))
}

// Declared are the facts that a cell declares.
func Declared(cell matrix.Cell) Facts {
	f := Facts{
		"privileged": !slices.Contains(cell.Variants, unprivileged),
		"variants":   slices.Clone(cell.Variants),
	}
	if cell.Variants == nil {
		f["variants"] = []string{}
	}
	f.put("distro", cell.Distro.Name)
	if cell.Distro.Minor != "" {
		f.put("kubernetes", someOf(cell.Distro.Minor))
	}
	f.put("kubernetes", cell.Distro.Version)
	f.put("os", cell.OS.Name)
	f.put("os_family", cell.OS.Family())
	f.put("cgroup", cell.Host.Cgroup)
	f.put("kernel", declaredKernel(cell.Host.QEMU.Kernel))
	return f
}

// declaredKernel is the version that a machine's declared kernel has; empty
// where its name does not tell.
func declaredKernel(kernel string) string {
	if _, version, ok := strings.Cut(kernel, "debian/"); ok && !strings.HasPrefix(kernel, "/") {
		return someOf(version)
	}
	// The name of a package without a version, linux-image-cloud-amd64, means
	// whichever is the newest.
	if release, ok := strings.CutPrefix(kernel, "linux-image-"); ok {
		if _, _, err := parseVersion(release); err == nil {
			return release
		}
	}
	return ""
}

// Observed are the facts that were observed on a host and in a node; either
// may be nil.
func Observed(host *matrix.HostFacts, node *matrix.NodeFacts) Facts {
	f := Facts{}
	if host != nil {
		f.put("cgroup", host.Cgroup)
		f.put("kernel", host.Kernel)
		f.put("incus", host.Incus)
		f.put("lxc", host.LXC)
		f.put("storage", host.Storage)
		f.put("cpu_level", host.CPULevel)
		if host.AppArmor != nil {
			f["apparmor"] = *host.AppArmor
		}
		if host.Cgroup != "" {
			f["cgroup_cpu_split"] = host.CgroupCPUSplit
		}
		if host.Controllers != nil {
			f["controllers"] = slices.Clone(host.Controllers)
		}
		if host.Capabilities != nil {
			f["capabilities"] = slices.Clone(host.Capabilities)
		}
	}
	if node != nil {
		f.put("containerd", node.Containerd)
		f.put("selinux", node.SELinux)
		if node.ReadOnlySysctls != nil {
			f["read_only_sysctls"] = slices.Clone(node.ReadOnlySysctls)
		}
		if node.NetworkManager != nil {
			f["network_manager"] = *node.NetworkManager
		}
		if node.Firewalld != nil {
			f["firewalld"] = *node.Firewalld
		}
	}
	return f
}

func (f Facts) put(name, value string) {
	if value != "" {
		f[name] = value
	}
}

// With is f and what others say, the last one where several say something.
func (f Facts) With(others ...Facts) Facts {
	all := Facts{}
	for _, other := range append([]Facts{f}, others...) {
		maps.Copy(all, other)
	}
	return all
}

// Condition is a compiled CEL expression over facts.
type Condition struct {
	source  string
	env     *cel.Env
	program cel.Program
	// facts are the names of the facts that it looks at.
	facts []string
	tree  *ast.AST
}

// String is the expression as it was written; "always" where there is none.
func (c *Condition) String() string {
	if c.source == "" {
		return "always"
	}
	return c.source
}

// Facts are the names of the facts that it looks at, sorted.
func (c *Condition) Facts() []string { return slices.Clone(c.facts) }

// Eval decides the condition. It is three-valued: an expression whose outcome
// hangs on a fact that was not observed is Unknown, one that is settled by
// what was observed is True or False whatever the rest may be.
func (c *Condition) Eval(facts Facts) (Truth, error) {
	t, _, err := c.eval(facts)
	return t, err
}

// eval also names the facts that an Unknown outcome waits for.
func (c *Condition) eval(facts Facts) (Truth, []string, error) {
	if c.source == "" {
		return True, nil, nil
	}
	vars, err := c.env.PartialVars(map[string]any(facts))
	if err != nil {
		return Unknown, nil, fmt.Errorf("evaluate %q: %w", c.source, err)
	}
	out, _, err := c.program.Eval(vars)
	if err != nil {
		return Unknown, nil, fmt.Errorf("evaluate %q: %w", c.source, err)
	}
	if u, ok := out.(*types.Unknown); ok {
		var missing []string
		for _, id := range u.IDs() {
			trails, _ := u.GetAttributeTrails(id)
			for _, t := range trails {
				missing = append(missing, t.Variable())
			}
		}
		slices.Sort(missing)
		return Unknown, slices.Compact(missing), nil
	}
	switch out {
	case types.True:
		return True, nil, nil
	case types.False:
		return False, nil, nil
	}
	return Unknown, nil, fmt.Errorf("evaluate %q: came to %v, not to a truth", c.source, out)
}

// compiler makes conditions.
type compiler struct{ env *cel.Env }

// words lists the values of a fact that has a closed set of them, so that a
// misspelt one is found when it is loaded and not by never being true.
func words(fact string) []string {
	switch fact {
	case "cgroup":
		return []string{"v1", "v2"}
	case "distro":
		return []string{"kubeadm", "k3s", "rke2"}
	case "cpu_level":
		return []string{"x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"}
	case "selinux":
		return []string{"enforcing", "permissive", "disabled"}
	case "proxy_mode":
		return []string{"iptables", "ipvs", "nftables"}
	}
	return nil
}

func newCompiler() (*compiler, error) {
	env, err := cel.NewEnv(
		cel.Variable("cgroup", cel.StringType),
		cel.Variable("cgroup_cpu_split", cel.BoolType),
		cel.Variable("controllers", cel.ListType(cel.StringType)),
		cel.Variable("cpu_level", cel.StringType),
		cel.Variable("kernel", cel.StringType),
		cel.Variable("kubernetes", cel.StringType),
		cel.Variable("distro", cel.StringType),
		cel.Variable("os", cel.StringType),
		cel.Variable("os_family", cel.StringType),
		cel.Variable("incus", cel.StringType),
		cel.Variable("lxc", cel.StringType),
		cel.Variable("host_systemd", cel.StringType),
		cel.Variable("containerd", cel.StringType),
		cel.Variable("network_manager", cel.BoolType),
		cel.Variable("firewalld", cel.BoolType),
		cel.Variable("selinux", cel.StringType),
		cel.Variable("read_only_sysctls", cel.ListType(cel.StringType)),
		cel.Variable("storage", cel.StringType),
		cel.Variable("privileged", cel.BoolType),
		cel.Variable("apparmor", cel.BoolType),
		cel.Variable("capabilities", cel.ListType(cel.StringType)),
		cel.Variable("variants", cel.ListType(cel.StringType)),
		cel.Variable("proxy_mode", cel.StringType),
		cel.Variable("lxc_cgroup1_keys", cel.BoolType),
		cel.Variable("feature_gates", cel.ListType(cel.StringType)),
		cel.Function("atLeast",
			cel.Overload("atLeast_string_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
				cel.BinaryBinding(atLeast))),
		cel.ASTValidators(cel.ValidateRegexLiterals()),
	)
	if err != nil {
		return nil, fmt.Errorf("set up conditions: %w", err)
	}
	return &compiler{env: env}, nil
}

// compile checks an expression as far as it can be checked without facts. An
// empty one is always true.
func (c *compiler) compile(source string) (*Condition, error) {
	source = strings.TrimSpace(source)
	if source == "" {
		return &Condition{}, nil
	}
	checked, issues := c.env.Compile(source)
	if issues.Err() != nil {
		var problems []string
		for _, e := range issues.Errors() {
			problems = append(problems, fmt.Sprintf("%s (at %d:%d of the condition)", e.Message, e.Location.Line(), e.Location.Column()+1))
		}
		return nil, fmt.Errorf("condition %q: %s", source, strings.Join(problems, "; "))
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("condition %q: is a %s, want a bool", source, t)
	}
	if err := lint(checked.NativeRep()); err != nil {
		return nil, fmt.Errorf("condition %q: %w", source, err)
	}
	program, err := c.env.Program(checked, cel.EvalOptions(cel.OptPartialEval), cel.CostLimit(10_000))
	if err != nil {
		return nil, fmt.Errorf("condition %q: %w", source, err)
	}
	return &Condition{source: source, env: c.env, program: program, facts: factsIn(checked.NativeRep()), tree: checked.NativeRep()}, nil
}

// factsIn lists the facts that an expression names, sorted.
func factsIn(tree *ast.AST) []string {
	var names []string
	for _, e := range ast.MatchDescendants(ast.NavigateAST(tree), ast.KindMatcher(ast.IdentKind)) {
		if ref, ok := tree.ReferenceMap()[e.ID()]; ok && ref.Name == e.AsIdent() {
			names = append(names, e.AsIdent())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// lint finds literals that could never match: versions that are none, and
// misspelt words.
func lint(tree *ast.AST) error {
	var problems []error
	root := ast.NavigateAST(tree)
	for _, call := range ast.MatchDescendants(root, ast.FunctionMatcher("atLeast")) {
		if lit, ok := literal(call.AsCall().Args()[1]); ok {
			switch _, partly, err := parseVersion(lit); {
			case err != nil:
				problems = append(problems, err)
			case partly:
				problems = append(problems, fmt.Errorf("%q is not one version; leave .x out", lit))
			}
		}
	}
	for _, op := range []string{"_==_", "_!=_"} {
		for _, call := range ast.MatchDescendants(root, ast.FunctionMatcher(op)) {
			args := call.AsCall().Args()
			for i, arg := range args {
				problems = append(problems, misspelt(arg, args[1-i])...)
			}
		}
	}
	for _, call := range ast.MatchDescendants(root, ast.FunctionMatcher("@in")) {
		if args := call.AsCall().Args(); args[1].Kind() == ast.ListKind {
			problems = append(problems, misspelt(args[0], args[1].AsList().Elements()...)...)
		}
	}
	return errors.Join(problems...)
}

// misspelt finds the literals that a fact which is compared with them never is.
func misspelt(fact ast.Expr, with ...ast.Expr) []error {
	known := words(fact.AsIdent())
	var problems []error
	for _, e := range with {
		if lit, ok := literal(e); ok && known != nil && !slices.Contains(known, lit) {
			problems = append(problems, fmt.Errorf("%s is never %q, only one of %s", fact.AsIdent(), lit, strings.Join(known, ", ")))
		}
	}
	return problems
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// atLeast compares the leading numeric parts of two versions, so that a
// kernel's "6.18.44-cloud" and a package's "1.7.24~ds1" have a place. What
// follows the numbers is ignored, a missing part counts as zero, and so
// 1.36.0-alpha.1 is at least 1.36. What hangs on the part that ".x" leaves open
// is unknown: 7.x is at least 6.12, not at least 8, and perhaps at least 7.1.
func atLeast(have, want ref.Val) ref.Val {
	a, partly, err := parseVersion(string(have.(types.String)))
	if err != nil {
		return types.WrapErr(err)
	}
	b, _, err := parseVersion(string(want.(types.String)))
	if err != nil {
		return types.WrapErr(err)
	}
	for i := range max(len(a), len(b)) {
		switch x, y := part(a, i), part(b, i); {
		case partly && i >= len(a) && y > 0:
			return types.NewUnknown(0, types.NewAttributeTrail(fmt.Sprintf("which %s it is", have.Value())))
		case x != y:
			return types.Bool(x > y)
		}
	}
	return types.True
}

// someOf is a version of which no more is known than how it begins.
func someOf(version string) string { return version + ".x" }

func part(v []int, i int) int {
	if i < len(v) {
		return v[i]
	}
	return 0
}

// parseVersion reads the leading numeric parts; partly says that ".x" follows
// them.
func parseVersion(s string) (parts []int, partly bool, err error) {
	rest := strings.TrimPrefix(s, "v")
	for {
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			break
		}
		n, err := strconv.Atoi(rest[:end])
		if err != nil {
			return nil, false, fmt.Errorf("%q is not a version: %w", s, err)
		}
		parts = append(parts, n)
		rest = rest[end:]
		if !strings.HasPrefix(rest, ".") {
			break
		}
		rest = rest[1:]
	}
	if len(parts) == 0 {
		return nil, false, fmt.Errorf("%q is not a version: want it to begin with numbers, as 1.35 or 6.12.8-arm64", s)
	}
	return parts, rest == "x", nil
}
