package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// The listeners of the load balancer, and the ports behind them.
const (
	apiListener = "api"
	apiPort     = 6443
	webListener = "http"
	webPort     = 8080
	// nodePort is that of the probe workload, on every node; see the manifest
	// workload-kinds.yaml.
	nodePort = 30180
	// apiName is one that every API server's certificate is for.
	apiName = "kubernetes"
)

// requestPatience bounds a request to the API server.
const requestPatience = 5 * time.Second

// balancer is HAProxy in front of a cluster.
type balancer struct {
	proxy *containers.HAProxy
	// before is what HAProxy said when it began to be watched.
	before  []containers.ServerState
	clients map[string]*containers.Client
}

func startBalancer(ctx context.Context, engine containers.Engine, name string, servers int, nodes []provisioner.Node) (*balancer, error) {
	behind := func(nodes []provisioner.Node, port int) (all []containers.Server) {
		for _, n := range nodes {
			all = append(all, containers.Server{Name: n.Name(), Address: net.JoinHostPort(n.Address(), strconv.Itoa(port))})
		}
		return all
	}
	proxy, err := containers.StartHAProxy(ctx, engine, name, []containers.Listener{
		{Name: apiListener, Port: apiPort, TLS: true, Path: "/readyz", Servers: behind(nodes[:servers], apiPort)},
		{Name: webListener, Port: webPort, Path: "/healthz", Servers: behind(nodes, nodePort)},
	})
	if err != nil {
		return nil, err
	}
	return &balancer{proxy: proxy, clients: map[string]*containers.Client{}}, nil
}

func (b *balancer) remove(ctx context.Context) error {
	b.stop()
	return b.proxy.Remove(ctx)
}

// stop ends the clients.
func (b *balancer) stop() (all []matrix.Traffic, errs map[string]string) {
	errs = map[string]string{}
	for _, name := range []string{apiListener, webListener} {
		c, there := b.clients[name]
		if !there {
			continue
		}
		saw := c.Stop()
		delete(b.clients, name)
		through := matrix.ServiceHAProxy + "/" + name
		errs[through] = saw.LastError
		all = append(all, matrix.Traffic{Through: through, Sent: saw.Sent, Failed: saw.Failed, LongestGap: matrix.Duration(saw.LongestGap)})
	}
	return all, errs
}

// steady waits until HAProxy says that every server is up.
func (b *balancer) steady(ctx context.Context, _ *provisioner.Cluster) []matrix.Evidence {
	began := time.Now()
	states, err := b.proxy.Await(ctx, containers.AllUp)
	return took(began, up(states, err)...)
}

// up is what is to be said of servers that are to be up. That HAProxy could not
// be asked says nothing of them.
func up(states []containers.ServerState, err error) (all []matrix.Evidence) {
	if err != nil && (len(states) == 0 || containers.AllUp(states)) {
		return []matrix.Evidence{{Check: matrix.ServiceHAProxy, Saw: err.Error(), Want: "an answer of its stats socket"}}
	}
	for _, s := range states {
		e := matrix.Evidence{Check: matrix.ServiceHAProxy, Node: s.Server, Outcome: matrix.Healthy, Saw: s.String()}
		if !s.Up {
			e.Outcome, e.Want = matrix.Unhealthy, "UP"
		}
		all = append(all, e)
	}
	return all
}

// config is that of the administrator's, through HAProxy. What a kubeconfig may
// ask for beside certificates is left out: it comes out of a node.
func (b *balancer) config(cluster *provisioner.Cluster) (*rest.Config, error) {
	given, err := clientcmd.RESTConfigFromKubeConfig(cluster.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if len(given.CAData) == 0 {
		return nil, errors.New("read kubeconfig: it has no certificate authority to verify the API server by")
	}
	return &rest.Config{Host: "https://" + net.JoinHostPort(apiName, strconv.Itoa(apiPort)), BearerToken: given.BearerToken,
		TLSClientConfig: rest.TLSClientConfig{ServerName: apiName, CAData: given.CAData, CertData: given.CertData, KeyData: given.KeyData, NextProtos: []string{"http/1.1"}},
		Timeout:         requestPatience, QPS: -1, UserAgent: "lxcmatrix", WarningHandler: rest.NoWarnings{},
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.proxy.Dial(ctx, apiPort) }}, nil
}

func (b *balancer) watch(ctx context.Context, cluster *provisioner.Cluster) error {
	// Those of a restart that was not seen to its end.
	b.stop()
	states, err := b.proxy.States(ctx)
	if err != nil {
		return err
	}
	config, err := b.config(cluster)
	if err != nil {
		return err
	}
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	b.before = states
	// Each request has a connection of its own, as new clients have.
	api := &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure, DialContext: config.Dial}
	authorized, err := rest.HTTPWrappersForConfig(config, api)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	web := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.proxy.Dial(ctx, webPort) }}
	outlives := context.WithoutCancel(ctx)
	b.clients[apiListener] = containers.Ask(outlives, get(authorized, config.Host+"/readyz"))
	b.clients[webListener] = containers.Ask(outlives, get(web, "http://probe/healthz"))
	return nil
}

// get asks for a URL once; any answer but 200 is an error.
func get(transport http.RoundTripper, url string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("get %s: %s", url, answer.Status)
		}
		return nil
	}
}

func (b *balancer) seen(ctx context.Context, cluster *provisioner.Cluster, fell bool) ([]matrix.Evidence, []matrix.Traffic) {
	began := time.Now()
	evidence := b.steady(ctx, cluster)
	states, err := b.proxy.States(ctx)
	traffic, errs := b.stop()
	if err != nil {
		return append(evidence, took(began, up(nil, err)...)...), traffic
	}
	evidence = append(evidence, took(began, since(b.before, states, fell)...)...)
	return append(evidence, clients(traffic, errs)...), traffic
}

// since is what HAProxy saw of its servers between two looks.
func since(before, now []containers.ServerState, fell bool) (all []matrix.Evidence) {
	for _, s := range now {
		e := matrix.Evidence{Check: "haproxy-down", Node: s.Server, Outcome: matrix.Healthy}
		i := slices.IndexFunc(before, func(b containers.ServerState) bool { return b.Listener == s.Listener && b.Server == s.Server })
		if i < 0 || s.Downs < before[i].Downs || s.Down < before[i].Down {
			e.Outcome, e.Saw, e.Want = matrix.Undecided, fmt.Sprintf("%s/%s: HAProxy counts from the start again", s.Listener, s.Server), "one HAProxy all the time"
			all = append(all, e)
			continue
		}
		downs, down := s.Downs-before[i].Downs, s.Down-before[i].Down
		e.Saw = fmt.Sprintf("%s/%s was DOWN %d times, %s in all, and is %s", s.Listener, s.Server, downs, down, s.Status)
		if fell && downs == 0 {
			e.Outcome, e.Want = matrix.Unhealthy, "DOWN while it restarted"
		}
		all = append(all, e)
	}
	return all
}

// clients is what clients saw. Failures are what a restart is like; that no
// request at all had a good answer is not.
func clients(traffic []matrix.Traffic, errs map[string]string) (all []matrix.Evidence) {
	for _, t := range traffic {
		e := matrix.Evidence{Check: "haproxy-client", Outcome: matrix.Healthy,
			Saw: fmt.Sprintf("%s: %d requests sent, %d failed, longest gap %s", t.Through, t.Sent, t.Failed, t.LongestGap.Std().Round(10*time.Millisecond))}
		if last := errs[t.Through]; last != "" {
			e.Saw += "; failed last with: " + last
		}
		switch {
		case t.Sent == 0:
			e.Outcome, e.Want = matrix.Undecided, "requests"
		case t.Failed == t.Sent:
			e.Outcome, e.Want = matrix.Unhealthy, "a good answer"
		}
		all = append(all, e)
	}
	return all
}
