package diagnose_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
	"github.com/lxcmatrix/lxcmatrix/provisioner/diagnose"
)

// bubbleClock is the time of the bubble that a test runs in.
type bubbleClock struct{}

func (bubbleClock) Now() time.Time { return time.Now() }
func (bubbleClock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loggingNode prints a log by its command's last word.
type loggingNode struct {
	provisioner.Node
	print func(log string) (string, error)
}

func (n loggingNode) Exec(ctx context.Context, cmd provisioner.Command) (provisioner.Output, error) {
	if ctx.Err() != nil {
		return provisioner.Output{}, ctx.Err()
	}
	said, err := n.print(strings.Fields(cmd.Args[2])[1])
	return provisioner.Output{Stdout: said}, err
}

// said is a line that only one signature knows, as it was written after a
// time.
func said(after time.Duration) string {
	return fmt.Sprintf("%s node containerd[1]: can't get final child's PID from pipe: EOF", time.Date(2026, 11, 20, 19, 0, 0, 0, time.UTC).Add(after).Format(time.RFC3339))
}

func TestWatch(t *testing.T) {
	tests := map[string]struct {
		// lines of containerd's log, by when they are written.
		lines []time.Duration
		// fails, if set, is how the log cannot be read for a time.
		fails func(after time.Duration) error
		// ends says when Await returns, within two looks; 0 is not at all.
		ends time.Duration
	}{
		"again and again":         {lines: []time.Duration{3 * time.Second, 14 * time.Second, 25 * time.Second}, ends: 14 * time.Second},
		"again, but too soon":     {lines: []time.Duration{3 * time.Second, 5 * time.Second, 7 * time.Second}},
		"once":                    {lines: []time.Duration{3 * time.Second}},
		"only before":             {lines: []time.Duration{0}},
		"before, and again twice": {lines: []time.Duration{0, 8 * time.Second, 19 * time.Second}, ends: 19 * time.Second},
		"never":                   {},
		"unreadable for a time": {lines: []time.Duration{3 * time.Second, 14 * time.Second}, ends: 30 * time.Second,
			fails: func(after time.Duration) error {
				if after > 4*time.Second && after < 30*time.Second {
					return errors.New("the node restarts")
				}
				return nil
			}},
		"a command that complains": {lines: []time.Duration{3 * time.Second, 14 * time.Second}, ends: 14 * time.Second,
			fails: func(time.Duration) error { return &provisioner.CommandError{Node: "cp1"} }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				node := loggingNode{print: func(log string) (string, error) {
					after := time.Since(started)
					var b strings.Builder
					for _, at := range test.lines {
						if log == "containerd" && at <= after {
							b.WriteString("something else\n" + said(at) + "\n")
						}
					}
					if test.fails != nil {
						return b.String(), test.fails(after)
					}
					return b.String(), nil
				}}
				w := diagnose.Watch{Signatures: embedded(t), Clock: bubbleClock{},
					Commands: map[string]string{"containerd.log": "print containerd", "kubelet.log": "print kubelet"}}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				d, err := w.Await(ctx, node)
				took := time.Since(started)
				if test.ends == 0 {
					if !errors.Is(err, context.DeadlineExceeded) || d != (matrix.Diagnosis{}) {
						t.Fatalf("after %s it saw %+v, %v", took, d, err)
					}
					return
				}
				if err != nil || d.Signature != "oom-score-adj-pipe" || d.Log != "containerd.log" || !strings.HasSuffix(d.Line, "pipe: EOF") {
					t.Fatalf("it saw %+v, %v", d, err)
				}
				if took < test.ends || took > test.ends+4*time.Second {
					t.Errorf("it took %s, want %s", took, test.ends)
				}
			})
		})
	}
}
