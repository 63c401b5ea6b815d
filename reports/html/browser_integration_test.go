//go:build integration

package html_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"gotest.tools/v3/golden"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/matrix/history"
	report "github.com/lxcmatrix/lxcmatrix/reports/html"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
)

// limit bounds a test's whole time in the browser; it is for a browser that
// hangs, not for a machine that is slow.
const limit = 5 * time.Minute

// browser starts Debian's Chromium, for all tests of this file.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		path, err = exec.LookPath("chromium")
	}
	if err != nil {
		t.Fatalf("there is no Chromium; lxcmatrix doctor --fix --for test installs it: %v", err)
	}
	// Tests run as root, whom Chromium's sandbox refuses; what it opens is a page
	// of this package alone. Small machines have little shared memory.
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return ctx
}

// tab is a page in the browser that must not complain.
type tab struct {
	*testing.T
	ctx context.Context
	mu  sync.Mutex
	// complaints are what the console, the policy and a script said, and dialogs.
	complaints []string
}

func newTab(browser context.Context, t *testing.T) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	ctx, cancel = context.WithTimeout(ctx, limit)
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.complain("exception: " + e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			b.complain("console." + string(e.Type))
		case *log.EventEntryAdded:
			b.complain(fmt.Sprintf("%s: %s", e.Entry.Source, e.Entry.Text))
		case *page.EventJavascriptDialogOpening:
			b.complain("dialog: " + e.Message)
			go func() {
				_ = chromedp.Do(ctx, command(page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true}))
			}()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, c := range b.complaints {
			t.Errorf("the page complains: %s", c)
		}
	})
	return b
}

// command is one of the browser's own.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// script runs in the page.
func script(text string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](text)
}

func (b *tab) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, what)
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// say is what an expression comes to, as text.
func (b *tab) say(expression string) string {
	b.Helper()
	said, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		b.Fatalf("%s: %v", expression, err)
	}
	return said
}

// until waits for an expression to come to a text. The page's policy forbids to
// make functions of text, which chromedp's own waiting does.
func (b *tab) until(expression, want string) {
	b.Helper()
	said, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf(`new Promise((told) => {
		const end = performance.now() + 60000;
		const look = () => {
			let said;
			try { said = String(%s); } catch (e) { said = String(e); }
			if (said === %q || performance.now() > end) told(said); else setTimeout(look, 5);
		};
		look();
	})`, expression, want), chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("%s: %v", expression, err)
	}
	if said != want {
		b.Fatalf("%s is %q, want %q", expression, said, want)
	}
}

// count is how many elements the page has of a kind; it needs no scripts.
func (b *tab) count(selector string) int {
	b.Helper()
	nodes, err := chromedp.Run(b.ctx, chromedp.Nodes(chromedp.CSSAll(selector)))
	if err != nil {
		b.Fatal(err)
	}
	return len(nodes)
}

// picture keeps a screenshot, and returns it; go test -artifacts keeps it beyond
// the test.
func (b *tab) picture(name string) []byte {
	b.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.ArtifactDir(), name+".png")
	if err := os.WriteFile(path, png, 0o600); err != nil {
		b.Fatal(err)
	}
	b.Logf("%s", path)
	return png
}

// noSideways fails where the page is wider than the window.
func (b *tab) noSideways() {
	b.Helper()
	if got := b.say("document.scrollingElement.scrollWidth - innerWidth <= 0"); got != "true" {
		b.Errorf("the page is %s pixels wide in a window of %s", b.say("document.scrollingElement.scrollWidth"), b.say("innerWidth"))
	}
}

// written is the address of a page in a file.
func written(t *testing.T, in report.Input) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(report.Render(f, in), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

// everything is a page with all there is: every verdict, hostile texts, logs,
// a past, ablations.
func everything(t *testing.T) string {
	run := samples.Everything()
	run.Ablations = samples.Ablated(true).Ablations[:1]
	var past []history.Run
	for i := range 30 {
		one := history.Of(run)
		one.ID = fmt.Sprintf("202610%02dT193324Z-aaaaaa", 1+i)
		one.Cells = slices.Clone(one.Cells)
		for k := range one.Cells {
			one.Cells[k].Up += matrix.Duration(i*k%7) * 1e9
		}
		one.Cells[0].Verdict = []matrix.Verdict{matrix.Pass, matrix.Flaky, matrix.Fail}[i%3]
		past = append(past, one)
	}
	return written(t, report.Input{Run: run, Past: past, Logs: func(id matrix.CellID) ([]report.Log, error) {
		logs, err := hostileLogs(id)
		long := strings.Repeat("E1120 something else\n", 1200) + "I1120 the needle\n"
		return append(logs, report.Log{Node: "cp1", Name: "kubelet.log", Size: int64(len(long)), Last: func(most int64) ([]byte, error) { return []byte(long[int64(len(long))-most:]), nil }}), err
	}})
}

const (
	passing = "c-kubeadm-1.34_debian-13_1_host0"
	failing = "c-kubeadm-1.34_debian-13_1_host1"
	shown   = "document.getElementById('shown').textContent"
)

func TestBrowser(t *testing.T) {
	chrome := browser(t)
	axe := axeCore(t)
	address := everything(t)

	t.Run("filters", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(chromedp.EmulateViewport(1300, 900), chromedp.Navigate(address))
		b.until(shown, "11 of 11 cells")
		b.noSideways()
		b.picture("grid")
		b.run(chromedp.Click(chromedp.CSS(`input[name=verdict][value=fail]`)), chromedp.Click(chromedp.CSS(`input[name=verdict][value=flaky]`)))
		b.until(shown, "3 of 11 cells")
		b.until("location.search", "?verdict=fail&verdict=flaky")
		b.run(chromedp.SetValue(chromedp.CSS(`select[name=os]`), "debian/13"), script(`document.querySelector('select[name=os]').dispatchEvent(new Event('input', {bubbles: true}))`))
		b.until(shown, "2 of 11 cells")
		b.run(chromedp.SendKeys(chromedp.CSS(`input[name=q]`), "host1"))
		b.until(shown, "1 of 11 cells")
		// The address says it all.
		b.run(chromedp.Reload())
		b.until(shown, "1 of 11 cells")
		b.until("document.querySelector('#table a').textContent.trim().startsWith('✗ fail')", "true")
		b.run(chromedp.Click(chromedp.CSS(`button[type=reset]`)))
		b.until(shown, "11 of 11 cells")
		b.until("location.search", "")
		// A count leads to its cells.
		b.run(chromedp.Click(chromedp.CSS(`.counts a.fail`)))
		b.until(shown, "2 of 11 cells")
		// Other axes: one row, and a column for each host.
		b.run(chromedp.Navigate(address + "?rows=distro&columns=host"))
		b.until("document.querySelectorAll('#table tbody tr').length + ' ' + document.querySelectorAll('#table thead th').length", "1 10")
	})

	t.Run("drill-down", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(chromedp.EmulateViewport(1300, 900), chromedp.Navigate(address))
		b.until("document.querySelectorAll('article').length", "0")
		// By the keyboard.
		b.run(chromedp.Focus(chromedp.CSS(`#table a[href="#`+failing+`"]`)), chromedp.KeyEvent(kb.Enter))
		b.until("document.activeElement.id", failing)
		b.until("document.querySelectorAll('article').length", "1")
		for _, want := range []string{"runc cannot lower oom_score_adj", "can't get final child's PID from pipe: EOF", "coredns-1: ContainerCreating", "kubelet.log", "lxcmatrix run -f default --only"} {
			b.until(fmt.Sprintf("document.querySelector('article').textContent.includes(%q)", want), "true")
		}
		b.picture("cell")
		b.run(chromedp.KeyEvent(kb.Escape))
		b.until("document.querySelector('#"+cssID(failing)+"').checkVisibility()", "false")
		// A link to a cell opens it, and only it.
		b.run(chromedp.Navigate("about:blank"), chromedp.Navigate(address+"#"+passing))
		b.until("document.activeElement.id", passing)
		b.until("document.querySelectorAll('article').length", "1")
		// Logs: the last page is shown, and searched.
		const lines = "[...document.querySelectorAll('details.log')].at(-1).querySelectorAll('li').length"
		b.run(script("[...document.querySelectorAll('details.log')].at(-1).open = true"))
		b.until(lines, "201")
		b.run(chromedp.SendKeys(chromedp.CSS(`details.log[open] input`), "NEEDLE"))
		b.until(lines, "1")
		b.until("document.querySelector('details.log[open] li').textContent", "I1120 the needle")
		b.picture("log")
	})

	t.Run("hostile", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(chromedp.Navigate(address))
		for i := range 11 {
			b.run(script(fmt.Sprintf("location.hash = document.querySelectorAll('#table a')[%d].hash", i)))
			b.until("document.querySelectorAll('article').length", fmt.Sprint(i+1))
		}
		b.run(script("for (const d of document.querySelectorAll('details')) d.open = true"))
		b.until("document.querySelectorAll('article script, article img, article iframe, article style').length", "0")
		// The policy is in force: a script from elsewhere does not run. That it says
		// so is the one complaint to come.
		b.run(script("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"))
		b.until("window.ran", "undefined")
		b.mu.Lock()
		b.complaints = slices.DeleteFunc(b.complaints, func(c string) bool { return strings.Contains(c, "Content Security Policy") })
		b.mu.Unlock()
	})

	t.Run("without scripts", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}), chromedp.EmulateViewport(1300, 900), chromedp.Navigate(address))
		if n := b.count("article"); n != 11 {
			t.Errorf("%d cells are shown, want 11", n)
		}
		b.picture("without-scripts")
	})

	for _, look := range []struct {
		name, scheme  string
		width, height int64
	}{{"light", "light", 1300, 900}, {"dark", "dark", 1300, 900}, {"phone", "light", 360, 740}} {
		t.Run(look.name, func(t *testing.T) {
			b := newTab(chrome, t)
			b.run(chromedp.EmulateViewport(look.width, look.height),
				command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}}),
				chromedp.Navigate(address+"#"+failing))
			b.until("document.querySelectorAll('article').length", "1")
			b.run(script("for (const d of document.querySelectorAll('details')) d.open = true"))
			b.until("document.querySelectorAll('details.log p input').length", "2")
			b.noSideways()
			b.picture(look.name)
			b.run(script("scrollTo(0, 0)"))
			b.picture(look.name + "-top")
			for _, v := range b.violations(axe) {
				b.Errorf("axe: %s", v)
			}
		})
	}

	// What the README shows: the report of a real run. It is made anew by -update;
	// fonts differ among machines, so that what it says is compared, not how it looks.
	t.Run("recorded", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(chromedp.EmulateViewport(1200, 1190), chromedp.Navigate(written(t, report.Input{Run: samples.Recorded(t, samples.RecordedDistros)})))
		b.until(shown, "24 of 24 cells")
		b.until("document.querySelector('h1').textContent", "10 of 24 cells pass")
		b.noSideways()
		png := b.picture("recorded")
		const kept = "../../docs/report.png"
		if golden.FlagUpdate() {
			if err := os.WriteFile(kept, png, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := os.Stat(kept); err != nil || s.Size() > 200<<10 {
			t.Errorf("the README's picture is not there, or too large: %v", err)
		}
	})

	t.Run("print", func(t *testing.T) {
		b := newTab(chrome, t)
		b.run(chromedp.EmulateViewport(800, 1100), command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"}), chromedp.Navigate(address+"#"+failing))
		b.until("document.querySelectorAll('article').length", "1")
		b.until("document.querySelector('form').checkVisibility()", "false")
		// Without colours: every verdict is black on white, beside its glyph and word.
		b.until("new Set([...document.querySelectorAll('.v')].map(e => getComputedStyle(e).color + getComputedStyle(e).backgroundColor)).size", "1")
		b.noSideways()
		b.picture("print")
	})

	t.Run("large", func(t *testing.T) {
		run := samples.Large(2000)
		past := largePast(run, report.PastRuns-1)
		began := time.Now()
		address := written(t, report.Input{Run: run, Past: past})
		t.Logf("2000 cells with %d runs: written in %s", report.PastRuns, time.Since(began))
		b := newTab(chrome, t)
		began = time.Now()
		b.run(chromedp.EmulateViewport(1300, 900), chromedp.Navigate(address))
		b.until(shown, "2000 of 2000 cells")
		t.Logf("opened in %s; as the browser measured, its first paint came after %s ms, and the whole after %s ms", time.Since(began),
			b.say("performance.getEntriesByName('first-contentful-paint')[0]?.startTime"), b.say("performance.getEntriesByType('navigation')[0].duration"))
		began = time.Now()
		b.run(chromedp.Click(chromedp.CSS(`input[name=verdict][value=fail]`)))
		b.until(shown, "200 of 2000 cells")
		t.Logf("filtered in %s", time.Since(began))
		b.noSideways()
		b.picture("large")
	})
}

// cssID is an ID as selectors write it.
func cssID(id string) string { return strings.NewReplacer(".", `\\.`, "+", `\\+`).Replace(id) }

// violations are what axe-core finds on the page.
func (b *tab) violations(axe string) (all []string) {
	b.Helper()
	b.run(script(axe + ";0"))
	raw, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("axe.run().then(r => JSON.stringify(r.violations))", chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("run axe: %v", err)
	}
	var found []struct {
		ID    string `json:"id"`
		Help  string `json:"help"`
		Nodes []struct {
			HTML    string `json:"html"`
			Summary string `json:"failureSummary"`
		} `json:"nodes"`
	}
	if err := json.Unmarshal([]byte(raw), &found); err != nil {
		b.Fatalf("read what axe found: %v in %.200s", err, raw)
	}
	for _, f := range found {
		all = append(all, fmt.Sprintf("%s: %s, %d times, as %.300s: %s", f.ID, f.Help, len(f.Nodes), f.Nodes[0].HTML, f.Nodes[0].Summary))
	}
	return all
}

// The release of axe-core, and the SHA-512 of its package.
const (
	axeVersion = "4.14.1"
	axeSum     = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)

// axeCore is the script of axe-core, from the cache, or through npm as the
// machine has it set up.
func axeCore(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "lxcmatrix", "tools", "axe-core-"+axeVersion+".tgz")
	raw, err := os.ReadFile(path)
	if err != nil || !isAxe(raw) {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "npm", "pack", "--silent", "--ignore-scripts", "axe-core@"+axeVersion)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("get axe-core through npm: %v\n%s", err, out)
		}
		if raw, err = os.ReadFile(filepath.Join(dir, "axe-core-"+axeVersion+".tgz")); err != nil {
			t.Fatal(err)
		}
		if !isAxe(raw) {
			t.Fatalf("what npm got as axe-core %s is another file than the one that is known", axeVersion)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	z, err := gzip.NewReader(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if err != nil {
			t.Fatalf("find axe.min.js: %v", err)
		}
		if h.Name == "package/axe.min.js" {
			script, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			return string(script)
		}
	}
}

func isAxe(raw []byte) bool {
	sum := sha512.Sum512(raw)
	return base64.StdEncoding.EncodeToString(sum[:]) == axeSum
}
