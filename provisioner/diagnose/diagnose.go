package diagnose

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// mostTelling is how many lines are shown where no signature is found.
const mostTelling = 3

// Diagnose says what a cell failed of, by its logs: the causes that are found,
// as Scan does, and where none is, the lines that tell the most, each as a
// diagnosis by the name of matrix.Unclassified. What logs in which nothing
// failed say as well tells nothing. Symptoms that are found come last.
func Diagnose(ctx context.Context, signatures []*Signature, passing, logs fs.FS) ([]matrix.Diagnosis, error) {
	found, err := Scan(ctx, signatures, logs)
	var causes, symptoms []matrix.Diagnosis
	for _, d := range found {
		if slices.ContainsFunc(signatures, func(s *Signature) bool { return s.ID == d.Signature && s.Symptom }) {
			symptoms = append(symptoms, d)
		} else {
			causes = append(causes, d)
		}
	}
	if len(causes) == 0 {
		var readErr error
		causes, readErr = tellingLines(ctx, passing, logs)
		err = errors.Join(err, readErr)
	}
	return append(causes, symptoms...), err
}

// Words by which programs say that they ended, and that something went wrong.
var (
	fatal = regexp.MustCompile(`\bpanic: |\blevel=(fatal|panic)\b|"?command failed"? err=|\[ERROR [A-Za-z-]+\]|\bF\d{4} \d{2}:\d{2}:|: Failed with result |Failed to start `)
	wrong = regexp.MustCompile(`\blevel=error\b|\bE\d{4} \d{2}:\d{2}:|\b[Ee]rror:|\bfailed to `)
	// prefix is journald's: when a line was written, and on which node.
	prefix = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2}T\S+|[A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2}) \S+ `)
	// variable is what differs between two lines that say the same, with what
	// numbers are filled up with.
	variable = regexp.MustCompile(` *([0-9a-f]{8,}|\d+)`)
)

// said is what a line says whenever, and wherever, it is written.
func said(line string) string {
	return variable.ReplaceAllString(prefix.ReplaceAllString(line, ""), "#")
}

// kind is what lines say that differ in times, numbers and IDs alone.
type kind struct {
	first    matrix.Diagnosis
	fatal    bool
	position int
}

// eachLine hands out a log's lines without their ends; of one that is longer
// than longest, how it begins.
func eachLine(log io.Reader, do func(line []byte)) error {
	r := bufio.NewReaderSize(log, longest)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			do(bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tellingLines chooses the lines that say the most: those by which a program
// ended before those that say that something went wrong, and of both the
// earliest, since what comes later follows from them. What is said often is
// shown once, and what is said where nothing failed is not.
func tellingLines(ctx context.Context, passing, logs fs.FS) ([]matrix.Diagnosis, error) {
	ordinary := map[string]bool{}
	passingErr := eachLog(ctx, passing, func(_ string, log io.Reader) error {
		return eachLine(log, func(line []byte) { ordinary[said(string(line))] = true })
	})
	kinds := map[string]*kind{}
	err := eachLog(ctx, logs, func(name string, log io.Reader) error {
		return eachLine(log, func(text []byte) {
			line := strings.ToValidUTF8(string(text), "\uFFFD")
			ends := fatal.MatchString(line)
			if !ends && !wrong.MatchString(line) {
				return
			}
			says := said(line)
			if ordinary[says] {
				return
			}
			d := matrix.Diagnosis{Signature: matrix.Unclassified, Title: "no known cause; what the logs say first", Log: name, Line: line, At: timeOf(line)}
			if known := kinds[says]; known == nil {
				kinds[says] = &kind{first: d, fatal: ends, position: len(kinds)}
			} else if earlier(d, known.first) < 0 {
				known.first = d
			}
		})
	})
	err = errors.Join(passingErr, err)
	var all []*kind
	for _, k := range kinds {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b *kind) int {
		if a.fatal != b.fatal {
			if a.fatal {
				return -1
			}
			return 1
		}
		return cmp.Or(earlier(a.first, b.first), a.position-b.position)
	})
	telling := []matrix.Diagnosis{}
	for _, k := range all[:min(len(all), mostTelling)] {
		telling = append(telling, k.first)
	}
	if len(telling) == 0 {
		telling = append(telling, matrix.Diagnosis{Signature: matrix.Unclassified, Title: "no known cause, and no error in the logs"})
	}
	slices.SortStableFunc(telling, earlier)
	return telling, err
}
