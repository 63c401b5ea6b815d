package incus

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// TestBlame: only what a server says of an instance is the instance's doing.
func TestBlame(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		node bool
	}{
		"the operation failed":           {&operationError{"Failed to run: exit status 1"}, true},
		"the server refused it":          {api.StatusErrorf(http.StatusBadRequest, "The instance cannot be frozen"), true},
		"a daemon that was started anew": {api.StatusErrorf(http.StatusNotFound, "Operation not found"), false},
		"a daemon that ends":             {api.StatusErrorf(http.StatusServiceUnavailable, "Daemon is shutting down"), false},
		"the connection broke":           {fmt.Errorf("wait: %w", io.ErrUnexpectedEOF), false},
	} {
		err := (&Instance{name: "one"}).blame(t.Context(), "start", c.err)
		var its *provisioner.NodeError
		if errors.As(err, &its) != c.node || !errors.Is(err, c.err) {
			t.Errorf("%s: %v (%T)", name, err, err)
		}
	}
}
