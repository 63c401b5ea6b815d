package redact

import (
	"bytes"
	"encoding/base64"
	"regexp"
)

var (
	keyBegin = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`)
	keyEnd   = regexp.MustCompile(`-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`)
	anyBegin = []byte("-----BEGIN ")
	// orphanEnd is the end of a key whose beginning was cut off.
	orphanEnd = regexp.MustCompile(`(?m)(?:^[ \t]*[A-Za-z0-9+/=]{8,}[ \t]*\r?\n)*[^\n]*-----END [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----`)
	// keyBody is what a line of a key can look like: base64 and nothing else,
	// a header, or a long run of base64 behind a log's prefix.
	keyBody = regexp.MustCompile(`^[ \t]*[A-Za-z0-9+/=]*[ \t\r"',]*$|^[ \t]*[A-Z][A-Za-z]+-[A-Z][A-Za-z]+: |[A-Za-z0-9+/]{40}`)
	// encodedPEM is a PEM block in base64, as kubeconfigs and Secrets hold it.
	encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/_-]+={0,2}`)
)

// keyMark stands for a whole private key.
const keyMark = Mark + " PRIVATE KEY"

// privateKeys removes private keys, whole: PEM blocks, those that are cut off
// at either end, and those in base64.
func privateKeys(text []byte) []byte {
	if bytes.Contains(text, []byte("PRIVATE KEY")) {
		text = pemKeys(text)
		text = orphanEnd.ReplaceAll(text, []byte(keyMark))
	}
	return encodedPEM.ReplaceAllFunc(text, func(m []byte) []byte {
		if isEncodedKey(m) {
			return []byte(Mark)
		}
		return m
	})
}

func pemKeys(text []byte) []byte {
	var out []byte
	for {
		begin := keyBegin.FindIndex(text)
		if begin == nil {
			return append(out, text...)
		}
		out = append(append(out, text[:begin[0]]...), keyMark...)
		rest := text[begin[1]:]
		end := keyEnd.FindIndex(rest)
		if next := bytes.Index(rest, anyBegin); end != nil && (next < 0 || end[0] < next) {
			text = rest[end[1]:]
			continue
		}
		text = rest[unfinishedKey(rest):]
	}
}

// unfinishedKey is how many bytes of rest belong to a key that has no end: the
// rest of its line, and the lines that can be a key's body.
func unfinishedKey(rest []byte) int {
	n := 0
	for i, line := range bytes.SplitAfter(rest, []byte("\n")) {
		body := bytes.TrimSuffix(line, []byte("\n"))
		if next := bytes.Index(body, anyBegin); next >= 0 {
			return n + next
		}
		if i > 0 && !keyBody.Match(body) {
			return n - 1 // the newline before stays
		}
		n += len(line)
	}
	return n
}

// isEncodedKey decodes the beginning of a base64 text, in which the PEM type
// is.
func isEncodedKey(b []byte) bool {
	head := bytes.TrimRight(b, "=")
	head = head[:min(len(head), 80)]
	head = head[:len(head)/4*4]
	plain, err := base64.RawStdEncoding.DecodeString(string(head))
	if err != nil {
		plain, err = base64.RawURLEncoding.DecodeString(string(head))
	}
	// What does not decode might be a key that was mangled.
	return err != nil || bytes.Contains(plain, []byte("PRIVATE KEY")) ||
		!bytes.Contains(bytes.TrimPrefix(plain, []byte("-----BEGIN")), []byte("-----"))
}
