// Package fakeincus is a server that speaks Incus' HTTP API and has no
// containers, for tests: what is asked of it can go wrong in every way in which
// a real server's answers do.
package fakeincus

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/pkg/sftp"
)

// What a call asks for.
const (
	Info      = "info"
	Resources = "resources"
	Pool      = "pool"
	Instances = "instances"
	Instance  = "instance"
	Create    = "create"
	Start     = "start"
	Stop      = "stop"
	Restart   = "restart"
	Delete    = "delete"
	Exec      = "exec"
	Websocket = "websocket"
	Wait      = "wait"
	File      = "file"
	Push      = "push"
	Log       = "log"
)

// Calls lists everything that a call can ask for.
func Calls() []string {
	return []string{Info, Resources, Pool, Instances, Instance, Create, Start, Stop, Restart, Delete, Exec, Websocket, Wait, File, Push, Log}
}

// Call is one request: what it asks for, of which instance, and how often that
// was asked by then, from 1.
type Call struct {
	What, Instance string
	Nth            int
}

// Fault is what goes wrong with a call.
type Fault int

// The faults. Those of operations go wrong only where a call starts one.
const (
	None Fault = iota
	// Refused and Unavailable are errors that the server answers with.
	Refused
	Unavailable
	// Garbage is an answer that is none of Incus'.
	Garbage
	// Cut breaks the connection before anything is done, Lost after.
	Cut
	Lost
	// Slow takes a minute, Hangs never answers.
	Slow
	Hangs
	// Fails is an operation that does nothing and fails, Half one that does what
	// was asked and fails.
	Fails
	Half
	// Forgotten is an operation that is done and that the server knows nothing
	// of when it is asked, as one that was started anew.
	Forgotten
	// Endless is an operation that neither does anything nor ends.
	Endless
	// CutOutput breaks a command's output off in its middle.
	CutOutput
)

// Faults lists every fault.
func Faults() []Fault {
	return []Fault{Refused, Unavailable, Garbage, Cut, Lost, Slow, Hangs, Fails, Half, Forgotten, Endless, CutOutput}
}

// String is the fault's name.
func (f Fault) String() string {
	return [...]string{"none", "refused", "unavailable", "garbage", "cut", "lost", "slow", "hangs", "fails", "half", "forgotten", "endless", "cut output"}[f]
}

// slowness is how long a slow answer takes.
const slowness = time.Minute

// Command is a command that is to run in an instance.
type Command struct {
	Instance string
	Args     []string
	// Starts is how often the instance was started by then.
	Starts int
}

// State is an instance as the server has it.
type State struct {
	Name    string
	Config  map[string]string
	Devices map[string]map[string]string
	Running bool
	// Starts is how often it was started, Deletes how often somebody asked for
	// its end.
	Starts, Deletes int
}

// Server is the server, a http.Handler. It belongs to the synctest bubble in
// which it is made.
type Server struct {
	options    Options
	mux        *http.ServeMux
	closed     chan struct{}
	mu         sync.Mutex
	instances  map[string]*State
	operations map[string]*operation
	calls      map[Call]int
	conns      []io.Closer
	// running are the goroutines of commands.
	running sync.WaitGroup
}

// Options of a server. All are asked by one request at a time.
type Options struct {
	CPUs, MemoryBytes uint64
	// Fault says what goes wrong with a call; nil lets all go well.
	Fault func(Call) Fault
	// Command says what a command prints, and its exit code.
	Command func(Command) (stdout string, code int)
	// File says what a file of an instance holds, its console under the name console
	// and its logs under logs/NAME; nil, and false, is that it is not there.
	File func(instance, path string) (string, bool)
	// Created is told what there is whenever an instance was created.
	Created func(all []State)
}

// New makes a server.
func New(options Options) *Server {
	s := &Server{options: options, mux: http.NewServeMux(), closed: make(chan struct{}),
		instances: map[string]*State{}, operations: map[string]*operation{}, calls: map[Call]int{}}
	answer := func(metadata any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { answer(w, metadata) }
	}
	handle := func(pattern, what string, do http.HandlerFunc) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.meet(Call{What: what, Instance: s.instanceOf(r)}, w, r, do)
		})
	}
	handle("GET /1.0", Info, answer(api.Server{
		ServerUntrusted: api.ServerUntrusted{Auth: "trusted", APIStatus: "stable", APIVersion: "1.0", APIExtensions: []string{
			"projects", "storage", "network", "resources", "operation_wait", "instances", "storage_api_remote_volume_handling"}},
		Environment: api.ServerEnvironment{Driver: "lxc", DriverVersion: "6.0.4", ServerVersion: "6.0.4", KernelVersion: "6.18.5", KernelArchitecture: "x86_64"}}))
	handle("GET /1.0/resources", Resources, answer(api.Resources{CPU: api.ResourcesCPU{Total: options.CPUs}, Memory: api.ResourcesMemory{Total: options.MemoryBytes}}))
	handle("GET /1.0/storage-pools/{pool}", Pool, answer(api.StoragePool{Name: "default", Driver: "dir"}))
	handle("GET /1.0/storage-pools/{pool}/resources", Pool, answer(api.ResourcesStoragePool{Space: api.ResourcesStoragePoolSpace{Total: 1 << 40}}))
	handle("GET /1.0/networks/{network}", Pool, answer(api.Network{Name: "incusbr0", NetworkPut: api.NetworkPut{Config: api.ConfigMap{"ipv4.address": "10.0.0.1/16"}}}))
	handle("GET /1.0/projects/{project}", Pool, answer(api.Project{}))
	handle("GET /1.0/profiles/{profile}", Pool, answer(api.Profile{ProfilePut: api.ProfilePut{Devices: api.DevicesMap{
		"root": {"type": "disk", "path": "/", "pool": "default"}, "eth0": {"type": "nic", "network": "incusbr0"}}}}))
	handle("GET /1.0/instances", Instances, s.list)
	handle("GET /1.0/instances/{name}", Instance, s.get)
	handle("GET /1.0/instances/{name}/files", File, func(w http.ResponseWriter, r *http.Request) {
		if text, there := s.file(r, r.FormValue("path")); there {
			_, _ = io.WriteString(w, text)
		} else {
			refuse(w, http.StatusNotFound, "not found")
		}
	})
	log := func(w http.ResponseWriter, r *http.Request, name string) {
		text, _ := s.file(r, name)
		_, _ = io.WriteString(w, text)
	}
	handle("GET /1.0/instances/{name}/console", Log, func(w http.ResponseWriter, r *http.Request) { log(w, r, "console") })
	handle("GET /1.0/instances/{name}/logs/{file}", Log, func(w http.ResponseWriter, r *http.Request) { log(w, r, "logs/"+r.PathValue("file")) })
	handle("GET /1.0/instances/{name}/sftp", Push, s.push)
	s.mux.HandleFunc("GET /1.0/operations", s.underWay)
	handle("GET /1.0/operations/{id}", Wait, s.lookAt)
	handle("GET /1.0/operations/{id}/wait", Wait, s.wait)
	handle("GET /1.0/operations/{id}/websocket", Websocket, s.connect)
	s.mux.HandleFunc("POST /1.0/instances", s.create)
	s.mux.HandleFunc("PUT /1.0/instances/{name}/state", s.state)
	s.mux.HandleFunc("DELETE /1.0/instances/{name}", s.remove)
	s.mux.HandleFunc("POST /1.0/instances/{name}/exec", s.exec)
	return s
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close ends what hangs, and breaks every connection to a command off.
func (s *Server) Close() {
	close(s.closed)
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) file(r *http.Request, path string) (string, bool) {
	if s.options.File == nil {
		return "", false
	}
	return s.options.File(r.PathValue("name"), path)
}

// push takes files into memory, those of each connection for as long as it lasts.
func (s *Server) push(w http.ResponseWriter, _ *http.Request) {
	conn, rest, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // and answered
	}
	defer func() { _ = conn.Close() }()
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	// What cannot be written is read by nobody. It ends when the client has what it
	// wants.
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: sftp\r\nConnection: Upgrade\r\n\r\n")
	_ = sftp.NewRequestServer(struct {
		io.Reader
		io.WriteCloser
	}{rest, conn}, sftp.InMemHandler()).Serve()
}

// All lists the instances by name.
func (s *Server) All() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all()
}

func (s *Server) all() (all []State) {
	for _, name := range slices.Sorted(maps.Keys(s.instances)) {
		all = append(all, *s.instances[name])
	}
	return all
}

// instanceOf is the instance that a request is about, or that the operation is
// about that it asks for.
func (s *Server) instanceOf(r *http.Request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.operations[r.PathValue("id")]; o != nil {
		return o.instance
	}
	return r.PathValue("name")
}

// fault counts a call and says what goes wrong with it.
func (s *Server) fault(c Call) Fault {
	if s.options.Fault == nil {
		return None
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[c]++
	c.Nth = s.calls[c]
	return s.options.Fault(c)
}

// meet answers a call that starts no operation.
func (s *Server) meet(c Call, w http.ResponseWriter, r *http.Request, do http.HandlerFunc) {
	if !s.before(s.fault(c), w, r) {
		return
	}
	do(w, r)
}

// before lets go wrong what does before anything is done; false means that the
// request is answered.
func (s *Server) before(f Fault, w http.ResponseWriter, r *http.Request) bool {
	switch f {
	case Refused:
		refuse(w, http.StatusBadRequest, "it is not to be")
	case Unavailable:
		refuse(w, http.StatusServiceUnavailable, "the daemon is shutting down")
	case Garbage:
		_, _ = w.Write([]byte("<html>502 Bad Gateway</html>"))
	case Cut:
		panic(http.ErrAbortHandler)
	case Hangs:
		select {
		case <-r.Context().Done():
		case <-s.closed:
		}
		panic(http.ErrAbortHandler)
	case Slow:
		timer := time.NewTimer(slowness)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		case <-s.closed:
		}
		return true
	default:
		return true
	}
	return false
}

func answer(w http.ResponseWriter, metadata any) {
	respond(w, http.StatusOK, api.ResponseRaw{Type: api.SyncResponse, Status: "Success", StatusCode: int(api.Success), Metadata: metadata})
}

func refuse(w http.ResponseWriter, code int, why string) {
	respond(w, code, api.ResponseRaw{Type: api.ErrorResponse, Error: why, Code: code})
}

func respond(w http.ResponseWriter, code int, body api.ResponseRaw) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// Whoever asked may be gone.
	_ = json.NewEncoder(w).Encode(body)
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	all := []api.Instance{}
	for _, one := range s.All() {
		all = append(all, one.api())
	}
	answer(w, all)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.instances[r.PathValue("name")]
	if !ok {
		refuse(w, http.StatusNotFound, "Instance not found")
		return
	}
	answer(w, one.api())
}

func (s State) api() api.Instance {
	in := api.Instance{Name: s.Name, Type: "container", Status: "Stopped", StatusCode: api.Stopped,
		InstancePut: api.InstancePut{Config: s.Config, Devices: s.Devices}}
	if s.Running {
		in.Status, in.StatusCode = "Running", api.Running
	}
	return in
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var post api.InstancesPost
	if err := json.NewDecoder(r.Body).Decode(&post); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s.begin(Call{What: Create, Instance: post.Name}, w, r, func() error {
		if s.instances[post.Name] != nil {
			return fmt.Errorf("instance %q is there already", post.Name)
		}
		s.instances[post.Name] = &State{Name: post.Name, Config: post.Config, Devices: post.Devices}
		if s.options.Created != nil {
			s.options.Created(s.all())
		}
		return nil
	})
}

func (s *Server) state(w http.ResponseWriter, r *http.Request) {
	var put api.InstanceStatePut
	if err := json.NewDecoder(r.Body).Decode(&put); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	name := r.PathValue("name")
	s.begin(Call{What: put.Action, Instance: name}, w, r, func() error {
		one := s.instances[name]
		switch {
		case one == nil:
			return fmt.Errorf("instance %q is not there", name)
		case put.Action == "start" && one.Running:
			return fmt.Errorf("the instance is already running")
		case put.Action != "start" && !one.Running:
			return fmt.Errorf("the instance is already stopped")
		}
		one.Running = put.Action != "stop"
		if one.Running {
			one.Starts++
		}
		return nil
	})
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	s.mu.Lock()
	one := s.instances[name]
	if one != nil {
		one.Deletes++
	}
	s.mu.Unlock()
	if one == nil {
		refuse(w, http.StatusNotFound, "Instance not found")
		return
	}
	s.begin(Call{What: Delete, Instance: name}, w, r, func() error {
		if one.Running {
			return fmt.Errorf("the instance is running")
		}
		delete(s.instances, name)
		return nil
	})
}

// operation is something that the server does while nobody waits.
type operation struct {
	id, instance string
	// forgotten: the server knows nothing of it any more.
	forgotten bool
	ended     chan struct{}
	code      api.StatusCode
	err       string
	metadata  map[string]any
	// command is nil where it is none.
	command *command
}

func (o *operation) api() api.Operation {
	class := "task"
	if o.command != nil {
		class = "websocket"
	}
	return api.Operation{ID: o.id, Class: class, Status: o.code.String(), StatusCode: o.code, Err: o.err, Metadata: o.metadata}
}

// end ends an operation; the lock is held.
func (o *operation) end(err error) {
	if o.code.IsFinal() {
		return
	}
	o.code = api.Success
	if err != nil {
		o.code, o.err = api.Failure, err.Error()
	}
	close(o.ended)
}

// begin starts the operation that a call asks for, with what goes wrong with
// it; do is called with the lock held.
func (s *Server) begin(c Call, w http.ResponseWriter, r *http.Request, do func() error) {
	fault := s.fault(c)
	if !s.before(fault, w, r) {
		return
	}
	s.mu.Lock()
	o := s.newOperation(c.Instance)
	var err error
	switch fault {
	case Endless:
	case Fails:
		o.end(fmt.Errorf("failed to run: exit status 1"))
	default:
		if err = do(); err == nil && fault == Half {
			err = fmt.Errorf("failed at its end: exit status 1")
		}
		o.end(err)
		o.forgotten = fault == Forgotten
	}
	s.mu.Unlock()
	s.started(fault, w, o)
}

// newOperation makes an operation; the lock is held.
func (s *Server) newOperation(instance string) *operation {
	o := &operation{id: strconv.Itoa(len(s.operations) + 1), instance: instance, ended: make(chan struct{}), code: api.Running}
	s.operations[o.id] = o
	return o
}

// started answers with an operation as it was when it began.
func (s *Server) started(fault Fault, w http.ResponseWriter, o *operation) {
	if fault == Lost {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	now := o.api()
	s.mu.Unlock()
	now.Status, now.StatusCode, now.Err = api.Running.String(), api.Running, ""
	respond(w, http.StatusAccepted, api.ResponseRaw{Type: api.AsyncResponse, Status: "Operation created", StatusCode: int(api.OperationCreated),
		Operation: "/1.0/operations/" + o.id, Metadata: now})
}

// find finds the operation that a request is about, and refuses it where there
// is none.
func (s *Server) find(w http.ResponseWriter, r *http.Request) *operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.operations[r.PathValue("id")]
	if o == nil || o.forgotten {
		refuse(w, http.StatusNotFound, "Operation not found")
		return nil
	}
	return o
}

// underWay lists what is not done yet.
func (s *Server) underWay(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := []api.Operation{}
	for _, id := range slices.Sorted(maps.Keys(s.operations)) {
		if o := s.operations[id]; !o.code.IsFinal() {
			now := o.api()
			now.Resources = map[string][]string{"instances": {"/1.0/instances/" + o.instance + "?project=lxcmatrix"}}
			running = append(running, now)
		}
	}
	answer(w, map[string][]api.Operation{"running": running})
}

func (s *Server) lookAt(w http.ResponseWriter, r *http.Request) {
	if o := s.find(w, r); o != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, o.api())
	}
}

func (s *Server) wait(w http.ResponseWriter, r *http.Request) {
	o := s.find(w, r)
	if o == nil {
		return
	}
	select {
	case <-o.ended:
	case <-r.Context().Done():
		return
	case <-s.closed:
		panic(http.ErrAbortHandler)
	}
	s.lookAt(w, r)
}
