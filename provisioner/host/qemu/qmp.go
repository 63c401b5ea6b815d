package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// monitor speaks QMP with one QEMU
// (https://www.qemu.org/docs/master/interop/qmp-spec.html).
type monitor struct {
	mu     sync.Mutex
	conn   net.Conn
	reader *bufio.Reader
}

// monitorError is QEMU's refusal of a command.
type monitorError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error is QEMU's own description.
func (e *monitorError) Error() string { return e.Desc }

// dialMonitor connects to QEMU's socket and makes it ready for commands.
func dialMonitor(ctx context.Context, socket string) (*monitor, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach QEMU's monitor: %w", err)
	}
	m := &monitor{conn: conn, reader: bufio.NewReader(conn)}
	err = m.during(ctx, func() error {
		// Its greeting comes first.
		_, err := m.reader.ReadBytes('\n')
		return err
	})
	if err == nil {
		_, err = m.do(ctx, "qmp_capabilities", nil)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greet QEMU's monitor: %w", err)
	}
	return m, nil
}

// during runs f, whose reads and writes fail once ctx ends.
func (m *monitor) during(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && err != nil {
		return context.Cause(ctx)
	}
	return err
}

// do runs one command to its end. After an error of the connection, as when ctx
// ends, nothing more can be asked.
func (m *monitor) do(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return nil, fmt.Errorf("ask QEMU for %s: %w", command, err)
	}
	var answer struct {
		Return json.RawMessage `json:"return"`
		Error  *monitorError   `json:"error"`
		Event  string          `json:"event"`
	}
	err = m.during(ctx, func() error {
		if _, err := m.conn.Write(append(request, '\n')); err != nil {
			return err
		}
		for {
			line, err := m.reader.ReadBytes('\n')
			if err != nil {
				return err
			}
			answer.Event = ""
			if err := json.Unmarshal(line, &answer); err != nil {
				return err
			}
			// Events come in between; the process' end says all that matters.
			if answer.Event == "" {
				return nil
			}
		}
	})
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	if err != nil {
		return nil, fmt.Errorf("ask QEMU for %s: %w", command, err)
	}
	return answer.Return, nil
}

func (m *monitor) close() { _ = m.conn.Close() }

// hostForward is a line of "info usernet": protocol, descriptor, source
// address and port, destination address and port.
var hostForward = regexp.MustCompile(`(?m)^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s`)

// forwards are the ports of loopback that QEMU listens on, by the machine's
// port that they lead to.
func (m *monitor) forwards(ctx context.Context) (map[int]int, error) {
	answer, err := m.do(ctx, "human-monitor-command", map[string]string{"command-line": "info usernet"})
	if err != nil {
		return nil, err
	}
	var text string
	if err := json.Unmarshal(answer, &text); err != nil {
		return nil, fmt.Errorf("ask QEMU for its forwards: %w", err)
	}
	return parseForwards(text)
}

func parseForwards(text string) (map[int]int, error) {
	ports := map[int]int{}
	for _, match := range hostForward.FindAllStringSubmatch(text, -1) {
		from, err := strconv.Atoi(match[1])
		if err != nil {
			return nil, err
		}
		to, err := strconv.Atoi(match[2])
		if err != nil {
			return nil, err
		}
		ports[to] = from
	}
	for _, to := range []int{sshPort, incusPort} {
		if ports[to] == 0 {
			return nil, fmt.Errorf("ask QEMU for its forwards: none leads to port %d in %q", to, text)
		}
	}
	return ports, nil
}
