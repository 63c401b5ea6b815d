package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// sshMachine is a machine that is reached over SSH.
type sshMachine struct {
	address string
	client  *ssh.Client
}

var _ machine = (*sshMachine)(nil)

// sshPatience bounds the handshake.
const sshPatience = 20 * time.Second

// dialSSH connects to USER@ADDRESS[:PORT] with the keys of the user's agent and
// those in ~/.ssh that have no passphrase. The machine's key must be in the
// user's known_hosts.
func dialSSH(ctx context.Context, target string) (*sshMachine, error) {
	fail := func(err error) (*sshMachine, error) {
		return nil, fmt.Errorf("connect to %s over SSH: %w", target, err)
	}
	user, address, ok := strings.Cut(target, "@")
	if !ok {
		return fail(errors.New("want USER@ADDRESS or USER@ADDRESS:PORT"))
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "22")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return fail(err)
	}
	known := filepath.Join(home, ".ssh", "known_hosts")
	check, err := knownhosts.New(known)
	if err != nil {
		return fail(fmt.Errorf("read the keys of known hosts: %w; connect once with ssh to make the file", err))
	}
	signers, done, err := sshSigners(ctx, filepath.Join(home, ".ssh"))
	if err != nil {
		return fail(err)
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, sshPatience)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)}, HostKeyCallback: check, HostKeyAlgorithms: knownAlgorithms(check, address)})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		var key *knownhosts.KeyError
		switch {
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case errors.As(err, &key) && len(key.Want) == 0:
			err = fmt.Errorf("%w: %s has no key of it; connect once with ssh and compare the fingerprint", err, known)
		case errors.As(err, &key):
			err = fmt.Errorf("%w: it shows another key than %s", err, key.Want[0].String())
		}
		return fail(err)
	}
	return &sshMachine{address: target, client: ssh.NewClient(conn, channels, requests)}, nil
}

// sshSigners are the user's keys. done ends the connection to the agent, which
// is needed only for the handshake.
func sshSigners(ctx context.Context, folder string) (signers []ssh.Signer, done func(), err error) {
	done = func() {}
	if socket := os.Getenv("SSH_AUTH_SOCK"); socket != "" {
		var d net.Dialer
		if conn, err := d.DialContext(ctx, "unix", socket); err == nil {
			done = func() { _ = conn.Close() }
			held, err := agent.NewClient(conn).Signers()
			if err != nil {
				done()
				return nil, nil, fmt.Errorf("ask the SSH agent for its keys: %w", err)
			}
			signers = held
		}
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var signer ssh.Signer
		if err == nil {
			signer, err = ssh.ParsePrivateKey(content)
		}
		var passphrase *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &passphrase):
			// The agent has it, or nobody can be asked for the passphrase here.
		case err != nil:
			done()
			return nil, nil, fmt.Errorf("read the SSH key %s: %w", filepath.Join(folder, name), err)
		default:
			signers = append(signers, signer)
		}
	}
	if len(signers) == 0 {
		done()
		return nil, nil, fmt.Errorf("there is no key: neither has the agent one, nor %s one without a passphrase", folder)
	}
	return signers, done, nil
}

// knownAlgorithms are those of the keys that are known of an address, so that
// the machine shows one of these and not another of its own.
func knownAlgorithms(check ssh.HostKeyCallback, address string) []string {
	var key *knownhosts.KeyError
	if err := check(address, &net.TCPAddr{}, noKey{}); !errors.As(err, &key) {
		return nil
	}
	var algorithms []string
	for _, k := range key.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			algorithms = append(algorithms, t)
		}
	}
	return slices.Compact(algorithms)
}

// noKey is a key that nobody has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// Run runs a command on the machine through the user's shell there.
func (m *sshMachine) Run(ctx context.Context, command provisioner.Command) (provisioner.Output, error) {
	fail := func(out provisioner.Output, err error) (provisioner.Output, error) {
		return out, fmt.Errorf("run %q on %s: %w", strings.Join(command.Args, " "), m.address, err)
	}
	session, err := m.client.NewSession()
	if err != nil {
		return fail(provisioner.Output{}, err)
	}
	defer func() { _ = session.Close() }()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = command.Stdin, &stdout, &stderr
	done := make(chan error, 1)
	if err := session.Start(shellWords(command)); err != nil {
		return fail(provisioner.Output{}, err)
	}
	go func() { done <- session.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// The buffers are still written to; what they hold is lost.
		_ = session.Signal(ssh.SIGKILL)
		return fail(provisioner.Output{}, context.Cause(ctx))
	}
	out := provisioner.Output{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		out.ExitCode = exit.ExitStatus()
		return out, &provisioner.HostCommandError{Command: command.Args, Output: out}
	case err != nil:
		return fail(out, err)
	}
	return out, nil
}

// shellWords is a command as a shell reads it: servers refuse variables that
// they do not know, and pass on one string.
func shellWords(command provisioner.Command) string {
	var words []string
	if len(command.Env) > 0 {
		words = append(words, "env")
		for _, key := range slices.Sorted(maps.Keys(command.Env)) {
			words = append(words, key+"="+command.Env[key])
		}
	}
	words = append(words, command.Args...)
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// Dial connects from the machine; its SSH server must allow forwarding.
func (m *sshMachine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := m.client.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("through %s: %w", m.address, err)
	}
	return conn, nil
}

// Close ends the connection; one that has ended already is no error.
func (m *sshMachine) Close() { _ = m.client.Close() }
