package incus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// Instance is one container. It implements provisioner.Node.
type Instance struct {
	server  *Server
	name    string
	address string
}

var _ provisioner.Node = (*Instance)(nil)

// Create creates a container and starts it. Errors of its start are
// *provisioner.NodeError with the end of LXC's log: the image and the pool did
// their part by then, what is left is the container's own configuration. An
// instance that is there, or may be, is returned beside the error: it is to be
// deleted.
func (s *Server) Create(ctx context.Context, spec provisioner.NodeSpec) (*Instance, error) {
	config := api.ConfigMap{}
	maps.Copy(config, spec.Incus.Config)
	if len(spec.Incus.RawLXC) > 0 {
		config["raw.lxc"] = strings.Join(spec.Incus.RawLXC, "\n")
	}
	for key, value := range spec.Owner {
		config[OwnerPrefix+key] = value
	}
	if spec.Limits.MemoryBytes > 0 {
		config["limits.memory"] = strconv.FormatInt(spec.Limits.MemoryBytes, 10)
	}
	if spec.Limits.Processes > 0 {
		config["limits.processes"] = strconv.Itoa(spec.Limits.Processes)
	}
	if spec.Limits.CPUs > 0 {
		config["limits.cpu"] = strconv.Itoa(spec.Limits.CPUs)
	}
	devices := api.DevicesMap{
		"root": {"type": "disk", "path": "/", "pool": s.pool},
		"eth0": {"type": "nic", "name": "eth0", "network": s.network},
	}
	if spec.Address != "" {
		devices["eth0"]["ipv4.address"] = spec.Address
	}
	for name, device := range spec.Incus.Devices {
		devices[name] = maps.Clone(device)
	}
	op, err := s.with(ctx).CreateInstance(api.InstancesPost{
		Name: spec.Name, Type: api.InstanceTypeContainer,
		Source:      api.InstanceSource{Type: "image", Fingerprint: spec.Image},
		InstancePut: api.InstancePut{Config: config, Devices: devices, Profiles: []string{}},
	})
	if err != nil {
		return nil, fmt.Errorf("create instance %s from image %s: %w", spec.Name, spec.Image, err)
	}
	i := &Instance{server: s, name: spec.Name, address: spec.Address}
	if err := wait(ctx, op); err != nil {
		err = fmt.Errorf("create instance %s from image %s: %w", spec.Name, spec.Image, err)
		if ctx.Err() != nil && !s.settled(ctx, op) {
			return i, err
		}
		return nil, err
	}
	if err := i.setState(ctx, "start", false); err != nil {
		return i, i.startError(ctx, err)
	}
	return i, nil
}

// settlePatience is how long a creation that nobody waits for any longer may
// go on: an instance that is being created cannot be deleted.
const settlePatience = 5 * time.Second

// settled waits for the end of a creation after ctx ended, which the server
// does not notice, and says whether it left nothing.
func (s *Server) settled(ctx context.Context, op client.Operation) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlePatience)
	defer cancel()
	end, _, err := s.with(ctx).GetOperationWait(op.Get().ID, int(settlePatience.Seconds()))
	return err == nil && end.StatusCode.IsFinal() && end.StatusCode != api.Success
}

// startError adds what LXC logged, which is where the cause is.
func (i *Instance) startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("start instance %s: %w", i.name, err)
	}
	if log, logErr := i.log(ctx, "lxc.log"); logErr == nil && log != "" {
		err = fmt.Errorf("%w: %s", err, lastLines(log, 5))
	}
	return i.blame(ctx, "start", err)
}

// blame makes an error the instance's own doing, unless the server is what
// does not answer.
func (i *Instance) blame(ctx context.Context, action string, err error) error {
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlePatience)
	defer cancel()
	if _, _, down := i.server.with(look).GetInstanceState(i.name); down != nil {
		return fmt.Errorf("%s instance %s: %w", action, i.name, err)
	}
	return &provisioner.NodeError{Node: i.name, Action: action, Err: err}
}

// Instance is a handle to a container that is there already.
func (s *Server) Instance(name, address string) *Instance {
	return &Instance{server: s, name: name, address: address}
}

// Owned is a container of the harness's, with its owner keys.
type Owned struct {
	Name string
	// Owner holds the user.lxcmatrix.* keys without their prefix.
	Owner   map[string]string
	Running bool
	Created time.Time
	// Address is the pinned IPv4 address, if any.
	Address string
}

// Owned lists the containers in the harness's project, by name.
func (s *Server) Owned(ctx context.Context) ([]Owned, error) {
	instances, err := s.with(ctx).GetInstances(api.InstanceTypeAny)
	if err != nil {
		if isNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list instances of project %s: %w", ProjectName, err)
	}
	var owned []Owned
	for _, in := range instances {
		o := Owned{Name: in.Name, Owner: map[string]string{}, Running: in.StatusCode == api.Running,
			Created: in.CreatedAt, Address: in.Devices["eth0"]["ipv4.address"]}
		for key, value := range in.Config {
			if name, ok := strings.CutPrefix(key, OwnerPrefix); ok {
				o.Owner[name] = value
			}
		}
		owned = append(owned, o)
	}
	slices.SortFunc(owned, func(a, b Owned) int { return strings.Compare(a.Name, b.Name) })
	return owned, nil
}

// Name is the instance's name.
func (i *Instance) Name() string { return i.name }

// Address is the instance's IPv4 address on the bridge.
func (i *Instance) Address() string { return i.address }

// Restart asks the instance's init to end and starts it again. It waits until
// ctx's deadline, and does not force anything.
func (i *Instance) Restart(ctx context.Context) error {
	if err := i.setState(ctx, "restart", false); err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("restart instance %s: %w", i.name, err)
		}
		return i.blame(ctx, "restart", err)
	}
	return nil
}

// ForceRestart kills the instance and starts it again.
func (i *Instance) ForceRestart(ctx context.Context) error {
	if err := i.Kill(ctx); err != nil {
		return err
	}
	if err := i.setState(ctx, "start", false); err != nil {
		return i.startError(ctx, err)
	}
	return nil
}

// Kill ends the instance at once.
func (i *Instance) Kill(ctx context.Context) error {
	if err := i.setState(ctx, "stop", true); err != nil {
		return fmt.Errorf("kill instance %s: %w", i.name, err)
	}
	return nil
}

// Stop asks the instance's init to end.
func (i *Instance) Stop(ctx context.Context) error {
	if err := i.setState(ctx, "stop", false); err != nil {
		return fmt.Errorf("stop instance %s: %w", i.name, err)
	}
	return nil
}

// setState changes the state; the server's own timeout is ctx's, so that it
// ends the attempt too.
func (i *Instance) setState(ctx context.Context, action string, force bool) error {
	timeout := -1
	if deadline, ok := ctx.Deadline(); ok && !force {
		timeout = max(1, int(time.Until(deadline).Seconds()))
	}
	op, err := i.server.with(ctx).UpdateInstanceState(i.name, api.InstanceStatePut{Action: action, Force: force, Timeout: timeout}, "")
	if err != nil {
		return err
	}
	return wait(ctx, op)
}

// Delete removes the instance, running or not; one that is gone is no error.
func (i *Instance) Delete(ctx context.Context) error {
	c := i.server.with(ctx)
	state, _, err := c.GetInstanceState(i.name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up instance %s: %w", i.name, err)
	}
	if state.StatusCode != api.Stopped {
		if err := i.setState(ctx, "stop", true); err != nil && !isNotFound(err) {
			return fmt.Errorf("kill instance %s: %w", i.name, err)
		}
	}
	op, err := c.DeleteInstance(i.name)
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("delete instance %s: %w", i.name, err)
	}
	return nil
}

// Push writes a file and makes its folders. It replaces what is there.
func (i *Instance) Push(ctx context.Context, file provisioner.File) error {
	mode := int(file.Mode)
	if mode == 0 {
		mode = 0o644
	}
	return i.PushFrom(ctx, file.Path, strings.NewReader(file.Content), mode)
}

// PushFrom is Push for content that is not in memory.
func (i *Instance) PushFrom(ctx context.Context, name string, content io.ReadSeeker, mode int) error {
	sftp, err := i.server.with(ctx).GetInstanceFileSFTP(i.name)
	if err != nil {
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	defer func() { _ = sftp.Close() }()
	if err := sftp.MkdirAll(path.Dir(name)); err != nil {
		return fmt.Errorf("push %s to instance %s: make its folder: %w", name, i.name, err)
	}
	f, err := sftp.Create(name)
	if err != nil {
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	if _, err := f.ReadFrom(content); err != nil {
		_ = f.Close()
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	if err := errors.Join(f.Chmod(fs.FileMode(mode)), f.Close()); err != nil { //nolint:gosec // mode bits only
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	return nil
}

// Pull reads a file of the instance; fs.ErrNotExist if it is not there.
func (i *Instance) Pull(ctx context.Context, name string) ([]byte, error) {
	content, _, err := i.server.with(ctx).GetInstanceFile(i.name, name)
	if isNotFound(err) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s from instance %s: %w", name, i.name, err)
	}
	if content == nil {
		return nil, fmt.Errorf("pull %s from instance %s: it is a folder", name, i.name)
	}
	defer func() { _ = content.Close() }()
	data, err := io.ReadAll(content)
	if err != nil {
		return nil, fmt.Errorf("pull %s from instance %s: %w", name, i.name, err)
	}
	return data, nil
}

// Console is what the instance printed on its console, and LXC's log.
func (i *Instance) Console(ctx context.Context) (string, error) {
	var all strings.Builder
	console, err := i.server.with(ctx).GetInstanceConsoleLog(i.name, &client.InstanceConsoleLogArgs{})
	if err == nil {
		_, err = io.Copy(&all, console)
		err = errors.Join(err, console.Close())
	}
	lxc, logErr := i.log(ctx, "lxc.log")
	fmt.Fprintf(&all, "\n--- lxc.log\n%s", lxc)
	if err := errors.Join(err, logErr); err != nil {
		return all.String(), fmt.Errorf("read console of instance %s: %w", i.name, err)
	}
	return all.String(), nil
}

func (i *Instance) log(ctx context.Context, name string) (string, error) {
	content, err := i.server.with(ctx).GetInstanceLogfile(i.name, name)
	if err != nil {
		return "", fmt.Errorf("read %s of instance %s: %w", name, i.name, err)
	}
	defer func() { _ = content.Close() }()
	var b bytes.Buffer
	_, err = io.Copy(&b, content)
	return b.String(), err
}

// wait waits for an operation's end; the request that waits ends with ctx.
func wait(ctx context.Context, op client.Operation) error {
	err := op.WaitContext(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if o := op.Get(); !o.StatusCode.IsFinal() {
		return fmt.Errorf("operation %s (%s) is still %s", o.ID, o.Description, o.Status)
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " | ")
}

// HTTPStatus is the HTTP status of an error that the server answered with, 0
// for any other.
func HTTPStatus(err error) int {
	if code, ok := api.StatusErrorMatch(err); ok {
		return code
	}
	if errors.Is(err, fs.ErrNotExist) {
		return http.StatusNotFound
	}
	return 0
}
