package incus

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	localtls "github.com/lxc/incus/v6/shared/tls"
	. "github.com/onsi/gomega"
)

// fakeServer answers as an Incus server over HTTPS does to GET /1.0.
func fakeServer(t *testing.T, auth string) (url, certificate string) {
	t.Helper()
	return fakeServerOf(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"type": "sync", "status": "Success", "status_code": 200, "metadata": {"auth": "` + auth + `"}}`))
	})
}

// fakeServerOf answers over HTTPS as it is told to.
func fakeServerOf(t *testing.T, answer http.HandlerFunc) (url, certificate string) {
	t.Helper()
	cert, key, err := localtls.GenerateMemCert(false, false)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(answer)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, string(cert)
}

func clientTLS(t *testing.T, server string) TLS {
	t.Helper()
	cert, key, err := localtls.GenerateMemCert(true, false)
	if err != nil {
		t.Fatal(err)
	}
	return TLS{Server: server, ClientCert: string(cert), ClientKey: string(key)}
}

// TestConnectHTTPS: a server is who the pin says, by certificate or by
// fingerprint, and nobody else, whatever the pinned one's names are.
func TestConnectHTTPS(t *testing.T) {
	url, cert := fakeServer(t, "trusted")
	block, _ := pem.Decode([]byte(cert))
	sum := sha256.Sum256(block.Bytes)
	shown := hex.EncodeToString(sum[:])
	for name, pin := range map[string]string{"PEM": cert, "fingerprint": shown, "as openssl prints it": strings.ToUpper(shown[:2]) + ":" + shown[2:]} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			s, err := ConnectHTTPS(t.Context(), url, clientTLS(t, pin))
			g.Expect(err).NotTo(HaveOccurred())
			s.Disconnect()
		})
	}
	t.Run("another certificate", func(t *testing.T) {
		g := NewWithT(t)
		_, err := ConnectHTTPS(t.Context(), url, clientTLS(t, strings.Repeat("ab", 32)))
		var other *CertificateError
		g.Expect(errors.As(err, &other)).To(BeTrue(), "%v", err)
		g.Expect(err).To(MatchError(And(ContainSubstring(url), ContainSubstring(shown), ContainSubstring(strings.Repeat("ab", 32)))))
	})
	t.Run("no certificate", func(t *testing.T) {
		g := NewWithT(t)
		_, err := ConnectHTTPS(t.Context(), url, clientTLS(t, ""))
		g.Expect(err).To(MatchError(ContainSubstring("the server's certificate: want a certificate in PEM")))
		_, err = ConnectHTTPS(t.Context(), url, TLS{Server: cert})
		g.Expect(err).To(MatchError(ContainSubstring("the client's certificate: want a certificate in PEM")))
	})
	t.Run("a client that is not trusted", func(t *testing.T) {
		g := NewWithT(t)
		url, cert := fakeServer(t, "untrusted")
		own := clientTLS(t, cert)
		_, err := ConnectHTTPS(t.Context(), url, own)
		var untrusted *UntrustedError
		g.Expect(errors.As(err, &untrusted)).To(BeTrue(), "%v", err)
		mine, err := fingerprint(own.ClientCert)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(untrusted.Fingerprint).To(Equal(mine))
		g.Expect(untrusted).To(MatchError(ContainSubstring("incus config trust add-certificate")))
	})
	t.Run("a context that has ended", func(t *testing.T) {
		g := NewWithT(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := ConnectHTTPS(ctx, url, clientTLS(t, cert))
		g.Expect(err).To(MatchError(context.Canceled))
	})
}
