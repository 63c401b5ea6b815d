package view

import (
	"fmt"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// SuspectMark follows the verdict of a cell that ran on a suspect host.
const SuspectMark = "†"

// SuspectLegend explains the mark.
const SuspectLegend = SuspectMark + " on a suspect host, which an earlier cell left changed"

// Suspect says whether the cell ran on a host that an earlier cell of the run
// left changed: its verdict holds for that host, not for a clean one.
func (c Cell) Suspect() bool { return c.Hygiene != nil && len(c.Hygiene.Suspect) > 0 }

// Note is something to say of a cell, under a name.
type Note struct{ Name, Text string }

// HygieneNotes is what there is to say of how the cell found and left its
// host; none where it was looked at and nothing differs.
func (c Cell) HygieneNotes() []Note {
	h := c.Hygiene
	if h == nil {
		return nil
	}
	var notes []Note
	add := func(name string, texts []string, more int) {
		if more > 0 {
			texts = append(texts, fmt.Sprintf("and %d more", more))
		}
		if len(texts) > 0 {
			notes = append(notes, Note{name, strings.Join(texts, "; ")})
		}
	}
	var suspect, undone, left []string
	for _, t := range h.Suspect {
		suspect = append(suspect, fmt.Sprintf("%s, left by %s", describe(t.HostChange), t.Cell))
	}
	for _, change := range h.Changes {
		if change.Undone {
			undone = append(undone, describe(change))
		} else {
			left = append(left, describe(change)+" ("+change.Left+")")
		}
	}
	add("host suspect", suspect, h.MoreSuspect)
	if h.NotObserved != "" {
		add("host hygiene not observed", []string{h.NotObserved}, 0)
	}
	add("host hygiene not seen", h.Unseen, 0)
	add("host changes undone", undone, 0)
	add("host changes left", left, 0)
	if h.MoreChanges > 0 {
		add("host changes not shown", []string{fmt.Sprint(h.MoreChanges)}, 0)
	}
	var shared []string
	for _, id := range h.Shared {
		shared = append(shared, string(id))
	}
	if h.OtherRuns {
		shared = append(shared, "other runs")
	}
	if len(h.Changes) > 0 {
		add("host changes may be those of", shared, 0)
	}
	return notes
}

// describe is a change in a few words: "sysctl kernel.panic 0 → 10".
func describe(c matrix.HostChange) string {
	if c.Before != "" && c.After != "" {
		return fmt.Sprintf("%s %s %s → %s", c.Kind, c.What, c.Before, c.After)
	}
	return fmt.Sprintf("%s %s %s", c.Kind, c.What, c.Change)
}

// plainHygiene is a copy that is safe to show.
func plainHygiene(h *matrix.Hygiene) *matrix.Hygiene {
	if h == nil {
		return nil
	}
	plain := *h
	plain.NotObserved, plain.Unseen = Plain(h.NotObserved), plainAll(h.Unseen)
	plain.Shared, plain.Changes, plain.Suspect = nil, nil, nil
	for _, id := range h.Shared {
		plain.Shared = append(plain.Shared, matrix.CellID(Plain(string(id))))
	}
	for _, c := range h.Changes {
		plain.Changes = append(plain.Changes, plainChange(c))
	}
	for _, t := range h.Suspect {
		plain.Suspect = append(plain.Suspect, matrix.HostTrace{Cell: matrix.CellID(Plain(string(t.Cell))), HostChange: plainChange(t.HostChange)})
	}
	return &plain
}

func plainChange(c matrix.HostChange) matrix.HostChange {
	c.Kind, c.What, c.Change, c.Before, c.After, c.Left = Plain(c.Kind), Plain(c.What), Plain(c.Change), Plain(c.Before), Plain(c.After), Plain(c.Left)
	return c
}
