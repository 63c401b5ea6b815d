package qemu

import (
	"archive/tar"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
)

// Certificate is a certificate of one boot, with its key.
type Certificate struct {
	Cert, Key string
}

// secrets are made for one boot and die with it.
type secrets struct {
	// client is empty where Incus is to trust nobody.
	server, client Certificate
	// The machine's SSH host key, and the key that it lets in.
	hostKey, userKey ssh.Signer
	hostPEM          []byte
}

// secretsLast is how long certificates are valid: longer than any run.
const secretsLast = 30 * 24 * time.Hour

func newSecrets() (s secrets, err error) {
	if s.server, err = newCertificate("lxcmatrix machine", x509.ExtKeyUsageServerAuth); err != nil {
		return s, err
	}
	if s.client, err = newCertificate("lxcmatrix", x509.ExtKeyUsageClientAuth); err != nil {
		return s, err
	}
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return s, fmt.Errorf("make an SSH host key: %w", err)
	}
	_, user, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return s, fmt.Errorf("make an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(host, "")
	if err != nil {
		return s, fmt.Errorf("make an SSH host key: %w", err)
	}
	s.hostPEM = pem.EncodeToMemory(block)
	if s.hostKey, err = ssh.NewSignerFromKey(host); err != nil {
		return s, fmt.Errorf("make an SSH host key: %w", err)
	}
	if s.userKey, err = ssh.NewSignerFromKey(user); err != nil {
		return s, fmt.Errorf("make an SSH key: %w", err)
	}
	return s, nil
}

// newCertificate makes a self-signed certificate, as Incus uses them.
func newCertificate(name string, usage x509.ExtKeyUsage) (Certificate, error) {
	fail := func(err error) (Certificate, error) {
		return Certificate{}, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fail(err)
	}
	// The machine's clock is this machine's, give or take.
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(secretsLast),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true,
		DNSNames: []string{"lxcmatrix"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fail(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	return Certificate{
		Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}, nil
}

// writeSeed writes what the machine needs to know as a tarball that is a disk:
// a whole number of sectors. Only root can read it.
func (s secrets) writeSeed(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the machine's keys: %w", err)
	}
	err = errors.Join(s.seed(f), f.Close())
	if err != nil {
		return fmt.Errorf("write the machine's keys: %w", err)
	}
	return nil
}

func (s secrets) seed(to io.Writer) error {
	w := tar.NewWriter(to)
	files := []struct{ name, content string }{
		{"ssh/host_key", string(s.hostPEM)},
		{"ssh/authorized_keys", string(ssh.MarshalAuthorizedKey(s.userKey.PublicKey()))},
		{"incus/server.crt", s.server.Cert},
		{"incus/server.key", s.server.Key},
	}
	if s.client.Cert != "" {
		files = append(files, struct{ name, content string }{"client.crt", s.client.Cert})
	}
	for _, file := range files {
		err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o600, Size: int64(len(file.content)), Format: tar.FormatUSTAR})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, file.content); err != nil {
			return err
		}
	}
	return w.Close()
}
