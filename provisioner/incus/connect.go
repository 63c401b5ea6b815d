package incus

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	client "github.com/lxc/incus/v6/client"
)

// Connect connects to the Incus server behind a Unix socket, Incus' default
// one if it is empty. The connection outlives ctx; ctx bounds the handshake
// only.
func Connect(ctx context.Context, socket string) (*Server, error) {
	name := socket
	if name == "" {
		name = "its default socket"
	}
	return connect(ctx, name, func(ctx context.Context) (client.InstanceServer, error) {
		return client.ConnectIncusUnixWithContext(ctx, socket, arguments())
	})
}

// TLS is how a server over HTTPS and this client know each other.
type TLS struct {
	// Server is the server's own certificate in PEM, or the SHA-256 of it in
	// hex. It must be this very one: no authority is asked, and neither its
	// names nor its dates matter.
	Server string
	// ClientCert and ClientKey are what this client shows, in PEM. The server
	// must trust the certificate.
	ClientCert, ClientKey string
	// Dial, if set, makes the connections to the server; nil has the network
	// make them.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// CertificateError is a server that shows another certificate than the one
// that is pinned. Both are SHA-256 fingerprints in hex.
type CertificateError struct {
	Pinned, Shown string
}

// Error names both fingerprints and what they may mean.
func (e *CertificateError) Error() string {
	return fmt.Sprintf("the server's certificate has the fingerprint %s, and %s is pinned: it is another server, or its certificate was renewed, and then the new fingerprint is to be pinned", e.Shown, e.Pinned)
}

// UntrustedError is a server that does not trust this client's certificate.
type UntrustedError struct {
	// Fingerprint is the SHA-256 of the client's certificate in hex.
	Fingerprint string
}

// Error names the certificate and the remedy.
func (e *UntrustedError) Error() string {
	return fmt.Sprintf("the server does not trust the client certificate %s; on the server, run: incus config trust add-certificate CLIENT.crt", e.Fingerprint)
}

// ConnectHTTPS connects to the Incus server at https://ADDRESS:PORT. The
// connection outlives ctx; ctx bounds the handshake only. A server with
// another certificate is a *CertificateError, one that does not trust this
// client an *UntrustedError.
func ConnectHTTPS(ctx context.Context, url string, known TLS) (*Server, error) {
	fail := func(err error) (*Server, error) { return nil, fmt.Errorf("connect to Incus at %s: %w", url, err) }
	pinned, err := fingerprint(known.Server)
	if err != nil {
		return fail(fmt.Errorf("the server's certificate: %w", err))
	}
	own, err := fingerprint(known.ClientCert)
	if err != nil {
		return fail(fmt.Errorf("the client's certificate: %w", err))
	}
	args := arguments()
	args.TLSClientCert, args.TLSClientKey = known.ClientCert, known.ClientKey
	args.TransportWrapper = func(transport *http.Transport) client.HTTPTransporter {
		// The pin takes the place of all that a chain of trust would show.
		transport.TLSClientConfig.InsecureSkipVerify = true
		transport.TLSClientConfig.VerifyConnection = func(state tls.ConnectionState) error {
			sum := sha256.Sum256(state.PeerCertificates[0].Raw)
			if shown := hex.EncodeToString(sum[:]); shown != pinned {
				return &CertificateError{Pinned: pinned, Shown: shown}
			}
			return nil
		}
		if known.Dial != nil {
			transport.DialContext = known.Dial
			transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				plain, err := known.Dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				conn := tls.Client(plain, transport.TLSClientConfig)
				if err := conn.HandshakeContext(ctx); err != nil {
					return nil, errors.Join(err, plain.Close())
				}
				return conn, nil
			}
		}
		return pinnedTransport{transport}
	}
	s, err := connect(ctx, url, func(ctx context.Context) (client.InstanceServer, error) {
		return client.ConnectIncusWithContext(ctx, url, args)
	})
	if err != nil {
		return nil, err
	}
	info, _, err := s.global(ctx).GetServer()
	switch {
	case err != nil:
		return fail(err)
	case info.Auth != "trusted":
		return fail(&UntrustedError{Fingerprint: own})
	}
	return s, nil
}

// pinnedTransport is a transport whose TLS configuration checks the pin.
type pinnedTransport struct{ wrapped *http.Transport }

// RoundTrip makes a request.
func (t pinnedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.wrapped.RoundTrip(r)
}

// Transport is what connections that are no plain requests are made with: a
// copy, as the client writes to it whenever it waits for an operation, to let
// any answer take longer than an hour, and other requests are made meanwhile.
func (t pinnedTransport) Transport() *http.Transport { return t.wrapped.Clone() }

// fingerprint is the SHA-256, in hex, of a certificate that is given in PEM or
// by its fingerprint.
func fingerprint(certificate string) (string, error) {
	if block, _ := pem.Decode([]byte(certificate)); block != nil {
		sum := sha256.Sum256(block.Bytes)
		return hex.EncodeToString(sum[:]), nil
	}
	hexadecimal := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(certificate), ":", ""))
	if sum, err := hex.DecodeString(hexadecimal); err != nil || len(sum) != sha256.Size {
		return "", fmt.Errorf("want a certificate in PEM or its SHA-256 fingerprint in hex, got %q", certificate)
	}
	return hexadecimal, nil
}

func arguments() *client.ConnectionArgs {
	// Operations are waited for by their own request and not by the event
	// stream: one connection less per call, and a lost event loses nothing.
	return &client.ConnectionArgs{UserAgent: "lxcmatrix", SkipGetEvents: true}
}

// connect makes a connection that outlives ctx, which bounds its making.
func connect(ctx context.Context, name string, dial func(context.Context) (client.InstanceServer, error)) (*Server, error) {
	type answer struct {
		server client.InstanceServer
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		s, err := dial(context.WithoutCancel(ctx))
		done <- answer{s, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to Incus at %s: %w", name, ctx.Err())
	case a := <-done:
		if a.err != nil {
			return nil, fmt.Errorf("connect to Incus at %s: %w", name, a.err)
		}
		conn, ok := a.server.(*client.ProtocolIncus)
		if !ok {
			return nil, fmt.Errorf("connect to Incus at %s: the server is a %T", name, a.server)
		}
		return &Server{conn: conn, project: ProjectName}, nil
	}
}
