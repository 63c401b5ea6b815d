package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

// controlPlane: the scheduler, the controller manager and etcd say of themselves
// that they are healthy, to the API server that answers. It does not apply where
// they are not processes of their own, or are not known to be asked.
func controlPlane() check {
	return check{name: "control-plane", every: pollInterval, applies: func(s *session) bool { return len(s.expect.components) > 0 }, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			list, err := s.api.core.ComponentStatuses().List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("list component statuses: %w", err)
			}
			var wrong, right []string
			for _, c := range list.Items {
				i := slices.IndexFunc(c.Conditions, func(c corev1.ComponentCondition) bool { return c.Type == corev1.ComponentHealthy })
				switch {
				case i < 0:
					wrong = append(wrong, c.Name+" says nothing")
				case c.Conditions[i].Status != corev1.ConditionTrue:
					wrong = append(wrong, strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Name, shorten(c.Conditions[i].Message), shorten(c.Conditions[i].Error))))
				default:
					right = append(right, c.Name)
				}
			}
			for _, name := range s.expect.components {
				if !slices.ContainsFunc(list.Items, func(c corev1.ComponentStatus) bool { return c.Name == name }) {
					wrong = append(wrong, "no status of "+name)
				}
			}
			return []finding{none(wrong, strings.Join(right, ", ")+" healthy")}, nil
		}
	}}
}

// leases: each node's lease, and those of the components of which one leads,
// were renewed in their time, by the clock of the first server.
func leases() check {
	return check{name: "leases", every: execInterval, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			// The clock is read first: a lease that is renewed meanwhile is younger.
			now, err := s.clock(ctx)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, n := range s.cluster.Nodes {
				f, err := s.leaseAge(ctx, corev1.NamespaceNodeLease, n.Name(), now)
				if err != nil {
					return nil, err
				}
				f.node = n.Name()
				findings = append(findings, f)
			}
			for _, name := range s.expect.leaders {
				f, err := s.leaseAge(ctx, metav1.NamespaceSystem, name, now)
				if err != nil {
					return nil, err
				}
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// clock is the time on the first server, to the second: leases and events are
// dated by the nodes' clocks.
func (s *session) clock(ctx context.Context) (time.Time, error) {
	node := s.cluster.Nodes[0]
	out, err := run(ctx, node, "date", "+%s")
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of node %s: %w", node.Name(), err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of node %s: %w", node.Name(), err)
	}
	return time.Unix(seconds, 0), nil
}

// leaseAge says how long ago a lease was renewed, which must be less than it
// lasts.
func (s *session) leaseAge(ctx context.Context, namespace, name string, now time.Time) (finding, error) {
	lease, err := s.api.leases.Leases(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return finding{}, fmt.Errorf("get lease %s: %w", name, err)
	}
	if lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
		return finding{saw: "lease " + name + " was never renewed", want: "a lease that is renewed"}, nil
	}
	age, lasts := now.Sub(lease.Spec.RenewTime.Time), time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second
	f := finding{ok: age <= lasts, want: fmt.Sprintf("renewed within %s", lasts)}
	if f.saw = fmt.Sprintf("lease %s was renewed within %s", name, lasts); !f.ok {
		f.saw = fmt.Sprintf("lease %s was renewed %s ago", name, age.Round(time.Second))
	}
	return f, nil
}

const (
	// stormy is how often an event repeats in a storm: client-go lets 25 events of
	// one object through before it slows them down.
	stormy = 25
	// stormEnds is how long after its last event a storm is over.
	stormEnds = 15 * time.Second
)

// events: no warning repeats again and again, as of something that is tried and
// never succeeds.
func events() check {
	return check{name: "events", every: time.Second, late: true, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			now, err := s.clock(ctx)
			if err != nil {
				return nil, err
			}
			list, err := s.api.core.Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("list events: %w", err)
			}
			var storms []string
			for _, e := range list.Items {
				count, last := e.Count, e.LastTimestamp.Time
				if e.Series != nil {
					count, last = e.Series.Count, e.Series.LastObservedTime.Time
				}
				if e.Type == corev1.EventTypeWarning && count >= stormy && now.Sub(last) < stormEnds {
					storms = append(storms, fmt.Sprintf("%s of %s %s, %d times: %s", e.Reason, strings.ToLower(e.InvolvedObject.Kind), e.InvolvedObject.Name, count, shorten(e.Message)))
				}
			}
			if len(list.Items) == 0 {
				storms = append(storms, "the API has no events, not even of pods that were started")
			}
			slices.Sort(storms)
			return []finding{none(storms, fmt.Sprintf("%d events, no warning again and again", len(list.Items)))}, nil
		}
	}}
}

// kernelScript prints what a kernel has to say of processes that it killed, that
// hang or that crashed, and of what a security module denied. It asks syslog(2),
// since /dev/kmsg may be anything in a node.
const kernelScript = `log=$(dmesg --syslog --time-format iso) || exit 1
printf '%s\n' "$log" | grep -E 'oom-kill:|Out of memory|blocked for more than|segfault at|general protection|apparmor="DENIED"|avc: +denied' | tail -n 200; exit 0`

// kernelLog: the kernel tells of no process that it killed for want of memory,
// that hangs, or that crashed, in what names the node. The log is the host's: what
// names no node is told, and may be of anything on the host, as may what a
// security module denied, which a node that does well lives with.
//
// It does not apply where there is no way to the host's own system: whether nodes
// may read the log is theirs to say, and what they are for is not to be allowed
// more than they are.
func kernelLog() check {
	return check{name: "kernel-log", every: time.Second, late: true, applies: func(s *session) bool { return s.cluster.Host.Exec() != nil }, begin: func(s *session) look {
		return func(ctx context.Context) ([]finding, error) {
			text, err := s.kernelLines(ctx)
			if err != nil {
				return nil, err
			}
			var findings []finding
			for _, n := range s.cluster.Nodes {
				start, err := s.start(ctx, n)
				if err != nil {
					return nil, &blindError{err}
				}
				var wrong []string
				denied, unnamed := 0, 0
				for line := range strings.Lines(text) {
					at, said, _ := strings.Cut(strings.TrimSpace(line), " ")
					// util-linux writes fractions behind a comma.
					when, err := time.Parse(time.RFC3339, strings.Replace(at, ",", ".", 1))
					if err != nil || when.Before(start.at) {
						continue
					}
					security := strings.Contains(said, "DENIED") || strings.Contains(said, "denied")
					switch named := strings.Contains(said, n.Name()); {
					case named && security:
						denied++
					case named:
						wrong = append(wrong, shorten(said))
					case !security:
						unnamed++
					}
				}
				f := ended(wrong, "nothing of this node")
				if denied > 0 {
					f.saw += fmt.Sprintf("; %d denials of a security module", denied)
				}
				if unnamed > 0 {
					f.saw += fmt.Sprintf("; %d lines of processes of no node that they name", unnamed)
				}
				f.node = n.Name()
				findings = append(findings, f)
			}
			return findings, nil
		}
	}}
}

// kernelLines reads what kernelScript looks for in the log of the host's kernel.
func (s *session) kernelLines(ctx context.Context) (string, error) {
	out, err := s.cluster.Host.Exec().Run(ctx, provisioner.Command{Args: []string{"sh", "-c", kernelScript}})
	if err != nil {
		return "", &blindError{fmt.Errorf("read the log of the host's kernel, which dmesg has to be allowed: %w", err)}
	}
	return out.Stdout, nil
}
