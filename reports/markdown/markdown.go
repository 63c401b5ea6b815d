// Package markdown shows a run as GitHub-flavoured Markdown. What logs and
// errors say is shown as code, so that it can neither format the page nor
// link, mention or embed anything.
package markdown

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"github.com/lxcmatrix/lxcmatrix/matrix"
	"github.com/lxcmatrix/lxcmatrix/reports/view"
)

// most is what GitHub takes as a step's summary, in bytes; a longer one it shows
// nothing of.
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions
const most = 1 << 20

// section is a part of the report, and how much it is missed: of what is too long,
// what has the highest rank is cut first.
type section struct {
	name string
	rank int
	text bytes.Buffer
}

// Render writes a run. What would be longer than a GitHub step's summary may be is
// cut, section by section and at the ends of lines, and says so. It returns only
// errors of writing.
func Render(w io.Writer, run matrix.Run) error {
	v := view.New(run)
	head, all, err := sections(v)
	if err != nil {
		return fmt.Errorf("render markdown of run %s: %w", v.ID, err)
	}
	out := bytes.NewBufferString(head)
	out.WriteString(fit(all, most-len(head), v.ID))
	for _, s := range all {
		out.Write(s.text.Bytes())
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("write markdown of run %s: %w", v.ID, err)
	}
	return nil
}

// sections are the report's, in order, after its head.
func sections(v view.Run) (head string, all []*section, err error) {
	head = fmt.Sprintf("# Run %s\n\n**%s**\n\nlxcmatrix %s, matrix %s", Escape(v.ID), Escape(v.Summary()), Escape(v.Version), Escape(v.Matrix))
	if !v.Started.IsZero() {
		head += fmt.Sprintf(", started %s", v.Started.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	head += "\n\n"
	add := func(name string, rank int, write func(*bytes.Buffer) error) {
		s := &section{name: name, rank: rank}
		if err == nil {
			err = write(&s.text)
		}
		all = append(all, s)
	}
	add("the table", 2, func(out *bytes.Buffer) error { return cells(out, v) })
	add("its legend", 0, func(out *bytes.Buffer) error { legend(out, v); return nil })
	add("restarts in a row", 4, func(out *bytes.Buffer) error { soaks(out, v); return nil })
	add("fixes left out", 4, func(out *bytes.Buffer) error { return ablations(out, v) })
	add("not passed", 3, func(out *bytes.Buffer) error { deviations(out, v); return nil })
	add("what clients saw", 4, func(out *bytes.Buffer) error { return traffic(out, v) })
	add("observed", 6, func(out *bytes.Buffer) error { return environment(out, v) })
	add("hosts found and left", 5, func(out *bytes.Buffer) error { hygiene(out, v); return nil })
	add("harness errors", 1, func(out *bytes.Buffer) error { harness(out, v); return nil })
	return head, all, err
}

// fit cuts sections so that they, and what it returns to say so, have room in so
// many bytes; empty where there is nothing to cut.
func fit(all []*section, room int, run string) string {
	size := 0
	for _, s := range all {
		size += s.text.Len()
	}
	if size <= room {
		return ""
	}
	const note = 1 << 10
	room -= note
	var cut []string
	ranked := slices.SortedFunc(slices.Values(all), func(a, b *section) int { return cmp.Compare(a.rank, b.rank) })
	for _, s := range ranked {
		text := s.text.Bytes()
		if len(text) > room {
			keep := bytes.LastIndexByte(text[:room], '\n') + 1
			cut = append(cut, fmt.Sprintf("%d of %d lines of %s", bytes.Count(text[keep:], []byte("\n")), bytes.Count(text, []byte("\n")), s.name))
			s.text.Truncate(keep)
		}
		room -= s.text.Len()
	}
	return fmt.Sprintf("**Cut**: left out, since this is to fit a GitHub step's summary: %s. All of it: `lxcmatrix report %s --format html`.\n\n",
		strings.Join(cut, ", "), strings.ReplaceAll(run, "`", ""))
}

func legend(out *bytes.Buffer, v view.Run) {
	fmt.Fprintf(out, "\n%s. Net: without stability windows. Optional: blocked does not fail the run.", Escape(view.Legend))
	if v.Suspect > 0 {
		fmt.Fprintf(out, " %s.", view.SuspectLegend)
	}
	if v.Chosen > 0 {
		fmt.Fprintf(out, " %s.", Escape(view.ChosenLegend))
	}
	out.WriteString("\n")
}

func harness(out *bytes.Buffer, v view.Run) {
	if len(v.HarnessErrors) == 0 {
		return
	}
	out.WriteString("\n## Harness errors\n\n")
	for _, e := range v.HarnessErrors {
		fmt.Fprintf(out, "- %s\n", Code(e))
	}
}

// soaks are the recoveries from restarts in a row.
func soaks(out *bytes.Buffer, v view.Run) {
	title := "\n## Restarts in a row\n\n"
	for _, c := range v.Cells {
		if soak := c.Soak(); soak != "" {
			fmt.Fprintf(out, "%s- %s: %s\n", title, Escape(c.ID), Escape(soak))
			title = ""
		}
	}
}

func cells(out *bytes.Buffer, v view.Run) error {
	if len(v.Cells) == 0 {
		return nil
	}
	header := []string{"Cell", "Verdict"}
	for _, p := range v.Phases {
		header = append(header, string(p))
	}
	var rows [][]string
	for _, c := range v.Cells {
		verdict := c.Verdict.String()
		if c.Verdict != matrix.Pass {
			verdict = "**" + verdict + "**"
		}
		if c.Optional {
			verdict += " (optional)"
		}
		if c.Suspect() {
			verdict += " " + view.SuspectMark
		}
		if c.Chosen() != "" {
			verdict += " " + view.ChosenMark + Escape(c.Chosen())
		}
		row := []string{Escape(c.ID), verdict}
		for _, p := range c.Phases {
			row = append(row, Escape(p.Short()))
		}
		total, net := "-", "-"
		if c.Took > 0 {
			total, net = view.Short(c.Took), view.Short(c.Took-c.Waited)
		}
		rows = append(rows, append(row, total, net))
	}
	return table(out, append(header, "total", "net"), rows)
}

func deviations(out *bytes.Buffer, v view.Run) {
	title := "\n## Not passed\n"
	for _, c := range v.Cells {
		if c.Verdict == matrix.Pass {
			continue
		}
		out.WriteString(title)
		title = ""
		fmt.Fprintf(out, "\n### %s: %s%s%s\n\n", Escape(c.ID), c.Verdict, Escape(c.Where()), Escape(c.Marks()))
		fmt.Fprintf(out, "- reason: %s\n", Code(c.Reason))
		if c.Attempts > 1 {
			fmt.Fprintf(out, "- attempts: %d\n", c.Attempts)
		}
		for _, d := range c.Diagnoses {
			fmt.Fprintf(out, "- diagnosis: %s (%s)\n", Escape(d.Title), Escape(d.Signature))
			if d.Log != "" {
				fmt.Fprintf(out, "  - evidence: %s: %s\n", Code(d.Log), Code(d.Line))
			}
			if d.Cause != "" {
				fmt.Fprintf(out, "  - cause: %s\n", Escape(d.Cause))
			}
			if remedy := c.Remedy(d); remedy != "" {
				fmt.Fprintf(out, "  - remedy: %s\n", Escape(remedy))
			}
			if d.Issue != "" {
				fmt.Fprintf(out, "  - issue: %s\n", link(d.Issue))
			}
		}
		if c.Kept != "" {
			fmt.Fprintf(out, "- kept: %s\n", Code(c.Kept))
		}
	}
}

// ablations shows what fixes are for in the cells that they were left out of.
func ablations(out *bytes.Buffer, v view.Run) error {
	if len(v.Ablations) == 0 {
		return nil
	}
	out.WriteString("\n## Fixes left out\n\n")
	of, rows := v.Outcomes()
	if len(rows) > 0 {
		header := []string{"Fix"}
		for _, a := range of {
			header = append(header, Escape(a.Cell))
		}
		for i := range rows {
			rows[i] = escapeAll(rows[i])
		}
		if err := table(out, header, rows); err != nil {
			return err
		}
	}
	for _, a := range v.Ablations {
		fmt.Fprintf(out, "\n### %s: fixes left out\n\n%s.\n\n", Escape(a.Cell), Escape(a.Summary()))
		if a.Bare != "" {
			fmt.Fprintf(out, "- without any of %d fixes: %s\n", a.InEffect, Code(a.Bare))
		}
		if a.Goal == matrix.GoalMinimal {
			fmt.Fprintf(out, "- enough: %s\n- spared: %s\n", Escape(strings.Join(a.Minimum.Kept, ", ")), Escape(strings.Join(a.Minimum.Dropped, ", ")))
		}
		for _, f := range a.Findings {
			fmt.Fprintf(out, "- %s: **%s**: %s\n", Escape(f.Fix), Escape(view.Said(f)), Code(f.Reason))
			if f.Line != "" {
				fmt.Fprintf(out, "  - %s: %s: %s\n", Escape(f.Signature), Code(f.Log), Code(f.Line))
			}
			if f.Against != "" {
				fmt.Fprintf(out, "  - against what is known of it: %s\n", Escape(f.Against))
			}
		}
		var trials [][]string
		for i, t := range a.Trials {
			without := strings.Join(t.Without, ", ")
			if without == "" {
				without = "-"
			}
			trials = append(trials, escapeAll([]string{fmt.Sprint(i + 1), without, t.Verdict.String(), t.Phase, view.Short(t.Took), t.Run}))
		}
		out.WriteString("\n")
		if err := table(out, []string{"Trial", "Without", "Verdict", "In", "Took", "Run"}, trials); err != nil {
			return err
		}
	}
	return nil
}

func environment(out *bytes.Buffer, v view.Run) error {
	header := []string{"Cell", "Node", "OS", "Kernel", "Cgroup", "Incus", "containerd", "runc", "Kubernetes", "Provenance", "Host lacks", "Fixes"}
	var rows [][]string
	for _, c := range v.Cells {
		if !c.Observed {
			continue
		}
		var fixes []string
		for _, f := range c.Fixes {
			if f.State != "not-applicable" {
				fixes = append(fixes, f.State+": "+strings.Join(f.Fixes, ", "))
			}
		}
		nodes := c.Nodes
		if len(nodes) == 0 {
			nodes = []matrix.NodeFacts{{Kernel: c.Host.Kernel, Cgroup: c.Host.Cgroup}}
		}
		for _, n := range nodes {
			rows = append(rows, escapeAll([]string{c.ID, n.Node, strings.TrimSpace(n.OSID + " " + n.OSVersion), n.Kernel, n.Cgroup, c.Host.Incus,
				n.Containerd, n.Runc, n.Kubernetes, c.Provenance, strings.Join(c.Lacks, ", "), strings.Join(fixes, "; ")}))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	out.WriteString("\n## Observed\n\n")
	return table(out, header, rows)
}

// traffic lists what clients saw through services, where there were any.
func traffic(out *bytes.Buffer, v view.Run) error {
	var rows [][]string
	for _, c := range v.Cells {
		for _, p := range c.Phases {
			for _, t := range p.Traffic {
				rows = append(rows, []string{Escape(c.ID), Escape(p.Name), Escape(t.Through), fmt.Sprint(t.Sent), fmt.Sprint(t.Failed), fmt.Sprintf("%.1fs", t.LongestGap.Std().Seconds())})
			}
		}
	}
	if len(rows) == 0 {
		return nil
	}
	out.WriteString("\n## What clients saw of restarts\n\n")
	return table(out, []string{"Cell", "Until", "Through", "Requests", "Failed", "Longest gap"}, rows)
}

// hygiene lists how cells found and left their hosts, where there is anything
// to say.
func hygiene(out *bytes.Buffer, v view.Run) {
	title := "\n## Hosts found and left\n"
	for _, c := range v.Cells {
		notes := c.HygieneNotes()
		if len(notes) == 0 {
			continue
		}
		fmt.Fprintf(out, "%s\n### %s\n\n", title, Escape(c.ID))
		title = ""
		for _, note := range notes {
			fmt.Fprintf(out, "- %s: %s\n", note.Name, Code(note.Text))
		}
	}
}

// table writes a table of cells that are Markdown already.
func table(out *bytes.Buffer, header []string, rows [][]string) error {
	t := tablewriter.NewTable(out,
		tablewriter.WithRenderer(renderer.NewMarkdown()),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithEastAsian(tw.Off),
	)
	t.Header(header)
	for _, r := range rows {
		if err := t.Append(r); err != nil {
			return err
		}
	}
	return t.Render()
}

// Escape makes plain text that Markdown shows as it is: punctuation that could
// mean something is escaped, HTML's as entities, and the at sign too, since
// hosts turn it into a mention.
func Escape(s string) string {
	return strings.NewReplacer(
		"&", "&amp;", "<", "&lt;", ">", "&gt;", "@", "&#64;",
		`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "|", `\|`, "~", `\~`, "#", `\#`, "!", `\!`,
		"://", ":&#47;&#47;", "www.", "www&#46;",
	).Replace(s)
}

func escapeAll(in []string) []string {
	for i := range in {
		in[i] = Escape(in[i])
	}
	return in
}

var backticks = regexp.MustCompile("`+")

// Code is text as a code span, fenced by more backticks than it holds. Not for
// tables, which read a | even there.
func Code(s string) string {
	if s == "" {
		return "(empty)"
	}
	fence := "`"
	for _, run := range backticks.FindAllString(s, -1) {
		if len(run) >= len(fence) {
			fence = run + "`"
		}
	}
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return fence + s + fence
}

var webLink = regexp.MustCompile(`^https://[A-Za-z0-9][A-Za-z0-9./_#?=&%+-]*$`)

// link is a web address as a link, and anything else as code.
func link(s string) string {
	if webLink.MatchString(s) {
		return "<" + s + ">"
	}
	return Code(s)
}
