package artifact

import "fmt"

// ChecksumError is a file that is not what was recorded of it: corrupt, cut
// short, or exchanged. It is refused, never repaired in silence.
type ChecksumError struct {
	// Name says which file of what: "kubelet of kubeadm 1.34.4".
	Name string
	// Path is where it lies, or where it came from.
	Path string
	// Got and Want are SHA-256 in hex.
	Got, Want string
	// GotSize and WantSize are in bytes; WantSize is -1 where only the digest
	// was known.
	GotSize, WantSize int64
	// Remedy is what to do about it; empty where trying again is all there is.
	Remedy string
}

// Error names the file, both digests and the remedy.
func (e *ChecksumError) Error() string {
	text := fmt.Sprintf("%s (%s) is refused: its SHA-256 is %s, want %s", e.Name, e.Path, e.Got, e.Want)
	if e.WantSize >= 0 && e.GotSize != e.WantSize {
		text += fmt.Sprintf("; it has %d bytes, want %d", e.GotSize, e.WantSize)
	}
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}
