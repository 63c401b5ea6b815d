package health

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/streaming/pkg/httpstream"
	httpstreamspdy "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/internal/memnet"
)

const kernel = "6.18.0-test"

// world is a cluster that looks healthy: an API server, its host and nodes. A
// test spoils what it is about. It lives in a synctest bubble of its own.
type world struct {
	provisioner.Host // The rest of Host is not to be called.

	mu         sync.Mutex
	nodes      []corev1.Node
	pods       []corev1.Pod
	services   map[string]*corev1.Service
	maps       map[string]*corev1.ConfigMap
	daemonSets map[string]*appsv1.DaemonSet
	namespaces map[string]*corev1.Namespace
	leases     map[string]*coordinationv1.Lease
	created    []string
	starts     map[string]nodeStart
	pki        map[string]string
	files      map[string]string
	osRelease  string
	facts      matrix.HostFacts
	log        string
	// state is what nodes show in the sections of stateScript.
	state      map[string]string
	components []corev1.ComponentStatus
	events     []corev1.Event
	// kernelLog is the host's, and kernelErr why it cannot be read.
	kernelLog string
	kernelErr error
	// kmsg is what kmsgScript prints in every node.
	kmsg string
	// mounts is the mountinfo of every node's init, and sysctls what it has.
	mounts  string
	sysctls map[string]string
	jobs    map[string]*batchv1.Job
	// rolled is how often the rollout was rolled out.
	rolled int
	// hasty: no pod of before stays beside a new one.
	hasty bool
	// fromHost, if set, is asked first for a node's port of hostPorts: true means
	// that it has answered.
	fromHost func(w http.ResponseWriter, port int, node string) bool
	// checks answers /livez and /readyz.
	checks func(name string) (int, string)
	// answer, if set, is asked first: true means that it has answered.
	answer func(w http.ResponseWriter, r *http.Request) bool
	// execute, if set, is asked first: the command in a pod.
	execute func(pod string, args []string) (stdout string, failure string, done bool)
	// execNode, if set, is asked first: the command in a node.
	execNode func(node string, args []string) (provisioner.Output, error, bool)
	dialErr  error
	noWS     bool
	// turn is whose answer a service gives next.
	turn int
	// endpoints, if set, is the address of every ready endpoint.
	endpoints string
	proxy     func(w http.ResponseWriter)
	dialed    []string

	network          memnet.Network
	api, proxyServer *httptest.Server
	cluster          *provisioner.Cluster
}

const (
	// probeNodePort is that of the probe's service.
	probeNodePort = 30180
	// nodeDistance is between the ports of two nodes, which have one address.
	nodeDistance = 1000
)

// node is a provisioner.Node of the world.
type node struct {
	provisioner.Node
	name  string
	world *world
}

func (n node) Name() string    { return n.name }
func (n node) Address() string { return "127.0.0.1" }

func (n node) Exec(_ context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.execNode != nil {
		if out, err, done := w.execNode(n.name, cmd.Args); done {
			return out, err
		}
	}
	switch line := strings.Join(cmd.Args, " "); {
	case slices.Contains(cmd.Args, stateScript):
		var out strings.Builder
		for _, section := range []string{"units", "processes", "tasks", "cores", "figures", "killed"} {
			fmt.Fprintf(&out, "== %s\n%s", section, w.state[section])
		}
		return provisioner.Output{Stdout: out.String() + "== end\n"}, nil
	case line == "date +%s":
		return provisioner.Output{Stdout: fmt.Sprintln(time.Now().Unix())}, nil
	case slices.Contains(cmd.Args, kmsgScript):
		return provisioner.Output{Stdout: w.kmsg}, nil
	case line == "cat /proc/1/mountinfo":
		return provisioner.Output{Stdout: w.mounts}, nil
	case slices.Contains(cmd.Args, sysctlsScript):
		var out strings.Builder
		for _, key := range cmd.Args[4:] {
			if value, there := w.sysctls[key]; there {
				fmt.Fprintln(&out, key, value)
			}
		}
		return provisioner.Output{Stdout: out.String()}, nil
	case strings.Contains(line, "boot_id"):
		s := w.starts[n.name]
		return provisioner.Output{Stdout: fmt.Sprintf("%s\n%d\n", s.bootID, s.at.Unix())}, nil
	case line == "cat /etc/os-release":
		return provisioner.Output{Stdout: w.osRelease}, nil
	case strings.Contains(line, "uname -r"):
		return provisioner.Output{Stdout: kernel + "\n" + w.osRelease}, nil
	case strings.Contains(line, "/dev/tcp"):
		answer := httptest.NewRecorder()
		w.proxy(answer)
		var out strings.Builder
		_ = answer.Result().Write(&out)
		return provisioner.Output{Stdout: out.String()}, nil
	case strings.HasPrefix(line, "find /etc/kubernetes/pki "):
		var out strings.Builder
		for file, sum := range w.pki {
			fmt.Fprintf(&out, "%s  %s\n", sum, file)
		}
		return provisioner.Output{Stdout: out.String()}, nil
	default:
		return provisioner.Output{}, fmt.Errorf("the world does not know %q", line)
	}
}

// bubble is a subtest in fake time: no machine is too slow for its deadlines,
// and nothing that it began outlives it.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	if len(names) == 0 {
		names = []string{"cp1"}
	}
	w := &world{
		services: map[string]*corev1.Service{
			"default/kubernetes": {ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
				Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 443}}}},
		},
		maps: map[string]*corev1.ConfigMap{}, daemonSets: map[string]*appsv1.DaemonSet{},
		namespaces: map[string]*corev1.Namespace{
			"kube-system": {ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "system-1"}},
		},
		leases:    map[string]*coordinationv1.Lease{},
		starts:    map[string]nodeStart{},
		pki:       map[string]string{"/etc/kubernetes/pki/ca.crt": strings.Repeat("a", 64), "/etc/kubernetes/pki/apiserver.crt": strings.Repeat("b", 64)},
		files:     map[string]string{},
		events:    []corev1.Event{{ObjectMeta: metav1.ObjectMeta{Name: "pulled"}, Reason: "Pulled", Count: 1}},
		osRelease: "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID=\"13\"\n",
		facts:     matrix.HostFacts{Kernel: kernel},
		kmsg:      "a character special file 1:b\n-\n4294967295\n",
		mounts:    mountsOf("1"),
		sysctls:   map[string]string{"net.ipv4.ip_forward": "1", "kernel.panic": "10", "vm.swappiness": "60"},
		jobs:      map[string]*batchv1.Job{},
		log:       "serving on [::]:8080\n",
		state: map[string]string{
			"processes": "S<l  326 containerd-shim /usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id 68ce00f4 -address a\n" +
				"Sl   99 containerd-shim /usr/bin/containerd-shim-runc-v2 -namespace moby -id 0b17 -address a\n",
			"tasks":   "known\n68ce00f4\n",
			"figures": "memory/memory.usage_in_bytes 419430400\npids/pids.current 120\ncpuacct/cpuacct.usage 12300000000\n",
			"killed":  "./memory/memory.oom_control:oom_kill 0\n./memory/kubepods/memory.oom_control:oom_kill 0\n",
		},
		checks: func(name string) (int, string) {
			return 200, "[+]ping ok\n[+]etcd ok\n" + name + " check passed\n"
		},
		proxy: func(w http.ResponseWriter) { w.WriteHeader(200) },
	}
	// SPDY's connections take a second of the bubble's to end.
	t.Cleanup(func() { time.Sleep(2 * time.Second) })
	w.api = w.network.Server(t, 6443, http.HandlerFunc(w.serve))
	w.api.StartTLS()
	w.proxyServer = w.network.Server(t, 10256, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.proxy(rw)
	}))
	w.proxyServer.Start()
	for i, name := range names {
		for port, prefix := range map[int]string{daemonHostPort: "daemon-", probeNodePort: "probe-"} {
			w.network.Server(t, port+i*nodeDistance, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.fromHost == nil || !w.fromHost(rw, port, name) {
					_, _ = fmt.Fprintf(rw, "pod %s\n", w.pod(prefix+name).Name)
				}
			})).Start()
		}
	}
	w.cluster = &provisioner.Cluster{
		Cell: matrix.Cell{
			Distro:   matrix.Distro{Name: "kubeadm", Version: "1.34.4", Minor: "1.34"},
			OS:       matrix.OS{Name: "debian/13"},
			Topology: matrix.Topology{Servers: 1, Agents: len(names) - 1},
		},
		Host:       w,
		Kubeconfig: w.kubeconfig(),
		Sysctls:    []string{"net.ipv4.ip_forward"},
	}
	for _, name := range []string{"scheduler", "controller-manager", "etcd-0"} {
		w.components = append(w.components, corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name},
			Conditions: []corev1.ComponentCondition{{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}}})
	}
	for _, name := range []string{"kube-scheduler", "kube-controller-manager"} {
		w.leases[name] = lease(name, 15, time.Now())
	}
	started := time.Now().Add(-time.Minute).Truncate(time.Second)
	for i, name := range names {
		w.cluster.Nodes = append(w.cluster.Nodes, node{name: name, world: w})
		w.starts[name] = nodeStart{bootID: "boot-1-" + name, at: started}
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if i == 0 {
			n.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
		}
		n.Status = corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			NodeInfo: corev1.NodeSystemInfo{BootID: "boot-1-" + name, KubeletVersion: "v1.34.4", KernelVersion: kernel,
				OSImage: "Debian GNU/Linux 13 (trixie)", ContainerRuntimeVersion: "containerd://1.7.24"},
		}
		w.nodes = append(w.nodes, n)
		w.leases[name] = lease(name, 40, started.Add(30*time.Second))
		if i == 0 {
			for _, prefix := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
				w.addPod("kube-system", prefix+"-"+name, name, nil)
			}
			for _, suffix := range []string{"x", "y"} {
				w.addPod("kube-system", "coredns-"+suffix, name, map[string]string{"k8s-app": "kube-dns"})
			}
		}
		w.addPod("kube-system", "kube-proxy-"+name, name, map[string]string{"k8s-app": "kube-proxy"})
	}
	return w
}

func lease(name string, seconds int32, renewed time.Time) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}, LeaseDurationSeconds: &seconds}}
}

func (w *world) addPod(namespace, name, node string, labels map[string]string) {
	w.pods = append(w.pods, corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main"}}},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIP:      fmt.Sprintf("10.244.0.%d", len(w.pods)),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://1-" + name,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{
					StartedAt: metav1.NewTime(w.starts[node].at.Add(5 * time.Second))}}}},
		},
	})
}

// addJob adds the pod of a job that installs a chart, and runs.
func (w *world) addJob(name, chart string) {
	w.addPod("kube-system", name, w.cluster.Nodes[0].Name(), map[string]string{chartLabel: chart})
	w.pod(name).OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: strings.TrimSuffix(name, "-abc"), Controller: new(true)}}
}

// finish ends a job's pod well.
func (w *world) finish(prefix string) {
	p := w.pod(prefix)
	p.Status.Phase, p.Status.Conditions[0].Status = corev1.PodSucceeded, corev1.ConditionFalse
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}
}

// withProbe makes the probe workload be there already.
func (w *world) withProbe() *world {
	for _, n := range w.cluster.Nodes {
		w.addProbe(n.Name())
	}
	w.addDaemons()
	w.roll("first")
	w.services[probeNamespace+"/"+headlessService] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: headlessService, Namespace: probeNamespace},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
	w.services[probeNamespace+"/"+portService] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: portService, Namespace: probeNamespace},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.7.8", Ports: []corev1.ServicePort{{Port: 80, NodePort: probeNodePort}}}}
	w.services[probeNamespace+"/"+probeService] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: probeService, Namespace: probeNamespace},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.7.7", Ports: []corev1.ServicePort{{Port: 80}}}}
	return w
}

func (w *world) addProbe(node string) {
	w.addPod(probeNamespace, "probe-"+node+"-abc", node, map[string]string{"app.kubernetes.io/name": "lxcmatrix-probe", nodeLabel: node})
}

// label is a label's key and value, as a pod has them.
func label(s string) map[string]string {
	key, value, _ := strings.Cut(s, "=")
	return map[string]string{key: value}
}

func (w *world) addDaemons() {
	for _, n := range w.cluster.Nodes {
		w.addPod(probeNamespace, "daemon-"+n.Name(), n.Name(), label(daemonLabel))
	}
}

// roll puts a pod of a revision in the place of the one of before.
func (w *world) roll(revision string) {
	w.removePod("rollout-")
	w.rolled++
	w.addPod(probeNamespace, fmt.Sprintf("rollout-%d", w.rolled), w.cluster.Nodes[0].Name(), label(rolloutLabel))
	w.pods[len(w.pods)-1].Annotations = map[string]string{rolloutKey: revision}
}

// mountsOf is what a node's init has mounted, as seen on Incus 6.0 over cgroup v1, in
// its nth start: what is the runtime's, a service's or a terminal's has another name
// in each, and mounts have other IDs.
func mountsOf(start string) string {
	return strings.NewReplacer("START", start).Replace(`START1 1 7:1 /nodes/containers/cp1/rootfs / rw,noatime shared:START - ext4 /dev/loop1 rw,discard
START2 1 0:90 / /sys ro,nosuid,nodev,noexec,relatime shared:START1 - sysfs sysfs rw
START3 1 0:91 /lxc.payload.cp1 /sys/fs/cgroup/cpu rw,nosuid,nodev,noexec,relatime shared:309 - cgroup cgroup rw,cpu
START4 1 0:92 /START /dev/console rw,nosuid,noexec,relatime shared:273 - devpts devpts rw,gid=5,mode=620
START5 1 0:93 /cp1 /dev/.incus-mounts rw,relatime shared:308 master:255 - tmpfs tmpfs rw,size=100k,mode=711
START6 1 0:94 / /tmp rw,nosuid,nodev shared:1 - tmpfs tmpfs rw,size=12342048k
START7 1 0:95 / /run/credentials/getty@START.service ro,nosuid,nodev,noexec,relatime,nosymfollow shared:1 - tmpfs tmpfs rw
START8 1 0:96 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/START/rootfs rw,relatime shared:1 - overlay overlay rw,uuid=on
START9 1 0:97 / /var/lib/kubelet/pods/START/volumes/kubernetes.io~projected/kube-api-access rw,relatime shared:1 - tmpfs tmpfs rw
START0 1 0:4 net:[402653START] /run/netns/cni-START rw shared:1 - nsfs nsfs rw
`)
}

// restarted makes everything as it is after a restart that went well.
func (w *world) restarted() {
	w.mounts = mountsOf("2")
	for i := range w.nodes {
		name := w.nodes[i].Name
		at := w.starts[name].at.Add(50 * time.Second)
		w.starts[name] = nodeStart{bootID: "boot-2-" + name, at: at}
		w.nodes[i].Status.NodeInfo.BootID = "boot-2-" + name
		w.leases[name].Spec.RenewTime = &metav1.MicroTime{Time: at.Add(3 * time.Second)}
	}
	for i := range w.pods {
		p := &w.pods[i]
		for j := range p.Status.ContainerStatuses {
			c := &p.Status.ContainerStatuses[j]
			c.ContainerID = "containerd://2-" + p.Name
			c.RestartCount++
			c.State.Running.StartedAt = metav1.NewTime(w.starts[p.Spec.NodeName].at.Add(4 * time.Second))
		}
	}
}

// pod finds a pod by the beginning of its name.
func (w *world) pod(prefix string) *corev1.Pod {
	i := slices.IndexFunc(w.pods, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, prefix) })
	return &w.pods[i]
}

func (w *world) removePod(prefix string) {
	w.pods = slices.DeleteFunc(w.pods, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, prefix) })
}

func (w *world) kubeconfig() []byte {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.api.Certificate().Raw})
	config, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": w.api.URL, "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": "secret"}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	if err != nil {
		panic(err)
	}
	return config
}

// Facts is the host's.
func (w *world) Facts(context.Context) (matrix.HostFacts, error) {
	if w.facts.Kernel == "" {
		return matrix.HostFacts{}, errors.New("host unreachable")
	}
	return w.facts, nil
}

// Exec is the host's own system, which shows its kernel's log.
func (w *world) Exec() provisioner.HostExec { return hostExec{world: w} }

type hostExec struct {
	provisioner.HostExec // The rest is not to be called.

	world *world
}

func (h hostExec) Run(context.Context, provisioner.Command) (provisioner.Output, error) {
	return provisioner.Output{Stdout: h.world.kernelLog}, h.world.kernelErr
}

// Dial reaches the world's servers.
func (w *world) Dial(ctx context.Context, node string, port int) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, fmt.Sprintf("%s:%d", node, port))
	err := w.dialErr
	w.mu.Unlock()
	if port == daemonHostPort || port == probeNodePort {
		port += nodeDistance * slices.IndexFunc(w.cluster.Nodes, func(n provisioner.Node) bool { return n.Name() == node })
	}
	if err != nil {
		return nil, err
	}
	return w.network.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// hang answers a request by no answer for as long as somebody waits for one.
func (w *world) hang(r *http.Request) bool {
	w.mu.Unlock()
	defer w.mu.Lock()
	// The server notices that the client left once it has read the body.
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer secret" {
		http.Error(rw, "no credentials", http.StatusUnauthorized)
		return
	}
	if w.answer != nil && w.answer(rw, r) {
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch path := r.URL.Path; {
	case path == "/livez" || path == "/readyz":
		status, body := w.checks(parts[0])
		rw.WriteHeader(status)
		_, _ = rw.Write([]byte(body))
	case r.Method == http.MethodGet && path == "/api/v1/nodes":
		reply(rw, &corev1.NodeList{Items: w.nodes})
	case r.Method == http.MethodGet && path == "/api/v1/componentstatuses":
		reply(rw, &corev1.ComponentStatusList{Items: w.components})
	case r.Method == http.MethodGet && path == "/api/v1/events":
		reply(rw, &corev1.EventList{Items: w.events})
	case r.Method == http.MethodGet && path == "/api/v1/pods":
		reply(rw, &corev1.PodList{Items: w.pods})
	case strings.HasSuffix(path, "/exec"):
		w.serveExec(rw, r, parts[5])
	case strings.HasSuffix(path, "/log"):
		_, _ = rw.Write([]byte(w.log))
	case r.Method == http.MethodGet && len(parts) == 4 && parts[2] == "namespaces":
		replyOr404(rw, w.namespaces[parts[3]])
	case r.Method == http.MethodGet && len(parts) == 6 && parts[4] == "services":
		replyOr404(rw, w.services[parts[3]+"/"+parts[5]])
	case r.Method == http.MethodGet && len(parts) == 6 && parts[4] == "configmaps":
		replyOr404(rw, w.maps[parts[5]])
	case r.Method == http.MethodGet && len(parts) == 7 && parts[5] == "daemonsets":
		replyOr404(rw, w.daemonSets[parts[6]])
	case r.Method == http.MethodGet && len(parts) == 6 && parts[5] == "endpointslices":
		reply(rw, w.endpointSlices(parts[4]))
	case r.Method == http.MethodGet && len(parts) == 7 && parts[5] == "jobs":
		replyOr404(rw, w.jobs[parts[6]])
	case r.Method == http.MethodPatch && path == "/apis/apps/v1/namespaces/lxcmatrix-probe/deployments/rollout":
		w.patch(rw, r)
	case r.Method == http.MethodGet && len(parts) == 7 && parts[5] == "leases":
		replyOr404(rw, w.leases[parts[6]])
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		w.write(rw, r)
	default:
		http.NotFound(rw, r)
	}
}

// endpointSlices leads the one service that a namespace has to its pods.
func (w *world) endpointSlices(namespace string) *discoveryv1.EndpointSliceList {
	ready, notReady := true, false
	slice := discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.244.9.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &notReady}})
	for _, p := range w.pods {
		if p.Namespace == namespace && (hasLabel(&p, "k8s-app=kube-dns") || hasLabel(&p, probeLabel)) {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{cmp.Or(w.endpoints, p.Status.PodIP)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
	}
	return &discoveryv1.EndpointSliceList{Items: []discoveryv1.EndpointSlice{slice}}
}

func (w *world) write(rw http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	object, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	switch o := object.(type) {
	case *corev1.ConfigMap:
		if r.Method == http.MethodPut && w.maps[o.Name] == nil {
			replyOr404[corev1.ConfigMap](rw, nil)
			return
		}
		o.UID = "object-1"
		w.maps[o.Name] = o
	case *corev1.Service:
		if len(o.Spec.Ports) > 0 && o.Spec.Ports[0].NodePort != 0 && w.services[o.Namespace+"/"+o.Name] != nil {
			http.Error(rw, "provided port is already allocated", http.StatusUnprocessableEntity)
			return
		}
		if o.Spec.ClusterIP == "" {
			o.Spec.ClusterIP = "10.96.7.7"
		}
		w.services[o.Namespace+"/"+o.Name] = o
	case *appsv1.DaemonSet:
		w.addDaemons()
	case *batchv1.Job:
		o.UID = types.UID("uid-" + o.Name)
		o.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
		w.jobs[o.Name] = o
	case *appsv1.Deployment:
		if o.Name == rolloutName {
			if !slices.ContainsFunc(w.pods, func(p corev1.Pod) bool { return hasLabel(&p, rolloutLabel) }) {
				w.roll("first")
			}
		} else if !slices.ContainsFunc(w.pods, func(p corev1.Pod) bool { return p.Labels[nodeLabel] == o.Labels[nodeLabel] }) {
			w.addProbe(o.Labels[nodeLabel])
		}
	}
	w.created = append(w.created, r.URL.Path)
	reply(rw, object)
}

// patch is a change of the rollout's template. A pod of before stays where the new one
// is to be Ready for some time.
func (w *world) patch(rw http.ResponseWriter, r *http.Request) {
	var d appsv1.Deployment
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if !slices.ContainsFunc(w.pods, func(p corev1.Pod) bool { return hasLabel(&p, rolloutLabel) }) {
		replyOr404[appsv1.Deployment](rw, nil)
		return
	}
	var before *corev1.Pod
	if d.Spec.MinReadySeconds > 0 && !w.hasty {
		before = w.pod("rollout-").DeepCopy()
		before.Name = "before-" + before.Name
	}
	w.roll(d.Spec.Template.Annotations[rolloutKey])
	if before != nil {
		w.pods = append(w.pods, *before)
	}
	reply(rw, &d)
}

func reply(rw http.ResponseWriter, o runtime.Object) {
	kinds, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(o)
}

func replyOr404[T any, P interface {
	*T
	runtime.Object
}](rw http.ResponseWriter, o P) {
	if o == nil {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(rw).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status: "Failure", Reason: metav1.StatusReasonNotFound, Message: "not found", Code: 404})
		return
	}
	reply(rw, o)
}

// probeRun is what the probe program does, as far as checks need it.
func (w *world) probeRun(pod string, args []string) (stdout, failure string) {
	if w.execute != nil {
		if out, failure, done := w.execute(pod, args); done {
			return out, failure
		}
	}
	i := slices.IndexFunc(w.pods, func(p corev1.Pod) bool { return p.Name == pod })
	if i < 0 {
		return "", "no such pod"
	}
	node := w.pods[i].Spec.NodeName
	switch args[1] {
	case "dns":
		if args[len(args)-1] != headlessService {
			return "10.96.0.1\n", ""
		}
		for _, p := range w.pods {
			if hasLabel(&p, probeLabel) {
				stdout += p.Status.PodIP + "\n"
			}
		}
		return stdout, ""
	case "udp":
		for _, p := range w.pods {
			if args[4] == p.Status.PodIP+":8080" {
				for _, size := range args[5:] {
					stdout += "pod " + p.Name + ", " + size + " bytes\n"
				}
			}
		}
		return stdout, ""
	case "get":
		var probes []string
		for _, p := range w.pods {
			if hasLabel(&p, probeLabel) {
				probes = append(probes, p.Name)
			}
			if args[len(args)-1] == "http://"+p.Status.PodIP+":8080/" {
				return "hostname " + p.Name + "\npod " + p.Name + "\n", ""
			}
		}
		chosen := probes[w.turn%len(probes)]
		w.turn++
		return "hostname " + chosen + "\npod " + chosen + "\n", ""
	case "write":
		w.files[node+args[2]] = args[3]
		return "", ""
	case "read":
		content, ok := w.files[node+args[2]]
		if !ok {
			return "", "no such file"
		}
		return content, ""
	}
	return "", "unknown command"
}

func (w *world) serveExec(rw http.ResponseWriter, r *http.Request, pod string) {
	stdout, failure := w.probeRun(pod, r.URL.Query()["command"])
	status := metav1.Status{Status: metav1.StatusSuccess}
	if failure != "" {
		status = metav1.Status{Status: metav1.StatusFailure, Message: "command terminated with exit code 1", Reason: "NonZeroExitCode",
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: "1"}}}}
	}
	encoded, err := json.Marshal(status)
	if err != nil {
		panic(err)
	}
	if !w.noWS {
		upgrader := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		conn, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		for channel, content := range map[byte]string{1: stdout, 2: failure} {
			_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte{channel}, content...))
		}
		_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte{3}, encoded...))
		_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
		_ = conn.Close()
		return
	}
	if r.Header.Get("Upgrade") == "websocket" {
		http.Error(rw, "no WebSockets here", http.StatusBadRequest)
		return
	}
	streams := make(chan httpstream.Stream, 3)
	rw.Header().Set(httpstream.HeaderProtocolVersion, "v4.channel.k8s.io")
	conn := httpstreamspdy.NewResponseUpgrader().UpgradeResponse(rw, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	byType := map[string]httpstream.Stream{}
	for range 3 {
		s := <-streams
		byType[s.Headers().Get("streamType")] = s
	}
	_, _ = byType["stdout"].Write([]byte(stdout))
	_ = byType["stdout"].Close()
	_, _ = byType["stderr"].Write([]byte(failure))
	_ = byType["stderr"].Close()
	_, _ = byType["error"].Write(encoded)
	_ = byType["error"].Close()
	select {
	case <-conn.CloseChan():
	case <-time.After(2 * time.Second):
	}
}
