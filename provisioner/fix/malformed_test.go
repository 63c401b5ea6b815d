package fix

import (
	"fmt"
	"strings"
	"testing"

	"gotest.tools/v3/golden"
)

// TestMalformedConditions: what is wrong with a condition is said in words that
// help, and where.
func TestMalformedConditions(t *testing.T) {
	compiler, err := newCompiler()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for _, source := range []string{
		`(`, `)`, `cgroup ==`, `== "v1"`, `cgroup = "v1"`, `cgroup == v1`, `cgroup == 'v1`, `cgroup == "v3"`, `"v3" == cgroup`, `cgroup != "V1"`,
		`cgroup in ["v1", "v3"]`, `distro == "k8s"`, `selinux == "on"`, `proxy_mode == "userspace"`, `cpu_level == "v3"`, `kernal == "6.1"`, `host.cgroup == "v1"`,
		`cgroup`, `"true"`, `1`, `null`, `[]`, `{}`, `size(variants)`, `atLeast(kernel)`, `atLeast(kernel, 6)`, `atLeast(6, "6")`, `atLeast(kernel, "six")`,
		`atLeast(kernel, "")`, `atLeast(kernel, "6.x")`, `atleast(kernel, "6")`, `privileged == "true"`, `privileged && cgroup`, `!cgroup`, `capabilities == "CAP_SYS_ADMIN"`,
		`"CAP_SYS_ADMIN" in cgroup`, `controllers.contains("cpu")`, `controllers.exists(c)`, `os.matches("(")`, `kernel > 6`, `1 / 0 == 1 &&`, "cgroup == \"v1\"\x00", "\xff",
		`cgroup == "v1" || `, `cgroup == "v1" and privileged`, `if privileged`, `true ? false`, `a.b.c.d`, strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300),
	} {
		_, err := compiler.compile(source)
		shown := source
		if len(shown) > 60 {
			shown = shown[:60] + "..."
		}
		message := "accepted"
		if err != nil {
			message = strings.TrimPrefix(err.Error(), fmt.Sprintf("condition %q: ", strings.TrimSpace(source)))
		}
		if len(message) > 500 {
			t.Errorf("%q: the message has %d bytes", shown, len(message))
		}
		fmt.Fprintf(&said, "%q\n\t%q\n", shown, message)
	}
	golden.Assert(t, said.String(), "malformed-conditions.golden")
}
