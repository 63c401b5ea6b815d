package qemu

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"
)

// readTSC is the processor's time stamp counter.
func readTSC() uint64

// clockSource is what this machine's kernel takes for its clock.
const clockSource = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

// measureTSC is how fast the time stamp counter runs, in kHz, which is also how
// fast an emulated machine's runs; 0 where this machine's own kernel does not
// trust it.
func measureTSC(ctx context.Context) (int, error) {
	source, err := os.ReadFile(clockSource)
	if err != nil || !slices.Contains([]string{"tsc", "kvm-clock", "hyperv_clocksource_tsc_page"}, strings.TrimSpace(string(source))) {
		return 0, nil
	}
	counter, at := readClocks()
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	counterThen, then := readClocks()
	return int(float64(counterThen-counter) / then.Sub(at).Seconds() / 1000), nil
}

// readClocks reads the counter and the time at once: of several attempts, the
// one that nothing came in between of.
func readClocks() (counter uint64, at time.Time) {
	best := time.Hour
	for range 10 {
		before := time.Now()
		c := readTSC()
		took := time.Since(before)
		if took < best {
			best, counter, at = took, c, before.Add(took/2)
		}
	}
	return counter, at
}
