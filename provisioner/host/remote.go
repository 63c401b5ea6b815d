package host

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// OpenRemote uses an Incus server elsewhere, or one member of its cluster, in a
// project of the harness's own. It starts and stops nothing, and touches
// nothing outside that project. allowWrites lets fixes change the machine's
// sysctls, where ref names a way to it.
func OpenRemote(ctx context.Context, ref matrix.RemoteRef, allowWrites bool) (*Host, error) {
	server, err := ConnectRemote(ctx, ref)
	if err != nil {
		return nil, err
	}
	return OpenServer(ctx, server, ref, allowWrites)
}

// OpenServer is OpenRemote for a server that is connected; it is disconnected
// when the host is closed, or where it cannot be used.
func OpenServer(ctx context.Context, server *incus.Server, ref matrix.RemoteRef, allowWrites bool) (_ *Host, err error) {
	closeAll := server.Disconnect
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	// Incus would spread the nodes of a cell over the members.
	members, err := server.Members(ctx)
	if err != nil {
		return nil, err
	}
	if ref.Member != "" || len(members) > 0 {
		if !slices.Contains(members, ref.Member) {
			return nil, fmt.Errorf("use member %q of the Incus cluster %s: it is none that is online: %s", ref.Member, remoteName(ref), strings.Join(members, ", "))
		}
		server.UseMember(ref.Member)
	}
	if err := server.Use(ctx, ref.Pool, ref.Network); err != nil {
		return nil, fmt.Errorf("use the Incus server %s: %w", remoteName(ref), err)
	}
	var way machine
	if ref.SSH != "" {
		m, err := dialSSH(ctx, ref.SSH)
		if err != nil {
			return nil, err
		}
		closeAll = func() {
			m.Close()
			server.Disconnect()
		}
		way = m
	}
	return newHost(ctx, server, way, allowWrites, func(context.Context) error {
		closeAll()
		return nil
	})
}

// Members are the members of a remote server's cluster that are online: each is
// a host of its own, with a kernel of its own. None where it is no cluster.
func Members(ctx context.Context, ref matrix.RemoteRef) ([]string, error) {
	server, err := ConnectRemote(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer server.Disconnect()
	return server.Members(ctx)
}

// ConnectRemote connects to a server elsewhere, whatever is on it: it finds the
// server's address and both certificates, and changes nothing.
func ConnectRemote(ctx context.Context, ref matrix.RemoteRef) (*incus.Server, error) {
	url, known := ref.URL, incus.TLS{Server: ref.Fingerprint}
	var err error
	switch {
	case ref.Name != "":
		url, known, err = incus.Remote(ref.Name)
	case ref.ClientCert == "" && ref.ClientKey == "":
		known.ClientCert, known.ClientKey, err = incus.ClientCertificate()
	}
	if err != nil {
		return nil, err
	}
	for _, own := range []struct {
		path    string
		content *string
	}{{ref.ClientCert, &known.ClientCert}, {ref.ClientKey, &known.ClientKey}} {
		if own.path == "" {
			continue
		}
		data, err := os.ReadFile(own.path)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate for the Incus server %s: %w", remoteName(ref), err)
		}
		*own.content = string(data)
	}
	return incus.ConnectHTTPS(ctx, url, known)
}

func remoteName(ref matrix.RemoteRef) string {
	if ref.Name != "" {
		return ref.Name
	}
	return ref.URL
}
