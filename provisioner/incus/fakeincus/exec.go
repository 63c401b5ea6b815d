package fakeincus

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/gorilla/websocket"
	"github.com/lxc/incus/v6/shared/api"
)

// streams are the connections of a command, by the names that Incus gives them.
var streams = [...]string{"0", "1", "2", api.SecretNameControl}

// command is a command that runs once all of its connections are there.
type command struct {
	Command
	fault Fault
	conns map[string]*websocket.Conn
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	var post api.InstanceExecPost
	if err := json.NewDecoder(r.Body).Decode(&post); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	name := r.PathValue("name")
	fault := s.fault(Call{What: Exec, Instance: name})
	if !s.before(fault, w, r) {
		return
	}
	s.mu.Lock()
	one := s.instances[name]
	if one == nil || !one.Running {
		s.mu.Unlock()
		refuse(w, http.StatusBadRequest, "Instance is not running")
		return
	}
	o := s.newOperation(name)
	o.command = &command{Command: Command{Instance: name, Args: post.Command, Starts: one.Starts}, fault: fault, conns: map[string]*websocket.Conn{}}
	secrets := map[string]any{}
	for _, name := range streams {
		secrets[name] = name
	}
	o.metadata = map[string]any{"fds": secrets}
	s.mu.Unlock()
	s.started(fault, w, o)
}

// connect takes one connection of a command.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	o := s.find(w, r)
	if o == nil {
		return
	}
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return // and answered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		_ = conn.Close()
		return
	default:
	}
	s.conns = append(s.conns, conn)
	o.command.conns[r.FormValue("secret")] = conn
	if len(o.command.conns) == len(streams) {
		s.running.Go(func() { s.run(o) })
		s.running.Go(func() { s.obey(o) })
	}
}

// run runs a command: it prints what it has to, and ends.
func (s *Server) run(o *operation) {
	c := o.command
	stdout, code := s.options.Command(c.Command)
	fail := func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		o.end(err)
	}
	switch c.fault {
	case Endless:
		return
	case Fails:
		fail(fmt.Errorf("failed to attach to the instance"))
		stdout = ""
	case CutOutput:
		_ = c.conns["1"].WriteMessage(websocket.BinaryMessage, []byte(stdout[:len(stdout)/2]))
		_ = c.conns["1"].Close()
		_ = c.conns["2"].Close()
		fail(fmt.Errorf("the connection broke"))
		return
	}
	// What cannot be written is read by nobody.
	_ = c.conns["1"].WriteMessage(websocket.BinaryMessage, []byte(stdout))
	for _, name := range []string{"1", "2"} {
		// An empty text is a stream's end.
		_ = c.conns[name].WriteMessage(websocket.TextMessage, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !o.code.IsFinal() && c.fault != Half {
		o.metadata["return"] = float64(code)
	}
	o.end(nil)
	o.forgotten = c.fault == Forgotten
}

// obey ends a command when it is told to.
func (s *Server) obey(o *operation) {
	_, _, _ = o.command.conns[api.SecretNameControl].ReadMessage()
	s.mu.Lock()
	defer s.mu.Unlock()
	o.end(fmt.Errorf("killed"))
}
