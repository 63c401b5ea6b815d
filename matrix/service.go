package matrix

import "strings"

// Service is something that stands around a cell's cluster, as its users have it:
// a name, and after an @ the backend that it runs in where one was chosen.
type Service string

// The services.
const (
	// ServiceHAProxy is a load balancer in front of the API servers and of the
	// node ports of a workload, with a client of each.
	ServiceHAProxy = "haproxy"
	// ServiceRegistry is a registry that every node pulls an image from.
	ServiceRegistry = "registry"
)

// The backends. BackendAuto is docker where an engine answers that reaches the
// nodes, and incus elsewhere.
const (
	BackendAuto   = "auto"
	BackendDocker = "docker"
	BackendIncus  = "incus"
)

// Services lists every service in every way that it can be asked for.
func Services() (all []Service) {
	for _, name := range []string{ServiceHAProxy, ServiceRegistry} {
		all = append(all, Service(name))
		for _, backend := range []string{BackendDocker, BackendIncus} {
			all = append(all, Service(name+"@"+backend))
		}
	}
	return all
}

// Name is what the service is.
func (s Service) Name() string {
	name, _, _ := strings.Cut(string(s), "@")
	return name
}

// Backend is what it runs in.
func (s Service) Backend() string {
	if _, backend, chosen := strings.Cut(string(s), "@"); chosen {
		return backend
	}
	return BackendAuto
}
