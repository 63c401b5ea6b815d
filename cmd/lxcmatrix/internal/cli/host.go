package cli

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/catalog"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host"
)

// closePatience bounds the closing of a host.
const closePatience = 40 * time.Second

// embedded is the embedded host as verbs without a matrix mean it.
var embedded = matrix.HostRef{Name: "embedded", Driver: "embedded"}

// hasEmbedded says whether the embedded host was ever opened, even if not to the
// end: only then can there be anything of it. Its pool is made first.
func hasEmbedded(stateDir string) bool {
	_, err := os.Stat(filepath.Join(stateDir, "pool.img"))
	return err == nil
}

// withHost opens a host, works on it, and closes it again. What goes wrong
// while it is closed is told, and is the error where there is no other.
func (p *program) withHost(ctx context.Context, ref matrix.HostRef, poolBytes int64, shown provisioner.Progress, do func(*host.Host) error) (err error) {
	opened := shown.Step("opening host %s (%s)", ref.Name, ref.Driver)
	h, err := catalog.OpenHost(ctx, ref, host.StateDir(), poolBytes)
	opened(err)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
		defer cancel()
		closed := shown.Step("closing host %s", ref.Name)
		closeErr := h.Close(closing)
		closed(closeErr)
		if err == nil {
			err = closeErr
		}
	}()
	return do(h)
}
