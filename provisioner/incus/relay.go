package incus

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Dial reaches a TCP address as the instance sees it, through socat in the
// instance: every prepared image has it, as kubelet wants it. Incus' proxy
// devices would do it too, but they listen on the server, on a port that others
// reach as well and that may be closed to this client. Where nothing listens
// the first read says so. When ctx ends after that, nothing happens: the
// connection is to be closed.
func (i *Instance) Dial(ctx context.Context, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial %s in instance %s: %w", address, i.name, err)
	}
	relaying, stop := context.WithCancel(context.WithoutCancel(ctx))
	ours, theirs := net.Pipe()
	c := &relayed{Conn: ours, stop: stop}
	go func() {
		defer stop()
		var said output
		code, err := i.Stream(relaying, provisioner.Command{Args: []string{"socat", "STDIO", "TCP:" + address}, Stdin: theirs}, theirs, &said)
		switch {
		case relaying.Err() != nil:
		case err != nil:
			c.broke(fmt.Errorf("dial %s in instance %s: %w", address, i.name, err))
		case code != 0:
			c.broke(fmt.Errorf("dial %s in instance %s: socat: exit code %d: %s", address, i.name, code, strings.TrimSpace(said.String())))
		}
		_ = theirs.Close()
	}()
	return c, nil
}

// relayed is a connection through a command in an instance.
type relayed struct {
	net.Conn
	stop context.CancelFunc

	mu sync.Mutex
	// err is why the command ended early.
	err error
}

func (c *relayed) broke(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Read reads what the other side sent; at its end, why the relay ended where it
// failed.
func (c *relayed) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF { //nolint:errorlint // a reader returns it bare
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			err = c.err
		}
	}
	return n, err
}

// Close ends the relay as well.
func (c *relayed) Close() error {
	c.stop()
	return c.Conn.Close()
}
