package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// freezerRoot is the cgroup v1 freezer, where there is one.
const freezerRoot = "/sys/fs/cgroup/freezer"

// thawInterval is how often frozen cgroups are looked for during a kill.
const thawInterval = 250 * time.Millisecond

// whileThawing does what kills the instances whose name matches the pattern,
// and keeps thawing their cgroups meanwhile. On cgroup v1 runc freezes a
// container's cgroup for a moment; killed in that moment it leaves processes
// that cannot die, and LXC waits for them without end (seen with runc 1.1 and
// LXC 5.0).
func whileThawing(ctx context.Context, root, pattern string, kill func() error) error {
	done := make(chan error, 1)
	go func() { done <- kill() }()
	tick := time.NewTicker(thawInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if ctx.Err() == nil {
				thaw(root, pattern)
			}
		}
	}
}

// thaw thaws what is frozen below the instances' cgroups. Cgroups come and go
// meanwhile, and one that cannot be thawed shows in the kill.
func thaw(root, pattern string) {
	payloads, err := filepath.Glob(filepath.Join(root, "lxc.payload."+incus.ProjectName+"_"+pattern))
	if err != nil {
		return
	}
	for _, payload := range payloads {
		_ = filepath.WalkDir(payload, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && entry.Name() != "freezer.state" {
				return nil
			}
			if err != nil {
				return err
			}
			state, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(state)) != "THAWED" {
				_ = os.WriteFile(path, []byte("THAWED"), 0)
			}
			return nil
		})
	}
}
