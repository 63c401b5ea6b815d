// Package redact removes secrets from text that is kept for reports: logs,
// command output, kubectl's YAML and JSON. It knows bootstrap, K3s and RKE2
// tokens, certificate keys, JWTs, bearer tokens and basic authentication, PEM
// private keys, kubeconfigs' keys, the data of Kubernetes Secrets, and values
// whose name says that they are secret. What helps to find a fault stays:
// certificates, digests, checksums, UIDs, file names, the names of secrets.
//
// In doubt it removes too much. It works on whole texts, not on streams: a
// Secret's kind comes after its data, and a private key spans lines.
package redact

import "bytes"

// Mark stands where a secret was.
const Mark = "REDACTED"

// Text returns text without its secrets. Text that was redacted already comes
// back as it is. The argument is not changed.
func Text(text []byte) []byte {
	// What is left after one round can look like a secret of another kind, so
	// rounds go on until nothing changes. Two are the rule.
	for range 8 {
		next := once(text)
		if bytes.Equal(next, text) {
			return next
		}
		text = next
	}
	return text
}

// String is Text for strings.
func String(text string) string { return string(Text([]byte(text))) }

func once(text []byte) []byte {
	text = privateKeys(text)
	lines := bytes.Split(text, []byte("\n"))
	lines = secretData(lines)
	for i, line := range lines {
		lines[i] = secretJSON(line)
	}
	lines = namedLines(lines)
	for i, line := range lines {
		lines[i] = tokens(named(line))
	}
	return certificateKeys(bytes.Join(lines, []byte("\n")))
}
