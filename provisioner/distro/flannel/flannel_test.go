package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"gotest.tools/v3/golden"
	"sigs.k8s.io/yaml"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/distro/bridge"
)

// fakeServer keeps what it was given to apply.
type fakeServer struct {
	provisioner.Node
	fails   error
	command string
	applied string
}

func (s *fakeServer) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	s.command = strings.Join(cmd.Args, " ")
	text, err := io.ReadAll(cmd.Stdin)
	s.applied = string(text)
	return provisioner.Output{}, errors.Join(err, s.fails)
}

func TestDeploy(t *testing.T) {
	g := NewWithT(t)
	n := Network{Settings: Settings{Backend: "host-gw", NFTables: true}, Pods: "10.244.0.0/16", Kubectl: []string{"kubectl", "--kubeconfig", "admin.conf"}}
	server := &fakeServer{}
	g.Expect(n.Deploy(t.Context(), server)).To(Succeed())
	g.Expect(server.command).To(Equal("kubectl --kubeconfig admin.conf apply -f -"))
	documents := strings.Split(server.applied, "\n---\n")
	kinds := map[string]map[string]any{}
	for _, d := range documents {
		var object map[string]any
		g.Expect(yaml.UnmarshalStrict([]byte(d), &object)).To(Succeed())
		kinds[fmt.Sprint(object["kind"])] = object
	}
	g.Expect(kinds).To(And(HaveLen(6), HaveKey("Namespace"), HaveKey("ServiceAccount"), HaveKey("ClusterRole"), HaveKey("ClusterRoleBinding"), HaveKey("DaemonSet")))
	data, ok := kinds["ConfigMap"]["data"].(map[string]any)
	g.Expect(ok).To(BeTrue())
	g.Expect(data["net-conf.json"]).To(MatchJSON(`{"Network": "10.244.0.0/16", "EnableNFTables": true, "Backend": {"Type": "host-gw"}}`))

	server.fails = errors.New("refused")
	g.Expect(n.Deploy(t.Context(), server)).To(MatchError("deploy flannel: refused"))
}

// TestImage: the manifest runs the image that the release has.
func TestImage(t *testing.T) {
	g := NewWithT(t)
	for _, file := range []string{"modules/releases/flannel-0.26.yaml", "manifests/flannel.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../../fixtures", file))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(text)).To(ContainSubstring("ghcr.io/flannel-io/flannel:v"+Version+"\n"), file)
	}
	_, err := fixtures.Modules().Open("flannel-" + Version)
	g.Expect(err).NotTo(HaveOccurred())
}

func TestContent(t *testing.T) {
	var b strings.Builder
	for _, f := range Files() {
		fmt.Fprintf(&b, "== %s %o\n%s", f.Path, f.Mode, f.Content)
	}
	for _, u := range Units() {
		fmt.Fprintf(&b, "== %s enable=%t\n%s", u.Name, u.Enable, u.Content)
	}
	golden.Assert(t, b.String(), "content.txt")
}

// TestScript runs what nodes run, with paths of the test's own.
func TestScript(t *testing.T) {
	for said, want := range map[string]string{
		"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n":   "10.244.1.0/24 false 1450",
		"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.9.65/26\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n": "10.244.9.64/26 true 1500",
	} {
		g := NewWithT(t)
		dir := t.TempDir()
		subnet, conflist := filepath.Join(dir, "subnet.env"), filepath.Join(dir, "net.d", "conflist")
		g.Expect(os.WriteFile(subnet, []byte(said), 0o600)).To(Succeed())
		script := strings.NewReplacer(subnetFile, subnet, bridge.ConflistPath, conflist, filepath.Dir(bridge.ConflistPath), filepath.Dir(conflist)).Replace(Files()[0].Content)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), string(out))
		text, err := os.ReadFile(conflist)
		g.Expect(err).NotTo(HaveOccurred())
		var config struct {
			Plugins []struct {
				Type   string
				IPMasq bool
				MTU    int
				IPAM   struct {
					Ranges [][]struct{ Subnet string }
				}
			}
		}
		g.Expect(json.Unmarshal(text, &config)).To(Succeed(), string(text))
		b := config.Plugins[0]
		g.Expect(fmt.Sprintln(b.IPAM.Ranges[0][0].Subnet, b.IPMasq, b.MTU)).To(Equal(want + "\n"))
	}
}
