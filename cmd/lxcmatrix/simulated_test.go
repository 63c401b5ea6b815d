package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/cmd/lxcmatrix/internal/cli"
	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/cell"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/kubeadm"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine"
	"github.com/lxcmatrix/lxcmatrix/provisioner/engine/simulated"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
	"github.com/lxcmatrix/lxcmatrix/provisioner/hygiene"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus/fakeincus"
)

// simulatedProgram is lxcmatrix with hosts that have no containers. All else is
// the program's own: plan, engine, cells, kubeadm, the suite, reports. SIMULATE
// says what becomes of its commands, as "fails: kubeadm join"; see world.
func simulatedProgram() {
	w := &world{asked: map[string]bool{}}
	code := cli.Program{Streams: cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, Version: "test", Ground: w.ground}.Main(os.Args[1:])
	if err := w.tell(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = -1
	}
	os.Exit(code)
}

// world is a run's hosts. Its nodes say secrets with everything that they say.
type world struct {
	options catalog.Options
	mu      sync.Mutex
	server  *fakeincus.Server
	// asked is everything that nodes were told in arguments and configuration.
	asked map[string]bool
}

func (w *world) ground(o catalog.Options) engine.Ground {
	w.options = o
	return w
}

// simulates says whether SIMULATE names something, of which what begins with its
// second word.
func simulates(kind, what string) bool {
	for one := range strings.SplitSeq(os.Getenv("SIMULATE"), ",") {
		of, begins, _ := strings.Cut(strings.TrimSpace(one), ": ")
		if of == kind && strings.HasPrefix(what, begins) {
			return true
		}
	}
	return false
}

// Open opens a host over a server of its own, that is on loopback.
func (w *world) Open(ctx context.Context, ref matrix.HostRef) (engine.Host, error) {
	if simulates("fails", "open") {
		return nil, fmt.Errorf("the server said: %s", secretText())
	}
	identity, err := fakeincus.NewIdentity()
	if err != nil {
		return nil, err
	}
	fake := fakeincus.New(fakeincus.Options{CPUs: 2, MemoryBytes: 64 << 30, Command: w.command, File: w.file,
		Fault: func(c fakeincus.Call) fakeincus.Fault {
			switch {
			case simulates("hangs", c.What):
				return fakeincus.Hangs
			case simulates("half", c.What):
				return fakeincus.Half
			}
			return fakeincus.None
		},
		Created: func(all []fakeincus.State) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, one := range all {
				for key, value := range one.Config {
					w.asked[key+"="+value] = true
				}
			}
		}})
	listener := httptest.NewUnstartedServer(fake)
	listener.TLS = identity.Server
	listener.StartTLS()
	server, err := incus.ConnectHTTPS(ctx, listener.URL, incus.TLS{Server: identity.Certificate, ClientCert: identity.ClientCert, ClientKey: identity.ClientKey})
	if err != nil {
		return nil, err
	}
	opened, err := host.OpenServer(ctx, server, ref.Remote, false)
	if err != nil {
		return nil, err
	}
	facts, err := opened.Facts(ctx)
	if err == nil {
		facts, err = opened.FactsFrom(ctx, facts, "image", map[string]string{"run": w.options.RunID})
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close(ctx))
	}
	w.server = fake
	return &simulatedHost{world: w, Host: opened, facts: facts, looks: w.options.Hygiene.Host(ctx, nil, nil)}, nil
}

type simulatedHost struct {
	*world
	*host.Host
	facts matrix.HostFacts
	looks *hygiene.Host
}

func (h *simulatedHost) Facts() matrix.HostFacts                       { return h.facts }
func (h *simulatedHost) Gate(matrix.Cell) (*matrix.GateFinding, error) { return nil, nil }

func (h *simulatedHost) Close(ctx context.Context) error {
	var err error
	switch {
	case simulates("hangs", "close"):
		select {}
	case simulates("fails", "close"):
		err = errors.New("the server said: " + secretText())
	}
	return errors.Join(h.Host.Close(ctx), err)
}

func (h *simulatedHost) Ready(_ context.Context, c matrix.Cell) (engine.Runner, error) {
	o := h.options
	return &cell.Runner{Host: h.Host, Facts: h.facts, Clock: o.Clock, Keep: o.Keep, Hygiene: h.looks,
		Distro: &kubeadm.Distro{Version: c.Distro.Version, PauseImage: "registry.k8s.io/pause:3.10.1", Servers: c.Topology.Servers, Timeout: time.Minute},
		Fixes:  simulated.Fixes{}, Health: simulated.Health{},
		KeepLog: func(node, name string, content []byte) error {
			_, err := o.Folder.WriteLog(c.ID, node, name, content)
			return err
		},
		Diagnose: func(ctx context.Context) ([]matrix.Diagnosis, error) {
			return diagnose.Diagnose(ctx, o.Knowledge.Signatures, fixtures.Passing(), os.DirFS(filepath.Join(o.Folder.CellDir(c.ID), "logs")))
		},
		Limits: o.Plan.Budget.Node, Timeouts: o.Plan.Timeouts, Images: map[matrix.OS]string{c.OS: "image"}, Provenance: "built",
		Owner: map[string]string{"kind": "node", "run": o.RunID}}, nil
}

// command is what a command in a node comes to.
func (w *world) command(c fakeincus.Command) (string, int) {
	script := strings.Join(c.Args, " ")
	w.mu.Lock()
	w.asked[script] = true
	w.mu.Unlock()
	switch {
	case simulates("hangs", script):
		select {}
	case simulates("fails", script):
		return secretText(), 1
	case strings.HasPrefix(script, "containerd --version"):
		return "containerd github.com/containerd/containerd v1.7.24 abc\n", 0
	case strings.Contains(script, "token create"):
		return "kubeadm join 10.0.0.2:6443 --token " + canaries["join token"] + " --discovery-token-ca-cert-hash sha256:" + strings.Repeat("0", 64) + "\n", 0
	case strings.Contains(script, "upload-certs"):
		return "[upload-certs] Using certificate key:\n" + canaries["certificate key"] + "\n", 0
	case strings.Contains(script, ".spec.podCIDR"):
		return "10.244.1.0/24\n", 0
	}
	told, code := simulated.Answer(c)
	if told == "as it should be\n" {
		told += secretText()
	}
	return told, code
}

func (w *world) file(_, path string) (string, bool) {
	if path == kubeadm.AdminConf {
		return "apiVersion: v1\nkind: Config\n" + secretText(), true
	}
	return secretText(), path == "console" || strings.HasPrefix(path, "logs/")
}

// tell writes what nodes were told into the file asked, and the names of those
// that are still there into the file left.
func (w *world) tell() error {
	if w.server == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	for _, one := range w.server.All() {
		left = append(left, one.Name+"\n")
	}
	return errors.Join(os.WriteFile("asked", []byte(strings.Join(slices.Sorted(maps.Keys(w.asked)), "\n")+"\n"), 0o600),
		os.WriteFile("left", []byte(strings.Join(left, "")), 0o600))
}

// canaries are secrets that nobody else has, by what they are.
var canaries = map[string]string{
	"join token":        "canary.joincanary012345",
	"certificate key":   strings.Repeat("ca9a21", 10) + "beef",
	"server token":      "K10" + strings.Repeat("c0ffee12", 8) + "::server:canaryserver",
	"kubeconfig key":    base64.StdEncoding.EncodeToString([]byte("-----BEGIN EC PRIVATE KEY-----\nY2FuYXJ5a3ViZWNvbmZpZ2NhbmFyeQ==\n-----END EC PRIVATE KEY-----\n")),
	"account token":     "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNhbmFyeSJ9.eyJpc3MiOiJjYW5hcnkifQ.Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5",
	"TLS key":           "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wcanaryTLSkey",
	"registry password": "canary-registry-password-1",
	"registry login":    base64.StdEncoding.EncodeToString([]byte("lxcmatrix:canary-registry-password-1")),
	"secret's data":     base64.StdEncoding.EncodeToString([]byte("canary of a secret")),
	"service password":  "canary-service-password-2",
	"access key":        "canaryAccessKey3/K7MDENG",
}

// secretText says every canary as nodes and servers say such things: in files, in
// logs, in what commands print, in what they fail with.
func secretText() string {
	c := canaries
	return strings.Join([]string{
		"kubeadm join 10.0.0.2:6443 --token " + c["join token"],
		"[upload-certs] Using certificate key:", c["certificate key"],
		"token: " + c["server token"],
		"users:", "- name: admin", "  user:", "    client-key-data: " + c["kubeconfig key"], "    token: " + c["account token"],
		"-----BEGIN PRIVATE KEY-----", c["TLS key"], "-----END PRIVATE KEY-----",
		`E1120 failed to pull: login lxcmatrix password=` + c["registry password"],
		"  Authorization = [\"Basic " + c["registry login"] + "\"]",
		`{"apiVersion":"v1","data":{"a":"` + c["secret's data"] + `"},"kind":"Secret"}`,
		`Environment="DB_PASSWORD=` + c["service password"] + `"`,
		"export AWS_SECRET_ACCESS_KEY=" + c["access key"],
		"",
	}, "\n")
}
