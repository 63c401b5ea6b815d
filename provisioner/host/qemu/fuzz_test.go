package qemu

import "testing"

// FuzzForwards: what QEMU says of its ports is refused or names ports.
func FuzzForwards(f *testing.F) {
	f.Add("Hub -1 (net0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15    22     0     0\n  TCP[HOST_FORWARD]  14       127.0.0.1 40124       10.0.2.15  8443     0     0\n")
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := parseForwards(text)
		if err != nil {
			return
		}
		for to, from := range ports {
			if to < 0 || to > 65535 || from < 1 || from > 65535 {
				t.Errorf("port %d is forwarded from %d", to, from)
			}
		}
	})
}
