package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lxcmatrix/lxcmatrix/matrix"
)

// Part is a part of a plan, which a run of its own takes. Its zero value is the
// whole plan.
type Part struct {
	// index of parts, counted from 1; 0 where it is a host's.
	index, parts int
	// host is the name of the host whose cells are the part.
	host string
}

// mostParts bounds the parts of a plan: more would be a slip of the pen.
const mostParts = 10_000

// ParsePart reads "2/4", the second of four parts, or "host=lab", the cells of
// one host; an empty text is the whole plan.
func ParsePart(text string) (Part, error) {
	if text == "" {
		return Part{}, nil
	}
	if host, is := strings.CutPrefix(text, "host="); is && host != "" {
		return Part{host: host}, nil
	}
	first, last, _ := strings.Cut(text, "/")
	index, err := strconv.Atoi(first)
	parts, err2 := strconv.Atoi(last)
	if err != nil || err2 != nil || index < 1 || index > parts || parts > mostParts {
		return Part{}, fmt.Errorf("%q is no part of a plan; want I/N, as 2/4 for the second of four, or host=NAME", text)
	}
	return Part{index: index, parts: parts}, nil
}

// String is the part as ParsePart reads it.
func (p Part) String() string {
	switch {
	case p.host != "":
		return "host=" + p.host
	case p.parts > 0:
		return fmt.Sprintf("%d/%d", p.index, p.parts)
	}
	return ""
}

// Has says whether a cell is in the part. Of N parts, exactly one has it, and
// which one depends on nothing but the cell: a cell that is added to the matrix,
// or goes, moves no other, so that each machine's cells, caches and durations stay
// what they were. Another N deals anew.
//
// A cell is dealt by its ID. Those of a qemu host are dealt together, since each
// part would boot a machine of its own for them, and so are those of a remote
// host: its memory is claimed within one run, and two would not know of each
// other.
func (p Part) Has(c matrix.Cell) bool {
	switch {
	case p.host != "":
		return c.Host.Name == p.host
	case p.parts == 0:
		return true
	}
	dealt := "cell " + string(c.ID)
	if c.Host.Driver == "qemu" || c.Host.Driver == "remote" {
		dealt = "host " + c.Host.Name
	}
	sum := sha256.Sum256([]byte(dealt))
	return binary.BigEndian.Uint64(sum[:])%uint64(p.parts) == uint64(p.index-1)
}

// shard narrows a whole plan to a part of it. One of I/N parts may have no cells;
// a host that no cell names is an error.
func shard(whole matrix.Plan, part Part) (matrix.Plan, error) {
	if part == (Part{}) {
		return whole, nil
	}
	p := whole
	p.Shard = &matrix.Shard{Part: part.String(), Plan: whole.Digest(), Cells: whole.Cells}
	p.Cells = slices.DeleteFunc(slices.Clone(whole.Cells), func(c matrix.Cell) bool { return !part.Has(c) })
	if len(p.Cells) == 0 && part.host != "" {
		var hosts []string
		for _, c := range whole.Cells {
			hosts = append(hosts, c.Host.Name)
		}
		return matrix.Plan{}, fmt.Errorf("no cell is on host %q; hosts are: %s", part.host, strings.Join(slices.Compact(slices.Sorted(slices.Values(hosts))), ", "))
	}
	return p, nil
}
