package host

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/host/qemu"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

// QEMUOptions says where a qemu host keeps its things on this machine.
type QEMUOptions struct {
	// CacheDir keeps the disks that machines are booted from.
	CacheDir string
	// StateDir holds a folder for each machine that runs. It is as short as the
	// embedded host's.
	StateDir string
	// Console is the file that what the machine prints is kept in.
	Console  string
	Progress provisioner.Progress
}

// The bridge of a machine of our own: nothing else uses addresses there but
// QEMU's 10.0.2.0/24.
const (
	machineBridge  = "lxcmatrix0"
	machineAddress = "10.187.60.1/24"
)

// consoleTail is how much of a machine's console an error shows.
const consoleTail = 15

// OpenQEMU boots a virtual machine as ref describes it, with an Incus server
// inside that nodes are created on. Close ends the machine with all that is on
// it; where QEMU ends by itself, Done is closed. The machine's own system is
// ours to change.
func OpenQEMU(ctx context.Context, ref matrix.HostRef, opts QEMUOptions) (_ *Host, err error) {
	spec, err := qemu.NewSpec(ref)
	if err != nil {
		return nil, err
	}
	system := qemu.System{CacheDir: opts.CacheDir, StateDir: opts.StateDir, Progress: opts.Progress}
	disk, err := system.MakeDisk(ctx, spec)
	if err != nil {
		return nil, err
	}
	m, err := system.Boot(ctx, disk, spec, qemu.BootOptions{Console: opts.Console})
	if err != nil {
		return nil, err
	}
	undo := []func(context.Context) error{m.Shutdown}
	closeAll := func(ctx context.Context) error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i](ctx))
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err == nil {
			return
		}
		if ended := m.Err(); ended != nil {
			err = fmt.Errorf("%w: %w", err, ended)
		}
		err = withConsole(err, m)
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, closeAll(cleanup))
	}()
	api := m.API()
	server, err := incus.ConnectHTTPS(ctx, "https://"+api.Address,
		incus.TLS{Server: api.ServerCert, ClientCert: api.Client.Cert, ClientKey: api.Client.Key})
	if err != nil {
		return nil, err
	}
	undo = append(undo, func(context.Context) error {
		server.Disconnect()
		return nil
	})
	err = server.Prepare(ctx, incus.Storage{Pool: "nodes", Driver: "dir", Source: qemu.PoolDir},
		incus.Bridge{Name: machineBridge, Address: machineAddress})
	if err != nil {
		return nil, err
	}
	h, err := newHost(ctx, server, m, true, closeAll)
	if err != nil {
		return nil, err
	}
	h.virtual = m
	return h, nil
}

// withConsole is an error with what a machine printed last.
func withConsole(err error, m *qemu.Machine) error {
	lines := m.ConsoleTail(consoleTail)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w; the machine's console ends:\n  %s", err, strings.Join(lines, "\n  "))
}

// Done is closed when a host has ended by itself; that of a host that is no
// machine of ours never is.
func (h *Host) Done() <-chan struct{} {
	if h.virtual == nil {
		return nil
	}
	return h.virtual.Done()
}

// Err says how a host ended and what its machine printed last, once Done is
// closed.
func (h *Host) Err() error {
	if h.virtual == nil {
		return nil
	}
	ended := h.virtual.Err()
	if ended == nil {
		return nil
	}
	return withConsole(ended, h.virtual)
}

// Folder is one of this machine for what is the host's alone and goes with it;
// empty where the host has none.
func (h *Host) Folder() string {
	if h.virtual == nil {
		return ""
	}
	return h.virtual.Folder()
}

// Show gives the host's own system a file of this machine to read, without a
// copy, and returns where it is there. serial, up to 20 letters, digits and
// dashes, names it and is used once. shown is false where there is no such way.
func (h *Host) Show(ctx context.Context, file, serial string) (path string, shown bool, err error) {
	if h.virtual == nil {
		return "", false, nil
	}
	if err := h.virtual.AttachDisk(ctx, file, serial); err != nil {
		return "", false, err
	}
	return "/dev/disk/by-id/virtio-" + serial, true, nil
}
