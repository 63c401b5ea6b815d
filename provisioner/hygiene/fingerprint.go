package hygiene

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// The kinds of things that are looked at.
const (
	Sysctl    = "sysctl"
	Module    = "module"
	Interface = "interface"
	AppArmor  = "apparmor"
	Nftables  = "nftables"
	Iptables  = "iptables"
)

// kinds in the order that changes are told in: first what can be undone.
var kinds = []string{Sysctl, Module, AppArmor, Nftables, Iptables, Interface}

// Fingerprint is what a host had when it was looked at.
type Fingerprint struct {
	// boot is the machine's boot ID.
	boot string
	// has holds, by kind and name, the values. What is there or not has none,
	// but a rule that is there more than once.
	has map[string]map[string]string
	// unseen holds why a kind could not be seen.
	unseen map[string]string
}

//go:embed look.sh
var lookScript string

// Look fingerprints a host by one command, of well under a tenth of a second
// on ordinary machines. An error means that nothing is known.
func Look(ctx context.Context, exec provisioner.HostExec) (Fingerprint, error) {
	return lookBelow(ctx, exec, "")
}

// lookBelow is Look at a machine whose root is a folder.
func lookBelow(ctx context.Context, exec provisioner.HostExec, root string) (Fingerprint, error) {
	args := append([]string{"sh", "-c", lookScript, "look"}, findArguments()...)
	out, err := exec.Run(ctx, provisioner.Command{Args: args, Env: map[string]string{"ROOT": root}})
	if err != nil {
		return Fingerprint{}, fmt.Errorf("look at the host: %w", err)
	}
	f, err := parse(out.Stdout)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("look at the host: %w", err)
	}
	return f, nil
}

// parse reads what the script printed.
func parse(printed string) (Fingerprint, error) {
	f := Fingerprint{has: map[string]map[string]string{}, unseen: map[string]string{}}
	for _, kind := range kinds {
		f.has[kind] = map[string]string{}
	}
	section, ended := "", false
	var rules ruleReader
	for line := range strings.Lines(printed) {
		line = strings.TrimRight(line, "\n")
		if head, ok := strings.CutPrefix(line, "== "); ok {
			section, rules = head, ruleReader{}
			ended = head == "end"
			if said, ok := strings.CutPrefix(head, "unseen "); ok {
				kind, why, _ := strings.Cut(said, ": ")
				f.unseen[kind] = why
			}
			continue
		}
		kind, family, _ := strings.Cut(section, " ")
		switch {
		case strings.TrimSpace(line) == "":
		case kind == "boot":
			f.boot = strings.TrimSpace(line)
		case kind == Sysctl:
			f.sysctl(line)
		case kind == Module, kind == Interface:
			f.add(kind, line, "")
		case kind == AppArmor:
			name, mode, _ := cutLast(line, " (")
			f.add(kind, name, strings.TrimSuffix(mode, ")"))
		case kind == Nftables:
			f.count(kind, rules.nft(line))
		case kind == Iptables:
			name, value := rules.iptables(family, line)
			if value != "" {
				f.add(kind, name, value)
			} else {
				f.count(kind, name)
			}
		}
	}
	if !ended || f.boot == "" || len(f.has[Sysctl]) == 0 {
		return Fingerprint{}, fmt.Errorf("it did not say all that was asked, and ended with %q", last(printed))
	}
	return f, nil
}

func (f *Fingerprint) add(kind, name, value string) {
	if name != "" && !isIncusOwn(kind, name) {
		f.has[kind][name] = value
	}
}

// count is add for rules, which may be there more than once.
func (f *Fingerprint) count(kind, rule string) {
	times := ""
	if had, again := f.has[kind][rule]; again {
		n := 1
		_, _ = fmt.Sscanf(had, "%d times", &n)
		times = fmt.Sprintf("%d times", n+1)
	}
	f.add(kind, rule, times)
}

// sysctl reads "./vm/swappiness:60"; a value of several lines comes as several.
func (f *Fingerprint) sysctl(line string) {
	path, value, _ := strings.Cut(strings.TrimPrefix(line, "./"), ":")
	key := strings.ReplaceAll(path, "/", ".")
	value = strings.Join(strings.Fields(value), " ")
	if had, more := f.has[Sysctl][key]; more {
		value = had + "; " + value
	}
	f.has[Sysctl][key] = value
}

// ruleReader reads rule sets line by line.
type ruleReader struct{ within []string }

// nft reads a line of nft's list: a rule, or anything else in a block, becomes
// "table inet filter chain input: tcp dport 22 accept"; the block itself, where
// it begins, "table inet filter chain input".
func (r *ruleReader) nft(line string) string {
	line = strings.TrimSpace(line)
	switch {
	case line == "}":
		r.within = r.within[:max(0, len(r.within)-1)]
		return ""
	case strings.HasSuffix(line, " {"):
		r.within = append(r.within, strings.TrimSuffix(line, " {"))
		return strings.Join(r.within, " ")
	}
	return strings.Join(r.within, " ") + ": " + line
}

// iptables reads a line of iptables-save. A chain's value is its policy.
func (r *ruleReader) iptables(family, line string) (name, value string) {
	switch {
	case strings.HasPrefix(line, "*"):
		r.within = []string{family, line[1:]}
	case strings.HasPrefix(line, ":"):
		chain, policy, _ := strings.Cut(line[1:], " ")
		policy, _, _ = strings.Cut(policy, " ")
		name = strings.Join(append(slices.Clone(r.within), "chain", chain), " ")
		// A chain of the user's own has none.
		if policy == "-" {
			return name, ""
		}
		return name, "policy " + policy
	case strings.HasPrefix(line, "-"):
		return strings.Join(append(slices.Clone(r.within), line), " "), ""
	}
	return "", ""
}

// Diff is what is not in after as it was in before, by kind and name. What
// either did not see is not compared; sysctls are compared where both have
// them, since those that come or go do so with a module, which is told.
func Diff(before, after Fingerprint) []matrix.HostChange {
	var changes []matrix.HostChange
	for _, kind := range kinds {
		if before.unseen[kind] != "" || after.unseen[kind] != "" {
			continue
		}
		had, has := before.has[kind], after.has[kind]
		names := slices.AppendSeq(slices.Collect(maps.Keys(had)), maps.Keys(has))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			was, there := had[name]
			is, stays := has[name]
			c := matrix.HostChange{Kind: kind, What: name, Before: was, After: is}
			switch {
			case there && stays && was == is, kind == Sysctl && there != stays:
				continue
			case !there:
				c.Change = Added
			case !stays:
				c.Change = Removed
			default:
				c.Change = Changed
			}
			changes = append(changes, c)
		}
	}
	return changes
}

// What a change is.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// holds says whether a change still is as it was left.
func (f Fingerprint) holds(c matrix.HostChange) bool {
	is, there := f.has[c.Kind][c.What]
	if f.unseen[c.Kind] != "" {
		return true
	}
	return there == (c.Change != Removed) && is == c.After
}

// unseenBy says what either of two looks did not see.
func unseenBy(before, after Fingerprint) (said []string) {
	for _, kind := range kinds {
		if why := before.unseen[kind]; why != "" {
			said = append(said, kind+": "+why)
		} else if why := after.unseen[kind]; why != "" {
			said = append(said, kind+": "+why)
		}
	}
	return said
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func last(printed string) string {
	lines := strings.Split(strings.TrimSpace(printed), "\n")
	return lines[len(lines)-1]
}
