//go:build !amd64

package qemu

import "context"

// measureTSC: other processors have no time stamp counter.
func measureTSC(context.Context) (int, error) { return 0, nil }
