package qemu

import "context"

func (s System) accelerator(_ context.Context, spec Spec, _ Disk) (accel, reason string, err error) {
	return AccelTCG, "", nil
}
