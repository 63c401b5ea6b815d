package redact_test

import (
	"strings"
	"testing"

	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
)

func site() redact.Site {
	return redact.Site{Hosts: []string{"lab7", "corp.example", "debian"}, Users: []string{"alice", "debian"}, Words: []string{"Project Blue"},
		Paths: []string{"/srv/alice/runs", "/srv/alice", "/root"}, Public: []string{"github.com", "k8s.io"}, Keep: []string{"debian"}}
}

func TestWhatTellsTheSiteIsHidden(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"host":              {"dial lab7: refused", "dial host-1: refused"},
		"host in an ID":     {"kubeadm-1.34/debian-13/1/lab7", "kubeadm-1.34/debian-13/1/host-1"},
		"host in capitals":  {"LAB7 and lab7", "host-1 and host-1"},
		"host in a domain":  {"search eng.corp.example", "search host-1"},
		"part of a word":    {"lab70 collab7 lab7-x", "lab70 collab7 lab7-x"},
		"user":              {"sudo: alice : COMMAND", "sudo: user-1 : COMMAND"},
		"words":             {"notes of project blue.", "notes of word-1."},
		"path":              {"open /srv/alice/runs/x/run.json: no space", "open path-1/x/run.json: no space"},
		"path above it":     {"/srv/alice/m.yaml, /srv/alicent", "path-1/m.yaml, /srv/alicent"},
		"every machine's":   {"/root/.kube/config", "/root/.kube/config"},
		"home folder":       {"/home/bob/x and /home/bob", "/home/user-1/x and /home/user-1"},
		"mail":              {"by bob@mail.example.org", "by user-1"},
		"URL":               {"GET https://mirror.intra:8443/dl.k8s.io/x", "GET https://host-1:8443/dl.k8s.io/x"},
		"URL with its user": {"https://bob@mirror.intra/x", "https://host-1/x"},
		"public URL":        {"https://github.com/a/b, https://dl.k8s.io/v1", "https://github.com/a/b, https://dl.k8s.io/v1"},
		"cluster's URL":     {"https://kubernetes.default.svc:443", "https://kubernetes.default.svc:443"},
		"IPv4":              {"10.1.2.3:6443 and 10.1.2.3/24, not 10.1.2.4.", "address-1:6443 and address-1/24, not address-2."},
		"IPv6":              {"[fd00::1]:443, fe80::12, fd00::1/64", "[address-1]:443, address-2, address-1/64"},
		"address in a URL":  {"https://10.1.2.3:6443/healthz", "https://address-1:6443/healthz"},
		"MAC":               {"link/ether 00:16:3e:aa:bb:cc brd", "link/ether mac-1 brd"},
		"two of a kind":     {"alice lab7 alice alice", "user-1 host-1 user-1 user-1"},
		"secret":            {"alice: password=hunter2", "user-1: password=REDACTED"},
	} {
		t.Run(name, func(t *testing.T) {
			hide := site().Hide()
			got := hide(c.text)
			if got != c.want {
				t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
			}
			if again := hide(got); again != got {
				t.Errorf("%q, hidden again, becomes %q", got, again)
			}
		})
	}
}

func TestWhatHelpsStays(t *testing.T) {
	text := strings.Join([]string{
		"127.0.0.1:2379 ::1 0.0.0.0 [::]:10250 localhost",
		"kernel 6.18.44-fc-v657, Incus 6.0.4, containerd 1.6.20~ds1, 1.34.4, v1.34.2+k3s1",
		"2026-11-20T19:33:24Z 19:33:24.123456 took 1m30s",
		"debian-13 debian/13 kubeadm std::string K8s:v1 0a:1b",
		"/etc/kubernetes/admin.conf /var/lib/kubelet /proc/sys/kernel/panic",
		"sha256:7031c1b283388d2c2e09b57badb803c05ebed362dc88d84b480cc47f72a21097 registry.k8s.io/pause:3.10.1",
	}, "\n")
	if got := site().Hide()(text); got != text {
		t.Errorf("it becomes\n%s\nit was\n%s", got, text)
	}
}
