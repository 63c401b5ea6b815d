package hygiene

import "testing"

// FuzzParse: what a host printed is read or refused, and nothing differs from
// itself.
func FuzzParse(f *testing.F) {
	f.Add("== boot\nabc\n== sysctl\n./vm/swappiness:60\n== nftables\ntable inet filter {\n\tchain input {\n\t\ttcp dport 22 accept\n\t\ttcp dport 22 accept\n\t}\n}\n== unseen apparmor: none\n== iptables ip\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\n== end\n")
	f.Fuzz(func(t *testing.T, printed string) {
		seen, err := parse(printed)
		if err != nil {
			return
		}
		if changes := Diff(seen, seen); len(changes) > 0 {
			t.Errorf("%+v", changes)
		}
	})
}
