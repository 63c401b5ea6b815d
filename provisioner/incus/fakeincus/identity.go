package fakeincus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
)

// Identity is how a server and its one client show who they are. Making one
// takes longer than a handshake does: tests share it.
type Identity struct {
	// Server is the server's own, Certificate the same in PEM.
	Server      *tls.Config
	Certificate string
	// ClientCert and ClientKey are the client's, in PEM.
	ClientCert, ClientKey string
}

// NewIdentity makes new certificates.
func NewIdentity() (Identity, error) {
	server, serverKey, err := certificate()
	if err != nil {
		return Identity{}, err
	}
	pair, err := tls.X509KeyPair([]byte(server), []byte(serverKey))
	if err != nil {
		return Identity{}, fmt.Errorf("make a certificate: %w", err)
	}
	id := Identity{Certificate: server, Server: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}}
	id.ClientCert, id.ClientKey, err = certificate()
	return id, err
}

func certificate() (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate: %w", err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("encode a key: %w", err)
	}
	write := func(kind string, content []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))
	}
	return write("CERTIFICATE", signed), write("PRIVATE KEY", encoded), nil
}
