package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition"
)

// byHand is how the root filesystem of a disk becomes a tarball elsewhere.
const byHand = "make a tarball of it with: virt-tar-out -a %s / rootfs.tar"

// readDisk hands out the root filesystem of a qcow2 disk. The disk is copied
// and only read; what of it can be mounted is up to this machine's kernel. The
// mount is in a namespace of its own, and ends with the process that reads it.
func readDisk(ctx context.Context, file, work string, do func(io.Reader) error) error {
	recipe := fmt.Sprintf(byHand, file)
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return unfit("to read a qcow2 disk takes qemu-img, and it is not here: install qemu-utils (Debian) or qemu-img (RHEL), or %s", recipe)
	}
	var info struct {
		Backing  string `json:"backing-filename"`
		Specific struct {
			Data struct {
				File string `json:"data-file"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	text, err := said(ctx, "qemu-img", "info", "--output=json", "-f", "qcow2", file)
	if err != nil {
		return unfit("it is no whole qcow2 disk: %v", err)
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return fmt.Errorf("read what qemu-img says of %s: %w", file, err)
	}
	if other := cmp.Or(info.Backing, info.Specific.Data.File); other != "" {
		return unfit("a part of the disk is in another file, %s: make it one with qemu-img convert -O qcow2", other)
	}
	raw := filepath.Join(work, "disk.raw")
	if _, err := said(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw); err != nil {
		return unfit("the disk cannot be read: %v", err)
	}
	areas, err := areasOf(raw)
	if err != nil {
		return err
	}
	mountpoint := filepath.Join(work, "mnt")
	if err := os.Mkdir(mountpoint, 0o700); err != nil {
		return err
	}
	var no []string
	for _, a := range areas {
		kind, err := said(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", "-O", fmt.Sprint(a.start), "-S", fmt.Sprint(a.size), raw)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fs := strings.TrimSpace(string(kind))
		if err != nil || fs == "" || fs == "vfat" || fs == "swap" {
			no = append(no, fmt.Sprintf("%s holds %s", a.name, cmp.Or(fs, "nothing that blkid knows")))
			continue
		}
		options := fmt.Sprintf("ro,loop,offset=%d,sizelimit=%d", a.start, a.size)
		switch fs {
		case "xfs":
			options += ",norecovery,nouuid"
		case "ext3", "ext4":
			options += ",noload"
		}
		mounted := []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", mountRoot, "mount", fs, options, raw, mountpoint}
		if _, err := said(ctx, append(mounted, "true")...); err != nil {
			no = append(no, fmt.Sprintf("%s holds %s: %v", a.name, fs, err))
			continue
		}
		return output(ctx, do, append(mounted, "tar", "--create", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--one-file-system", "--sparse", ".")...)
	}
	return unfit("none of its partitions is a root filesystem that can be mounted here (%s); %s", strings.Join(no, "; "), recipe)
}

// mountRoot mounts a filesystem and runs a command in the folder of it that is
// a system's root: with btrfs it may be a subvolume.
const mountRoot = `mount -t "$1" -o "$2" "$3" "$4" >/dev/null
for root in "$4" "$4/root" "$4/@" "$4/@rootfs"; do
	if [ -e "$root/usr/lib/os-release" ] || [ -e "$root/etc/os-release" ]; then
		cd "$root"; shift 4; exec "$@"
	fi
done
echo "it has no os-release" >&2; exit 1`

// area is a part of a disk.
type area struct {
	name        string
	start, size int64
}

// areasOf lists the partitions of a disk, the largest first; one without a
// table is one area.
func areasOf(raw string) ([]area, error) {
	f, err := os.Open(raw)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const sector = 512
	table, err := partition.Read(f, sector, sector)
	if err != nil {
		return []area{{"the disk", 0, info.Size()}}, nil //nolint:nilerr // it has no partition table
	}
	var areas []area
	for i, p := range table.GetPartitions() {
		if p.GetSize() > 0 && p.GetStart()+p.GetSize() <= info.Size() {
			areas = append(areas, area{fmt.Sprintf("partition %d", i+1), p.GetStart(), p.GetSize()})
		}
	}
	slices.SortStableFunc(areas, func(a, b area) int { return cmp.Compare(b.size, a.size) })
	return areas, nil
}

// said is what a command printed; an error is what it complained about.
func said(ctx context.Context, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := output(ctx, func(r io.Reader) error {
		_, err := io.Copy(&out, r)
		return err
	}, args...)
	return out.Bytes(), err
}

// output hands out what a command prints, while it runs; an error is what it
// complained about.
func output(ctx context.Context, do func(io.Reader) error, args ...string) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(running, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", args[0], err)
	}
	doErr := do(out)
	if doErr != nil {
		cancel() // nobody reads any more
	}
	if err := cmd.Wait(); doErr == nil && err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if text := strings.TrimSpace(complaint.String()); text != "" {
			return errors.New(text)
		}
		return fmt.Errorf("run %s: %w", args[0], err)
	}
	return doErr
}
