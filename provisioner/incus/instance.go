package incus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	client "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"
	"github.com/pkg/sftp"

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
	// A daemon that opens again would start what ran before.
	config := api.ConfigMap{"boot.autostart": "false", creationKey: rand.Text()}
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
	i := &Instance{server: s, name: spec.Name, address: spec.Address}
	fail := func(err error) error {
		return fmt.Errorf("create instance %s from image %s: %w", spec.Name, spec.Image, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(err)
	}
	creating, cancel := outlive(ctx, settlePatience)
	defer cancel()
	op, err := s.at(s.with(creating)).CreateInstance(api.InstancesPost{
		Name: spec.Name, Type: api.InstanceTypeContainer,
		Source:      api.InstanceSource{Type: "image", Fingerprint: spec.Image},
		InstancePut: api.InstancePut{Config: config, Devices: devices, Profiles: []string{}},
	})
	if err == nil {
		err = wait(creating, op)
	}
	switch {
	case err == nil && ctx.Err() != nil:
		return i, fail(ctx.Err())
	case creating.Err() != nil:
		return i, fail(err)
	case err != nil:
		there, _, none := s.with(creating).GetInstance(spec.Name)
		switch {
		case none != nil:
			return nil, fail(err)
		case there.Config[creationKey] == config[creationKey]:
			return i, fail(err) // It was made, and only the news of it was lost.
		}
		return nil, fail(fmt.Errorf("%w (an instance of this name is there already)", err))
	}
	if err := i.setState(ctx, "start", false); err != nil {
		return i, i.startError(ctx, err)
	}
	return i, nil
}

// creationKey is where an instance says by which creation it was made: another
// of its name was made by another.
const creationKey = "user.lxcmatrix-creation"

// settlePatience is how long a creation goes on after its context ended: the
// server does not notice, and an instance that is being created cannot be
// deleted.
const settlePatience = 5 * time.Second

// outlive is a context that ends some time after ctx.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(by, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() {
		stop()
		cancel()
	}
}

// startError adds what LXC logged, which is where the cause is.
func (i *Instance) startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("start instance %s: %w", i.name, err)
	}
	if log, logErr := i.log(ctx, "lxc.log"); logErr == nil && errorLines(log) != "" {
		err = fmt.Errorf("%w: %s", err, errorLines(log))
	} else if in, _, lookErr := i.server.with(ctx).GetInstance(i.name); lookErr == nil && in.Config["raw.lxc"] != "" {
		// LXC does not log which line it could not read.
		err = fmt.Errorf("%w; its raw.lxc: %s", err, strings.ReplaceAll(in.Config["raw.lxc"], "\n", " | "))
	}
	return i.blame(ctx, "start", err)
}

// blame makes an error the instance's own doing where the server said it, or
// where time ran out and the server answers. A connection that broke, and a
// daemon that was started anew and knows nothing of what was asked of the last
// one, say nothing about the instance.
func (i *Instance) blame(ctx context.Context, action string, err error) error {
	var failed *operationError
	code, answered := api.StatusErrorMatch(err)
	its := errors.As(err, &failed) || answered && code != http.StatusNotFound && code < http.StatusInternalServerError
	if errors.Is(err, context.DeadlineExceeded) {
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlePatience)
		defer cancel()
		_, _, down := i.server.with(look).GetInstance(i.name)
		its = down == nil
	}
	if !its {
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
	return i.Start(ctx)
}

// Kill ends the instance at once.
func (i *Instance) Kill(ctx context.Context) error {
	if err := i.setState(ctx, "stop", true); err != nil {
		return fmt.Errorf("kill instance %s: %w", i.name, err)
	}
	return nil
}

// Stop asks the instance's init to end. It waits until ctx's deadline, and does
// not force anything.
func (i *Instance) Stop(ctx context.Context) error {
	if err := i.setState(ctx, "stop", false); err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("stop instance %s: %w", i.name, err)
		}
		return i.blame(ctx, "stop", err)
	}
	return nil
}

// Pause freezes every process of the instance, until Resume.
func (i *Instance) Pause(ctx context.Context) error {
	if err := i.setState(ctx, "freeze", false); err != nil {
		return fmt.Errorf("pause instance %s: %w", i.name, err)
	}
	return nil
}

// Resume ends a Pause.
func (i *Instance) Resume(ctx context.Context) error {
	if err := i.setState(ctx, "unfreeze", false); err != nil {
		return fmt.Errorf("resume instance %s: %w", i.name, err)
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

// deletePatience is how long an instance may be in between: LXC takes a moment
// to clear up one that failed to start, and cannot stop or remove it then.
const deletePatience = 10 * time.Second

// Delete removes the instance, running or not; one that is gone is no error.
func (i *Instance) Delete(ctx context.Context) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, i.remove(ctx) },
		backoff.WithBackOff(backoff.NewConstantBackOff(200*time.Millisecond)), backoff.WithMaxElapsedTime(deletePatience))
	if err != nil {
		return fmt.Errorf("delete instance %s: %w", i.name, err)
	}
	return nil
}

func (i *Instance) remove(ctx context.Context) error {
	c := i.server.with(ctx)
	instance, _, err := c.GetInstance(i.name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var killErr error
	if instance.StatusCode != api.Stopped {
		killErr = i.setState(ctx, "stop", true)
	}
	op, err := c.DeleteInstance(i.name)
	if err == nil {
		err = wait(ctx, op)
	}
	if err != nil && !isNotFound(err) {
		return errors.Join(killErr, err)
	}
	return nil
}

// Settle waits until nothing is being done with the container, which need not be
// there.
func (i *Instance) Settle(ctx context.Context) error {
	return i.server.settle(ctx, func(o api.Operation) bool {
		return slices.ContainsFunc(o.Resources["instances"], func(address string) bool {
			// A project is asked for behind a question mark.
			address, _, _ = strings.Cut(address, "?")
			return path.Base(address) == i.name
		})
	})
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
	files, err := i.files(ctx)
	if err != nil {
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	defer func() { _ = files.Close() }()
	// What it does knows no context either.
	stop := context.AfterFunc(ctx, func() { _ = files.Close() })
	defer stop()
	if err := files.MkdirAll(path.Dir(name)); err != nil {
		return fmt.Errorf("push %s to instance %s: make its folder: %w", name, i.name, err)
	}
	f, err := files.Create(name)
	if err != nil {
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	if _, err := f.ReadFrom(content); err != nil {
		_ = f.Close()
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	if err := errors.Join(f.Chmod(fs.FileMode(mode)), f.Close()); err != nil {
		return fmt.Errorf("push %s to instance %s: %w", name, i.name, err)
	}
	return nil
}

// files connects to the instance's files. The client's call for that takes no
// context and waits for as long as a server does not answer: it is left behind
// then, until its connection breaks.
func (i *Instance) files(ctx context.Context) (*sftp.Client, error) {
	type answer struct {
		files *sftp.Client
		err   error
	}
	connected := make(chan answer, 1)
	go func() {
		files, err := i.server.with(context.WithoutCancel(ctx)).GetInstanceFileSFTP(i.name)
		connected <- answer{files, err}
	}()
	select {
	case a := <-connected:
		return a.files, a.err
	case <-ctx.Done():
		go func() {
			if late := <-connected; late.err == nil {
				_ = late.files.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// mostLinks are more than lead to any file in earnest.
const mostLinks = 8

// Pull reads a file of the instance, or the one that a link leads to;
// fs.ErrNotExist if it is not there.
func (i *Instance) Pull(ctx context.Context, name string) ([]byte, error) {
	data, kind, err := i.fetch(ctx, "files", url.Values{"path": {name}})
	for n := 0; err == nil && kind == "symlink" && n < mostLinks; n++ {
		// Of a link Incus sends where it leads, as an absolute path.
		data, kind, err = i.fetch(ctx, "files", url.Values{"path": {string(data)}})
	}
	switch {
	case isNotFound(err):
		err = fs.ErrNotExist
	case err == nil && kind == "directory":
		err = errors.New("it is a folder")
	case err == nil && kind == "symlink":
		err = errors.New("it is a link that leads to link after link")
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s from instance %s: %w", name, i.name, err)
	}
	return data, nil
}

// fetch gets what the server has of an instance under a path, up to mostOutput,
// and the kind of file that it is. The client's own calls for that take no
// context: a server that does not answer would hold them for good.
func (i *Instance) fetch(ctx context.Context, path string, query url.Values) (data []byte, kind string, err error) {
	info, err := i.server.conn.GetConnectionInfo()
	if err != nil {
		return nil, "", err
	}
	if query == nil {
		query = url.Values{}
	}
	query.Set("project", i.server.project)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		fmt.Sprintf("%s/1.0/instances/%s/%s?%s", info.URL, url.PathEscape(i.name), path, query.Encode()), nil)
	if err != nil {
		return nil, "", err
	}
	response, err := i.server.conn.DoHTTP(request)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = response.Body.Close() }()
	data, err = readMost(response.Body)
	if response.StatusCode == http.StatusOK {
		return data, response.Header.Get("X-Incus-Type"), err
	}
	var said api.Response
	if err != nil || json.Unmarshal(data, &said) != nil {
		return nil, "", api.StatusErrorf(response.StatusCode, "%s", response.Status)
	}
	return nil, "", api.StatusErrorf(response.StatusCode, "%s", said.Error)
}

// Console is what the instance printed on its console, and LXC's log. An
// instance that never came to its init has no console: the text says so then.
func (i *Instance) Console(ctx context.Context) (string, error) {
	var all strings.Builder
	console, _, err := i.fetch(ctx, "console", nil)
	all.Write(console)
	if err != nil {
		fmt.Fprintf(&all, "\n--- no console: %v", err)
	}
	lxc, logErr := i.log(ctx, "lxc.log")
	fmt.Fprintf(&all, "\n--- lxc.log\n%s", lxc)
	if err != nil && logErr != nil || ctx.Err() != nil {
		return all.String(), fmt.Errorf("read console of instance %s: %w", i.name, errors.Join(err, logErr, ctx.Err()))
	}
	return all.String(), nil
}

func (i *Instance) log(ctx context.Context, name string) (string, error) {
	text, _, err := i.fetch(ctx, "logs/"+name, nil)
	if err != nil {
		err = fmt.Errorf("read %s of instance %s: %w", name, i.name, err)
	}
	return string(text), err
}

// unhurried ends as its context does without saying when: told a deadline, the
// client has the server stop waiting up to a second before it, and what comes
// then reads as the operation's failure.
type unhurried struct{ context.Context }

func (unhurried) Deadline() (time.Time, bool) { return time.Time{}, false }

// operationError is what the server says of an operation that failed.
type operationError struct{ said string }

// Error is that.
func (e *operationError) Error() string { return e.said }

// wait waits for an operation's end; the request that waits ends with ctx.
func wait(ctx context.Context, op client.Operation) error {
	err := op.WaitContext(unhurried{ctx}) //nolint:contextcheck // it is ctx but for its deadline
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if said := op.Get().Err; said != "" {
			return &operationError{said}
		}
		return err
	}
	if o := op.Get(); !o.StatusCode.IsFinal() {
		return fmt.Errorf("operation %s (%s) is still %s", o.ID, o.Description, o.Status)
	}
	return nil
}

// errorLines are the first errors of LXC's log: what follows them is their
// consequence.
func errorLines(log string) string {
	const most = 5
	var errs []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, " ERROR ") && len(errs) < most {
			errs = append(errs, strings.TrimSpace(line))
		}
	}
	return strings.Join(errs, " | ")
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
