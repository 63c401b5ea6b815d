package host

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// fakeSSHServer is an SSH server on loopback that runs commands here and
// forwards connections, for who has the key.
func fakeSSHServer(t *testing.T, own ssh.Signer, trusted ssh.PublicKey) (address string) {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), trusted.Marshal()) {
			return nil, errors.New("not this key")
		}
		return nil, nil
	}}
	config.AddHostKey(own)
	var l net.ListenConfig
	listener, err := l.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, channels, requests, err := ssh.NewServerConn(raw, config)
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				go ssh.DiscardRequests(requests)
				for channel := range channels {
					switch channel.ChannelType() {
					case "session":
						go session(t, channel)
					case "direct-tcpip":
						go forward(channel)
					default:
						_ = channel.Reject(ssh.UnknownChannelType, "no")
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

func session(t *testing.T, asked ssh.NewChannel) {
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	defer func() { _ = channel.Close() }()
	for r := range requests {
		var command struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command.Line)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
		_ = cmd.Run()
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(cmd.ProcessState.ExitCode())}))
		return
	}
}

func forward(asked ssh.NewChannel) {
	var to struct {
		Address string
		Port    uint32
		From    string
		Source  uint32
	}
	if err := ssh.Unmarshal(asked.ExtraData(), &to); err != nil || to.Port == 1 {
		_ = asked.Reject(ssh.ConnectionFailed, "connection refused")
		return
	}
	channel, requests, err := asked.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	_, _ = io.WriteString(channel, to.Address)
	_ = channel.Close()
}

// sshUser is a user with a home folder, a key, and known hosts.
type sshUser struct {
	home string
	key  ssh.Signer
}

func newSSHUser(t *testing.T) sshUser {
	t.Helper()
	u := sshUser{home: t.TempDir()}
	t.Setenv("HOME", u.home)
	t.Setenv("SSH_AUTH_SOCK", "")
	var private []byte
	u.key, private = newKey(t)
	u.write(t, "id_ed25519", private)
	return u
}

func (u sshUser) write(t *testing.T, name string, content []byte) {
	t.Helper()
	dir := filepath.Join(u.home, ".ssh")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestSSHMachine(t *testing.T) {
	g := NewWithT(t)
	u := newSSHUser(t)
	own, _ := newKey(t)
	address := fakeSSHServer(t, own, u.key.PublicKey())
	u.write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, own.PublicKey())+"\n"))
	m, err := dialSSH(t.Context(), "root@"+address)
	g.Expect(err).NotTo(HaveOccurred())

	args := []string{"sh", "-c", `printf '%s|' "$@" "$GREETING"; cat; echo aside >&2`, "x", "it's", "a b", "$HOME", "*"}
	out, err := m.Run(t.Context(), provisioner.Command{Args: args, Env: map[string]string{"GREETING": "hello; exit 3"}, Stdin: strings.NewReader("what is said")})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(Equal(provisioner.Output{Stdout: "it's|a b|$HOME|*|hello; exit 3|what is said", Stderr: "aside\n"}))

	out, err = m.Run(t.Context(), provisioner.Command{Args: []string{"sh", "-c", "echo no >&2; exit 7"}})
	var failed *provisioner.HostCommandError
	g.Expect(errors.As(err, &failed)).To(BeTrue(), "%v", err)
	g.Expect(out.ExitCode).To(Equal(7))

	facts, err := observe(t.Context(), m.Run)
	g.Expect(err).NotTo(HaveOccurred())
	here, err := observe(t.Context(), thisMachine{}.Run)
	g.Expect(err).NotTo(HaveOccurred())
	facts.MemoryFreeBytes, here.MemoryFreeBytes = nil, nil
	g.Expect(facts).To(Equal(here))

	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	_, err = m.Run(ctx, provisioner.Command{Args: []string{"sleep", "60"}})
	g.Expect(err).To(MatchError(enough))

	conn, err := m.Dial(t.Context(), "tcp", "10.9.8.7:80")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(io.ReadAll(conn)).To(BeEquivalentTo("10.9.8.7"))
	_, err = m.Dial(t.Context(), "tcp", "10.9.8.7:1")
	g.Expect(err).To(MatchError(ContainSubstring("connection refused")))

	m.Close()
	_, err = m.Run(t.Context(), provisioner.Command{Args: []string{"true"}})
	g.Expect(err).To(HaveOccurred())
	g.Expect(errors.As(err, &failed) && failed.Output.ExitCode == 0).To(BeFalse(), "that is no answer of the command's")
}

// TestSSHRefuses: a machine that is not known, or another than the one that is,
// is not spoken to, and neither is one that does not want the user's keys.
func TestSSHRefuses(t *testing.T) {
	own, _ := newKey(t)
	other, _ := newKey(t)
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, u sshUser, address string)
		want    string
	}{
		"no known hosts": {func(*testing.T, sshUser, string) {}, "connect once with ssh to make the file"},
		"unknown": {func(t *testing.T, u sshUser, _ string) {
			u.write(t, "known_hosts", []byte(knownhosts.Line([]string{"10.0.0.1"}, own.PublicKey())+"\n"))
		}, "connect once with ssh and compare the fingerprint"},
		"another key": {func(t *testing.T, u sshUser, address string) {
			u.write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, other.PublicKey())+"\n"))
		}, "it shows another key than"},
		"no key": {func(t *testing.T, u sshUser, address string) {
			u.write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, own.PublicKey())+"\n"))
			if err := os.Remove(filepath.Join(u.home, ".ssh", "id_ed25519")); err != nil {
				t.Fatal(err)
			}
		}, "there is no key"},
		"a key that is not wanted": {func(t *testing.T, u sshUser, address string) {
			u.write(t, "known_hosts", []byte(knownhosts.Line([]string{address}, own.PublicKey())+"\n"))
			_, private := newKey(t)
			u.write(t, "id_ed25519", private)
		}, "unable to authenticate"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			u := newSSHUser(t)
			address := fakeSSHServer(t, own, u.key.PublicKey())
			tc.prepare(t, u, address)
			_, err := dialSSH(t.Context(), "root@"+address)
			g.Expect(err).To(MatchError(And(ContainSubstring("connect to root@"+address+" over SSH"), ContainSubstring(tc.want))))
		})
	}
}
