package health

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// enough is a deadline that a check which cannot become healthy runs into,
// after two looks or more.
const enough = time.Second

func timeouts() matrix.Timeouts {
	return matrix.Timeouts{Stability: matrix.Duration(200 * time.Millisecond)}
}

func byName(checks []provisioner.Check, name string) provisioner.Check {
	i := slices.IndexFunc(checks, func(c provisioner.Check) bool { return c.Name() == name })
	if i < 0 {
		panic("no check " + name)
	}
	return checks[i]
}

func names(checks []provisioner.Check) []string {
	var all []string
	for _, c := range checks {
		all = append(all, c.Name())
	}
	return all
}

func TestBaselineOfAHealthyCluster(t *testing.T) {
	for _, nodes := range [][]string{{"cp1"}, {"cp1", "agent1", "agent2"}} {
		bubble(t, fmt.Sprint(len(nodes)), func(t *testing.T) {
			g := NewWithT(t)
			w := newWorld(t, nodes...)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			checks := Baseline(timeouts())
			evidence, waited := RunAll(ctx, w.cluster, checks)
			seen := map[string]bool{}
			for _, e := range evidence {
				g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
				g.Expect(e.Saw).NotTo(BeEmpty())
				seen[e.Check] = true
			}
			for _, name := range names(checks) {
				g.Expect(seen).To(HaveKey(name))
			}
			g.Expect(waited).To(BeNumerically(">=", 200*time.Millisecond))
			w.created = slices.DeleteFunc(w.created, func(path string) bool { return strings.HasSuffix(path, "/jobs") })
			g.Expect(w.created[:3]).To(Equal([]string{"/api/v1/namespaces",
				"/api/v1/namespaces/lxcmatrix-probe/serviceaccounts", "/api/v1/namespaces/lxcmatrix-probe/services"}))
			g.Expect(w.created).To(HaveLen(3 + len(nodes) + 6))
			g.Expect(w.dialed).NotTo(BeEmpty())
		})
	}
}

// TestWorkloadThatIsThere: what has been created is not created again, and nothing
// is wrong with that.
func TestWorkloadThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, w := NewWithT(t), newWorld(t).withProbe()
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		g.Expect(workload(nil).Run(ctx, w.cluster)).To(HaveExactElements(HaveField("Outcome", matrix.Healthy)))
	})
}

// spoiled is a check over a world in which one thing is wrong.
type spoiled struct {
	check string
	what  string
	spoil func(w *world)
	// saw is part of what the check says.
	saw string
}

func baselineSpoiled() []spoiled {
	notReady := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	execFails := func(w *world) {
		w.execute = func(string, []string) (string, string, bool) { return "", "it went wrong", true }
	}
	execSays := func(text string) func(w *world) {
		return func(w *world) {
			w.execute = func(string, []string) (string, string, bool) { return text, "", true }
		}
	}
	kmsg := func(printed string) func(w *world) { return func(w *world) { w.kmsg = printed } }
	return []spoiled{
		{"api-livez", "a check fails", func(w *world) {
			w.checks = func(string) (int, string) {
				return 500, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"
			}
		}, "[-]etcd failed"},
		{"api-readyz", "a check fails", func(w *world) {
			w.checks = func(string) (int, string) {
				return 500, "[+]ping ok\n[-]poststarthook/rbac failed: not finished\nreadyz check failed\n"
			}
		}, "[-]poststarthook/rbac failed: not finished"},
		{"api-readyz", "an answer that is no answer", func(w *world) {
			w.checks = func(string) (int, string) { return 200, "<html>hello</html>" }
		}, `answered "<html>hello</html>"`},
		{"api-livez", "an empty answer", func(w *world) {
			w.checks = func(string) (int, string) { return 200, "" }
		}, `answered ""`},
		{"nodes-ready", "not Ready", func(w *world) {
			w.nodes[0].Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse,
				Reason: "KubeletNotReady", Message: "cni plugin not initialized"}
		}, "Ready is False: KubeletNotReady: cni plugin not initialized"},
		{"nodes-ready", "unknown", func(w *world) {
			w.nodes[0].Status.Conditions[0].Status = corev1.ConditionUnknown
		}, "Ready is Unknown"},
		{"nodes-ready", "no condition", func(w *world) { w.nodes[0].Status.Conditions = nil }, "no Ready condition"},
		{"nodes-ready", "another name", func(w *world) { w.nodes[0].Name = "localhost" }, "does not have this node"},
		{"nodes-ready", "one too many", func(w *world) {
			w.nodes = append(w.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stranger"}})
		}, "1 others: stranger"},
		{"nodes-ready", "one too few", func(w *world) { w.cluster.Cell.Topology.Agents = 1 }, "1 nodes were made"},
		{"taints", "a taint", func(w *world) {
			w.nodes[0].Spec.Taints = append(w.nodes[0].Spec.Taints, corev1.Taint{Key: "node.kubernetes.io/disk-pressure", Effect: corev1.TaintEffectNoSchedule})
		}, "node.kubernetes.io/disk-pressure:NoSchedule"},
		{"taints", "the right key with another effect", func(w *world) { w.nodes[0].Spec.Taints[0].Effect = corev1.TaintEffectNoExecute },
			"control-plane:NoExecute"},
		{"taints", "an agent with a server's taint", func(w *world) {
			w.cluster.Cell.Topology = matrix.Topology{Agents: 1}
		}, "control-plane:NoSchedule"},
		{"taints", "a cordoned node", func(w *world) { w.nodes[0].Spec.Unschedulable = true }, "the node is cordoned"},
		{"node-facts", "kubelet", func(w *world) { w.nodes[0].Status.NodeInfo.KubeletVersion = "v1.34.3" }, `kubelet "v1.34.3"`},
		{"node-facts", "kernel", func(w *world) { w.facts.Kernel = "6.1.0" }, `kernel "6.18.0-test"`},
		{"node-facts", "operating system", func(w *world) { w.nodes[0].Status.NodeInfo.OSImage = "Alpine" }, `operating system "Alpine"`},
		{"node-facts", "release", func(w *world) { w.cluster.Cell.OS.Name = "debian/12" }, `operating system version "13"`},
		{"node-facts", "family", func(w *world) { w.cluster.Cell.OS.Name = "almalinux/13" }, `operating system ID "debian"`},
		{"node-facts", "runtime", func(w *world) { w.nodes[0].Status.NodeInfo.ContainerRuntimeVersion = "cri-o://1.30" }, `"cri-o://1.30"`},
		{"node-facts", "address", func(w *world) { w.nodes[0].Status.Addresses[0].Address = "10.244.0.1" }, `internal IP "10.244.0.1"`},
		{"system-pods", "Running but not Ready", func(w *world) { notReady(w.pod("kube-scheduler")) }, "kube-scheduler-cp1: Running, not Ready"},
		{"system-pods", "crashing", func(w *world) {
			p := w.pod("coredns-x")
			notReady(p)
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}}
		}, "coredns-x: main CrashLoopBackOff back-off 10s"},
		{"system-pods", "unschedulable", func(w *world) {
			p := w.pod("coredns-x")
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled,
				Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available"}}}
		}, "Unschedulable 0/1 nodes are available"},
		{"system-pods", "failed", func(w *world) {
			w.pod("coredns-x").Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}
		}, "coredns-x: Failed Evicted"},
		{"system-pods", "terminating", func(w *world) {
			now := metav1.Now()
			w.pod("coredns-y").DeletionTimestamp = &now
		}, "coredns-y: terminating"},
		{"system-pods", "no etcd", func(w *world) { w.removePod("etcd") }, "no Ready etcd-cp1"},
		{"system-pods", "no kube-apiserver", func(w *world) { w.removePod("kube-apiserver") }, "no Ready kube-apiserver-cp1"},
		{"system-pods", "no kube-proxy", func(w *world) { w.removePod("kube-proxy") }, "no Ready k8s-app=kube-proxy on cp1"},
		{"system-pods", "one coredns", func(w *world) { w.removePod("coredns-x") }, "no Ready 1 of 2 k8s-app=kube-dns"},
		{"system-pods", "no pods at all", func(w *world) { w.pods = nil }, "no Ready etcd-cp1"},
		{"kube-proxy-healthz", "unhealthy", func(w *world) {
			w.proxy = func(rw http.ResponseWriter) { rw.WriteHeader(503) }
		}, "503 Service Unavailable"},
		{"kube-proxy-healthz", "refused", func(w *world) { w.proxyServer.Close() }, "connection refused"},
		{"workload", "not Ready", func(w *world) { notReady(w.pod("probe-cp1")) }, "pod probe-cp1-abc: Running, not Ready"},
		{"workload", "no image", func(w *world) {
			p := w.pod("probe-cp1")
			notReady(p)
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull"}}
		}, "ErrImageNeverPull"},
		{"workload", "on another node", func(w *world) { w.pod("probe-cp1").Spec.NodeName = "other" }, "it is on node other"},
		{"workload", "refused", func(w *world) {
			w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					http.Error(rw, "admission webhook says no", http.StatusForbidden)
				}
				return r.Method == http.MethodPost
			}
		}, "create namespace lxcmatrix-probe"},
		{"dns", "another address", execSays("10.1.2.3\n"), "kubernetes.default is 10.1.2.3"},
		{"dns", "an empty answer", execSays(""), "kubernetes.default is "},
		{"dns", "a failure", execFails, "it went wrong"},
		{"dns", "UDP alone", func(w *world) {
			w.execute = func(_ string, args []string) (string, string, bool) {
				return "", "no answer in time", slices.Contains(args, "--tcp=true")
			}
		}, "over tcp"},
		{"dns", "no server", func(w *world) { w.removePod("coredns") }, "no DNS server is Ready"},
		{"dns", "no probe", func(w *world) { w.removePod("probe") }, "no probe pod yet"},
		{"service-clusterip", "a failure", execFails, "it went wrong"},
		{"service-clusterip", "a stranger answers", execSays("hostname stranger"), `10.96.7.7:80 answered "hostname stranger"`},
		{"dns", "endpoints of before", func(w *world) { w.endpoints = "10.244.8.8" }, "service kube-dns has the endpoints [10.244.8.8 10.244.8.8], its Ready pods are [10.244.0.4 10.244.0.5]"},
		{"service-clusterip", "endpoints of before", func(w *world) { w.endpoints = "10.244.8.8" }, "service probe has the endpoints [10.244.8.8], its Ready pods are [10.244.0.7]"},
		{"service-clusterip", "headless", func(w *world) { w.services["lxcmatrix-probe/probe"].Spec.ClusterIP = "None" }, `cluster IP "None"`},
		{"exec", "a failure", execFails, "it went wrong"},
		{"exec", "another content", execSays("nonsense"), `read "nonsense"`},
		{"exec", "no upgrade", func(w *world) {
			w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/exec") {
					http.Error(rw, "error dialing backend: connection refused", http.StatusInternalServerError)
					return true
				}
				return false
			}
		}, "error dialing backend: connection refused"},
		{"logs", "empty", func(w *world) { w.log = "" }, `log ""`},
		{"logs", "something else", func(w *world) { w.log = "panic: oh" }, `log "panic: oh"`},
		{"logs", "an error", func(w *world) {
			w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/log") {
					http.Error(rw, "no route to kubelet", http.StatusBadGateway)
					return true
				}
				return false
			}
		}, "read log of pod probe-cp1-abc"},
		{"control-plane", "unhealthy", func(w *world) {
			w.components[0].Conditions[0] = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse,
				Message: "Get \"https://127.0.0.1:10259/healthz\": connection refused"}
		}, `scheduler: Get "https://127.0.0.1:10259/healthz": connection refused`},
		{"control-plane", "silent", func(w *world) { w.components[1].Conditions = nil }, "controller-manager says nothing"},
		{"control-plane", "not there", func(w *world) { w.components = w.components[:2] }, "no status of etcd-0"},
		{"control-plane", "nothing", func(w *world) { w.components = nil }, "no status of scheduler; no status of controller-manager; no status of etcd-0"},
		{"leases", "a node's", func(w *world) { w.leases["cp1"] = lease("cp1", 40, time.Now().Add(-time.Minute)) }, "lease cp1 was renewed 1m0s ago"},
		{"leases", "a leader's", func(w *world) {
			w.leases["kube-scheduler"] = lease("kube-scheduler", 15, time.Now().Add(-17*time.Second))
		}, "lease kube-scheduler was renewed 17s ago"},
		{"leases", "never renewed", func(w *world) { w.leases["cp1"].Spec.RenewTime = nil }, "lease cp1 was never renewed"},
		{"leases", "none", func(w *world) { delete(w.leases, "kube-controller-manager") }, "get lease kube-controller-manager"},
		{"events", "a storm", func(w *world) { w.events = []corev1.Event{storm(25, time.Second)} }, "FailedCreate of job backup, 25 times: no quota"},
		{"events", "a storm in a series", func(w *world) {
			e := storm(1, time.Hour)
			e.Series = &corev1.EventSeries{Count: 40, LastObservedTime: metav1.NewMicroTime(time.Now())}
			w.events = []corev1.Event{e}
		}, "FailedCreate of job backup, 40 times"},
		{"events", "none", func(w *world) { w.events = nil }, "the API has no events"},
		{"crashes", "no pods", func(w *world) { w.pods = nil }, "the API has no pods on the node"},
		{"units", "one failed", func(w *world) { w.state["units"] = "cron.service loaded failed failed Regular background jobs\n" }, "failed unit cron.service"},
		{"shims", "a zombie", func(w *world) {
			w.state["processes"] = "Zl 4711 containerd-shim [containerd-shim] <defunct>\n"
		}, "process 4711 of containerd-shim is a zombie"},
		{"shims", "without a task", func(w *world) { w.state["tasks"] = "known\n" }, "process 326 is the shim of 68ce00f4, which containerd does not have"},
		{"crashes", "a core", func(w *world) { w.state["cores"] = "/var/lib/systemd/coredump/core.kubelet.0.zst\n" }, "core /var/lib/systemd/coredump/core.kubelet.0.zst"},
		{"crashes", "a signal", func(w *world) {
			w.pod("etcd").Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 139}
		}, "container main of pod etcd-cp1 ended by SIGSEGV"},
		{"crashes", "memory", func(w *world) {
			w.pod("etcd").Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}
		}, "container main of pod etcd-cp1 was killed for want of memory"},
		{"resources", "killed", func(w *world) { w.state["killed"] += "./memory/kubepods/memory.oom_control:oom_kill 2\n" }, "oom_kill 2 in cgroup ./memory/kubepods/memory.oom_control"},
		{"resources", "killed on cgroup v2", func(w *world) {
			w.state["killed"] = "./memory.events:oom_kill 0\n./init.scope/memory.events:oom_kill 1\n"
		}, "oom_kill 1 in cgroup ./init.scope/memory.events"},
		{"kernel-log", "out of memory", func(w *world) {
			w.kernelLog = kernelSaid(0, "oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/lxc.payload.lxcmatrix_cp1/system.slice,task=tail,pid=9,uid=0")
		}, "oom-kill:constraint=CONSTRAINT_MEMCG"},
		{"kmsg", "a link to the console", kmsg("a link to /dev/console\n-\n4294967295\n"), "/dev/kmsg is a link to /dev/console"},
		{"kmsg", "a link that fixes ask for", kmsg("a link to /dev/console\nwanted\n4294967295\n"), "/dev/kmsg is a link to /dev/console"},
		{"kmsg", "a link that nobody asked for", kmsg("a link to /dev/null\n-\n4294967295\n"), "/dev/kmsg is a link to /dev/null"},
		{"kmsg", "gone", kmsg("nothing\n-\n4294967295\n"), "/dev/kmsg is nothing"},
		{"kmsg", "another device", kmsg("a character special file 1:3\n-\n4294967295\n"), "/dev/kmsg is a character special file 1:3"},
		{"kmsg", "no answer", kmsg(""), `it printed ""`},
		{"daemonset", "no pod", func(w *world) { w.removePod("daemon-") }, "no daemon pod yet"},
		{"daemonset", "not Ready", func(w *world) { notReady(w.pod("daemon-")) }, "pod daemon-cp1: Running, not Ready"},
		{"host-port", "refused", func(w *world) { hostAnswers(w, daemonHostPort, 503, "") }, "port 18080 of the node answered 503"},
		{"host-port", "a stranger answers", func(w *world) { hostAnswers(w, daemonHostPort, 200, "pod stranger") }, `answered 200 OK "pod stranger"`},
		{"host-port", "no pod", func(w *world) { w.removePod("daemon-") }, "no daemon pod yet"},
		{"service-nodeport", "a stranger answers", func(w *world) { hostAnswers(w, probeNodePort, 200, "pod stranger") }, `answered 200 OK "pod stranger"`},
		{"service-nodeport", "no node port", func(w *world) { w.services[probeNamespace+"/"+portService].Spec.Ports[0].NodePort = 0 }, "has no node port"},
		{"service-nodeport", "gone", func(w *world) { delete(w.services, probeNamespace+"/"+portService) }, "get service probe-node-port: not found"},
		{"service-nodeport", "no probe", func(w *world) { w.removePod("probe") }, "no probe pod yet"},
		{"service-headless", "a failure", execFails, "it went wrong"},
		{"service-headless", "another address", execSays("10.1.2.3\n"), "probe-headless is 10.1.2.3"},
		{"service-headless", "one address too many", execSays("10.1.2.3\n10.244.0.7\n"), "probe-headless is 10.1.2.3, 10.244.0.7"},
		{"service-headless", "endpoints of before", func(w *world) { w.endpoints = "10.244.8.8" }, "service probe-headless has the endpoints [10.244.8.8]"},
		{"pod-to-pod", "a failure", execFails, "it went wrong"},
		{"pod-to-pod", "nobody else on the node", func(w *world) { w.removePod("daemon-") }, "on node cp1, no daemon pod yet"},
		{"pod-to-pod-udp", "a failure", execFails, "it went wrong"},
		{"pod-to-pod-udp", "a stranger answers", execSays("pod stranger, 1400 bytes\npod stranger, 4000 bytes\n"), `answered "pod stranger, 1400 bytes`},
		{"pod-to-pod-udp", "one size alone", execSays("pod daemon-cp1, 1400 bytes\n"), `answered "pod daemon-cp1, 1400 bytes"`},
		{"job", "no end", func(w *world) { w.answer = jobIs(nil) }, "has no pod yet"},
		{"job", "failed", func(w *world) {
			w.answer = jobIs([]batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded", Message: "it has failed"}})
		}, "failed: BackoffLimitExceeded: it has failed"},
		{"job", "refused", func(w *world) {
			w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/jobs") {
					http.Error(rw, "exceeded quota", http.StatusForbidden)
				}
				return strings.HasSuffix(r.URL.Path, "/jobs")
			}
		}, "create job job-"},
		{"rollout", "no deployment", func(w *world) { w.removePod("rollout-") }, "roll out deployment rollout: not found"},
		{"rollout", "nothing comes of it", func(w *world) { w.answer = ignorePatches }, "no pod of the new revision yet; 1 of before"},
		{"rollout", "the one of before stays", func(w *world) {
			w.addPod(probeNamespace, "old-1", "cp1", label(rolloutLabel))
		}, "pod rollout-2 of the new revision is Ready, and 1 of before are left"},
		{"restart-stability", "a pod that is not Ready", func(w *world) { notReady(w.pod("etcd")) }, "at the window's end: etcd-cp1"},
		{"restart-stability", "no pods", func(w *world) { w.pods = nil }, "no containers"},
	}
}

// storm is an event that came so often, the last time so long ago.
func storm(count int32, ago time.Duration) corev1.Event {
	return corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Job", Name: "backup"},
		Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "no quota", Count: count, LastTimestamp: metav1.NewTime(time.Now().Add(-ago))}
}

// kernelSaid is a line of a kernel's log, so long ago.
func kernelSaid(ago time.Duration, text string) string {
	return strings.Replace(time.Now().Add(-ago).UTC().Format("2006-01-02T15:04:05.000000-07:00"), ".", ",", 1) + " " + text + "\n"
}

// TestNotOfTheNode: what is not the node's own, or over, is told at most.
func TestNotOfTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		check string
		spoil func(w *world)
		saw   string
	}{
		"a storm that is over": {"events", func(w *world) { w.events = []corev1.Event{storm(99, time.Minute)} }, "1 events, no warning again and again"},
		"what is as it should be": {"events", func(w *world) {
			e := storm(99, 0)
			e.Type = corev1.EventTypeNormal
			w.events = []corev1.Event{e}
		}, "1 events, no warning again and again"},
		"the scope of a container": {"units", func(w *world) {
			w.state["units"] = "cri-containerd-68ce00f4.scope loaded failed failed libcontainer container 68ce00f4\n"
		}, "no unit failed"},
		"the shim of another's": {"shims", func(*world) {}, "none of 1 shims is left over"},
		"no figures":            {"resources", func(w *world) { w.state["figures"] = "" }, "nothing killed for want of memory"},
		"few events":            {"events", func(w *world) { w.events = []corev1.Event{storm(24, 0)} }, "1 events, no warning again and again"},
		"of another node": {"kernel-log", func(w *world) {
			w.kernelLog = kernelSaid(0, "oom-kill:task_memcg=/lxc.payload.other") + kernelSaid(0, "probe[77]: segfault at 0 ip 0")
		}, "nothing of this node; 2 lines of processes of no node that they name"},
		"before the node's start": {"kernel-log", func(w *world) { w.kernelLog = kernelSaid(time.Hour, "oom-kill:task_memcg=/lxc.payload.cp1") }, "nothing of this node"},
		"denied": {"kernel-log", func(w *world) {
			w.kernelLog = kernelSaid(0, `audit: apparmor="DENIED" operation="mount" profile="incus-cp1_"`)
		},
			"nothing of this node; 1 denials of a security module"},
		"another end": {"crashes", func(w *world) {
			w.pod("etcd").Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}
		}, "no core, and no container that crashed"},
		"figures of cgroup v2": {"resources", func(w *world) {
			w.state["figures"] = "memory.current 104857600\npids.current 12\ncpu.stat usage_usec 2500000\ncpu.stat user_usec 1\n"
		}, "nothing killed for want of memory, 100 MiB of memory, 12 processes and threads, 2.5s of CPU time"},
	} {
		bubble(t, name, func(t *testing.T) {
			w := newWorld(t)
			c.spoil(w)
			evidence := runIntoDeadline(t, w, byName(Baseline(timeouts()), c.check))
			NewWithT(t).Expect(evidence).To(ConsistOf(And(HaveField("Outcome", matrix.Healthy), HaveField("Saw", HavePrefix(c.saw)))))
		})
	}
}

// TestNodeShowsNothing: what a node or its host does not show is undecided.
func TestNodeShowsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		checks []string
		spoil  func(w *world)
		saw    string
	}{
		"cut off": {[]string{"units", "shims", "crashes", "resources"}, func(w *world) {
			w.execNode = func(_ string, args []string) (provisioner.Output, error, bool) {
				return provisioner.Output{Stdout: "== units\n"}, nil, slices.Contains(args, stateScript)
			}
		}, "read the state of node cp1: it printed"},
		"no ps": {[]string{"units", "shims", "crashes", "resources"}, func(w *world) {
			w.execNode = func(_ string, args []string) (provisioner.Output, error, bool) {
				return provisioner.Output{}, errors.New("ps: not found"), slices.Contains(args, stateScript)
			}
		}, "ps: not found"},
		"no folder of tasks": {[]string{"shims"}, func(w *world) { w.state["tasks"] = "" }, "which tasks containerd has on node cp1 is not known"},
		"no counts":          {[]string{"resources"}, func(w *world) { w.state["killed"] = "" }, "no cgroup of node cp1 counts"},
		"no kernel log":      {[]string{"kernel-log"}, func(w *world) { w.kernelErr = errors.New("dmesg: permission denied") }, "permission denied"},
	} {
		for _, check := range c.checks {
			bubble(t, name+"/"+check, func(t *testing.T) {
				w := newWorld(t)
				c.spoil(w)
				evidence := runIntoDeadline(t, w, byName(Baseline(timeouts()), check))
				NewWithT(t).Expect(evidence).To(ConsistOf(And(HaveField("Outcome", matrix.Undecided), HaveField("Saw", ContainSubstring(c.saw)))))
			})
		}
	}
}

// sealed is a host without a way to its own system.
type sealed struct{ *world }

func (sealed) Exec() provisioner.HostExec { return nil }

// TestLeftOut: what there is nothing of to look at has no evidence.
func TestLeftOut(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.cluster.Cell.Distro.Name, w.cluster.Host = "k3s", sealed{w}
		evidence, _ := RunAll(t.Context(), w.cluster, []provisioner.Check{controlPlane(), kernelLog(), units()})
		g.Expect(evidence).To(ConsistOf(And(HaveField("Check", "units"), HaveField("Outcome", matrix.Healthy))))
	})
}

// hostAnswers makes a port of every node give an answer.
func hostAnswers(w *world, port, status int, body string) {
	w.fromHost = func(rw http.ResponseWriter, asked int, _ string) bool {
		if asked == port {
			rw.WriteHeader(status)
			_, _ = rw.Write([]byte(body))
		}
		return asked == port
	}
}

// jobIs makes every Job have conditions.
func jobIs(conditions []batchv1.JobCondition) func(rw http.ResponseWriter, r *http.Request) bool {
	return func(rw http.ResponseWriter, r *http.Request) bool {
		parts := strings.Split(r.URL.Path, "/jobs/")
		if len(parts) == 2 {
			reply(rw, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: parts[1], UID: "job"}, Status: batchv1.JobStatus{Conditions: conditions}})
		}
		return len(parts) == 2
	}
}

// ignorePatches takes every change, and does nothing.
func ignorePatches(rw http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodPatch {
		reply(rw, &appsv1.Deployment{})
	}
	return r.Method == http.MethodPatch
}

// TestKernelMessages: what fixes put in the place of /dev/kmsg is as it should be,
// and so is a user namespace without it.
func TestKernelMessages(t *testing.T) {
	for _, printed := range []string{"a character special file 1:b\nwanted\n65536\n", "a link to /dev/null\nwanted\n4294967295\n", "nothing\n-\n65536\n"} {
		bubble(t, printed, func(t *testing.T) {
			g, w := NewWithT(t), newWorld(t)
			w.kmsg = printed
			g.Expect(kernelMessages().Run(t.Context(), w.cluster)).To(HaveExactElements(And(HaveField("Outcome", matrix.Healthy), HaveField("Node", "cp1"))))
		})
	}
}

// TestJobTellsOfItsPod: what keeps a Job's pod keeps the Job.
func TestJobTellsOfItsPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t).withProbe()
		w.answer = jobIs(nil)
		w.addPod(probeNamespace, "job-x-abc", "cp1", nil)
		w.pod("job-x").OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "job-x", UID: "job", Controller: new(true)}}
		w.pod("job-x").Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull"}}
		expectUnhealthy(t, w, job(), "pod job-x-abc: main ErrImageNeverPull")
	})
}

func TestBaselineSpoiled(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range baselineSpoiled() {
		tested[c.check] = true
		bubble(t, c.check+"/"+c.what, func(t *testing.T) {
			w := newWorld(t).withProbe()
			c.spoil(w)
			expectUnhealthy(t, w, byName(Baseline(timeouts()), c.check), c.saw)
		})
	}
	for _, name := range names(Baseline(timeouts())) {
		if !tested[name] {
			t.Errorf("no test in which %s is not healthy", name)
		}
	}
}

// TestLookThatIsCutShort: what the deadline ends tells less than the look before.
func TestLookThatIsCutShort(t *testing.T) {
	bubble(t, "dns", func(t *testing.T) {
		w := newWorld(t).withProbe()
		asked := 0
		w.execute = func(string, []string) (string, string, bool) {
			if asked++; asked > 1 {
				time.Sleep(enough)
			}
			return "", "it went wrong", true
		}
		expectUnhealthy(t, w, byName(Baseline(timeouts()), "dns"), "it went wrong")
	})
}

// expectUnhealthy runs a check until its deadline, or until it is of no use to
// look again.
func expectUnhealthy(t *testing.T, w *world, c provisioner.Check, saw string) {
	t.Helper()
	g := NewWithT(t)
	evidence := runIntoDeadline(t, w, c)
	var said []string
	for _, e := range evidence {
		g.Expect(e.Check).To(Equal(c.Name()))
		g.Expect(e.Outcome).NotTo(Equal(matrix.Undecided), "%+v", e)
		if e.Outcome == matrix.Unhealthy {
			said = append(said, e.Saw)
			g.Expect(e.Took.Std()).To(BeElementOf(enough, time.Duration(0)))
		}
	}
	g.Expect(said).To(ContainElement(ContainSubstring(saw)), "%+v", evidence)
}

func runIntoDeadline(t *testing.T, w *world, c provisioner.Check) []matrix.Evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	return c.Run(ctx, w.cluster)
}

// Whatever is wrong with the API as such makes every check unhealthy, for the
// reason that was seen.
func TestAPIBroken(t *testing.T) {
	ways := map[string]struct {
		spoil func(w *world)
		saw   string
	}{
		"garbage": {func(w *world) {
			w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write([]byte(`{"kind":"PodList","apiVersion":"v1","items":"no`))
				return true
			}
		}, ""},
		"empty objects": {func(w *world) {
			w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Content-Type", "application/json")
				_, _ = rw.Write([]byte(`{}`))
				return true
			}
		}, ""},
		"starting": {func(w *world) {
			w.answer = func(rw http.ResponseWriter, _ *http.Request) bool {
				http.Error(rw, "apiserver is starting", http.StatusServiceUnavailable)
				return true
			}
		}, ""},
		"refused": {func(w *world) {
			w.dialErr = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}, "connection refused"},
		"another authority": {func(w *world) {
			w.cluster.Kubeconfig = []byte(strings.Replace(string(w.cluster.Kubeconfig), caOf(string(w.cluster.Kubeconfig)), otherCA(), 1))
		}, "certificate signed by unknown authority"},
		"no credentials": {func(w *world) {
			w.cluster.Kubeconfig = []byte(strings.Replace(string(w.cluster.Kubeconfig), `"secret"`, `"wrong"`, 1))
		}, ""},
	}
	for what, way := range ways {
		for _, c := range AfterRestart(Snapshot{Nonce: "n", Nodes: map[string]NodeSnapshot{"cp1": {BootID: "before"}}}, timeouts()) {
			switch c.Name() {
			case "mounts", "sysctls", "same-pki", "kube-proxy-healthz", "kmsg", "units", "shims", "resources", "kernel-log":
				continue // They do not ask the API.
			}
			bubble(t, what+"/"+c.Name(), func(t *testing.T) {
				w := newWorld(t).withProbe()
				way.spoil(w)
				expectUnhealthy(t, w, c, way.saw)
			})
		}
	}
}

// A harness that cannot look proves nothing.
func TestUndecided(t *testing.T) {
	ways := map[string]struct {
		spoil func(w *world)
		check string
		saw   string
	}{
		"no way to dial":      {func(w *world) { w.dialErr = errors.New("no such instance") }, "api-livez", "no such instance"},
		"Incus cannot be had": {func(w *world) { w.dialErr = &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED} }, "nodes-ready", "connection refused"},
		"out of files":        {func(w *world) { w.dialErr = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EMFILE} }, "dns", "too many open files"},
		"proxy port":          {func(w *world) { w.dialErr = errors.New("no such instance") }, "kube-proxy-healthz", "no such instance"},
		"no facts":            {func(w *world) { w.facts = matrix.HostFacts{} }, "node-facts", "host unreachable"},
		"exec fails": {func(w *world) {
			w.execNode = func(string, []string) (provisioner.Output, error, bool) {
				return provisioner.Output{}, errors.New("websocket: bad handshake"), true
			}
		}, "same-pki", "bad handshake"},
		"no kubeconfig":    {func(w *world) { w.cluster.Kubeconfig = nil }, "api-livez", "read kubeconfig"},
		"unknown distro":   {func(w *world) { w.cluster.Cell.Distro.Name = "minikube" }, "system-pods", "healthy minikube cluster"},
		"window too short": {func(w *world) {}, "restart-stability", "were watched"},
		"program to be run": {func(w *world) {
			w.cluster.Kubeconfig = replaceUser(w, `{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"sh","interactiveMode":"Never"}}`)
		}, "api-livez", "asks for a program"},
		"file of ours": {func(w *world) { w.cluster.Kubeconfig = replaceUser(w, `{"tokenFile":"/etc/hostname"}`) }, "api-livez", "files outside"},
		"no verification": {func(w *world) {
			w.cluster.Kubeconfig = []byte(strings.Replace(string(w.cluster.Kubeconfig), `"certificate-authority-data":"`+caOf(string(w.cluster.Kubeconfig))+`"`, `"insecure-skip-tls-verify":true`, 1))
		}, "api-livez", "no certificate authority"},
	}
	for what, way := range ways {
		bubble(t, what, func(t *testing.T) {
			g := NewWithT(t)
			w := newWorld(t).withProbe()
			way.spoil(w)
			limits := matrix.Timeouts{Stability: matrix.Duration(time.Hour)}
			checks := append(Baseline(limits), samePKI(Snapshot{Nodes: map[string]NodeSnapshot{"cp1": {BootID: "before"}}}))
			evidence := runIntoDeadline(t, w, byName(checks, way.check))
			g.Expect(evidence).To(HaveLen(1))
			g.Expect(evidence[0].Outcome).To(Equal(matrix.Undecided), "%+v", evidence)
			g.Expect(evidence[0].Saw).To(ContainSubstring(way.saw))
		})
	}
}

// A restart cannot be proven against a snapshot of something else.
func TestAfterRestartWithoutASnapshot(t *testing.T) {
	for _, c := range AfterRestart(Snapshot{}, timeouts()) {
		switch c.Name() {
		case "api-livez", "api-readyz", "kube-proxy-healthz", "kmsg", "job", "restart-stability", "control-plane",
			"leases", "events", "units", "shims", "crashes", "resources", "kernel-log":
			continue // They look at the present alone.
		}
		bubble(t, c.Name(), func(t *testing.T) {
			g := NewWithT(t)
			evidence := runIntoDeadline(t, newWorld(t).withProbe(), c)
			g.Expect(evidence).To(HaveLen(1))
			g.Expect(evidence[0].Outcome).To(Equal(matrix.Undecided), "%+v", evidence)
			g.Expect(evidence[0].Saw).To(ContainSubstring("before the restart"))
		})
	}
}

func replaceUser(w *world, user string) []byte {
	return []byte(strings.Replace(string(w.cluster.Kubeconfig), `{"token":"secret"}`, user, 1))
}

func caOf(kubeconfig string) string {
	_, rest, _ := strings.Cut(kubeconfig, `"certificate-authority-data":"`)
	ca, _, _ := strings.Cut(rest, `"`)
	return ca
}

// otherCA is an authority that signed nothing here.
func otherCA() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}

// restarts is a world that was restarted well, and what was there before.
func restarts(t *testing.T, nodes ...string) (*world, Snapshot) {
	t.Helper()
	w := newWorld(t, nodes...).withProbe()
	snapshot, err := TakeSnapshot(t.Context(), w.cluster)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restarted()
	return w, snapshot
}

func withoutLine(text, with string) string {
	var left strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, with) {
			left.WriteString(line)
		}
	}
	return left.String()
}

func TestAfterARestartThatWentWell(t *testing.T) {
	for _, nodes := range [][]string{{"cp1"}, {"cp1", "agent1"}} {
		bubble(t, fmt.Sprint(len(nodes)), func(t *testing.T) {
			g := NewWithT(t)
			w, before := restarts(t, nodes...)
			w.created = nil
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			evidence, _ := RunAll(ctx, w.cluster, AfterRestart(before, timeouts()))
			seen := map[string]bool{}
			for _, e := range evidence {
				g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
				seen[e.Check] = true
			}
			for _, name := range names(AfterRestart(before, timeouts())) {
				g.Expect(seen).To(HaveKey(name))
			}
			g.Expect(w.created).To(HaveExactElements("/apis/batch/v1/namespaces/lxcmatrix-probe/jobs"), "after a restart nothing else is created")
		})
	}
}

// Each spoils one part of a restart that went well.
func TestAfterRestartSpoiled(t *testing.T) {
	old := func(w *world, before Snapshot) {
		w.starts["cp1"] = nodeStart{bootID: before.Nodes["cp1"].BootID, at: w.starts["cp1"].at}
	}
	oldReport := func(w *world, before Snapshot) {
		w.nodes[0].Status.NodeInfo.BootID = before.Nodes["cp1"].BootID
	}
	oldContainer := func(pod string) func(*world, Snapshot) {
		return func(w *world, _ Snapshot) {
			w.pod(pod).Status.ContainerStatuses[0].ContainerID = "containerd://1-" + w.pod(pod).Name
		}
	}
	cases := []struct {
		check, what string
		spoil       func(w *world, before Snapshot)
		saw         string
	}{
		{"boot-id", "the node was not restarted", old, "is that of before the restart"},
		{"boot-id", "the API shows the one of before", oldReport, "the API still shows the start"},
		{"nodes-ready", "Ready from before", oldReport, "the API still shows the start"},
		{"taints", "taints from before", oldReport, "the API still shows the start"},
		{"node-facts", "facts from before", oldReport, "the API still shows the start"},
		{"lease-renewed", "the node was not restarted", old, "the node was not restarted"},
		{"lease-renewed", "not since", func(w *world, before Snapshot) {
			w.leases["cp1"].Spec.RenewTime = &metav1.MicroTime{Time: before.Nodes["cp1"].LeaseRenewed}
		}, "not renewed since before the restart"},
		{"lease-renewed", "while it ended", func(w *world, before Snapshot) {
			w.leases["cp1"].Spec.RenewTime = &metav1.MicroTime{Time: w.starts["cp1"].at.Add(-2 * time.Second)}
		}, "2s before the node started"},
		{"lease-renewed", "in the second of the start", func(w *world, before Snapshot) {
			w.leases["cp1"].Spec.RenewTime = &metav1.MicroTime{Time: w.starts["cp1"].at.Add(900 * time.Millisecond)}
		}, "before the node started"},
		{"lease-renewed", "no lease", func(w *world, _ Snapshot) { delete(w.leases, "cp1") }, "get lease of node cp1"},
		{"lease-renewed", "never", func(w *world, _ Snapshot) { w.leases["cp1"].Spec.RenewTime = nil }, "never renewed"},
		{"system-pods", "Ready from before", oldContainer("etcd"), "etcd-cp1: the API still shows container main from before the restart"},
		{"system-pods", "started before the node", func(w *world, _ Snapshot) {
			w.pod("etcd").Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.starts["cp1"].at.Add(-3 * time.Second))
		}, "before its node at"},
		{"new-sandboxes", "one of before", oldContainer("kube-proxy"), "kube-proxy-cp1: the API still shows container main"},
		{"new-sandboxes", "one that does not run", func(w *world, _ Snapshot) {
			w.pod("coredns-x").Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
		}, "coredns-x: container main does not run"},
		{"new-sandboxes", "none reported", func(w *world, _ Snapshot) { w.pod("coredns-x").Status.ContainerStatuses = nil }, "coredns-x: no containers reported"},
		{"new-sandboxes", "none", func(w *world, _ Snapshot) { w.pods = nil }, "no containers"},
		{"workload", "did not come back", func(w *world, _ Snapshot) { w.removePod("probe") }, "no probe pod yet"},
		{"workload", "Ready from before", oldContainer("probe"), "from before the restart"},
		{"dns", "servers Ready from before", func(w *world, s Snapshot) {
			oldContainer("coredns-x")(w, s)
			oldContainer("coredns-y")(w, s)
		}, "no DNS server is Ready"},
		{"service-clusterip", "Ready from before", oldContainer("probe"), "from before the restart"},
		{"exec", "Ready from before", oldContainer("probe"), "from before the restart"},
		{"logs", "Ready from before", oldContainer("probe"), "from before the restart"},
		{"same-pki", "changed", func(w *world, _ Snapshot) { w.pki["/etc/kubernetes/pki/ca.crt"] = strings.Repeat("c", 64) }, "/etc/kubernetes/pki/ca.crt changed"},
		{"same-pki", "gone", func(w *world, _ Snapshot) { delete(w.pki, "/etc/kubernetes/pki/apiserver.crt") }, "apiserver.crt is gone"},
		{"same-pki", "new", func(w *world, _ Snapshot) { w.pki["/etc/kubernetes/pki/new.crt"] = strings.Repeat("c", 64) }, "new.crt is new"},
		{"same-pki", "no authority", func(w *world, _ Snapshot) { delete(w.pki, "/etc/kubernetes/pki/ca.crt") }, "no ca.crt"},
		{"same-pki", "find fails", func(w *world, _ Snapshot) {
			w.execNode = func(name string, args []string) (provisioner.Output, error, bool) {
				out := provisioner.Output{ExitCode: 1, Stderr: "No such file or directory"}
				return out, &provisioner.CommandError{Node: name, Command: args, Output: out}, true
			}
		}, "No such file or directory"},
		{"mounts", "gone", func(w *world, _ Snapshot) { w.mounts = withoutLine(w.mounts, " /tmp ") }, "/tmp is gone, was tmpfs rw,nosuid,nodev shared"},
		{"mounts", "new", func(w *world, _ Snapshot) {
			w.mounts += "31 1 0:99 / /proc/sys/kernel/panic rw,relatime - tmpfs tmpfs rw\n"
		}, "/proc/sys/kernel/panic is new: tmpfs rw private"},
		{"mounts", "another type", func(w *world, _ Snapshot) {
			w.mounts = strings.Replace(w.mounts, "- cgroup cgroup", "- tmpfs cgroup", 1)
		},
			"/sys/fs/cgroup/cpu is tmpfs rw,nosuid,nodev,noexec shared, was cgroup rw,nosuid,nodev,noexec shared"},
		{"mounts", "mounted over", func(w *world, _ Snapshot) {
			w.mounts += "31 1 0:99 / /tmp ro,nosuid,nodev unbindable - tmpfs tmpfs rw\n"
		},
			"/tmp is tmpfs ro,nosuid,nodev unbindable, was tmpfs rw,nosuid,nodev shared"},
		{"mounts", "read-only", func(w *world, _ Snapshot) { w.mounts = strings.Replace(w.mounts, "/dev/loop1 rw", "/dev/loop1 ro", 1) }, "/ is ext4 ro shared"},
		{"mounts", "private", func(w *world, _ Snapshot) {
			w.mounts = strings.Replace(w.mounts, "rw,noatime shared:2 -", "rw,noatime -", 1)
		}, "/ is ext4 rw private"},
		{"mounts", "no slave", func(w *world, _ Snapshot) { w.mounts = strings.Replace(w.mounts, " master:255", "", 1) }, "/dev/.incus-mounts is tmpfs rw shared, was tmpfs rw shared,slave"},
		{"mounts", "nothing", func(w *world, _ Snapshot) { w.mounts = "" }, "no root is mounted"},
		{"mounts", "cut short", func(w *world, _ Snapshot) { w.mounts += "31 1 0:99 / /tmp" }, "it printed"},
		{"sysctls", "another value", func(w *world, _ Snapshot) { w.sysctls["net.ipv4.ip_forward"] = "0" }, "net.ipv4.ip_forward is 0, was 1"},
		{"sysctls", "gone", func(w *world, _ Snapshot) { delete(w.sysctls, "kernel.panic") }, "kernel.panic is gone, was 10"},
		{"object-survived", "gone", func(w *world, _ Snapshot) { w.maps = map[string]*corev1.ConfigMap{} }, "get config map survivor: not found"},
		{"object-survived", "another content", func(w *world, _ Snapshot) { w.maps["survivor"].Data["nonce"] = "other" }, `nonce "other"`},
		{"object-survived", "made anew", func(w *world, _ Snapshot) { w.maps["survivor"].UID = "object-2" }, "has UID object-2"},
		{"object-survived", "another cluster", func(w *world, _ Snapshot) { w.namespaces["kube-system"].UID = "system-2" }, "another cluster"},
		{"file-survived", "gone", func(w *world, _ Snapshot) { w.files = map[string]string{} }, "no such file"},
		{"daemonset", "Ready from before", oldContainer("daemon-"), "from before the restart"},
		{"host-port", "Ready from before", oldContainer("daemon-"), "from before the restart"},
		{"claim-survived", "gone", func(w *world, _ Snapshot) { w.files = map[string]string{} }, "no such file"},
		{"claim-survived", "another content", func(w *world, _ Snapshot) { w.files["cp1/claim/survivor"] = "other" }, `holds "other"`},
		{"claim-survived", "no pod", func(w *world, _ Snapshot) { w.removePod("rollout-") }, "no pod of deployment rollout is Ready"},
		{"claim-survived", "Ready from before", func(w *world, _ Snapshot) {
			w.pod("rollout-").Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.starts["cp1"].at.Add(-3 * time.Second))
		}, "no pod of deployment rollout is Ready"},
		{"file-survived", "another content", func(w *world, _ Snapshot) { w.files["cp1/var/lib/lxcmatrix/probe/survivor"] = "other" }, `holds "other"`},
	}
	tested := map[string]bool{}
	for _, c := range cases {
		tested[c.check] = true
		bubble(t, c.check+"/"+c.what, func(t *testing.T) {
			w, before := restarts(t)
			c.spoil(w, before)
			expectUnhealthy(t, w, byName(AfterRestart(before, timeouts()), c.check), c.saw)
		})
	}
	for _, c := range baselineSpoiled() {
		tested[c.check] = true
	}
	for _, name := range names(AfterRestart(Snapshot{}, timeouts())) {
		if !tested[name] {
			t.Errorf("no test in which %s is not healthy", name)
		}
	}
}

func TestTakeSnapshotFails(t *testing.T) {
	ways := map[string]struct {
		spoil func(w *world)
		saw   string
		nodes bool
	}{
		"no probe": {func(w *world) { w.removePod("probe") }, "leave a file on node cp1: no probe pod yet", true},
		"no claim": {func(w *world) { w.removePod("rollout-") }, "leave a file in a claimed volume: no pod of deployment rollout is Ready", true},
		"no lease": {func(w *world) { delete(w.leases, "cp1") }, "get lease of node cp1", true},
		"read-only": {func(w *world) {
			w.execute = func(string, []string) (string, string, bool) { return "", "read-only file system", true }
		}, "read-only file system", true},
		"no way to see": {func(w *world) { w.dialErr = errors.New("no such instance") }, "no such instance", false},
		"no kubeconfig": {func(w *world) { w.cluster.Kubeconfig = nil }, "read kubeconfig", false},
		"odd exec": {func(w *world) {
			w.execNode = func(string, []string) (provisioner.Output, error, bool) {
				return provisioner.Output{Stdout: "x"}, nil, true
			}
		}, `it printed "x"`, true},
	}
	for what, way := range ways {
		bubble(t, what, func(t *testing.T) {
			g := NewWithT(t)
			w := newWorld(t).withProbe()
			way.spoil(w)
			ctx, cancel := context.WithTimeout(t.Context(), enough)
			defer cancel()
			_, err := TakeSnapshot(ctx, w.cluster)
			g.Expect(err).To(MatchError(ContainSubstring(way.saw)))
			g.Expect(provisioner.IsNodes(err)).To(Equal(way.nodes), "%v", err)
		})
	}
}

// A try that the deadline cuts short hides nothing of the one before it.
func TestSnapshotCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t).withProbe()
		delete(w.leases, "cp1")
		tries := 0
		w.answer = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/configmaps/"+survivorObject) {
				tries++
			}
			return tries == 2 && w.hang(r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		_, err := TakeSnapshot(ctx, w.cluster)
		g.Expect(err).To(MatchError(ContainSubstring("get lease of node cp1")))
		g.Expect(provisioner.IsNodes(err)).To(BeTrue(), "%v", err)
		w.mu.Lock()
		defer w.mu.Unlock()
		g.Expect(tries).To(Equal(2))
	})
}

// What was seen before the API went away is told with it, and the deadline
// does not hide it.
func TestDeadlineKeepsTheLastThingSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.nodes[0].Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"}
		looks := 0
		w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			looks++
			if looks < 3 {
				return false
			}
			return w.hang(r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		evidence := byName(Baseline(timeouts()), "nodes-ready").Run(ctx, w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Unhealthy))
		g.Expect(evidence[0].Saw).To(HavePrefix("Ready is False: KubeletNotReady"))
		g.Expect(evidence[0].Node).To(Equal("cp1"))
		w.mu.Lock()
		defer w.mu.Unlock()
		g.Expect(looks).To(BeNumerically(">=", 3))
	})
}

func TestErrorTellsWhatWasBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.nodes[0].Status.Conditions = nil
		looks := 0
		w.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			if looks++; looks > 1 {
				http.Error(rw, "etcdserver: leader changed", http.StatusInternalServerError)
			}
			return looks > 1
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		evidence := byName(Baseline(timeouts()), "nodes-ready").Run(ctx, w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Saw).To(ContainSubstring("list nodes"))
		g.Expect(evidence[0].Saw).To(HaveSuffix("before that: cp1: no Ready condition yet"))
	})
}

func TestInterruptedProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.nodes[0].Status.Conditions = nil
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(300*time.Millisecond, cancel).Stop()
		evidence := byName(Baseline(timeouts()), "nodes-ready").Run(ctx, w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Undecided))
		g.Expect(evidence[0].Saw).To(Equal("interrupted; last seen: no Ready condition yet"))
	})
}

func TestNoTimeToLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		for _, c := range AfterRestart(Snapshot{}, timeouts()) {
			evidence := c.Run(ctx, w.cluster)
			g.Expect(evidence).To(HaveLen(1))
			g.Expect(evidence[0].Outcome).To(Equal(matrix.Undecided), c.Name())
			g.Expect(evidence[0].Saw).To(Equal("no time to look"))
		}
	})
}

func TestStability(t *testing.T) {
	const window = 400 * time.Millisecond
	for what, c := range map[string]struct {
		change func(w *world)
		saw    string
		early  bool
	}{
		"a restart":   {func(w *world) { w.pod("etcd").Status.ContainerStatuses[0].RestartCount++ }, "restarts of kube-system/etcd-cp1/main rose from 0 to 1", true},
		"outside too": {func(w *world) { w.pod("probe").Status.ContainerStatuses[0].RestartCount++ }, "probe-cp1-abc/main rose", true},
		"a new container": {func(w *world) {
			s := &w.pod("etcd").Status.ContainerStatuses[0]
			s.ContainerID = "containerd://new"
			s.State.Running.StartedAt = metav1.Now()
		}, "etcd-cp1/main was started anew", true},
		"a pod that left": {func(w *world) { w.removePod("coredns-x") }, "coredns-x/main is gone", true},
		"no longer Ready": {func(w *world) { w.pod("etcd").Status.Conditions[0].Status = corev1.ConditionFalse }, "at the window's end: etcd-cp1", false},
		"the API is gone": {func(w *world) {
			w.checks = nil
			w.answer = func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(503); return true }
		}, "list pods", false},
	} {
		bubble(t, what, func(t *testing.T) {
			g := NewWithT(t)
			w := newWorld(t).withProbe()
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			defer time.AfterFunc(window/2, func() { w.mu.Lock(); defer w.mu.Unlock(); c.change(w) }).Stop()
			evidence := restartStability(window).Run(ctx, w.cluster)
			g.Expect(evidence).To(HaveLen(1))
			g.Expect(evidence[0].Outcome).To(Equal(matrix.Unhealthy), "%+v", evidence)
			g.Expect(evidence[0].Saw).To(ContainSubstring(c.saw))
			g.Expect(ctx.Err() == nil).To(Equal(c.early), "took %s", evidence[0].Took)
		})
	}
	bubble(t, "a job ends, and another is tried again", func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t).withProbe()
		w.addJob("helm-install-traefik-abc", "traefik")
		w.addJob("helm-install-traefik-crd-abc", "traefik-crd")
		defer time.AfterFunc(window/2, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.finish("helm-install-traefik-crd")
			w.pod("helm-install-traefik-abc").Status.ContainerStatuses[0].RestartCount++
		}).Stop()
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		evidence := restartStability(window).Run(ctx, w.cluster)
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy), "%+v", evidence)
	})
	bubble(t, "restarts of before do not count", func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t).withProbe()
		w.pod("etcd").Status.ContainerStatuses[0].RestartCount = 3
		evidence := restartStability(window).Run(t.Context(), w.cluster)
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy))
		g.Expect(evidence[0].Saw).To(HaveSuffix("restarts before that: kube-system/etcd-cp1/main 3"))
		g.Expect(evidence[0].Took.Std()).To(BeNumerically(">=", window))
	})
}

// What a chart's job installs is not there before the job has ended.
func TestChartsAreInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.addJob("helm-install-traefik-abc", "traefik")
		expectUnhealthy(t, w, systemPods(nil), "helm-install-traefik-abc: chart traefik is being installed")
		w.finish("helm-install-traefik")
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		evidence := systemPods(nil).Run(ctx, w.cluster)
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy), "%+v", evidence)
	})
}

// TestContainersThatEnded: a job's container is none that must run on.
func TestContainersThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t).withProbe()
		w.addJob("helm-install-traefik-abc", "traefik")
		w.finish("helm-install-traefik")
		ctx, cancel := context.WithTimeout(t.Context(), enough)
		defer cancel()
		before, err := TakeSnapshot(ctx, w.cluster)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(before.Nodes["cp1"].Containers).NotTo(BeEmpty())
		evidence := ranOn(before).Run(ctx, w.cluster)
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy), "%+v", evidence)
	})
}

// The window needs everything else to be healthy, and the others leave it its
// time.
func TestWindowDoesNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		w.log = ""
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		began := time.Now()
		evidence, waited := RunAll(ctx, w.cluster, Baseline(matrix.Timeouts{Stability: matrix.Duration(2 * time.Second)}))
		g.Expect(waited).To(BeZero())
		at := slices.IndexFunc(evidence, func(e matrix.Evidence) bool { return e.Check == "restart-stability" })
		g.Expect(evidence[at].Outcome).To(Equal(matrix.Undecided))
		g.Expect(evidence[at].Saw).To(Equal("the window did not begin, since logs is not healthy"))
		g.Expect(evidence[at+1:]).To(HaveLen(len(afterwards())))
		g.Expect(evidence[at+1:]).To(HaveEach(And(HaveField("Outcome", matrix.Undecided), HaveField("Saw", "it did not begin, since logs is not healthy"))))
		g.Expect(time.Since(began)).To(Equal(2 * time.Second))
	})
}

type silent struct{}

func (silent) Name() string                                                { return "silent" }
func (silent) Run(context.Context, *provisioner.Cluster) []matrix.Evidence { return nil }

func TestRunAllHoldsOthersToTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t)
		evidence, _ := RunAll(t.Context(), w.cluster, []provisioner.Check{silent{}})
		g.Expect(evidence).To(Equal([]matrix.Evidence{{Check: "silent", Outcome: matrix.Undecided, Saw: "the check returned no evidence"}}))
		w.cluster.Kubeconfig = nil
		evidence, _ = RunAll(t.Context(), w.cluster, []provisioner.Check{silent{}})
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Undecided))
	})
}

func TestExecFallsBackToSPDY(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t).withProbe()
		w.noWS = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		evidence := byName(Baseline(timeouts()), "exec").Run(ctx, w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy), "%+v", evidence)
		g.Expect(evidence[0].Saw).To(HaveSuffix("over SPDY"))
		w.mu.Lock()
		w.noWS = false
		w.mu.Unlock()
		evidence = byName(Baseline(timeouts()), "exec").Run(ctx, w.cluster)
		g.Expect(evidence[0].Saw).To(HaveSuffix("over WebSocket"))
	})
}

// The probe must not hide a taint.
func TestProbeToleratesTheServersTaintOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t, "cp1", "agent1")
		objects, err := workloadObjects(fixtures.Manifests(), w.cluster.Nodes)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(objects).To(HaveLen(5 + 6))
		g.Expect(objects[8]).To(HaveField("Spec.NodeAffinity.Required.NodeSelectorTerms", HaveExactElements(HaveField("MatchExpressions", HaveExactElements(HaveField("Values", []string{"cp1"}))))))
		for i, name := range []string{"cp1", "agent1"} {
			d, ok := objects[3+i].(*appsv1.Deployment)
			g.Expect(ok).To(BeTrue())
			pod := d.Spec.Template.Spec
			g.Expect(d.Name).To(Equal("probe-" + name))
			g.Expect(d.Spec.Template.Labels).To(HaveKeyWithValue(nodeLabel, name))
			g.Expect(d.Spec.Selector.MatchLabels).To(HaveKeyWithValue(nodeLabel, name))
			g.Expect(pod.NodeName).To(BeEmpty())
			g.Expect(pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values).To(Equal([]string{name}))
			g.Expect(pod.Tolerations).To(Equal([]corev1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}))
			g.Expect(pod.Containers[0].ImagePullPolicy).To(Equal(corev1.PullNever))
		}
	})
}

func TestPatience(t *testing.T) {
	g := NewWithT(t)
	var all []time.Duration
	for n := range 7 {
		all = append(all, patience(n))
	}
	const s = time.Second
	g.Expect(all).To(Equal([]time.Duration{s / 2, s, 2 * s, 4 * s, 5 * s, 5 * s, 5 * s}))
}
