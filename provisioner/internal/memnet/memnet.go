// Package memnet is a network in memory, for tests in a synctest bubble: a real
// one would hold the bubble's time up.
package memnet

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
)

// Network is the ports of 127.0.0.1, all closed at first. It belongs to the
// bubble in which it is used.
type Network struct {
	mu    sync.Mutex
	ports map[string]*listener
}

// Server is a server at a port, which the caller starts; it is closed at the
// test's end.
func (n *Network) Server(t testing.TB, port int, handler http.Handler) *httptest.Server {
	t.Helper()
	l := &listener{address: net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, accepted: make(chan net.Conn), closed: make(chan struct{})}
	l.end = sync.OnceFunc(func() { close(l.closed) })
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports == nil {
		n.ports = map[string]*listener{}
	}
	n.ports[l.address.String()] = l
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}} //nolint:gosec // its clients are the test's
	t.Cleanup(func() {
		server.Close()
		l.reset()
	})
	return server
}

// DialContext is as a net.Dialer's. It is refused where no server is, or none
// any more.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	n.mu.Lock()
	l, ok := n.ports[address]
	n.mu.Unlock()
	if !ok {
		return nil, refused
	}
	ours, theirs, wires := buffered()
	l.mu.Lock()
	l.wires = append(l.wires, wires...)
	l.mu.Unlock()
	var err error
	select {
	case l.accepted <- theirs:
		return ours, nil
	case <-l.closed:
		err = refused
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, _ = ours.Close(), theirs.Close()
	return nil, err
}

// listener is a net.Listener.
type listener struct {
	address  net.TCPAddr
	accepted chan net.Conn
	closed   chan struct{}
	end      func()

	mu sync.Mutex
	// wires are the network's own ends of every connection.
	wires []net.Conn
}

// reset ends the connections whose server has ended, as a kernel does: a client
// that forgot one keeps no goroutine of the network.
func (l *listener) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, wire := range l.wires {
		_ = wire.Close()
	}
}

func (l *listener) Addr() net.Addr { return &l.address }

func (l *listener) Close() error {
	l.end()
	return nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// buffered is a net.Pipe whose writes do not wait until the other end reads:
// two ends of TLS that both take their leave would wait for each other.
func buffered() (a, b net.Conn, wires []net.Conn) {
	a, towardsB := net.Pipe()
	towardsA, b := net.Pipe()
	go carry(towardsB, towardsA)
	go carry(towardsA, towardsB)
	return a, b, []net.Conn{towardsA, towardsB}
}

// carry writes what it reads, and closes the one when the other has ended.
func carry(from, to net.Conn) {
	held := make(chan []byte, 1024)
	go func() {
		defer close(held)
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			held <- buffer[:n]
		}
	}()
	for data := range held {
		_, _ = to.Write(data) // Fails once nobody reads any more.
	}
	_ = to.Close()
}
