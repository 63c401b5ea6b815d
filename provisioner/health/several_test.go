package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

func TestPodToPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t, "cp1", "agent1", "agent2").withProbe()
		evidence := podToPod(nil).Run(t.Context(), w.cluster)
		g.Expect(evidence).To(HaveLen(3))
		for i, e := range evidence {
			g.Expect(e.Outcome).To(Equal(matrix.Healthy), "%+v", e)
			g.Expect(e.Node).To(Equal(w.cluster.Nodes[i].Name()))
			g.Expect(e.Saw).To(And(HavePrefix("answered by "), ContainSubstring("on node cp1"), ContainSubstring("on node agent1"), ContainSubstring("on node agent2")))
			g.Expect(e.Saw).To(ContainSubstring(w.pod("daemon-"+e.Node).Status.PodIP+" on node "+e.Node), "on its own node it asks another pod than itself")
		}
	})
}

func TestPodToPodSpoiled(t *testing.T) {
	for what, spoil := range map[string]func(w *world){
		"1 is not the way there": func(w *world) {
			w.execute = func(pod string, args []string) (string, string, bool) {
				across := strings.Contains(args[len(args)-1], w.pod("probe-cp1").Status.PodIP)
				return "", "1 is not the way there", args[1] == "get" && strings.HasPrefix(pod, "probe-agent1") && across
			}
		},
		`answered "pod probe-agent1`: func(w *world) {
			w.execute = func(pod string, args []string) (string, string, bool) {
				return "pod " + pod, "", args[1] == "get"
			}
		},
		"answers, but not a request of 4000 bytes": func(w *world) {
			w.execute = func(_ string, args []string) (string, string, bool) {
				return "", "no answer in time", len(args[len(args)-1]) > largeRequest
			}
		},
		"on node cp1, no probe pod yet": func(w *world) { w.removePod("probe-cp1") },
	} {
		bubble(t, what, func(t *testing.T) {
			w := newWorld(t, "cp1", "agent1").withProbe()
			spoil(w)
			expectUnhealthy(t, w, podToPod(nil), what)
		})
	}
}

// returnedOf is the check whether nodes are back, after the whole cluster was
// restarted well.
func returnedOf(t *testing.T, nodes ...string) (*world, Snapshot, provisioner.Check) {
	t.Helper()
	w, before := restarts(t, "cp1", "agent1")
	return w, before, byName(Returned(before, nodes), "returned")
}

func TestReturned(t *testing.T) {
	bubble(t, "as it should", func(t *testing.T) {
		g := NewWithT(t)
		w, _, c := returnedOf(t, "agent1")
		evidence := c.Run(t.Context(), w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0]).To(And(HaveField("Outcome", matrix.Healthy), HaveField("Node", "agent1")))
	})
	for what, spoil := range map[string]func(w *world, before Snapshot){
		"is that of before the restart": func(w *world, before Snapshot) {
			w.starts["cp1"] = nodeStart{bootID: before.Nodes["cp1"].BootID, at: w.starts["cp1"].at}
		},
		"the API still shows the start with boot ID": func(w *world, before Snapshot) {
			w.nodes[0].Status.NodeInfo.BootID = before.Nodes["cp1"].BootID
		},
		"Ready is Unknown": func(w *world, _ Snapshot) {
			w.nodes[0].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
		},
		"no pod etcd-cp1": func(w *world, _ Snapshot) { w.removePod("etcd-") },
		"etcd-cp1: the API still shows container main from before the restart": func(w *world, _ Snapshot) {
			w.pod("etcd-").Status.ContainerStatuses[0].ContainerID = "containerd://1-etcd-cp1"
		},
		"the API does not have this node": func(w *world, _ Snapshot) { w.nodes = w.nodes[1:] },
	} {
		bubble(t, what, func(t *testing.T) {
			w, before, c := returnedOf(t, "cp1")
			spoil(w, before)
			expectUnhealthy(t, w, c, what)
		})
	}
}

// fewPorts is a host of which some nodes accept, some refuse and some do not
// answer.
type fewPorts struct {
	provisioner.Host
	nodes map[string]string
	asked []string
}

func (h *fewPorts) Dial(ctx context.Context, node string, _ int) (net.Conn, error) {
	h.asked = append(h.asked, node)
	switch h.nodes[node] {
	case "accepts":
		ours, _ := net.Pipe()
		return ours, nil
	case "refuses":
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestNameOfServers: where the kubeconfig has a name, the first server that
// accepts is asked, and an agent never is.
func TestNameOfServers(t *testing.T) {
	for _, c := range []struct{ nodes, asked, fails string }{
		{"accepts accepts accepts", "s1", ""},
		{"refuses accepts accepts", "s1 s2", ""},
		{"silent silent accepts", "s1 s2 s3", ""},
		{"refuses refuses refuses", "s1 s2 s3", "connection refused"},
	} {
		bubble(t, c.nodes, func(t *testing.T) {
			g := NewWithT(t)
			host := &fewPorts{nodes: map[string]string{"a1": "accepts"}}
			cluster := &provisioner.Cluster{Host: host, Cell: matrix.Cell{Topology: matrix.Topology{Servers: 3, Agents: 1}}}
			for i, does := range strings.Fields(c.nodes) {
				name := fmt.Sprintf("s%d", i+1)
				host.nodes[name] = does
				cluster.Nodes = append(cluster.Nodes, node{name: name})
			}
			cluster.Nodes = append(cluster.Nodes, node{name: "a1"})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			conn, err := dialer(cluster)(ctx, "tcp", "api.lxcmatrix.internal:6443")
			g.Expect(strings.Join(host.asked, " ")).To(Equal(c.asked))
			if c.fails != "" {
				g.Expect(err).To(MatchError(ContainSubstring(c.fails)))
				g.Expect(errors.Is(err, syscall.ECONNREFUSED) && !isBlind(err)).To(BeTrue(), "the nodes answered: %v", err)
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(conn.Close()).To(Succeed())
		})
	}
}

// TestFlannel: its daemon belongs to every node.
func TestFlannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		w := newWorld(t, "cp1", "agent1")
		w.cluster.Cell.Variants = []string{"flannel-host-gw"}
		for _, n := range []string{"cp1", "agent1"} {
			w.addPod("kube-flannel", "kube-flannel-ds-"+n, n, map[string]string{"app": "flannel"})
		}
		evidence := systemPods(nil).Run(t.Context(), w.cluster)
		g.Expect(evidence).To(HaveLen(1))
		g.Expect(evidence[0].Outcome).To(Equal(matrix.Healthy), "%+v", evidence[0])
		w.pod("kube-flannel-ds-cp1").Status.Conditions[0].Status = corev1.ConditionFalse
		w.removePod("kube-flannel-ds-agent1")
		expectUnhealthy(t, w, systemPods(nil), "no Ready app=flannel on cp1, app=flannel on agent1")
	})
}
