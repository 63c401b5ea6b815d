package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	remotecommandconsts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// execTimeout bounds one command in a pod; the commands are the probe's, with
// shorter timeouts of their own.
const execTimeout = 15 * time.Second

// spdyPing keeps a silent SPDY connection known to be alive.
const spdyPing = 5 * time.Second

// execResult is what a command in a pod left.
type execResult struct {
	stdout, stderr string
	// protocol is what carried it: websocket or SPDY.
	protocol string
}

// exec runs a command in a probe pod through the API server, over a WebSocket
// or, where the server cannot do that, SPDY. An error says what the command
// printed.
func (c *client) exec(ctx context.Context, pod string, args ...string) (execResult, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	target := c.core.RESTClient().Post().Namespace(probeNamespace).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: probeContainer, Command: args, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()

	over := &webSocketExecutor{config: c.config, transport: c.transport, url: target}
	legacy, err := c.spdyExecutor(target)
	if err != nil {
		return execResult{}, err
	}
	result := execResult{protocol: "WebSocket"}
	executor, err := remotecommand.NewFallbackExecutor(over, legacy, func(err error) bool {
		if httpstream.IsUpgradeFailure(err) {
			result.protocol = "SPDY"
			return true
		}
		return false
	})
	if err != nil {
		return execResult{}, fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("exec %q in pod %s: %w", strings.Join(args, " "), pod, err)
		if outOfTime(ctx) {
			// The SPDY executor's copying may still write to the buffers.
			return execResult{protocol: result.protocol}, err
		}
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	result.stdout, result.stderr = stdout.String(), stderr.String()
	return result, err
}

// spdyExecutor is client-go's, over the client's own way of dialing, which
// client-go's own constructor leaves out.
func (c *client) spdyExecutor(target *url.URL) (remotecommand.Executor, error) {
	upgrader, err := httpstreamspdy.NewRoundTripperWithConfig(httpstreamspdy.RoundTripperConfig{
		UpgradeTransport: c.transport, PingPeriod: spdyPing,
	})
	if err != nil {
		return nil, fmt.Errorf("make SPDY executor: %w", err)
	}
	wrapped, err := rest.HTTPWrappersForConfig(c.config, upgrader)
	if err != nil {
		return nil, fmt.Errorf("make SPDY executor: %w", err)
	}
	return remotecommand.NewSPDYExecutorForTransports(wrapped, spdy.NewUpgraderForStreaming(upgrader), http.MethodPost, target)
}

// webSocketExecutor runs commands without input over a WebSocket. client-go's
// own dials by itself, whatever rest.Config.Dial says, and so cannot reach a
// node that only its host can.
type webSocketExecutor struct {
	config    *rest.Config
	transport *http.Transport
	url       *url.URL
}

// Stream is StreamWithContext without an end.
func (e *webSocketExecutor) Stream(options remotecommand.StreamOptions) error {
	return e.StreamWithContext(context.Background(), options)
}

// StreamWithContext runs the command to its end, or until ctx ends.
func (e *webSocketExecutor) StreamWithContext(ctx context.Context, options remotecommand.StreamOptions) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url.String(), nil)
	if err != nil {
		return err
	}
	upgrade := &webSocketUpgrade{transport: e.transport}
	wrapped, err := rest.HTTPWrappersForConfig(e.config, upgrade)
	if err != nil {
		return err
	}
	response, err := wrapped.RoundTrip(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close() // Empty: the connection is the WebSocket's now.
	conn := upgrade.conn
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	var status []byte
	for {
		_, message, err := conn.ReadMessage()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && status != nil:
			return exitStatus(status)
		case err != nil:
			return fmt.Errorf("connection ended before the command's status: %w", err)
		case len(message) == 0:
			continue
		}
		switch message[0] {
		case remotecommandconsts.StreamStdOut:
			_, err = options.Stdout.Write(message[1:])
		case remotecommandconsts.StreamStdErr:
			_, err = options.Stderr.Write(message[1:])
		case remotecommandconsts.StreamErr:
			status = append(status, message[1:]...)
		}
		if err != nil {
			return err
		}
	}
}

// webSocketUpgrade is a round trip that ends in a WebSocket.
type webSocketUpgrade struct {
	transport *http.Transport
	conn      *websocket.Conn
}

// RoundTrip opens the WebSocket. That the server does not is an
// *httpstream.UpgradeFailureError.
func (u *webSocketUpgrade) RoundTrip(request *http.Request) (*http.Response, error) {
	to := *request.URL
	to.Scheme = "wss"
	d := websocket.Dialer{
		NetDialContext:   u.transport.DialContext,
		TLSClientConfig:  u.transport.TLSClientConfig,
		HandshakeTimeout: requestTimeout,
		Subprotocols:     []string{remotecommandconsts.StreamProtocolV5Name, remotecommandconsts.StreamProtocolV4Name},
	}
	conn, response, err := d.DialContext(request.Context(), to.String(), request.Header)
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // What there is of it.
		_ = response.Body.Close()
		cause := fmt.Errorf("%s: %s", response.Status, apiMessage(body))
		if response.StatusCode >= 500 || response.StatusCode == http.StatusNotFound {
			// Not for want of WebSockets: SPDY would fare no better.
			return nil, cause
		}
		return nil, &httpstream.UpgradeFailureError{Cause: cause}
	}
	if err != nil {
		return nil, err
	}
	if conn.Subprotocol() == "" {
		_ = conn.Close()
		return nil, &httpstream.UpgradeFailureError{Cause: errors.New("the server chose no subprotocol")}
	}
	u.conn = conn
	return response, nil
}

// apiMessage is the message of a metav1.Status, or the text itself.
func apiMessage(body []byte) string {
	var s metav1.Status
	if json.Unmarshal(body, &s) == nil && s.Message != "" {
		return s.Message
	}
	return strings.TrimSpace(string(body))
}

// exitStatus turns what the API server says of a command's end into an error.
func exitStatus(status []byte) error {
	var s metav1.Status
	if err := json.Unmarshal(status, &s); err != nil {
		return fmt.Errorf("read the command's status %q: %w", status, err)
	}
	if s.Status == metav1.StatusSuccess {
		return nil
	}
	if s.Message == "" {
		return fmt.Errorf("the command's status is %q", status)
	}
	return errors.New(s.Message)
}
