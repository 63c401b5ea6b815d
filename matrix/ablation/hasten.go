package ablation

import (
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// How much longer than the control a trial may take, and what it is given in
// any case: kubeadm waits half a minute for its kubelet, and a minute for its
// control plane.
const (
	slower       = 3
	leastInstall = 100 * time.Second
	leastRecover = time.Minute
)

// Hasten cuts the timeouts of trials to what the control took, several times
// over: what does not come up by then is not waited for. No timeout grows.
func Hasten(t matrix.Timeouts, control matrix.Attempt) matrix.Timeouts {
	cut := func(limit *matrix.Duration, least time.Duration, phases ...matrix.Phase) {
		wanted := matrix.Duration(least)
		for _, phase := range phases {
			p, ran := control.Phase(phase)
			if !ran {
				return
			}
			wanted = max(wanted, slower*(p.Duration-p.Waited))
		}
		*limit = min(*limit, wanted)
	}
	cut(&t.Install, leastInstall, matrix.PhaseInstall)
	cut(&t.Recover, leastRecover, matrix.PhaseBaseline, matrix.PhaseRecover, matrix.PhaseForcedRecover)
	return t
}
