package qemu

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
)

// readyLine is what the machine prints when Incus and SSH answer; guest's
// lxcmatrix-ready.service has it too.
const readyLine = "lxcmatrix: the machine is ready"

// fatal finds lines that a machine's boot does not come back from.
var fatal = regexp.MustCompile(`Kernel panic - not syncing|You are in emergency mode|ALERT!.* does not exist|^\(initramfs\)`)

// control finds what a terminal would act on and a reader of lines does not
// want: colours, cursor movements.
var control = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

// console reads what a machine prints, as it comes.
type console struct {
	path   string
	offset int64
	// rest is a line that has no end yet.
	rest []byte
}

// lines are the whole lines since the last call. A kernel that dies may not end
// its last one, which stays in rest.
func (c *console) lines() ([]string, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(c.offset, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	c.offset += int64(len(text))
	text = append(c.rest, text...)
	end := bytes.LastIndexByte(text, '\n') + 1
	c.rest = bytes.Clone(text[end:])
	return plain(string(text[:end])), nil
}

// plain is text in lines without what is meant for a terminal, and without
// empty ones.
func plain(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(control.ReplaceAllString(line, ""))
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// tail is the last n lines of a console.
func tail(path string, n int) []string {
	const most = 64 << 10
	f, err := os.Open(path)
	if err != nil {
		return []string{err.Error()}
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		// From the start it is, where it cannot seek.
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return []string{err.Error()}
	}
	lines := plain(string(text))
	return lines[max(0, len(lines)-n):]
}
