package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/provisioner/redact"
)

const (
	bootstrap = "abcdef.0123456789abcdef"
	certKey   = "f8902e114ef118304e561c3ecd4d0b543adc226b7a07f675f56564185ffe0c07"
	jwt       = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
	keyBody   = "MIIEowIBAAKCAQEAy8Dbv8prpJ/0kKhlGeJYozo2t60EG8L0561g13R29LvMR5hy\nvGZlGJpmn65+A4xHXInJYiPuKzrKUnApeLZ+vw1HocOAZtWK0z3r26uA8kQYOKX9\nQt/DbCdvsF9wF8gRK0ptx9M6R13NvBxvVQAp"
	certBody  = "MIIDBTCCAe2gAwIBAgIIQv7y8rYPlZYwDQYJKoZIhvcNAQELBQAwFTETMBEGA1UE\nAxMKa3ViZXJuZXRlczAeFw0yNTAxMDEwMDAwMDBaFw0zNTAxMDEwMDAwMDBaMBUx"
)

func pem(kind, body string) string {
	return "-----BEGIN " + kind + "-----\n" + body + "\n-----END " + kind + "-----"
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func indent(n int, s string) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n))
}

// gone lists texts and the parts of them that must not be left.
func gone() map[string]struct {
	text    string
	secrets []string
} {
	type c = struct {
		text    string
		secrets []string
	}
	return map[string]c{
		"kubeadm join":          {"kubeadm join 10.0.0.2:6443 --token " + bootstrap + " --discovery-token-ca-cert-hash sha256:" + certKey[:60] + "aaaa", []string{bootstrap}},
		"token alone":           {"I1120 created token \"" + bootstrap + "\", next", []string{bootstrap}},
		"two tokens":            {bootstrap + " ghijkl.0123456789ghijkl", []string{bootstrap, "0123456789ghijkl"}},
		"control plane join":    {"  --control-plane --certificate-key " + certKey, []string{certKey}},
		"upload-certs":          {"[upload-certs] Using certificate key:\n" + certKey + "\n", []string{certKey}},
		"upload-certs in a log": {"2026-11-22T07:40:00.123Z [upload-certs] Using certificate key:\n2026-11-22T07:40:00.123Z " + certKey + "\n", []string{certKey}},
		"kubeadm config":        {"kind: InitConfiguration\ncertificateKey: " + certKey + "\nbootstrapTokens:\n- token: " + bootstrap + "\n  ttl: 24h\n", []string{certKey, bootstrap}},
		"bearer":                {"Authorization: Bearer " + jwt, []string{jwt, "c2lnbmF0dXJl"}},
		"bearer opaque":         {`curl -H "Authorization: Bearer 7f3a9b2c" https://x`, []string{"7f3a9b2c"}},
		"opaque header":         {"> Authorization: hunter2", []string{"hunter2"}},
		"header as JSON":        {`{"headers":{"Authorization":["Basic dTpodW50ZXIy"]}}`, []string{"dTpodW50ZXIy"}},
		"bearer without header": {"using bearer abcd1234efgh", []string{"abcd1234efgh"}},
		"JWT in YAML":           {"  token: " + jwt, []string{jwt}},
		"JWT in JSON":           {`{"token":"` + jwt + `","expires":1}`, []string{jwt}},
		"JWT in prose":          {"rejected " + jwt + ".", []string{jwt}},
		"JWS, detached":         {"  jws-kubeconfig-abcdef: eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..kVXd0ZzN5aGJ2c2FkZmFzZGY", []string{"kVXd0ZzN5aGJ2"}},
		"PKCS1":                 {"before\n" + pem("RSA PRIVATE KEY", keyBody) + "\nafter", strings.Split(keyBody, "\n")},
		"PKCS8":                 {pem("PRIVATE KEY", keyBody), strings.Split(keyBody, "\n")},
		"encrypted key":         {pem("ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"+keyBody), strings.Split(keyBody, "\n")},
		"key in a block scalar": {"ca.key: |\n    " + indent(4, pem("EC PRIVATE KEY", keyBody)) + "\nnext: 1", strings.Split(keyBody, "\n")},
		"key on one line":       {`{"key":"` + strings.ReplaceAll(pem("RSA PRIVATE KEY", keyBody), "\n", `\n`) + `"}`, strings.Split(keyBody, "\n")},
		"key behind a prefix":   {"Nov 20 cp1 x[1]: " + strings.ReplaceAll(pem("RSA PRIVATE KEY", keyBody), "\n", "\nNov 20 cp1 x[1]: "), strings.Split(keyBody, "\n")},
		"key without its end":   {"-----BEGIN RSA PRIVATE KEY-----\n" + keyBody, strings.Split(keyBody, "\n")},
		"key without its begin": {keyBody + "\n-----END RSA PRIVATE KEY-----\n", strings.Split(keyBody, "\n")},
		"key in base64":         {"x: " + b64(pem("RSA PRIVATE KEY", keyBody)), []string{b64(pem("RSA PRIVATE KEY", keyBody))[40:90]}},
		"kubeconfig":            {"users:\n- name: admin\n  user:\n    client-certificate-data: " + b64(pem("CERTIFICATE", certBody)) + "\n    client-key-data: c2VjcmV0LWtleQ==\n    password: hunter2\n    token: opaque\n", []string{"c2VjcmV0LWtleQ", "hunter2", "opaque"}},
		"K3s server token":      {"K10" + certKey + "::server:hunter2", []string{"hunter2", certKey}},
		"K3s configuration":     {"server: https://10.0.0.10:6443\ntls-san:\n- 10.0.0.11\ntoken: mfrggzdfmztwq2lknnwg23tpob\n", []string{"mfrggzdfmztwq2lknnwg23tpob"}},
		"K3s environment":       {"K3S_TOKEN=hunter2, or so\nRKE2_AGENT_TOKEN='x y z'", []string{"hunter2", "or so", "x y z"}},
		"unit's environment":    {`Environment="DB_PASSWORD=hunter2" "A=b"`, []string{"hunter2"}},
		"exported":              {"export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", []string{"wJalrXUtnFEMI", "K7MDENG"}},
		"URL":                   {"fetch https://user:hunter2@mirror.example/x: 403", []string{"hunter2"}},
		"URL with a token":      {"fetch https://ghp0123456789@github.com/x", []string{"ghp0123456789"}},
		"query":                 {"GET /x?access_token=hunter2&page=1", []string{"hunter2"}},
		"flag":                  {"k3s agent --token hunter2 --server https://x --docker-password='a b'", []string{"hunter2", "a b"}},
		"flags as JSON":         {`["--token","hunter2","--v","2"]`, []string{"hunter2"}},
		"camel case JSON":       {`{"clientSecret": "hunter\"2", "user": "x"}`, []string{"hunter", `2"`}},
		"quoted JSON":           {`msg="{\"password\":\"hunter2\",\"user\":\"x\"}"`, []string{"hunter2"}},
		"Go map":                {"map[password:hunter2 user:x]", []string{"hunter2"}},
		"block scalar":          {"password: |\n  hunter2\n\n  hunter3\nnext: 1", []string{"hunter2", "hunter3"}},
		"etcd encryption":       {"keys:\n- name: key1\n  secret: aHVudGVyMg==\n", []string{"aHVudGVyMg"}},
		"container environment": {"    env:\n    - name: DB_PASSWORD\n      value: hunter2\n    - name: MODE\n      value: fast\n", []string{"hunter2"}},
		"environment as JSON":   {`{"env":[{"name":"DB_PASSWORD","value":"hunter2"}]}`, []string{"hunter2"}},
		"Secret":                {"apiVersion: v1\ndata:\n  a: aHVudGVyMg==\n  b: |\n    hunter3\n  '': hunter4\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  c: hunter5\n", []string{"aHVudGVyMg", "hunter3", "hunter4", "hunter5"}},
		"Secret, kind first":    {"kind: Secret\r\ndata:\r\n  a: aHVudGVyMg==\r\n", []string{"aHVudGVyMg"}},
		"Secret in a list":      {"apiVersion: v1\nitems:\n- apiVersion: v1\n  data:\n    mode: fast\n  kind: ConfigMap\n- data:\n    a: aHVudGVyMg==\n  kind: Secret\n- apiVersion: v1\n  data:\n    a: aHVudGVyMw==\n  kind: Secret\nkind: List\n", []string{"aHVudGVyMg", "aHVudGVyMw"}},
		"Secret cut off":        {"- apiVersion: v1\n  data:\n    a: aHVudGVyMg==\n", []string{"aHVudGVyMg"}},
		"Secret in flow style":  {"kind: Secret\ndata: {a: aHVudGVyMg==,\n  b: hunter2}\n", []string{"aHVudGVyMg", "hunter2"}},
		"Secret as JSON":        {"{\n    \"apiVersion\": \"v1\",\n    \"data\": {\n        \"a\": \"aHVudGVyMg==\",\n        \"b\": \"aHVudGVyMw==\"\n    },\n    \"kind\": \"Secret\"\n}\n", []string{"aHVudGVyMg", "aHVudGVyMw"}},
		"Secret on one line":    {`E1120 {"apiVersion":"v1","data":{"a":"aHVudGVyMg=="},"stringData":{"b":"x}{\"hunter2"},"kind":"Secret"}`, []string{"aHVudGVyMg", "hunter2"}},
		"Secret, last applied":  {"    kubectl.kubernetes.io/last-applied-configuration: |\n      {\"apiVersion\":\"v1\",\"data\":{\"a\":\"aHVudGVyMg==\"},\"kind\":\"Secret\"}\n", []string{"aHVudGVyMg"}},
		"Secret, quoted":        {`"last-applied-configuration": "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"stringData\":{\"a\":\"hunter2\"}}\n",`, []string{"hunter2"}},
	}
}

func TestWhatMustGo(t *testing.T) {
	for name, tc := range gone() {
		t.Run(name, func(t *testing.T) {
			in := []byte(tc.text)
			got := redact.Text(in)
			for _, s := range tc.secrets {
				if !bytes.Contains([]byte(tc.text), []byte(s)) {
					t.Fatalf("the test's own text does not hold %q", s)
				}
				if bytes.Contains(got, []byte(s)) {
					t.Errorf("%q is left:\n%s", s, got)
				}
			}
			if !bytes.Contains(got, []byte(redact.Mark)) {
				t.Errorf("nothing shows that something was removed:\n%s", got)
			}
			if string(in) != tc.text {
				t.Error("the argument was changed")
			}
			if again := redact.Text(got); !bytes.Equal(again, got) {
				t.Errorf("redacted again it becomes\n%s\nit was\n%s", again, got)
			}
		})
	}
}

func TestWhatMustStay(t *testing.T) {
	for name, text := range map[string]string{
		"image digest":         "image: registry.k8s.io/pause@sha256:7031c1b283388d2c2e09b57badb803c05ebed362dc88d84b480cc47f72a21097",
		"UID":                  "  uid: 3f2504e0-4f89-11d3-9a0c-0305e82c3301\n  resourceVersion: \"123456\"",
		"checksum":             certKey + "  kubelet",
		"CA's hash":            "--discovery-token-ca-cert-hash sha256:" + certKey,
		"certificate":          pem("CERTIFICATE", certBody),
		"certificates in data": "certificate-authority-data: " + b64(pem("CERTIFICATE", certBody)) + "\nclient-certificate-data: " + b64(pem("CERTIFICATE", certBody)),
		"public key":           pem("PUBLIC KEY", certBody),
		"boot ID":              "d6b7f7a0-9c3e-4a35-9f5b-0b7a2f7f1c55",
		"ConfigMap":            "apiVersion: v1\ndata:\n  mode: fast\n  Corefile: |\n    .:53 {\n        errors\n    }\nkind: ConfigMap\nmetadata:\n  name: coredns\n",
		"ConfigMap as JSON":    `{"apiVersion":"v1","data":{"mode":"fast"},"kind":"ConfigMap"}`,
		"names of secrets":     "      secretName: db\n    imagePullSecrets:\n    - name: pull\n  automountServiceAccountToken: false\n",
		"secret volume":        "    - name: certs\n      secret:\n        secretName: certs\n        defaultMode: 420\n",
		"projected token":      "      - serviceAccountToken:\n          expirationSeconds: 3607\n          path: token\n",
		"kubelet's arguments":  "kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap.conf --client-ca-file=/etc/kubernetes/pki/ca.crt --tls-private-key-file=/var/lib/kubelet/pki/kubelet.key --enable-bootstrap-token-auth=true",
		"file names":           "open /var/run/secrets/kubernetes.io/serviceaccount/token: no such file or directory",
		"missing secret":       `MountVolume.SetUp failed for volume "certs" : secret "db-certs" not found`,
		"prose":                "failed to get token: context deadline exceeded; my-secret is not ready; basic configuration; bearer authentication is off",
		"kubelet config":       "authentication:\n  anonymous:\n    enabled: false\nauthorization:\n  mode: Webhook\n",
		"runc's error":         "OCI runtime create failed: runc create failed: can't get final child's PID from pipe: EOF",
		"masked already":       "I1120 round_trippers.go Authorization: Bearer <masked>",
		"addresses":            "dial tcp 10.0.0.2:6443: connect: connection refused https://10.0.0.2:6443/livez?timeout=10s",
		"user in a URL":        "ssh://git@example.org/x",
		"versions":             "containerd.io 1.7.30-1 kubelet v1.34.4 io.containerd.runc.v2 registry.k8s.io/etcd:3.6.4-0",
		"cgroup path":          "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3f2504e0_4f89.slice/cri-containerd-" + certKey + ".scope",
		"empty":                "",
		"not UTF-8":            "\xff\xfe\x00 log",
	} {
		t.Run(name, func(t *testing.T) {
			if got := redact.String(text); got != text {
				t.Errorf("it became\n%s\nand was\n%s", got, text)
			}
		})
	}
}

// YAML and JSON that kubectl wrote still parse, with everything but the
// secrets in them.
func TestStructureSurvives(t *testing.T) {
	inYAML, err := os.ReadFile(filepath.Join("testdata", "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got := redact.Text(inYAML)
	golden.Assert(t, string(got), "cluster.yaml.golden")
	var list struct{ Items []map[string]any }
	if err := yaml.Unmarshal(got, &list); err != nil {
		t.Fatalf("the redacted YAML does not parse: %v", err)
	}
	if len(list.Items) != 4 {
		t.Errorf("%d items are left, want 4", len(list.Items))
	}

	inJSON, err := json.MarshalIndent(map[string]any{"kind": "List", "items": []any{
		map[string]any{"kind": "Secret", "data": map[string]string{"a": "aHVudGVyMg==", "b": "x"}, "type": "Opaque"},
		map[string]any{"kind": "ConfigMap", "data": map[string]string{"mode": "fast"}},
		map[string]any{"kind": "Pod", "password": "hunter2", "token": "x", "last": true},
	}}, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(redact.Text(inJSON), &back); err != nil {
		t.Fatalf("the redacted JSON does not parse: %v\n%s", err, redact.Text(inJSON))
	}
	items := fmt.Sprint(back["items"])
	if strings.Contains(items, "aHVudGVyMg") || strings.Contains(items, "hunter2") || !strings.Contains(items, "mode:fast") {
		t.Errorf("left is %s", items)
	}
}

// FuzzText seeds a secret, in each form, between texts that nobody chose.
func FuzzText(f *testing.F) {
	const a, b = "q7hunter2w9", "zz8secretvalue8zz"
	forms := []string{
		"password: " + a, "  token: " + a, "TOKEN=" + a, `{"password":"` + a + `"}`, "x --token " + a, "https://u:" + a + "@host/",
		"Authorization: Bearer " + a, "kind: Secret\ndata:\n  k: " + a + "\n  l: " + b, "data:\n  k: " + a + "\nkind: Secret",
		`{"kind":"Secret","data":{"k":"` + a + `"}}`, pem("RSA PRIVATE KEY", "AAAA"+a+"\n"+b), "x " + "abcdef.q7hunter2w900000" + " y",
		"- name: MY_TOKEN\n  value: " + a, "client-key-data: " + a,
	}
	f.Add("", "", 0)
	f.Add("apiVersion: v1\nkind: ConfigMap\ndata:\n", "\nkind: Pod\n", 7)
	f.Add("password: |\n", "\n  more", 3)
	f.Add("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----", 10)
	f.Add("{\"data\":{\"", "}}", 9)
	f.Add("\"'\\", "\"'\\", 4)
	f.Fuzz(func(t *testing.T, before, after string, n int) {
		form := forms[int(uint(n)%uint(len(forms)))]
		if strings.Contains(before+after, a) || strings.Contains(before+after, b) {
			return
		}
		got := redact.String(before + "\n---\n" + form + "\n---\n" + after)
		if strings.Contains(got, a) || strings.Contains(got, b) {
			t.Errorf("%q between %q and %q left a secret:\n%s", form, before, after, got)
		}
		if again := redact.String(got); again != got {
			t.Errorf("redacted again it becomes\n%q\nit was\n%q", again, got)
		}
	})
}

func BenchmarkText(b *testing.B) {
	line := "Nov 20 19:33:24 cp1 kubelet[412]: I1120 19:33:24.123456     412 reconciler_common.go:251] \"operationExecutor.VerifyControllerAttachedVolume started for volume \\\"kube-api-access-x7k2p\\\" pod=\\\"kube-system/coredns-1\\\"\"\n"
	text := []byte(strings.Repeat(line, 5000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		redact.Text(text)
	}
}
