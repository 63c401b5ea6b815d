package host

import (
	"context"
	"sync"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
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
// LXC 5.0). Where the way to the machine is missing, nothing is thawed.
func whileThawing(ctx context.Context, m machine, root, pattern string, kill func() error) error {
	if m == nil {
		return kill()
	}
	ctx, stop := context.WithCancel(ctx)
	var thawing sync.WaitGroup
	thawing.Go(func() {
		tick := time.NewTicker(thawInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				thaw(ctx, m, root, pattern)
			}
		}
	})
	defer thawing.Wait()
	defer stop()
	return kill()
}

// thawing thaws what is frozen below the instances' cgroups.
const thawing = `cd "$1" 2>/dev/null || exit 0
find $2 -name freezer.state 2>/dev/null | while read -r file; do
  read -r state < "$file" && [ "$state" != THAWED ] && echo THAWED > "$file"
done
:`

// thaw looks once. Cgroups come and go meanwhile, and one that cannot be thawed
// shows in the kill.
func thaw(ctx context.Context, m machine, root, pattern string) {
	_, _ = m.Run(ctx, provisioner.Command{Args: []string{"sh", "-c", thawing, "thaw", root, "lxc.payload." + incus.ProjectName + "_" + pattern}})
}
