//go:build !integration

package chaos_test

import "testing"

// TestKilled says that it killed nothing: real runs need the build tag.
func TestKilled(t *testing.T) {
	t.Skip("nothing was killed: real runs are killed by: make chaos")
}
