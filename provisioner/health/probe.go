package health

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// What the manifests of the probe workload call themselves.
const (
	probeNamespace = "lxcmatrix-probe"
	probeContainer = "probe"
	probeService   = "probe"
	probePort      = "8080"
	probeLabel     = "app.kubernetes.io/name=lxcmatrix-probe"
	nodeLabel      = "lxcmatrix.dev/node"
	// probeFolder is the hostPath volume, in the node and in the pod.
	probeFolder = "/var/lib/lxcmatrix/probe"
	// probeGreeting is what the probe's log begins with.
	probeGreeting = "serving on"
)

// workload: the probe runs and is Ready on every node. Before any restart it is
// created; after one it must have come back by itself.
func workload(before *Snapshot) check {
	return check{name: "workload", every: pollInterval, begin: func(s *session) look {
		var pending []runtime.Object
		rendered := before != nil
		return func(ctx context.Context) ([]finding, error) {
			if !rendered {
				var err error
				if pending, err = workloadObjects(fixtures.Manifests(), s.cluster.Nodes); err != nil {
					return nil, &blindError{err}
				}
				rendered = true
			}
			for len(pending) > 0 {
				if err := s.api.create(ctx, pending[0]); err != nil {
					return nil, err
				}
				pending = pending[1:]
			}
			found, err := s.probePods(ctx, before)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, p := range found {
				findings = append(findings, p.finding())
			}
			return findings, nil
		}
	}}
}

// workloadObjects reads the probe workload for these nodes, in the order of
// creation. What is the first node's alone is the first server's.
func workloadObjects(manifests fs.FS, nodes []provisioner.Node) ([]runtime.Object, error) {
	objects, err := decodeManifest(manifests, "workload.yaml")
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		perNode, err := decodeManifest(manifests, "workload-node.yaml")
		if err != nil {
			return nil, err
		}
		for _, o := range perNode {
			d, ok := o.(*appsv1.Deployment)
			if !ok {
				return nil, fmt.Errorf("read manifest workload-node.yaml: it holds a %T", o)
			}
			if err := pin(d, n.Name()); err != nil {
				return nil, err
			}
			objects = append(objects, d)
		}
	}
	kinds, err := decodeManifest(manifests, "workload-kinds.yaml")
	if err != nil {
		return nil, err
	}
	for _, o := range kinds {
		if v, ok := o.(*corev1.PersistentVolume); ok {
			if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
				return nil, errors.New("read manifest workload-kinds.yaml: its volume has no node affinity to set")
			}
			for _, term := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
				for i := range term.MatchExpressions {
					term.MatchExpressions[i].Values = []string{nodes[0].Name()}
				}
			}
		}
	}
	return append(objects, kinds...), nil
}

// pin makes a deployment that of one node.
func pin(d *appsv1.Deployment, node string) error {
	d.Name += "-" + node
	for _, labels := range []map[string]string{d.Labels, d.Spec.Selector.MatchLabels, d.Spec.Template.Labels} {
		labels[nodeLabel] = node
	}
	a := d.Spec.Template.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return errors.New("read manifest workload-node.yaml: it has no node affinity to set")
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for i := range term.MatchFields {
			term.MatchFields[i].Values = []string{node}
		}
	}
	return nil
}

func decodeManifest(manifests fs.FS, name string) ([]runtime.Object, error) {
	content, err := fs.ReadFile(manifests, name)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	var objects []runtime.Object
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", name, err)
		}
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", name, err)
		}
		objects = append(objects, o)
	}
}

// create makes an object; one that is there already is left as it is.
func (c *client) create(ctx context.Context, object runtime.Object) error {
	var err error
	var what string
	switch o := object.(type) {
	case *corev1.Namespace:
		what = "namespace " + o.Name
		_, err = c.core.Namespaces().Create(ctx, o, metav1.CreateOptions{})
	case *corev1.ServiceAccount:
		what = "service account " + o.Name
		_, err = c.core.ServiceAccounts(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	case *corev1.Service:
		what = "service " + o.Name
		services := c.core.Services(o.Namespace)
		// Of one that is there, its node port would be said to be taken.
		if _, err = services.Get(ctx, o.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			_, err = services.Create(ctx, o, metav1.CreateOptions{})
		}
	case *appsv1.Deployment:
		what = "deployment " + o.Name
		_, err = c.apps.Deployments(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	case *appsv1.DaemonSet:
		what = "daemon set " + o.Name
		_, err = c.apps.DaemonSets(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	case *batchv1.Job:
		what = "job " + o.Name
		_, err = c.batch.Jobs(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	case *corev1.PersistentVolume:
		what = "persistent volume " + o.Name
		_, err = c.core.PersistentVolumes().Create(ctx, o, metav1.CreateOptions{})
	case *corev1.PersistentVolumeClaim:
		what = "persistent volume claim " + o.Name
		_, err = c.core.PersistentVolumeClaims(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	default:
		return &blindError{fmt.Errorf("create a %T: the harness does not know how", object)}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s: %w", what, err)
	}
	return nil
}

// probePod is the probe on one node, or another of the workload's pods there.
type probePod struct {
	node string
	// name is the pod's; empty if there is none.
	name string
	// ip is the pod's own.
	ip string
	// problem says why it is not Ready; empty if it is.
	problem string
}

func (p probePod) finding() finding {
	f := finding{node: p.node, ok: p.problem == "", saw: fmt.Sprintf("pod %s is Ready", p.name), want: "a Ready pod"}
	if !f.ok {
		f.saw = p.problem
		if p.name != "" {
			f.saw = fmt.Sprintf("pod %s: %s", p.name, p.problem)
		}
	}
	return f
}

// probePods finds the probe on each of the cluster's nodes, in their order.
func (s *session) probePods(ctx context.Context, before *Snapshot) ([]probePod, error) {
	return s.podOnEach(ctx, before, "probe", func(p *corev1.Pod, node string) bool {
		return hasLabel(p, probeLabel) && p.Labels[nodeLabel] == node
	})
}

// podOnEach finds one of the workload's pods for each of the cluster's nodes, in
// their order; is says whether it is a node's.
func (s *session) podOnEach(ctx context.Context, before *Snapshot, what string, is func(p *corev1.Pod, node string) bool) ([]probePod, error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]probePod, 0, len(s.cluster.Nodes))
	for _, n := range s.cluster.Nodes {
		best := probePod{node: n.Name(), problem: "no " + what + " pod yet"}
		for i := range pods {
			p := &pods[i]
			if p.Namespace != probeNamespace || !is(p, n.Name()) {
				continue
			}
			problem, err := s.podProblem(ctx, before, p)
			if err != nil {
				return nil, err
			}
			if problem == "" && p.Spec.NodeName != n.Name() {
				problem = "it is on node " + p.Spec.NodeName
			}
			best.name, best.ip, best.problem = p.Name, p.Status.PodIP, problem
			if problem == "" {
				break
			}
		}
		found = append(found, best)
	}
	return found, nil
}

// fromEachProbe asks something from the probe pod of each node, once that is
// Ready. What was answered well is not asked again.
func fromEachProbe(name string, before *Snapshot, one func(ctx context.Context, s *session, from probePod, all []probePod) (finding, error)) check {
	return check{name: name, every: execInterval, begin: func(s *session) look {
		good := map[string]finding{}
		return func(ctx context.Context) ([]finding, error) {
			all, err := s.probePods(ctx, before)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, p := range all {
				f, done := good[p.node]
				switch {
				case done:
				case p.problem != "":
					f = p.finding()
				default:
					f, err = one(ctx, s, p, all)
					switch {
					case err != nil && (isBlind(err) || outOfTime(ctx)):
						// What was cut short tells less than the look before it.
						return nil, err
					case err != nil:
						f = finding{saw: shorten(err.Error()), want: f.want}
					case f.ok:
						good[p.node] = f
					}
				}
				f.node = p.node
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// patience is how long the n-th question from inside a pod may take. What is
// lost (the service's rules were not there yet) costs little at first, and a
// slow node is waited for in the end.
func patience(n int) time.Duration {
	return min(500*time.Millisecond<<min(n, 4), 5*time.Second)
}

// notServed says why a service cannot answer yet: its endpoints are not the
// pods. Asking it then would only wait for an answer that cannot come, which
// after a restart, with the endpoints of before, takes many seconds. It is
// empty if the service may be asked.
func (s *session) notServed(ctx context.Context, namespace, service string, pods []*corev1.Pod) (string, error) {
	list, err := s.api.slices.EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return "", fmt.Errorf("list endpoint slices of service %s: %w", service, err)
	}
	var have, want []string
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				have = append(have, e.Addresses...)
			}
		}
	}
	for _, p := range pods {
		want = append(want, p.Status.PodIP)
	}
	slices.Sort(have)
	slices.Sort(want)
	if slices.Equal(have, want) {
		return "", nil
	}
	return fmt.Sprintf("service %s has the endpoints [%s], its Ready pods are [%s]", service, strings.Join(have, " "), strings.Join(want, " ")), nil
}

// readyPods are those of a namespace with a label that are Ready.
func (s *session) readyPods(ctx context.Context, before *Snapshot, namespace, label string) ([]*corev1.Pod, error) {
	pods, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	var ready []*corev1.Pod
	for i := range pods {
		if p := &pods[i]; p.Namespace == namespace && hasLabel(p, label) {
			problem, err := s.podProblem(ctx, before, p)
			if err != nil {
				return nil, err
			}
			if problem == "" {
				ready = append(ready, p)
			}
		}
	}
	return ready, nil
}

// dns: kubernetes.default resolves to its service's address from a pod on
// every node, over UDP, and over TCP, which long answers take.
func dns(before *Snapshot) check {
	c := check{name: "dns", every: pollInterval}
	c.begin = func(s *session) look {
		asked := 0
		return fromEachProbe(c.name, before, func(ctx context.Context, s *session, from probePod, _ []probePod) (finding, error) {
			servers, err := s.readyPods(ctx, before, metav1.NamespaceSystem, s.expect.dns)
			if err != nil {
				return finding{}, err
			}
			if len(servers) == 0 {
				return finding{saw: "no DNS server is Ready", want: "a Ready pod with " + s.expect.dns}, nil
			}
			if problem, err := s.notServed(ctx, metav1.NamespaceSystem, s.expect.dnsService, servers); err != nil || problem != "" {
				return finding{saw: problem, want: "a service that leads to its pods"}, err
			}
			service, err := s.api.core.Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
			if err != nil {
				return finding{}, fmt.Errorf("get service kubernetes: %w", err)
			}
			want := service.Spec.ClusterIP
			timeout := patience(asked).String()
			asked++
			var f finding
			for _, over := range [...]string{"udp", "tcp"} {
				out, err := s.api.exec(ctx, from.name, "/probe", "dns", "--tcp="+strconv.FormatBool(over == "tcp"), "--timeout", timeout, "--want", want, "kubernetes.default")
				if err != nil {
					return finding{want: want}, fmt.Errorf("over %s: %w", over, err)
				}
				answers := strings.Fields(out.stdout)
				f = finding{ok: want != "" && slices.Contains(answers, want), saw: "kubernetes.default is " + strings.Join(answers, ", "), want: want}
				if !f.ok {
					break
				}
			}
			return f, nil
		}).begin(s)
	}
	return c
}

// serviceClusterIP: the probe's service answers at its cluster IP from a pod on
// every node, and by and by every node's pod answers.
func serviceClusterIP(before *Snapshot) check {
	c := check{name: "service-clusterip", every: pollInterval}
	c.begin = func(s *session) look {
		asked := 0
		answered := map[string]map[string]bool{}
		return fromEachProbe(c.name, before, func(ctx context.Context, s *session, from probePod, all []probePod) (finding, error) {
			service, err := s.api.core.Services(probeNamespace).Get(ctx, probeService, metav1.GetOptions{})
			if err != nil {
				return finding{}, fmt.Errorf("get service %s: %w", probeService, err)
			}
			if ip := net.ParseIP(service.Spec.ClusterIP); ip == nil || len(service.Spec.Ports) == 0 {
				return finding{saw: fmt.Sprintf("service %s has cluster IP %q", probeService, service.Spec.ClusterIP), want: "a cluster IP and a port"}, nil
			}
			backends, err := s.readyPods(ctx, before, probeNamespace, probeLabel)
			if err != nil {
				return finding{}, err
			}
			if problem, err := s.notServed(ctx, probeNamespace, probeService, backends); err != nil || problem != "" {
				return finding{saw: problem, want: "a service that leads to its pods"}, err
			}
			address := net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(service.Spec.Ports[0].Port)))
			timeout := patience(asked).String()
			asked++
			if answered[from.node] == nil {
				answered[from.node] = map[string]bool{}
			}
			var stdout string
			// Which of its pods a service chooses is chance.
			for range 2 * len(all) {
				out, err := s.api.exec(ctx, from.name, "/probe", "get", "--timeout", timeout, "http://"+address+"/")
				if err != nil {
					return finding{want: "an answer of " + address}, err
				}
				stdout = out.stdout
				words := strings.Fields(stdout)
				for _, p := range all {
					if p.name != "" && slices.Contains(words, p.name) {
						answered[from.node][p.node] = true
					}
				}
				if len(answered[from.node]) == len(all) {
					break
				}
			}
			var by, missing []string
			for _, p := range all {
				if answered[from.node][p.node] {
					by = append(by, p.node)
				} else {
					missing = append(missing, p.node)
				}
			}
			f := finding{want: "an answer of the probe on every node"}
			switch {
			case len(by) == 0:
				f.saw = fmt.Sprintf("%s answered %q", address, shorten(stdout))
			case len(missing) > 0:
				f.saw = fmt.Sprintf("%s was answered by %s, not yet by %s", address, strings.Join(by, ", "), strings.Join(missing, ", "))
			default:
				f.ok, f.saw = true, fmt.Sprintf("%s answered by %s", address, strings.Join(by, ", "))
			}
			return f, nil
		}).begin(s)
	}
	return c
}

// largeRequest is more bytes than one packet between nodes takes: where packets
// that are full are lost on the way, small ones tell nothing of it.
const largeRequest = 4000

// podToPod: the probe on each node is answered by a pod on its own node and on
// every other, at their pods' own addresses, a request that takes several packets
// as well.
func podToPod(before *Snapshot) check {
	c := check{name: "pod-to-pod", every: pollInterval}
	c.begin = func(s *session) look {
		asked := 0
		return fromEachProbe(c.name, before, func(ctx context.Context, s *session, from probePod, all []probePod) (finding, error) {
			timeout := patience(asked).String()
			asked++
			return s.askEachNode(ctx, before, from, all, func(to probePod, address string) (string, error) {
				out, err := s.api.exec(ctx, from.name, "/probe", "get", "--timeout", timeout, "http://"+address+"/")
				if err != nil {
					return "", err
				}
				if !slices.Contains(strings.Fields(out.stdout), to.name) {
					return fmt.Sprintf("%s answered %q", address, shorten(out.stdout)), nil
				}
				_, err = s.api.exec(ctx, from.name, "/probe", "get", "--timeout", timeout, "http://"+address+"/?"+strings.Repeat("x", largeRequest))
				if err != nil && !isBlind(err) {
					return fmt.Sprintf("%s answers, but not a request of %d bytes", address, largeRequest), nil
				}
				return "", err
			})
		}).begin(s)
	}
	return c
}

// execInPods: a command in a pod on every node writes a file and another reads
// it.
func execInPods(before *Snapshot) check {
	return fromEachProbe("exec", before, func(ctx context.Context, s *session, from probePod, _ []probePod) (finding, error) {
		nonce, path := newNonce(), probeFolder+"/exec-check"
		if _, err := s.api.exec(ctx, from.name, "/probe", "write", path, nonce); err != nil {
			return finding{}, err
		}
		out, err := s.api.exec(ctx, from.name, "/probe", "read", path)
		if err != nil {
			return finding{}, err
		}
		return finding{ok: out.stdout == nonce, saw: fmt.Sprintf("read %q over %s", out.stdout, out.protocol), want: nonce}, nil
	})
}

// logsOfPods: the log of a pod on every node can be read through the API.
func logsOfPods(before *Snapshot) check {
	return fromEachProbe("logs", before, func(ctx context.Context, s *session, from probePod, _ []probePod) (finding, error) {
		text, err := s.api.logs(ctx, probeNamespace, from.name, probeContainer, 64<<10)
		if err != nil {
			return finding{}, fmt.Errorf("read log of pod %s: %w", from.name, err)
		}
		return finding{
			ok:   strings.Contains(text, probeGreeting),
			saw:  fmt.Sprintf("log %q", shorten(text)),
			want: fmt.Sprintf("a log with %q", probeGreeting),
		}, nil
	})
}
