package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner/incus"
)

const (
	adminConf = "/etc/kubernetes/admin.conf"
	// proxyHealth is kube-proxy's health port.
	proxyHealth = 10256

	// bootEvery and clusterEvery are the pauses in a careful person's `until`
	// loops: a look into the node costs little, one with kubectl a tenth of a
	// second of a CPU.
	bootEvery    = 100 * time.Millisecond
	clusterEvery = 500 * time.Millisecond
	// firstPatience and mostPatience bound one question from inside a pod.
	firstPatience = 500 * time.Millisecond
	mostPatience  = 4 * time.Second
)

// cell is the clocked part.
func (s *seat) cell(ctx context.Context) (Times, error) {
	times := Times{}
	for _, step := range []struct {
		phase matrix.Phase
		do    func(context.Context) error
	}{
		{matrix.PhaseCreate, s.create},
		{matrix.PhaseFix, s.fix},
		{matrix.PhaseInstall, s.install},
		{matrix.PhaseBaseline, s.baseline},
		{matrix.PhaseRestart, s.restart},
		{matrix.PhaseRecover, s.healthy},
		{matrix.PhaseForcedRestart, s.forcedRestart},
		{matrix.PhaseForcedRecover, s.healthy},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.phase, err)
		}
		times[step.phase] = time.Since(began)
		fmt.Fprintf(s.Log, "by hand  %-14s %6.1fs\n", step.phase, times[step.phase].Seconds())
	}
	return times, nil
}

func (s *seat) create(ctx context.Context) error {
	release, _, err := s.lease.Acquire(ctx, s.sysctls)
	if err != nil {
		return err
	}
	s.release = release
	if _, err := s.incus(ctx, bytes.NewReader(s.config), "launch", s.image, s.name, "--no-profiles", "--quiet"); err != nil {
		return err
	}
	err = until(ctx, bootEvery, func(ctx context.Context) error {
		_, err := s.incus(ctx, nil, "exec", s.name, "--", "systemctl", "is-system-running", "--wait")
		return err
	})
	if err != nil {
		return err
	}
	return s.started(ctx, time.Time{})
}

// started notes which start of the node is waited for from now on.
func (s *seat) started(ctx context.Context, at time.Time) error {
	return until(ctx, bootEvery, func(ctx context.Context) error {
		out, err := s.incus(ctx, nil, "exec", s.name, "--", "cat", "/proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		if id := strings.TrimSpace(out); id != s.start.bootID {
			s.start = start{bootID: id, at: at}
			return nil
		}
		return fmt.Errorf("the node has boot ID %s as before", s.start.bootID)
	})
}

func (s *seat) fix(ctx context.Context) error {
	if _, err := s.incus(ctx, bytes.NewReader(s.files), "exec", s.name, "--", "tar", "-x", "--no-overwrite-dir", "-f", "-", "-C", "/"); err != nil {
		return err
	}
	for _, command := range s.commands[:len(s.commands)-1] {
		if _, err := s.incus(ctx, nil, append([]string{"exec", s.name, "--"}, command...)...); err != nil {
			return err
		}
	}
	return nil
}

// install runs the last of the commands, which is kubeadm's.
func (s *seat) install(ctx context.Context) error {
	command := s.commands[len(s.commands)-1]
	if _, err := s.incus(ctx, nil, append([]string{"exec", s.name, "--"}, command...)...); err != nil {
		return err
	}
	_, err := s.incus(ctx, nil, "file", "pull", s.name+adminConf, s.kubeconfig())
	return err
}

func (s *seat) kubeconfig() string { return filepath.Join(s.Folder, "kubeconfig") }

func (s *seat) baseline(ctx context.Context) error {
	if _, err := s.run(ctx, strings.NewReader(s.workload), s.kubectlCommand("create", "-f", "-")...); err != nil {
		return err
	}
	return s.healthy(ctx)
}

func (s *seat) restart(ctx context.Context) error {
	if _, err := s.incus(ctx, nil, "restart", s.name); err != nil {
		return err
	}
	return s.started(ctx, time.Now())
}

func (s *seat) forcedRestart(ctx context.Context) error {
	if _, err := s.incus(ctx, nil, "stop", "--force", s.name); err != nil {
		return err
	}
	if _, err := s.incus(ctx, nil, "start", s.name); err != nil {
		return err
	}
	return s.started(ctx, time.Now())
}

// healthy waits for the API server, the node and every pod of this start, for
// kube-proxy, and then for DNS and the service from inside a pod.
func (s *seat) healthy(ctx context.Context) error {
	began := time.Now()
	saw := func(what string) {
		fmt.Fprintf(s.Log, "by hand    %-24s after %6.1fs\n", what, time.Since(began).Seconds())
	}
	kubectl := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.run(ctx, nil, s.kubectlCommand(args...)...)
			return err
		}
	}
	if err := until(ctx, clusterEvery, kubectl("get", "--raw", "/readyz")); err != nil {
		return err
	}
	saw("the API is ready")
	var found settled
	err := until(ctx, clusterEvery, func(ctx context.Context) error {
		list, err := s.run(ctx, nil, s.kubectlCommand("get", listed, "--all-namespaces", "--output", "json")...)
		if err != nil {
			return err
		}
		found, err = look([]byte(list), s.name, s.start)
		return err
	})
	if err != nil {
		return err
	}
	saw("node and pods are")
	if err := until(ctx, clusterEvery, s.proxyHealthy); err != nil {
		return err
	}
	// What was sent before kube-proxy's rules were there is lost for good, so
	// the first questions do not wait long; a slow node is waited for in the end.
	patience := firstPatience
	ask := func(question, of string) func(context.Context) error {
		return func(ctx context.Context) error {
			timeout := patience.String()
			patience = min(2*patience, mostPatience)
			return kubectl("exec", "--namespace", probeNamespace, found.probePod, "--", "/probe", question, "--timeout", timeout, of)(ctx)
		}
	}
	if err := until(ctx, clusterEvery, ask("dns", "kubernetes.default")); err != nil {
		return err
	}
	saw("DNS answers")
	patience = firstPatience
	return until(ctx, clusterEvery, ask("get", "http://"+found.probeService+"/"))
}

// proxyHealthy is `curl http://NODE:10256/healthz`.
func (s *seat) proxyHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/healthz", s.address, proxyHealth), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("kube-proxy's health is %s", response.Status)
	}
	return nil
}

// incus runs the client against the embedded daemon, in the harness's project.
func (h Hand) incus(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return h.run(ctx, stdin, append([]string{"incus", "--project", incus.ProjectName}, args...)...)
}

func (s *seat) kubectlCommand(args ...string) []string {
	return append([]string{s.kubectl, "--kubeconfig", s.kubeconfig(), "--cache-dir", filepath.Join(s.Folder, "kubectl-cache"), "--request-timeout", "5s"}, args...)
}

// run runs a command and returns its standard output. An error holds what it
// said.
func (h Hand) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	dir := filepath.Join(h.StateDir, "incus")
	cmd.Env = append(os.Environ(), "INCUS_DIR="+dir, "INCUS_SOCKET="+filepath.Join(dir, "unix.socket"), "INCUS_CONF="+filepath.Join(h.Folder, "incus"))
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %q: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+" "+stdout.String()))
	}
	return stdout.String(), nil
}

// until tries again and again, with a pause between, until it succeeds or ctx
// ends; then it returns what went wrong last.
func until(ctx context.Context, every time.Duration, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		pause := time.NewTimer(every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		}
	}
}
