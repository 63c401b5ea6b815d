package redact

import (
	"bytes"
	"regexp"
	"strings"
)

// secretName ends the name of a value that is secret.
const secretName = `(?:token|passw(?:or)?d|passphrase|secret|(?:api|access|secret|private|certificate)[_-]?key|client-key-data|[_-]pass|credential)`

var (
	wholeName = regexp.MustCompile(`(?i)^[A-Za-z0-9_./-]*` + secretName + `$`)
	// The forms in which a name is followed by its value on one line.
	jsonValue   = regexp.MustCompile(`(?i)(` + secretName + `"[ \t]*:[ \t]*")((?:[^"\\]|\\.)*)(")`)
	quotedJSON  = regexp.MustCompile(`(?i)(` + secretName + `\\+"[ \t]*:[ \t]*\\+")([^"\\]*)(\\+")`)
	jsonPair    = regexp.MustCompile(`(?i)("name"[ \t]*:[ \t]*"[A-Za-z0-9_.-]*` + secretName + `"[ \t]*,[ \t]*"value"[ \t]*:[ \t]*")((?:[^"\\]|\\.)*)(")`)
	envLine     = regexp.MustCompile(`(?i)^([ \t]*(?:export[ \t]+)?[A-Z0-9_]*` + secretName + `=)(.*?)(\r?)$`)
	assigned    = regexp.MustCompile(`(?i)(` + secretName + `["']?=)(\\+"[^"\\]*\\+"|"[^"]*"|'[^']*'|[^\s&"']+)()`)
	flag        = regexp.MustCompile(`(?i)((?:^|[\s"'(\[])--?[a-z-]*` + secretName + `[ \t]+)("[^"]*"|'[^']*'|[^\s"'-][^\s"']*)()`)
	flagInArray = regexp.MustCompile(`(?i)(--?[a-z-]*` + secretName + `["'],[ \t]*["'])([^"']*)(["'])`)
	password    = regexp.MustCompile(`(?i)((?:passw(?:or)?d|passphrase)["']?:[ \t]?["']?)([^\s"'\]}]+)()`)
	inProse     = regexp.MustCompile(`(?i)(` + secretName + `["']?:[ \t]?["']?)([A-Za-z0-9+/_=.~-]{8,})()`)

	jwt           = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*`)
	serverToken   = regexp.MustCompile(`K10[0-9a-f]{64}::[^\s"']+`)
	authorization = regexp.MustCompile(`(?i)(authorization["'\\]*[ \t]*[:=][ \t]*[\["'\\]*(?:basic|bearer|token|digest|negotiate)[ \t]+)([^\s"'\]\\]+)()`)
	header        = regexp.MustCompile(`(?i)^([<> \t]*(?:proxy-)?authorization:[ \t]+)([^\s{\[][^\r]*)(\r?)$`)
	bearer        = regexp.MustCompile(`(?i)(bearer[ \t]+)([A-Za-z0-9._~+/=-]+)()`)
	urlPassword   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://[^:/\s"'@]*:)([^/\s"']+)(@)`)
	urlUser       = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)([^:/\s"'@]+)(@)`)

	// certificateKey can be on the next line, after what a log begins its lines with.
	certificateKey = regexp.MustCompile(`(?i)(certificate[ _-]?key["']?\s*[:= ]\s*["']?|certificate key:[ \t]*\r?\n[^\n]{0,200}?\b)([0-9a-f]{64})()`)
)

// replace replaces the second group of each match where secret says so.
func replace(re *regexp.Regexp, line []byte, secret func(value string) bool) []byte {
	return re.ReplaceAllFunc(line, func(m []byte) []byte {
		g := re.FindSubmatch(m)
		if g == nil || !secret(string(g[2])) {
			return m
		}
		value := []byte(Mark)
		// Quotes that belong to the value stay.
		for _, q := range []byte{'"', '\''} {
			if v := bytes.TrimLeft(g[2], `\`); len(v) > 1 && v[0] == q {
				open := g[2][:len(g[2])-len(v)+1]
				value = append(append(bytes.Clone(open), Mark...), open...)
			}
		}
		return append(append(bytes.Clone(g[1]), value...), g[3]...)
	})
}

// telling is false for values that say nothing secret, and may help.
func telling(value string) bool {
	switch strings.ToLower(strings.Trim(value, `"',`)) {
	case "", "true", "false", "null", "nil", "none", "~", "{", "[", "{}", "[]", "<nil>", "<none>", "<masked>", strings.ToLower(Mark):
		return false
	}
	return true
}

// random is true for values that look made by a machine, not words of prose.
func random(value string) bool {
	return strings.ContainsAny(value, "0123456789") && !strings.HasPrefix(value, "/")
}

// hasAny is a cheap look, before the expensive ones, at a line in lower case.
func hasAny(lower []byte, words ...string) bool {
	for _, w := range words {
		if bytes.Contains(lower, []byte(w)) {
			return true
		}
	}
	return false
}

// namesSecret is true for every line, in lower case, in which secretName can
// match.
func namesSecret(lower []byte) bool {
	return hasAny(lower, "token", "pass", "secret", "key", "credential")
}

// named removes values whose name says that they are secret.
func named(line []byte) []byte {
	if !namesSecret(bytes.ToLower(line)) {
		return line
	}
	for _, re := range []*regexp.Regexp{jsonValue, quotedJSON, jsonPair, envLine, assigned, flagInArray, flag, password} {
		line = replace(re, line, telling)
	}
	return replace(inProse, line, random)
}

// namedLines removes such values where they have lines of their own: entries
// of YAML and indented JSON, block scalars among them, and the value of a pair
// of name and value as containers' environments have it.
func namedLines(lines [][]byte) [][]byte {
	var out [][]byte
	secretPair := -1 // the indentation at which a value would be secret
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		var e entry
		ok := secretPair >= 0 || namesSecret(bytes.ToLower(line))
		if ok {
			e, ok = parseEntry(line)
		}
		if !ok {
			out = append(out, line)
			if depth(line) >= 0 {
				secretPair = -1
			}
			continue
		}
		rest := e.rest(line)
		named := wholeName.MatchString(e.key) || e.key == "value" && e.indent == secretPair
		secretPair = -1
		if e.key == "name" && wholeName.MatchString(strings.Trim(rest, `"',`)) {
			secretPair = e.indent
		}
		if !named || !telling(rest) {
			out = append(out, line)
			continue
		}
		out = append(out, replaceValue(line, e))
		// What is deeper is more of the value.
		i = deeperEnd(lines, i, e.indent) - 1
	}
	return out
}

// tokens removes what is recognised as a secret by its own form.
func tokens(line []byte) []byte {
	always := func(string) bool { return true }
	line = bootstrapTokens(line)
	if bytes.Contains(line, []byte("eyJ")) {
		line = jwt.ReplaceAll(line, []byte(Mark))
	}
	if bytes.Contains(line, []byte("K10")) {
		line = serverToken.ReplaceAll(line, []byte(Mark))
	}
	if bytes.Contains(line, []byte("://")) {
		line = replace(urlPassword, line, always)
		line = replace(urlUser, line, random)
	}
	lower := bytes.ToLower(line)
	if hasAny(lower, "authorization") {
		line = replace(authorization, line, telling)
		line = replace(header, line, always)
	}
	if !hasAny(lower, "bearer") {
		return line
	}
	return replace(bearer, line, func(v string) bool { return random(v) || len(v) >= 20 })
}

// bootstrapTokens removes kubeadm's: six and sixteen characters around a dot.
func bootstrapTokens(line []byte) []byte {
	const id, secret = 6, 16
	var out []byte
	done := 0
	for dot := id; dot+secret < len(line); dot++ {
		if line[dot] != '.' || dot-id < done || !lowerAlnum(line[dot-id:dot]) || !lowerAlnum(line[dot+1:dot+1+secret]) {
			continue
		}
		if dot-id > 0 && alnum(line[dot-id-1]) || dot+1+secret < len(line) && alnum(line[dot+1+secret]) {
			continue
		}
		out = append(append(out, line[done:dot-id]...), Mark...)
		done = dot + 1 + secret
	}
	return append(out, line[done:]...)
}

func lowerAlnum(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' && c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// certificateKeys removes kubeadm's, which it prints on a line after their
// name. Other SHA-256 sums stay.
func certificateKeys(text []byte) []byte {
	return replace(certificateKey, text, func(string) bool { return true })
}
