package runfolder

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Root is where runs are kept, beside the matrix file, unless the user says
// otherwise.
const Root = "runs"

const idTime = "20060102T150405Z"

var idPattern = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[a-z2-7]{6}$`)

// FormatRunID is the ID of a run that started at a time, made unique by a
// suffix: "20261120T193324Z-k5x2ab". IDs sort by time.
func FormatRunID(started time.Time, suffix string) string {
	return started.UTC().Format(idTime) + "-" + suffix
}

// NewRunID is FormatRunID with a random suffix.
func NewRunID(started time.Time) string {
	return FormatRunID(started, strings.ToLower(rand.Text()[:6]))
}

// Latest is the folder of the youngest run under root; an error that wraps
// fs.ErrNotExist where there is none.
func Latest(root string) (string, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return "", fmt.Errorf("find the latest run: %w", err)
	}
	for i := len(entries) - 1; i >= 0; i-- {
		name := entries[i].Name()
		if !idPattern.MatchString(name) || entries[i].Type().IsRegular() {
			continue
		}
		dir := filepath.Join(root, name)
		_, err := os.Stat(filepath.Join(dir, runFile))
		switch {
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("find the latest run: %w", err)
		}
	}
	return "", fmt.Errorf("find the latest run under %s: %w", root, fs.ErrNotExist)
}
