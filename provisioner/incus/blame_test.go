package incus

import (
	"bytes"
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

// TestOutputIsBounded: what a node prints without end does not fill this
// machine's memory, and is not taken for all that there was.
func TestOutputIsBounded(t *testing.T) {
	var o output
	block := make([]byte, mostOutput/2+1)
	for range 3 {
		if n, err := o.Write(block); n != len(block) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := len(o.String()); got != mostOutput || !o.isCut() {
		t.Errorf("%d bytes are kept, cut: %v", got, o.isCut())
	}
	for extra, want := range []error{nil, errTooMuch} {
		data, err := readMost(bytes.NewReader(make([]byte, mostOutput+extra)))
		if len(data) != mostOutput || !errors.Is(err, want) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
}
