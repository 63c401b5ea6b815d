package fix

import "strings"

// Privilege is how far a fix opens the host to a node.
type Privilege int

// The privileges, the least first.
const (
	// InKubernetes: it sets what Kubernetes and its runtime do, no more.
	InKubernetes Privilege = iota
	// InNode: it changes the node's own system or its instance.
	InNode
	// OfHost: it changes the host, or gives the node something of it.
	OfHost
	// OpensHost: it takes away what keeps the node from the host.
	OpensHost
)

// Privilege is the greatest of the fix's effects.
func (f *Fix) Privilege() Privilege {
	e := f.sampled.Effects
	most := InKubernetes
	raise := func(p Privilege, when bool) {
		if when {
			most = max(most, p)
		}
	}
	raise(OpensHost, e.Incus.RawLXC != "")
	for key, value := range e.Incus.Config {
		raise(InNode, true)
		raise(OfHost, key == "linux.kernel_modules")
		raise(OpensHost, strings.HasPrefix(key, "security.") && value == "true")
	}
	raise(OfHost, len(e.Incus.Devices) > 0 || len(e.Host.Sysctls) > 0)
	n := e.Node
	raise(InNode, len(n.Files) > 0 || len(n.Units) > 0 || len(n.Sysctls) > 0 || len(n.Restart) > 0 || len(n.Disable) > 0)
	return most
}
