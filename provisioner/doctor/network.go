package doctor

import (
	"bufio"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

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
	chains := forwardDrops(ruleset)
	if legacy, found := m.look("iptables-legacy"); found {
		if out, err := m.Runner.Run(ctx, Command{Args: []string{legacy, "-S"}}); err == nil && strings.Contains(out, "-P FORWARD DROP") && !legacyAllows(out, opts.Bridge) {
			chains = append(chains, "iptables-legacy FORWARD")
		}
	}
	if len(chains) == 0 {
		return ok("firewall", "nothing drops what is forwarded by default")
	}
	if opts.Bridge != "" && !slices.Contains(chains, "iptables-legacy FORWARD") && allows(ruleset, opts.Bridge) {
		return ok("firewall", "%s drops what is forwarded by default, and lets %s through", strings.Join(chains, ", "), opts.Bridge)
	}
	f := Finding{ID: "firewall", Severity: Problem,
		What: fmt.Sprintf("%s drops what is forwarded by default (Docker sets this), which cuts nodes off from each other and from outside", strings.Join(chains, ", "))}
	bridge := opts.Bridge
	if bridge == "" {
		bridge = "BRIDGE"
	}
	iptables, hasIptables := m.look("iptables")
	chain := "FORWARD"
	if strings.Contains(ruleset, "chain DOCKER-USER") {
		// Docker never touches this chain; what is in FORWARD it reorders.
		chain = "DOCKER-USER"
	}
	commands := [][]string{
		{iptables, "-I", chain, "-i", bridge, "-j", "ACCEPT"},
		{iptables, "-I", chain, "-o", bridge, "-j", "ACCEPT"},
	}
	f.Remedy = fmt.Sprintf("iptables -I %s -i %s -j ACCEPT; iptables -I %s -o %s -j ACCEPT; or start Docker with --iptables=false", chain, bridge, chain, bridge)
	if hasIptables && opts.Bridge != "" {
		f.Fixable, f.repair.commands = true, commands
	}
	return []Finding{f}
}

var (
	nftTable = regexp.MustCompile(`^table (\S+) (\S+) \{`)
	nftChain = regexp.MustCompile(`^\s*chain (\S+) \{`)
	nftDrop  = regexp.MustCompile(`hook forward .*policy drop`)
)

// forwardDrops names the base chains that drop what is forwarded: a packet
// must get past every one of them. Bridges of IPv4 are what counts here.
func forwardDrops(ruleset string) []string {
	var table, chain string
	var out []string
	scan := bufio.NewScanner(strings.NewReader(ruleset))
	for scan.Scan() {
		line := scan.Text()
		if match := nftTable.FindStringSubmatch(line); match != nil {
			table = match[1] + " " + match[2]
		} else if match := nftChain.FindStringSubmatch(line); match != nil {
			chain = match[1]
		} else if nftDrop.MatchString(line) && (strings.HasPrefix(table, "ip ") || strings.HasPrefix(table, "inet ")) {
			out = append(out, fmt.Sprintf("table %s chain %s", table, chain))
		}
	}
	return out
}

// allows says whether the rules accept what comes from and goes to a bridge.
func allows(ruleset, bridge string) bool {
	in := regexp.MustCompile(`iifname "` + regexp.QuoteMeta(bridge) + `" .*accept`)
	out := regexp.MustCompile(`oifname "` + regexp.QuoteMeta(bridge) + `" .*accept`)
	return in.MatchString(ruleset) && out.MatchString(ruleset)
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
