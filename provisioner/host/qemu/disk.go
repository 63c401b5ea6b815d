package qemu

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/debian"
)

// System is where machines live on this one.
type System struct {
	// CacheDir keeps root disks, and what was found out about accelerators.
	CacheDir string
	// StateDir holds one folder per running machine. It is short: the paths of
	// Unix sockets below it must fit into 107 bytes.
	StateDir string
	// Progress, if set, is told of what takes long.
	Progress provisioner.Progress
}

// Disk is a machine's root disk, and the kernel that goes with it. It is only
// ever read.
type Disk struct {
	// Root is a raw ext4 filesystem.
	Root string `json:"-"`
	// Kernel and Initrd are passed to QEMU; there may be no initrd.
	Kernel string `json:"-"`
	Initrd string `json:"-"`
	// Package and Version are the kernel's in Debian; empty for one of the
	// user's own.
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	// Request is what was asked for: a disk that is made later for the same
	// takes this one's place.
	Request string `json:"request,omitempty"`
}

// diskFile holds a Disk, beside its files.
const diskFile = "disk.json"

// guest holds files of the machine's own root, as they lie in it.
//
//go:embed guest
var guest embed.FS

// guestPackages are installed in every machine, beside Incus and the kernel.
var guestPackages = []string{
	"systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "openssh-server", "ca-certificates",
	"lxcfs", "dnsmasq-base", "nftables", "iptables", "apparmor",
	// What the initrd is made of and with.
	"busybox-static", "cpio", "xz-utils", "zstd",
}

// seal ends the making of a root: what the machine needs is on, what it does
// not need does not cost time at every boot, and nothing is one machine's own.
const seal = `set -e
cd "$1"
[ -z "$(ls usr/lib/modules 2>/dev/null)" ] || chroot . /usr/lib/lxcmatrix/initrd
rm -f etc/ssh/ssh_host_* etc/apt/sources.list etc/resolv.conf
rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* usr/share/doc/* usr/share/man/* usr/share/locale/*
: > etc/machine-id
: > etc/resolv.conf
echo lxcmatrix > etc/hostname
printf '127.0.0.1 localhost lxcmatrix\n::1 localhost\n' > etc/hosts
mkdir -p srv/incus
rm -f etc/fstab
passwd --root "$PWD" --lock root >/dev/null
usermod --root "$PWD" --password '*' root
systemctl --root="$PWD" --quiet set-default multi-user.target
systemctl --root="$PWD" --quiet enable ssh.service incus.socket lxcfs.service apparmor.service lxcmatrix-seed.service lxcmatrix-network.service lxcmatrix-modules.service lxcmatrix-ready.service
systemctl --root="$PWD" --quiet mask incus-startup.service incus-user.socket apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service systemd-pstore.service remote-fs.target systemd-logind.service systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-tmpfiles-clean.timer systemd-user-sessions.service systemd-timesyncd.service systemd-sysusers.service systemd-modules-load.service proc-sys-fs-binfmt_misc.automount systemd-ask-password-console.path systemd-ask-password-wall.path systemd-journal-flush.service systemd-random-seed.service
`

// rootBytes is the size of a root disk's filesystem, which is sparse: what a
// machine logs and what its Incus keeps beside nodes must fit into it.
const rootBytes = 8 << 30

// recipe is all that a root disk is made from. Its hash is the disk's name.
type recipe struct {
	// Version counts the ways of making a disk from the rest.
	Version int
	Suite   string
	Kernel  string
	// Own are stamps of a kernel of the user's own, its initrd and modules.
	Own      []string `json:",omitempty"`
	Incus    string
	Packages []string
	Seal     string
	Finish   string
	Guest    map[string]string
	Bytes    int64
}

const recipeVersion = 2

func newRecipe(s Spec) (recipe, error) {
	r := recipe{Version: recipeVersion, Suite: s.system().Suite, Kernel: s.Kernel, Incus: s.Incus, Packages: guestPackages,
		Seal: seal, Finish: firstBootEnds, Guest: map[string]string{}, Bytes: rootBytes}
	if filepath.IsAbs(s.Kernel) {
		var stamps []string
		for _, path := range []string{s.Kernel, s.Initrd, s.Modules} {
			stamp, err := treeStamp(path)
			if err != nil {
				return recipe{}, fmt.Errorf("look at the kernel: %w", err)
			}
			stamps = append(stamps, stamp)
		}
		r.Kernel, r.Own = "", stamps
	}
	err := fs.WalkDir(guest, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := guest.ReadFile(name)
		r.Guest[name] = string(text)
		return err
	})
	return r, err
}

func (r recipe) key() (string, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("name a root disk: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// treeStamp changes when a file, or anything in a folder, does. Contents are not
// read: a tree of modules is large, and its files are replaced, not edited.
func treeStamp(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	h := sha256.New()
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size := info.Size()
		if d.IsDir() {
			size = 0
		}
		fmt.Fprintf(h, "%q %s %d %d\n", name, info.Mode(), size, info.ModTime().UnixNano())
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// MakeDisk makes the root disk of a machine, or finds it in the cache: one per
// Debian suite, kernel as it was asked for, and recipe. What the archive has
// newer since then is in the disks made from then on. A kernel that cannot be
// had is a *provisioner.UnavailableError. It may be called by many at once. When
// it made one, it removes the OldDisks.
func (s System) MakeDisk(ctx context.Context, spec Spec) (Disk, error) {
	fail := func(err error) (Disk, error) {
		return Disk{}, fmt.Errorf("make the root disk of %s with kernel %s: %w", spec.OS, spec.Kernel, err)
	}
	r, err := newRecipe(spec)
	if err != nil {
		return fail(err)
	}
	key, err := r.key()
	if err != nil {
		return fail(err)
	}
	dir := filepath.Join(disks(s.CacheDir), key)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fail(err)
	}
	made, err := once(ctx, dir, func() (err error) {
		end := s.step("making the root disk of %s", spec.request())
		defer func() { end(err) }()
		return s.makeDisk(ctx, spec, r, dir)
	})
	if err != nil {
		return fail(err)
	}
	if made {
		s.prune()
	}
	var d Disk
	text, err := os.ReadFile(filepath.Join(dir, diskFile))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return fail(err)
	}
	return d.in(dir, spec), nil
}

// in is the disk with the paths that it has in a folder.
func (d Disk) in(dir string, spec Spec) Disk {
	d.Root, d.Kernel, d.Initrd = filepath.Join(dir, "root.img"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")
	if filepath.IsAbs(spec.Kernel) {
		d.Kernel, d.Initrd = spec.Kernel, spec.Initrd
	}
	return d
}

func (s System) step(format string, args ...any) func(error) {
	if s.Progress == nil {
		return func(error) {}
	}
	return s.Progress.Step(format, args...)
}

func (s System) note(format string, args ...any) {
	if s.Progress != nil {
		s.Progress.Note(format, args...)
	}
}

// makeDisk fills a folder beside dir, and gives it its name when it is whole.
// The lock of dir is held.
func (s System) makeDisk(ctx context.Context, spec Spec, r recipe, dir string) error {
	work := dir + halfMade
	// One that was killed left it behind.
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	overlay, root, made := filepath.Join(work, "overlay"), filepath.Join(work, "root"), filepath.Join(work, "disk")
	if err := os.MkdirAll(made, 0o755); err != nil {
		return err
	}
	for name, text := range r.Guest {
		target := filepath.Join(overlay, strings.TrimPrefix(name, "guest/"))
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(text), mode); err != nil {
			return err
		}
	}
	var kernel kernelPackage
	// apt takes another suite's packages only where each is asked for.
	packages := append(slices.Clone(r.Packages), "incus-base/"+r.Incus, "incus-client/"+r.Incus)
	also := []string{}
	if r.Incus != r.Suite {
		also = append(also, r.Incus)
	}
	if r.Kernel != "" {
		suites := kernelSuites(r.Suite)
		index, err := debian.Index(ctx, suites, work)
		if err != nil {
			return err
		}
		if kernel, err = resolveKernel(r.Kernel, suites, index); err != nil {
			return err
		}
		packages = append(packages, kernel.Name+"/"+kernel.Suite, "initramfs-tools")
		if kernel.Suite != r.Suite && !slices.Contains(also, kernel.Suite) {
			also = append(also, kernel.Suite)
		}
	}
	err := debian.Bootstrap(ctx, debian.Root{
		Suite: r.Suite, Also: also, Variant: "minbase", Packages: packages,
		Aptopts:   []string{`APT::Install-Recommends "false"`},
		Dpkgopts:  []string{"path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "force-confold"},
		Essential: []string{`cp -r "` + overlay + `/." "$1"`},
		Customize: []string{r.Seal},
	}, work, root)
	if err != nil {
		return err
	}
	if r.Kernel != "" {
		for pattern, target := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img": "initrd.img"} {
			found, _ := filepath.Glob(filepath.Join(root, "boot", pattern))
			if len(found) != 1 {
				return fmt.Errorf("package %s left %d files %s in /boot, not one", kernel.Name, len(found), pattern)
			}
			if err := os.Rename(found[0], filepath.Join(made, target)); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(filepath.Join(root, "boot")); err != nil {
			return err
		}
	} else if spec.Modules != "" {
		target := filepath.Join(root, "usr", "lib", "modules")
		if err := run(ctx, "cp", "-a", filepath.Join(spec.Modules, "lib", "modules")+"/.", target); err != nil {
			return err
		}
	}
	if err := mkfs(ctx, filepath.Join(made, "root.img"), "lxcmatrix", rootBytes, root); err != nil {
		return err
	}
	disk := Disk{Package: kernel.Name, Version: kernel.Version, Request: spec.request()}.in(made, spec)
	if err := s.finish(ctx, disk, spec); err != nil {
		return err
	}
	text, err := json.MarshalIndent(disk, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(made, diskFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(made, dir)
}

// mkfs makes a sparse file with an ext4 filesystem that holds what is in dir.
func mkfs(ctx context.Context, file, label string, bytes int64, dir string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(bytes), f.Close()); err != nil {
		return err
	}
	// Disks of machines are thrown away or only read: nothing is kept for root,
	// and the tables are written when they are used.
	return run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-L", label,
		"-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-d", dir, file)
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", path.Base(name), err, strings.TrimSpace(string(out)))
	}
	return nil
}
