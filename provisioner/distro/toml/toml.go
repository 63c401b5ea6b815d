// Package toml writes settings as containerd's configuration has them.
package toml

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Keys are settings as the lines of a table, sorted by key. A value that is
// neither a truth, nor a number, nor a text is an error.
func Keys(values map[string]any) (string, error) {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(values)) {
		text, err := value(values[key])
		if err != nil {
			return "", fmt.Errorf("containerd setting %s: %w", key, err)
		}
		fmt.Fprintf(&b, "  %s = %s\n", key, text)
	}
	return b.String(), nil
}

func value(v any) (string, error) {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v), nil
	case string:
		return strconv.Quote(v), nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case uint64:
		return strconv.FormatUint(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	}
	return "", fmt.Errorf("a %T cannot be written", v)
}
