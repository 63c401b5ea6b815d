package host

import (
	"net/netip"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
)

// Each address is there once, whatever the name is, and names begin at different
// ones, so that a lease that outlives its node is seldom in the way.
func TestCandidates(t *testing.T) {
	g := NewWithT(t)
	subnet := netip.MustParsePrefix("10.187.7.0/24")
	first := map[netip.Addr]bool{}
	for _, node := range []string{"kubeadm-134-debian-13-41f482-s1", "kubeadm-134-debian-13-41f482-a1", "kubeadm-134-debian-13-6599c0-s1", "s1"} {
		all := slices.Collect(candidates(subnet, node))
		g.Expect(all[0]).To(Equal(slices.Collect(candidates(subnet, node))[0]))
		first[all[0]] = true
		g.Expect(all).To(HaveLen(155))
		slices.SortFunc(all, netip.Addr.Compare)
		g.Expect(slices.Compact(all)).To(HaveLen(155))
		g.Expect(all[0]).To(Equal(netip.MustParseAddr("10.187.7.100")))
		g.Expect(all[154]).To(Equal(netip.MustParseAddr("10.187.7.254")))
	}
	g.Expect(first).To(HaveLen(4))
	g.Expect(slices.Collect(candidates(netip.MustParsePrefix("10.187.7.0/25"), "s1"))).To(HaveLen(27))
	g.Expect(slices.Collect(candidates(netip.MustParsePrefix("10.187.7.0/26"), "s1"))).To(BeEmpty())
	for a := range candidates(netip.MustParsePrefix("10.0.0.0/8"), "s1") {
		g.Expect(netip.MustParsePrefix("10.0.0.0/8").Contains(a)).To(BeTrue())
		break
	}
}
