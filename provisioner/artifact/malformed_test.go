package artifact

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/golden"
)

// TestMalformed: what is wrong with a lock, with checksums and with a channel
// server's document is said, with where it lies.
func TestMalformed(t *testing.T) {
	dir := t.TempDir()
	var said strings.Builder
	tell := func(what, input string, err error) {
		message := "accepted"
		if err != nil {
			message = strings.ReplaceAll(err.Error(), dir+"/", "")
		}
		fmt.Fprintf(&said, "%s %.80q\n\t%q\n", what, input, message)
	}
	const version = "apiVersion: " + lockAPIVersion + "\n"
	sum := strings.Repeat("ab", 32)
	for _, text := range []string{"", "\x00", "- a\n", "a", "apiVersion: x\n", "versions: {}\n", version + "versions: []\n", version + "versions: {k3s@stable: [1]}\n",
		version + "files: {u: {sha256: ab}}\n", version + "files: {u: {sha256: " + strings.ToUpper(sum) + "}}\n", version + "files: {u: {sha256: " + sum + ", size: many}}\n",
		version + "files: {u: " + sum + "}\n", version + "more: 1\n", version + version, version + "versions: {a: &a b, c: *d}\n", version + "versions:\n\ta: b\n"} {
		path := filepath.Join(dir, LockName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadLock(path)
		tell("lock", text, err)
	}
	for _, text := range []string{"", "<html>404</html>", "ab", sum[1:], strings.ToUpper(sum), sum + "  other\n", sum + "k3s\n", "k3s " + sum, "SHA256 (k3s) = " + sum, sum + "  dir/k3s", "\x00" + sum} {
		_, err := newRemote(SourceUpstream, oneText(text)).checksum(t.Context(), download{URL: "https://a.example/v1/k3s", Checksums: "https://a.example/v1/sums"})
		tell("checksums", text, err)
	}
	for _, text := range []string{"", "null", "[]", "{}", `{"data":{}}`, `{"data":[]}`, `{"data":[{}]}`, `{"data":[{"id":"latest","latest":"v1"}]}`, `{"data":[{"id":"stable"}]}`,
		`{"data":[{"id":"stable"},{"name":"stable"}]}`, `{"data":[{"id":"stable","latest":1}]}`, `{"data":[{"id":"stable","latest":"v1"}]`, "<html>"} {
		_, err := channelLatest(text, "stable")
		tell("channels", text, err)
	}
	u := upstream{Distro: "k3s", Suffix: "k3s"}
	for _, text := range []string{"", "1", "1.34", "v1.34.2", "1.34.2", "1.34.2+k3s", "1.34.2+rke2r1", "1.34.2+k3s1.2", "1.34.x", "1.34.2-rc1+", "01.34.2+k3s1", "99999999999999999999.1.1+k3s1"} {
		_, err := u.exact(text)
		tell("version", text, err)
	}
	golden.Assert(t, said.String(), "malformed.golden")
}
