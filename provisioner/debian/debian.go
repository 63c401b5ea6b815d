// Package debian reads this machine's own Debian sources and makes root
// filesystems from them, so that no archive's address is written down here.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Root says what root filesystem to make.
type Root struct {
	// Suite is a Debian release's code name.
	Suite string
	// Also are further suites of the archive. Of those only what Packages asks
	// for by suite (NAME/SUITE) is taken, with what that cannot do without.
	Also []string
	// Variant is mmdebstrap's, as minbase.
	Variant  string
	Packages []string
	// Essential and Customize are shell commands that mmdebstrap runs before
	// Packages are installed, and at the end, with the root as $1.
	Essential, Customize []string
	// Aptopts and Dpkgopts are mmdebstrap's options of these names.
	Aptopts, Dpkgopts []string
}

// Bootstrap makes a root filesystem with mmdebstrap from the machine's own
// archive. It becomes a tarball where target ends in .tar, and a folder
// otherwise. Temporary files go to workDir. When ctx ends, so do mmdebstrap and
// its children.
func Bootstrap(ctx context.Context, r Root, workDir, target string) error {
	source, err := Archive(Sources("/"), r.Suite)
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	lines := []string{source.line(r.Suite)}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return fmt.Errorf("make a root of Debian %s: %w", r.Suite, err)
	}
	args := []string{"--quiet", "--variant=" + r.Variant, "--include=" + strings.Join(r.Packages, ",")}
	for _, o := range r.Aptopts {
		args = append(args, "--aptopt="+o)
	}
	for _, o := range r.Dpkgopts {
		args = append(args, "--dpkgopt="+o)
	}
	for _, suite := range r.Also {
		lines = append(lines, source.line(suite))
		args = append(args, fmt.Sprintf(`--setup-hook=printf 'Package: *\nPin: release n=%s\nPin-Priority: 1\n' > "$1/etc/apt/preferences.d/%[1]s"`, suite),
			fmt.Sprintf(`--customize-hook=rm "$1/etc/apt/preferences.d/%s"`, suite))
	}
	for _, h := range r.Essential {
		args = append(args, "--essential-hook="+h)
	}
	for _, h := range r.Customize {
		args = append(args, "--customize-hook="+h)
	}
	cmd := exec.CommandContext(ctx, program, append(append(args, r.Suite, target), lines...)...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "LC_ALL=C", "TMPDIR="+workDir)
	if _, err := run(ctx, cmd); err != nil {
		return fmt.Errorf("make a root of Debian %s: mmdebstrap: %w", r.Suite, err)
	}
	return nil
}

// run runs a command that has children of its own: its whole process group
// ends with ctx. An error carries the end of what it printed.
func run(ctx context.Context, cmd *exec.Cmd) (stdout []byte, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said, out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&said, &out), &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		text := strings.TrimSpace(said.String())
		if len(text) > 2000 {
			text = "..." + text[len(text)-2000:]
		}
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return out.Bytes(), nil
}
