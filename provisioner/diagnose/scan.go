package diagnose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Lines longer than longest are cut off there: what follows is not looked at.
const longest = 16 << 10

// Scan looks for every signature in the logs below a folder and returns the
// earliest line that shows each, in the order of their times; those without a
// time come last, in the order of log name and position. A log that cannot be
// read does not hide what the others say: the error names it and comes with what
// was found.
func Scan(ctx context.Context, signatures []*Signature, logs fs.FS) ([]matrix.Diagnosis, error) {
	var found []matrix.Diagnosis
	err := eachLog(ctx, logs, func(name string, log io.Reader) error {
		var open []*Signature
		for _, s := range signatures {
			if s.looksAt(path.Base(name)) {
				open = append(open, s)
			}
		}
		if len(open) == 0 {
			return nil
		}
		here, err := scan(ctx, open, name, log)
		found = append(found, here...)
		return err
	})
	slices.SortStableFunc(found, earlier)
	seen := map[string]bool{}
	found = slices.DeleteFunc(found, func(d matrix.Diagnosis) bool {
		again := seen[d.Signature]
		seen[d.Signature] = true
		return again
	})
	return found, err
}

// earlier orders diagnoses by time, those without one last.
func earlier(a, b matrix.Diagnosis) int {
	switch {
	case a.At.IsZero() && b.At.IsZero():
		return 0
	case a.At.IsZero():
		return 1
	case b.At.IsZero():
		return -1
	}
	return a.At.Compare(b.At)
}

// eachLog opens every log below a folder in the order of their names. One that
// cannot be read does not keep the others from being read.
func eachLog(ctx context.Context, logs fs.FS, read func(name string, log io.Reader) error) error {
	var problems []error
	err := fs.WalkDir(logs, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			problems = append(problems, fmt.Errorf("scan logs: %w", err))
			return nil
		}
		if ctx.Err() != nil || !entry.Type().IsRegular() {
			return ctx.Err()
		}
		f, err := logs.Open(name)
		if err == nil {
			err = read(name, f)
			_ = f.Close() // it was only read
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("scan log %s: %w", name, err))
		}
		return ctx.Err()
	})
	if err != nil {
		problems = append(problems, fmt.Errorf("scan logs: %w", err))
	}
	return errors.Join(problems...)
}

// timestamp is how journald and the container runtime begin a line.
var timestamp = regexp.MustCompile(`\b(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?)(Z|[+-]\d{2}:?\d{2})`)

// lxcTimestamp is how LXC begins a line, in UTC; see its lxc_unix_epoch_to_utc.
var lxcTimestamp = regexp.MustCompile(`^lxc \S+ (\d{14}\.\d{3}) `)

// timeOf is the first time that a line names; zero where it names none.
func timeOf(line string) time.Time {
	line = line[:min(len(line), 256)]
	if m := lxcTimestamp.FindStringSubmatch(line); m != nil {
		at, err := time.Parse("20060102150405.000", m[1])
		if err != nil {
			return time.Time{}
		}
		return at
	}
	m := timestamp.FindStringSubmatch(line)
	if m == nil {
		return time.Time{}
	}
	zone := m[2]
	if len(zone) == len("+0000") {
		zone = zone[:3] + ":" + zone[3:]
	}
	at, err := time.Parse(time.RFC3339Nano, m[1]+zone)
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}

// scan reads a log in blocks of whole lines. A block is searched for each
// signature's literals at once, and only lines around a hit are matched: that
// is what makes it fast on logs where next to nothing matches.
func scan(ctx context.Context, open []*Signature, name string, log io.Reader) ([]matrix.Diagnosis, error) {
	type hit struct {
		at int64
		d  matrix.Diagnosis
	}
	var hits []hit
	open = slices.Clone(open)
	const block = 256 << 10
	buf := make([]byte, 0, block+longest)
	var base int64 // of buf[0] in the log
	skipping := false
	for len(open) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := io.ReadFull(log, buf[len(buf):block])
		buf = buf[:len(buf)+n]
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return nil, err
		}
		start := 0
		if skipping {
			// The rest of a line that was too long.
			end := bytes.IndexByte(buf, '\n')
			if end < 0 {
				start = len(buf)
			} else {
				start, skipping = end+1, false
			}
		}
		end := len(buf)
		if !last {
			if i := bytes.LastIndexByte(buf, '\n'); i >= start {
				end = i + 1
			} else if len(buf)-start < longest {
				end = start // not a whole line yet
			} else {
				skipping = true
			}
		}
		text := buf[start:end]
		open = slices.DeleteFunc(open, func(s *Signature) bool {
			at, line := s.first(text)
			if at < 0 {
				return false
			}
			hits = append(hits, hit{base + int64(start+at), s.diagnosis(name, line)})
			return true
		})
		if last {
			break
		}
		base += int64(end)
		buf = buf[:copy(buf, buf[end:])]
	}
	slices.SortStableFunc(hits, func(a, b hit) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	var found []matrix.Diagnosis
	for _, h := range hits {
		found = append(found, h.d)
	}
	return found, nil
}

// diagnosis is what a line of a log shows.
func (s *Signature) diagnosis(log string, line []byte) matrix.Diagnosis {
	text := string(bytes.ToValidUTF8(line, []byte("\uFFFD")))
	return matrix.Diagnosis{Signature: s.ID, Title: s.Title, Cause: s.Cause, Cure: s.Cure,
		CausedBy: s.CausedBy, Log: log, Line: text, At: timeOf(text), Issue: s.Issue}
}

// first finds the first line in text that matches, and where it begins; -1 if
// there is none.
func (s *Signature) first(text []byte) (at int, line []byte) {
	if len(s.literals) == 0 {
		for pos := 0; pos < len(text); {
			line, next := lineAt(text, pos)
			if s.pattern.Match(line) {
				return pos, line
			}
			pos = next
		}
		return -1, nil
	}
	at = -1
	for _, literal := range s.literals {
		for pos := 0; pos < len(text) && (at < 0 || pos < at); {
			i := bytes.Index(text[pos:], []byte(literal))
			if i < 0 {
				break
			}
			begin := pos + bytes.LastIndexByte(text[pos:pos+i], '\n') + 1
			candidate, next := lineAt(text, begin)
			if (at < 0 || begin < at) && s.pattern.Match(candidate) {
				at, line = begin, candidate
				break
			}
			pos = next
		}
	}
	return at, line
}

// lineAt is the line that begins at pos, cut off where it is too long, and
// where the next one begins.
func lineAt(text []byte, pos int) (line []byte, next int) {
	end := bytes.IndexByte(text[pos:], '\n')
	if end < 0 {
		end, next = len(text)-pos, len(text)
	} else {
		next = pos + end + 1
	}
	line = bytes.TrimSuffix(text[pos:pos+end], []byte("\r"))
	return line[:min(len(line), longest)], next
}

// Since is a log without the lines from before a time. A line that does not begin
// with a time is as old as the one above it that does, and those above the first
// of these stay, as does a log in which none is.
func Since(since time.Time, log []byte) []byte {
	kept := make([]byte, 0, len(log))
	old := false
	for line := range bytes.Lines(log) {
		if m := timestamp.FindIndex(line[:min(len(line), 64)]); m != nil && m[0] == 0 {
			old = timeOf(string(line[:m[1]])).Before(since)
		}
		if !old {
			kept = append(kept, line...)
		}
	}
	return kept
}
