package redact

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Site is what is known of where a run was made, and by whom. Empty words, and
// paths that every machine has (of one element), hide nothing.
type Site struct {
	// Hosts are names of machines and domains, Users of people. Whatever ends with
	// a domain is hidden with it.
	Hosts, Users []string
	// Paths are absolute: what is below one is seen, but not where that is.
	Paths []string
	// Words are hidden wherever they are.
	Words []string
	// Public are the hosts whose names may stay in URLs; those below them, too.
	Public []string
	// Keep are words that stay although they are among those above: a machine that
	// is called debian is no reason to hide an OS.
	Keep []string
}

var (
	homeFolder = regexp.MustCompile(`(/home/|/Users/)([^/\s"'\\:;,<>|]+)`)
	urlHost    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)(?:[^@/\s"']*@)?([A-Za-z0-9][A-Za-z0-9.-]*)`)
	mail       = regexp.MustCompile(`[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+`)
	mac        = regexp.MustCompile(`\b[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}\b`)
	// What these match is an address only if it can be read as one.
	ipv4 = regexp.MustCompile(`[0-9A-Za-z.]*[0-9]\.[0-9A-Za-z.]*`)
	ipv6 = regexp.MustCompile(`[0-9A-Za-z:.]*:[0-9A-Za-z:.]*`)
)

// standsIn matches the words that hide others.
var standsIn = regexp.MustCompile(`^(?:address|host|mac|path|user|word)-[0-9]+$`)

// Hide returns what removes secrets from texts, as Text does, and what tells the
// site from any other: names of hosts and users, addresses but those of loopback,
// and where folders are. One thing is always replaced by the same word, so that a
// text still tells who did what. It may be used by several goroutines.
func (s Site) Hide() func(text string) string {
	h := &hider{site: s, given: map[string]string{}, counts: map[string]int{}}
	known := func(kind string, words []string, pattern func(string) string) {
		words = slices.DeleteFunc(slices.Clone(words), func(w string) bool {
			return w == "" || slices.ContainsFunc(s.Keep, func(k string) bool { return strings.EqualFold(k, w) })
		})
		// The longest first: one may begin with another.
		slices.SortFunc(words, func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) })
		for _, w := range slices.Compact(words) {
			h.known = append(h.known, knownWord{kind, regexp.MustCompile(pattern(regexp.QuoteMeta(w)))})
		}
	}
	const before, after = `(?i)(^|[^a-z0-9-])`, `($|[^a-z0-9-])`
	whole := func(w string) string { return before + "(" + w + ")" + after }
	known("path", slices.DeleteFunc(slices.Clone(s.Paths), func(p string) bool { return strings.Count(strings.TrimSuffix(p, "/"), "/") < 2 }),
		func(w string) string { return `(^|[^A-Za-z0-9._/-])(` + w + `)($|[^A-Za-z0-9._-])` })
	known("host", s.Hosts, func(w string) string { return before + `((?:[a-z0-9-]+\.)*` + w + ")" + after })
	known("user", s.Users, whole)
	known("word", s.Words, whole)
	return h.text
}

// knownWord is a word that is known; its pattern has what is before it and after
// it as groups.
type knownWord struct {
	kind    string
	pattern *regexp.Regexp
}

type hider struct {
	site  Site
	known []knownWord

	mu sync.Mutex
	// given are the words that stand for what is hidden.
	given  map[string]string
	counts map[string]int
}

// stands is the word for something of a kind; for one that stands for something
// already it is that.
func (h *hider) stands(kind, what string) string {
	if standsIn.MatchString(what) {
		return what
	}
	key := kind + " " + strings.ToLower(what)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.given[key] == "" {
		h.counts[kind]++
		h.given[key] = fmt.Sprintf("%s-%d", kind, h.counts[kind])
	}
	return h.given[key]
}

func (h *hider) text(text string) string {
	text = String(text)
	for _, w := range h.known {
		// What ends one match may begin the next.
		for range 2 {
			text = groups(w.pattern, text, func(g []string) string { return g[1] + h.stands(w.kind, g[2]) + g[3] })
		}
	}
	text = groups(homeFolder, text, func(g []string) string { return g[1] + h.stands("user", g[2]) })
	text = groups(urlHost, text, func(g []string) string {
		if h.stays(g[2]) {
			return g[0]
		}
		return g[1] + h.stands("host", g[2])
	})
	text = mail.ReplaceAllStringFunc(text, func(m string) string { return h.stands("user", m) })
	text = mac.ReplaceAllStringFunc(text, func(m string) string { return h.stands("mac", m) })
	text = ipv6.ReplaceAllStringFunc(text, h.address)
	return ipv4.ReplaceAllStringFunc(text, h.address)
}

// groups replaces each match by what is made of its groups.
func groups(re *regexp.Regexp, text string, with func(g []string) string) string {
	return re.ReplaceAllStringFunc(text, func(m string) string {
		g := re.FindStringSubmatch(m)
		if g == nil {
			return m
		}
		return with(g)
	})
}

// stays says whether the name of a URL's host may stay: it is public, a cluster's
// own, or an address, which is looked at by itself.
func (h *hider) stays(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(append([]string{"svc", "cluster.local", "lxcmatrix.internal", "lxcmatrix.dev"}, h.site.Public...), func(public string) bool {
		return name == public || strings.HasSuffix(name, "."+public)
	})
}

// address hides an address, with the port behind it left as it is.
func (h *hider) address(text string) string {
	word := strings.TrimRight(text, ":.")
	rest := text[len(word):]
	if host, port, found := strings.Cut(word, ":"); found && strings.Count(word, ":") == 1 {
		word, rest = host, ":"+port+rest
	}
	at, err := netip.ParseAddr(word)
	if err != nil || at.IsLoopback() || at.IsUnspecified() || at.IsMulticast() {
		return text
	}
	return h.stands("address", at.String()) + rest
}
