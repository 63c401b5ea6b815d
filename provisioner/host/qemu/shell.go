package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// shell is the way to a machine's own system: one SSH connection, made when it
// is first needed, and again when it broke.
type shell struct {
	address string
	config  *ssh.ClientConfig
	// client holds the connection, or nil; who has taken it out has it alone.
	client chan *ssh.Client
}

func newShell(address string, keys secrets) *shell {
	s := &shell{address: address, client: make(chan *ssh.Client, 1), config: &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(keys.userKey)},
		HostKeyCallback:   ssh.FixedHostKey(keys.hostKey.PublicKey()),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}}
	s.client <- nil
	return s
}

// connect is the connection there is, or a new one.
func (s *shell) connect(ctx context.Context) (*ssh.Client, error) {
	var client *ssh.Client
	select {
	case client = <-s.client:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { s.client <- client }()
	if client != nil {
		return client, nil
	}
	fail := func(err error) (*ssh.Client, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("reach the machine by SSH: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, s.address, s.config)
	if err != nil {
		_ = conn.Close()
		return fail(err)
	}
	if !stop() {
		_ = c.Close()
		return fail(context.Cause(ctx))
	}
	client = ssh.NewClient(c, channels, requests)
	return client, nil
}

// drop forgets a connection that is of no use, unless there is a newer one.
func (s *shell) drop(broken *ssh.Client) {
	_ = broken.Close()
	client := <-s.client
	if client == broken {
		client = nil
	}
	s.client <- client
}

func (s *shell) close() {
	client := <-s.client
	if client != nil {
		_ = client.Close()
	}
	s.client <- nil
}

// over opens something over the connection, and once more over a new one where
// the connection that was there is broken.
func over[T any](ctx context.Context, s *shell, open func(*ssh.Client) (T, error)) (T, error) {
	for again := true; ; again = false {
		client, err := s.connect(ctx)
		if err != nil {
			var none T
			return none, err
		}
		opened, err := open(client)
		// A refusal is an answer.
		var refused *ssh.OpenChannelError
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil || !again {
			return opened, err
		}
		s.drop(client)
	}
}

func (s *shell) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := over(ctx, s, func(c *ssh.Client) (net.Conn, error) { return c.DialContext(ctx, network, address) })
	if err != nil {
		return nil, fmt.Errorf("dial %s from the machine: %w", address, err)
	}
	return conn, nil
}

// run runs a command to its end.
func (s *shell) run(ctx context.Context, command provisioner.Command) (provisioner.Output, error) {
	fail := func(out provisioner.Output, err error) (provisioner.Output, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return out, fmt.Errorf("run %q on the host: %w", strings.Join(command.Args, " "), err)
	}
	session, err := over(ctx, s, func(c *ssh.Client) (*ssh.Session, error) { return newSession(ctx, c) })
	if err != nil {
		return fail(provisioner.Output{}, err)
	}
	defer func() { _ = session.Close() }()
	var stdout bytes.Buffer
	var stderr leaderFirst
	session.Stdout, session.Stderr = &stdout, &stderr
	if command.Stdin != nil {
		// Not session.Stdin: a command that ends first would wait for it.
		in, err := session.StdinPipe()
		if err != nil {
			return fail(provisioner.Output{}, err)
		}
		go func() {
			// A command that does not read to the end is free to do so.
			_, _ = io.Copy(in, command.Stdin)
			_ = in.Close()
		}()
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Run(commandLine(command)) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		return fail(provisioner.Output{ExitCode: -1}, s.kill(ctx, stderr.pid()))
	}
	out := provisioner.Output{Stdout: stdout.String(), Stderr: stderr.text()}
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		out.ExitCode = exit.ExitStatus()
		return out, &provisioner.HostCommandError{Command: command.Args, Output: out}
	case err != nil:
		out.ExitCode = -1
		return fail(out, err)
	}
	return out, nil
}

// kill ends a command with all that it started; sshd, which runs as root for
// root, takes no signals for it.
func (s *shell) kill(ctx context.Context, leader string) error {
	if leader == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	session, err := over(ctx, s, func(c *ssh.Client) (*ssh.Session, error) { return newSession(ctx, c) })
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = session.Close() })()
	return session.Run("kill -9 -" + leader)
}

// leaderFirst is what a command printed to its standard error, after the line
// with the process ID of its session's leader.
type leaderFirst struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write takes what the command prints.
func (l *leaderFirst) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(text)
}

// pid is empty until the whole line is there.
func (l *leaderFirst) pid() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	pid, _, found := strings.Cut(l.all.String(), "\n")
	if !found {
		return ""
	}
	return pid
}

func (l *leaderFirst) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, text, _ := strings.Cut(l.all.String(), "\n")
	return text
}

// newSession gives up with ctx: a machine that hangs never answers.
func newSession(ctx context.Context, c *ssh.Client) (*ssh.Session, error) {
	type answer struct {
		session *ssh.Session
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		session, err := c.NewSession()
		answers <- answer{session, err}
	}()
	select {
	case a := <-answers:
		return a.session, a.err
	case <-ctx.Done():
		go func() {
			if a := <-answers; a.err == nil {
				_ = a.session.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// commandLine is the command for the machine's shell, which SSH always asks. It
// says its process ID first: sshd made that the leader of a session.
func commandLine(command provisioner.Command) string {
	var env []string
	for key, value := range command.Env {
		env = append(env, quote(key+"="+value))
	}
	slices.Sort(env)
	words := append([]string{"echo $$ >&2; exec env"}, env...)
	for _, a := range command.Args {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ")
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
