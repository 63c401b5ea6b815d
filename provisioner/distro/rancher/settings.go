package rancher

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// kubeletFlags are the flags of fields of KubeletConfiguration, for versions
// that take no file: kubernetes/cmd/kubelet/app/options/options.go.
var kubeletFlags = map[string]string{
	"cgroupDriver":                  "cgroup-driver",
	"evictionHard":                  "eviction-hard",
	"failCgroupV1":                  "fail-cgroupv1",
	"failSwapOn":                    "fail-swap-on",
	"featureGates":                  "feature-gates",
	"imageGCHighThresholdPercent":   "image-gc-high-threshold",
	"imageGCLowThresholdPercent":    "image-gc-low-threshold",
	"localStorageCapacityIsolation": "local-storage-capacity-isolation",
	"maxPods":                       "max-pods",
	"protectKernelDefaults":         "protect-kernel-defaults",
}

// proxyFlags are the flags of fields of KubeProxyConfiguration, which the
// products take in no other form: kubernetes/cmd/kube-proxy/app/options.go.
var proxyFlags = map[string]string{
	"mode":                            "proxy-mode",
	"conntrack.maxPerCore":            "conntrack-max-per-core",
	"conntrack.min":                   "conntrack-min",
	"conntrack.tcpEstablishedTimeout": "conntrack-tcp-timeout-established",
	"conntrack.tcpCloseWaitTimeout":   "conntrack-tcp-timeout-close-wait",
	"featureGates":                    "feature-gates",
	"healthzBindAddress":              "healthz-bind-address",
	"metricsBindAddress":              "metrics-bind-address",
	"iptables.minSyncPeriod":          "iptables-min-sync-period",
	"iptables.syncPeriod":             "iptables-sync-period",
}

// arguments turns a component's configuration into its flags, sorted, as
// kubelet-arg and kube-proxy-arg take them. A field that has none is an error.
func arguments(component string, fields map[string]any, flags map[string]string) ([]string, error) {
	var args []string
	var add func(prefix string, fields map[string]any) error
	add = func(prefix string, fields map[string]any) error {
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			name := prefix + key
			below, isTree := fields[key].(map[string]any)
			switch flag := flags[name]; {
			case flag != "" && isTree:
				args = append(args, flag+"="+pairs(flag, below))
			case flag != "":
				args = append(args, fmt.Sprintf("%s=%v", flag, fields[key]))
			case isTree:
				if err := add(name+".", below); err != nil {
					return err
				}
			default:
				return fmt.Errorf("%s's field %s has no flag that this version could be given", component, name)
			}
		}
		return nil
	}
	if err := add("", fields); err != nil {
		return nil, err
	}
	slices.Sort(args)
	return args, nil
}

// pairs is a mapping as a flag's value: thresholds are compared, the rest is
// set.
func pairs(flag string, values map[string]any) string {
	sign := "="
	if strings.HasPrefix(flag, "eviction-") {
		sign = "<"
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		all = append(all, fmt.Sprintf("%s%s%v", key, sign, values[key]))
	}
	return strings.Join(all, ",")
}

// kubeletDropIn is a KubeletConfiguration for the folder that kubelet merges
// over the product's own.
func kubeletDropIn(fields map[string]any) (string, error) {
	config := map[string]any{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
	maps.Copy(config, fields)
	text, err := yaml.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("write kubelet's configuration: %w", err)
	}
	return string(text), nil
}
