package health

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// KubeconfigError is a kubeconfig of the user's that names no cluster.
type KubeconfigError struct {
	// File is its path, or how several of them are named.
	File string
	Err  error
}

// Error names the file and the cause.
func (e *KubeconfigError) Error() string { return fmt.Sprintf("read kubeconfig %s: %v", e.File, e.Err) }

// Unwrap is the cause.
func (e *KubeconfigError) Unwrap() error { return e.Err }

// LoadKubeconfig reads how to reach the cluster of a context: from a file or,
// where none is named, from those that kubectl reads. An empty context is the
// file's own. The file is the user's, who is trusted with what it says: it may
// name a program or further files. What is wrong with it is a *KubeconfigError.
func LoadKubeconfig(file, contextName string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	shown := file
	if shown == "" {
		shown = strings.Join(rules.Precedence, ", ")
	}
	fail := func(err error) (*rest.Config, error) { return nil, &KubeconfigError{File: shown, Err: err} }

	raw, err := rules.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(fmt.Errorf("there is no such file; a kubeadm server keeps its administrator's in /etc/kubernetes/admin.conf, one of k3s in /etc/rancher/k3s/k3s.yaml, one of RKE2 in /etc/rancher/rke2/rke2.yaml"))
	case err != nil:
		return fail(err)
	case len(raw.Contexts) == 0:
		return fail(errors.New("it has no context; name another file with --kubeconfig"))
	}
	name := contextName
	if name == "" {
		name = raw.CurrentContext
	}
	if raw.Contexts[name] == nil {
		return fail(fmt.Errorf("it has no context %q; it has %s", name, strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", ")))
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*raw, name, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
	if err != nil {
		return fail(fmt.Errorf("context %q: %w", name, err))
	}
	if config.Proxy == nil {
		config.Proxy = http.ProxyFromEnvironment
	}
	return config, nil
}
