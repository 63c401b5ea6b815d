package service

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/lxcmatrix/lxcmatrix/fixtures/containers"
	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// registry is a registry that nodes pull an image from.
type registry struct {
	registry *containers.Registry
	// image is the reference, by its digest.
	image string
}

// imageBytes is the size of the one layer that nodes pull.
const imageBytes = 1 << 20

func startRegistry(ctx context.Context, engine containers.Engine, name string) (_ *registry, err error) {
	started, err := containers.StartRegistry(ctx, engine, name, containers.RegistryOptions{})
	if err != nil {
		return nil, err
	}
	r := &registry{registry: started}
	defer func() {
		if err != nil {
			removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), removePatience)
			defer cancel()
			err = errors.Join(err, started.Remove(removing))
		}
	}()
	image, err := random.Image(imageBytes, 1)
	if err == nil {
		image, err = mutate.ConfigFile(image, forThisMachine(image))
	}
	if err != nil {
		return nil, fmt.Errorf("make an image for nodes: %w", err)
	}
	if _, err := started.Push(ctx, "lxcmatrix/pulled:v1", image); err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, fmt.Errorf("make an image for nodes: %w", err)
	}
	r.image = started.Host + "/lxcmatrix/pulled@" + digest.String()
	return r, nil
}

// removePatience bounds the removal of a service that did not come up.
const removePatience = 30 * time.Second

// forThisMachine is an image's configuration with a platform that nodes take.
func forThisMachine(image v1.Image) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		// mutate says so, too.
		return &v1.ConfigFile{}
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	return config
}

// pull has a node's containerd pull an image, with the registry's authority and
// password, and shows that neither can be done without. $1 is the image, $2 the
// registry, $3 its name and $4 its address. Its input is a line of user and
// password, as what a command failed with tells its arguments, and the authority.
const pull = `read -r user
PATH=$PATH:/usr/local/bin:/var/lib/rancher/rke2/bin
if [ -S /run/k3s/containerd/containerd.sock ]; then export CONTAINERD_ADDRESS=/run/k3s/containerd/containerd.sock; fi
if ! command -v ctr >/dev/null && command -v k3s >/dev/null; then ctr() { k3s ctr "$@"; }; fi
grep -q " $3\$" /etc/hosts || echo "$4 $3" >> /etc/hosts
hosts=/etc/lxcmatrix/certs.d
mkdir -p "$hosts/$2"; cat > "$hosts/ca.crt"
printf 'server = "https://%s"\n[host."https://%s"]\n  ca = "%s/ca.crt"\n' "$2" "$2" "$hosts" > "$hosts/$2/hosts.toml"
ctr -n lxcmatrix images rm "$1" >/dev/null 2>&1 || true
if ctr -n lxcmatrix images pull --hosts-dir "$hosts" "$1" >/dev/null 2>&1; then echo "it pulled without a password"; exit 3; fi
if ctr -n lxcmatrix images pull --hosts-dir /nonexistent --user "$user" "$1" >/dev/null 2>&1; then echo "it pulled without the authority"; exit 3; fi
ctr -n lxcmatrix images pull --hosts-dir "$hosts" --user "$user" "$1" >/tmp/lxcmatrix-pull.log 2>&1 || { tail -n 1 /tmp/lxcmatrix-pull.log; exit 4; }
ctr -n lxcmatrix images rm --sync "$1" >/dev/null`

func (r *registry) steady(ctx context.Context, cluster *provisioner.Cluster) (all []matrix.Evidence) {
	for _, node := range cluster.Nodes {
		began := time.Now()
		all = append(all, took(began, r.pulled(ctx, node))...)
	}
	return all
}

// pulled is what came of a node's pull.
func (r *registry) pulled(ctx context.Context, node provisioner.Node) matrix.Evidence {
	e := matrix.Evidence{Check: matrix.ServiceRegistry, Node: node.Name(), Want: "an image pulled with TLS and a password, and not without"}
	_, err := node.Exec(ctx, provisioner.Command{Stdin: strings.NewReader(r.registry.User + ":" + r.registry.Password + "\n" + r.registry.CA),
		Args: []string{"sh", "-ec", pull, "pull", r.image, r.registry.Host, r.registry.Name(), r.registry.Address()}})
	// A registry that is gone is not the node's doing.
	if alive := r.registry.Alive(ctx); err != nil && alive != nil {
		e.Saw = alive.Error()
		return e
	}
	var failed *provisioner.CommandError
	switch {
	case err == nil:
		e.Outcome, e.Saw, e.Want = matrix.Healthy, "pulled "+r.image+" with TLS and a password, and not without", ""
	case errors.As(err, &failed):
		e.Outcome, e.Saw = matrix.Unhealthy, strings.TrimSpace(failed.Output.Stdout+failed.Output.Stderr)
		if e.Saw == "" {
			e.Saw = fmt.Sprintf("the pull ended with exit code %d", failed.Output.ExitCode)
		}
	default:
		e.Saw = err.Error()
	}
	return e
}

func (*registry) watch(context.Context, *provisioner.Cluster) error { return nil }

func (r *registry) seen(ctx context.Context, cluster *provisioner.Cluster, _ bool) ([]matrix.Evidence, []matrix.Traffic) {
	return r.steady(ctx, cluster), nil
}

func (r *registry) remove(ctx context.Context) error { return r.registry.Remove(ctx) }
