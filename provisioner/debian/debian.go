// Package debian reads this machine's own Debian sources and makes root
// filesystems from them, so that no archive's address is written down here.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Root says what root filesystem to make.
type Root struct {
	// Suite is a Debian release's code name.
	Suite string
	// Variant is mmdebstrap's, as minbase.
	Variant  string
	Packages []string
	// Customize are shell commands that mmdebstrap runs at the end, with the
	// root as $1.
	Customize []string
	// Aptopts and Dpkgopts are mmdebstrap's options of these names.
	Aptopts, Dpkgopts []string
}

// Bootstrap makes a root filesystem with mmdebstrap from the machine's own
// archive, and writes it as the tarball target. Temporary files go to workDir.
// When ctx ends, so do mmdebstrap and its children.
func Bootstrap(ctx context.Context, r Root, workDir, target string) error {
	source, err := Archive(Sources("/"), r.Suite)
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	line := "deb "
	// A key that is written out in the source cannot be named in a line.
	if key := source.Option("Signed-By"); filepath.IsAbs(key) {
		line += "[signed-by=" + key + "] "
	}
	line += source.URIs[0] + " " + r.Suite + " main"
	args := []string{"--quiet", "--format=tar", "--variant=" + r.Variant, "--include=" + strings.Join(r.Packages, ",")}
	for _, o := range r.Aptopts {
		args = append(args, "--aptopt="+o)
	}
	for _, o := range r.Dpkgopts {
		args = append(args, "--dpkgopt="+o)
	}
	for _, h := range r.Customize {
		args = append(args, "--customize-hook="+h)
	}
	cmd := exec.CommandContext(ctx, program, append(args, r.Suite, target, line)...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C", "TMPDIR="+workDir)
	// mmdebstrap has children of its own: its whole process group ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("make a root of Debian %s: %w", r.Suite, context.Cause(ctx))
		}
		text := strings.TrimSpace(said.String())
		if len(text) > 2000 {
			text = "..." + text[len(text)-2000:]
		}
		return fmt.Errorf("make a root of Debian %s: mmdebstrap: %w: %s", r.Suite, err, text)
	}
	return nil
}
