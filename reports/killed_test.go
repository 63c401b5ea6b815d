package reports_test

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/runfolder"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// inProcess names the folder that the test's second process writes a run into.
const inProcess = "LXCMATRIX_TEST_WRITES_RUN"

// A run whose process is killed while it writes shows what ran, and every other cell
// as unknown, in every format; nothing of it is green that was not.
func TestRunThatIsKilled(t *testing.T) {
	if dir := os.Getenv(inProcess); dir != "" {
		writeUntilKilled(t, dir)
	}
	dir := filepath.Join(t.TempDir(), samples.Run().ID)
	writer := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRunThatIsKilled$")
	writer.Env = append(os.Environ(), inProcess+"="+dir)
	said, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || line != "writing\n" {
		t.Errorf("the writer says %q: %v", line, err)
	}
	if err := writer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Wait() // it was killed

	folder, err := runfolder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := folder.Events(); err != nil || len(events) == 0 {
		t.Errorf("there are %d events: %v", len(events), err)
	}
	run, err := folder.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := []matrix.Verdict{matrix.Pass, matrix.Unknown, matrix.Unknown}
	for i, r := range run.Results {
		if r.Judgement.Verdict != want[i] {
			t.Errorf("cell %d is %s: %s", i, r.Judgement.Verdict, r.Judgement.Reason)
		}
	}
	if a, _ := run.Results[1].Last(); len(a.Phases) != 3 || !a.Phases[2].Phase.Proves() {
		t.Errorf("of the cell that ran there is %+v", a.Phases)
	}
	if code := matrix.ExitCode(run, false); code != matrix.ExitHarness {
		t.Errorf("exit code %d", code)
	}
	for _, r := range append(renderers(), renderer{"html", renderHTML}) {
		var out bytes.Buffer
		if err := r.render(&out, run); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		for _, cell := range run.Plan.Cells {
			if r.name != "badge" && r.name != "annotations" && !strings.Contains(out.String(), string(cell.ID)) {
				t.Errorf("%s does not show cell %s", r.name, cell.ID)
			}
		}
		if !strings.Contains(out.String(), "unknown") && r.name != "badge" {
			t.Errorf("%s does not say that cells are unknown:\n%s", r.name, out.String())
		}
	}
}

// writeUntilKilled writes a run of a cell that passed, one that is on its way and is
// written again and again, and one that was not begun.
func writeUntilKilled(t *testing.T, dir string) {
	var cells []matrix.Cell
	for _, release := range []string{"12", "13", "14"} {
		cells = append(cells, samples.Cell(release))
	}
	run := samples.Run(samples.Result(cells[0]), samples.Result(cells[1]), samples.Result(cells[2]))
	run.Ended = time.Time{}
	folder, err := runfolder.Create(dir, run)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.WriteResult(samples.Result(cells[0], samples.Passing(cells[0]))); err != nil {
		t.Fatal(err)
	}
	midway := samples.Passing(cells[1])
	midway.Phases = midway.Phases[:3]
	for n := 0; ; n++ {
		if _, err := folder.WriteResult(samples.Result(cells[1], midway)); err != nil {
			t.Fatal(err)
		}
		if err := folder.AppendEvent(runfolder.Event{Time: run.Started, Kind: runfolder.PhaseEnded, Cell: cells[1].ID, Phase: matrix.PhaseInstall}); err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			if _, err := io.WriteString(os.Stdout, "writing\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
