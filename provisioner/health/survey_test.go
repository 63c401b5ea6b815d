package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// surveyed is a world as somebody else made it: with kubeadm, and labels on its
// servers.
func surveyed(t *testing.T, names ...string) *world {
	w := newWorld(t, names...)
	w.nodes[0].Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	w.maps[kubeadmConfig] = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: kubeadmConfig},
		Data: map[string]string{"ClusterConfiguration": "etcd:\n  local:\n    dataDir: /var/lib/etcd\n"}}
	w.daemonSets["kube-proxy"] = &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy", Namespace: metav1.NamespaceSystem}}
	return w
}

// survey looks at the world, and sees that nothing in it was to be changed.
func (w *world) survey(t *testing.T, instances ...string) (Survey, error) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(w.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(w.api.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		return w.Dial(ctx, "cp1", number)
	}
	answer := w.answer
	w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, "/exec") {
			t.Errorf("a look at the cluster asked to %s %s", r.Method, r.URL)
		}
		return answer != nil && answer(rw, r)
	}
	o := SurveyOptions{Config: config, Instances: map[string]provisioner.Node{}, Wait: enough, Stability: 200 * time.Millisecond}
	for _, name := range instances {
		o.Instances[name] = node{name: name, world: w}
	}
	return Look(t.Context(), o)
}

func (s Survey) skipped(check string) (nodes []string) {
	for _, one := range s.Skipped {
		if one.Check == check {
			nodes = append(nodes, one.Node)
		}
	}
	return nodes
}

func (s Survey) find(check string) (outcomes []matrix.Outcome, saw string) {
	for _, e := range s.Checks {
		if e.Check == check {
			outcomes = append(outcomes, e.Outcome)
			saw += e.Saw + "\n"
		}
	}
	return outcomes, saw
}

func TestLookAtAHealthyCluster(t *testing.T) {
	synctest.Test(t, lookAtAHealthyCluster)
}

func lookAtAHealthyCluster(t *testing.T) {
	g := NewWithT(t)
	w := surveyed(t, "cp1", "agent1")
	s, err := w.survey(t, "cp1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(s.Distro).To(Equal("kubeadm"))
	g.Expect(s.Nodes).To(Equal([]SurveyedNode{
		{Name: "cp1", Role: matrix.RoleServer, Kubelet: "v1.34.4", Instance: "cp1"}, {Name: "agent1", Role: matrix.RoleAgent, Kubelet: "v1.34.4"}}))
	g.Expect(s.Judge().Verdict).To(Equal(matrix.Pass), "%+v", s.Checks)
	for check, times := range map[string]int{"api-livez": 1, "api-readyz": 1, "nodes-ready": 2, "taints": 2, "system-pods": 1,
		"restart-stability": 1, "node-facts": 1, "kube-proxy-healthz": 1, "kmsg": 1} {
		outcomes, _ := s.find(check)
		g.Expect(outcomes).To(HaveLen(times), check)
		g.Expect(outcomes).To(HaveEach(matrix.Healthy), check)
	}
	for check, nodes := range map[string][]string{"workload": {""}, "dns": {""}, "service-clusterip": {""}, "exec": {""}, "logs": {""},
		"pod-to-pod": {""}, "pod-to-pod-udp": {""}, "daemonset": {""}, "job": {""}, "rollout": {""}, "service-headless": {""}, "service-nodeport": {""}, "host-port": {""},
		"kmsg": {"agent1"}, "node-facts": {"agent1"}, "kube-proxy-healthz": {"agent1"}, "system-pods": nil} {
		g.Expect(s.skipped(check)).To(Equal(nodes), check)
	}
	g.Expect(w.created).To(BeEmpty())
}

// What is nobody's but the owner's business is no failure, and what may be
// missing on purpose is skipped.
func TestLookLeavesTheOwnerHisChoices(t *testing.T) {
	for name, test := range map[string]struct {
		spoil   func(w *world)
		skipped map[string][]string
	}{
		"a taint of the owner's": {func(w *world) {
			w.nodes[0].Spec.Taints = append(w.nodes[0].Spec.Taints, corev1.Taint{Key: "dedicated", Value: "db", Effect: corev1.TaintEffectNoSchedule})
		}, nil},
		"an application that fails": {func(w *world) {
			w.addPod("shop", "shop-1", "cp1", nil)
			w.pods[len(w.pods)-1].Status.Conditions[0].Status = corev1.ConditionFalse
		}, nil},
		"one DNS server": {func(w *world) { w.removePod("coredns-x") }, nil},
		"etcd elsewhere": {func(w *world) {
			w.removePod("etcd")
			w.maps[kubeadmConfig].Data["ClusterConfiguration"] = "etcd:\n  external:\n    endpoints: [https://192.0.2.7:2379]\n"
		}, map[string][]string{"system-pods": {""}}},
		"without kube-proxy": {func(w *world) { w.removePod("kube-proxy"); delete(w.daemonSets, "kube-proxy") },
			map[string][]string{"system-pods": nil, "kube-proxy-healthz": {""}}},
		"made by nobody knows": {func(w *world) { delete(w.maps, kubeadmConfig); w.removePod("kube-scheduler") },
			map[string][]string{"system-pods": {""}, "kube-proxy-healthz": {""}}},
	} {
		bubble(t, name, func(t *testing.T) {
			g := NewWithT(t)
			w := surveyed(t)
			test.spoil(w)
			s, err := w.survey(t, "cp1")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s.Judge().Verdict).To(Equal(matrix.Pass), "%+v", s.Checks)
			for check, nodes := range test.skipped {
				g.Expect(s.skipped(check)).To(Equal(nodes), check)
			}
		})
	}
}

func TestLookAtASickCluster(t *testing.T) {
	for name, test := range map[string]struct {
		spoil      func(w *world)
		check, saw string
	}{
		"not Ready": {func(w *world) { w.nodes[0].Status.Conditions[0].Status = corev1.ConditionFalse }, "nodes-ready", "Ready is False"},
		"a taint that Kubernetes set": {func(w *world) {
			w.nodes[0].Spec.Taints = []corev1.Taint{{Key: "node.kubernetes.io/disk-pressure", Effect: corev1.TaintEffectNoSchedule}}
		}, "taints", "disk-pressure"},
		"no scheduler": {func(w *world) { w.removePod("kube-scheduler") }, "system-pods", "no Ready kube-scheduler-cp1"},
		"etcd fails": {func(w *world) {
			w.checks = func(string) (int, string) { return 500, "[+]ping ok\n[-]etcd failed: reason withheld\n" }
		}, "api-readyz", "[-]etcd failed"},
		"another start":       {func(w *world) { w.nodes[0].Status.NodeInfo.BootID = "boot-0" }, "node-facts", `boot ID "boot-0"`},
		"another kernel":      {func(w *world) { w.nodes[0].Status.NodeInfo.KernelVersion = "5.4" }, "node-facts", `kernel "5.4"`},
		"kube-proxy is stuck": {func(w *world) { w.proxy = func(rw http.ResponseWriter) { rw.WriteHeader(503) } }, "kube-proxy-healthz", "503"},
	} {
		bubble(t, name, func(t *testing.T) {
			g := NewWithT(t)
			w := surveyed(t)
			test.spoil(w)
			s, err := w.survey(t, "cp1")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s.Judge().Verdict).To(Equal(matrix.Fail))
			outcomes, saw := s.find(test.check)
			g.Expect(outcomes).To(ContainElement(matrix.Unhealthy))
			g.Expect(saw).To(ContainSubstring(test.saw))
		})
	}
}

func TestLookThatCannot(t *testing.T) {
	bubble(t, "an error", func(t *testing.T) {
		g, w := NewWithT(t), surveyed(t)
		w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
			http.Error(rw, "no", http.StatusServiceUnavailable)
			return true
		}
		s, err := w.survey(t)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Judge().Verdict).To(Equal(matrix.Fail), "it answered")
		g.Expect(s.Skipped).NotTo(BeEmpty())
	})
	bubble(t, "not allowed", func(t *testing.T) {
		g, w := NewWithT(t), surveyed(t)
		w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
			http.Error(rw, "who are you", http.StatusForbidden)
			return true
		}
		_, err := w.survey(t)
		var refused *RefusedError
		g.Expect(errors.As(err, &refused)).To(BeTrue(), "%v", err)
	})
	bubble(t, "a node that is not there", func(t *testing.T) {
		g, w := NewWithT(t), surveyed(t)
		_, err := w.survey(t, "cp9")
		var unknown *UnknownNodeError
		g.Expect(errors.As(err, &unknown)).To(BeTrue(), "%v", err)
		g.Expect(unknown.Known).To(Equal([]string{"cp1"}))
	})
	bubble(t, "no answer", func(t *testing.T) {
		g, w := NewWithT(t), surveyed(t)
		w.dialErr = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		_, err := w.survey(t)
		var unreachable *UnreachableError
		g.Expect(errors.As(err, &unreachable)).To(BeTrue(), "%v", err)
	})
	bubble(t, "an instance that cannot be asked", func(t *testing.T) {
		g, w := NewWithT(t), surveyed(t)
		w.execNode = func(string, []string) (provisioner.Output, error, bool) {
			return provisioner.Output{}, errors.New("no Incus"), true
		}
		s, err := w.survey(t, "cp1")
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(s.Judge().Verdict).To(Equal(matrix.Blocked))
		outcomes, saw := s.find("node-facts")
		g.Expect(outcomes).To(Equal([]matrix.Outcome{matrix.Undecided}))
		g.Expect(saw).To(ContainSubstring("no Incus"))
	})
}

func TestLoadKubeconfig(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		g.Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
		return path
	}
	good := write("good", `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}],
		users: [{name: u, user: {token: secret}}], contexts: [{name: c, context: {cluster: c, user: u}}]}`)
	config, err := LoadKubeconfig(good, "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(config.BearerToken).To(Equal("secret"))
	t.Setenv("KUBECONFIG", good)
	_, err = LoadKubeconfig("", "c")
	g.Expect(err).NotTo(HaveOccurred())

	for _, test := range []struct{ file, context, says string }{
		{good, "prod", `it has no context "prod"; it has c`},
		{filepath.Join(dir, "none"), "", "there is no such file; a kubeadm server keeps"},
		{write("empty", ""), "", "it has no context; name another file"},
		{write("nonsense", "{"), "", "yaml"},
	} {
		_, err := LoadKubeconfig(test.file, test.context)
		var bad *KubeconfigError
		g.Expect(errors.As(err, &bad)).To(BeTrue(), "%v", err)
		g.Expect(bad.File).To(Equal(test.file))
		g.Expect(err).To(MatchError(ContainSubstring(test.says)))
	}
}

// A cluster that was made a moment ago has not all of its pods yet: what it
// declares is waited for, not given up.
func TestLookExpectsWhatIsDeclared(t *testing.T) {
	for _, pod := range []string{"etcd", "kube-proxy"} {
		bubble(t, pod, func(t *testing.T) {
			g, w := NewWithT(t), surveyed(t)
			later := *w.pod(pod)
			w.removePod(pod)
			lists := 0
			w.answer = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/api/v1/pods" {
					if lists++; lists == 3 {
						w.pods = append(w.pods, later)
					}
				}
				return false
			}
			s, err := w.survey(t, "cp1")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(lists).To(BeNumerically(">", 3))
			g.Expect(s.Judge().Verdict).To(Equal(matrix.Pass), "%+v", s.Checks)
			g.Expect(s.skipped("system-pods")).To(BeEmpty())
			outcomes, _ := s.find("kube-proxy-healthz")
			g.Expect(outcomes).To(ConsistOf(matrix.Healthy))
		})
		bubble(t, "never "+pod, func(t *testing.T) {
			g, w := NewWithT(t), surveyed(t)
			w.removePod(pod)
			s, err := w.survey(t, "cp1")
			g.Expect(err).NotTo(HaveOccurred())
			outcomes, saw := s.find("system-pods")
			g.Expect(outcomes).To(ConsistOf(matrix.Unhealthy))
			g.Expect(saw).To(ContainSubstring(pod))
		})
	}
}

// What cannot be read declares nothing.
func TestLookExpectsAllWhereNothingIsDeclared(t *testing.T) {
	for _, path := range []string{"/configmaps/" + kubeadmConfig, "/daemonsets/kube-proxy"} {
		bubble(t, path, func(t *testing.T) {
			g, w := NewWithT(t), surveyed(t)
			asked := false
			w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				// The first look at the ConfigMap is for the distribution's name.
				if !strings.HasSuffix(r.URL.Path, path) || !asked && strings.HasSuffix(path, kubeadmConfig) {
					asked = asked || strings.HasSuffix(r.URL.Path, path)
					return false
				}
				http.Error(rw, "etcdserver: leader changed", http.StatusInternalServerError)
				return true
			}
			s, err := w.survey(t, "cp1")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(s.Judge().Verdict).To(Equal(matrix.Pass), "%+v", s.Checks)
			g.Expect(s.skipped("system-pods")).To(BeEmpty())
			g.Expect(s.skipped("kube-proxy-healthz")).To(BeEmpty())
		})
	}
}

// k3s and RKE2 tell in labels and annotations of their nodes what they do without.
func TestWithoutInRancher(t *testing.T) {
	g := NewWithT(t)
	node := func(label, args string) []corev1.Node {
		return []corev1.Node{{ObjectMeta: metav1.ObjectMeta{
			Labels: map[string]string{"node-role.kubernetes.io/etcd": label}, Annotations: map[string]string{"rke2.io/node-args": args}}}}
	}
	for args, want := range map[string]bool{
		`["server","--disable-kube-proxy"]`: true, `["server","--disable-kube-proxy","true"]`: true,
		`["server","--disable-kube-proxy","false"]`: false, `["server"]`: false, `not JSON`: false, ``: false,
	} {
		g.Expect((*client)(nil).without(t.Context(), "rke2", node("true", args))).To(Equal(without{kubeProxy: want}), args)
	}
	g.Expect((*client)(nil).without(t.Context(), "rke2", node("", `["server"]`))).To(Equal(without{etcdPods: true}))
}
