package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// requestTimeout bounds one request to the API server. A server that starts
// answers in milliseconds or not at all.
const requestTimeout = 5 * time.Second

// client talks to a cluster's API server through the host that its nodes are
// on. It is made anew for each phase, so that no connection outlives a restart.
type client struct {
	config    *rest.Config
	transport *http.Transport
	core      coreclient.CoreV1Interface
	apps      appsclient.AppsV1Interface
	batch     batchclient.BatchV1Interface
	leases    coordinationclient.CoordinationV1Interface
	slices    discoveryclient.DiscoveryV1Interface
}

// connect makes a client from the cluster's kubeconfig; it sends nothing yet.
// The kubeconfig's certificate authority is kept. A kubeconfig comes out of a
// node, so one that would make the harness run a program, read a file of its
// own or skip verification is refused.
func connect(cluster *provisioner.Cluster) (*client, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(cluster.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	server, err := url.Parse(config.Host)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read kubeconfig: server %q: %w", config.Host, err)
	case server.Scheme != "https":
		return nil, fmt.Errorf("read kubeconfig: server %q is not https", config.Host)
	case config.Insecure || len(config.CAData) == 0:
		return nil, errors.New("read kubeconfig: it has no certificate authority to verify the API server by")
	case config.ExecProvider != nil || config.AuthProvider != nil:
		return nil, errors.New("read kubeconfig: it asks for a program to be run for credentials")
	case config.BearerTokenFile != "" || config.CertFile != "" || config.KeyFile != "" || config.CAFile != "":
		return nil, errors.New("read kubeconfig: it refers to files outside of itself")
	case len(cluster.Nodes) == 0:
		return nil, errors.New("connect to API server: the cluster has no nodes")
	}
	config.Proxy = nil
	config.Dial = dialer(cluster)
	return newClient(config)
}

// newClient makes a client of a configuration that it takes over; it sends
// nothing yet.
func newClient(config *rest.Config) (*client, error) {
	// HTTP/1.1 gives up a connection together with a request that got no
	// answer; HTTP/2 would go on using one whose node was killed.
	config.NextProtos = []string{"http/1.1"}
	config.Timeout = requestTimeout
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = "lxcmatrix"
	config.AcceptContentTypes = strings.Join([]string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON}, ",")
	config.ContentType = runtime.ContentTypeJSON

	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// Not client-go's own, which a cache keeps beyond the client's end.
	transport := &http.Transport{
		Proxy:               config.Proxy,
		DialContext:         config.Dial,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: requestTimeout,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	c := &client{config: config, transport: transport}
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	hc := &http.Client{Transport: wrapped, Timeout: requestTimeout}
	if c.core, err = coreclient.NewForConfigAndClient(config, hc); err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	if c.apps, err = appsclient.NewForConfigAndClient(config, hc); err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	if c.batch, err = batchclient.NewForConfigAndClient(config, hc); err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	if c.leases, err = coordinationclient.NewForConfigAndClient(config, hc); err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	if c.slices, err = discoveryclient.NewForConfigAndClient(config, hc); err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	return c, nil
}

// quiet keeps client-go from printing on the terminal what it returns as errors
// as well.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, klog.Logger{}) }

// close gives up the client's connections.
func (c *client) close() { c.transport.CloseIdleConnections() }

// raw reads a path of the API server. The body is there with an error too.
func (c *client) raw(ctx context.Context, path, query string) ([]byte, error) {
	r := c.core.RESTClient().Get().AbsPath(path)
	if query != "" {
		r = r.Param(query, "")
	}
	return r.Do(ctx).Raw()
}

// logs reads a pod's log, at most limit bytes of it.
func (c *client) logs(ctx context.Context, namespace, pod, container string, limit int64) (string, error) {
	stream, err := c.core.RESTClient().Get().Namespace(namespace).Resource("pods").Name(pod).SubResource("log").
		Param("container", container).Param("limitBytes", strconv.FormatInt(limit, 10)).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = stream.Close() }()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(stream, limit)); err != nil {
		return "", fmt.Errorf("read log of pod %s: %w", pod, err)
	}
	return b.String(), nil
}

// dialer reaches the API server's address through the host.
func dialer(cluster *provisioner.Cluster) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		host, service, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("dial API server %q: %w", address, err)
		}
		port, err := strconv.Atoi(service)
		if err != nil {
			return nil, fmt.Errorf("dial API server %q: port: %w", address, err)
		}
		for _, n := range cluster.Nodes {
			if n.Address() == host {
				return dial(ctx, cluster.Host, n.Name(), port)
			}
		}
		// An address that is no node's is a name that stands for the servers.
		return dialFirst(ctx, cluster.Host, cluster.Nodes[:max(1, min(cluster.Cell.Topology.Servers, len(cluster.Nodes)))], port)
	}
}

// nextServer is how long a server may take to accept before another is tried;
// one that runs does so at once.
const nextServer = time.Second

// dialFirst reaches a port of the first of the servers that accepts.
func dialFirst(ctx context.Context, host provisioner.Host, servers []provisioner.Node, port int) (net.Conn, error) {
	var errs []error
	for i, n := range servers {
		try, cancel := ctx, context.CancelFunc(func() {})
		if i < len(servers)-1 {
			try, cancel = context.WithTimeout(ctx, nextServer)
		}
		conn, err := dial(try, host, n.Name(), port)
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dial reaches a port of a node; an error that is not the node's own answer is
// a *blindError.
func dial(ctx context.Context, host provisioner.Host, node string, port int) (net.Conn, error) {
	conn, err := host.Dial(ctx, node, port)
	if err != nil && !nodesAnswer(err) {
		return nil, &blindError{fmt.Errorf("dial port %d of node %s: %w", port, node, err)}
	}
	return conn, err
}

// nodesAnswer says whether a failure to dial tells something of the node: it
// refused, or did not answer.
func nodesAnswer(err error) bool {
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, own) {
			return false
		}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return strings.HasPrefix(op.Net, "tcp")
	}
	var errno syscall.Errno
	return errors.As(err, &errno) || provisioner.IsNodes(err) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF)
}

// blindError is a failure that says nothing of the cluster: the harness could
// not look.
type blindError struct{ err error }

// Error is the cause's text.
func (e *blindError) Error() string { return e.err.Error() }

// Unwrap is the cause.
func (e *blindError) Unwrap() error { return e.err }

// run runs a command in a node. An error that is neither the command's nor the
// node's nor a command that did not end is a *blindError.
func run(ctx context.Context, node provisioner.Node, args ...string) (string, error) {
	out, err := node.Exec(ctx, provisioner.Command{Args: args})
	switch {
	case err == nil:
		return out.Stdout, nil
	case provisioner.IsNodes(err), outOfTime(ctx):
		return out.Stdout, err
	}
	return "", &blindError{err}
}

// isBlind says whether the harness could not look.
func isBlind(err error) bool {
	var blind *blindError
	return errors.As(err, &blind)
}
