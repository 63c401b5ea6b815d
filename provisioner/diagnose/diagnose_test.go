package diagnose_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	. "github.com/onsi/gomega"
	"go.yaml.in/yaml/v4"

	"github.com/lxcmatrix/lxcmatrix/fixtures"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
)

func embedded(t testing.TB) []*diagnose.Signature {
	t.Helper()
	signatures, err := diagnose.Load(diagnose.Source{Name: "signatures", FS: fixtures.Signatures()})
	if err != nil {
		t.Fatal(err)
	}
	return signatures
}

// lines are log lines in the programs' own words, one or more per signature.
func lines() map[string][][2]string {
	return map[string][][2]string{
		"cgroup1-split-cpu": {
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpu cpuacct]"`},
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpu]"`},
		},
		"oom-score-adj-pipe": {
			{"containerd.log", `time="2026-11-20T19:00:00Z" level=error msg="RunPodSandbox for &PodSandboxMetadata{Name:etcd-cp1,} failed, error" error="failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: can't get final child's PID from pipe: EOF"`},
			{"kubelet.log", `E1120 19:00:00.1 812 log.go:32] "RunPodSandbox from runtime service failed" err="rpc error: code = Unknown desc = failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: can't get final child's PID from pipe: EOF"`},
		},
		"atoi-empty": {
			{"kubelet.log", `E0810 10:00:00.1 812 kubelet.go:1649] "Failed to start ContainerManager" err="strconv.Atoi: parsing \"\": invalid syntax"`},
			{"kubelet.log", `E0810 10:00:00.1 812 kubelet.go:1649] "Failed to start ContainerManager" err="[strconv.Atoi: parsing \"\": invalid syntax, strconv.Atoi: parsing \"\": invalid syntax]"`},
		},
		"kmsg-missing": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: failed to create kubelet: open /dev/kmsg: no such file or directory"`},
		},
		"cgroup-v1-controllers": {
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [cpuset memory]"`},
			{"kubelet.log", `E1120 19:00:00.123456     812 kubelet.go:1703] "Failed to start ContainerManager" err="system validation failed - Following Cgroup subsystem not mounted: [memory]"`},
		},
		"kube-proxy-nftables": {
			{"kube-proxy.log", `E1120 19:00:00.1 1 server.go:135] "Error running ProxyServer" err="unable to create proxier: kube-proxy in nftables mode requires kernel 5.13 or later"`},
		},
		"conntrack-max": {
			{"kube-proxy.log", `E1120 19:00:00.1 1 server.go:109] "Error running ProxyServer" err="open /proc/sys/net/netfilter/nf_conntrack_max: permission denied"`},
		},
		"cgroups-path-format": {
			{"containerd.log", `failed to create shim task: OCI runtime create failed: runc create failed: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "/k8s.io/1f0c" instead`},
			{"kubelet.log", `err="rpc error: code = Unknown desc = expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/kubepods/burstable/pod1/2\" instead: unknown"`},
		},
		"disk-pressure": {
			{"kubelet.log", `I1120 19:00:00.1 812 image_gc_manager.go:391] "Disk usage on image filesystem is over the high threshold, trying to free bytes down to the low threshold" usage=86 highThreshold=85 amountToFree=1 lowThreshold=80`},
			{"kubelet.log", `I1120 19:00:00.1 812 eviction_manager.go:376] "Eviction manager: attempting to reclaim" resourceName="ephemeral-storage"`},
			{"kubelet.log", `I1120 19:00:00.1 812 eviction_manager.go:387] "Eviction manager: must evict pod(s) to reclaim" resourceName="inodes"`},
		},
		"apparmor-denied": {
			{"containerd.log", `unable to start container process: error during container init: unable to apply apparmor profile: apparmor failed to apply profile: write /proc/self/attr/apparmor/exec: no such file or directory`},
		},
		"sysctl-reopen": {
			{"containerd.log", `runc create failed: unable to start container process: error during container init: open sysctl net.ipv4.ip_unprivileged_port_start file: reopen fd 8: permission denied`},
		},
		"br-netfilter-missing": {
			{"pods.log", `E0316 18:45:18.787279       1 main.go:268] Failed to check br_netfilter: stat /proc/sys/net/bridge/bridge-nf-call-iptables: no such file or directory`},
		},
		"btrfs-rootfs": {
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:1703] "Failed to start ContainerManager" err="failed to get rootfs info: with major: 0, minor: 41: could not find device in cached partitions map"`},
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:1380] Failed to start ContainerManager failed to get rootfs info: failed to get device for dir "/var/lib/kubelet": could not find device with major: 0, minor: 41 in cached partitions map`},
		},
		"cgroup-controllers": {
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:1703] "Failed to start ContainerManager" err="Failed to initialize root container: cgroup [\"kubepods\"] has some missing controllers: cpuset, pids"`},
			{"k3s.log", `time="2026-11-20T19:00:00Z" level=fatal msg="failed to find memory cgroup (v2)"`},
			{"k3s.log", `time="2026-11-20T19:00:00Z" level=fatal msg="Error: failed to run Kubelet: pids cgroup controller not found"`},
		},
		"cgroup-invalid-state": {
			{"containerd.log", `error during container init: error setting cgroup config for procHooks process: cannot enter cgroupv2 "/sys/fs/cgroup/kubepods.slice" with domain controllers -- it is in an invalid state`},
		},
		"conntrack-timeouts": {
			{"kube-proxy.log", `E1120 19:00:00.1 1 server.go:109] "Error running ProxyServer" err="open /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established: permission denied"`},
		},
		"containerd-config-version": {
			{"containerd.log", "containerd: failed to load TOML: containerd config version `3` is not supported, the max version is `2`"},
			{"containerd.log", "containerd: expected containerd config version equal to or less than `3`, got `4`"},
		},
		"containerd-table-twice": {
			{"containerd.log", `containerd: failed to load TOML: /var/lib/rancher/rke2/agent/etc/containerd/config.toml: toml: table runtime already exists`},
		},
		"coredns-loop": {
			{"pods.log", `2026-11-20T19:00:00.1Z stdout F [FATAL] plugin/loop: Loop (127.0.0.1:55953 -> :53) detected for zone ".", see https://coredns.io/plugins/loop#troubleshooting. Query: "HINFO 4547991504243258144.3688648895315093531."`},
		},
		"cpu-level": {
			{"console.log", `Fatal glibc error: CPU does not support x86-64-v3`},
		},
		"devices-not-allowed": {
			{"containerd.log", `runc create failed: unable to start container process: error during container init: error setting cgroup config for procHooks process: failed to write \"a *:* rwm\": write /sys/fs/cgroup/devices/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod010508e1.slice/cri-containerd-1afb.scope/devices.allow: operation not permitted: unknown`},
		},
		"preflight-proxy-url": {
			{"install.log", `2026-11-22T03:31:23.852195771Z 	[ERROR HTTPProxyCIDR]: parse "https://[10.96.0.1]:1234/": invalid IP-literal`},
		},
		"device-rule-refused": {
			{"create.log", `Failed to parse device rule devices.allow=b`},
		},
		"hugetlb-controller": {
			{"containerd.log", "level=error msg=\"CreateContainer within sandbox for &ContainerMetadata{Name:etcd,Attempt:0,} failed\" error=\"failed to generate container spec: huge pages limits are specified but hugetlb cgroup controller is missing. Please set tolerate_missing_hugetlb_controller to `true` to ignore this error\""},
		},
		"runc-crash": {
			{"containerd.log", `error="failed to create containerd task: failed to create shim task: OCI runtime create failed: runc did not terminate successfully: exit status 2: unexpected fault address 0xc000200000\nfatal error: fault\n: unknown"`},
		},
		"hostport-conflict": {
			{"objects.yaml", `    message: '0/1 nodes are available: 1 node(s) didn''t have free ports for the requested pod ports. preemption: 0/1 nodes are available'`},
			{"pods.log", `0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.`},
		},
		"iptables-missing": {
			{"pods.log", `E1120 19:00:00.1 1 server.go:131] "Error running ProxyServer" err="iptables is not available on this host : error listing chain \"POSTROUTING\" in table \"nat\": exit status 3"`},
		},
		"kernel-module-refused": {
			{"create.log", `Failed to load kernel module 'vxlan': Failed to run: modprobe -b vxlan: exit status 1 (modprobe: FATAL: Module vxlan not found in directory /lib/modules/6.18.44)`},
		},
		"modules-load-failed": {
			{"journal.log", `2026-11-20T19:00:00.123456+00:00 cp1 systemd-modules-load[61]: Failed to insert module 'br_netfilter': Operation not permitted`},
		},
		"portmap-iptables": {
			{"containerd.log", `plugin type="portmap" failed (add): unable to create chain CNI-HOSTPORT-SETMARK: failed to list chains: exec: "iptables": executable file not found in $PATH`},
		},
		"preflight-executable": {
			{"install.log", `[ERROR FileExisting-conntrack]: conntrack not found in system path`},
		},
		"resolv-fallback": {
			{"k3s.log", `time="2026-11-20T19:00:00Z" level=warning msg="Host resolv.conf includes loopback, multicast, or link-local nameservers - kubelet will use autogenerated resolv.conf with nameserver 8.8.8.8"`},
			{"rke2.log", `time="2023-11-14T13:53:15+08:00" level=warning msg="Host resolv.conf includes loopback or multicast nameservers - kubelet will use autogenerated resolv.conf with nameserver 8.8.8.8"`},
		},
		"snapshotter": {
			{"k3s.log", `time="2026-11-20T19:00:00Z" level=fatal msg="\"overlayfs\" snapshotter cannot be enabled for \"/var/lib/rancher/k3s/agent/containerd\", try using \"fuse-overlayfs\" or \"native\": failed to mount overlay: operation not permitted"`},
		},
		"unit-namespace": {
			{"journal.log", `Nov 20 19:00:00 cp1 systemd[211]: systemd-logind.service: Failed at step NAMESPACE spawning /lib/systemd/systemd-logind: Permission denied`},
			{"units.txt", `   Main PID: 211 (code=exited, status=226/NAMESPACE)`},
		},
		"userns-kubelet": {
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:565] "Failed to create an oomWatcher (running in UserNS, Hint: enable KubeletInUserNamespace feature flag to ignore the error)" err="open /dev/kmsg: operation not permitted"`},
			{"kubelet.log", `E1120 19:00:00.1 812 container_manager_linux.go:487] "Updating kernel flag failed (Hint: enable KubeletInUserNamespace feature flag to ignore the error)" err="open /proc/sys/kernel/panic: permission denied" flag="kernel/panic"`},
		},
		"apparmor-gate-fatal": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to set feature gates from initial flags-based config: cannot set feature gate AppArmor to false, feature is locked to true"`},
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to set feature gates from initial flags-based config: unrecognized feature gate: AppArmor"`},
		},
		"kernel-config": {
			{"kubeadm-init.log", `[ERROR SystemVerification]: failed to parse kernel config: unable to load kernel module: "configs", output: "modprobe: FATAL: Module configs not found in directory /lib/modules/6.18.44\n", err: exit status 1`},
		},
		"cni-plugin-missing": {
			{"kubelet.log", `E1121 15:39:28.784911     760 remote_runtime.go:237] "RunPodSandbox from runtime service failed" err="rpc error: code = Unknown desc = failed to setup network for sandbox \"384d6a71\": plugin type=\"bridge\" failed (add): failed to find plugin \"bridge\" in path [/usr/lib/cni]"`},
		},
		"no-default-route": {
			{"kubeadm-init.log", `error execution phase preflight: couldn't look up: no default routes found in "/proc/net/route" or "/proc/net/ipv6_route"`},
		},
		"stop-timeout": {
			{"restart.log", `2026-11-20T19:00:00Z restart did not end within 2m0s: restart node cp1: context deadline exceeded`},
		},
		"not-shared": {
			{"kubelet.log", `Error: failed to generate container "1f" spec: path "/sys/fs/bpf" is mounted on "/" but it is not a shared mount`},
		},
		"sysctl-read-only": {
			{"kubelet.log", `E1120 19:00:00.1 812 kubelet.go:1703] "Failed to start ContainerManager" err="[open /proc/sys/vm/overcommit_memory: read-only file system, open /proc/sys/kernel/panic: read-only file system]"`},
			{"kubelet.log", `"Failed to start ContainerManager" err="open /proc/sys/kernel/keys/root_maxkeys: permission denied"`},
			{"kubelet.log", `"Failed to start ContainerManager" err="invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0"`},
		},
		"cgroup-v1-refused": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release"`},
		},
		"swap-on": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: running with swap on is not supported, please disable swap or set --fail-swap-on flag to false"`},
		},
		"ip-forward": {
			{"kubeadm-init.log", `	[ERROR FileContent--proc-sys-net-ipv4-ip_forward]: /proc/sys/net/ipv4/ip_forward contents are not set to 1`},
		},
		"too-many-open-files": {
			{"kubelet.log", `E1120 19:00:00.1 812 run.go:72] "command failed" err="failed to run Kubelet: error creating fsnotify watcher: too many open files"`},
			{"journal.log", `systemd[1]: Failed to allocate directory watch: Too many open files`},
		},
		"kubelet-down":            {{"state.txt", `unit kubelet is inactive (dead), restarted 0 times`}, {"state.txt", `unit kubelet is failed (failed), restarted 3 times`}},
		"kubelet-flapping":        {{"state.txt", `unit kubelet is activating (auto-restart), restarted 4 times`}},
		"containerd-down":         {{"state.txt", `unit containerd is inactive (dead), restarted 0 times`}},
		"node-frozen":             {{"collect.log", `collect kubelet.log of node a1: exec in instance a1: Instance is frozen`}},
		"apiserver-down":          {{"state.txt", `control plane: 0 processes of kube-apiserver`}},
		"scheduler-down":          {{"state.txt", `control plane: 0 processes of kube-scheduler`}},
		"controller-manager-down": {{"state.txt", `control plane: 0 processes of kube-controller-manager`}},
		"apiserver-unknown-authority": {
			{"baseline.log", `api-livez: get /livez: Get "https://10.0.0.9:6443/livez?timeout=5s&verbose=": tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of "crypto/rsa: verification error" while trying to verify candidate authority certificate "kubernetes")`},
		},
		"taint-left": {
			{"baseline.log", `taints on a1: maintenance=left:NoSchedule, want no taint but a server's own`},
			{"recover.log", `taints on a1: example.com/team:NoExecute, want no taint but a server's own`},
		},
		"taint-unreachable": {{"recover.log", `taints on a1: node.kubernetes.io/unreachable:NoSchedule, node.kubernetes.io/unreachable:NoExecute, want no taint but a server's own`}},
		"taint-not-ready":   {{"baseline.log", `taints on a1: node.kubernetes.io/not-ready:NoSchedule, want no taint but a server's own`}},
		"node-cordoned":     {{"objects.yaml", `    unschedulable: true`}},
		"crash-loop": {
			{"objects.yaml", `          reason: CrashLoopBackOff`},
			{"baseline.log", `2026-11-22T04:14:21.309222522Z system-pods: 4 of 7 pods Ready; kube-proxy-zk8rn: kube-proxy CrashLoopBackOff back-off 40s restarting failed container=kube-proxy`},
		},
		"container-ended":      {{"recover.log", `restart-stability: after 12s: restarts of kube-system/fault/fault rose from 0 to 1, want no container restarts for 20s`}},
		"pod-unschedulable":    {{"objects.yaml", `      reason: Unschedulable`}},
		"containers-not-ready": {{"objects.yaml", `      reason: ContainersNotReady`}},
		"dns-wrong-answer": {
			{"baseline.log", `dns on a1: exec "/probe dns --tcp=false --timeout 5s --want 10.96.0.1 kubernetes.default" in pod probe-a1-55474f6c4-jf5kw: command terminated with exit code 1: probe: resolve kubernetes.default: got 192.0.2.53, want 10.96.0.1, want 10.96.0.1`},
			{"baseline.log", `dns on a1: kubernetes.default is 192.0.2.53, want 10.96.0.1`},
		},
		"dns-port-filtered":         {{"state.txt", `-A PREROUTING -p tcp -m tcp --dport 53 -j DROP`}},
		"vxlan-port-filtered":       {{"state.txt", `-A PREROUTING -p udp -m udp --dport 8472 -j DROP`}},
		"overlay-mtu":               {{"baseline.log", `pod-to-pod on a1: 10.244.0.4:8080 answers, but not a request of 4000 bytes, want an answer of pod probe-s1 at 10.244.0.4:8080 on node s1`}},
		"datagrams-lost":            {{"baseline.log", `pod-to-pod-udp on a1: exec "/probe udp --timeout 500ms 10.244.1.3:8080 1400 4000" in pod probe-a1: command terminated with exit code 1: probe: no answer of 10.244.1.3:8080 to a datagram of 4000 bytes: read udp 10.244.1.2:33003->10.244.1.3:8080: i/o timeout, want an answer of pod daemon-x at 10.244.1.3:8080 on node a1`}},
		"host-port-closed":          {{"recover.log", `host-port on a1: port 18080 of the node: dial tcp 10.0.0.9:18080: connect: connection refused, want an answer of pod daemon-x`}},
		"node-port-closed":          {{"baseline.log", `service-nodeport on a1: port 30180 of the node: dial tcp 10.0.0.9:30180: i/o timeout, want an answer of pod probe-a1`}},
		"daemonset-nowhere":         {{"baseline.log", `daemonset on s1: no daemon pod yet, want a Ready pod`}},
		"kmsg-link":                 {{"baseline.log", `kmsg on a1: /dev/kmsg is a link to /dev/console, want a character special file 1:b`}},
		"quota-exceeded":            {{"baseline.log", `job: create job job-4xq7: jobs.batch "job-4xq7" is forbidden: exceeded quota: fault, requested: count/jobs.batch=1, used: count/jobs.batch=1, limited: count/jobs.batch=0, want complete`}},
		"service-without-endpoints": {{"baseline.log", `service-clusterip on s1: service probe has the endpoints [], its Ready pods are [10.244.0.4 10.244.1.2], want a service that leads to its pods`}},
		"kube-proxy-down":           {{"baseline.log", `kube-proxy-healthz on a1: dial tcp 10.0.0.9:10256: connect: connection refused, want 200 OK`}},
		"certificate-expired":       {{"kubelet.log", `E1120 19:00:00.1 812 reflector.go:1] "Failed to watch" err="Get \"https://10.0.0.9:6443/api/v1/nodes\": tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2027-12-26T00:00:00Z is after 2026-11-21T00:00:00Z"`}},
		"kubelet-certificate-expired": {
			{"kubelet.log", `E1120 19:00:00.1 812 bootstrap.go:266] "Unhandled Error" err="part of the existing bootstrap client certificate in /etc/kubernetes/kubelet.conf is expired: 2026-11-21 21:00:00 +0000 UTC" logger="UnhandledError"`},
		},
		"memory-pressure":   {{"kubelet.log", `I1120 19:00:00.1 812 eviction_manager.go:376] "Eviction manager: attempting to reclaim" resourceName="memory"`}},
		"webhook-failed":    {{"objects.yaml", `      message: 'Internal error occurred: failed calling webhook "fault.lxcmatrix.dev": failed to call webhook: Post "https://nobody.default.svc:443/?timeout=1s": service "nobody" not found'`}},
		"image-missing":     {{"objects.yaml", `          reason: ErrImageNeverPull`}},
		"etcd-out-of-space": {{"pods.log", `2026-11-21T21:00:00.1Z stderr F E1121 21:00:00.1 1 leaderelection.go:436] error: etcdserver: mvcc: database space exceeded`}},
		"not-restarted": {
			{"recover.log", `boot-id on a1: boot ID 4c6d is that of before the restart, want a report of this start's kubelet`},
			{"recover.log", `lease-renewed on a1: the node was not restarted, want renewed after the node started`},
		},
		"data-lost": {
			{"recover.log", `file-survived on a1: exec "/probe read /var/lib/lxcmatrix/probe/survivor" in pod probe-a1: command terminated with exit code 1: probe: open /var/lib/lxcmatrix/probe/survivor: no such file or directory, want QX`},
			{"recover.log", `claim-survived: exec "/probe read /claim/survivor" in pod rollout-x: command terminated with exit code 1: probe: open /claim/survivor: no such file or directory, want QX`},
			{"recover.log", `object-survived: config map survivor has UID 1 and nonce "older", had 1 and "QX", want the object of before the restart`},
		},
		"certificates-changed": {{"recover.log", `same-pki on s1: /etc/kubernetes/pki/front-proxy-client.crt changed, want the certificates of before the restart`}},
		"mounts-changed":       {{"recover.log", `mounts on a1: /dev/hugepages is gone, was hugetlbfs rw,nosuid,nodev shared, want the 45 mounts of before the restart`}},
		"sysctls-changed":      {{"service-recover.log", `sysctls on a1: net.bridge.bridge-nf-call-ip6tables is 0, was 1, want the 11 sysctls of before the restart`}},
		"unit-failed":          {{"baseline.log", `units on a1: failed unit fault.service, want no unit failed`}},
		"shim-left": {
			{"forced-recover.log", `shims on a1: process 4711 of containerd-shim is a zombie, want no shim is left over`},
			{"service-recover.log", `shims on a1: process 326 is the shim of 68ce00f42eed, which containerd does not have, want no shim is left over`},
		},
		"program-crashed": {
			{"baseline.log", `crashes on a1: core /var/lib/systemd/coredump/core.fault, want no core, and no container that crashed`},
			{"agents-back.log", `crashes on s1: container etcd of pod etcd-s1 ended by SIGSEGV, want no core, and no container that crashed`},
		},
		"out-of-memory": {
			{"baseline.log", `resources on a1: oom_kill 1 in cgroup ./memory/system.slice/fault.service/memory.oom_control, want 132 MiB of memory`},
			{"baseline.log", `kernel-log on a1: oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/lxc.payload.a1/system.slice/fault.service,task=tail, want nothing of this node`},
		},
		"event-storm":       {{"recover.log", `events: FailedCreate of job fault, 40 times: it exceeds the quota, want 82 events, none again and again`}},
		"node-facts-differ": {{"baseline.log", `node-facts on a1: operating system "Debian GNU/Linux 13 (trixie)", want "Another"`}},
	}
}

func TestEverySignatureFindsItsLines(t *testing.T) {
	signatures := embedded(t)
	examples := lines()
	for _, s := range signatures {
		if len(examples[s.ID]) == 0 {
			t.Errorf("signature %s has no example here", s.ID)
		}
	}
	for id, list := range examples {
		for _, example := range list {
			log := "I1120 18:59:59.0 812 server.go:1] \"Started\"\n" + example[1] + "\n"
			found, err := diagnose.Scan(t.Context(), signatures, fstest.MapFS{"node/" + example[0]: {Data: []byte(log)}})
			if err != nil {
				t.Fatal(err)
			}
			// A line shows its own signature and no other.
			if len(found) != 1 || found[0].Signature != id || found[0].Line != example[1] || found[0].Log != "node/"+example[0] {
				t.Errorf("%s: %s\nfound %+v", id, example[1], found)
			}
		}
	}
}

func TestLogsInWhichNothingFailedMatchNothing(t *testing.T) {
	passing := diagnose.Source{Name: "passing", FS: fixtures.Passing()}
	if err := diagnose.MatchesNone(t.Context(), embedded(t), passing); err != nil {
		t.Error(err)
	}
	// A pattern that matches too much is told with its place and the line.
	loose, err := diagnose.Load(diagnose.Source{Name: "mine", FS: fstest.MapFS{"loose.yaml": {Data: []byte(
		"id: loose\ntitle: t\npattern: 'permission denied'\nwhere: ['kubelet.log']\ncause: c\nissue: https://example.org\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	err = diagnose.MatchesNone(t.Context(), loose, passing)
	if err == nil || !strings.Contains(err.Error(), "mine/loose.yaml:3:10: signature loose: matches a log in which nothing failed: passing/kubelet.log: E1120") {
		t.Errorf("error %v", err)
	}
}

// What a fix cures or causes, and what a gate shows as, is said on both sides.
func TestSignaturesAreNamedByTheirFixes(t *testing.T) {
	cures, causes := map[string][]string{}, map[string][]string{}
	for _, f := range linkedTo(t, fixtures.Fixes()) {
		for _, id := range f.Cures {
			cures[id] = append(cures[id], f.ID)
		}
		for _, id := range f.Causes {
			causes[id] = append(causes[id], f.ID)
		}
	}
	for _, s := range embedded(t) {
		if s.Cure != "" && !slices.Contains(cures[s.ID], s.Cure) {
			t.Errorf("signature %s: fix %s does not say that it cures it", s.ID, s.Cure)
		}
		if s.Cure == "" && len(cures[s.ID]) > 0 {
			t.Errorf("signature %s names no cure, and %v say that they are", s.ID, cures[s.ID])
		}
		if s.CausedBy == "" && len(causes[s.ID]) > 0 {
			t.Errorf("signature %s names no cause, and %v say that they are", s.ID, causes[s.ID])
		}
		if !strings.HasPrefix(s.Issue, "https://") {
			t.Errorf("signature %s: issue %q is no https link", s.ID, s.Issue)
		}
	}
}

// linked is what fixes say of signatures.
type linked struct {
	ID     string   `yaml:"id"`
	Cures  []string `yaml:"cures"`
	Causes []string `yaml:"causes"`
}

func linkedTo(t *testing.T, files fs.FS) []linked {
	t.Helper()
	names, err := fs.Glob(files, "*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	all := make([]linked, len(names))
	for i, name := range names {
		data, err := fs.ReadFile(files, name)
		if err == nil {
			err = yaml.Load(data, &all[i])
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return all
}

// dated is a line as journald shows it, some seconds into a minute.
func dated(second int, line string) string {
	return fmt.Sprintf("2026-11-20T19:33:%02d.123456+00:00 cp1 kubelet[812]: %s\n", second, line)
}

// The cause comes before what follows from it, whichever log is read first.
func TestSeveralCausesAreInTheOrderOfTheirTimes(t *testing.T) {
	examples := lines()
	pipe, kmsg, swap := examples["oom-score-adj-pipe"][0][1], examples["kmsg-missing"][0][1], examples["swap-on"][0][1]
	found, err := diagnose.Scan(t.Context(), embedded(t), fstest.MapFS{
		"a/containerd.log":   {Data: []byte(dated(50, pipe))},
		"b/kubelet.log":      {Data: []byte(dated(40, kmsg) + dated(45, swap))},
		"c/kubelet.log":      {Data: []byte(dated(30, swap) + dated(55, kmsg))},
		"phases/kubeadm.log": {Data: []byte(examples["kernel-config"][0][1] + "\n")},
		"d/containerd.log":   {Data: []byte("Nov 20 19:00:00 cp1 containerd: can't get final child's PID from pipe: EOF\n")},
		"e/containerd2.log":  {Data: []byte("2026-11-20T20:33:20.5+0100 cp1 " + examples["cgroups-path-format"][0][1] + "\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.Log+" "+d.Signature)
	}
	want := []string{"e/containerd2.log cgroups-path-format", "c/kubelet.log swap-on", "b/kubelet.log kmsg-missing", "a/containerd.log oom-score-adj-pipe", "phases/kubeadm.log kernel-config"}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if at := found[1].At.Format(time.RFC3339); at != "2026-11-20T19:33:30Z" {
		t.Errorf("swap-on at %s", at)
	}
	if d := found[0]; d.Cause == "" || d.CausedBy != "cgroups-per-qos" || d.Cure != "cgroup-driver" {
		t.Errorf("%+v", d)
	}
}

// What no signature knows is shown by the lines in which programs ended, those
// that are said again and again once.
func TestWhatNobodyKnowsIsUnclassified(t *testing.T) {
	noise := strings.Repeat("I1120 19:00:00.0 812 reflector.go:1] \"Caches populated\" type=\"*v1.Node\"\n", 100)
	var kubelet strings.Builder
	for i := range 20 {
		kubelet.WriteString(dated(20+i, fmt.Sprintf(`E1120 19:33:%02d.1 %d run.go:72] "command failed" err="failed to run Kubelet: the moon is full"`, 20+i, 800+i)))
		kubelet.WriteString(dated(20+i, `systemd[1]: kubelet.service: Failed with result 'exit-code'.`))
	}
	logs := fstest.MapFS{
		"a/containerd.log": {Data: []byte(dated(1, `time="2026-11-20T19:33:01Z" level=error msg="failed to load cni during init"`) + noise)},
		"a/kubelet.log":    {Data: []byte(noise + kubelet.String())},
		"a/pods.log":       {Data: []byte("2026-11-20T19:33:10.1Z stderr F panic: runtime error: index out of range\n")},
	}
	found, err := diagnose.Diagnose(t.Context(), embedded(t), fixtures.Passing(), logs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		if d.Signature != matrix.Unclassified || d.Cure != "" {
			t.Errorf("%+v", d)
		}
		got = append(got, d.Log+" "+d.Line[strings.LastIndexByte(d.Line, ':')+1:])
	}
	want := []string{"a/pods.log  index out of range", "a/kubelet.log  the moon is full\"", "a/kubelet.log  Failed with result 'exit-code'."}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}

	quiet, err := diagnose.Diagnose(t.Context(), embedded(t), fixtures.Passing(), fstest.MapFS{"a/kubelet.log": {Data: []byte(noise)}})
	if err != nil || len(quiet) != 1 || quiet[0].Signature != matrix.Unclassified || quiet[0].Line != "" || !strings.Contains(quiet[0].Title, "no error in the logs") {
		t.Errorf("%+v, %v", quiet, err)
	}
	known, err := diagnose.Diagnose(t.Context(), embedded(t), fixtures.Passing(), fstest.MapFS{"a/kubelet.log": {Data: []byte(kubelet.String() + dated(59, lines()["swap-on"][0][1]))}})
	if err != nil || len(known) != 1 || known[0].Signature != "swap-on" {
		t.Errorf("%+v, %v", known, err)
	}
}

func TestScanReportsTheFirstLineOfEachInOrder(t *testing.T) {
	examples := lines()
	noise := strings.Repeat("I1120 19:00:00.0 812 reflector.go:1] \"Caches populated\" type=\"*v1.Node\"\n", 20_000)
	long := strings.Repeat("x", 3<<20) + "open /dev/kmsg: no such file or directory\n" // cut off before it could match
	logs := fstest.MapFS{
		"a/kubelet.log": {Data: []byte(noise + long + noise + examples["swap-on"][0][1] + "\r\n" + noise + examples["kmsg-missing"][0][1] + "\n" + examples["swap-on"][0][1] + " again\n")},
		"b/kubelet.log": {Data: []byte(examples["kmsg-missing"][0][1] + " on another node\n" + examples["atoi-empty"][0][1])},
		"b/notes.txt":   {Data: []byte(examples["cgroup1-split-cpu"][0][1] + "\n")},
	}
	found, err := diagnose.Scan(t.Context(), embedded(t), logs)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, d.Log+" "+d.Signature)
	}
	want := []string{"a/kubelet.log swap-on", "a/kubelet.log kmsg-missing", "b/kubelet.log atoi-empty"}
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if found[0].Line != examples["swap-on"][0][1] {
		t.Errorf("line %q", found[0].Line)
	}
}

// broken has a log that cannot be read besides one that can.
type broken struct{ fstest.MapFS }

func (b broken) Open(name string) (fs.File, error) {
	if path.Base(name) == "containerd.log" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return b.MapFS.Open(name)
}

func TestAnUnreadableLogHidesNoOther(t *testing.T) {
	logs := broken{fstest.MapFS{"containerd.log": {Data: []byte("x\n")}, "kubelet.log": {Data: []byte(lines()["swap-on"][0][1])}}}
	found, err := diagnose.Scan(t.Context(), embedded(t), logs)
	if !errors.Is(err, fs.ErrPermission) || len(found) != 1 {
		t.Errorf("found %+v, error %v", found, err)
	}
}

func TestScanEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := diagnose.Scan(ctx, embedded(t), fstest.MapFS{"kubelet.log": {Data: []byte("x\n")}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestLoadListsEveryProblem(t *testing.T) {
	good := "id: a\ntitle: t\npattern: abc\nwhere: [x.log]\ncause: c\nissue: https://example.org\n"
	_, err := diagnose.Load(
		diagnose.Source{Name: "one", FS: fstest.MapFS{
			"good.yaml":    {Data: []byte(good)},
			"pattern.yaml": {Data: []byte("id: b\ntitle: t\npattern: '('\nwhere: ['[']\ncause: c\nissue: https://example.org\n")},
			"empty.yaml":   {Data: []byte("id: c\ntitle: t\npattern: 'x*'\nwhere: [x.log]\ncause: c\nissue: https://example.org\n")},
			"key.yaml":     {Data: []byte("id: d\nfoo: bar\n")},
		}},
		diagnose.Source{Name: "two", FS: fstest.MapFS{"again.yaml": {Data: []byte(good)}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"one/pattern.yaml:3:10: signature b: pattern: ", `one/pattern.yaml:4:9: signature b: where "["`,
		"one/empty.yaml:3:10: signature c: pattern \"x*\" matches an empty line", "one/key.yaml:2:", "two/again.yaml:1:5: signature a: is already in one/good.yaml"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	line := "I1120 19:00:00.123456     812 pod_startup_latency_tracker.go:104] \"Observed pod startup duration\" pod=\"kube-system/kube-proxy-abcde\" podStartSLOduration=1.2 open /proc/1/x\n"
	logs := fstest.MapFS{"kubelet.log": {Data: []byte(strings.Repeat(line, (50<<20)/len(line)))}}
	signatures := embedded(b)
	b.SetBytes(50 << 20)
	for b.Loop() {
		if _, err := diagnose.Scan(b.Context(), signatures, logs); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSince: of a log that names times, only what is from then on stays.
func TestSince(t *testing.T) {
	g := NewWithT(t)
	since := time.Date(2026, 11, 21, 21, 0, 0, 0, time.UTC)
	for log, want := range map[string]string{
		"2026-11-21T20:59:59+0000 cp1 kubelet[1]: old\n  and more of it\n2026-11-21T22:00:01+0100 cp1 kubelet[1]: new\n  and more\n": "2026-11-21T22:00:01+0100 cp1 kubelet[1]: new\n  and more\n",
		"==> pod.log <==\n2026-11-21T20:00:00.1Z stdout F old\n":                                                                     "==> pod.log <==\n",
		"kind: Pod\n  startTime: \"2026-11-21T20:00:00Z\"\n  phase: Running":                                                         "kind: Pod\n  startTime: \"2026-11-21T20:00:00Z\"\n  phase: Running",
		"": "",
	} {
		g.Expect(string(diagnose.Since(since, []byte(log)))).To(Equal(want))
	}
}

// TestSymptoms: what is wrong is told after what it comes of, and beside what the
// logs say where that is not known.
func TestSymptoms(t *testing.T) {
	g := NewWithT(t)
	signatures := embedded(t)
	logs := fstest.MapFS{"cp1/objects.yaml": {Data: []byte("          reason: CrashLoopBackOff\n")},
		"cp1/pods.log": {Data: []byte("2026-11-21T21:00:01Z stderr F E1121 21:00:01.1 1 server.go:1] \"command failed\" err=\"something new\"\n")}}
	signaturesOf := func() (ids []string) {
		found, err := diagnose.Diagnose(t.Context(), signatures, fstest.MapFS{}, logs)
		g.Expect(err).NotTo(HaveOccurred())
		for _, d := range found {
			ids = append(ids, d.Signature)
		}
		return ids
	}
	g.Expect(signaturesOf()).To(Equal([]string{matrix.Unclassified, "crash-loop"}))
	logs["cp1/pods.log"] = &fstest.MapFile{Data: []byte("2026-11-21T21:00:01Z stderr F err=\"open /proc/sys/net/netfilter/nf_conntrack_max: permission denied\"\n")}
	g.Expect(signaturesOf()).To(Equal([]string{"conntrack-max", "crash-loop"}))
}

// A check that is told to be ignored still warns, in every log of kubeadm: that
// is no cause of what fails later.
func TestAWarningIsNoCause(t *testing.T) {
	const said = `kubeadm init: exit code 1: [WARNING SystemVerification]: failed to parse kernel config: unable to load kernel module: "configs", output: "modprobe: FATAL: Module configs not found in directory /lib/modules/6.12.107\n", err: exit status 1 error execution phase wait-control-plane: cannot obtain client without bootstrap: context deadline exceeded`
	found, err := diagnose.Diagnose(t.Context(), embedded(t), fixtures.Passing(), fstest.MapFS{"phases/install.log": {Data: []byte("2026-11-22T01:36:41Z " + said + "\n")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range found {
		if d.Signature != matrix.Unclassified {
			t.Errorf("%s is no cause: %s", d.Signature, d.Line)
		}
	}
}
