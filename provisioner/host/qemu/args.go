package qemu

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Files of a machine's run folder.
const (
	pidFile     = "qemu.pid"
	ownerFile   = "owner.pid"
	qmpSocket   = "qmp.sock"
	consoleFile = "console.log"
	rootFile    = "root.qcow2"
	dataFile    = "data.img"
	seedFile    = "seed.tar"
)

// Serials name disks inside the machine: /dev/disk/by-id/virtio-SERIAL.
const (
	rootSerial = "lxcmatrix-root"
	dataSerial = "lxcmatrix-data"
	seedSerial = "lxcmatrix-seed"
)

// The machine's ports, which QEMU forwards to from loopback.
const (
	guestAddress = "10.0.2.15"
	sshPort      = 22
	incusPort    = 8443
)

// launch is what one QEMU is started with.
type launch struct {
	spec           Spec
	kernel, initrd string
	// root are the options of the drive that is the root disk.
	root  string
	accel string
	// tscKHz is how fast the time stamp counter runs; 0 where it is not known.
	tscKHz    int
	dir       string
	console   string
	machineID string
}

// arguments are QEMU's own.
func (l launch) arguments() []string {
	args := baseArguments(l.accel, l.spec.CPUs, l.spec.MemoryBytes, l.console)
	args = append(args,
		"-name", "lxcmatrix-"+filepath.Base(l.dir),
		"-kernel", l.kernel,
		"-append", l.kernelLine(),
		"-chardev", "socket,id=qmp,server=on,wait=off,path="+escape(filepath.Join(l.dir, qmpSocket)),
		"-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-pci",
		// restrict: the machine reaches neither the network nor this machine's
		// own loopback, which is at 10.0.2.2 without it. What is forwarded is not
		// affected. Port 0 is any that is free.
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-%[1]s:%[2]d,hostfwd=tcp:127.0.0.1:0-%[1]s:%[3]d", guestAddress, sshPort, incusPort),
		"-device", "virtio-net-pci,netdev=net,romfile=")
	if l.initrd != "" {
		args = append(args, "-initrd", l.initrd)
	}
	// Nothing outlives the machine, so nothing waits for a disk of this one's.
	// Where that is full, the machine is told: by default, QEMU would stop it.
	for _, d := range []struct{ serial, options string }{
		{rootSerial, l.root},
		{dataSerial, "format=raw,cache=unsafe,discard=unmap,file=" + escape(filepath.Join(l.dir, dataFile))},
		{seedSerial, "format=raw,readonly=on,file=" + escape(filepath.Join(l.dir, seedFile))},
	} {
		args = append(args, "-drive", "if=none,werror=report,rerror=report,id="+d.serial+","+d.options, "-device", "virtio-blk-pci,drive="+d.serial+",serial="+d.serial)
	}
	return args
}

// baseArguments are those that a probe has as well.
func baseArguments(accel string, cpus int, memory int64, console string) []string {
	args := []string{
		// None of QEMU's defaults: no display, no USB, no floppy, no CD-ROM.
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "pc,graphics=off,usb=off,vmport=off",
		"-smp", strconv.Itoa(cpus),
		"-m", strconv.FormatInt(memory>>20, 10) + "M",
		"-chardev", "file,id=console,path=" + escape(console),
		"-serial", "chardev:console",
	}
	if accel == AccelKVM {
		return append(args, "-accel", "kvm", "-cpu", "host")
	}
	// Translated code has all the room that QEMU allows, which it takes as it
	// fills: a Kubernetes node fills the usual half of it every other minute,
	// and then everything is translated anew.
	//
	// Left out of the CPU is what only costs under emulation: string
	// instructions that are said to be fast and go byte by byte (erms, fsrm), a
	// fifth level of every page walk (la57), and a second set of translations
	// for the kernel's every access to a program's memory (smap). An
	// installation takes a fifth less of this machine without them.
	return append(args, "-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", matrix.QEMUTranslationBytes>>20), "-cpu", "max,-erms,-fsrm,-la57,-smap")
}

// consoleLine makes a kernel print to the serial port from its first line on,
// and end QEMU instead of hanging when it panics.
const consoleLine = "console=ttyS0,115200 earlyprintk=ttyS0,115200 panic=-1"

// kernelLine is the kernel's command line.
func (l launch) kernelLine() string {
	words := []string{
		"root=/dev/vda", "rootfstype=ext4", "rw", consoleLine,
		// "Linux version" is a notice, which is the last that is printed.
		"loglevel=6", "fsck.mode=skip", "net.ifnames=0", "random.trust_cpu=on",
		"systemd.machine_id=" + l.machineID,
		"systemd.show_status=auto",
	}
	if l.accel == AccelTCG {
		// An emulated machine may stand still for a while, which is no lockup and
		// no broken timer; and it speculates nothing that would need a mitigation.
		words = append(words, "nowatchdog", "no_timer_check", "mitigations=off")
		if l.tscKHz > 0 {
			// The counter is by far the cheapest clock under emulation. It is this
			// machine's own, so it runs as one on all processors, although it fails
			// the kernel's test of that; and its speed must not be measured: on a
			// busy machine the kernel finds a fiftieth of it, and time runs wild.
			words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", l.tscKHz))
		}
	}
	if l.spec.Cgroup == "v1" {
		words = append(words, "systemd.unified_cgroup_hierarchy=0")
		if l.spec.system().LegacyForce {
			words = append(words, "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
		}
	} else {
		words = append(words, "systemd.unified_cgroup_hierarchy=1")
	}
	return strings.Join(words, " ")
}

// escape makes a path a value in QEMU's option lists, where a comma ends one.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
