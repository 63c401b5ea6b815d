package view_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/internal/samples"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"as it is | <b>":                     "as it is | <b>",
		" two\r\n lines\tand\u2028more ":     "two lines and more",
		"\x1b[1;31mred\x1b[0m":               "red",
		"\x1b]0;title\x07x\x1b]8;;u\x1b\\y":  "xy",
		"\x1b[2J\x1b[Hclear\x1bc":            "clear",
		"bell\x07 nul\x00 del\x7f c1\u009b2": "bell nul del c12",
		"\u202eright to left\u2066\u200b":    "right to left",
		"bad \xff utf8":                      "bad \ufffd utf8",
		"unfinished \x1b[":                   "unfinished [",
	} {
		if got := view.Plain(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestStyled(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "[]",
		"\ta | <b>":                     "[{ \ta | <b>}]",
		"\x1b[1;31mred\x1b[0m, not":     "[{bold fg1 red} { , not}]",
		"\x1b[92mgreen\x1b[39m\x1b[1mx": "[{fg10 green} {bold x}]",
		"\x1b[38;5;31ma\x1b[38;2;1;31;1mb\x1b[48;5;1mc": "[{ a} { b} { c}]",
		"\x1b[2J\x1b]0;title\x07x\x1b[31":               "[{ x[31}]",
		"\u202ex\u2028\x00\r\n\u009b":                   "[{ x}]",
		"bad \xff":                                      "[{ bad \ufffd}]",
	} {
		if got := fmt.Sprint(view.Styled(in)); got != want {
			t.Errorf("%q becomes %s, want %s", in, got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("\x1b[31m\x1b]0;x\x07\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := view.Plain(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || unicode.Is(unicode.Cf, r) }) {
			t.Errorf("%q becomes %q", s, got)
		}
		if again := view.Plain(got); again != got {
			t.Errorf("%q becomes %q, and then %q", s, got, again)
		}
	})
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 940 * time.Millisecond: "0.9s", 9949 * time.Millisecond: "9.9s", 9950 * time.Millisecond: "10s",
		59499 * time.Millisecond: "59s", 59500 * time.Millisecond: "1m00s", 125 * time.Second: "2m05s",
		time.Hour - time.Millisecond: "1h00m", 62 * time.Minute: "1h02m",
	} {
		if got := view.Short(d); got != want {
			t.Errorf("%s is shown as %s, want %s", d, got, want)
		}
	}
}

// What a host lacks is said; what nobody observed is said to be so.
func TestLacks(t *testing.T) {
	lacks := func(change func(*matrix.HostFacts)) string {
		c := samples.Cell("13")
		a := samples.Passing(c)
		change(&a.Host)
		return strings.Join(view.New(samples.Run(samples.Result(c, a))).Cells[0].Lacks, ", ")
	}
	for _, tc := range []struct {
		want   string
		change func(*matrix.HostFacts)
	}{
		{"AppArmor, CAP_SYS_RESOURCE, cgroup controller hugetlb", func(*matrix.HostFacts) {}},
		{"", func(h *matrix.HostFacts) {
			h.AppArmor, h.Capabilities, h.Cgroup = new(true), view.Capabilities(), "v2"
			h.Controllers = []string{"cpu", "cpuset", "memory", "pids", "hugetlb", "io", "rdma"}
		}},
		{"(AppArmor not observed), (capabilities not observed), (cgroup controllers not observed)", func(h *matrix.HostFacts) { h.AppArmor, h.Capabilities, h.Controllers = nil, nil, nil }},
		{"", func(h *matrix.HostFacts) { *h = matrix.HostFacts{} }},
	} {
		if got := lacks(tc.change); got != tc.want {
			t.Errorf("the host lacks %q, want %q", got, tc.want)
		}
	}
}

func TestRemedy(t *testing.T) {
	c := view.New(samples.Run(samples.ForVerdict(matrix.Fail))).Cells[0]
	for cure, want := range map[string]string{"": "", "other": "fix other", "restrict-oom-score-adj": "fix restrict-oom-score-adj, here left-out"} {
		if got := c.Remedy(matrix.Diagnosis{Cure: cure}); got != want {
			t.Errorf("the remedy of %q is %q, want %q", cure, got, want)
		}
	}
}
