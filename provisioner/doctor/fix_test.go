package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var bookworm = map[string]string{
	"/etc/os-release":                        "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian 12\"\n",
	"/etc/apt/sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main non-free-firmware\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n",
	"/usr/libexec/incus/incusd":              "-",
	"/usr/sbin/mmdebstrap":                   "-",
}

func TestFixSaysWhatItDoesAndDoesIt(t *testing.T) {
	m, r := machine(t, bookworm)
	if err := os.MkdirAll(m.path("/run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	policy := m.path(policyFile)
	r.answers["apt-get update"] = answer{output: "E: another's source has no Release file\n", exit: 100}
	r.answers["apt-get install"] = answer{output: "Setting up incus-base\n"}
	heldDuringInstall := false
	r.did = func(line string) {
		if strings.HasPrefix(line, "apt-get install") {
			info, err := os.Stat(policy)
			heldDuringInstall = err == nil && info.Mode()&0o111 != 0
		}
	}
	var out strings.Builder
	if err := m.Fix(t.Context(), m.Examine(t.Context(), Options{}), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	wantInOrder := []string{
		"installing with apt: incus-base mmdebstrap",
		"adding bookworm-backports to apt's sources, as " + backportsFile,
		"keeping the package from starting an Incus",
		"running: DEBIAN_FRONTEND=noninteractive apt-get update",
		"  | E: another's source",
		"going on with the lists there are",
		"running: DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 incus-base mmdebstrap",
		"  | Setting up incus-base",
	}
	rest := out.String()
	for _, want := range wantInOrder {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is not said, or not in order, in:\n%s", want, out.String())
		}
		rest = after
	}
	got, found := m.read(backportsFile)
	if want := "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg"; !found || !strings.HasSuffix(got, want) {
		t.Errorf("the backports source is\n%s\nwant it to end with\n%s", got, want)
	}
	if !heldDuringInstall {
		t.Error("no policy against starting services was there during the installation")
	}
	if _, err := os.Stat(policy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the policy against starting services stayed: %v", err)
	}
}

func TestFixRefuses(t *testing.T) {
	for name, mutate := range map[string]func(*Machine){
		"LXCMATRIX_BOOTSTRAP=no": func(m *Machine) {
			m.Getenv = func(key string) string { return map[string]string{"LXCMATRIX_BOOTSTRAP": "no"}[key] }
		},
		"not root": func(m *Machine) { m.UID = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			m, r := machine(t, bookworm)
			mutate(&m)
			findings := m.Examine(t.Context(), Options{})
			before := len(r.ran)
			var out strings.Builder
			err := m.Fix(t.Context(), findings, &out)
			var refused *RefusedError
			if !errors.As(err, &refused) || len(refused.Findings) != 1 {
				t.Fatalf("got %v", err)
			}
			for _, want := range []string{name, "incus-base", "apt-get install"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if len(r.ran) > before || m.exists(backportsFile) {
				t.Errorf("it ran %q", r.ran[before:])
			}
			// Nothing to do is nothing to refuse.
			if err := m.Fix(t.Context(), findings[:1], &out); err != nil {
				t.Errorf("with nothing to mend: %v", err)
			}
		})
	}
}

func TestFixTriesOnceMoreWithNewLists(t *testing.T) {
	m, r := machine(t, map[string]string{"/usr/sbin/mmdebstrap": "-"})
	installs := 0
	r.answers["apt-get update"] = answer{}
	r.did = func(line string) {
		if strings.HasPrefix(line, "apt-get install") {
			installs++
			r.answers["apt-get install"] = map[bool]answer{true: {exit: 100, output: "404 Not Found"}, false: {}}[installs == 1]
		}
	}
	var out strings.Builder
	if err := m.Fix(t.Context(), m.Examine(t.Context(), Options{}), &out); err != nil {
		t.Fatal(err)
	}
	if installs != 2 {
		t.Errorf("%d installations, want a second one after the lists were fetched:\n%s", installs, out.String())
	}
}

func TestFixErrorCarriesAptsLastLines(t *testing.T) {
	m, r := machine(t, map[string]string{"/usr/sbin/mmdebstrap": "-"})
	r.answers["apt-get install"] = answer{exit: 100, output: "Reading package lists...\nE: Unable to locate package mmdebstrap\n"}
	r.answers["apt-get update"] = answer{exit: 100, output: "E: The repository does not have a Release file.\n"}
	err := m.Fix(t.Context(), m.Examine(t.Context(), Options{}), &strings.Builder{})
	var failed *RunError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"mend packages", "Unable to locate package mmdebstrap", "does not have a Release file"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

func TestFixFetchesOldLists(t *testing.T) {
	for name, c := range map[string]struct {
		lists string
		now   time.Time
		want  bool
	}{
		"fresh":  {"list", time.Now(), false},
		"old":    {"list", time.Now().Add(25 * time.Hour), true},
		"absent": {"-", time.Now(), true},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := machine(t, map[string]string{"/usr/sbin/mmdebstrap": "-", "/var/lib/apt/lists/mirror_dists_trixie_main_binary-amd64_Packages.lz4": c.lists})
			m.Now = func() time.Time { return c.now }
			r.answers["apt-get"] = answer{}
			if err := m.Fix(t.Context(), m.Examine(t.Context(), Options{}), &strings.Builder{}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(strings.Join(r.ran, "\n"), "apt-get update"); got != c.want {
				t.Errorf("lists fetched: %v, want %v", got, c.want)
			}
		})
	}
}

func TestFixLoadsModulesAndAllowsForwarding(t *testing.T) {
	m, r := machine(t, map[string]string{"/proc/sys/net/bridge/bridge-nf-call-iptables": "-"})
	r.answers["/usr/sbin/modprobe"] = answer{}
	r.answers["/usr/sbin/iptables"] = answer{}
	r.answers["/usr/sbin/nft list ruleset"] = answer{output: "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n"}
	findings := m.Examine(t.Context(), Options{Bridge: "lxcm0"})
	r.ran = nil
	var out strings.Builder
	if err := m.Fix(t.Context(), findings, &out); err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/sbin/modprobe br_netfilter", "/usr/sbin/iptables -I FORWARD -i lxcm0 -j ACCEPT", "/usr/sbin/iptables -I FORWARD -o lxcm0 -j ACCEPT"}
	if got := strings.Join(r.ran, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("ran\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	for _, line := range want {
		if !strings.Contains(out.String(), "running: "+line) {
			t.Errorf("%q was not said in\n%s", line, out.String())
		}
	}
}

func TestServicesAreHeldOnlyWhereNoPolicyIs(t *testing.T) {
	const theirs = "#!/bin/sh\nexit 101\n"
	for name, c := range map[string]struct {
		systemd bool
		policy  string
		held    bool
		after   string
	}{
		"no systemd":     {false, "-", false, ""},
		"systemd":        {true, "-", true, ""},
		"their policy":   {true, theirs, false, theirs},
		"one left of us": {true, policyText, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := machine(t, map[string]string{policyFile: c.policy})
			if c.systemd {
				if err := os.MkdirAll(m.path("/run/systemd/system"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			release, err := m.holdServices(func(string, ...any) {})
			if err != nil {
				t.Fatal(err)
			}
			text, _ := m.read(policyFile)
			if held := strings.Contains(text, policyMark); held != c.held {
				t.Errorf("held: %v, want %v", held, c.held)
			}
			if err := release(); err != nil {
				t.Fatal(err)
			}
			if text, _ := m.read(policyFile); text != strings.TrimSpace(c.after) {
				t.Errorf("afterwards the policy is %q, want %q", text, c.after)
			}
		})
	}
}

func TestPolicyDeniesOnlyIncus(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy-rc.d")
	if err := os.WriteFile(policy, []byte(policyText), 0o755); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{"incus.socket start": 101, "--quiet incus-startup.service start": 101, "lxcfs.service start": 0} {
		_, err := execRunner{}.Run(t.Context(), Command{Args: append([]string{policy}, strings.Fields(args)...)})
		got := 0
		var failed *RunError
		if errors.As(err, &failed) {
			got = failed.ExitCode
		} else if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("policy-rc.d %s: exit code %d, want %d", args, got, want)
		}
	}
}
