package host

import "testing"

// FuzzObservation: what a system printed is refused, or shows a machine that
// can be.
func FuzzObservation(f *testing.F) {
	f.Add("kernel=6.1.0\ncgroup=1021994\nv1=cpu\t3\t40\t1\nbounding=000001ffffffffff\napparmor=Y\nselinux=N\ncpus=2\nmachine=x86_64\nflags=fpu lm sse\nMemTotal=4096\nMemAvailable=1024\nsysctl=kernel.panic 0\n")
	f.Add("cgroup=63677270\nv2=cpu memory\nbounding=0\ncpus=-1\nMemTotal=9007199254740993\n")
	f.Fuzz(func(t *testing.T, printed string) {
		facts, err := parseObservation(printed)
		if err != nil {
			return
		}
		if facts.CPUs < 1 || facts.MemoryBytes < 1 || facts.MemoryFreeBytes != nil && *facts.MemoryFreeBytes < 0 {
			t.Errorf("%d CPUs, %d bytes of memory, free %v", facts.CPUs, facts.MemoryBytes, facts.MemoryFreeBytes)
		}
	})
}
