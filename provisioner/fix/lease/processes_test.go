package lease_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/provisioner/fix/lease"
)

// machineDir makes the test binary a process that holds leases of the machine
// in that folder, as it is told on its standard input.
const machineDir = "LEASE_TEST_MACHINE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(machineDir); dir != "" {
		os.Exit(obey(machine{dir: dir}, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// machine is a host whose sysctls are files.
type machine struct {
	dir string
	// fatal is the sysctl whose change kills the process that tries.
	fatal string
}

func (h machine) file() string { return filepath.Join(h.dir, "run", "sysctls.json") }

func (h machine) Sysctl(_ context.Context, key string) (string, error) {
	data, err := os.ReadFile(filepath.Join(h.dir, key))
	return string(data), err
}

func (h machine) SetSysctl(ctx context.Context, key, value string) (string, error) {
	before, err := h.Sysctl(ctx, key)
	if err != nil || before == value {
		return before, err
	}
	if key == h.fatal {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return "", err
		}
		select {}
	}
	return before, os.WriteFile(filepath.Join(h.dir, key), []byte(value), 0o600)
}

// values is what "panic=10,oops=1" says.
func values(s string) map[string]string {
	wants := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(pair, "=")
		wants[key] = value
	}
	return wants
}

func verdict(satisfied bool) string {
	if satisfied {
		return "satisfied"
	}
	return "changed"
}

// obey reads commands and answers each in a line of its own that begins with
// what is wanted.
func obey(host machine, in io.Reader, out io.Writer) int {
	var (
		mu       sync.Mutex
		releases = map[string][]lease.Release{}
		manager  = lease.New(host, host.file())
		ctx      = context.Background()
	)
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, format+"\n", args...)
	}
	acquire := func(ctx context.Context, manager *lease.Manager, want string) {
		release, satisfied, err := manager.Acquire(ctx, values(want))
		if err != nil {
			say("%s error %v", want, err)
			return
		}
		mu.Lock()
		releases[want] = append(releases[want], release)
		mu.Unlock()
		say("%s %s", want, verdict(satisfied))
	}
	for commands := bufio.NewScanner(in); commands.Scan(); {
		words := strings.Fields(commands.Text())
		command, want := words[0], words[1]
		switch command {
		case "acquire":
			go acquire(ctx, manager, want)
		case "try":
			within, cancel := context.WithTimeout(ctx, 3*time.Second)
			acquire(within, manager, want)
			cancel()
		case "die": // while it sets what words[2] names
			acquire(ctx, lease.New(machine{dir: host.dir, fatal: words[2]}, host.file()), want)
		case "release":
			mu.Lock()
			release := releases[want][0]
			releases[want] = releases[want][1:]
			mu.Unlock()
			if err := release(ctx); err != nil {
				say("%s error %v", want, err)
				continue
			}
			say("%s released", want)
		case "churn":
			rounds, _ := strconv.Atoi(words[2])
			for i := range rounds {
				release, _, err := manager.Acquire(ctx, values(want))
				if err == nil {
					for key, value := range values(want) {
						if got, _ := host.Sysctl(ctx, key); got != value {
							err = fmt.Errorf("%s is %s, want %s", key, got, value)
						}
					}
					err = errors.Join(err, release(ctx))
				}
				if err != nil {
					say("%s error %v", want, err)
					break
				}
				say("%s round %d", want, i)
			}
			say("%s churned", want)
		}
	}
	return 0
}

// process is a second process with a command line of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	// early holds lines that came before the one that was waited for: who waits
	// for a lease may have it before who gave it back has said so.
	early []string
}

func start(t *testing.T, dir string) *process {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), binary), lines: make(chan string, 1000)}
	// The race detector would sleep a second before the process ends.
	p.cmd.Env = append(os.Environ(), machineDir+"="+dir, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

func (p *process) send(command string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		p.t.Fatalf("%s: %v", command, err)
	}
}

// says waits for a line, and returns it, or the last that came if it does not
// come in time.
func (p *process) says(want string) (got string) {
	if i := slices.Index(p.early, want); i >= 0 {
		p.early = slices.Delete(p.early, i, i+1)
		return want
	}
	for line := p.next(patience); line != ""; line = p.next(patience) {
		if got = line; line == want {
			return want
		}
		p.early = append(p.early, line)
	}
	return got
}

// answer is the next line, or nothing if none comes in time.
func (p *process) answer(within time.Duration) string {
	if len(p.early) > 0 {
		line := p.early[0]
		p.early = p.early[1:]
		return line
	}
	return p.next(within)
}

func (p *process) next(within time.Duration) string {
	select {
	case line := <-p.lines:
		return line
	case <-time.After(within):
		return ""
	}
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	for range p.lines { // what it said before
	}
	_ = p.cmd.Wait()
}

// end lets the process end by itself.
func (p *process) end() {
	_ = p.in.Close()
	for range p.lines {
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("process ended: %v", err)
	}
}

const patience = 2 * time.Minute

// newMachine has panic=0 and oops=0.
func newMachine(t *testing.T) machine {
	t.Helper()
	host := machine{dir: t.TempDir()}
	for _, key := range []string{"panic", "oops"} {
		if err := os.WriteFile(filepath.Join(host.dir, key), []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// Processes a, b and c share a machine. A step is one of
//
//	see VALUES                  what the machine has
//	left KEYS, restore KEYS     what Left and Restore find; none
//	P acquire VALUES VERDICT    satisfied or changed
//	P waits VALUES              asks for a lease and does not get it yet
//	P still                     still waits
//	P gets VALUES VERDICT       gets what it waited for
//	P tries VALUES              asks for a short time and is told who holds
//	P release VALUES
//	P killed                    kill -9
//	P dies VALUES KEY           is killed while it sets KEY
func TestProcessesShareAMachine(t *testing.T) {
	for name, steps := range map[string][]string{
		"first in, first out": {
			"a acquire panic=10 changed", "see panic=10", "b acquire panic=10 changed",
			"a release panic=10", "see panic=10", "b release panic=10", "see panic=0", "left none",
		},
		"first in, last out": {
			"a acquire panic=10 changed", "b acquire panic=10 changed",
			"b release panic=10", "see panic=10", "a release panic=10", "see panic=0", "left none",
		},
		"in turns": {
			"a acquire panic=10 changed", "b acquire panic=10 changed", "a release panic=10", "c acquire panic=10 changed",
			"b release panic=10", "a acquire panic=10 changed", "c release panic=10", "see panic=10", "a release panic=10", "see panic=0",
		},
		"two holders in one process": {
			"a acquire panic=10 changed", "a acquire panic=10 changed", "b acquire panic=10 changed",
			"a release panic=10", "b release panic=10", "see panic=10", "a release panic=10", "see panic=0",
		},
		"the first is killed": {
			"a acquire panic=10 changed", "b acquire panic=10 changed", "a killed", "see panic=10",
			"c acquire panic=10 changed", "c release panic=10", "see panic=10", "b release panic=10", "see panic=0", "left none",
		},
		"the second is killed": {
			"a acquire panic=10 changed", "b acquire panic=10 changed", "b killed", "see panic=10",
			"a release panic=10", "see panic=0", "left none",
		},
		"the last is killed": {
			"a acquire panic=10,oops=1 changed", "b acquire panic=10,oops=1 changed", "a release panic=10,oops=1", "b killed",
			"see panic=10,oops=1", "left oops,panic", "restore oops,panic", "see panic=0,oops=0", "left none", "restore none",
		},
		"nothing to restore while one lives": {
			"a acquire panic=10 changed", "b acquire panic=10 changed", "left none", "restore none", "a killed",
			"left none", "restore none", "see panic=10", "b killed", "left panic", "restore panic", "see panic=0",
		},
		"what the killed left is not satisfied": {
			"a acquire panic=10 changed", "a killed", "see panic=10",
			"b acquire panic=10 changed", "c acquire panic=10 changed", "b release panic=10", "c release panic=10", "see panic=0", "left none",
		},
		"what the killed left is put back for who does not want it": {
			"a acquire panic=10,oops=1 changed", "a killed", "b acquire oops=1 changed", "see panic=0,oops=1", "left none",
			"b release oops=1", "see panic=0,oops=0", "left none",
		},
		"other values after the killed": {
			"a acquire panic=10 changed", "a killed", "b acquire panic=20 changed", "see panic=20", "b killed",
			"c acquire panic=0 satisfied", "see panic=0", "left none", "c release panic=0", "see panic=0",
		},
		"killed while setting": {
			"a dies panic=10,oops=1 panic", "see panic=0,oops=1", "left oops,panic",
			"b acquire panic=10,oops=1 changed", "see panic=10,oops=1", "b release panic=10,oops=1", "see panic=0,oops=0", "left none",
		},
		"killed while setting, then restored": {
			"a dies panic=10,oops=1 panic", "restore oops,panic", "see panic=0,oops=0",
		},
		"other values wait for all": {
			"a acquire panic=10 changed", "c acquire panic=10 changed", "b waits panic=20", "a release panic=10", "b still",
			"see panic=10", "c release panic=10", "b gets panic=20 changed", "see panic=20", "b release panic=20", "see panic=0",
		},
		"other values wait for the killed": {
			"a acquire panic=10 changed", "b waits panic=20", "a killed", "b gets panic=20 changed", "see panic=20",
			"b release panic=20", "see panic=0", "left none",
		},
		"fewer values are other values": {
			"a acquire panic=10,oops=1 changed", "b waits panic=10", "a release panic=10,oops=1", "b gets panic=10 changed",
			"see panic=10,oops=0", "b release panic=10", "see panic=0",
		},
		"satisfied holds, too": {
			"a acquire panic=0 satisfied", "b waits panic=10", "c acquire panic=0 satisfied", "a release panic=0", "b still",
			"left none", "c release panic=0", "b gets panic=10 changed", "b release panic=10", "see panic=0",
		},
		"one who waits does not keep its process from sharing": {
			"a acquire panic=10 changed", "b waits panic=20", "b acquire panic=10 changed", "a release panic=10", "b still",
			"see panic=10", "b release panic=10", "b gets panic=20 changed", "b release panic=20", "see panic=0",
		},
		"waiting ends": {
			"a acquire panic=10 changed", "b tries panic=20", "see panic=10", "a release panic=10", "see panic=0",
			"b acquire panic=20 changed", "b release panic=20", "see panic=0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := newMachine(t)
			processes := map[string]*process{}
			for i, step := range steps {
				play(t, host, processes, fmt.Sprintf("step %d, %s", i+1, step), strings.Fields(step))
			}
			for _, p := range processes {
				p.end()
			}
		})
	}
}

func play(t *testing.T, host machine, processes map[string]*process, step string, words []string) {
	t.Helper()
	keys := func(found []string, err error) {
		t.Helper()
		if got := strings.Join(found, ","); err != nil || got != strings.TrimPrefix(words[1], "none") {
			t.Fatalf("%s: got %q, %v", step, got, err)
		}
	}
	switch words[0] {
	case "see":
		for key, want := range values(words[1]) {
			if got, err := host.Sysctl(t.Context(), key); err != nil || got != want {
				t.Fatalf("%s: %s is %q, %v", step, key, got, err)
			}
		}
		return
	case "left":
		keys(lease.Left(t.Context(), host.file()))
		return
	case "restore":
		keys(lease.Restore(t.Context(), host, host.file()))
		return
	}
	p := processes[words[0]]
	if p == nil {
		p = start(t, host.dir)
		processes[words[0]] = p
	}
	answer := func(want string) {
		t.Helper()
		if got := p.says(want); got != want {
			t.Fatalf("%s: got %q", step, got)
		}
	}
	silent := func() {
		t.Helper()
		if got := p.answer(300 * time.Millisecond); got != "" {
			t.Fatalf("%s: got %q", step, got)
		}
	}
	switch words[1] {
	case "acquire":
		p.send("acquire " + words[2])
		answer(words[2] + " " + words[3])
	case "waits":
		p.send("acquire " + words[2])
		silent()
	case "still":
		silent()
	case "gets":
		answer(words[2] + " " + words[3])
	case "tries":
		p.send("try " + words[2])
		if got := p.answer(patience); !strings.Contains(got, "hold panic") || !strings.Contains(got, context.DeadlineExceeded.Error()) {
			t.Fatalf("%s: got %q", step, got)
		}
	case "release":
		p.send("release " + words[2])
		answer(words[2] + " released")
	case "killed":
		p.kill()
		delete(processes, words[0])
	case "dies":
		p.send("die " + words[2] + " " + words[3])
		answer("") // its output ends
		p.kill()
		delete(processes, words[0])
	default:
		t.Fatalf("%s: no such step", step)
	}
}

// TestProcessesComeAndGo has processes take and return leases as fast as they
// can, while others of them are killed.
func TestProcessesComeAndGo(t *testing.T) {
	t.Parallel()
	host := newMachine(t)
	const rounds = 12
	var stay []*process
	for _, want := range []string{"panic=10", "panic=10", "panic=10,oops=1", "oops=1"} {
		p := start(t, host.dir)
		p.send(fmt.Sprintf("churn %s %d", want, rounds))
		stay = append(stay, p)
	}
	for i := range 3 {
		victim := start(t, host.dir)
		victim.send(fmt.Sprintf("churn panic=10 %d", 1000*rounds))
		for range i {
			victim.answer(patience)
		}
		victim.kill()
	}
	for _, p := range stay {
		var said []string
		for line := p.answer(patience); line != ""; line = p.answer(patience) {
			said = append(said, line)
			if strings.Contains(line, "error") {
				t.Error(line)
			}
			if strings.HasSuffix(line, "churned") {
				break
			}
		}
		if len(said) != rounds+1 {
			t.Errorf("said %q", said)
		}
		p.end()
	}
	if _, err := lease.Restore(t.Context(), host, host.file()); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, key := range []string{"panic", "oops"} {
		var err error
		if got[key], err = host.Sysctl(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(got, map[string]string{"panic": "0", "oops": "0"}) {
		t.Errorf("the machine has %v, want what it had", got)
	}
	entries, err := os.ReadDir(filepath.Dir(host.file()))
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == filepath.Base(host.file()) }) {
		t.Errorf("%s is still there", host.file())
	}
}
