package incus

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/lxc/incus/v6/shared/cliconfig"
)

// UnknownRemoteError is a remote that the user's Incus client configuration
// does not have.
type UnknownRemoteError struct {
	Name string
	// File is the configuration, Known are the servers that it has.
	File  string
	Known []string
}

// Error names the configuration, what it has, and the remedy.
func (e *UnknownRemoteError) Error() string {
	known := "none"
	if len(e.Known) > 0 {
		known = strings.Join(e.Known, ", ")
	}
	return fmt.Sprintf("%s has no remote %q (it has: %s); add it with: incus remote add %s https://ADDRESS:8443", e.File, e.Name, known, e.Name)
}

// Remote is a server of the user's own Incus client configuration, which is
// the one that $INCUS_CONF or the home folder holds: its address, its
// certificate, and the client certificate that it is to be shown. A name that
// the configuration does not have is an *UnknownRemoteError.
func Remote(name string) (url string, known TLS, err error) {
	fail := func(err error) (string, TLS, error) {
		return "", TLS{}, fmt.Errorf("look up the Incus remote %s: %w", name, err)
	}
	config, err := cliconfig.LoadConfig("")
	if err != nil {
		return fail(err)
	}
	remote, ok := config.Remotes[name]
	if !ok {
		var servers []string
		for _, other := range slices.Sorted(maps.Keys(config.Remotes)) {
			if r := config.Remotes[other]; r.Protocol == "incus" && !r.Public && !isUnix(r.Addr) {
				servers = append(servers, other)
			}
		}
		return fail(&UnknownRemoteError{Name: name, File: config.ConfigPath("config.yml"), Known: servers})
	}
	switch {
	case isUnix(remote.Addr):
		return fail(fmt.Errorf("it is the server of this machine: use the driver local"))
	case remote.Public || remote.Protocol != "incus":
		return fail(fmt.Errorf("%s serves images only", remote.Addr))
	case remote.AuthType == api.AuthenticationMethodOIDC:
		return fail(fmt.Errorf("it wants a login in a browser; have it trust a client certificate, and add it without --auth-type"))
	}
	server, err := os.ReadFile(config.ServerCertPath(name))
	if err != nil {
		return fail(fmt.Errorf("its certificate is not kept: %w; write its url and fingerprint in the matrix instead", err))
	}
	known.ClientCert, known.ClientKey, err = clientCertificate(config, name)
	if err != nil {
		return fail(err)
	}
	known.Server = string(server)
	return remote.Addr, known, nil
}

// ClientCertificate is what the user's own Incus client shows to servers, in
// PEM.
func ClientCertificate() (certificate, key string, err error) {
	config, err := cliconfig.LoadConfig("")
	if err != nil {
		return "", "", fmt.Errorf("look up the Incus client's certificate: %w", err)
	}
	return clientCertificate(config, "")
}

// clientCertificate reads the one that is for a remote, or else for all.
func clientCertificate(config *cliconfig.Config, remote string) (certificate, key string, err error) {
	path := func(ending string) string { return config.ConfigPath("client." + ending) }
	if remote != "" && config.HasRemoteClientCertificate(remote) {
		path = func(ending string) string { return config.ConfigPath("clientcerts", remote+"."+ending) }
	}
	c, err := os.ReadFile(path("crt"))
	if err != nil {
		return "", "", fmt.Errorf("read the Incus client's certificate: %w; incus remote generate-certificate makes one", err)
	}
	k, err := os.ReadFile(path("key"))
	if err != nil {
		return "", "", fmt.Errorf("read the Incus client's key: %w; incus remote generate-certificate makes one", err)
	}
	return string(c), string(k), nil
}

func isUnix(address string) bool { return strings.HasPrefix(address, "unix:") }
