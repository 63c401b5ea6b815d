package fix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/provisioner"
)

const (
	// oneCommand bounds one verification's command.
	oneCommand = 20 * time.Second
	// bootSettles bounds how long a node that is still booting is looked at
	// again: units of fixes run at boot, and a restart may end before they did.
	bootSettles = 30 * time.Second
	// lookAgain is the pause between two looks.
	lookAgain = 250 * time.Millisecond
)

// Verify runs the verification of every applied fix that can hold at a phase,
// all in one command on the node, and returns one piece of evidence for each.
// While the node still boots, what does not hold yet is looked at again. What
// could not be looked at, because the node could not be reached, is Undecided.
func Verify(ctx context.Context, node provisioner.Node, want provisioner.Desired, phase matrix.Phase) []matrix.Evidence {
	var due []provisioner.Verification
	for _, v := range want.Verify {
		if slices.Index(matrix.Phases(), v.After) <= slices.Index(matrix.Phases(), phase) {
			due = append(due, v)
		}
	}
	if len(due) == 0 {
		return nil
	}
	began := time.Now()
	for {
		evidence, booting := look(ctx, node, due)
		wrong := slices.ContainsFunc(evidence, func(e matrix.Evidence) bool { return e.Outcome == matrix.Unhealthy })
		if !wrong || !booting || time.Since(began) > bootSettles {
			return evidence
		}
		pause := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
			pause.Stop()
			return evidence
		case <-pause.C:
		}
	}
}

// look runs the verifications once. booting says that systemd has not ended
// starting the node up.
func look(ctx context.Context, node provisioner.Node, due []provisioner.Verification) (evidence []matrix.Evidence, booting bool) {
	began := time.Now()
	out, err := node.Exec(ctx, provisioner.Command{Args: []string{"sh", "-c", lookScript(due)}})
	took := matrix.Duration(time.Since(began))
	var failed *provisioner.CommandError
	if errors.As(err, &failed) {
		out = failed.Output
	}
	records := parseRecords(out.Stdout)
	for i, v := range due {
		e := matrix.Evidence{Check: "fix:" + v.Fix, Node: node.Name(), Want: v.Want, Took: took}
		switch r, ran := records[strconv.Itoa(i)]; {
		case ran:
			e.Outcome, e.Saw = r.judge(v)
		case failed != nil:
			e.Outcome, e.Saw = matrix.Unhealthy, failed.Error()
		case err != nil:
			e.Saw = err.Error()
		default:
			e.Saw = fmt.Sprintf("no answer to %q", v.Command)
		}
		evidence = append(evidence, e)
	}
	switch strings.TrimSpace(records["boot"].stdout) {
	case "running", "degraded", "maintenance", "stopping":
		return evidence, false
	}
	// Starting, or so early that systemd does not answer yet.
	_, answered := records["boot"]
	return evidence, answered
}

// mark begins every record in the script's output.
const mark = "lxcmatrix-verify"

// lookScript prints one record for systemd's state and one for each
// verification: mark, name, exit code, the lengths of both outputs, and the
// outputs themselves, so that no output can be taken for another's.
func lookScript(due []provisioner.Verification) string {
	var b strings.Builder
	b.WriteString(searchPath + `LC_ALL=C
export LC_ALL
errors=$(mktemp) || exit 1
look() {
	out=$(timeout ` + strconv.Itoa(int(oneCommand.Seconds())) + ` sh -c "$2" </dev/null 2>"$errors")
	code=$?
	err=$(head -c 2000 "$errors")
	printf '` + mark + ` %s %d %d %d\n%s%s\n' "$1" "$code" "${#out}" "${#err}" "$out" "$err"
}
look boot 'systemctl is-system-running'
`)
	for i, v := range due {
		fmt.Fprintf(&b, "look %d %s\n", i, quote(v.Command))
	}
	b.WriteString("rm -f \"$errors\"\n")
	return b.String()
}

type record struct {
	code           int
	stdout, stderr string
}

// parseRecords reads what lookScript printed, as far as it is complete.
func parseRecords(out string) map[string]record {
	records := map[string]record{}
	for out != "" {
		header, rest, _ := strings.Cut(out, "\n")
		var name string
		var code, stdout, stderr int
		if n, _ := fmt.Sscanf(header, mark+" %s %d %d %d", &name, &code, &stdout, &stderr); n != 4 || stdout < 0 || stderr < 0 || stdout > len(rest) || stderr > len(rest)-stdout {
			break
		}
		records[name] = record{code: code, stdout: rest[:stdout], stderr: rest[stdout : stdout+stderr]}
		out = strings.TrimPrefix(rest[stdout+stderr:], "\n")
	}
	return records
}

// judge holds what a command printed against what was wanted.
func (r record) judge(v provisioner.Verification) (matrix.Outcome, string) {
	saw := strings.TrimSpace(r.stdout)
	shown := saw
	if shown == "" {
		shown = "nothing"
		if r.stderr != "" {
			shown += ", but the error " + strings.TrimSpace(r.stderr)
		}
		if r.code != 0 {
			shown += fmt.Sprintf(" (exit code %d)", r.code)
		}
	}
	const timedOut = 124 // coreutils' timeout
	if r.code == timedOut {
		return matrix.Unhealthy, fmt.Sprintf("%q did not end within %s; it printed %s", v.Command, oneCommand, shown)
	}
	pattern, err := wanted(v.Want)
	if err != nil {
		return matrix.Undecided, fmt.Sprintf("the fix is wrong: want: %v", err)
	}
	if !pattern.MatchString(saw) {
		return matrix.Unhealthy, shown
	}
	return matrix.Healthy, shown
}
