package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// TestWhileThawing kills what cannot end before its cgroup is thawed, and
// leaves everybody else's frozen.
func TestWhileThawing(t *testing.T) {
	g := NewWithT(t)
	root := t.TempDir()
	state := func(payload string) string {
		dir := filepath.Join(root, payload, "kubepods.slice", "cri-containerd-1.scope")
		g.Expect(os.MkdirAll(dir, 0o755)).To(Succeed())
		name := filepath.Join(dir, "freezer.state")
		g.Expect(os.WriteFile(name, []byte("FROZEN\n"), 0o600)).To(Succeed())
		return name
	}
	ours, theirs := state("lxc.payload.lxcmatrix_node-s1"), state("lxc.payload.other_node-s1")
	broke := errors.New("broke")
	err := whileThawing(t.Context(), thisMachine{}, root, "node-s1", func() error {
		deadline := time.Now().Add(time.Minute)
		for time.Now().Before(deadline) {
			if got, err := os.ReadFile(ours); err == nil && string(got) == "THAWED\n" {
				return broke
			}
		}
		return errors.New("it stayed frozen")
	})
	g.Expect(err).To(MatchError(broke))
	g.Expect(os.ReadFile(theirs)).To(BeEquivalentTo("FROZEN\n"))
}
