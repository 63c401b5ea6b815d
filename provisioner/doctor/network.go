package doctor

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// embeddedBridges are the bridges of embedded hosts, all of whose names begin
// so.
const embeddedBridges = "lxcm+"

// firewall looks whether nftables works here and whether something drops what
// is forwarded between bridges, as Docker does.
func (m Machine) firewall(ctx context.Context, opts Options) []Finding {
	nft, found := m.look("nft")
	if !found || m.UID != 0 {
		return warning("firewall", "examine again as root with nftables installed", "the firewall could not be read")
	}
	ruleset, err := m.Runner.Run(ctx, Command{Args: []string{nft, "list", "ruleset"}})
	if err != nil {
		return problem("firewall", "use a kernel that has nf_tables", "nftables does not answer: %v", err)
	}
	chains, passed := forwardDrops(ruleset, opts.Bridge)
	var tools []string
	legacyRules := ""
	if iptables, found := m.look("iptables"); found && len(chains) > 0 {
		tools = append(tools, iptables)
	}
	fixable := len(tools) > 0 || len(chains) == 0
	if legacy, found := m.look("iptables-legacy"); found {
		if out, err := m.Runner.Run(ctx, Command{Args: []string{legacy, "-S"}}); err == nil && strings.Contains(out, "-P FORWARD DROP") {
			if legacyAllows(out, opts.Bridge) {
				passed = append(passed, "iptables-legacy FORWARD")
			} else {
				chains = append(chains, "iptables-legacy FORWARD")
				tools, legacyRules = append(tools, legacy), out
			}
		}
	}
	switch {
	case len(chains) > 0:
	case len(passed) > 0:
		return ok("firewall", "%s drops what is forwarded by default, and lets %s through", strings.Join(passed, ", "), opts.Bridge)
	default:
		return ok("firewall", "nothing drops what is forwarded by default")
	}
	f := Finding{ID: "firewall", Severity: Problem,
		What: fmt.Sprintf("%s drops what is forwarded by default (Docker sets this), which cuts nodes off from each other and from outside", strings.Join(chains, ", "))}
	bridge := opts.Bridge
	if bridge == "" {
		bridge = "BRIDGE"
	}
	chain := "FORWARD"
	if strings.Contains(ruleset+legacyRules, "DOCKER-USER") {
		// Docker never touches this chain; what is in FORWARD it reorders.
		chain = "DOCKER-USER"
	}
	f.Remedy = fmt.Sprintf("iptables -I %s -i %s -j ACCEPT; iptables -I %s -o %s -j ACCEPT; or start Docker with --iptables=false", chain, bridge, chain, bridge)
	if fixable && opts.Bridge != "" {
		f.Fixable = true
		for _, tool := range tools {
			f.repair.commands = append(f.repair.commands,
				[]string{tool, "-I", chain, "-i", bridge, "-j", "ACCEPT"},
				[]string{tool, "-I", chain, "-o", bridge, "-j", "ACCEPT"})
		}
	}
	return []Finding{f}
}

var (
	nftTable = regexp.MustCompile(`^table (\S+) (\S+) \{`)
	nftChain = regexp.MustCompile(`^\s*chain (\S+) \{`)
	nftDrop  = regexp.MustCompile(`hook forward .*policy drop`)
)

// forwardDrops names the base chains of IPv4 that drop what is forwarded, those
// whose table lets the bridge through apart: a packet must get past every one
// of them, and what Incus' own table accepts is still dropped by another.
func forwardDrops(ruleset, bridge string) (drops, passes []string) {
	var table, chain string
	var dropping []string
	var in, out bool
	end := func() {
		if in && out {
			passes = append(passes, dropping...)
		} else {
			drops = append(drops, dropping...)
		}
		dropping, in, out = nil, false, false
	}
	name := regexp.QuoteMeta(strings.TrimSuffix(bridge, "+"))
	if strings.HasSuffix(bridge, "+") {
		name += `\*`
	}
	accepts := func(direction, line string) bool {
		return bridge != "" && regexp.MustCompile(direction+`ifname "`+name+`" (counter \S+ \S+ \S+ \S+ )?accept`).MatchString(line)
	}
	for line := range strings.Lines(ruleset) {
		if match := nftTable.FindStringSubmatch(line); match != nil {
			end()
			table = match[1] + " " + match[2]
		} else if match := nftChain.FindStringSubmatch(line); match != nil {
			chain = match[1]
		} else if nftDrop.MatchString(line) && (strings.HasPrefix(table, "ip ") || strings.HasPrefix(table, "inet ")) {
			dropping = append(dropping, fmt.Sprintf("table %s chain %s", table, chain))
		}
		in, out = in || accepts("i", line), out || accepts("o", line)
	}
	end()
	return drops, passes
}

func legacyAllows(rules, bridge string) bool {
	return bridge != "" && strings.Contains(rules, "-i "+bridge+" -j ACCEPT") && strings.Contains(rules, "-o "+bridge+" -j ACCEPT")
}

func (m Machine) forwarding(context.Context, Options) []Finding {
	if text, _ := m.read("/proc/sys/net/ipv4/ip_forward"); text == "1" {
		return ok("ip_forward", "IPv4 is forwarded")
	}
	return ok("ip_forward", "IPv4 is not forwarded yet; Incus turns it on with its bridge")
}

func (m Machine) dns(context.Context, Options) []Finding {
	var findings []Finding
	resolv, _ := m.read("/etc/resolv.conf")
	servers := 0
	for line := range strings.Lines(resolv) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			servers++
		}
	}
	if servers == 0 {
		findings = append(findings, warning("dns", "name a server in /etc/resolv.conf, if this machine is to download anything", "/etc/resolv.conf names no server")...)
	} else {
		findings = append(findings, ok("dns", "/etc/resolv.conf names %d server(s)", servers)...)
	}
	// Local address 0.0.0.0, port 53 in hex, as the kernel prints it.
	if udp, _ := m.read("/proc/net/udp"); strings.Contains(udp, " 00000000:0035 ") {
		findings = append(findings, warning("dns-port", "bind that server to its own addresses (dnsmasq: bind-interfaces)",
			"a DNS server holds port 53 on every address: the bridge's dnsmasq may not start")...)
	}
	return findings
}

// systemSocket is where Debian's Incus listens.
const systemSocket = "/var/lib/incus/unix.socket"

func (m Machine) incus(_ context.Context, opts Options) []Finding {
	there := m.exists(systemSocket)
	switch {
	case opts.HostDriver == "local" && !there:
		return problem("incus", "start it: systemctl start incus; incus admin init --minimal", "the matrix names the system's Incus, and it does not listen at %s", systemSocket)
	case opts.HostDriver == "local":
		return ok("incus", "the system's Incus listens at %s; its project lxcmatrix is used", systemSocket)
	case there:
		return ok("incus", "an Incus of the system's is there and is left alone")
	}
	return ok("incus", "no Incus of the system's runs, and none is needed")
}
